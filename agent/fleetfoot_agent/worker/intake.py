"""Reading the spool: what arrived is verified, ordered and kept, or refused with a code.

Contract sections 2 to 4.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.spool import SpooledMessage, WorkerSide
from fleetfoot_agent.worker.memory import MAX_STEPS, Memory
from fleetfoot_protocol import dsse, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import TrustError, UpgradeError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Refusal:
    """Something that arrived and was refused: the slot it lay in (a hint), code and cause."""

    slot: str
    code: Code
    message: str

    @property
    def component(self) -> str | None:
        """The component that the slot names, if any."""
        kind, _, name = self.slot.partition(".")
        return name if kind in ("group", "own", "probe") else None


@dataclass(slots=True)
class Intake:
    """What one reading of the spool brought."""

    changed: bool = False
    taken: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    alarms: list[tuple[Code, str]] = field(default_factory=list)


#: Slots are read in this order, because roots decide about the rest.
_ORDER = ("root", "manifest", "group", "own", "heartbeat", "probe")


#: Alarms about documents: they stand until the next one that is taken, a replay also until a fresh heartbeat.
_HEALED = (Code.UPGRADE_EQUIVOCATION, Code.UPGRADE_INTERNAL, Code.UPGRADE_SEQUENCE_REPLAYED)


def _rank(slot: str) -> tuple[int, str]:
    kind, _, rest = slot.partition(".")
    return _ORDER.index(kind), rest.zfill(10)


class Reader:
    """Reads new messages and keeps what is good."""

    def __init__(self, config: AgentConfig, memory: Memory, spool: WorkerSide) -> None:
        self._config = config
        self._memory = memory
        self._spool = spool
        self._handlers: dict[str, Callable[[SpooledMessage, Intake], None]] = {
            "root": self._root,
            "manifest": self._manifest,
            "group": self._desired,
            "own": self._desired,
            "heartbeat": self._heartbeat,
            "probe": self._probe,
        }

    def read(self) -> Intake:
        """Deal with every unread message; after a new trust root also with the newest read ones again."""
        intake = Intake()
        seen: dict[str, int] = {}
        broken = False
        for slot in sorted(self._slots(), key=_rank):
            # Nothing follows a root that was refused, and a courier may make up as many of them as it likes:
            # the rest stay unread.
            if broken and slot.startswith("root."):
                continue
            for message in self._spool.messages(slot):
                # Compared with what the memory keeps, so that a run that was cut in between is made up for.
                if message.unread or self._memory.root.version != self._memory.read_root:
                    self._take(message, intake)
                    intake.taken += 1
                    seen[slot] = message.arrival
            broken = broken or (slot.startswith("root.") and bool(intake.refusals))
        if seen or self._memory.root.version != self._memory.read_root:
            self._spool.mark_seen(seen)
            self._memory.end_inputs()
        return intake

    def _slots(self) -> list[str]:
        """The slots to read: those that matter here, however many others somebody has made."""
        known = {f"{kind}.{name}" for kind in ("group", "own", "probe") for name in self._config.components}
        known |= {"heartbeat", f"root.{self._memory.root.version + 1}"}
        known |= {f"manifest.{want.digest}" for want in self._spool.want().manifests}
        found = self._spool.slots(known)
        return [slot for slot in found if slot in known or slot.startswith(("root.", "manifest."))]

    def _take(self, message: SpooledMessage, intake: Intake) -> None:
        digest = hashlib.sha256(message.payload).hexdigest()
        if not self._memory.begin_input(digest):
            intake.alarms.append((Code.UPGRADE_INTERNAL, f"input {digest[:16]} crashed the worker: skipped"))
            return
        try:
            self._handlers[message.slot.partition(".")[0]](message, intake)
        except UpgradeError as error:
            log.warning("refused slot=%s code=%s cause=%a", message.slot, error.code, error.message)
            intake.refusals.append(Refusal(message.slot, error.upgrade_code, error.message))
        except OSError:
            # The disk, not the input, ends this run. It stays unread, and is read by the next one.
            with suppress(OSError):
                self._memory.forgive_input(digest)
            raise
        self._memory.end_input(digest)

    def _root(self, message: SpooledMessage, intake: Intake) -> None:
        if int(message.slot.partition(".")[2]) <= self._memory.root.version:
            return  # one we have
        now = int(time.time())
        try:
            root = self._memory.advance(message.payload, now)
        except TrustError as error:
            intake.alarms.append((error.upgrade_code, f"{message.slot}: {error.message}"))
            raise
        log.info("trust root advanced version=%d epoch=%d", root.version, root.epoch)
        intake.changed = True
        self._memory.set_alarm(Code.UPGRADE_ROOT_REFUSED, False)
        if self._memory.steps_left(now) == 0:
            text = f"{MAX_STEPS} steps of the trust root in one go: the rest has to wait"
            intake.alarms.append((Code.UPGRADE_ROOT_REFUSED, text))

    def _manifest(self, message: SpooledMessage, intake: Intake) -> None:
        _, digest = trust.verify_release(message.payload, self._memory.root)
        if digest != message.slot.partition(".")[2]:
            raise TrustError(Code.UPGRADE_RELEASE_MISMATCH, f"the manifest is of release {digest[:16]}")
        if self._memory.envelope(f"manifest.{digest}") != message.payload:
            self._memory.store(f"manifest.{digest}", message.payload)
            intake.changed = True

    def _desired(self, message: SpooledMessage, intake: Intake) -> None:
        document = trust.verify_desired(message.payload, self._memory.root)
        own = document.device is not None
        if document.group != self._config.group or document.device not in (None, self._config.device):
            where = f"{document.group}/{document.device or '*'}"
            raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for {where}")
        if document.component not in self._config.components:
            raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for component {document.component}")
        name = f"{'own' if own else 'group'}.{document.component}"
        have = self._memory.desired("own" if own else "group", document.component)
        digest = dsse.decode(message.payload).digest
        if have is not None:
            newest, kept = have
            if document.order < newest.order:
                text = f"sequence {document.sequence} after {newest.sequence}"
                intake.alarms.append((Code.UPGRADE_SEQUENCE_REPLAYED, text))
                raise TrustError(Code.UPGRADE_SEQUENCE_REPLAYED, text)
            if document.order == newest.order:
                if digest != kept:
                    text = f"two documents with sequence {document.sequence}: the first is kept"
                    intake.alarms.append((Code.UPGRADE_EQUIVOCATION, text))
                    raise TrustError(Code.UPGRADE_EQUIVOCATION, text)
                return
        self._memory.store(name, message.payload)
        for code in _HEALED:
            if self._memory.set_alarm(code, False):
                log.info("alarm=%s healed by sequence=%d", code, document.sequence)
        intake.changed = True

    def _heartbeat(self, message: SpooledMessage, intake: Intake) -> None:
        heartbeat = trust.verify_heartbeat(message.payload, self._memory.root)
        if heartbeat.group != self._config.group:
            raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for group {heartbeat.group}")
        have = self._memory.heartbeat()
        if have is None or heartbeat.issued > have.issued:
            self._memory.store("heartbeat", message.payload)
            self._memory.set_alarm(Code.UPGRADE_SEQUENCE_REPLAYED, False)

    def _probe(self, message: SpooledMessage, intake: Intake) -> None:
        """The newest probe is kept for `preflight` to answer; an older one, or the same again, is nothing."""
        probe = trust.verify_probe(message.payload, self._memory.root)
        if probe.group != self._config.group:
            raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for group {probe.group}")
        if probe.component not in self._config.components:
            raise TrustError(Code.UPGRADE_SCOPE_MISMATCH, f"signed for component {probe.component}")
        have = self._memory.probe(probe.component)
        if have is None or (probe.id != have.id and probe.issued >= have.issued):
            self._memory.store(f"probe.{probe.component}", message.payload)

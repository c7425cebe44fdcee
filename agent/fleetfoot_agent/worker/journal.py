"""The journal of one component: its record on the disk, and the one way in which it changes.

Every change is a step of `lifecycle` that is durable before anything further is done. A journal that is lost,
torn or of another schema is rebuilt from what lies on the disk.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from fleetfoot_agent import durable
from fleetfoot_agent.layout import Layout, target_of, version_name
from fleetfoot_agent.worker import lifecycle
from fleetfoot_agent.worker.lifecycle import Say
from fleetfoot_agent.worker.memory import Memory, verified_release
from fleetfoot_agent.worker.record import Record, Work
from fleetfoot_agent.worker.steps import StepEvent
from fleetfoot_protocol import dsse, strictjson
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Release
from fleetfoot_protocol.errors import FormError, UpgradeError
from fleetfoot_protocol.reports import MAX_REFUSED, Installed
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle

log = logging.getLogger(__name__)

JOURNAL_CAP = 256 * 1024
_L = Lifecycle


def record_bytes(record: Record) -> bytes:
    """The bytes of the journal. The order of refusals is kept, because the oldest make room."""
    return record.model_dump_json(exclude_none=True).encode()


def read_record(data: bytes) -> Record:
    """The record in the bytes of a journal. Raises `ValueError` for everything that is none."""
    try:
        strictjson.loads(data, limit=JOURNAL_CAP)
    except FormError as error:
        raise ValueError(error.message) from error
    return Record.model_validate_json(data, strict=True)


class Journal:
    """The record of the component in `layout`. `rebuilt`: it had to be made anew from the disk.

    say: told of each event of a step with its rollout; changed: called before something that takes long.
    Neither may raise: what is told must not decide what is done.
    """

    def __init__(
        self,
        component: str,
        layout: Layout,
        memory: Memory,
        say: Callable[[str, Say, str | None], None],
        changed: Callable[[], None],
    ) -> None:
        self.record = Record()
        self.rebuilt = False
        self._component = component
        self._layout = layout
        self._memory = memory
        self._say = say
        self._changed = changed

    def open(self) -> None:
        """Read the record, or rebuild it.

        Raises `UpgradeError` (upgrade_layout_refused) where the disk does not say what runs, and `OSError`.
        """
        current = self._layout.read_current()
        data = durable.read_regular(self._layout.folder, self._layout.journal.name, JOURNAL_CAP)
        if data is None and current is None:
            self.record = Record(floor=self._memory.floor(self._component))
            return
        try:
            record = read_record(data or b"")
        except ValueError:
            self._rebuild(current, Record())
            return
        runs = target_of(version_name(record.run.version, record.run.digest)) if record.run else None
        if record.state not in lifecycle.IN_FLIGHT and current != runs:
            kept = {"run": None, "prev": None, "state": _L.IDLE, "work": None}
            self._rebuild(current, record.model_copy(update=kept))
            return
        self.record = record

    def _rebuild(self, current: str | None, known: Record) -> None:
        """A record from what lies on the disk: what `current` leads to runs; a trial is judged anew.

        known: what is still known besides. Its floor, refusals and outcomes stay.
        """
        self.rebuilt = True
        known = known.model_copy(update={"floor": max(known.floor, self._memory.floor(self._component))})
        log.warning("journal rebuilt component=%s current=%s", self._component, current)
        if current is None:
            self.write(known)
            return
        trial = self._layout.read_trial()
        names = (trial.old, trial.new) if trial and current in (trial.old, trial.new) else (current, current)
        old, new = (self._installed(target) for target in names)
        if trial is None or old is None or new is None or names[0] == names[1]:
            run = self._installed(current)
            if run is None:
                text = f"nothing verifiable says what {current} is"
                raise UpgradeError(Code.UPGRADE_LAYOUT_REFUSED, text)
            self._write_rebuilt(known, run)
            return
        # What was left by hand, without a worker, had been committed: it is refused up to that attempt.
        attempt = max((o.attempt for o in known.outcomes if o.digest == new[0].digest), default=1)
        goal = Goal(
            version=new[0].version, counter=new[0].counter, digest=new[0].digest, length=0, attempt=attempt
        )
        work = Work(
            act=Act.INSTALL,
            goal=goal,
            name=trial.new.removeprefix("versions/"),
            old=trial.old.removeprefix("versions/"),
            min_counter=new[1].min_counter,
        )
        # Probation notices by itself that the guard has gone back already.
        self._write_rebuilt(known, old, state=_L.PROBATION, work=work)

    def _write_rebuilt(self, known: Record, run: tuple[Installed, Release], **changes: Any) -> None:
        floor = max(known.floor, run[1].min_counter)
        self.write(known.model_copy(update={"run": run[0], "floor": floor, **changes}))

    def _installed(self, target: str) -> tuple[Installed, Release] | None:
        """What the verified release beside a tree says that it is."""
        name = target.removeprefix("versions/")
        data = self._layout.envelope(name)
        if data is None:
            return None
        try:
            digest = dsse.decode(data).digest
        except FormError:
            return None
        found = verified_release(data, digest, self._memory.root)
        if found is None or version_name(found[0].version, digest) != name:
            return None
        release = found[0]
        return Installed(version=release.version, counter=release.counter, digest=digest), release

    def write(self, record: Record) -> None:
        """Make `record` the record, durably. Raises `OSError`; the old one stays then."""
        self._memory.raise_floor(self._component, record.floor)
        durable.write_file(self._layout.journal, record_bytes(record))
        self.record = record

    def step(self, event: StepEvent) -> None:
        """Let `event` happen: journaled first, told afterwards."""
        before = self.record.state
        record, said = lifecycle.step(self.record, event, int(time.time()))
        self.write(record)
        if record.work is None and record.outcomes:
            rollout = record.outcomes[-1].rollout
        else:
            rollout = record.work.rollout if record.work else None
        for item in said:
            self._say(self._component, item, rollout)
        name = type(event).__name__
        log.info("component=%s event=%s from=%s to=%s", self._component, name, before, record.state)
        if record.state in (_L.STAGING, _L.ACTIVATING):
            self._changed()  # what follows may take long

    def complain(self, code: Code, message: str) -> None:
        """Remember an error that is not about the work in hand."""
        problem = lifecycle.problem(code, message, int(time.time()))
        self.write(self.record.model_copy(update={"last_error": problem}))

    def refuse(self, digest: str, attempt: int) -> None:
        """Remember that somebody wants nothing more of a release, up to this attempt."""
        refused = {d: a for d, a in self.record.refused.items() if d != digest}
        refused[digest] = max(attempt, self.record.refused.get(digest, 0))
        newest = dict(list(refused.items())[-MAX_REFUSED:])
        self.write(self.record.model_copy(update={"refused": newest}))

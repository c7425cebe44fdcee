"""What devices say: statuses with their attestations, and presence.

Status and attestation come as two messages in either order, each as often as the broker likes. They are
paired by the sha256 of the status. Rules:

1. Only enrolled devices are listened to; scope of topic, document and enrolment must agree.
2. A pair counts when the device's own key signed it and it is news: a higher counter of the present
   incarnation, or an incarnation never seen. The same counter with other bytes is an alarm; the first stays.
   So is a pair that another key signed, or that the device signed for another place: somebody writes there
   who should not. One alarm a minute for each device and code.
3. Presence is nobody's signature: it is shown and decides nothing.
4. Under load, a pair on which nothing waits (no rollout of its group, no act on its device) is stored as a
   claim and verified when there is time, by the same rules. A request finds everything verified.
"""

import hashlib
import logging
import re
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from fleetfoot_manager import acts, audit, derive, publisher
from fleetfoot_manager.claims import MAX_CLAIMS, Claim
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.rollout import Rollout
from fleetfoot_manager.work import Work
from fleetfoot_protocol import admission, times, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import Status
from fleetfoot_protocol.topics import Kind, Topic

log = logging.getLogger(__name__)

#: Halves of a pair that are kept for a device, and devices for which any are kept.
MAX_HALVES = 4
MAX_DEVICES = 20_000
_ALARM_SECONDS = 60.0
_NAMED = re.compile(rb'"sha256"\s*:\s*"([0-9a-f]{64})"')


@dataclass(slots=True)
class _Halves:
    """What still lacks its other half, by the sha256 of the status."""

    statuses: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    attestations: OrderedDict[str, bytes] = field(default_factory=OrderedDict)


def _keep(halves: OrderedDict[str, bytes], sha256: str, data: bytes) -> None:
    halves[sha256] = data
    halves.move_to_end(sha256)
    while len(halves) > MAX_HALVES:
        halves.popitem(last=False)


class Pair(NamedTuple):
    """A status and what came as its attestation, not looked into yet."""

    device: str
    sha256: str
    status: bytes
    attestation: bytes


class Ingest:
    """Takes in what devices publish. `ignored` counts what was passed over, by reason.

    `message` and `claim` cannot fail half way; `judge` is for a step of its own.
    """

    def __init__(self) -> None:
        self.ignored: Counter[str] = Counter()
        self._waiting: OrderedDict[str, _Halves] = OrderedDict()
        self._alarmed: OrderedDict[tuple[str, str], float] = OrderedDict()

    def message(self, work: Work, topic: Topic, payload: bytes, *, retained: bool) -> Pair | None:
        """One message on a device's topic; the pair that it completes. An empty payload is no information."""
        if not payload:
            return None
        entry = work.devices.find(work.tx, topic.device)
        if entry is None or entry.group != topic.group:
            self.ignored["unknown device" if entry is None else "other group"] += 1
            if entry is None:
                work.devices.bouncer.heard(work.tx, topic.group, topic.device, work.now)
            return None
        if topic.kind is Kind.STATUS:
            return self._status(work, entry, payload, retained)
        if topic.kind is Kind.STATUS_ATTESTATION:
            return self._attestation(entry, payload)
        if topic.kind is Kind.PRESENCE:
            self._presence(work, entry, payload, retained)
        return None

    def claim(self, work: Work, pair: Pair) -> bool:
        """Store the pair to be verified later; False if it has to be judged now."""
        claims = work.devices.claims
        if (
            len(claims) >= MAX_CLAIMS
            or claims.of(pair.device) is not None
            or self._awaited(work, pair.device)
        ):
            return False
        claims.add(Claim(*pair, work.now))
        return True

    def _awaited(self, work: Work, device: str) -> bool:
        """Whether something may be decided by what the device says now."""
        entry = work.devices.find(work.tx, device)
        return (
            entry is None
            or work.devices.may_have_act(work.tx, device)
            or any(entry.group in of.groups or device in of.devices for of in work.rollouts.values())
        )

    def _presence(self, work: Work, entry: DeviceEntry, payload: bytes, retained: bool) -> None:
        if payload not in (b"online", b"offline"):
            self.ignored["malformed"] += 1
            return
        work.devices.presence(entry, payload == b"online")
        if not retained:
            work.devices.seen(entry, work.now)

    def _status(self, work: Work, entry: DeviceEntry, payload: bytes, retained: bool) -> Pair | None:
        sha256 = hashlib.sha256(payload).hexdigest()
        if not retained:
            work.devices.seen(entry, work.now)
        if sha256 == entry.status_sha256 or sha256 == work.devices.claims.of(entry.id):
            return None
        halves = self._halves(entry.id)
        attestation = halves.attestations.pop(sha256, None)
        if attestation is None:
            _keep(halves.statuses, sha256, payload)
            return None
        return self._paired(halves, Pair(entry.id, sha256, payload, attestation))

    def _attestation(self, entry: DeviceEntry, payload: bytes) -> Pair | None:
        # Only a hint of which status it is for: it is parsed, strictly, when that one is there.
        named = _NAMED.search(payload)
        if named is None:
            self.ignored["malformed"] += 1
            return None
        sha256 = named[1].decode("ascii")
        if sha256 == entry.status_sha256:
            return None
        halves = self._halves(entry.id)
        status = halves.statuses.pop(sha256, None)
        if status is None:
            _keep(halves.attestations, sha256, payload)
            return None
        return self._paired(halves, Pair(entry.id, sha256, status, payload))

    def _halves(self, device: str) -> _Halves:
        halves = self._waiting.get(device)
        if halves is None:
            halves = self._waiting[device] = _Halves()
            while len(self._waiting) > MAX_DEVICES:
                self._waiting.popitem(last=False)
        else:
            self._waiting.move_to_end(device)
        return halves

    def _paired(self, halves: _Halves, pair: Pair) -> Pair:
        if not halves.statuses and not halves.attestations:
            del self._waiting[pair.device]
        return pair

    def judge(self, work: Work, pair: Pair | Claim) -> None:
        """Verify, and take in what is news, with all that follows."""
        entry = work.devices.find(work.tx, pair.device)
        if entry is None or pair.sha256 == entry.status_sha256:
            return
        at = pair.at if isinstance(pair, Claim) else work.now
        try:
            status = trust.verify_status(pair.status, pair.attestation, entry.key)
        except UpgradeError as error:
            # The status may be true and only this attestation false: it waits for another one.
            self._again(work, pair)
            self.ignored[error.code] += 1
            log.warning("device=%s status refused code=%s: %s", entry.id, error.code, error.message)
            self._alarm(work, entry, error.upgrade_code, error.message)
            return
        if (status.fleet, status.group, status.device) != (work.house.fleet, entry.group, entry.id):
            self.ignored[Code.UPGRADE_SCOPE_MISMATCH] += 1
            text = f"signed for {status.fleet}/{status.group}/{status.device}"
            self._alarm(work, entry, Code.UPGRADE_SCOPE_MISMATCH, text)
            return
        if self._is_news(work, entry, status):
            new = work.devices.status(entry, status, pair.status, pair.sha256)
            work.devices.seen(new, min(at, times.from_text(status.at)))
            tell_rollouts(work, status, entry)
            tell_acts(work, status)

    def _again(self, work: Work, pair: Pair | Claim) -> None:
        """Go on with the status of a pair that was refused: another attestation of it may be there."""
        halves = self._halves(pair.device)
        other = halves.attestations.pop(pair.sha256, None)
        if other is None:
            _keep(halves.statuses, pair.sha256, pair.status)
        else:
            self.judge(work, self._paired(halves, Pair(pair.device, pair.sha256, pair.status, other)))

    def _alarm(self, work: Work, entry: DeviceEntry, code: Code, message: str) -> None:
        """Tell the device's group of something on its topics that it did not write as it should."""
        key = (entry.id, str(code))
        if work.now < self._alarmed.get(key, float("-inf")) + _ALARM_SECONDS:
            return
        self._alarmed[key] = work.now
        self._alarmed.move_to_end(key)
        while len(self._alarmed) > MAX_DEVICES:
            self._alarmed.popitem(last=False)
        work.event([entry.group], Event.ALARM, {"device": entry.id, "message": message}, code=code)

    def _is_news(self, work: Work, entry: DeviceEntry, status: Status) -> bool:
        if status.incarnation != entry.incarnation:
            if status.incarnation in entry.past:
                self.ignored["past incarnation"] += 1
                return False
            return True
        if status.counter == entry.counter:
            self.ignored[Code.UPGRADE_EQUIVOCATION] += 1
            log.warning("device=%s equivocates at counter %d", entry.id, status.counter)
            text = f"two statuses with counter {status.counter}"
            self._alarm(work, entry, Code.UPGRADE_EQUIVOCATION, text)
            return False
        if status.counter < entry.counter:
            self.ignored["older status"] += 1
            return False
        return True


def tell_rollouts(work: Work, status: Status, before: DeviceEntry) -> None:
    """Hand what a verified status says to every rollout that it is about.

    Those are the live ones of its components, and ended ones that it has an outcome of which the device's
    status until now did not have: a device that was silent tells later how it went.
    """
    for of in list(work.rollouts.values()):
        if status.device in of.devices:
            _tell(work, of, status)
        elif status.group in of.groups and of.selector and admission.matches(of.selector, status.labels):
            work.join(status.device, status.group, status.labels)
    for name in _news_of(status, before, set(work.rollouts)):
        ended = work.rollout(name)
        if ended is not None and status.device in ended.devices:
            _tell(work, ended, status)


def tell_acts(work: Work, status: Status) -> None:
    """End the acts on a device of which its verified status says how they went."""
    if not work.devices.may_have_act(work.tx, status.device):
        return
    known = [act for act in work.acts_of(status.device) if act.state == acts.OPEN]
    work.devices.expect_act(work.tx, status.device, bool(known))
    for act in known:
        component = status.components.get(act.component)
        if component is None:
            continue
        own = publisher.stored_own(work.tx, status.group, act.device, act.component)
        after = acts.heard(act, component, own)
        if after is not None:
            work.put_act(after)
            about = {"device": act.device, "group": status.group, "component": act.component}
            work.audit(audit.MANAGER, "node.upgrade.end", about | after.row())


def _tell(work: Work, of: Rollout, status: Status) -> None:
    current = work.desired_now(status.group, of.component)
    report = derive.report(of, status, current, own=_obeys_its_own(work, of, status))
    if report is not None:
        work.advance(of.id, report)


def _obeys_its_own(work: Work, of: Rollout, status: Status) -> bool:
    """Whether the device says so of the rollout's component, and an act on it stands."""
    component = status.components.get(of.component)
    if component is None or component.answered is None or component.answered.scope != "own":
        return False
    return any(act.stands for act in work.acts_of(status.device) if act.component == of.component)


def _news_of(status: Status, before: DeviceEntry, live: set[str]) -> set[str]:
    """Rollouts that are not live of which the status has outcomes that the one before it did not have."""
    told = {
        (name, outcome)
        for name, one in status.components.items()
        for outcome in one.outcomes
        if outcome.rollout is not None and outcome.rollout not in live
    }
    if told and before.status is not None:
        told -= {
            (name, outcome) for name, one in before.status.components.items() for outcome in one.outcomes
        }
    return {outcome.rollout for _, outcome in told if outcome.rollout is not None}

"""Counting what a fleet did from what it published, and believing only what is signed.

`Tally` is fed messages and nothing else: it knows neither the manager nor the devices' disks. A device
counts by its attested status; a wave by the cuts in the signed desired states and by the document that a
device answered when it began, so that no figure hangs on the order in which messages happen to arrive.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetfoot_protocol import admission, dsse, trust
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import ComponentStatus, RolloutProgress, Status
from fleetfoot_protocol.states import Lifecycle, Outcome, RolloutState
from fleetfoot_protocol.topics import Kind, Topic
from fleetfoot_protocol.trust import TrustRoot

_UNPAIRED = 8
#: From activation on a device is touched. Before, a trip lets it drop what it had fetched or unpacked.
_TOUCHED = frozenset({Lifecycle.ACTIVATING, Lifecycle.PROBATION, Lifecycle.ROLLING_BACK})


@dataclass(frozen=True, slots=True)
class Member:
    """A device of the fleet: its group, the public key it is enrolled with (hex) and its labels."""

    id: str
    group: str
    key: str
    labels: Mapping[str, str] = field(default_factory=dict)


class _Pairs:
    """A payload and its attestation come separately and in any order."""

    def __init__(self) -> None:
        self._payloads: dict[str, list[bytes]] = {}
        self._attestations: dict[str, list[bytes]] = {}

    def add(self, key: str, data: bytes, *, attestation: bool) -> list[tuple[bytes, bytes]]:
        """Keep one half; returns all pairs with it that belong together."""
        mine, others = (
            (self._attestations, self._payloads) if attestation else (self._payloads, self._attestations)
        )
        mine[key] = [*mine.get(key, []), data][-_UNPAIRED:]
        pairs = [(o, data) if attestation else (data, o) for o in others.get(key, [])]
        return [pair for pair in pairs if _belong(*pair)]


def _belong(payload: bytes, attestation: bytes) -> bool:
    try:
        dsse.join_attestation(payload, attestation)
    except FleetfootError:
        return False
    return True


class Tally:
    """What was seen so far of `component` in the fleet of `root`."""

    def __init__(self, root: TrustRoot, members: list[Member], component: str) -> None:
        self._root = root
        self._component = component
        self._members = {m.id: m for m in members}
        self._pairs = _Pairs()
        self.statuses: dict[str, Status] = {}
        self.progress: dict[str, RolloutProgress] = {}
        #: Rollouts that were seen tripped.
        self.tripped: set[str] = set()
        #: (group, sequence) -> {rollout: how many devices of the whole fleet that cut admits}
        self._told: dict[tuple[str, int], dict[str, int]] = {}
        #: rollout -> device -> sequence of the document under which it was first seen to act
        self._began: dict[str, dict[str, int]] = {}
        #: rollout -> device -> outcome
        self.outcomes: dict[str, dict[str, Outcome]] = {}
        self._ran: dict[str, set[str]] = {}
        self.refused_messages = 0

    def take(self, topic: Topic, payload: bytes) -> None:
        """One message. What does not verify is counted and otherwise ignored."""
        try:
            self._take(topic, payload)
        except FleetfootError:
            self.refused_messages += 1

    def _take(self, topic: Topic, payload: bytes) -> None:
        if topic.kind is Kind.GROUP_DESIRED and payload:
            self._desired(trust.verify_desired(payload, self._root))
        elif topic.kind in (Kind.STATUS, Kind.STATUS_ATTESTATION):
            member = self._members.get(topic.device)
            if member is None or member.group != topic.group:
                return
            attestation = topic.kind is Kind.STATUS_ATTESTATION
            for pair in self._pairs.add(f"status {topic.device}", payload, attestation=attestation):
                self._status(member, trust.verify_status(*pair, bytes.fromhex(member.key)))
        elif topic.kind in (Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION):
            attestation = topic.kind is Kind.ROLLOUT_ATTESTATION
            key = f"rollout {topic.group} {topic.rollout}"
            for pair in self._pairs.add(key, payload, attestation=attestation):
                self._progress(trust.verify_progress(*pair, self._root))

    def _desired(self, document: Desired) -> None:
        told = {}
        for target in document.targets:
            members = self._members.values()
            told[target.rollout] = sum(
                admission.admitted(target, m.id, m.labels, target.activate_cut) for m in members
            )
        self._told[(document.group, document.sequence)] = told

    def _status(self, member: Member, status: Status) -> None:
        known = self.statuses.get(member.id)
        if known is not None and (known.incarnation, known.counter) == (status.incarnation, status.counter):
            return
        if known is None or status.counter > known.counter or status.incarnation != known.incarnation:
            self.statuses[member.id] = status
        component = status.components.get(self._component)
        if component is None:
            return
        if component.running is not None:
            self._ran.setdefault(member.id, set()).add(component.running.digest)
        self._work(member.id, component)

    def _work(self, device: str, component: ComponentStatus) -> None:
        if component.state in _TOUCHED and component.rollout and component.answered:
            self._begin(component.rollout, device, component.answered.sequence)
        for outcome in component.outcomes:
            if outcome.rollout is None:
                continue
            if outcome.outcome in (Outcome.COMPLETED, Outcome.ROLLED_BACK):
                self.outcomes.setdefault(outcome.rollout, {})[device] = outcome.outcome
            sequence = component.answered.sequence if component.answered else 0
            self._begin(outcome.rollout, device, sequence)

    def _begin(self, rollout: str, device: str, sequence: int) -> None:
        self._began.setdefault(rollout, {}).setdefault(device, sequence)

    def _progress(self, progress: RolloutProgress) -> None:
        known = self.progress.get(progress.rollout)
        if known is None or progress.revision >= known.revision:
            self.progress[progress.rollout] = progress
        if progress.state == RolloutState.TRIPPED:
            self.tripped.add(progress.rollout)

    # -- what it amounts to

    def rollout_of(self, version: str) -> str | None:
        """The newest rollout of a version, as far as the manager has published its progress."""
        found = [p for p in self.progress.values() if p.version == version]
        return max(found, key=lambda p: (p.at, p.rollout)).rollout if found else None

    def began(self, rollout: str | None) -> set[str]:
        """Devices that were seen to activate its release, or to end their work on it."""
        return set(self._began.get(rollout or "", {}))

    def waves(self, rollout: str | None) -> list[int]:
        """Cumulative counts of devices that began, one for each width that was signed and used.

        A device whose document was not seen, or that the document did not mean to be that wide, shows up
        as a figure that nobody expects.
        """
        widths = []
        for device, sequence in self._began.get(rollout or "", {}).items():
            told = self._told.get((self._members[device].group, sequence), {})
            widths.append(told.get(rollout or "", 0))
        counted = Counter(widths)
        total, waves = 0, []
        for width in sorted(counted):
            total += counted[width]
            waves.append(total)
        return waves

    def ended(self, rollout: str | None, outcome: Outcome) -> int:
        """How many devices ended the rollout with this outcome."""
        return sum(o is outcome for o in self.outcomes.get(rollout or "", {}).values())

    def ever_ran(self, digest: str) -> set[str]:
        """Devices that ever said that they run this release."""
        return {device for device, digests in self._ran.items() if digest in digests}

    def versions(self) -> dict[str, int]:
        """How many devices run which version now, at rest."""
        found: Counter[str] = Counter()
        for status in self.statuses.values():
            component = status.components.get(self._component)
            if component and component.running and component.state is Lifecycle.IDLE:
                found[component.running.version] += 1
        return dict(sorted(found.items()))

    def result(self, good: str, bad: str) -> dict[str, Any]:
        """The demo's figures: what became of the good and of the bad version."""
        good_rollout, bad_rollout = self.rollout_of(good), self.rollout_of(bad)
        began = self.began(bad_rollout)
        progress = self.progress.get(bad_rollout or "")
        if progress is not None:
            began |= self.ever_ran(progress.digest)
        return {
            "devices": len(self._members),
            "good": {
                "version": good,
                "completed": self.ended(good_rollout, Outcome.COMPLETED),
                "waves": self.waves(good_rollout),
            },
            "bad": {
                "version": bad,
                "started": len(began),
                "rolled_back": self.ended(bad_rollout, Outcome.ROLLED_BACK),
                "tripped": bad_rollout in self.tripped,
                "untouched": len(self._members) - len(began),
            },
            "final": self.versions(),
        }

"""The memory of a rollout: frozen, complete, and exactly the same after a way through JSON.

Cuts are fixed when the rollout is planned: whoever joins or leaves later, the wave that was approved admits
the devices that were approved. Times are unix seconds.
"""

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from fleetfoot_manager.rollout_devices import DeviceRecord, DeviceTable
from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.states import TAKEN_BACK, RolloutState, Terminal

ALREADY = "already on the target"
OWN = "obeys a document of its own"
BEYOND = "beyond the last wave"
#: Where a healthy device that runs something else was taken back, and has not merely gone on.
TAKES_BACK = frozenset({RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK})


class Member(NamedTuple):
    """A device of the cohort and the group through which it is told."""

    device: str
    group: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout between two events.

    waves: cumulative device counts as approved; cuts: one for each. wave: how many waves are open.
    cohort: in the order of admission, with whoever joined. settle, device_timeout: seconds. breaker:
    failures that trip, 0 for never. restricted: completes to a standing target, not to the baseline.
    resume_to: where a pause came from. failures_before: failures already decided upon. passed: the last
    wave that passed. canary: the release is not blessed, so that no wave but the first may open. unheld:
    when the hold last came off; timeouts of devices count from then. return_until: when waiting for a
    rollback ends. from_wave: the first wave that the gate judges; lower than `wave` where a wave had nobody
    who could have taken the goal. revision rises with every change; steered is the revision at which state,
    wave or attempt last changed (who acted on a lower one acted on something else than what is).

    strategy: the word for how it goes out. include: canaries, who are the first wave by name. listed: the
    cohort was named device by device; no cut admits anybody else. stage: empty, or everybody stages before
    the first wave activates, "first" going on by itself, "only" waiting until somebody says so; wave 0 is
    the staging then. consecutive: the breaker counts failures in a row, `streak` being those until now.
    failure_percent: of the devices asked, more failures than that trip; 0 for no such limit. min_successes:
    of each wave. each_wave: somebody approves each wave behind the first. skip_offline: who is offline when
    asked is not waited for. lives_until: when it expires. withdraws: the release that this one brings
    everybody back from, to be withdrawn in the end. after: the rollout whose completion starts this one.
    """

    id: str
    component: str
    goal: Goal
    groups: tuple[str, ...]
    salt: str
    waves: tuple[int, ...]
    cuts: tuple[str, ...]
    cohort: tuple[Member, ...]
    devices: DeviceTable
    created: float
    selector: Mapping[str, str] = field(default_factory=dict)
    settle: float = 300.0
    device_timeout: float = 300.0
    breaker: int = 1
    restricted: bool = False
    canary: bool = False
    state: RolloutState = RolloutState.PLANNED
    wave: int = 0
    passed: int = 0
    reason: str = ""
    resume_to: RolloutState | None = None
    failures_before: int = 0
    settle_until: float | None = None
    return_until: float | None = None
    unheld: float | None = None
    strategy: str = "waves"
    include: tuple[str, ...] = ()
    listed: bool = False
    stage: str = ""
    consecutive: bool = False
    streak: int = 0
    failure_percent: int = 0
    min_successes: int = 1
    each_wave: bool = False
    skip_offline: bool = False
    priority: int = 0
    lives_until: float | None = None
    withdraws: str = ""
    after: str = ""
    from_wave: int = 1
    revision: int = 1
    steered: int = 1
    started: float | None = None
    ended: float | None = None

    @property
    def total(self) -> int:
        """Devices of the cohort, whether a wave admits them or not."""
        return len(self.cohort)

    @property
    def counts(self) -> dict[str, int]:
        """How many devices ended how, for people: who was taken back is told apart from who is healthy."""
        found = self.devices.counts
        if self.state not in TAKES_BACK or not (left := self.devices.left):
            return found
        healthy = {str(Terminal.HEALTHY): found[Terminal.HEALTHY] - left}
        return {name: count for name, count in (found | healthy).items() if count} | {TAKEN_BACK: left}

    def result(self, device: str) -> str:
        """As what a device counts there."""
        record = self.devices[device]
        healthy = record.terminal is Terminal.HEALTHY
        back = healthy and not record.on_goal and self.state in TAKES_BACK
        return TAKEN_BACK if back else str(record.terminal)

    @property
    def staging(self) -> bool:
        """Whether devices stage, and nobody activates yet."""
        return self.started is not None and self.wave == 0

    @property
    def approved(self) -> int:
        """Devices that may be exposed by now: to staging too, where that goes first."""
        if self.stage and self.started is not None:
            return self.waves[-1]
        return self.waves[self.wave - 1] if self.wave else 0

    def wave_of(self, device: str) -> int:
        """The first wave that admits the device, from 1; 0 if none does."""
        if self.listed:
            known = self.devices.get(device)
            return known.wave if known else 0
        if device in self.include:
            return 1
        for number, cut in enumerate(self.cuts, start=1):
            if admission.below(cut, self.salt, device):
                return number
        return 0

    def with_member(self, device: str, group: str) -> "Rollout":
        """With the device in the cohort, at its place in the order of admission, under this group."""
        members = [member for member in self.cohort if member.device != device]

        def place(member: Member) -> tuple[bool, str, str]:
            name = member.device
            return name not in self.include, admission.position(self.salt, name), name

        insort(members, Member(device, group), key=place)
        return replace(self, cohort=tuple(members))

    def to_json(self) -> dict[str, Any]:
        """The rollout as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "goal": self.goal.model_dump(mode="json"),
            "groups": list(self.groups),
            "waves": list(self.waves),
            "cuts": list(self.cuts),
            "include": list(self.include),
            "cohort": [list(member) for member in self.cohort],
            "devices": {device: record.to_json() for device, record in self.devices.items()},
            "opened": {str(wave): at for wave, at in self.devices.opened.items()},
            "selector": dict(self.selector),
            "state": str(self.state),
            "resume_to": None if self.resume_to is None else str(self.resume_to),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Rollout":
        """The rollout that `to_json` wrote. Raises TypeError, KeyError or ValueError for anything else."""
        back = body["resume_to"]
        opened = {int(wave): at for wave, at in body.get("opened", {}).items()}
        records = {d: DeviceRecord.from_json(r) for d, r in body["devices"].items()}
        read: dict[str, Any] = {
            "goal": Goal.model_validate(body["goal"]),
            "groups": tuple(body["groups"]),
            "waves": tuple(body["waves"]),
            "cuts": tuple(body["cuts"]),
            "cohort": tuple(Member(*member) for member in body["cohort"]),
            "devices": DeviceTable(records, opened),
            "state": RolloutState(body["state"]),
            "resume_to": None if back is None else RolloutState(back),
            "include": tuple(body.get("include", ())),
        }
        return cls(**{**{name: one for name, one in body.items() if name != "opened"}, **read})

"""The memory of a rollout: frozen, complete, and exactly the same after a way through JSON.

Cuts are fixed when the rollout is planned: whoever joins or leaves later, the wave that was approved admits
the devices that were approved. Times are unix seconds.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from immutables import Map

from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.states import RolloutState, Terminal

ALREADY = "already on the target"
BEYOND = "beyond the last wave"
FAILURES = (Terminal.FAILED, Terminal.ROLLED_BACK)


class Member(NamedTuple):
    """A device of the cohort and the group through which it is told."""

    device: str
    group: str


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """What the rollout knows of a device.

    wave: the wave that admits it, from 1; 0 if none does. since: when it was exposed, None before. ended:
    when it became what `terminal` says. on_goal: its last report named the goal's digest as what runs.
    gone: it has left the rollout's groups.
    """

    wave: int
    terminal: Terminal = Terminal.PENDING
    code: str = ""
    reason: str = ""
    since: float | None = None
    ended: float | None = None
    on_goal: bool = False
    gone: bool = False

    @property
    def awaited(self) -> bool:
        """Exposed, and has not ended."""
        return self.since is not None and not self.terminal.ended

    @property
    def success(self) -> bool:
        """Proved healthy on the goal, or was on it already."""
        return self.terminal is Terminal.HEALTHY or (self.terminal is Terminal.SKIPPED and self.on_goal)

    @property
    def moved(self) -> bool:
        """Exposed, and on the goal or on the way to it, as far as is known."""
        on_the_way = self.on_goal or self.terminal is Terminal.ACTIVE
        return self.since is not None and not self.gone and on_the_way

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"terminal": str(self.terminal)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "DeviceRecord":
        """The record that `to_json` wrote."""
        return cls(**{**body, "terminal": Terminal(body["terminal"])})


def shared(change: Callable[[DeviceRecord], DeviceRecord]) -> Callable[[DeviceRecord], DeviceRecord]:
    """`change`, worked out once for all devices that share a record."""
    made: dict[int, tuple[DeviceRecord, DeviceRecord]] = {}

    def changed(record: DeviceRecord) -> DeviceRecord:
        found = made.get(id(record))
        if found is None:
            found = made[id(record)] = (record, change(record))
        return found[1]

    return changed


class _News(NamedTuple):
    """Whose records one `put` changed, and what had changed before."""

    devices: Collection[str]
    before: "_News | None"


class DeviceTable(Mapping[str, DeviceRecord]):
    """Records by device id, never changed in place, with their sums.

    A table and the one made of it share what they have in common (a hash array mapped trie), so that a
    report costs the same in a rollout over ten devices and over a million. The gate asks for sums at every
    report: they are kept with the records, by the one method that makes a new table. `news`: devices whose
    records changed since the table was last `kept`, for whoever stores them.
    """

    __slots__ = ("_awaited", "_counts", "_moved", "_news", "_records")

    def __init__(self, records: Mapping[str, DeviceRecord]) -> None:
        self._records: Map[str, DeviceRecord] = Map()
        self._news: _News | None = None
        self._counts: Counter[Terminal] = Counter()
        self._awaited: Counter[float] = Counter()
        self._moved = 0
        # Most devices of a fleet have equal records at first: they share one.
        one: dict[DeviceRecord, DeviceRecord] = {}
        self._take({device: one.setdefault(record, record) for device, record in records.items()})

    def __getitem__(self, device: str) -> DeviceRecord:
        return self._records[device]

    def __contains__(self, device: object) -> bool:
        return device in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def items(self) -> ItemsView[str, DeviceRecord]:
        """(device, record), without a call of ours for each."""
        return ItemsView(self._records)

    def values(self) -> ValuesView[DeviceRecord]:
        """The records, without a call of ours for each."""
        return ValuesView(self._records)

    def __repr__(self) -> str:
        return f"DeviceTable({dict(self._records)!r})"

    @property
    def news(self) -> Collection[str]:
        """Devices whose records are not as they were stored."""
        found: set[str] = set()
        news = self._news
        while news is not None:
            found.update(news.devices)
            news = news.before
        return sorted(found)

    def kept(self) -> "DeviceTable":
        """The same records, all stored."""
        table = self._copy()
        table._news = None
        return table

    def put(self, changes: Mapping[str, DeviceRecord]) -> "DeviceTable":
        """A table with these records changed or added; this very table if that changes nothing."""
        known = self._records.get
        changes = {d: new for d, new in changes.items() if (old := known(d)) is not new and old != new}
        if not changes:
            return self
        table = self._copy()
        table._take(changes)
        return table

    def _copy(self) -> "DeviceTable":
        table = DeviceTable({})
        table._records, table._news = self._records, self._news
        table._counts = self._counts.copy()
        table._awaited = self._awaited.copy()
        table._moved = self._moved
        return table

    def _take(self, changes: Mapping[str, DeviceRecord]) -> None:
        steps: dict[int, int] = {}
        counted: dict[int, DeviceRecord] = {}
        for device, record in changes.items():
            for one, step in ((self._records.get(device), -1), (record, 1)):
                if one is not None:
                    steps[id(one)] = steps.get(id(one), 0) + step
                    counted[id(one)] = one
        for key, step in steps.items():
            self._count(counted[key], step)
        self._records = self._records.update(changes)
        if changes:
            self._news = _News(changes.keys(), self._news)

    def _count(self, record: DeviceRecord, step: int) -> None:
        self._counts[record.terminal] += step
        self._moved += step * record.moved
        if record.awaited and record.since is not None:
            self._awaited[record.since] += step
            if not self._awaited[record.since]:
                del self._awaited[record.since]

    @property
    def counts(self) -> dict[str, int]:
        """How many devices ended how, or have not; terminals that nobody has are left out."""
        return {str(terminal): self._counts[terminal] for terminal in Terminal if self._counts[terminal]}

    @property
    def failures(self) -> int:
        """Devices that failed or went back."""
        return sum(self._counts[terminal] for terminal in FAILURES)

    @property
    def awaited(self) -> int:
        """Exposed devices that have not ended."""
        return self._awaited.total()

    @property
    def first_awaited(self) -> float | None:
        """When the device awaited longest was exposed, None if none is awaited."""
        return min(self._awaited, default=None)

    @property
    def moved(self) -> int:
        """Exposed devices on the goal or on the way to it."""
        return self._moved


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
    def staging(self) -> bool:
        """Whether devices stage, and nobody activates yet."""
        return bool(self.stage) and self.started is not None and self.wave == 0

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
            "selector": dict(self.selector),
            "state": str(self.state),
            "resume_to": None if self.resume_to is None else str(self.resume_to),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Rollout":
        """The rollout that `to_json` wrote. Raises TypeError, KeyError or ValueError for anything else."""
        back = body["resume_to"]
        read: dict[str, Any] = {
            "goal": Goal.model_validate(body["goal"]),
            "groups": tuple(body["groups"]),
            "waves": tuple(body["waves"]),
            "cuts": tuple(body["cuts"]),
            "cohort": tuple(Member(*member) for member in body["cohort"]),
            "devices": DeviceTable({d: DeviceRecord.from_json(r) for d, r in body["devices"].items()}),
            "state": RolloutState(body["state"]),
            "resume_to": None if back is None else RolloutState(back),
            "include": tuple(body.get("include", ())),
        }
        return cls(**{**body, **read})

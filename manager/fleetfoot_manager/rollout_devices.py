"""What a rollout knows of its devices: a record each, and their sums, however many there are.

A wave that opens exposes devices by the thousand. That is one fact, kept once (`DeviceTable.opened`): a
record says since when its device is exposed as soon as anybody looks at it, and is written anew only once it
changes. So it is where staging goes first: that everybody may stage is the opening of wave 0, and whoever has
staged, or was silent, is asked again when the wave opens that activates it.
"""

import math
from collections import Counter
from collections.abc import Collection, ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from immutables import Map

from fleetfoot_protocol.states import Terminal

FAILURES = (Terminal.FAILED, Terminal.ROLLED_BACK)
#: The wave that opens where everybody may stage and nobody activates yet.
STAGING_WAVE = 0
#: How staging ends for a device that is asked again when its wave activates what it has staged.
RESTS = (Terminal.STAGED, Terminal.SILENT)


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

    def anew(self, terminal: Terminal = Terminal.PENDING) -> "DeviceRecord":
        """The record of a device that has not ended, whatever was said before."""
        return replace(self, terminal=terminal, code="", reason="", ended=None)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"terminal": str(self.terminal)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "DeviceRecord":
        """The record that `to_json` wrote."""
        return cls(**{**body, "terminal": Terminal(body["terminal"])})


class _News(NamedTuple):
    """Whose records one `put` changed, and what had changed before."""

    devices: Collection[str]
    before: "_News | None"


def _marks(record: DeviceRecord) -> Iterator[str]:
    """What is counted of a record beside how it ended.

    waiting: not exposed, and will be when its wave opens; of those the `due` are awaited then, and the
    `moving` have moved. passive: could not take the goal. left: proved healthy, and runs something else now.
    rests: ended for now, and asked again when its wave opens.
    """
    if record.success:
        yield "success"
        if not record.on_goal:
            yield "left"
    if record.terminal is Terminal.SKIPPED and not record.gone:
        yield "passive"
    if record.terminal in RESTS and not record.gone:
        yield f"rests {record.terminal}"
    if record.since is None and not record.gone:
        yield "waiting"
        exposed = replace(record, since=0.0)
        if exposed.awaited:
            yield "due"
        if exposed.moved:
            yield "moving"


class _Items(ItemsView[str, DeviceRecord]):
    """(device, record) of a table, without a call of `Mapping` for each."""

    _mapping: "DeviceTable"

    def __iter__(self) -> Iterator[tuple[str, DeviceRecord]]:
        return self._mapping.pairs()


class _Values(ValuesView[DeviceRecord]):
    """The records of a table, likewise."""

    _mapping: "DeviceTable"

    def __iter__(self) -> Iterator[DeviceRecord]:
        return (record for _, record in self._mapping.pairs())


class DeviceTable(Mapping[str, DeviceRecord]):
    """Records by device id, never changed in place, with their sums.

    A table and the one made of it share what they have in common (a hash array mapped trie), so that a
    report costs the same in a rollout over ten devices and over a million. The gate asks for sums at every
    report: they are kept with the records, by the methods that make a new table. `opened`: wave -> when
    it was exposed as a whole, `STAGING_WAVE` for staging, which exposes those of every wave. `news`: devices
    whose records changed since the table was last `kept`, for whoever stores them; what follows from `opened`
    is no news.
    """

    __slots__ = ("_awaited", "_counts", "_exposed", "_moved", "_news", "_records", "_waves", "opened")

    def __init__(
        self, records: Mapping[str, DeviceRecord], opened: Mapping[int, float] | None = None
    ) -> None:
        self.opened: Mapping[int, float] = dict(opened or {})
        self._records: Map[str, DeviceRecord] = Map()
        #: By identity, so that the records that devices share are worked out once.
        self._exposed: dict[int, tuple[DeviceRecord, DeviceRecord]] = {}
        self._news: _News | None = None
        self._counts: Counter[Terminal] = Counter()
        self._awaited: Counter[float] = Counter()
        self._waves: Map[tuple[int, str], int] = Map()
        self._moved = 0
        # Most devices of a fleet have equal records at first: they share one.
        one: dict[DeviceRecord, DeviceRecord] = {}
        self._take({device: one.setdefault(record, record) for device, record in records.items()})

    def __getitem__(self, device: str) -> DeviceRecord:
        return self._seen(self._records[device])

    def __contains__(self, device: object) -> bool:
        return device in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def items(self) -> ItemsView[str, DeviceRecord]:
        """(device, record)."""
        return _Items(self)

    def values(self) -> ValuesView[DeviceRecord]:
        """The records."""
        return _Values(self)

    def pairs(self) -> Iterator[tuple[str, DeviceRecord]]:
        """(device, record), one after the other."""
        if not self.opened:
            return iter(self._records.items())
        seen = self._seen
        return ((device, seen(record)) for device, record in self._records.items())

    def __repr__(self) -> str:
        return f"DeviceTable({dict(self.items())!r})"

    def _known(self, device: str) -> DeviceRecord | None:
        record = self._records.get(device)
        return None if record is None else self._seen(record)

    def _seen(self, record: DeviceRecord) -> DeviceRecord:
        """The record as it is: exposed, if its wave is; asked again, if it rested until its wave."""
        if record.gone or not record.wave or (record.since is not None and record.terminal not in RESTS):
            return record
        found = self._exposed.get(id(record))
        if found is None:
            found = self._exposed[id(record)] = (record, self._opened(record))
        return found[1]

    def _opened(self, record: DeviceRecord) -> DeviceRecord:
        """What the waves that are open make of a record."""
        at = self.opened.get(record.wave)
        if record.since is None:
            since = self.opened.get(STAGING_WAVE, at)
            return record if since is None else replace(record, since=since)
        # Who was asked before the wave opened rested; who is silent since has been asked already.
        if at is None or (record.terminal is Terminal.SILENT and record.since >= at):
            return record
        return replace(record.anew(), since=at)

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
        known = self._known
        changes = {d: new for d, new in changes.items() if (old := known(d)) is not new and old != new}
        if not changes:
            return self
        table = self._copy()
        table._take(changes)
        return table

    def open(self, wave: int, now: float) -> "tuple[DeviceTable, int]":
        """With every device up to this wave asked, that was not; and how many those are.

        `STAGING_WAVE`: those of every wave may stage; later each is asked again when its own wave opens.
        """
        if wave == STAGING_WAVE:
            newly, asked = [STAGING_WAVE], sorted({number for number, _ in self._waves if number > 0})
        else:
            newly = asked = [number for number in range(1, wave + 1) if number not in self.opened]
            if self.sum(f"rests {Terminal.SILENT}", newly):
                # Who became silent at this very moment did so before: of equal moments nobody could tell.
                now = math.nextafter(now, math.inf)
        table, count = self._copy(), 0
        table.opened = {**self.opened, **dict.fromkeys(newly, now)}
        table._exposed = {}  # this table may be opened again at another time, if nothing comes of it now
        for number in asked:
            count += table._expose(number, now) + table._ask_again(number, now)
        return table, count

    def _expose(self, number: int, now: float) -> int:
        """Nobody of the wave waits to be exposed any more; returns how many did."""
        count = self.sum("waiting", (number,))
        self._moved += self.sum("moving", (number,))
        self._await(now, self.sum("due", (number,)))
        for mark in ("waiting", "moving", "due"):
            self._waves = self._waves.set((number, mark), 0)
        return count

    def _ask_again(self, number: int, now: float) -> int:
        """Nobody of the wave rests any more; returns how many did. While all stage, nobody rests yet."""
        count = 0
        for terminal in RESTS:
            resting = self.sum(f"rests {terminal}", (number,))
            count += resting
            self._counts[terminal] -= resting
            for mark in (str(terminal), f"rests {terminal}"):
                self._add(number, mark, -resting)
        self._counts[Terminal.PENDING] += count
        self._add(number, str(Terminal.PENDING), count)
        self._await(now, count)
        return count

    def _add(self, wave: int, mark: str, step: int) -> None:
        self._waves = self._waves.set((wave, mark), self._waves.get((wave, mark), 0) + step)

    def _await(self, since: float, count: int) -> None:
        if count:
            self._awaited[since] += count

    def _copy(self) -> "DeviceTable":
        table = DeviceTable({})
        table.opened, table._exposed = self.opened, self._exposed
        table._records, table._news = self._records, self._news
        table._counts = self._counts.copy()
        table._awaited = self._awaited.copy()
        table._waves = self._waves
        table._moved = self._moved
        return table

    def _take(self, changes: Mapping[str, DeviceRecord]) -> None:
        steps: dict[int, int] = {}
        counted: dict[int, DeviceRecord] = {}
        for device, record in changes.items():
            for one, step in ((self._known(device), -1), (self._seen(record), 1)):
                if one is not None:
                    steps[id(one)] = steps.get(id(one), 0) + step
                    counted[id(one)] = one
        for key, step in steps.items():
            if step:
                self._count(counted[key], step)
        self._records = self._records.update(changes)
        if changes:
            self._news = _News(changes.keys(), self._news)

    def _count(self, record: DeviceRecord, step: int) -> None:
        self._counts[record.terminal] += step
        self._moved += step * record.moved
        for mark in ("all", str(record.terminal), *_marks(record)):
            self._add(record.wave, mark, step)
        if record.awaited and record.since is not None:
            self._awaited[record.since] += step
            if not self._awaited[record.since]:
                del self._awaited[record.since]

    def sum(self, mark: str, waves: Iterable[int]) -> int:
        """Devices of these waves: `all`, those that ended as a `Terminal`, or those that `_marks` names."""
        return sum(self._waves.get((wave, mark), 0) for wave in waves)

    @property
    def counts(self) -> dict[str, int]:
        """How many devices ended how, or have not; terminals that nobody has are left out."""
        return {str(terminal): self._counts[terminal] for terminal in Terminal if self._counts[terminal]}

    @property
    def left(self) -> int:
        """Devices that proved healthy and run something else by now."""
        return sum(count for (_, mark), count in self._waves.items() if mark == "left")

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

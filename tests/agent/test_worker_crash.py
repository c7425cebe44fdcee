"""The worker killed before every single effect of a course, and what the device does by itself afterwards.

The points are found by counting, not listed: whatever effect is added to a course is killed at, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Crash, Rig, copy_of, durable_calls, hurry, make_rig
from tests.support.fleet import everybody

from fleetfoot_agent import durable
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.worker.lifecycle import IN_FLIGHT
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle, Outcome


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@dataclass(frozen=True)
class Course:
    """Something a device goes through, and how it must end: what runs, the way back, how it is told."""

    prepare: Callable[[Path, Stock], Rig]
    runs: str | None
    prev: str | None
    outcome: Outcome
    refused: bool = False
    #: Kill before what is written for the world, too; for the others, before what changes the component.
    everywhere: bool = False


def at_rest(folder: Path, stock: Stock) -> Rig:
    rig = make_rig(folder, stock)
    rig.install_first(stock["1.0.0"])
    rig.offer(stock["1.1.0"])
    return rig


def ordered(word: str) -> Callable[[Path, Stock], Rig]:
    def prepare(folder: Path, stock: Stock) -> Rig:
        rig = at_rest(folder, stock)
        rig.behaviour["1.1.0"] = word
        rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
        return rig

    return prepare


def withdrawn(folder: Path, stock: Stock) -> Rig:
    rig = ordered("good")(folder, stock)
    rig.run()
    assert rig.runs(stock["1.1.0"])
    rig.send(stock.order(3, withdrawn=(stock["1.1.0"].digest,)))
    return rig


def first(word: str) -> Callable[[Path, Stock], Rig]:
    def prepare(folder: Path, stock: Stock) -> Rig:
        rig = make_rig(folder, stock)
        rig.behaviour["1.1.0"] = word
        rig.offer(stock["1.1.0"])
        rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
        return rig

    return prepare


COURSES = {
    "install": Course(ordered("good"), "1.1.0", "1.0.0", Outcome.COMPLETED, everywhere=True),
    "the new one is not well": Course(
        ordered("unready"), "1.0.0", None, Outcome.ROLLED_BACK, refused=True, everywhere=True
    ),
    "the new one dies": Course(ordered("dies"), "1.0.0", None, Outcome.ROLLED_BACK, refused=True),
    "return": Course(withdrawn, "1.0.0", None, Outcome.COMPLETED),
    "first install": Course(first("good"), "1.1.0", None, Outcome.COMPLETED),
    "first install dies": Course(first("dies"), None, None, Outcome.ROLLED_BACK, refused=True),
}


class Killer:
    """Counts the worker's effects and kills before the one numbered `at`, leaving a temporary file behind."""

    def __init__(self, rig: Rig, course: Course, at: int | None) -> None:
        self.count = 0
        self._course = course
        self._rig = rig
        self._at = at

    def effect(self, name: str, args: tuple[Any, ...]) -> None:
        place = args[0]
        if isinstance(place, Path) and not place.is_relative_to(self._rig.layout.folder):
            if place.is_relative_to(self._rig.config.spool / "in"):
                return  # the carrier's
            if not self._course.everywhere:
                return
        self.count += 1
        if self.count == self._at:
            if isinstance(place, Path) and name != "remove_file":
                (place.parent / f"{durable.TEMP_PREFIX}{'0' * 16}").write_bytes(b"torn")
            raise Crash(f"{name} {place}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, replacement in durable_calls(self.effect):
                patch.setattr(durable, name, replacement)
            for machine in self._rig.machines.values():
                patch.setattr(machine, "before_restart", lambda: self.effect("restart", ("",)))
            yield


def check_disk(rig: Rig, course: Course, stock: Stock) -> Lifecycle:
    """What must hold between any two effects. Returns the journaled state."""
    record = rig.record() if rig.layout.journal.exists() else None
    state = record.state if record else Lifecycle.IDLE
    current = rig.layout.read_current()
    known = {version: version_name(version, stock[version].digest) for version in ("1.0.0", "1.1.0")}
    assert current in {None, *(f"versions/{name}" for name in known.values())}
    if current is not None:
        assert rig.problem_of(current) == ""
    if record is None or record.run is None or record.work is None:
        return state
    # While work is under way, what ran before can be gone back to; and on trial the guard could do it.
    before = f"versions/{version_name(record.run.version, record.run.digest)}"
    assert rig.problem_of(before) == ""
    if current != before:
        trial = rig.layout.read_trial()
        proven = state is Lifecycle.PROBATION and course.outcome is Outcome.COMPLETED
        ended = state is Lifecycle.ROLLING_BACK
        assert proven or ended or (trial is not None and (trial.old, trial.new) == (before, current))
    return state


def on_disk(rig: Rig) -> tuple[str | None, bytes, bytes]:
    """What a boot finds of the component: where current leads, the trial, the journal."""
    trial = rig.layout.trial
    line = trial.read_bytes() if trial.exists() else b""
    return rig.layout.read_current(), line, rig.layout.journal.read_bytes()


def check_end(rig: Rig, course: Course, stock: Stock) -> None:
    record = rig.record()
    assert record.state is Lifecycle.IDLE
    assert record.work is None
    assert rig.layout.read_trial() is None
    assert (record.run.version if record.run else None) == course.runs
    assert (record.prev.version if record.prev else None) == course.prev
    if course.runs is None:
        assert rig.layout.read_current() is None
        assert rig.machine.state().target is None
    else:
        assert rig.runs(stock[course.runs])
    assert record.refused == ({stock["1.1.0"].digest: 1} if course.refused else {})
    assert record.outcomes[-1].outcome is course.outcome
    assert rig.resolved().act is (Act.REJECT if course.refused else Act.STAY)
    assert rig.status().alarms == ()
    assert rig.component().outcomes == record.outcomes
    assert rig.component().state is Lifecycle.IDLE
    assert list(rig.layout.staging.iterdir()) == []
    left = [p for p in rig.folder.rglob(f"{durable.TEMP_PREFIX}*") if p.parent != rig.config.spool / "in"]
    assert left == []


@pytest.mark.parametrize("name", COURSES)
def test_killed_before_any_effect_the_device_ends_where_it_would_have(
    name: str, stock: Stock, tmp_path: Path
) -> None:
    course = COURSES[name]
    template = course.prepare(tmp_path / "template", stock)
    whole = Killer(rig := copy_of(template, tmp_path / "whole"), course, None)
    with whole.watching():
        rig.run()
    check_end(rig, course, stock)
    restarts, outcomes = rig.machine.restarts, len(rig.record().outcomes)
    assert whole.count > (50 if course.everywhere else 8)

    states, cut = set(), set()
    for at in range(1, whole.count + 1):
        rig = copy_of(template, tmp_path / f"at-{at}")
        with Killer(rig, course, at).watching(), pytest.raises(Crash):
            rig.run()
        state = check_disk(rig, course, stock)
        states.add(state)
        afterwards = [rig]
        if state in IN_FLIGHT and (left := on_disk(rig)) not in cut:
            # The power was cut: everything starts anew, the guard first, which knows nothing of the spool.
            cut.add(left)
            afterwards.append(copy_of(rig, tmp_path / f"boot-{at}"))
            afterwards[1].machine.restarts = rig.machine.restarts
        for rig in afterwards:
            rig.run()
            check_end(rig, course, stock)
            assert rig.machine.restarts <= restarts + 1, at
            assert len(rig.record().outcomes) == outcomes, at
    missed = set(Lifecycle) - states
    if name == "return":
        missed -= {Lifecycle.DOWNLOADING, Lifecycle.VERIFYING, Lifecycle.STAGING}  # the tree is still here
    if course.outcome is Outcome.COMPLETED:
        missed -= {Lifecycle.ROLLING_BACK}
    assert missed == set()

"""What a device goes through while its worker is killed or its disk fails, and what must be true afterwards.

A `Course` prepares a device up to the moment at which one run of the worker carries everything out; `judge`
looks at the disk before anything has repaired it; `converge` lets the device go on by itself.
"""

import mmap
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tests.agent.stock import Stock
from tests.agent.workerrig import Machine, Rig, copy_of, make_rig
from tests.support.fleet import everybody

from fleetfoot_agent import durable
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.seam import UnitState
from fleetfoot_protocol.states import Lifecycle

OLD, NEW = "1.0.0", "1.1.0"
#: Seconds by which the clock is put forward, so that what failed for want of a disk is tried again.
LATER = 7200


@dataclass(frozen=True)
class Course:
    """name: for people; prepare: makes the device; ends: the versions that may run when all is over."""

    name: str
    prepare: Callable[[Path, Stock], Rig]
    ends: tuple[str, ...]


def _ordered(folder: Path, stock: Stock) -> Rig:
    rig = make_rig(folder, stock)
    rig.install_first(stock[OLD])
    rig.offer(stock[NEW])
    rig.send(stock.order(2, everybody("r-1", stock[NEW].goal())))
    return rig


def _fetched(folder: Path, stock: Stock) -> Rig:
    rig = _ordered(folder, stock)
    rig.run_until_fetched(stock[NEW])
    return rig


def _dying(folder: Path, stock: Stock) -> Rig:
    rig = _fetched(folder, stock)
    rig.behaviour[NEW] = "dies"
    return rig


def _withdrawn(folder: Path, stock: Stock) -> Rig:
    rig = _ordered(folder, stock)
    rig.run()
    assert rig.runs(stock[NEW])
    rig.send(stock.order(3, withdrawn=(stock[NEW].digest,)))
    return rig


COURSES: tuple[Course, ...] = (
    Course("order", _ordered, (NEW,)),
    Course("install", _fetched, (NEW,)),
    Course("rollback", _dying, (OLD,)),
    Course("return", _withdrawn, (OLD,)),
)


class Broken(AssertionError):
    """The disk is not as it must be."""


def _demand(fact: object, what: str) -> None:
    if not fact:
        raise Broken(what)


def judge(rig: Rig) -> Lifecycle:
    """What must hold at any moment: a whole verified tree runs, the journal reads, there is a way back."""
    record = rig.record()
    current = rig.layout.read_current()
    _demand(current is not None, "there is no current")
    assert current is not None
    _demand(not (problem := rig.problem_of(current)), f"{current}: {problem}")
    for name in rig.layout.installed():
        _demand(not (problem := rig.problem_of(f"versions/{name}")), f"{name}: {problem}")
    if record.run is None or record.work is None:
        return record.state
    before = f"versions/{version_name(record.run.version, record.run.digest)}"
    _demand(not (problem := rig.problem_of(before)), f"the way back {before}: {problem}")
    if current != before and record.state is not Lifecycle.ROLLING_BACK:
        trial = rig.layout.read_trial()
        # The trial goes right before the commit is journaled: what is proven needs no guard any more.
        proven = record.state is Lifecycle.PROBATION and trial is None
        guarded = trial is not None and (trial.old, trial.new) == (before, current)
        _demand(proven or guarded, "on trial without a guard")
    return record.state


def converge(rig: Rig, course: Course) -> None:
    """The device goes on by itself; then it must be at rest where the course may end, and all tidy."""
    if rig.machine.state().target is None:
        rig.machine.boot()  # the fault hit whoever starts the component, which tries again
    now = time.time
    with mock.patch("time.time", side_effect=lambda: now() + LATER):
        rig.run()
    judge(rig)
    record = rig.record()
    _demand(record.state is Lifecycle.IDLE and record.work is None, f"still {record.state}")
    trial = rig.layout.read_trial()
    # One that a failing disk did not let go means nothing any more: `current` does not lead to what it tries.
    _demand(trial is None or trial.old == rig.layout.read_current(), "a trial is left that counts")
    runs = record.run.version if record.run else None
    # A disk that failed on the way may have cost the attempt: then what ran before runs, and it was told.
    failed = any(outcome.code for outcome in record.outcomes)
    _demand(runs in course.ends or (failed and runs in (OLD, NEW)), f"runs {runs}")
    _demand(rig.runs(rig.stock[str(runs)]), "what is committed is not what runs")
    _demand(not os.listdir(rig.layout.staging), "staging is not empty")
    spooled = rig.config.spool / "in"
    left = [p for p in rig.folder.rglob(f"{durable.TEMP_PREFIX}*") if not p.is_relative_to(spooled)]
    _demand(not left, f"left over: {left}")


def obeys(rig: Rig, sequence: int) -> None:
    """The next order is carried out, whatever was before."""
    goal = rig.stock["1.2.0"].goal(attempt=1)
    rig.behaviour.pop(NEW, None)
    rig.offer(rig.stock["1.2.0"])
    rig.send(rig.stock.order(sequence, everybody("r-9", goal)))
    rig.run()
    _demand(rig.runs(rig.stock["1.2.0"]), "the next order is not obeyed")


class Shared(Machine):
    """What runs, kept in memory that a forked child shares: a killed worker does not end the component."""

    def share(self) -> None:
        """From here on every child changes the same machine."""
        self._shared = mmap.mmap(-1, 4096)
        self._keep()

    def boot(self) -> None:
        super().boot()
        if hasattr(self, "_shared"):
            self._keep()

    def state(self) -> UnitState:
        self.follow()
        return super().state()

    def follow(self) -> None:
        """Take over what a child has started."""
        self._target, self._pid, self._up = pickle.loads(self._shared[:])  # noqa: S301 # our own

    def _keep(self) -> None:
        data = pickle.dumps((self._target, self._pid, self._up))
        self._shared[: len(data)] = data


def fresh(template: Rig, folder: Path) -> Rig:
    """A copy of the prepared device, whose component a child can restart for us."""
    rig = copy_of(template, folder)
    machine = Shared(rig.layout, rig.behaviour)
    machine.boot()
    machine.share()
    rig.machines["kiosk"] = machine
    return rig

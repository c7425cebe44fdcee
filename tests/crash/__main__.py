"""``python -m tests.crash [--sample N] [--times N] [--seed N]``: faults at every step; one line of JSON.

Without --sample every fault of every course is tried, which takes a while. A case that fails is told with
its course and fault, and kept below the folder named.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from random import Random

from tests.agent.stock import Stock
from tests.agent.workerrig import Rig
from tests.crash import guards
from tests.crash.courses import COURSES, Broken, Course, converge, fresh, judge, obeys
from tests.crash.injecting import Fault, faults, kill_when, trace_option, traced

from fleetfoot_agent.worker import run as worker_run
from fleetfoot_agent.worker.journal import read_record
from fleetfoot_protocol.states import Lifecycle

#: How an exception may leave the worker when the disk fails: told by the command, started again by its unit.
_CLEAN = ("OSError", "FleetfootError")


class Campaign:
    """All cases of one run, in a folder of its own."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self.folder = folder
        self.failures: list[str] = []
        self.tried: Counter[str] = Counter()
        self.killed_in: Counter[str] = Counter()
        self._rng = rng
        (folder / "house").mkdir()
        self.stock = Stock(folder / "house")
        self.templates = {course.name: course.prepare(folder / course.name, self.stock) for course in COURSES}

    def points(self, course: Course) -> list[Fault]:
        """Every fault that this course has room for, found by tracing one undisturbed run of it."""
        rig = self._copy(course)
        status, trace = traced(rig.worker().run, trace_option(), rig.folder.parent)
        assert status == 0, (course.name, (rig.folder.parent / "child.log").read_text())
        return faults(trace)

    def _copy(self, course: Course) -> Rig:
        place = Path(tempfile.mkdtemp(dir=self.folder))
        return fresh(self.templates[course.name], place / "device")

    def inject(self, course: Course, fault: Fault) -> None:
        """One case: the fault, a look at the disk, then the device goes on."""
        rig = self._copy(course)
        place = rig.folder.parent
        status, _ = traced(rig.worker().run, ["-e", f"trace={fault.call}", "-e", fault.option()], place)
        log = (place / "child.log").read_text()
        try:
            if fault.what == "KILL" and status not in (-9, 0):
                raise Broken(f"ended with {status}: {log}")
            if status == 3 and not any(f".{kind}'" in log or f"'{kind}'" in log for kind in _CLEAN):
                raise Broken(f"left by another exception: {log}")
            self._aftermath(course, rig)
        except Exception as error:
            self.failures.append(f"{course.name}: {fault}: {type(error).__name__}: {error} (in {place})")
        else:
            shutil.rmtree(place)
        self.tried[fault.what] += 1

    def _aftermath(self, course: Course, rig: Rig) -> None:
        state = judge(rig)
        self.killed_in[str(state)] += 1
        # The worker starts anew beside a living component, or after a reboot, the guard first.
        if self._rng.random() < 0.5:
            rig.machine.boot()
        converge(rig, course)
        obeys(rig, 50)

    def kill_in(self, course: Course, state: Lifecycle, delay: float) -> None:
        """One case: SIGKILL so many seconds after the journal says that state."""
        rig = self._copy(course)
        place = rig.folder.parent

        def seen() -> bool:
            try:
                return read_record(rig.layout.journal.read_bytes()).state is state
            except (OSError, ValueError):
                return False

        if kill_when(rig.worker().run, seen, delay, place / "child.log") is not None:
            self.tried["SIGKILL"] += 1
        try:
            self._aftermath(course, rig)
        except Exception as error:
            self.failures.append(f"{course.name}: {state} +{delay:.4f}: {error} (in {place})")
        else:
            shutil.rmtree(place)


#: The states that each course journals within its one run.
STATES: dict[str, tuple[Lifecycle, ...]] = {
    "order": (Lifecycle.WAITING,),
    "install": (
        Lifecycle.DOWNLOADING,
        Lifecycle.VERIFYING,
        Lifecycle.STAGING,
        Lifecycle.STAGED,
        Lifecycle.ACTIVATING,
        Lifecycle.PROBATION,
    ),
    "rollback": (Lifecycle.ACTIVATING, Lifecycle.PROBATION, Lifecycle.ROLLING_BACK),
    "return": (Lifecycle.STAGED, Lifecycle.ACTIVATING, Lifecycle.PROBATION),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--sample", type=int, metavar="N", help="so many faults of each course and kind")
    parser.add_argument("--times", type=int, default=20, metavar="N", help="kills after each journaled step")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    worker_run.LOOK_SECONDS = 0.0
    began, rng = time.monotonic(), Random(args.seed)  # noqa: S311 # reproducible, not secret
    folder = Path(tempfile.mkdtemp(prefix="fleetfoot-crash-"))
    try:
        told, failed = _run(folder, args, rng)
    except BaseException:
        shutil.rmtree(folder)  # broken off, or broken: nothing that could be looked at
        raise
    print(json.dumps({**told, "seconds": round(time.monotonic() - began, 1)}))
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


def _run(folder: Path, args: argparse.Namespace, rng: Random) -> tuple[dict[str, object], bool]:
    """The whole campaign in `folder`: what it tells, and whether anything failed."""
    possible = 0
    with redirect_stdout(sys.stderr):
        campaign = Campaign(folder, rng)
        for course in COURSES:
            points = campaign.points(course)
            possible += len(points)
            for what in ("KILL", "EIO", "ENOSPC"):
                chosen = [fault for fault in points if fault.what == what]
                if args.sample is not None:
                    chosen = rng.sample(chosen, min(args.sample, len(chosen)))
                for fault in chosen:
                    campaign.inject(course, fault)
            for state in STATES[course.name]:
                for _ in range(args.times):
                    campaign.kill_in(course, state, rng.random() * 0.005)
        guard = guards.run(folder, campaign.stock, rng, args.sample)
    campaign.failures += guard.failures
    for failure in campaign.failures:
        print(failure, file=sys.stderr)
    told = {
        "points": possible + guard.points,
        "tried": dict(campaign.tried),
        "guard_tried": guard.tried,
        "found_in": dict(campaign.killed_in),
        "failures": len(campaign.failures),
    }
    return told, bool(campaign.failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Faults in the guard: at every system call of a run that counts a start, and of one that goes back."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.agent.stock import Stock
from tests.crash.injecting import Fault, faults, trace_option

from fleetfoot_agent.layout import Trial
from fleetfoot_agent.seam import guard_path

OLD, NEW = "versions/1.0.0-00000000", "versions/1.1.0-11111111"


@dataclass
class Tried:
    """What came of it."""

    points: int = 0
    tried: int = 0
    failures: list[str] = field(default_factory=list)


def _component(folder: Path, attempts: int) -> Path:
    for target in (OLD, NEW):
        (folder / target).mkdir(parents=True)
    (folder / "current").symlink_to(NEW)
    (folder / "trial").write_bytes(Trial(attempts, 3, OLD, NEW).line())
    return folder


def _run(folder: Path, options: list[str]) -> str:
    out = folder.parent / "trace"
    command = ["strace", "-f", "-qq", "-o", str(out), *options, "/bin/sh", str(guard_path()), str(folder)]
    subprocess.run(command, capture_output=True, check=False, timeout=60)
    return out.read_text()


def _sound(folder: Path, attempts: int) -> str:
    """What is wrong with the component; empty if old and trial, or what they should become, stand there."""
    current = os.readlink(folder / "current") if (folder / "current").is_symlink() else None
    line = (folder / "trial").read_bytes() if (folder / "trial").is_file() else b""
    trial = Trial.parse(line)
    if trial is None or (trial.old, trial.new, trial.max_attempts) != (OLD, NEW, 3):
        return f"the trial became {line!r}"
    if trial.attempts not in (attempts, min(attempts + 1, 3)):
        return f"{trial.attempts} starts are counted, there were {attempts}"
    if current not in ((NEW, OLD) if attempts == 3 else (NEW,)):
        return f"current leads to {current}"
    if not (folder / OLD).is_dir() or not (folder / NEW).is_dir():
        return "a tree is gone"
    return ""


def _one(place: Path, attempts: int, fault: Fault) -> str:
    folder = _component(place / "kiosk", attempts)
    _run(folder, ["-e", f"trace={fault.call}", "-e", fault.option()])
    if problem := _sound(folder, attempts):
        return problem
    # Undisturbed starts then end where they must: at most three are counted, then it goes back.
    for _ in range(4):
        _run_plain(folder)
    if os.readlink(folder / "current") != OLD:
        return "it never goes back"
    return ""


def _run_plain(folder: Path) -> None:
    subprocess.run(["/bin/sh", str(guard_path()), str(folder)], capture_output=True, check=True, timeout=60)


def run(folder: Path, stock: Stock, rng: Random, sample: int | None) -> Tried:
    """KILL, EIO and ENOSPC at every call of every process of the guard, or at a sample of them."""
    told = Tried()
    for attempts in (0, 3):
        place = Path(tempfile.mkdtemp(dir=folder))
        trace = _run(_component(place / "kiosk", attempts), trace_option())
        points = faults(trace)
        told.points += len(points)
        for fault in points if sample is None else rng.sample(points, min(2 * sample, len(points))):
            place = Path(tempfile.mkdtemp(dir=folder))
            told.tried += 1
            if problem := _one(place, attempts, fault):
                told.failures.append(f"guard after {attempts} starts: {fault}: {problem} (in {place})")
            else:
                shutil.rmtree(place)
    return told

"""Kills and failing disks at a sample of all steps; `make crash` tries every one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.attack.rows import row

ROOM = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a sampled campaign found."""
    command = [sys.executable, "-m", "tests.crash", "--sample", "4", "--times", "2"]
    done = subprocess.run(command, cwd=ROOM, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@row(
    49,
    "SIGKILL of the worker after each journaled step, and of worker and guard at system calls that write",
    "a whole verified version runs at every moment, with a way back; the upgrade ends; the next is obeyed",
)
@pytest.mark.needs("strace")
@pytest.mark.timeout(600)
def test_row_49_a_killed_worker_or_guard_leaves_the_old_or_the_new(told: dict[str, Any]) -> None:
    assert told["failures"] == 0
    assert told["points"] > 2000
    assert told["tried"]["KILL"] == 16
    assert told["tried"]["SIGKILL"] >= 13
    assert {"waiting", "staging", "activating", "idle"} <= told["found_in"].keys()
    assert told["guard_tried"] == 16


@row(
    52,
    "ENOSPC from system calls that write, in an order, an install, a rollback, a return and the guard",
    "the old version runs on or comes back, it is told, and once there is room the upgrade ends",
)
@pytest.mark.needs("strace")
@pytest.mark.timeout(600)
def test_row_52_a_full_disk_at_any_step_leaves_what_runs(told: dict[str, Any]) -> None:
    assert (told["failures"], told["tried"]["ENOSPC"]) == (0, 16)


@row(
    54,
    "EIO from system calls that read, write and sync, in an order, an install, a rollback and a return",
    "nothing unverified is ever staged or run; the work ends with its code, or ends later",
)
@pytest.mark.needs("strace")
@pytest.mark.timeout(600)
def test_row_54_a_failing_disk_at_any_step_leaves_what_runs(told: dict[str, Any]) -> None:
    assert (told["failures"], told["tried"]["EIO"]) == (0, 16)

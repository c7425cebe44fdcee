"""What killed runs left is removed, and nothing else."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest
from tests.lab.host import cgroup2
from tests.lab.leftovers import PREFIX, claim, remove_leftovers


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def left_by(memory: Path, run: object) -> Path:
    folder = memory / f"{PREFIX}{run}"
    (folder / "ff1").mkdir(parents=True)
    (folder / "ff1" / "disk.img").write_bytes(b"x")
    return folder


def test_only_what_belongs_to_nobody_is_removed(tmp_path: Path) -> None:
    own, held_own = claim(tmp_path)
    gone, odd, alive = (left_by(tmp_path, run) for run in (dead(), "keep", os.getppid()))
    held = left_by(tmp_path, dead())
    fd = os.open(held, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    link = tmp_path / f"{PREFIX}{dead()}"
    link.symlink_to(odd)
    try:
        assert remove_leftovers(tmp_path, tmp_path / "none") == [gone.name]
        assert [folder.is_dir() for folder in (own, odd, alive, held)] == [True] * 4
        assert (odd / "ff1" / "disk.img").exists()
        assert link.is_symlink()
    finally:
        os.close(fd)
        os.close(held_own)


@pytest.mark.needs("lab")
def test_a_host_that_still_has_power_is_ended(tmp_path: Path) -> None:
    groups = cgroup2()
    assert groups is not None
    run = dead()
    folder, group = left_by(tmp_path, run), groups / f"lab-ff{run}-1"
    (group / "inner").mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as process:
        (group / "inner" / "cgroup.procs").write_text(str(process.pid))
        assert remove_leftovers(tmp_path, groups) == [folder.name]
        assert process.wait(10) < 0
    assert not group.exists()

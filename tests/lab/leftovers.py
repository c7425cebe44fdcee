"""What a run that was killed has left in memory: its folder, and hosts that still have power.

A run is over if its process, which the folder names, is gone and nobody holds the folder's lock, which the
kernel lets go with its holder. Two signs, since a number is given away anew, or is another one in another
namespace. In doubt something stays.
"""

import fcntl
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from tests.lab.host import removed
from tests.support.waiting import until

PREFIX = "fleetfoot-lab-"


def claim(memory: Path) -> tuple[Path, int]:
    """(the folder of this process's run, made and locked, the descriptor that holds the lock)."""
    folder = memory / f"{PREFIX}{os.getpid()}"
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return folder, fd


def remove_leftovers(memory: Path, groups: Path) -> list[str]:
    """End and remove what dead runs left in `memory` and below the cgroup `groups`; the folders' names."""
    removed = []
    for folder in sorted(memory.glob(f"{PREFIX}*")):
        run = folder.name.removeprefix(PREFIX)
        if not run.isdecimal() or Path(f"/proc/{run}").exists():
            continue
        with suppress(OSError):  # it is held, or another run has just removed it
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for group in groups.glob(f"lab-ff{run}-*"):
                    _end(group)
                shutil.rmtree(folder)
                removed.append(folder.name)
            finally:
                os.close(fd)
    return removed


def _end(group: Path) -> None:
    """Stop every process of a host, and remove its cgroups."""
    folders = [Path(folder) for folder, _, _ in os.walk(group, topdown=False)]
    for folder in folders:
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for folder in folders:
        until(lambda folder=folder: removed(folder), f"{folder} is empty")  # type: ignore[misc]

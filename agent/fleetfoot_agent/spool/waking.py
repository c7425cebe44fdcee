"""The wake: one file, wake/now, made by whoever wants the worker to run (contract section 6, rule 12)."""

import os
from contextlib import suppress
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_agent.spool import folders

NAME = "now"
_TAKEN = ".taken-"


def wake(wake_dir: Path) -> None:
    """Ask for a run of the worker. Doing it twice asks once. OSError if the folder cannot be written.

    Not synced: after a reboot the worker runs anyway.
    """
    try:
        _create(wake_dir)
    except FileNotFoundError:
        durable.make_folder(wake_dir)
        _create(wake_dir)


def _create(wake_dir: Path) -> None:
    # Exclusive, because the file of another user could not be opened for writing.
    with suppress(FileExistsError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(wake_dir / NAME, flags, 0o644))


def wake_pending(wake_dir: Path) -> bool:
    """Whether somebody asked and no run has answered yet."""
    return os.path.lexists(wake_dir / NAME)


def take_wake(wake_dir: Path) -> bool:
    """For the worker, before it reads anything: take the wake away. Returns whether there was one.

    Renamed before it is removed, so that a wake that comes meanwhile makes a new file and is not lost.
    """
    taken = wake_dir / f"{_TAKEN}{os.urandom(8).hex()}"
    try:
        os.rename(wake_dir / NAME, taken)
    except FileNotFoundError:
        return False
    with suppress(OSError):  # everybody may write here: it is whatever somebody made
        folders.remove_all(taken)
    return True

"""The lock of a state folder: one manager works in it, and it is free again however that one ended."""

import fcntl
import os
from pathlib import Path

from fleetfoot_manager.database import unusable
from fleetfoot_protocol.errors import FleetfootError

LOCK_NAME = "lock"


class FolderLock:
    """The lock of a state folder: held while the process lives, whatever becomes of it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock, or raise FleetfootError `conflict` naming the process that has it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(f"cannot open {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise FleetfootError(
                "conflict",
                f"another manager (process {holder or 'unknown'}) works in {self._path.parent}",
                remedy="stop that manager first: one store has one writer",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up; nothing happens if it is not held."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def holder_of(folder: Path) -> int | None:
    """The process that holds the lock of a state folder, or None."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(descriptor, 32).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(descriptor)
    return None

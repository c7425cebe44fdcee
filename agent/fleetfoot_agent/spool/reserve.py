"""A little room in the spool that is kept, so that it can be said when there is no other.

A disk or quota that is full of bytes or of files lets nobody write that it is. Each half keeps a few small
files in its folder, and removes them when it must say so. They are worth nothing: neither synced nor read.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

#: Files, because their number can be what is used up, and bytes of each: for a status, its signature, a list.
_FILES, _BYTES = 6, 16 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _paths(folder: Path) -> list[Path]:
    return [folder / f".reserve-{number}" for number in range(_FILES)]


def keep(folder: Path) -> None:
    """Make what is missing, as far as there is room."""
    with suppress(OSError):
        for path in _paths(folder):
            if not os.path.lexists(path):
                # Not zeroes: a file system that compresses would keep no room with them.
                path.write_bytes(os.urandom(_BYTES))


def give(folder: Path, error: OSError) -> bool:
    """Remove it, if `error` says that there is no room. Whether there was anything to remove."""
    if error.errno not in _FULL:
        return False
    given = False
    for path in _paths(folder):
        with suppress(OSError):
            path.unlink()
            given = True
    if given:
        os.sync()  # a file system that copies on write (btrfs) counts as free only what it has committed
    return given

"""Walking the other side's folders: below the spool no link is followed (contract section 6, rule 3)."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from fleetfoot_agent import durable

#: Entries of a folder that are looked at: a tenth of a second's work.
MAX_SCAN = 1 << 18

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def opened(root: Path, *names: str) -> Iterator[int | None]:
    """The folder `names` below `root` as a file descriptor, or None if there is no such real folder."""
    fd: int | None = None
    try:
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for name in names:
                inner = os.open(name, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
        except OSError:
            if fd is not None:
                os.close(fd)
            fd = None
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def names_in(root: Path, *names: str, keep: Callable[[str], bool], limit: int) -> list[str]:
    """At most `limit` names that `keep` wants in a folder below `root`, sorted; none if it is no real folder.

    Only so many entries are looked at (`MAX_SCAN`): whoever makes more hides what is behind them.
    """
    with opened(root, *names) as fd:
        if fd is None:
            return []
        with os.scandir(fd) as entries:
            found = (entry.name for entry in islice(entries, MAX_SCAN))
            return sorted(islice(filter(keep, found), limit))


def read_in(root: Path, *names: str, cap: int) -> bytes | None:
    """The bytes of a file below `root` by rule 3, None if it is to be ignored."""
    with opened(root, *names[:-1]) as fd:
        return None if fd is None else durable.read_regular(fd, names[-1], cap)


def open_file(root: Path, *names: str) -> int | None:
    """A file below `root` as a descriptor to read from, by rule 3 but for the size; None if to be ignored."""
    with opened(root, *names[:-1]) as folder:
        if folder is None:
            return None
        try:
            fd = os.open(names[-1], _FILE, dir_fd=folder)
        except OSError:
            return None
    found = os.fstat(fd)
    if found.st_nlink == 1 and (found.st_mode & 0o170000) == 0o100000:
        return fd
    os.close(fd)
    return None


def mark(root: Path, *names: str) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or a folder's entries change: (inode, mtime in ns, size).

    One stat by path: a link planted on the way can fake a change, which only costs a reading.
    """
    try:
        found = os.lstat(root.joinpath(*names))
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def remove_all(path: Path) -> None:
    """Remove what is there, also a folder that somebody put in the place of a file.

    One that is too deep for us, or not ours to remove, stays.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if path.is_symlink() or not path.is_dir():
            raise
        import shutil  # with all its compressors; a courier that never meets a folder does not pay for it

        with suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)

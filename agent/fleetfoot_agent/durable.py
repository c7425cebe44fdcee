"""Changes of files that are on the disk when they return, and reading of files that somebody else writes.

Every change is atomic: a cut at any point leaves the old or the new, never a half, and at most a temporary
entry named ``.tmp-*``, which `clear_temporary` removes. Every failure is the `OSError` of the call that
failed; the temporary entry is gone then. Standard library only and small: the courier imports this.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: What names of unfinished entries begin with (contract section 6, rule 2).
TEMP_PREFIX = ".tmp-"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# Errors of opening that say nothing about the entry: they must not look like its absence.
_MACHINE_FAILS = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, _CREATE, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fchmod(fd, mode)  # not by the umask of whoever runs us
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_dir(folder: Path) -> None:
    """Bring the entries of `folder` to the disk: what was created, renamed or removed in it."""
    fd = os.open(folder, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what the block creates there takes the place of `path` durably."""
    temporary = path.parent / (TEMP_PREFIX + os.urandom(8).hex())
    try:
        yield temporary
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_dir(path.parent)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Create or replace the file at `path` with `data` and permission bits `mode`."""
    with _replacing(path) as temporary:
        _write_synced(temporary, data, mode)


def swap_symlink(path: Path, target: str) -> None:
    """Create the symbolic link `path` with the text `target`, or replace what is there but a folder."""
    with _replacing(path) as temporary:
        os.symlink(target, temporary)


def rename(source: Path, destination: Path) -> None:
    """Rename within one file system, replacing a file, a link or an empty folder at `destination`."""
    os.rename(source, destination)
    fsync_dir(destination.parent)
    if source.parent != destination.parent:
        fsync_dir(source.parent)


def remove_file(path: Path) -> bool:
    """Remove a file or link. Returns False if there was none; not being there is as durable then."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        removed = False
    else:
        removed = True
    # Also without removing anything: an unlink before a crash may not have reached the disk yet.
    fsync_dir(path.parent)
    return removed


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Create the folder `path` and what is missing above it. A folder that is there stays as it is."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    os.chmod(path, mode)  # the umask may have taken something away
    fsync_dir(path.parent)


def clear_temporary(folder: Path) -> int:
    """Remove the ``.tmp-*`` files and links that a cut left in `folder`; for its one writer only.

    Returns how many there were.
    """
    names = [name for name in os.listdir(folder) if name.startswith(TEMP_PREFIX)]
    left = [name for name in names if not stat.S_ISDIR(os.lstat(folder / name).st_mode)]
    for name in left:
        os.unlink(folder / name)
    if left:
        fsync_dir(folder)
    return len(left)


def read_regular(folder: Path | int, name: str, cap: int) -> bytes | None:
    """The bytes of the file `name` in `folder` (a path or an open folder), at most `cap` of them.

    None for everything that contract section 6, rule 3 ignores: what is not there, a link, a fifo, a
    folder, a file with a second name or with more than `cap` bytes, one that may not be read, and a `name`
    that is no name. An `OSError` remains where the disk or the machine fails (EIO, no file descriptors).
    """
    if not name or "/" in name or "\0" in name:
        return None
    fd = folder if isinstance(folder, int) else _open_or_none(folder, _DIRECTORY, None)
    if fd is None:
        return None
    try:
        return _read_at(fd, name, cap)
    finally:
        if not isinstance(folder, int):
            os.close(fd)


def _read_at(folder: int, name: str, cap: int) -> bytes | None:
    fd = _open_or_none(name, _READ, folder)
    if fd is None:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size > cap:
            return None
        data = bytearray()
        while len(data) <= cap:
            piece = os.read(fd, min(cap + 1 - len(data), 1 << 20))
            if not piece:
                return bytes(data)
            data += piece
        return None  # it grew while being read
    finally:
        os.close(fd)


def _open_or_none(path: Path | str, flags: int, folder: int | None) -> int | None:
    try:
        return os.open(path, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in _MACHINE_FAILS:
            raise
        return None

"""Writing, emptying and reading a tree through folder descriptors only.

No path is ever resolved by the kernel beyond one component, and no component may be a symbolic link, so
nothing outside the folder can be reached, whatever its members are called and whoever else is at work
in it. `OSError`s pass through; the caller gives them a code.
"""

import ctypes
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fleetfoot_protocol.tree import FOLDER_MODE, Member, TreeError, file_mode

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ: Final = 256 << 10


@contextmanager
def open_folder(folder: Path | int) -> Iterator[int]:
    """A descriptor of `folder`, which may be one already (it stays open), closed at the end."""
    descriptor = os.dup(folder) if isinstance(folder, int) else os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class TreeWriter:
    """Creates members below one folder. Paths must have passed `check_path`; parents must exist."""

    def __init__(self, root: int) -> None:
        self._root = root
        # The open folders from the root down to where the last member was written: archives are
        # sorted, so the next member's folder is nearly always among them. Bounded by the depth.
        self._open: list[tuple[str, int]] = []

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def folder(self, path: str) -> Member:
        parent, name = self._parent(path)
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
        self._open.append((name, descriptor))
        os.fchmod(descriptor, FOLDER_MODE)  # whatever the umask is
        return Member("d", path, FOLDER_MODE)

    def file(self, path: str, mode: int, pieces: Iterable[memoryview]) -> Member:
        """Write the pieces to a new file and hash them on the way; `mode` is brought to 0644 or 0755."""
        parent, name = self._parent(path)
        mode = file_mode(mode)
        digest = hashlib.sha256()
        size = 0
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                _write(descriptor, piece)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        return Member("f", path, mode, size, digest.hexdigest())

    def link(self, member: Member) -> None:
        parent, name = self._parent(member.path)
        os.symlink(member.target, name, dir_fd=parent)

    def _parent(self, path: str) -> tuple[int, str]:
        """The descriptor of the folder that holds `path`, and the last part of `path`."""
        *folders, name = path.split("/")
        common = 0
        for (have, _), want in zip(self._open, folders, strict=False):
            if have != want:
                break
            common += 1
        while len(self._open) > common:
            os.close(self._open.pop()[1])
        descriptor = self._open[-1][1] if self._open else self._root
        for part in folders[common:]:
            descriptor = os.open(part, _FOLDER, dir_fd=descriptor)
            self._open.append((part, descriptor))
        return descriptor, name


def _write(descriptor: int, piece: memoryview) -> None:
    written = os.write(descriptor, piece)
    while written < len(piece):
        written += os.write(descriptor, piece[written:])


def is_empty(folder: int) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def empty_folder(folder: int) -> None:
    """Remove everything below the folder, without following a link out of it."""
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        if is_folder:
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def read_tree(folder: int, prefix: str = "") -> Iterator[Member]:
    """The members below the folder as they are on disk, hashed, in no order.

    `TreeError` at one that no tree may have: a socket, a mode that somebody changed, a bad name.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        yield from _read_member(folder, name, prefix + name)


def _read_member(parent: int, name: str, path: str) -> Iterator[Member]:
    facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISLNK(facts.st_mode):
        yield Member("l", path, target=os.readlink(name, dir_fd=parent))
    elif stat.S_ISDIR(facts.st_mode):
        yield Member("d", path, mode)
        with _opened(name, _FOLDER, parent) as descriptor:
            yield from read_tree(descriptor, path + "/")
    elif stat.S_ISREG(facts.st_mode):
        with _opened(name, _OLD_FILE, parent) as descriptor:
            size, sha256 = _hash(descriptor)
        yield Member("f", path, mode, size, sha256)
    else:
        raise TreeError(path, "neither a file nor a folder nor a link")


@contextmanager
def _opened(name: str, flags: int, parent: int) -> Iterator[int]:
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hash(descriptor: int) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    while piece := os.read(descriptor, _READ):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def sync_tree(folder: int) -> None:
    """Make everything below the folder durable: one syncfs of its file system, `OSError` if it failed.

    A failed write-back is reported to descriptors that were open when it happened (Linux 5.8, syncfs(2)):
    `folder` must have been opened before the tree was written. Where the C library or the kernel has no
    syncfs, each file and folder is synced by itself.
    """
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        _sync_each(folder)
        return
    if syncfs(folder) == 0:
        return
    number = ctypes.get_errno()
    if number != errno.ENOSYS:
        raise OSError(number, os.strerror(number))
    _sync_each(folder)


def _sync_each(folder: int) -> None:
    with os.scandir(folder) as entries:
        found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.is_symlink()]
    for name, is_folder in found:
        with _opened(name, _FOLDER if is_folder else _OLD_FILE, folder) as descriptor:
            if is_folder:
                _sync_each(descriptor)
            else:
                os.fsync(descriptor)
    os.fsync(folder)

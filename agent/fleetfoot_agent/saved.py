"""What a version keeps outside its folder, set aside before another one may change it, and put back with it.

    <component>/saved/taken.json    from which version to which, and what was set aside
    <component>/saved/given.json    the same, once it was put back
    <component>/saved/<n>           the n-th of the paths that the owner named, as it was

`set_aside` is durable before `current` leads to the new version. `put_back` acts when `current` leads to the
old one again, whoever has led it there, and is called before each start: the old version starts with its own
state. What was put back is not put back again, unless the worker knows that a hook has changed it since
(`put_back_again`). Standard library only: the supervisor calls it too.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleetfoot_agent import durable

FOLDER, TAKEN, GIVEN = "saved", "taken.json", "given.json"
_CAP = 256 * 1024
_BESIDE = ".fleetfoot-back"


def size_of(paths: tuple[Path, ...]) -> int:
    """Bytes that setting the paths aside takes."""
    return sum(os.lstat(found).st_size for path in paths for found in _everything(path))


def _everything(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        if os.path.lexists(path):
            yield path
        return
    for base, folders, files in os.walk(path):
        yield from (Path(base) / name for name in (*folders, *files))


def set_aside(component: Path, old: str, new: str, paths: tuple[Path, ...]) -> None:
    """Copy the paths as they are; `old`, `new`: texts of `current` before and after. Raises `OSError`."""
    folder = component / FOLDER
    taken = _taken(component)
    if taken is not None and (taken["old"], taken["new"]) == (old, new):
        return  # done before a crash: what is there now may be the new version's already
    forget(component)
    durable.make_folder(folder, 0o700)
    kinds = []
    for number, path in enumerate(paths):
        there = os.path.lexists(path)
        if there:
            _copy(path, folder / str(number))
        kinds.append({"path": str(path), "there": there})
    _sync(folder)
    data = json.dumps({"old": old, "new": new, "paths": kinds}).encode()
    durable.write_file(folder / TAKEN, data, 0o600)


def put_back(component: Path, current: str | None) -> bool:
    """Put everything back if `current` is the version that it was set aside for. Whether it was.

    Raises `OSError`; then it is tried again before the next start.
    """
    taken = _taken(component)
    if taken is None or taken["old"] != current:
        return False
    folder = component / FOLDER
    for number, entry in enumerate(taken["paths"]):
        _replace(Path(entry["path"]), folder / str(number) if entry["there"] else None)
    os.rename(folder / TAKEN, folder / GIVEN)
    durable.fsync_dir(folder)
    return True


def put_back_again(component: Path) -> None:
    """Have it put back once more before the next start, if it was already. Raises `OSError`."""
    folder = component / FOLDER
    if (folder / GIVEN).exists():
        os.rename(folder / GIVEN, folder / TAKEN)
        durable.fsync_dir(folder)


def is_owed(component: Path, current: str) -> bool:
    """Whether a start of `current` would have something put back first."""
    taken = _taken(component)
    return taken is not None and taken["old"] == current


def forget(component: Path) -> None:
    """Throw away what was set aside. The note of it goes first: half a copy must never be put back."""
    folder = component / FOLDER
    if folder.is_dir():
        for note in (TAKEN, GIVEN):
            durable.remove_file(folder / note)
        shutil.rmtree(folder)


def _taken(component: Path) -> dict[str, Any] | None:
    folder = component / FOLDER
    data = durable.read_regular(folder, TAKEN, _CAP) if folder.is_dir() else None
    try:
        value = None if data is None else json.loads(data)
        return value if value is not None and {"old", "new", "paths"} <= value.keys() else None
    except (ValueError, AttributeError):
        return None


def _copy(source: Path, target: Path) -> None:
    """Copy a file, link or folder with modes and times, the owner too where that is permitted."""
    mode = os.lstat(source).st_mode
    if stat.S_ISDIR(mode):
        shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
        _own(source, target)
        for base, folders, files in os.walk(source):
            for name in (*folders, *files):
                there = Path(base) / name
                _own(there, target / there.relative_to(source))
    else:
        _copy_file(str(source), str(target))
        _own(source, target)


def _copy_file(source: str, target: str, *, follow_symlinks: bool = False) -> str:
    mode = os.lstat(source).st_mode
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        shutil.copy2(source, target, follow_symlinks=False)
    return target  # sockets and pipes are made anew by whoever uses them


def _own(source: Path, target: Path) -> None:
    found = os.lstat(source)
    if os.path.lexists(target) and os.geteuid() == 0:
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)


def _replace(path: Path, saved: Path | None) -> None:
    """Let `path` be what was saved: made beside it, then swapped by a rename, so that one of them is whole.

    Where there is a folder on either side it takes two of them, and in between there is nothing at `path`.
    """
    beside, away = path.with_name(path.name + _BESIDE), path.with_name(path.name + _BESIDE + "-old")
    for left in (beside, away):
        _remove(left)
    if saved is not None:
        _copy(saved, beside)
        _sync(beside)
    if os.path.lexists(path) and (saved is None or _is_folder(path) or _is_folder(beside)):
        os.rename(path, away)
    if saved is not None:
        os.rename(beside, path)
    if path.parent.is_dir():
        durable.fsync_dir(path.parent)
    _remove(away)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a copy to the disk, folders last."""
    files = [found for found in _everything(path) if not found.is_symlink() and found.is_file()]
    for found in files:
        fd = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    folders = [found for found in _everything(path) if found.is_dir() and not found.is_symlink()]
    for folder in (*reversed(folders), *([path] if path.is_dir() and not path.is_symlink() else [])):
        durable.fsync_dir(folder)

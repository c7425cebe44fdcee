"""The install folder of one component: what lies where, and the changes of it that survive a cut.

    <install root>/<component>/
        current -> versions/<name>        what runs; the only link that launchers resolve
        versions/<name>/                  one whole, verified tree; <name> is <version>-<digest8>
        versions/<name>.release.json      the signed envelope of its release
        versions/<name>.entrypoint        what to start in it: one line, a relative path
        staging/                          unfinished trees; worth nothing after a cut
        trial                             one line while a new version must prove itself
        journal.json                      the worker's

A tree stands under its name only when it is complete, and leaves by being renamed away first: so a cut
never leaves a half tree under a name that counts. The worker is the only writer, except that the guard
counts in `trial` and may put `current` back (contract section 7).
"""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_protocol import topics
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError

#: The guard reads names by the same rule: at most 200 characters, nothing that leads elsewhere.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,190}-[0-9a-f]{8}")
_TARGET_PREFIX = "versions/"
_NUMBER = re.compile(r"[0-9]|[1-9][0-9]")

RELEASE_SUFFIX = ".release.json"
ENTRYPOINT_SUFFIX = ".entrypoint"

#: Bytes. An envelope: contract section 2. A trial line cannot be longer than this.
ENVELOPE_CAP = 64 * 1024
ENTRYPOINT_CAP = 1024
TRIAL_CAP = 512

_TRASH_PREFIX = ".trash-"
_GUARD_PREFIX = ".guard-"
#: Seconds after which a file of the guard belongs to one that was killed; it needs milliseconds.
_GUARD_AGE = 600.0

_DISK_CODES: dict[int, Code] = {
    errno.ENOSPC: Code.UPGRADE_DISK_FULL,
    errno.EDQUOT: Code.UPGRADE_DISK_FULL,
    errno.EROFS: Code.UPGRADE_READ_ONLY,
}


def disk_error(error: OSError, doing: str) -> UpgradeError:
    """The upgrade error for an `OSError` met while `doing` something: disk full, read-only or I/O error."""
    code = _DISK_CODES.get(error.errno or 0, Code.UPGRADE_IO_ERROR)
    return UpgradeError(code, f"{doing}: {error.strerror or error}")


def version_name(version: str, digest: str) -> str:
    """The name of a tree, ``<version>-<first 8 of digest>``; `digest` is 64 hex digits of the payload.

    Raises `UpgradeError` (upgrade_layout_refused) if that would be no name.
    """
    name = f"{version}-{digest[:8]}"
    if not re.fullmatch(topics.DIGEST_PATTERN, digest) or not _NAME.fullmatch(name):
        raise _refused(f"version {version[:80]!a} with digest {digest[:80]!a} cannot name a folder")
    return name


def target_of(name: str) -> str:
    """The text of a link to the tree `name`: ``versions/<name>``. Raises `UpgradeError` if it is no name."""
    if not _NAME.fullmatch(name):
        raise _refused(f"{name[:80]!a} is not the name of a version folder")
    return _TARGET_PREFIX + name


def name_of(target: str) -> str | None:
    """The name of the tree that a link with the text `target` leads to; None if it leads elsewhere."""
    name = target.removeprefix(_TARGET_PREFIX)
    return name if name != target and _NAME.fullmatch(name) else None


def check_entrypoint(text: str) -> str:
    """Return `text` if it is a relative path that stays inside, else raise `UpgradeError`."""
    inside = {"", ".", ".."}.isdisjoint(text.split("/"))
    if not inside or not text.isprintable() or len(text.encode()) >= ENTRYPOINT_CAP:
        raise _refused(f"entrypoint {text[:80]!a} is not a relative path inside the release")
    return text


def _refused(message: str) -> UpgradeError:
    return UpgradeError(Code.UPGRADE_LAYOUT_REFUSED, message)


@dataclass(frozen=True, slots=True)
class Trial:
    """A version on trial: `attempts` of `max_attempts` granted starts are counted; targets as link texts.

    The guard counts up to the maximum and answers the next start by putting `current` back to `old`.
    Raises `ValueError` if a field is not what the guard would read.
    """

    attempts: int
    max_attempts: int
    old: str
    new: str

    def __post_init__(self) -> None:
        if not (0 <= self.attempts <= 99 and 1 <= self.max_attempts <= 99):
            raise ValueError(f"a trial counts from 0 to 99, not {self.attempts} of {self.max_attempts}")
        if name_of(self.old) is None or name_of(self.new) is None or self.old == self.new:
            raise ValueError(
                f"a trial needs two version folders, not {self.old[:80]!a} and {self.new[:80]!a}"
            )

    @property
    def exhausted(self) -> bool:
        """Whether all granted starts are used up: the next one goes back."""
        return self.attempts >= self.max_attempts

    def line(self) -> bytes:
        """The line as it stands in the file."""
        return f"ff1 {self.attempts} {self.max_attempts} {self.old} {self.new}\n".encode("ascii")

    @classmethod
    def parse(cls, data: bytes) -> "Trial | None":
        """The trial that `data` is, byte for byte, else None."""
        try:
            fields = data.decode("ascii").removesuffix("\n").split(" ")
            _, attempts, maximum, old, new = fields
            if not _NUMBER.fullmatch(attempts) or not _NUMBER.fullmatch(maximum):
                return None
            trial = cls(int(attempts), int(maximum), old, new)
        except ValueError:
            return None
        return trial if trial.line() == data else None


class Layout:
    """The folder of one component and every durable change of it.

    Methods raise `OSError` where the disk fails (`disk_error` gives it a code) and `UpgradeError` with
    upgrade_layout_refused where somebody else has put something that is not ours; nothing is deleted then.
    """

    def __init__(self, install_root: Path, component: str) -> None:
        self.folder = install_root / topics.check_id(component, "component")
        self.current = self.folder / "current"
        self.versions = self.folder / "versions"
        self.staging = self.folder / "staging"
        self.trial = self.folder / "trial"
        self.journal = self.folder / "journal.json"

    def create(self) -> None:
        """Make the folders (0755) that are missing. Refuses a `versions` or `staging` that is no folder."""
        for folder in (self.folder, self.versions, self.staging):
            durable.make_folder(folder)
        for folder in (self.versions, self.staging):
            if folder.is_symlink():
                raise _refused(f"{folder} is a link, not a folder: link the install root instead")

    # -- trees

    def tree(self, name: str) -> Path:
        """The path of the tree `name`."""
        return self.folder / target_of(name)

    def _beside(self, name: str, suffix: str) -> Path:
        return self.folder / (target_of(name) + suffix)

    def installed(self) -> list[str]:
        """Names of the complete trees, sorted by the text."""
        found = _names(self.versions)
        return sorted(name for name in found if _NAME.fullmatch(name) and self.is_installed(name))

    def is_installed(self, name: str) -> bool:
        """Whether the tree `name` is there and is a folder."""
        return _is_folder(self.tree(name))

    def envelope(self, name: str) -> bytes | None:
        """The signed envelope kept for the tree `name`; None if there is none. Not verified here."""
        return durable.read_regular(self.versions, f"{name}{RELEASE_SUFFIX}", ENVELOPE_CAP)

    def entrypoint(self, name: str) -> str | None:
        """What to start in the tree `name`, relative to it; None if nothing usable says so."""
        data = durable.read_regular(self.versions, f"{name}{ENTRYPOINT_SUFFIX}", ENTRYPOINT_CAP)
        if data is None or not data.endswith(b"\n"):
            return None
        try:
            return check_entrypoint(data[:-1].decode())
        except (UnicodeDecodeError, UpgradeError):
            return None

    def promote(self, staged: Path, name: str, envelope: bytes, entrypoint: str) -> Path:
        """Give the complete tree `staged` its name. Returns the path it has now.

        The bytes of the tree must be on the disk already (one syncfs after extraction). Envelope and
        entrypoint are written first, so that a tree under a name always has them. Raises `UpgradeError`
        if that name is taken: `discard` it first.
        """
        tree = self.tree(name)
        if _is_there(tree):
            raise _refused(f"{tree} is there already")
        check_entrypoint(entrypoint)
        durable.write_file(self._beside(name, RELEASE_SUFFIX), envelope)
        durable.write_file(self._beside(name, ENTRYPOINT_SUFFIX), f"{entrypoint}\n".encode())
        durable.rename(staged, tree)
        return tree

    # -- current

    def read_current(self) -> str | None:
        """The text of `current`, which leads to a tree that is there; None if there is no `current`.

        Raises `UpgradeError` for everything else: not a link, a link elsewhere, one of a stranger, one
        whose tree is gone.
        """
        try:
            found = os.lstat(self.current)
        except FileNotFoundError:
            return None
        if not stat.S_ISLNK(found.st_mode):
            raise _refused(f"{self.current} is not a symbolic link")
        if found.st_uid not in (0, os.geteuid()):
            raise _refused(f"{self.current} belongs to user {found.st_uid}")
        target = os.readlink(self.current)
        name = name_of(target)
        if name is None:
            raise _refused(f"{self.current} leads to {target[:200]!a}, not to a version folder")
        if self.versions.is_symlink() or not self.is_installed(name):
            raise _refused(f"{self.current} leads to {target}, which is not there")
        return target

    def swap_current(self, target: str) -> None:
        """Let `current` lead to `target`, durably. Refuses a target that is not an installed tree."""
        self.read_current()
        name = name_of(target)
        if name is None or not self.is_installed(name):
            raise _refused(f"{target[:200]!a} is not an installed version")
        durable.swap_symlink(self.current, target)

    # -- trial

    def write_trial(self, trial: Trial) -> None:
        """Write `trial` durably; before `current` is swapped, or nothing would count the first start."""
        durable.write_file(self.trial, trial.line())

    def read_trial(self) -> Trial | None:
        """The trial; None if there is none or what is there does not parse (the guard ignores it too)."""
        data = durable.read_regular(self.folder, self.trial.name, TRIAL_CAP)
        return None if data is None else Trial.parse(data)

    def remove_trial(self) -> None:
        """End the trial. Look at `current` again afterwards: the guard may have gone back just before."""
        durable.remove_file(self.trial)

    # -- removal

    def discard(self, name: str) -> None:
        """Remove the tree `name` and what is kept beside it, whatever uses it: `collect` asks first."""
        tree = self.tree(name)
        if _is_there(tree):
            trash = self.versions / f"{_TRASH_PREFIX}{os.urandom(8).hex()}"
            durable.rename(tree, trash)
            _remove(trash)
        for suffix in (RELEASE_SUFFIX, ENTRYPOINT_SUFFIX):
            durable.remove_file(self._beside(name, suffix))

    def collect(self, keep: set[str]) -> list[str]:
        """Remove the trees whose names are not in `keep`; returns the names removed, sorted.

        Never what `current` or a trial names, nor a tree that a running process uses as far as this user
        may see. A trial that does not parse may name anything: nothing is removed then.
        """
        current = self.read_current()
        trial = self.read_trial()
        if trial is None and _is_there(self.trial):
            return []
        targets = [current] if current else []
        targets += [trial.old, trial.new] if trial else []
        candidates = set(self.installed()) - keep - {name_of(target) for target in targets}
        if candidates:
            candidates -= self._in_use(candidates)
        for name in sorted(candidates):
            self.discard(name)
        return sorted(candidates)

    def _in_use(self, names: set[str]) -> set[str]:
        paths = {name: os.fsencode(os.path.realpath(self.tree(name))) for name in names}
        used: set[str] = set()
        for trace in _traces():
            ended = trace + b"\0"
            used |= {n for n, path in paths.items() if path + b"/" in ended or path + b"\0" in ended}
        return used

    def clean(self) -> None:
        """Remove what a cut can have left: temporary entries, trash, orphans beside no tree, staging."""
        for folder in (self.folder, self.versions):
            durable.clear_temporary(folder)
        for name in _names(self.versions):
            tree = name.removesuffix(RELEASE_SUFFIX).removesuffix(ENTRYPOINT_SUFFIX)
            orphan = tree != name and not _is_there(self.versions / tree)
            if name.startswith(_TRASH_PREFIX) or orphan:
                _remove(self.versions / name)
        for name in _names(self.folder):
            entry = self.folder / name
            if name.startswith(_GUARD_PREFIX) and _older_than(entry, _GUARD_AGE):
                _remove(entry)
        self.empty_staging()

    def empty_staging(self) -> None:
        """Remove everything in `staging`."""
        for name in _names(self.staging):
            _remove(self.staging / name)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _mode(path: Path) -> int | None:
    """The mode of the entry itself, None if there is none. `OSError` where the disk cannot say.

    Not `os.path.lexists` and its like: they take a failing disk for absence, and what seems to be absent
    is cleared away with all that belongs to it.
    """
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_there(path: Path) -> bool:
    return _mode(path) is not None


def _is_folder(path: Path) -> bool:
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _older_than(path: Path, seconds: float) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime > seconds
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _traces() -> Iterator[bytes]:
    """What running processes of this machine hold, as far as readable: folders, programs, open files.

    The command line is readable for every user's processes, and launchers start what `current` led to.
    """
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        yield from _links([process / "cwd", process / "exe", process / "root"])
        with suppress(OSError):  # it ended, or is another user's
            yield from _links((process / "fd").iterdir())
            yield (process / "maps").read_bytes()
        with suppress(OSError):
            yield (process / "cmdline").read_bytes()


def _links(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            yield os.readlink(os.fsencode(path))
        except OSError:
            continue

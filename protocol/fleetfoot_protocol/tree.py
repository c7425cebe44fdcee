"""The tree inside an artifact: its members, the rules for their names, and its digest.

Contract section 3 says how `tree_sha256` is computed. The rules for names go further than the
digest needs, because a tree must mean the same on every file system it may meet:

1. A path is relative, in NFC, without empty, `.` or `..` parts, without control, format, private
   or unpaired characters, and bounded in length and depth.
2. A link is relative and stays inside, wherever it is followed from: `..` may only stand at the
   beginning of its target, because `link/..` is not what it looks like once `link` is a link.
3. Two paths never differ by case or by Unicode form alone.
4. Every member's folder is itself a member.

A `Member` that breaks rule 1 or 2 cannot be made, a digest of members that break rule 3 or 4 cannot
be computed. Only the standard library is imported: the builder and the worker share this page.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

MAX_COMPONENT_BYTES: Final = 255
MAX_PATH_BYTES: Final = 1024
MAX_DEPTH: Final = 32
MAX_MEMBERS: Final = 1 << 18
"""Members of one tree. A bound on the worker's memory, whatever a manifest promises."""

MAX_NAME_BYTES: Final = 12 << 20
"""Bytes of the paths of one tree together. A bound on the worker's memory too."""

MAX_CHUNK_SIZE: Final = 16 << 20
"""Bytes of one chunk. The worker holds a whole chunk in memory."""
MAX_INDEX_ENTRIES: Final = 2048
"""Chunks of one artifact (contract section 3)."""

FILE_MODES: Final = (0o644, 0o755)
FOLDER_MODE: Final = 0o755

_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_HEX_DIGITS: Final = frozenset("0123456789abcdef")
_SHOWN_CHARACTERS: Final = 80

Kind = Literal["f", "d", "l"]


class TreeError(ValueError):
    """A member that no tree may have. `path` is the member's path as it came, `reason` a sentence part."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{_shown(path)}: {reason}")


@dataclass(frozen=True, slots=True)
class Member:
    """One file, folder or symbolic link of a tree; `TreeError` if no tree may have it.

    `mode` is 0 and `size` 0 where they do not apply (`mode` for links, `size` for folders and
    links); `sha256` is 64 hex digits for files and `-` else; `target` is `` except for links.
    """

    kind: Kind
    path: str
    mode: int = 0
    size: int = 0
    sha256: str = "-"
    target: str = ""

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.kind == "f":
            self._check_file()
        elif self.kind == "d":
            self._demand(self.mode == FOLDER_MODE, f"a folder with mode {self.mode:04o}")
            self._demand((self.size, self.sha256, self.target) == (0, "-", ""), "a folder with content")
        elif self.kind == "l":
            self._demand((self.mode, self.size, self.sha256) == (0, 0, "-"), "a link with mode or content")
            check_link(self.path, self.target)
        else:
            raise TreeError(self.path, f"unknown kind {self.kind!r}")

    def _check_file(self) -> None:
        if self.mode not in FILE_MODES:
            raise TreeError(self.path, f"a file with mode {self.mode:04o}")
        self._demand(self.size >= 0, "a file with a negative size")
        is_digest = len(self.sha256) == 64 and _HEX_DIGITS.issuperset(self.sha256)
        self._demand(is_digest, "a file without a sha256 of 64 lower-case hex digits")
        self._demand(self.target == "", "a file with a link target")

    def _demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise TreeError(self.path, otherwise)

    def line(self) -> str:
        """The member's line in the tree digest, without its newline (contract section 3)."""
        if self.kind == "f":
            return f"f\t{self.mode:04o}\t{self.size}\t{self.sha256}\t{self.path}"
        if self.kind == "d":
            return f"d\t{self.mode:04o}\t-\t-\t{self.path}"
        return f"l\t-\t-\t{self.target}\t{self.path}"


def file_mode(mode: int) -> int:
    """The mode a file has in a tree: 0755 if its owner may execute it, else 0644."""
    return 0o755 if mode & 0o100 else 0o644


def path_key(path: str) -> bytes:
    """What members are sorted by: the UTF-8 bytes of the path."""
    return path.encode("utf-8")


def tree_sha256(members: Iterable[Member]) -> str:
    """The digest of a tree, 64 hex digits (contract section 3); `TreeError` by `check_members`."""
    ordered = sorted(members, key=lambda member: path_key(member.path))
    check_members(ordered)
    digest = hashlib.sha256()
    for member in ordered:
        digest.update(member.line().encode("utf-8") + b"\n")
    return digest.hexdigest()


def check_members(members: Iterable[Member]) -> None:
    """Raise `TreeError` unless the members together make a tree (rules 3 and 4). Any order will do."""
    seen = SeenPaths()
    every = list(members)
    folders = {member.path for member in every if member.kind == "d"}
    for member in every:
        seen.add(member.path)
        check_parent(member.path, folders)


class SeenPaths:
    """The paths met so far; `add` refuses one that some file system could take for an earlier one."""

    def __init__(self) -> None:
        # By a digest: the keys of very many paths would take as much memory again as the paths do.
        self._paths: dict[bytes, str] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, path: str) -> None:
        """Remember `path`; `TreeError` for a duplicate, a case or Unicode double, or what is too much."""
        folded = _collision_key(path).encode("utf-8")
        key = hashlib.blake2b(folded, digest_size=16).digest()
        earlier = self._paths.get(key)
        if earlier is not None:
            raise TreeError(path, "appears twice" if earlier == path else f"collides with {_shown(earlier)}")
        if len(self._paths) == MAX_MEMBERS:
            raise TreeError(path, f"more than {MAX_MEMBERS} members")
        self._bytes += len(path_key(path))
        if self._bytes > MAX_NAME_BYTES:
            raise TreeError(path, f"the paths of the tree take more than {MAX_NAME_BYTES} bytes")
        self._paths[key] = path


def check_parent(path: str, folders: set[str]) -> None:
    """Raise `TreeError` unless the folder that holds `path` is the root or one of `folders`."""
    parent = path.rpartition("/")[0]
    if parent and parent not in folders:
        raise TreeError(path, f"its folder {_shown(parent)} is not a folder of the tree")


def check_path(path: str) -> None:
    """Raise `TreeError` unless `path` may name a member (rule 1)."""
    if not path:
        raise TreeError(path, "empty path")
    if path.startswith("/"):
        raise TreeError(path, "absolute path")
    _check_text(path, path, "path")
    parts = path.split("/")
    for part in parts:
        if part in ("", ".", ".."):
            raise TreeError(path, f"path with the part {part!r}")
    _check_lengths(path, path, parts, "path")


def check_link(path: str, target: str) -> None:
    """Raise `TreeError` unless a link at `path` may point to `target` (rule 2). It may dangle inside."""
    if not target:
        raise TreeError(path, "link without a target")
    if target.startswith("/"):
        raise TreeError(path, f"link to the absolute path {_shown(target)}")
    _check_text(path, target, "link target")
    parts = target.split("/")
    _check_lengths(path, target, parts, "link target")
    climbs = 0
    for position, part in enumerate(parts):
        if part == "":
            raise TreeError(path, f"link target {_shown(target)} with an empty part")
        if part == "..":
            climbs += 1
            if any(earlier not in ("..", ".") for earlier in parts[:position]):
                raise TreeError(path, f"link target {_shown(target)} goes down before it goes up")
    if climbs > path.count("/"):
        raise TreeError(path, f"link to {_shown(target)} leaves the tree")


def _check_text(path: str, text: str, what: str) -> None:
    if text.isascii() and text.isprintable():
        return
    for character in text:
        category = unicodedata.category(character)
        if category in _REFUSED_CATEGORIES:
            raise TreeError(path, f"{what} with the character U+{ord(character):04X} ({category})")
    if not unicodedata.is_normalized("NFC", text):
        raise TreeError(path, f"{what} is not in Unicode form NFC")


def _check_lengths(path: str, text: str, parts: list[str], what: str) -> None:
    length = len(text.encode("utf-8"))
    if length > MAX_PATH_BYTES:
        raise TreeError(path, f"{what} longer than {MAX_PATH_BYTES} bytes")
    if len(parts) > MAX_DEPTH:
        raise TreeError(path, f"{what} deeper than {MAX_DEPTH}")
    if length > MAX_COMPONENT_BYTES and any(len(p.encode("utf-8")) > MAX_COMPONENT_BYTES for p in parts):
        raise TreeError(path, f"{what} with a part longer than {MAX_COMPONENT_BYTES} bytes")


def _collision_key(path: str) -> str:
    """Equal for paths that are canonical caseless matches (Unicode standard, section 3.13, D145)."""
    if path.isascii():
        return path.lower()
    folded = unicodedata.normalize("NFD", path).casefold()
    return unicodedata.normalize("NFD", folded)


def _shown(text: str) -> str:
    """`text` quoted, without any character that could act on a terminal, cut to a bearable length."""
    if len(text) > _SHOWN_CHARACTERS:
        return f"{text[:_SHOWN_CHARACTERS]!r}..."
    return repr(text)

"""Installing an artifact's bytes as a tree, or leaving nothing behind.

The rules, in the order in which they are applied to each byte:

1. A chunk is compared with the signed index before anything decompresses it.
2. Unpacking needs bounded memory, and stops at the first byte beyond what the manifest allows.
3. The archive is read by an own strict reader; only files, folders and links with names that keep to
   `fleetfoot_protocol.tree` are written, each below a folder of the archive.
4. Links are made last, so nothing is ever written through one.
5. At the end length, digest, counts and `tree_sha256` must be those of the manifest.
6. One syncfs makes the tree durable before the function returns.
7. An archive that may have very many members is read once before anything is written: to make and remove
   files takes far longer than to count them.

Whatever goes wrong, the destination is emptied again and the error carries its code.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from fleetfoot_agent.worker.gunzip import GzipStream, PieceStream, verified_chunks
from fleetfoot_agent.worker.readahead import Ahead, ReadAhead
from fleetfoot_agent.worker.tarstream import Entry, TarReader, refused
from fleetfoot_agent.worker.treewriter import (
    TreeWriter,
    empty_folder,
    is_empty,
    open_folder,
    read_tree,
    sync_tree,
)
from fleetfoot_agent.worker.unzstd import ZstdStream
from fleetfoot_agent.worker.unzstd import available as zstd_available
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.tree import (
    MAX_CHUNK_SIZE,
    MAX_INDEX_ENTRIES,
    MAX_MEMBERS,
    Member,
    SeenPaths,
    TreeError,
    check_parent,
    check_path,
    path_key,
    tree_sha256,
)

COUNTED_FIRST: Final = 10_000
"""Members beyond which an archive is counted before it is written."""

_DIGEST: Final = 32
_FORMATS: Final[dict[str, Callable[[Iterator[bytes]], PieceStream]]] = {
    "tar.gz": GzipStream,
    "tar.zst": ZstdStream,
}
_DISK_CODES: Final = {
    errno.ENOSPC: Code.UPGRADE_DISK_FULL,
    errno.EDQUOT: Code.UPGRADE_DISK_FULL,
    errno.EROFS: Code.UPGRADE_READ_ONLY,
}


def formats() -> frozenset[str]:
    """The formats that can be unpacked here."""
    return frozenset({"tar.gz", "tar.zst"} if zstd_available() else {"tar.gz"})


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """What the verified manifest says of an artifact, and its index, whose own digest was verified.

    Lengths and sizes in bytes, digests in hex, `index` the 32 raw bytes of each chunk's sha256.
    """

    format: str
    length: int
    sha256: str
    chunk_size: int
    index: bytes
    unpacked_size: int
    member_count: int
    tree_sha256: str


def extract(
    blob: IO[bytes],
    facts: ArtifactFacts,
    destination: Path | int,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Member]:
    """Unpack `blob` into the empty folder `destination` (a path or a descriptor) and return its members.

    The members come sorted by path. `progress` gets the number of verified bytes after each chunk, on the
    thread that verifies; what it raises ends the extraction and passes through. Errors (`UpgradeError`):
    upgrade_length_mismatch, upgrade_checksum_mismatch, upgrade_archive_refused, upgrade_tree_mismatch,
    upgrade_disk_full, upgrade_read_only, upgrade_io_error; upgrade_incompatible for another format;
    upgrade_layout_refused if the destination is not empty, which is then left as it is.
    """
    _check_facts(facts)
    with _disk_errors(), open_folder(destination) as root:
        if not is_empty(root):
            raise UpgradeError(Code.UPGRADE_LAYOUT_REFUSED, "the folder to extract into is not empty")
        try:
            members = _unpack(blob, facts, root, progress)
            sync_tree(root)
        except BaseException:
            # The first error is the one to tell; a disk that refuses even this shows up again later.
            with suppress(OSError):
                empty_folder(root)
            raise
    return members


def hash_tree(folder: Path | int) -> list[Member]:
    """The members of an installed tree as they are on disk now, sorted by path, every file hashed.

    `UpgradeError`: upgrade_tree_mismatch if there is anything that no release could have put there,
    upgrade_io_error if it cannot be read. Compare `tree_sha256` of the result with the manifest's.
    """
    with _disk_errors(), open_folder(folder) as root:
        try:
            members = sorted(read_tree(root), key=lambda member: path_key(member.path))
        except TreeError as error:
            raise UpgradeError(
                Code.UPGRADE_TREE_MISMATCH, f"the installed tree was changed: {error}"
            ) from None
    return members


def _check_facts(facts: ArtifactFacts) -> None:
    if facts.format not in formats():
        raise UpgradeError(Code.UPGRADE_INCOMPATIBLE, f"this device cannot unpack {facts.format[:20]!a}")
    if not 0 < facts.chunk_size <= MAX_CHUNK_SIZE:
        raise refused(f"chunks of {facts.chunk_size} bytes, allowed are {MAX_CHUNK_SIZE}")
    if facts.member_count > MAX_MEMBERS:
        raise refused(f"{facts.member_count} members, allowed are {MAX_MEMBERS}")
    entries = -(-facts.length // facts.chunk_size)
    if entries > MAX_INDEX_ENTRIES:
        raise refused(f"{entries} chunks, allowed are {MAX_INDEX_ENTRIES}")
    if len(facts.index) != entries * _DIGEST:
        raise UpgradeError(
            Code.UPGRADE_LENGTH_MISMATCH,
            f"an index of {len(facts.index)} bytes does not fit an artifact of {facts.length} bytes",
        )


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code = _DISK_CODES.get(error.errno or 0, Code.UPGRADE_IO_ERROR)
        raise UpgradeError(code, error.strerror or str(error)) from error


def _unpack(
    blob: IO[bytes], facts: ArtifactFacts, root: int, progress: Callable[[int], None] | None
) -> list[Member]:
    writer = TreeWriter(root)
    try:
        if facts.member_count > COUNTED_FIRST:
            with _archive(blob, facts, None) as archive:
                _count_members(archive, facts)
            blob.seek(0)
        with _archive(blob, facts, progress) as archive:
            members = _write_members(archive, facts, writer)
        members.sort(key=lambda member: path_key(member.path))
        _check_tree(members, facts)
    except TreeError as error:
        raise refused(str(error)) from None
    finally:
        writer.close()
    return members


@contextmanager
def _archive(
    blob: IO[bytes], facts: ArtifactFacts, progress: Callable[[int], None] | None
) -> Iterator[TarReader]:
    verified = verified_chunks(
        blob,
        length=facts.length,
        sha256=facts.sha256,
        chunk_size=facts.chunk_size,
        index=facts.index,
        progress=progress,
    )
    # One chunk, which may be large, waits to be unpacked.
    with Ahead(verified, 1, "verifier") as chunks, ReadAhead(_FORMATS[facts.format](chunks)) as stream:
        yield TarReader(stream)


def _count_members(archive: TarReader, facts: ArtifactFacts) -> None:
    allowed = _Allowance(facts)
    while (entry := archive.next_entry()) is not None:
        allowed.admit(entry)
        for _ in archive.content(entry):
            pass
    allowed.check_all_came()


def _write_members(archive: TarReader, facts: ArtifactFacts, writer: TreeWriter) -> list[Member]:
    members: list[Member] = []
    links: list[Member] = []
    allowed = _Allowance(facts)
    while (entry := archive.next_entry()) is not None:
        allowed.admit(entry)
        if entry.kind == "f":
            members.append(writer.file(entry.path, entry.mode, archive.content(entry)))
        elif entry.kind == "d":
            members.append(writer.folder(entry.path))
        else:
            links.append(Member("l", entry.path, target=entry.target))
    for link in links:
        writer.link(link)
    return members + links


class _Allowance:
    """Judges each entry before it is written, by the manifest's caps and by the entries before it."""

    def __init__(self, facts: ArtifactFacts) -> None:
        self._facts = facts
        self._seen = SeenPaths()
        self._folders: set[str] = set()
        self._unpacked = 0

    def admit(self, entry: Entry) -> None:
        if len(self._seen) == self._facts.member_count:
            raise refused(f"more than the {self._facts.member_count} members that the manifest allows")
        check_path(entry.path)
        check_parent(entry.path, self._folders)
        self._seen.add(entry.path)
        self._unpacked += entry.size
        if self._unpacked > self._facts.unpacked_size:
            raise refused(f"unpacks to more than the {self._facts.unpacked_size} bytes of the manifest")
        if entry.kind == "d":
            self._folders.add(entry.path)

    def check_all_came(self) -> None:
        """Raise `UpgradeError` (`upgrade_tree_mismatch`) for fewer or smaller members than allowed."""
        _check_total(len(self._seen), self._unpacked, self._facts)


def _check_tree(members: list[Member], facts: ArtifactFacts) -> None:
    _check_total(len(members), sum(member.size for member in members), facts)
    if tree_sha256(members) != facts.tree_sha256:
        raise UpgradeError(Code.UPGRADE_TREE_MISMATCH, "the extracted tree is not the manifest's")


def _check_total(members: int, size: int, facts: ArtifactFacts) -> None:
    if (members, size) != (facts.member_count, facts.unpacked_size):
        raise UpgradeError(
            Code.UPGRADE_TREE_MISMATCH,
            f"{members} members with {size} bytes, the manifest says "
            f"{facts.member_count} with {facts.unpacked_size}",
        )

"""Building a release's archive: the same tree always gives the same bytes.

Members are sorted by the UTF-8 bytes of their path, folders thus before their content, links last. Times,
owners and names of owners are zero or empty, modes are 0644 or 0755. Headers are USTAR, with a PAX header
only where a name or size does not fit; they are written here and not by `tarfile`, whose choices change
between Python versions. The gzip header carries neither time nor name. What remains is zlib itself: one
that was built differently may compress to other bytes, of the same `tree_sha256`.

Whatever a device would refuse is refused here first, by the same rules (`fleetfoot_protocol.tree`).
"""

import hashlib
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal, Protocol

from fleetfoot_client.zstd import ZstdWriter
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.tree import (
    FOLDER_MODE,
    MAX_CHUNK_SIZE,
    MAX_INDEX_ENTRIES,
    Member,
    TreeError,
    check_members,
    path_key,
    tree_sha256,
)

Format = Literal["tar.gz", "tar.zst"]
DEFAULT_CHUNK_SIZE: Final = 1 << 20

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_READ: Final = 256 << 10
_LEVEL: Final = 9  # built once, fetched by every device
# RFC 1952: deflate, no name, no time, slowest compression, system unknown.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x02\xff"
_NAME_BYTES: Final = 100
_PREFIX_BYTES: Final = 155
_MAX_USTAR_SIZE: Final = 8**11 - 1
_FLAGS: Final = {"f": b"0", "d": b"5", "l": b"2"}


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """What a release manifest says of an archive (contract section 3), and the index itself.

    Lengths and sizes in bytes, digests in hex; `index` is the 32-byte sha256 of each chunk in order.
    """

    format: Format
    length: int
    sha256: str
    chunk_size: int
    index: bytes
    index_sha256: str
    unpacked_size: int
    member_count: int
    tree_sha256: str


def build_archive(
    folder: Path,
    out_file: IO[bytes] | Path,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    form: Format = "tar.gz",
) -> ArchiveFacts:
    """Write `folder`'s content as a `tar.gz` or `tar.zst` to `out_file` and return its facts.

    `out_file` is a path outside `folder`, which then holds the whole archive or is left as it was, or a
    file that can be read, written and seeked, from its position on. `chunk_size` (bytes, at most 16 MiB)
    is doubled until the index has at most 2048 entries. `UpgradeError` with `upgrade_archive_refused`
    names the member that cannot be in a release; `ValueError` for a bad argument; `OSError` passes.
    """
    if not 0 < chunk_size <= MAX_CHUNK_SIZE:
        raise ValueError(f"chunk_size must be 1 to {MAX_CHUNK_SIZE}, not {chunk_size}")
    if not isinstance(out_file, Path):
        return _build(folder, out_file, chunk_size, form)
    if out_file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the archive {out_file} would lie inside the folder that it packs")
    temporary = out_file.with_name(f".{out_file.name}.{secrets.token_hex(4)}.tmp")
    with open(temporary, "x+b") as file:
        try:
            facts = _build(folder, file, chunk_size, form)
            os.fsync(file.fileno())
            os.replace(temporary, out_file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return facts


def _build(folder: Path, out: IO[bytes], chunk_size: int, form: Format) -> ArchiveFacts:
    start = out.tell()
    writer: _Writer = ZstdWriter(out) if form == "tar.zst" else _GzipWriter(out)
    members = [_write_member(writer, folder, member) for member in _scan(folder)]
    writer.write(bytes(2 * _BLOCK))
    writer.write(bytes(-writer.unpacked % _RECORD))
    writer.finish()
    out.flush()
    length = out.tell() - start
    chunk_size = _fitting_chunk_size(length, chunk_size)
    out.seek(start)
    sha256, index = _index(out, length, chunk_size)
    return ArchiveFacts(
        format=form,
        length=length,
        sha256=sha256,
        chunk_size=chunk_size,
        index=index,
        index_sha256=hashlib.sha256(index).hexdigest(),
        unpacked_size=sum(member.size for member in members),
        member_count=len(members),
        tree_sha256=tree_sha256(members),
    )


def _scan(folder: Path) -> list[Member]:
    """The folder's members in the order of the archive, files not hashed yet (64 zeros stand there)."""
    try:
        members = sorted(_walk(folder, ""), key=lambda member: (member.kind == "l", path_key(member.path)))
        check_members(members)
    except TreeError as error:
        raise _refused(str(error)) from None
    if not any(member.kind == "f" for member in members):
        raise _refused(f"{str(folder)!r} holds no file")
    return members


def _walk(folder: Path, prefix: str) -> Iterator[Member]:
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        path = prefix + entry.name
        facts = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(facts.st_mode):
            yield Member("l", path, target=os.readlink(entry.path))
        elif stat.S_ISDIR(facts.st_mode):
            yield Member("d", path, FOLDER_MODE)
            yield from _walk(folder / entry.name, path + "/")
        elif stat.S_ISREG(facts.st_mode):
            yield Member("f", path, _file_mode(path, facts.st_mode), facts.st_size, "0" * 64)
        else:
            raise TreeError(path, "neither a file nor a folder nor a link")


def _file_mode(path: str, mode: int) -> int:
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise TreeError(path, "a setuid, setgid or sticky file")
    return 0o755 if mode & 0o111 else 0o644


class _Writer(Protocol):
    """What compresses: one stream; `unpacked` counts the bytes that went in."""

    unpacked: int

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...


def _write_member(writer: _Writer, folder: Path, member: Member) -> Member:
    """Write header and content; return the member with the digest of what was written."""
    for header in _headers(member):
        writer.write(header)
    if member.kind != "f":
        return member
    digest = hashlib.sha256()
    left = member.size
    descriptor = os.open(folder / member.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        # One byte more than there should be, to notice a file that grew.
        while piece := file.read(min(_READ, left + 1)):
            left -= len(piece)
            digest.update(piece)
            writer.write(piece)
    if left:
        raise _refused(f"{member.path!r} changed while it was packed")
    writer.write(bytes(-member.size % _BLOCK))
    return Member("f", member.path, member.mode, member.size, digest.hexdigest())


class _GzipWriter:
    """One gzip member (RFC 1952); `unpacked` counts the bytes that went in."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = 0
        self.unpacked = 0
        out.write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self.unpacked += len(data)
        self._out.write(self._deflate.compress(data))

    def finish(self) -> None:
        self._out.write(self._deflate.flush())
        self._out.write(struct.pack("<II", self._crc, self.unpacked & 0xFFFFFFFF))


def _headers(member: Member) -> Iterator[bytes]:
    """The header of one member, after a PAX header if something does not fit into USTAR."""
    path = path_key(member.path) + (b"/" if member.kind == "d" else b"")
    target = member.target.encode("utf-8")
    records = b""
    place = _split(path)
    if place is None:
        records += _pax_record(b"path", path)
        place = (b"", path[:_NAME_BYTES])
    if len(target) > _NAME_BYTES:
        records += _pax_record(b"linkpath", target)
        target = target[:_NAME_BYTES]
    size = member.size
    if size > _MAX_USTAR_SIZE:
        records += _pax_record(b"size", str(size).encode("ascii"))
        size = 0
    if records:
        yield _ustar(b"", b"././@PaxHeader", 0o644, len(records), b"x", b"")
        yield records + bytes(-len(records) % _BLOCK)
    mode = member.mode or 0o777
    yield _ustar(*place, mode, size, _FLAGS[member.kind], target)


def _split(path: bytes) -> tuple[bytes, bytes] | None:
    """The path as USTAR prefix and name, or None if it has no such parts."""
    if len(path) <= _NAME_BYTES:
        return b"", path
    slash = path.find(b"/", len(path) - _NAME_BYTES - 1, len(path) - 1)
    return (path[:slash], path[slash + 1 :]) if 0 < slash <= _PREFIX_BYTES else None


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`, where the length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode("ascii") + rest


def _ustar(prefix: bytes, name: bytes, mode: int, size: int, flag: bytes, target: bytes) -> bytes:
    fields = (
        name.ljust(_NAME_BYTES, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,  # uid
        b"%07o\0" % 0,  # gid
        b"%011o\0" % size,
        b"%011o\0" % 0,  # mtime
        b" " * 8,  # the checksum counts as spaces
        flag,
        target.ljust(_NAME_BYTES, b"\0"),
        b"ustar\x0000",
        bytes(32 + 32),  # names of owner and group
        b"%07o\0" % 0,  # device
        b"%07o\0" % 0,
        prefix.ljust(_PREFIX_BYTES, b"\0"),
        bytes(12),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _fitting_chunk_size(length: int, chunk_size: int) -> int:
    while -(-length // chunk_size) > MAX_INDEX_ENTRIES:
        chunk_size *= 2
    if chunk_size > MAX_CHUNK_SIZE:
        raise _refused(f"{length} bytes are too many: at most {MAX_INDEX_ENTRIES} chunks of {MAX_CHUNK_SIZE}")
    return chunk_size


def _index(file: IO[bytes], length: int, chunk_size: int) -> tuple[str, bytes]:
    """The sha256 of the next `length` bytes, and the concatenated sha256 of each chunk of them."""
    whole = hashlib.sha256()
    index = []
    for start in range(0, length, chunk_size):
        chunk = file.read(min(chunk_size, length - start))
        whole.update(chunk)
        index.append(hashlib.sha256(chunk).digest())
    return whole.hexdigest(), b"".join(index)


def _refused(reason: str) -> UpgradeError:
    return UpgradeError(
        Code.UPGRADE_ARCHIVE_REFUSED,
        f"cannot be in a release: {reason}",
        remedy="change or remove the named member and build again",
    )

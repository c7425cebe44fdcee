"""A reader of tar streams for bytes that nobody vouches for. Pure: it takes bytes and says what they mean.

Understood: USTAR headers, PAX extended headers (`x`) and GNU long names (`L`, `K`); members are regular
files, folders and symbolic links. Everything else is refused, not skipped: a hard link, a device, a
sparse file, a global header, a continuation volume, an unknown type. So are a wrong header checksum, a
number that is not plain octal or a small positive base-256 number, an extended header of more than
64 KiB or 64 records, extended headers that are large one after the other, and a stream that does not end
in zeros: what is read stays in proportion to the members that it is about.

Every refusal is an `UpgradeError` with `upgrade_archive_refused`. Names are decoded, not judged: the
rules for paths stand in `fleetfoot_protocol.tree`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.tree import Kind

BLOCK: Final = 512
MAX_EXTENDED_BYTES: Final = 64 << 10
MAX_RECORDS: Final = 64
"""Records of one PAX header; programs that keep every attribute of a file write some twenty."""
EXTENDED_AT_FIRST: Final = 1 << 20
EXTENDED_EACH: Final = 2 << 10
"""Bytes of all extended headers together: so many, and so many more for each member."""
MAX_NUMBER: Final = (1 << 53) - 1
MAX_PADDING_BYTES: Final = 1 << 20
"""Zeros after the last member: the largest record that tar programs write, and nothing to unpack for."""

_ZEROS: Final = bytes(BLOCK)
_KINDS: Final[dict[bytes, Kind]] = {b"0": "f", b"\0": "f", b"5": "d", b"2": "l"}
_REFUSED: Final[dict[bytes, str]] = {
    b"1": "a hard link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"D": "a GNU folder dump",
    b"M": "a continued volume",
    b"S": "a sparse file",
    b"V": "a volume label",
    b"g": "a global PAX header",
}


class Source(Protocol):
    """Where the unpacked bytes of the archive come from."""

    def take(self, count: int) -> bytes:
        """The next `count` bytes; `UpgradeError` if there are fewer."""

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes in pieces of any length; `UpgradeError` if there are fewer."""

    def rest(self) -> Iterator[memoryview]:
        """Whatever is left, in pieces."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member as the archive tells it: `mode` is the raw number, `target` is `` except for links."""

    kind: Kind
    path: str
    mode: int
    size: int
    target: str


@dataclass(slots=True)
class _Extension:
    """What extended headers say about the member that follows them; empty values say nothing."""

    path: bytes = b""
    target: bytes = b""
    size: int | None = None
    seen: set[str] = field(default_factory=set)

    def once(self, what: str) -> None:
        if what in self.seen:
            raise refused("a member has two extended headers for the same thing")
        self.seen.add(what)


def refused(reason: str) -> UpgradeError:
    return UpgradeError(Code.UPGRADE_ARCHIVE_REFUSED, f"archive refused: {reason}")


class TarReader:
    """Walks one tar stream: `next_entry`, then `content` of it to its end, and so on until None."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._unread = 0
        self._extended_left = EXTENDED_AT_FIRST

    def next_entry(self) -> Entry | None:
        """The next member, or None at the end of the archive, whose padding has then been read."""
        if self._unread:
            raise RuntimeError("the content of the entry before was not read to its end")
        extension = _Extension()
        self._extended_left += EXTENDED_EACH
        while True:
            header = self._source.take(BLOCK)
            if header == _ZEROS:
                self._finish(extension)
                return None
            _check_form(header)
            flag = header[156:157]
            if flag in b"xLK":
                self._extend(extension, header, flag)
                continue
            entry = _entry(header, flag, extension)
            self._unread = entry.size
            return entry

    def content(self, entry: Entry) -> Iterator[memoryview]:
        """The bytes of `entry`, the last one returned, in pieces; its padding is skipped."""
        for piece in self._source.pieces(entry.size):
            self._unread -= len(piece)
            yield piece
        self._source.take(-entry.size % BLOCK)

    def _extend(self, extension: _Extension, header: bytes, flag: bytes) -> None:
        size = _number(header[124:136], "size")
        if size > MAX_EXTENDED_BYTES:
            raise refused(f"an extended header of {size} bytes, allowed are {MAX_EXTENDED_BYTES}")
        self._extended_left -= size
        if self._extended_left < 0:
            raise refused("extended headers that are larger than members need them")
        body = self._source.take(size)
        self._source.take(-size % BLOCK)
        extension.once(flag.decode("ascii"))
        if flag == b"x":
            _read_pax(body, extension)
        elif flag == b"L":
            extension.once("path")
            extension.path = _text_field(body)
        else:
            extension.once("linkpath")
            extension.target = _text_field(body)

    def _finish(self, extension: _Extension) -> None:
        if extension.seen:
            raise refused("the archive ends after an extended header")
        if self._source.take(BLOCK) != _ZEROS:
            raise refused("a single block of zeros inside the archive")
        padding = 0
        for piece in self._source.rest():
            padding += len(piece)
            if padding > MAX_PADDING_BYTES:
                raise refused(f"more than {MAX_PADDING_BYTES} bytes after the end of the archive")
            if bytes(piece).strip(b"\0"):
                raise refused("bytes after the end of the archive")


def _check_form(header: bytes) -> None:
    """Refuse a header whose magic or checksum is wrong (POSIX pax, section "ustar Interchange Format")."""
    if header[257:265] not in (b"ustar\x0000", b"ustar  \0"):
        raise refused("not a USTAR header")
    actual = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _octal(header[148:156], "checksum") != actual:
        raise refused("a header with a wrong checksum")


def _entry(header: bytes, flag: bytes, extension: _Extension) -> Entry:
    kind = _KINDS.get(flag)
    if kind is None:
        raise refused(f"{_REFUSED.get(flag, f'a member of the unknown type {flag!r}')} in the archive")
    path = _decode(extension.path or _ustar_path(header))
    if kind == "d":
        path = path.removesuffix("/")
    size = _number(header[124:136], "size") if extension.size is None else extension.size
    if kind != "f" and size:
        raise refused(f"{path[:80]!r} is a folder or link with content")
    target = _decode(extension.target or _text_field(header[157:257])) if kind == "l" else ""
    return Entry(kind, path, _octal(header[100:108], "mode"), size, target)


def _ustar_path(header: bytes) -> bytes:
    name = _text_field(header[:100])
    # GNU headers have other things where POSIX has the prefix.
    prefix = _text_field(header[345:500]) if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _read_pax(body: bytes, extension: _Extension) -> None:
    """Read records `<length> <key>=<value>\\n` (POSIX pax, section "pax Extended Header")."""
    start = 0
    seen = set()
    while start < len(body):
        space = body.find(b" ", start, start + 8)
        digits = body[start:space] if space > 0 else b""
        if not digits.isdigit():
            raise refused("a PAX record without a length")
        end = start + int(digits)
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        # A length that is too small cuts off the equals sign, one too large reaches no newline.
        if not equals or body[end - 1 : end] != b"\n":
            raise refused("a PAX record whose length is wrong")
        if key in seen:
            raise refused(f"the PAX record {key[:80]!r} stands twice")
        seen.add(key)
        if len(seen) > MAX_RECORDS:
            raise refused(f"a PAX header of more than {MAX_RECORDS} records")
        _apply_pax(key, value, extension)
        start = end


def _apply_pax(key: bytes, value: bytes, extension: _Extension) -> None:
    if key in (b"path", b"linkpath"):
        extension.once(key.decode("ascii"))
        if not value:
            raise refused(f"an empty PAX {key.decode('ascii')}")
        if key == b"path":
            extension.path = value
        else:
            extension.target = value
    elif key == b"size":
        if not value.isdigit() or len(value) > 16 or int(value) > MAX_NUMBER:
            raise refused("a PAX size that is no number or too large")
        extension.size = int(value)
    elif key.startswith(b"GNU.sparse."):
        raise refused("a sparse file in the archive")
    elif key == b"hdrcharset" and value != b"ISO-IR 10646 2000 UTF-8":
        raise refused("PAX records that are not UTF-8")


def _number(raw: bytes, what: str) -> int:
    """A size: octal, or base 256 as GNU writes it (first bit set), which must be positive and bounded."""
    if not raw[0] & 0x80:
        return _octal(raw, what)
    value = int.from_bytes(raw[1:], "big")
    if raw[0] != 0x80 or value > MAX_NUMBER:
        raise refused(f"a negative or too large {what}")
    return value


def _octal(raw: bytes, what: str) -> int:
    digits = raw.rstrip(b" \0").lstrip(b" ")
    if digits.strip(b"01234567"):
        raise refused(f"a {what} that is not an octal number")
    return int(digits or b"0", 8)


def _text_field(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _decode(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise refused(f"the name {name[:80]!r} is not UTF-8") from None

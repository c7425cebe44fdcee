"""From a blob on disk to the unpacked bytes of its archive, in bounded memory.

`verified_chunks` hands out a chunk only after its sha256 agreed with the index, so no decompressor ever
sees a byte that the signed manifest does not vouch for. `GzipStream` unpacks them in pieces of at most
`PIECE` bytes, however much a compressed byte may promise.
"""

import hashlib
import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

from fleetfoot_agent.worker.tarstream import refused
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError

PIECE: Final = 512 << 10
"""Most bytes unpacked at a time."""
FEED: Final = 64 << 10
"""Most compressed bytes given to zlib at a time: what it has not used yet, it copies at every call."""


def _engine() -> Any:
    """The fastest there is: ISA-L, three times as fast as zlib, where the extra `fast` is installed."""
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib


_ENGINE: Any = _engine()

_DIGEST: Final = 32
_GZIP: Final = 16 + zlib.MAX_WBITS


def verified_chunks(
    blob: IO[bytes],
    *,
    length: int,
    sha256: str,
    chunk_size: int,
    index: bytes,
    progress: Callable[[int], None] | None = None,
) -> Iterator[bytes]:
    """Yield the blob's chunks, each after its digest was found right; `progress` gets the bytes so far.

    After the last one the whole is judged: `UpgradeError` with `upgrade_length_mismatch` or
    `upgrade_checksum_mismatch`. The iterator must therefore be run to its end.
    """
    whole = hashlib.sha256()
    done = 0
    for number in range(len(index) // _DIGEST):
        chunk = _read(blob, min(chunk_size, length - done))
        if hashlib.sha256(chunk).digest() != index[number * _DIGEST : (number + 1) * _DIGEST]:
            raise UpgradeError(
                Code.UPGRADE_CHECKSUM_MISMATCH,
                f"chunk {number} (bytes {done} to {done + len(chunk)}) is not what the index says",
            )
        whole.update(chunk)
        done += len(chunk)
        if progress:
            progress(done)
        yield chunk
    if blob.read(1):
        raise UpgradeError(Code.UPGRADE_LENGTH_MISMATCH, f"the artifact is longer than {length} bytes")
    if whole.hexdigest() != sha256:
        raise UpgradeError(Code.UPGRADE_CHECKSUM_MISMATCH, "the artifact is not what the manifest says")


def _read(blob: IO[bytes], count: int) -> bytes:
    chunk = blob.read(count)
    while len(chunk) < count:
        more = blob.read(count - len(chunk))
        if not more:
            raise UpgradeError(Code.UPGRADE_LENGTH_MISMATCH, "the artifact is shorter than the manifest says")
        chunk += more
    return chunk


class PieceStream:
    """Unpacked bytes of one compressed stream, in pieces. A format says how the next piece is made."""

    def __init__(self) -> None:
        self._piece = memoryview(b"")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which should be few."""
        if len(self._piece) >= count:
            taken = bytes(self._piece[:count])
            self._piece = self._piece[count:]
            return taken
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes in pieces of at most `PIECE` bytes."""
        while count:
            if not self._piece and not self._refill():
                raise refused("the archive ends too early")
            piece = self._piece[:count]
            self._piece = self._piece[count:]
            count -= len(piece)
            yield piece

    def rest(self) -> Iterator[memoryview]:
        """Whatever is left, to the end of the stream; then that nothing follows it."""
        while self._piece or self._refill():
            piece, self._piece = self._piece, memoryview(b"")
            yield piece
        if self._has_more():
            raise refused("bytes after the end of the compressed data")

    def _refill(self) -> bool:
        """Unpack the next piece into `_piece`; False at the end of the stream."""
        raise NotImplementedError

    def _has_more(self) -> bool:
        """Whether compressed bytes follow the end of the stream."""
        raise NotImplementedError


class GzipStream(PieceStream):
    """The unpacked bytes of exactly one gzip member that fills the chunks to their last byte.

    Everything else is `upgrade_archive_refused`: damaged or truncated data, a wrong CRC, bytes or a
    second member after the end.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._inflate = _ENGINE.decompressobj(_GZIP)
        self._damage: type[Exception] = _ENGINE.error
        self._input = memoryview(b"")

    def _refill(self) -> bool:
        while not self._inflate.eof:
            feed = self._inflate.unconsumed_tail or self._next_input()
            try:
                piece = self._inflate.decompress(feed, PIECE)
            except self._damage as error:
                raise refused(f"damaged compressed data ({error})") from None
            if piece:
                self._piece = memoryview(piece)
                return True
            if not feed and not self._inflate.eof:
                raise refused("the compressed data ends too early")
        return False

    def _has_more(self) -> bool:
        return bool(self._inflate.unused_data or self._input or next(self._chunks, b""))

    def _next_input(self) -> memoryview:
        """Up to `FEED` bytes, none after the last chunk: zlib may still hold unpacked bytes back then."""
        if not self._input:
            self._input = memoryview(next(self._chunks, b""))
        feed, self._input = self._input[:FEED], self._input[FEED:]
        return feed

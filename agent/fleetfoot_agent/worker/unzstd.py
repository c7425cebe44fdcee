"""Unpacking zstd with the system's own libzstd, by ctypes.

No package index has wheels of a zstd decoder for armv7; libzstd.so.1 is on every Debian since 12 (dpkg itself
needs it), on every host with a current systemd, and one small package elsewhere. Where it is missing the
device says so before anything is fetched: `available` decides what `allow` is told.

Memory is bounded by `WINDOW_LOG`, whatever a frame asks for (RFC 8878, section 3.1.1.1.2 recommends 8 MiB).
"""

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from fleetfoot_agent.worker.gunzip import PIECE, PieceStream
from fleetfoot_agent.worker.tarstream import refused

WINDOW_LOG: Final = 23
"""Frames with a window of more than 2^23 bytes, 8 MiB, are refused."""

_LIBRARY: Final = "libzstd.so.1"
_OLDEST: Final = 10400  # 1.4.0: the first with a stable ZSTD_DCtx_setParameter
_WINDOW_LOG_MAX: Final = 100  # ZSTD_d_windowLogMax in zstd.h


# Both are of the stable interface of C (docs.python.org/3/c-api/bytes.html): without bytes to copy, the first
# leaves the new object's content open, to be written before anybody else sees it.
_new_bytes: Final = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address_of: Final = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
    ("PyBytes_AsString", ctypes.pythonapi)
)


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


@cache
def _library() -> Any:
    """The library with its functions declared, or None where there is no usable one."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        if library.ZSTD_versionNumber() < _OLDEST:
            return None
        library.ZSTD_createDCtx.restype = ctypes.c_void_p
        library.ZSTD_freeDCtx.argtypes = (ctypes.c_void_p,)
        library.ZSTD_DCtx_setParameter.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        library.ZSTD_DCtx_setParameter.restype = ctypes.c_size_t
        buffers = (ctypes.POINTER(_Buffer), ctypes.POINTER(_Buffer))
        library.ZSTD_decompressStream.argtypes = (ctypes.c_void_p, *buffers)
        library.ZSTD_decompressStream.restype = ctypes.c_size_t
        library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
        library.ZSTD_getErrorName.argtypes = (ctypes.c_size_t,)
        library.ZSTD_getErrorName.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return library


def available() -> bool:
    """Whether this machine can unpack zstd."""
    return _library() is not None


class ZstdStream(PieceStream):
    """The unpacked bytes of exactly one zstd frame that fills the chunks to their last byte.

    Everything else is `upgrade_archive_refused`: damaged or truncated data, a wrong checksum, too large a
    window, a dictionary, bytes or a second frame after the end. Only where `available`.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._zstd = _library()
        self._context = self._zstd.ZSTD_createDCtx()
        self._out = b""  # where the next piece is being made
        self._chunk = b""  # kept: the library reads from it
        self._in = _Buffer(None, 0, 0)
        self._ended = False
        if not self._context:
            raise MemoryError("no memory for a zstd context")
        self._check(self._zstd.ZSTD_DCtx_setParameter(self._context, _WINDOW_LOG_MAX, WINDOW_LOG))

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            self._zstd.ZSTD_freeDCtx(context)

    def _check(self, result: int) -> int:
        if self._zstd.ZSTD_isError(result):
            why = self._zstd.ZSTD_getErrorName(result).decode("ascii", "replace")
            raise refused(f"damaged compressed data ({why})")
        return result

    def _refill(self) -> bool:
        while not self._ended:
            fed = self._in.pos < self._in.size or self._feed()
            if not self._out:
                self._out = _new_bytes(None, PIECE)
            out = _Buffer(_address_of(self._out), PIECE, 0)
            left = self._check(
                self._zstd.ZSTD_decompressStream(self._context, ctypes.byref(out), ctypes.byref(self._in))
            )
            self._ended = left == 0
            if out.pos:
                self._piece, self._out = memoryview(self._out)[: out.pos], b""
                return True
            if not fed and not self._ended:
                raise refused("the compressed data ends too early")
        return False

    def _feed(self) -> bool:
        self._chunk = next(self._chunks, b"")
        source = ctypes.cast(ctypes.c_char_p(self._chunk), ctypes.c_void_p)
        self._in = _Buffer(source, len(self._chunk), 0)
        return bool(self._chunk)

    def _has_more(self) -> bool:
        return self._in.pos < self._in.size or bool(next(self._chunks, b""))

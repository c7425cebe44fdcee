"""Compressing with the system's own libzstd, by ctypes: the counterpart of the device's decoder.

The frame's window is at most 2^23 bytes, which is what devices grant, and it carries a checksum.
"""

import ctypes
from typing import IO, Any, Final

from fleetfoot_protocol.errors import FleetfootError

_LIBRARY: Final = "libzstd.so.1"
_OUT_BYTES: Final = 256 << 10
# zstd.h: ZSTD_cParameter and ZSTD_EndDirective, stable since 1.4.0.
_LEVEL, _WINDOW_LOG, _CHECKSUM = 100, 101, 201
_CONTINUE, _END = 0, 2


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY)
        library.ZSTD_createCCtx.restype = ctypes.c_void_p
        library.ZSTD_freeCCtx.argtypes = (ctypes.c_void_p,)
        library.ZSTD_CCtx_setParameter.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        library.ZSTD_CCtx_setParameter.restype = ctypes.c_size_t
        buffers = (ctypes.POINTER(_Buffer), ctypes.POINTER(_Buffer))
        library.ZSTD_compressStream2.argtypes = (ctypes.c_void_p, *buffers, ctypes.c_int)
        library.ZSTD_compressStream2.restype = ctypes.c_size_t
        library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    except (OSError, AttributeError) as error:
        raise FleetfootError(
            "request_invalid",
            f"tar.zst cannot be built here: {_LIBRARY} is missing or too old",
            remedy="on Debian: apt-get install libzstd1; or build with --format tar.gz",
        ) from error
    return library


class ZstdWriter:
    """One zstd frame written to `out`; `unpacked` counts the bytes that went in.

    FleetfootError `request_invalid` where this machine has no libzstd.
    """

    def __init__(self, out: IO[bytes], *, level: int = 19, window_log: int = 23) -> None:
        self.unpacked = 0
        self._out = out
        self._zstd = _library()
        self._context = self._zstd.ZSTD_createCCtx()
        self._buffer = ctypes.create_string_buffer(_OUT_BYTES)
        for parameter, value in ((_LEVEL, level), (_WINDOW_LOG, window_log), (_CHECKSUM, 1)):
            self._check(self._zstd.ZSTD_CCtx_setParameter(self._context, parameter, value))

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            self._zstd.ZSTD_freeCCtx(context)

    def write(self, data: bytes) -> None:
        """Compress these bytes."""
        self.unpacked += len(data)
        self._compress(data, _CONTINUE)

    def finish(self) -> None:
        """End the frame."""
        self._compress(b"", _END)

    def _check(self, result: int) -> int:
        if self._zstd.ZSTD_isError(result):
            raise RuntimeError("libzstd refused to compress")
        return result

    def _compress(self, data: bytes, directive: int) -> None:
        source = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        given = _Buffer(source, len(data), 0)
        while True:
            out = _Buffer(ctypes.addressof(self._buffer), _OUT_BYTES, 0)
            left = self._check(
                self._zstd.ZSTD_compressStream2(
                    self._context, ctypes.byref(out), ctypes.byref(given), directive
                )
            )
            self._out.write(ctypes.string_at(self._buffer, out.pos))
            if given.pos == given.size and (directive == _CONTINUE or left == 0):
                return

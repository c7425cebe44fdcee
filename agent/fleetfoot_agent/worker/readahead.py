"""Unpacking on a thread of its own: what is written now was unpacked while the piece before was written.

Reading, checking a chunk against the index, and unpacking happen there, in this order and for one chunk after
the other; what goes wrong reaches the reader where its bytes would have come. The decompressors let go of the
interpreter while they work, as does the kernel, so on two processors the shorter of both costs next to
nothing.
"""

import queue
import threading
from types import TracebackType
from typing import Final

from fleetfoot_agent.worker.gunzip import PieceStream

_WAITING: Final = 4
"""Most pieces that wait to be read, each of at most `PIECE` bytes; then the thread waits."""


class ReadAhead(PieceStream):
    """The bytes of another stream. A context manager: the thread ends with the block."""

    def __init__(self, stream: PieceStream) -> None:
        super().__init__()
        self._stream = stream
        self._room = threading.Semaphore(_WAITING)
        self._ready: queue.SimpleQueue[memoryview | BaseException | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="unpacker", daemon=True)

    def __enter__(self) -> "ReadAhead":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._room.release()
        self._thread.join()

    def _work(self) -> None:
        try:
            for piece in self._stream.rest():
                self._room.acquire()
                if self._closed:
                    return
                self._ready.put(piece)
        except BaseException as error:  # it is raised by `_refill`
            self._ready.put(error)
        else:
            self._ready.put(None)

    def _refill(self) -> bool:
        found = self._ready.get()
        if isinstance(found, memoryview):
            self._room.release()
            self._piece = found
            return True
        self._ready.put(found)  # asked again, it ends again
        if found is None:
            return False
        raise found

    def _has_more(self) -> bool:
        return False  # the stream itself has looked

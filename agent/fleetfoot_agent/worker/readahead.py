"""Steps of unpacking on threads of their own: what is written now was unpacked, and what is unpacked now was
read and verified, while the piece before went on.

Each step does its work in order, one item after the other, and what goes wrong reaches the reader where its
item would have come. hashlib, the decompressors and the kernel let go of the interpreter while they work, so
on more than one processor only the longest step takes time. Only large items change threads: each may cost a
wait for a processor.
"""

import queue
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Generic, TypeVar

from fleetfoot_agent.worker.gunzip import PieceStream

T = TypeVar("T")

_WAITING: Final = 4
"""Most pieces that wait to be read, each of at most `PIECE` bytes; then the thread waits."""


class _End:
    """No item follows; `failure` says why if that is not the end of what was to come."""

    def __init__(self, failure: BaseException | None) -> None:
        self.failure = failure


class Ahead(Generic[T]):
    """An iterator over `items`, which are made on a thread; at most `waiting` of them wait for the reader.

    A context manager: the thread ends with the block.
    """

    def __init__(self, items: Iterable[T], waiting: int, name: str) -> None:
        self._items = items
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(waiting):
            self._room.put(None)
        self._ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> "Ahead[T]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._room.put(None)
        self._thread.join()

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        found = self._ready.get()
        if not isinstance(found, _End):
            self._room.put(None)
            return found
        self._ready.put(found)  # asked again, it ends again
        raise found.failure or StopIteration

    def _work(self) -> None:
        try:
            for item in self._items:
                self._room.get()
                if self._closed:
                    return
                self._ready.put(item)
        except BaseException as error:  # it is raised where the next item would have come
            self._ready.put(_End(error))
        else:
            self._ready.put(_End(None))


class ReadAhead(PieceStream):
    """The bytes of another stream, unpacked on a thread. A context manager, as `Ahead` is."""

    def __init__(self, stream: PieceStream) -> None:
        super().__init__()
        self._pieces = Ahead(stream.rest(), _WAITING, "unpacker")

    def __enter__(self) -> "ReadAhead":
        self._pieces.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.__exit__(kind, error, trace)

    def _refill(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._piece = piece
        return True

    def _has_more(self) -> bool:
        return False  # the stream itself has looked

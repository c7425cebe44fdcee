"""sha256 beside other work: a piece is hashed on a thread of its own while the next one is unpacked.

hashlib and the decompressors let go of the interpreter while they work, so on two processors the digests of
a tree cost next to nothing. What is waiting is bounded; small pieces are hashed at once, the way to the
thread would cost more.
"""

import hashlib
import queue
import threading
from types import TracebackType
from typing import Final

_INLINE: Final = 16 << 10
"""Pieces of fewer bytes are hashed where they are."""
_WAITING: Final = 32
"""Most pieces that wait, each of at most 1 MiB; then whoever brings the next one waits."""

_Job = tuple["hashlib._Hash", bytes | memoryview]


class Digest:
    """A sha256 that grows; `hexdigest` counts once its `Hasher` has settled."""

    def __init__(self, jobs: "queue.Queue[_Job | None]") -> None:
        self._jobs = jobs
        self._hash = hashlib.sha256()
        self._elsewhere = False

    def update(self, piece: bytes | memoryview) -> None:
        """Add a piece, which must not change any more."""
        if not self._elsewhere and len(piece) < _INLINE:
            self._hash.update(piece)
            return
        self._elsewhere = True  # from here on in order, on the thread
        self._jobs.put((self._hash, piece))

    def hexdigest(self) -> str:
        """The digest of all pieces."""
        return self._hash.hexdigest()


class Hasher:
    """The thread and what waits for it. A context manager: it ends with the block."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="hasher", daemon=True)

    def __enter__(self) -> "Hasher":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()

    def digest(self) -> Digest:
        """A new, empty one."""
        return Digest(self._jobs)

    def settle(self) -> None:
        """Wait until everything that was brought is hashed."""
        self._jobs.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job[0].update(job[1])
            self._jobs.task_done()
        self._jobs.task_done()

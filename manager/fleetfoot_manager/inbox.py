"""What waits for the engine: a bounded line into which any thread hands, and one takes in batches.

The standard queue wakes its reader for every single item; at tens of thousands of messages a second that is
most of what they cost. Here a burst is handed in as one, and under load the reader waits for a full batch.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """`limit`: more than so many items wait only as long as one burst takes to be handed in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Sequence[T], timeout: float) -> bool:
        """Hand in a burst, all of it once there is room; whether there was within `timeout` seconds."""
        with self._lock:
            if not self._room.wait_for(self._has_room, timeout):
                return False
            self._items.extend(items)
            self._news.notify()
        return True

    def take(self, most: int, timeout: float, *, enough: int = 1, patience: float = 0.0) -> list[T]:
        """Up to `most` items: as soon as there are some, within `timeout` seconds.

        Once there are some, `patience` seconds more are waited until there are `enough`.
        """
        with self._lock:
            if timeout > 0:
                self._news.wait_for(self._at_least(1), timeout)
            if self._items and len(self._items) < enough:
                self._news.wait_for(self._at_least(enough), patience)
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            if self._has_room():
                self._room.notify_all()
        return taken

    def _has_room(self) -> bool:
        return len(self._items) < self._limit

    def _at_least(self, count: int) -> Callable[[], bool]:
        return lambda: len(self._items) >= count

"""What a broker has refused on one connection is asked for again.

A cluster without a leader refuses for a moment what it grants later: without another try the manager would be
connected and deaf. What an access list denies is refused again, and asked for once a minute at most.
"""

import random
import threading
import time
from collections.abc import Sequence

#: Seconds until the next try: at random, below the first at first, then twice that, up to the second.
_AGAIN = (1.0, 60.0)


class Subscriptions:
    """Of one connection. Asked by one thread, answered by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[int, Sequence[str]] = {}
        #: Answers that came before it was noted what they answer.
        self._early: dict[int, Sequence[bool]] = {}
        self._refused: dict[str, None] = {}
        self._refusals = 0
        self._due_at = 0.0

    def asked(self, mid: int, filters: Sequence[str]) -> None:
        """SUBSCRIBE `mid` was sent for these."""
        with self._lock:
            early = self._early.pop(mid, None)
            if early is None:
                self._asked[mid] = filters
            else:
                self._take(filters, early)

    def answered(self, mid: int, granted: Sequence[bool]) -> None:
        """The broker has answered `mid`, for each of its filters."""
        with self._lock:
            filters = self._asked.pop(mid, None)
            if filters is None:
                self._early[mid] = granted
            else:
                self._take(filters, granted)

    def due(self, now: float) -> list[str]:
        """What is to be asked for again at `now` (monotonic seconds)."""
        with self._lock:
            if not self._refused or now < self._due_at:
                return []
            names, self._refused = list(self._refused), {}
            return names

    def _take(self, filters: Sequence[str], granted: Sequence[bool]) -> None:
        refused = [name for name, good in zip(filters, granted, strict=False) if not good]
        self._refused |= dict.fromkeys(refused)
        if not refused:
            self._refusals = 0
            return
        limit = min(_AGAIN[1], _AGAIN[0] * 2 ** min(self._refusals, 10))
        self._refusals += 1
        self._due_at = time.monotonic() + random.uniform(0, limit)  # noqa: S311 - jitter, no secret

"""The outbox: the worker's events go out in order, and in/acked follows (contract section 6, rule 10).

An event counts as published when the broker has acknowledged it. Whatever was on its way when a connection
ended is sent again on the next: receivers see duplicates, never gaps.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fleetfoot_agent.spool import CourierSide


@dataclass(slots=True)
class _Sent:
    number: int
    mid: int | None  # None: nothing is to be awaited any more


class Outbox:
    """publish: sends bytes and returns the number by which they will be acknowledged, None if it cannot.

    window: how many may be on their way; interval: least seconds between two writings of in/acked.
    """

    def __init__(
        self, spool: CourierSide, publish: Callable[[bytes], int | None], *, window: int, interval: float
    ) -> None:
        self._spool = spool
        self._publish = publish
        self._window = window
        self._interval = interval
        self._acked = self._written = spool.read_acked()
        self._written_at = float("-inf")
        self._waiting: deque[int] = deque()
        self._sent: deque[_Sent] = deque()

    def look(self) -> None:
        """Take notice of the events in the spool."""
        last = self._sent[-1].number if self._sent else self._acked
        self._waiting = deque(number for number in self._spool.event_numbers() if number > last)

    def begin(self) -> None:
        """A session has begun: nothing is on its way."""
        self._sent.clear()
        self.look()

    def acknowledged(self, mid: int) -> None:
        """The broker has acknowledged `mid`, which may be somebody else's."""
        for sent in self._sent:
            if sent.mid == mid:
                sent.mid = None
                break
        self._advance()

    def pump(self) -> None:
        """Send as much as the window allows. Only while there is a session."""
        while self._waiting and len(self._sent) < self._window:
            number = self._waiting[0]
            payload = self._spool.read_event(number)
            if payload:
                mid = self._publish(payload)
                if mid is None:
                    return
                self._sent.append(_Sent(number, mid))
            else:  # dropped by the worker, or not an event: there is nothing to wait for
                self._sent.append(_Sent(number, None))
            self._waiting.popleft()
        self._advance()

    def flush(self, now: float, *, force: bool = False) -> None:
        """Write in/acked if it is due: when nothing is on its way, or the last writing is old enough."""
        if self._acked == self._written:
            return
        if force or not self._sent or now - self._written_at >= self._interval:
            self._spool.write_acked(self._acked)
            self._written, self._written_at = self._acked, now

    @property
    def sending(self) -> bool:
        """Whether something is on its way."""
        return bool(self._sent)

    @property
    def unwritten(self) -> bool:
        """Whether in/acked is behind."""
        return self._acked != self._written

    def _advance(self) -> None:
        while self._sent and self._sent[0].mid is None:
            self._acked = self._sent.popleft().number

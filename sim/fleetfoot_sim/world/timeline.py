"""Virtual time: what is to happen, in the order in which it happens."""

import heapq
from collections.abc import Callable
from itertools import count

#: When every run begins, unix seconds.
BEGIN = 1_800_000_000.0


class Timeline:
    """The clock of a run. Of two things at the same moment, the one that was asked for first comes first."""

    def __init__(self) -> None:
        self.now = BEGIN
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Let `act` happen at `moment`, or at once if that is past."""
        heapq.heappush(self._heap, (max(moment, self.now), next(self._number), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let `act` happen in `seconds`."""
        self.at(self.now + seconds, act)

    def run(self, seconds: float) -> None:
        """Let `seconds` pass, with everything that happens in them."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            moment, _, act = heapq.heappop(self._heap)
            self.now = moment
            act()
        self.now = end

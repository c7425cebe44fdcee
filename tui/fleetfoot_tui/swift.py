"""Settings of the interpreter with which keys are answered at once while thousands of messages arrive."""

import gc
import sys
import time

#: Seconds between two full collections, which take 0.1 s with 50 000 devices: they wait for a quiet moment.
_BETWEEN = 600.0
_QUIET = 5.0


def prepare() -> None:
    """Of the whole process, so only where the console is the whole program.

    The thread that receives must not keep keys waiting for its turn to end. And the collector, at its usual
    thresholds, walks over the whole fleet every few seconds, though almost nothing of it is ever garbage.
    """
    sys.setswitchinterval(0.001)
    gc.set_threshold(200_000, 50, 1_000)


class Sweeper:
    """Full collections while nobody types."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def idle(self, typed: float) -> None:
        """Now would be a moment; `typed`: when the last key came, by the monotonic clock."""
        now = time.monotonic()
        if now - self._last > _BETWEEN and now - typed > _QUIET:
            gc.collect()
            self._last = now

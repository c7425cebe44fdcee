"""Ctrl-C, SIGTERM and a closed terminal end the demo in order, whenever they come."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, each of the signals raises KeyboardInterrupt in the main thread, but not inside `held`.

    What starts something and what ends it is held: else a signal between a start and its note would leave a
    process that nobody knows of, and a second Ctrl-C would break off the cleaning up after the first.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._held = 0
        self._heard = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._heard = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal in here is raised at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._heard and not self._held:
                self._heard = False
                raise KeyboardInterrupt

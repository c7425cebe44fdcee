"""Errands: what another thread has the engine do, in one of its transactions, and waits for.

The answer is given only after the commit, so that nobody is told of what is not stored.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from fleetfoot_manager.work import Work
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError

T = TypeVar("T")


class Errand(Generic[T]):
    """`act` is run by the engine; `answer` has what it returns, or the FleetfootError it raised."""

    def __init__(self, act: Callable[[Work], T]) -> None:
        self.answer: Future[T] = Future()
        self._act = act
        self._value: list[T] = []
        self._error: FleetfootError | None = None

    def run(self, work: Work) -> None:
        """Act, in a step of a transaction."""
        try:
            self._value = [self._act(work)]
        except FleetfootError as error:
            self._error = error
            raise

    def settle(self) -> None:
        """The transaction is committed: give the answer."""
        if self._error is not None:
            self.answer.set_exception(self._error)
        elif self._value:
            self.answer.set_result(self._value[0])
        else:
            self.answer.set_exception(
                FleetfootError(Code.UPGRADE_INTERNAL, "a fault in the manager; its log says more")
            )

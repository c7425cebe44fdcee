"""Acts that were signed and have no answer yet: while the broker is lost they wait, and may still be done.

A person must see that, and must not press the same again; afterwards they must hear what became of it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fleetfoot_protocol.errors import FleetfootError

#: Seconds for which an answer to an act is waited for. What is signed lives ten seconds longer.
PATIENCE = 50.0
#: Seconds after which it is worth a word that an act has no answer yet.
_AT_ONCE = 1.0
_UNSURE = frozenset({"timeout", "broker_unreachable"})


class Underway:
    """Acts without an answer, by what they are called. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}

    @contextmanager
    def act(self, name: str) -> Iterator[None]:
        """While an act waits for its answer. A FleetfootError says what to make of having none."""
        with self._lock:
            self._since[name] = self._clock()
        try:
            yield
        except FleetfootError as error:
            if error.code in _UNSURE:
                raise unsure(error) from error
            raise
        finally:
            with self._lock:
                self._since.pop(name, None)

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._since

    def waiting(self) -> list[tuple[str, float]]:
        """Those that were not answered at once, with their seconds, the oldest first."""
        now = self._clock()
        with self._lock:
            found = [(name, now - since) for name, since in self._since.items()]
        return sorted((one for one in found if one[1] >= _AT_ONCE), key=lambda one: -one[1])


def name_of(verb: str, arguments: Mapping[str, Any]) -> str:
    """`pause r-7k2m9x0a7c`, `decide rollback r-7k2m9x0a7c`, `upgrade oven-1`."""
    about = [arguments.get(name) for name in ("decision", "rollout", "device", "component", "version")]
    return " ".join([verb.rpartition(".")[2], *(str(one) for one in about if one)])


def unsure(error: FleetfootError) -> FleetfootError:
    """Of an act without an answer nobody knows whether it is done."""
    return FleetfootError(
        error.code,
        f"{error.message}; it is not known whether it was done",
        remedy="it may be for 10 s more, if the broker comes back: look before you do it again",
    )

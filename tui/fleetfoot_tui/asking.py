"""Asking the manager without holding up the screen, and who may ask for what."""

from collections.abc import Mapping
from typing import Any, Protocol

from fleetfoot_protocol.errors import FleetfootError

TIMEOUT = 10.0


class Asker(Protocol):
    """What signs requests and waits for verified replies: a `fleetfoot_client.session.Session`."""

    def request(
        self,
        verb: str,
        group: str = "*",
        arguments: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Any]:
        """The result of a verb. FleetfootError where there is none."""
        ...

    def give_up(self) -> None:
        """Whoever waits for an answer is told at once that there will be none."""
        ...


class Nobody:
    """In a recording there is no manager."""

    def request(
        self,
        verb: str,
        group: str = "*",
        arguments: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Any]:
        """Refuses."""
        raise FleetfootError(
            "no_manager", "a recording has no manager to ask", remedy="ask it with 'fleetfoot tui'"
        )

    def give_up(self) -> None:
        """Nobody waits."""

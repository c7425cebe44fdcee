"""What a connection to the broker tells the engine, and what the engine needs of one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands. `session` rises with each; what carries an older one is past."""

    session: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection `session` has ended."""

    session: int


class Arrived(NamedTuple):
    """A message: the topic and payload as they came. `retained`: it was kept by the broker."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has acknowledged publication `mid` of `session`."""

    session: int
    mid: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker has granted a subscription of `session`."""

    session: int


Happening = Connected | Disconnected | Arrived | Acknowledged | Subscribed


class Transport(Protocol):
    """What the engine needs of a connection; topics are whole ones, with their root."""

    def publish(self, topic: str, payload: bytes, *, retained: bool, qos: int) -> int | None:
        """Hand a message over; its number in this session, or None without a connection."""

    def subscribe(self, filters: Iterable[str]) -> None:
        """Subscribe with QoS 1 on the present connection; nothing happens without one."""

    def fetch(self, topics: Iterable[str]) -> None:
        """Have what is retained under these names sent once more; as `subscribe`, and nothing stays of it."""

    def evict(self, client_ids: Iterable[str], clear: Iterable[str]) -> None:
        """End the session of a client by taking its names, then clear what is retained under `clear`."""

"""A broker and the wires to it, in memory: as good as MQTT may be, and as bad as the story makes it.

A wire keeps the order of its messages unless the weather is bad. In bad weather a message can be lost, come
twice, late, or behind a later one; of one that is lost on its way to the broker no acknowledgement comes.
What was subscribed lasts as long as the session.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from paho.mqtt.client import topic_matches_sub as _matches

from fleetfoot_sim.world.timeline import Timeline

#: topic, payload, whether the broker had kept it.
Deliver = Callable[[str, bytes, bool], None]
_LATENCY = (0.01, 0.2)
_LATE = 40.0


@lru_cache(100_000)
def topic_matches_sub(filter: str, topic: str) -> bool:
    """As paho's, which takes most of a run's time."""
    return bool(_matches(filter, topic))


@dataclass(slots=True)
class Weather:
    """Shares of messages, from 0 to 1, that are lost, doubled, and late."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0


@dataclass(slots=True, eq=False)
class Wire:
    """One client's session with the broker."""

    name: str
    deliver: Deliver
    filters: dict[str, None] = field(default_factory=dict)
    up: bool = True
    #: When the newest message of each direction arrives: none that is in time may arrive before it.
    reaches: list[float] = field(default_factory=lambda: [0.0, 0.0])


class Broker:
    """Keeps what is retained and hands on everything else. `seen` is told of all that clients send."""

    def __init__(self, time: Timeline, draw: random.Random, seen: Callable[[str, str, bytes], None]) -> None:
        self.weather = Weather()
        self.retained: dict[str, bytes] = {}
        self.lost = 0
        self._time = time
        self._draw = draw
        self._seen = seen
        self._wires: list[Wire] = []

    def connect(self, name: str, deliver: Deliver) -> Wire:
        """A new session; one of the same name that still stands is ended, as MQTT has it."""
        for other in [wire for wire in self._wires if wire.name == name]:
            self.cut(other)
        wire = Wire(name, deliver)
        self._wires.append(wire)
        return wire

    def cut(self, wire: Wire) -> None:
        """End a session: what is on its way to the client is lost."""
        wire.up = False
        if wire in self._wires:
            self._wires.remove(wire)

    def subscribe(self, wire: Wire, filters: Iterable[str], *, keep: bool = True) -> None:
        """Send what is retained under these filters, and from now on all that comes."""
        wanted = list(filters)

        def act() -> None:
            if keep:
                wire.filters |= dict.fromkeys(wanted)
            for topic, payload in self.retained.items():
                if any(topic_matches_sub(one, topic) for one in wanted):
                    self._hand(wire, topic, payload, True)

        self._carry(wire, 0, act, firm=True)

    def publish(
        self,
        wire: Wire,
        topic: str,
        payload: bytes,
        *,
        retained: bool,
        acknowledge: Callable[[], None] | None = None,
    ) -> None:
        """A message from a client."""
        self._seen(wire.name, topic, payload)

        def act() -> None:
            self.take(topic, payload, retained=retained)
            if acknowledge is not None:
                self._carry(wire, 1, acknowledge)

        self._carry(wire, 0, act)

    def take(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """A message has reached the broker."""
        if retained and payload:
            self.retained[topic] = payload
        elif retained:
            self.retained.pop(topic, None)
        for wire in list(self._wires):
            if any(topic_matches_sub(one, topic) for one in wire.filters):
                self._hand(wire, topic, payload, False)

    def _hand(self, wire: Wire, topic: str, payload: bytes, retained: bool) -> None:
        self._carry(wire, 1, lambda: wire.deliver(topic, payload, retained))

    def _carry(self, wire: Wire, direction: int, act: Callable[[], None], *, firm: bool = False) -> None:
        """Let `act` happen at the other end: once, twice or never. firm: whatever the weather."""
        weather, draw = self.weather, self._draw
        if not firm and draw.random() < weather.lost:
            self.lost += 1
            return
        for _ in range(1 if firm or draw.random() >= weather.doubled else 2):
            moment = self._time.now + draw.uniform(*_LATENCY)
            if not firm and draw.random() < weather.late:
                moment += draw.uniform(0, _LATE)
            else:
                moment = wire.reaches[direction] = max(moment, wire.reaches[direction])
            self._time.at(moment, lambda: act() if wire.up else None)

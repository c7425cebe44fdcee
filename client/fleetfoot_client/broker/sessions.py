"""Checks of what happens to a connection: Will, take-over, redelivery, keep-alive."""

import time
from typing import Self

from fleetfoot_client.broker.delivery import Found
from fleetfoot_client.broker.target import PATIENCE, Target
from fleetfoot_client.broker.wire import Will

_KEEPALIVE = 1
#: The broker must act after one and a half of it [MQTT-3.1.2-24]; Mosquitto 2.0 looks every 5 s only.
_KEEPALIVE_PATIENCE = 8.0


def will(target: Target) -> Found:
    """The Will is published when a connection breaks, and not when its client says goodbye."""
    topic = target.topic("will")
    with target.peer() as watcher:
        watcher.subscribe(topic)
        target.peer(will=Will(topic, b"in good order")).leave()
        begun = time.monotonic()
        target.peer(will=Will(topic, b"broken")).vanish()
        came = watcher.receive(PATIENCE)
        took = time.monotonic() - begun
    if came is None:
        return False, f"not published within {PATIENCE:g} s"
    if came.payload != b"broken":
        return False, "published although its client had disconnected in good order"
    return True, f"published {took:.1f} s after the connection broke"


def will_retained(target: Target) -> Found:
    """A retained Will is there for whoever subscribes later."""
    topic = target.topic("will/retained")
    with target.peer() as watcher:
        watcher.subscribe(topic)
        target.peer(will=Will(topic, b"offline", retained=True)).vanish()
        # Whoever subscribes before it is published gets it whether or not it is retained.
        if watcher.receive(PATIENCE) is None:
            return False, f"not published within {PATIENCE:g} s"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with target.peer() as reader:
            reader.subscribe(topic)
            message = reader.receive(0.3)
            if message is not None and message.payload == b"offline":
                return True, "found by a later subscriber"
    return False, "a later subscriber gets nothing"


def takeover(target: Target) -> Found:
    """A second connection of the same client id ends the first one and works."""
    name = target.client_id()
    older = target.peer(name)
    try:
        with target.peer(name) as newer:
            ended = older.closed_within(PATIENCE)
            newer.ping()
    finally:
        older.vanish()
    return ended, "the older connection is ended" if ended else "both stay connected"


def redelivery(target: Target) -> Found:
    """What a client with a session of its own did not acknowledge comes again when it is back."""
    topic, name = target.topic("again"), target.client_id()
    try:
        reader = target.peer(name, clean=False)
        reader.subscribe(topic)
        with target.peer() as writer:
            writer.publish(topic, b"again")
            first = reader.receive(PATIENCE)
            reader.vanish()
        if first is None:
            return False, "not even delivered once"
        with target.peer(name, clean=False) as reader:
            message = reader.receive(PATIENCE)
            if message is None:
                return False, "does not come again"
            reader.acknowledge(message)
            return True, "comes again, marked as a repetition" if message.again else "comes again"
    finally:
        target.peer(name).leave()  # a clean one, which ends the session at the broker


class Silence:
    """A connection that says nothing any more. Opened first and judged last: meanwhile others are checked."""

    def __init__(self, target: Target) -> None:
        self._peer = target.peer(keepalive=_KEEPALIVE)
        self._until = time.monotonic() + _KEEPALIVE_PATIENCE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.vanish()

    def judge(self) -> Found:
        """Whether the broker has ended it."""
        ended = self._peer.closed_within(max(self._until - time.monotonic(), 0.1))
        wait = f"{_KEEPALIVE_PATIENCE:g} s after it promised a sign each {_KEEPALIVE} s"
        return ended, "a silent connection is ended" if ended else f"a silent connection stands {wait}"

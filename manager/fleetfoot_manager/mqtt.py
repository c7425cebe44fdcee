"""The manager's connection to the broker: MQTT 3.1.1 by paho, one client object for each connection.

The store's outbox is the only queue: paho would keep its own messages over a reconnect and send old
retained documents after newer ones, so each connection gets a new client, and what was not acknowledged
on the old one is sent again by the engine. paho's callbacks only put inputs into the engine's queue; a
full queue makes the socket wait. Reconnects wait with full jitter, 0.1 to 15 s.
"""

import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from fleetfoot_protocol.dsse import MAX_ENVELOPE
from fleetfoot_protocol.errors import FleetfootError

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 30
_BACKOFF = (0.1, 15.0)
_FILTERS_PER_SUBSCRIBE = 64
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands. `session` rises with each; what carries an older one is past."""

    session: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection `session` has ended."""

    session: int


@dataclass(frozen=True, slots=True)
class Arrived:
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


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is."""

    host: str
    port: int


def parse_broker(url: str) -> Address:
    """`mqtt://host:port` as an address; the port is 1883 if not given. Raises FleetfootError `usage`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 1883
    except ValueError:
        host, port = None, 0
        parts = urlsplit("")
    if parts.scheme != "mqtt" or not host or parts.path not in ("", "/") or parts.username is not None:
        raise FleetfootError(
            "usage", f"{url[:200]!a} is no broker", remedy="give it as mqtt://host:port, without a path"
        )
    return Address(host, port)


class MqttTransport:
    """Keeps a connection to one broker and tells `sink` what happens; `start`, `stop`, once each.

    presence: the topic of the manager's presence; its Last Will says `offline`.
    """

    def __init__(
        self, address: Address, client_id: str, presence: str, sink: Callable[[Happening], None]
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._presence = presence
        self._sink = sink
        self._sessions = itertools.count(1)
        self._client: mqtt.Client | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt supervision", daemon=True)

    def start(self) -> None:
        """Begin to connect; `Connected` comes when a connection stands."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Disconnect in order (no Last Will) and end; `timeout` in seconds."""
        self._stopping.set()
        client = self._client
        if client is not None:
            client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def publish(self, topic: str, payload: bytes, *, retained: bool, qos: int) -> int | None:
        """Hand a message to the present connection; None if there is none."""
        client = self._client
        if client is None:
            return None
        info = client.publish(topic, payload, qos=qos, retain=retained)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def subscribe(self, filters: Iterable[str]) -> None:
        """Subscribe on the present connection, some filters with each packet."""
        client = self._client
        if client is None:
            return
        wanted = [(text, 1) for text in filters]
        for start in range(0, len(wanted), _FILTERS_PER_SUBSCRIBE):
            client.subscribe(wanted[start : start + _FILTERS_PER_SUBSCRIBE])

    def _run(self) -> None:
        wait = _BACKOFF[0]
        while not self._stopping.is_set():
            try:
                lived = self._one_connection(next(self._sessions))
            except (OSError, ValueError) as error:
                log.info("broker=%s:%d unreachable: %s", self._address.host, self._address.port, error)
                lived = False
            wait = _BACKOFF[0] if lived else min(wait * 2, _BACKOFF[1])
            self._stopping.wait(random.uniform(0, wait))  # noqa: S311 - jitter, no secret

    def _one_connection(self, session: int) -> bool:
        """Connect and stay until the connection ends. Returns whether it ever stood."""
        link = _Link(session, self._sink)
        client = self._new_client(link)
        client.connect(self._address.host, self._address.port, keepalive=KEEPALIVE_SECONDS)
        client.loop_start()
        try:
            if link.answered.wait(_CONNECT_SECONDS) and link.stands:
                self._client = client
                self._sink(Connected(session))
                log.info("connected broker=%s:%d session=%d", self._address.host, self._address.port, session)
                link.ended.wait()
        finally:
            self._client = None
            client.disconnect()
            client.loop_stop()
            if link.stands:
                self._sink(Disconnected(session))
        return link.stands

    def _new_client(self, link: "_Link") -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_SECONDS
        client.will_set(self._presence, b"offline", qos=1, retain=True)
        client.max_inflight_messages_set(100)
        client.on_connect = link.on_connect
        client.on_disconnect = link.on_disconnect
        client.on_message = link.on_message
        client.on_publish = link.on_publish
        client.on_subscribe = link.on_subscribe
        return client


class _Link:
    """The callbacks of one connection: they note and enqueue, and decide nothing."""

    def __init__(self, session: int, sink: Callable[[Happening], None]) -> None:
        self._session = session
        self._sink = sink
        self.answered = threading.Event()
        self.ended = threading.Event()
        self.stands = False

    def on_connect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        self.stands = not reason.is_failure
        if not self.stands:
            log.warning("the broker refuses the connection: %s", reason)
        self.answered.set()

    def on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        log.info("connection ended session=%d: %s", self._session, reason)
        self.answered.set()
        self.ended.set()

    def on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if len(message.payload) > MAX_ENVELOPE:
            log.warning("dropped: a message of %d bytes", len(message.payload))
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:  # paho decodes it on demand
            return
        self._sink(Arrived(topic, bytes(message.payload), bool(message.retain)))

    def on_publish(self, _client: mqtt.Client, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        self._sink(Acknowledged(self._session, mid))

    def on_subscribe(
        self, _client: mqtt.Client, _data: Any, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            log.warning("the broker refuses a subscription; see its access rules")
        self._sink(Subscribed(self._session))

"""The manager's connection to the broker: MQTT 3.1.1 by paho, one client object for each connection.

The store's outbox is the only queue: paho would keep its own messages over a reconnect and send old
retained documents after newer ones, so each connection gets a new client, and what was not acknowledged
on the old one is sent again by the engine. paho's callbacks only note what came, and each burst of it is put
into the engine's queue as one; a full queue makes the socket wait. Reconnects wait with full jitter, 0.1 to
15 s.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from fleetfoot_manager.broker_address import Address, Credentials
from fleetfoot_manager.happenings import Acknowledged, Arrived, Connected, Disconnected, Happening, Subscribed
from fleetfoot_manager.netloop import BufferedClient, NetworkLoop
from fleetfoot_manager.subscriptions import Subscriptions
from fleetfoot_protocol.dsse import MAX_ENVELOPE

log = logging.getLogger(__name__)

_Client = TypeVar("_Client", bound=mqtt.Client)

KEEPALIVE_SECONDS = 30
_BACKOFF = (0.1, 15.0)
_FILTERS_PER_SUBSCRIBE = 64
_CONNECT_SECONDS = 5.0
_GOODBYE_SECONDS = 1.0
#: A publication that is not acknowledged for so long is sent again, which takes a new connection.
ACK_SECONDS = 30.0


class MqttTransport:
    """Keeps a connection to one broker and tells `sink` what happens, in bursts; `start`, `stop`, once each.

    presence: the topic of the manager's presence; its Last Will says `offline`.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        presence: str,
        sink: Callable[[Sequence[Happening]], None],
        credentials: Credentials | None = None,
    ) -> None:
        self._address = address
        self._credentials = credentials or Credentials()
        self._client_id = client_id
        self._presence = presence
        self._sink = sink
        self._sessions = itertools.count(1)
        self._client: mqtt.Client | None = None
        self._link: _Link | None = None
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
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return None
        if qos and (link := self._link) is not None:
            link.sent(info.mid)
        return info.mid

    def subscribe(self, filters: Iterable[str]) -> None:
        """Subscribe on the present connection, some filters with each packet."""
        client, link, wanted = self._client, self._link, list(filters)
        if client is None or link is None:
            return
        for start in range(0, len(wanted), _FILTERS_PER_SUBSCRIBE):
            some = wanted[start : start + _FILTERS_PER_SUBSCRIBE]
            _, mid = client.subscribe([(text, 1) for text in some])
            if mid is not None:
                link.subscriptions.asked(mid, some)

    def fetch(self, topics: Iterable[str]) -> None:
        """Subscribe and unsubscribe: retained messages come with a subscription and at no other time.

        At QoS 0: what is lost is asked for again, and a NATS cluster makes a replicated consumer for every
        subscription at QoS 1, some half a second each.
        """
        client = self._client
        if client is None:
            return
        wanted = list(topics)
        for start in range(0, len(wanted), _FILTERS_PER_SUBSCRIBE):
            some = wanted[start : start + _FILTERS_PER_SUBSCRIBE]
            client.subscribe([(text, 0) for text in some])
            client.unsubscribe(some)

    def evict(self, client_ids: Iterable[str], clear: Iterable[str]) -> None:
        """Take these names for a moment, on connections of their own: every broker ends the older one.

        What it had retained, its Last Will too, is cleared by the same connection, thus after it.
        """
        names, wanted = list(client_ids), list(clear)

        def act() -> None:
            for name in names:
                self._evict(name, wanted)

        threading.Thread(target=act, name=f"evict {names[0]}", daemon=True).start()

    def _evict(self, client_id: str, clear: list[str]) -> None:
        client = self._plain_client(client_id, mqtt.Client)
        try:
            client.connect(self._address.host, self._address.port, keepalive=KEEPALIVE_SECONDS)
            client.loop_start()
            for topic in clear:
                client.publish(topic, b"", qos=1, retain=True).wait_for_publish(_CONNECT_SECONDS)
            log.info("evicted client=%s", client_id)
        except (OSError, ValueError, RuntimeError) as error:
            log.warning("cannot evict client=%s: %s", client_id, error)
        finally:
            client.disconnect()
            client.loop_stop()

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
        loop = NetworkLoop(client, link.count, link.hand_on)
        try:
            self._await_answer(loop, link)
            if link.stands and not link.ended:
                self._link, self._client = link, client
                self._sink([Connected(session)])
                log.info("connected broker=%s:%d session=%d", self._address.host, self._address.port, session)
                self._stay(loop, link)
        finally:
            self._client = self._link = None
            client.disconnect()
            end = time.monotonic() + _GOODBYE_SECONDS
            while client.socket() is not None and time.monotonic() < end:
                loop.turn()
            loop.close()
            if link.stands:
                self._sink([Disconnected(session)])
        return link.stands

    def _await_answer(self, loop: NetworkLoop, link: "_Link") -> None:
        end = time.monotonic() + _CONNECT_SECONDS
        while not (link.answered or self._stopping.is_set()) and time.monotonic() < end:
            loop.turn()

    def _stay(self, loop: NetworkLoop, link: "_Link") -> None:
        look = time.monotonic() + 1.0
        while not link.ended:
            loop.turn()
            if time.monotonic() >= look:
                look = time.monotonic() + 1.0
                self.subscribe(link.subscriptions.due(time.monotonic()))
                if link.overdue(ACK_SECONDS, loop.read_up_to):
                    log.warning("the broker does not acknowledge session=%d", link.session)
                    return

    def _plain_client(self, client_id: str, kind: type[_Client]) -> _Client:
        client = kind(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_SECONDS
        if self._credentials.username is not None:
            client.username_pw_set(self._credentials.username, self._credentials.password())
        if self._address.tls:
            # Read anew for every connection, so that a renewed certificate is used without a restart.
            client.tls_set_context(self._credentials.context())
        return client

    def _new_client(self, link: "_Link") -> BufferedClient:
        client = self._plain_client(self._client_id, BufferedClient)
        client.will_set(self._presence, b"offline", qos=1, retain=True)
        client.max_inflight_messages_set(100)
        client.on_connect = link.on_connect
        client.on_disconnect = link.on_disconnect
        client.on_message = link.on_message
        client.taker = link.take
        client.on_publish = link.on_publish
        client.on_subscribe = link.on_subscribe
        return client


class _Link:
    """The callbacks of one connection: they note what came, and decide nothing."""

    def __init__(self, session: int, sink: Callable[[Sequence[Happening]], None]) -> None:
        self.session = session
        self.answered = False
        self.ended = False
        self.stands = False
        self.subscriptions = Subscriptions()
        self._sink = sink
        self._came: list[Happening] = []
        self._lock = threading.Lock()
        #: Publications by number and when they were sent; those acknowledged before that was noted.
        self._waiting: dict[int, float] = {}
        self._early: set[int] = set()

    def count(self) -> int:
        """How much has come and is not handed on."""
        return len(self._came)

    def hand_on(self) -> None:
        """Give what came to the sink, which may make us wait."""
        if self._came:
            came, self._came = self._came, []
            self._sink(came)

    def sent(self, mid: int) -> None:
        """A publication was handed over; its acknowledgement may have come already."""
        with self._lock:
            if mid in self._early:
                self._early.discard(mid)
            else:
                self._waiting[mid] = time.monotonic()

    def overdue(self, seconds: float, read_up_to: float) -> bool:
        """Whether a publication waits for its acknowledgement for longer than that, by what was read until
        then (monotonic seconds).

        What has come and was not read may hold it: a new connection would bring everything that devices have
        retained once more, to a manager that is behind already.
        """
        with self._lock:
            oldest = next(iter(self._waiting.values()), None)
        return oldest is not None and read_up_to - oldest > seconds

    def on_connect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        self.stands = not reason.is_failure
        if not self.stands:
            log.warning("the broker refuses the connection: %s", reason)
        self.answered = True

    def on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        log.info("connection ended session=%d: %s", self.session, reason)
        self.answered = self.ended = True

    def on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic.encode()
        except UnicodeDecodeError:  # paho decodes it on demand
            return
        self.take(topic, bytes(message.payload), message.retain)

    def take(self, topic: bytes, payload: bytes, retained: bool) -> None:
        """A message came."""
        if len(payload) > MAX_ENVELOPE:
            log.warning("dropped: a message of %d bytes", len(payload))
            return
        try:
            self._came.append(Arrived(topic.decode(), payload, retained))
        except UnicodeDecodeError:
            return

    def on_publish(self, _client: mqtt.Client, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        with self._lock:
            if self._waiting.pop(mid, None) is None:
                self._early.add(mid)
        self._came.append(Acknowledged(self.session, mid))

    def on_subscribe(
        self, _client: mqtt.Client, _data: Any, mid: int, reasons: Any, _properties: Any
    ) -> None:
        granted = [not reason.is_failure for reason in reasons]
        self.subscriptions.answered(mid, granted)
        if not all(granted):
            log.warning("the broker refuses a subscription; see its access rules")
            return
        self._came.append(Subscribed(self.session))

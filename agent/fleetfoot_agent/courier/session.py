"""The MQTT session: connecting, staying connected, and what goes in and out (contract section 1).

All of it happens on the courier's one thread, by paho's interface for an outside event loop, except that
connecting, which may hang in name resolution or TLS, has a short-lived thread of its own. Reconnecting is
ours: paho's waits without jitter. Every connection gets a fresh client and a clean session, so that nothing
half sent of the old one is left in it; the outbox and the retained state are sent anew by their owners.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any, Protocol

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from fleetfoot_agent.config import AgentConfig, BrokerConfig
from fleetfoot_agent.courier.timing import full_jitter
from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

log = logging.getLogger(__name__)

_OK = MQTTErrorCode.MQTT_ERR_SUCCESS
#: Packets read in one go before other things get their turn.
_READS = 64


class SessionUser(Protocol):
    """What the session tells its owner, always on the owner's thread."""

    def session_up(self) -> None:
        """The broker has accepted us."""

    def subscribed(self) -> None:
        """The broker has answered the first subscriptions: what is published is heard from now on."""

    def session_down(self) -> None:
        """It was up and is lost."""

    def received(self, topic: str, payload: bytes) -> None:
        """A message came. It is acknowledged when this returns."""

    def acknowledged(self, mid: int) -> None:
        """The broker has acknowledged our message `mid`."""


class State(Enum):
    WAITING = auto()
    CONNECTING = auto()
    GREETING = auto()
    UP = auto()


class Session:
    """One device's connection to the broker. Not for several threads; `nudge` wakes the owner's loop."""

    def __init__(
        self, config: AgentConfig, tuning: Tuning, user: SessionUser, nudge: Callable[[], None]
    ) -> None:
        self._broker = config.broker
        self._device = config.device
        self._tuning = tuning
        self._user = user
        self._nudge = nudge
        self._presence = topics.build(
            Kind.PRESENCE, root=config.broker.topic_root, group=config.group, device=config.device
        )
        self._client: Client | None = None
        self._connector: _Connector | None = None
        self._state = State.WAITING
        self._since = 0.0
        self._retry_at = 0.0
        self._attempt = 0
        self._fault: str | None = None
        #: Subscriptions that wait for their answer, by message; those that were refused, and until when.
        self._asked: dict[int, tuple[float, list[str]]] = {}
        self._granted: set[str] = set()
        self._hearing = False
        self._unacknowledged: dict[int, float] = {}
        self._refused: set[str] = set()
        self._refusals = 0
        self._refused_until = 0.0

    @property
    def up(self) -> bool:
        """Whether the broker has accepted us."""
        return self._state is State.UP

    @property
    def hearing(self) -> bool:
        """Whether it is up and the broker has answered the first subscriptions, granted or not."""
        return self.up and self._hearing

    def poll_for(self) -> tuple[int, int] | None:
        """(file descriptor, poll events) to wait for, None while there is no connection to wait for."""
        if self._client is None or self._state not in (State.GREETING, State.UP):
            return None
        sock = self._client.socket()
        if sock is None:
            return None
        return sock.fileno(), select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)

    def step(self, now: float) -> float:
        """Do what is due at `now` (monotonic seconds). Returns when it wants to be called at the latest."""
        if self._state is State.WAITING and now >= self._retry_at:
            self._begin(now)
        if self._state is State.CONNECTING and self._connector is not None and self._connector.done:
            self._greet(self._connector, now)
        if self._state in (State.GREETING, State.UP) and self._client is not None:
            self._check(self._client.loop_misc(), now)
        if self._state is State.GREETING and now - self._since > self._tuning.connack_timeout:
            self._lose("the broker does not answer", now)
        self._ask_again(now)
        # A message that a cluster lost with its leader is sent again only on a new connection.
        oldest = next(iter(self._unacknowledged.values()), now)
        if self.up and now - oldest > self._tuning.ack_timeout:
            self._lose("the broker does not acknowledge", now)
        # Connected and deaf is worse than not connected: nobody would notice.
        asked_at, _ = next(iter(self._asked.values()), (now, []))
        if self.up and now - asked_at > self._tuning.suback_timeout:
            self._lose("the broker does not answer a subscription", now)
        if self._unread():
            self.ready(select.POLLIN, now)
        if self._unread():
            return now
        return self._retry_at if self._state is State.WAITING else now + 1.0

    def ready(self, events: int, now: float) -> None:
        """The descriptor of `poll_for` is ready for `events`."""
        client = self._client
        if client is None:
            return
        if events & ~select.POLLOUT:
            for _ in range(_READS):
                if not self._check(self._guarded(client.loop_read), now):
                    return
                if not self._unread():
                    break
        if client.want_write():
            self._check(self._guarded(client.loop_write), now)

    def _unread(self) -> bool:
        """Whether TLS holds bytes that it has taken from the socket: poll will not tell of them."""
        sock = None if self._client is None else self._client.socket()
        pending = getattr(sock, "pending", None)
        return pending is not None and pending() > 0

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int | None:
        """Send a message; the number by which it will be acknowledged, None if there is no session."""
        if self._client is None or self._state is not State.UP:
            return None
        info = self._client.publish(topic, payload, qos, retain)
        if info.rc != _OK:
            return None
        if qos:
            self._unacknowledged[info.mid] = time.monotonic()
        return info.mid

    def publish_presence(self, online: bool) -> int | None:
        """Say `online` or `offline` (retained)."""
        return self.publish(self._presence, b"online" if online else b"offline", qos=1, retain=True)

    def subscribe(self, names: Iterable[str]) -> None:
        """Subscribe to topics by their exact names; nothing while there is no session."""
        wanted = [(name, self._qos(name)) for name in sorted(names)]
        if wanted and self._client is not None and self.up:
            _, mid = self._client.subscribe(wanted)
            if mid is not None:
                self._asked[mid] = (time.monotonic(), [name for name, _ in wanted])

    def _qos(self, name: str) -> int:
        """0 for a manifest: it is retained and asked for until it has come, so a lost one is asked for again.

        With 1, a cluster of NATS makes a consumer for each device and release, and takes half a second to.
        """
        topic = topics.parse(name, root=self._broker.topic_root)
        return 0 if topic is not None and topic.kind is Kind.RELEASE else 1

    def _ask_again(self, now: float) -> None:
        """Subscribe to what was refused, when its time has come."""
        if self._refused and self.up and now >= self._refused_until:
            names, self._refused = self._refused, set()
            self.subscribe(names)

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Take subscriptions back; nothing while there is no session."""
        dropped = sorted(names)
        self._refused.difference_update(dropped)
        self._granted.difference_update(dropped)
        if dropped and self._client is not None and self.up:
            self._client.unsubscribe(dropped)

    def close(self) -> None:
        """End the connection in good order: the broker publishes no Will. Waits for a connecting thread."""
        if self._connector is not None:
            self._connector.join()
            self._client, self._connector = self._connector.client, None
        if self._client is not None and self._state is State.UP:
            self._client.on_connect = self._client.on_message = self._client.on_publish = None
            self._client.disconnect()
            # disconnect() writes at once unless the socket is full: then the Will tells the same.
        self._drop()
        self._state, self._retry_at = State.WAITING, float("inf")

    def _begin(self, now: float) -> None:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=topics.device_client_id(self._device, root=self._broker.topic_root),
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._tuning.connect_timeout
        client.max_inflight_messages = self._tuning.outbox_window + 10
        client.will_set(self._presence, b"offline", qos=1, retain=True)
        self._connector = _Connector(client, self._broker, self._nudge)
        self._state, self._since = State.CONNECTING, now
        self._asked.clear()
        self._granted.clear()
        self._hearing = False
        self._unacknowledged.clear()
        self._refused.clear()
        self._refusals = 0
        self._connector.start()

    def _greet(self, connector: "_Connector", now: float) -> None:
        connector.join()
        self._connector = None
        self._client = client = connector.client
        if connector.fault is not None or client.socket() is None:
            self._lose(connector.fault or "the broker hung up", now)
            return
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        self._fault = None
        self._state, self._since = State.GREETING, now

    def _check(self, outcome: MQTTErrorCode, now: float) -> bool:
        """Whether the connection still stands after what paho did."""
        if self._client is None:
            return False
        if outcome == _OK and self._fault is None and self._client.socket() is not None:
            return True
        self._lose(self._fault or f"paho: {outcome.name}", now)
        return False

    def _guarded(self, work: Callable[[], MQTTErrorCode]) -> MQTTErrorCode:
        # Whatever bytes a broker sends, the worst they may do is end this connection.
        try:
            return work()
        except Exception as error:
            log.warning("event=broker_bytes device=%s error=%a", self._device, error)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _lose(self, reason: str, now: float) -> None:
        was_up = self.up
        if was_up and now - self._since >= self._tuning.stable_after:
            self._attempt = 0
        delay = full_jitter(self._attempt, self._tuning.reconnect_base, self._tuning.reconnect_cap)
        self._attempt += 1
        self._drop()
        self._state, self._retry_at = State.WAITING, now + delay
        log.info(
            "event=disconnected device=%s broker=%s:%d reason=%a retry_in=%.1f",
            self._device,
            self._broker.host,
            self._broker.port,
            reason,
            delay,
        )
        if was_up:
            self._user.session_down()

    def _drop(self) -> None:
        client, self._client = self._client, None
        sock = None if client is None else client.socket()
        if sock is not None:
            sock.close()

    # paho's callbacks. They run inside loop_read, on the owner's thread.

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._fault = f"refused: {code}"
            return
        self._state, self._since = State.UP, time.monotonic()
        log.info(
            "event=connected device=%s broker=%s:%d tls=%s",
            self._device,
            self._broker.host,
            self._broker.port,
            self._broker.tls,
        )
        self._user.session_up()

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._user.received(topic, bytes(message.payload))

    def _on_publish(self, _client: Client, _data: Any, mid: int, _code: Any, _properties: Any) -> None:
        self._unacknowledged.pop(mid, None)
        self._user.acknowledged(mid)

    def _on_subscribe(self, _client: Client, _data: Any, mid: int, codes: list[Any], _more: Any) -> None:
        _, asked = self._asked.pop(mid, (0.0, []))
        refused = {name for name, code in zip(asked, codes, strict=False) if code.is_failure}
        if refused:
            log.warning("event=subscription_refused device=%s topics=%d", self._device, len(refused))
        new = set(asked) - refused - self._granted
        self._granted |= new
        if new:
            log.info("event=subscribed device=%s topics=%d", self._device, len(self._granted))
        # A cluster without a leader refuses for a moment what it grants later: without another try the
        # device would be connected and deaf. What an access list denies is refused again, once a minute.
        self._refused |= refused
        self._refusals = self._refusals + 1 if refused else 0
        if self._refused:
            pause = full_jitter(self._refusals, self._tuning.reconnect_base, self._tuning.reconnect_cap)
            self._refused_until = time.monotonic() + pause
        if not self._hearing and not self._asked:
            self._hearing = True
            self._user.subscribed()


class _Connector(threading.Thread):
    """TCP, TLS and CONNECT for one client; `fault` says in words what failed."""

    def __init__(self, client: Client, broker: BrokerConfig, nudge: Callable[[], None]) -> None:
        super().__init__(name="courier-connect", daemon=True)
        self.client = client
        self.fault: str | None = None
        self.done = False
        self._broker = broker
        self._notify = nudge

    def run(self) -> None:
        try:
            self._connect()
        except Exception as error:  # a wrong file or name must not end the courier: it may be put right
            self.fault = f"{type(error).__name__}: {error}"
        self.done = True
        self._notify()

    def _connect(self) -> None:
        broker = self._broker
        if broker.username is not None:
            self.client.username_pw_set(broker.username, _password(broker))
        if broker.tls:
            self.client.tls_set_context(_tls_context(broker))
        self.client.connect(broker.host, broker.port, broker.keepalive)


def _password(broker: BrokerConfig) -> str | None:
    if broker.password_file is None:
        return None
    return broker.password_file.read_text("utf-8").split("\n", 1)[0].rstrip("\r")


def _tls_context(broker: BrokerConfig) -> Any:
    # Made for every connection, so that a renewed certificate is used without a restart.
    import ssl

    context = ssl.create_default_context(cafile=None if broker.ca_file is None else str(broker.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if broker.cert_file is not None:
        context.load_cert_chain(broker.cert_file, broker.key_file)
    return context

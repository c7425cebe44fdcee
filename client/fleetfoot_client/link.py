"""The MQTT connection under a session: connect, subscribe and wait for it, publish, hand over what arrives.

MQTT 3.1.1 on paho's own thread. After a lost connection it comes back by itself and subscribes again.
What nobody subscribed to is dropped: some brokers send it (contract section 1).
"""

import logging
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from fleetfoot_client import files
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol.errors import FleetfootError

log = logging.getLogger(__name__)

#: Receives (topic, payload, retained) on paho's thread.
Receiver = Callable[[str, bytes, bool], None]

_KEEPALIVE = 30
#: Seconds between two attempts to come back, at most.
_PATIENCE = 10
_QOS = 1
#: Topics of which it is remembered whether they are wanted.
_MATCHED = 300_000


class Link:
    """One connection. Open it, close it; all methods may be called from any thread but paho's.

    patience: seconds between two attempts to come back, at most.
    """

    def __init__(self, profile: Profile, receiver: Receiver, *, patience: int = _PATIENCE) -> None:
        self._patience = patience
        self._address = profile.address
        self._receiver = receiver
        self._filters: list[str] = []
        #: Topic -> whether somebody subscribed to it: matching costs more than everything else here.
        self._wanted: dict[str, bool] = {}
        self._changed = threading.Condition()
        self._connected = False
        self._closing = False
        self._refusal = ""
        self._granted: dict[int, list[ReasonCode]] = {}
        self._client = self._make(profile)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection and it was not lost since."""
        return self._connected

    def open(self, timeout: float) -> None:
        """Connect. FleetfootError `broker_unreachable` if that does not succeed in `timeout` seconds."""
        self._client.connect_timeout = timeout
        try:
            self._client.connect(self._address.host, self._address.port, _KEEPALIVE)
        except (OSError, ValueError) as error:
            raise self._unreachable(getattr(error, "strerror", None) or str(error)) from error
        self._client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._refusal, timeout)
            if self._connected:
                return
            why = self._refusal or f"it did not answer within {timeout:g} s"
        self.close()
        raise self._unreachable(why)

    def begin(self, filters: list[str]) -> None:
        """Connect and subscribe as soon as the broker is there; `trouble` says why it is not."""
        self._filters += [f for f in filters if f not in self._filters]
        self._client.connect_async(self._address.host, self._address.port, _KEEPALIVE)
        self._client.loop_start()

    @property
    def trouble(self) -> str:
        """What the broker refused, in words; empty if nothing."""
        return self._refusal

    def close(self) -> None:
        """Disconnect and end paho's thread."""
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()
        # paho closes its own two sockets when it is freed, which must not be left to whoever breaks circles.
        self._client.on_connect = self._client.on_disconnect = None
        self._client.on_subscribe = self._client.on_message = None

    def subscribe(self, filters: list[str], timeout: float) -> None:
        """Subscribe and wait until the broker has agreed.

        FleetfootError `not_allowed` if it refuses one, `broker_unreachable` if it is silent for `timeout`
        seconds.
        """
        with self._changed:
            self._filters += [f for f in filters if f not in self._filters]
            self._wanted = {}
        _, mid = self._client.subscribe([(f, _QOS) for f in filters])
        if mid is None:
            raise self._unreachable("the connection is lost")
        with self._changed:
            self._changed.wait_for(lambda: mid in self._granted, timeout)
            codes = self._granted.pop(mid, None)
        if codes is None:
            raise self._unreachable(f"it did not confirm a subscription within {timeout:g} s")
        for name, code in zip(filters, codes, strict=False):
            if code.is_failure:
                raise FleetfootError(
                    "not_allowed",
                    f"the broker {self._address} refuses the subscription to {name}",
                    remedy="check the broker's access list for this operator",
                )

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1, not retained; while the connection is lost, as soon as it is back."""
        self._client.publish(topic, payload, qos=_QOS)

    def _make(self, profile: Profile) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"ff-{profile.operator}-{secrets.token_hex(4)}",
            clean_session=True,
            protocol=mqtt.MQTTv311,
        )
        client.reconnect_delay_set(1, self._patience)
        if profile.username is not None:
            client.username_pw_set(profile.username, _password(profile))
        if self._address.tls:
            _use_tls(client, profile)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    # The callbacks below run on paho's thread.

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: ReasonCode, _p: Any) -> None:
        with self._changed:
            if code.is_failure:
                self._refusal = f"it refuses the connection: {code}"
            else:
                if self._filters:
                    client.subscribe([(f, _QOS) for f in self._filters])
                self._connected, self._refusal = True, ""
            self._changed.notify_all()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, code: ReasonCode, _p: Any
    ) -> None:
        with self._changed:
            lost = self._connected and not self._closing
            self._connected = False
        if lost:
            log.warning("lost the connection to the broker %s (%s); trying again", self._address, code)

    def _on_subscribe(
        self, _client: mqtt.Client, _data: Any, mid: int, codes: list[ReasonCode], _p: Any
    ) -> None:
        with self._changed:
            if any(code.is_failure for code in codes):
                self._refusal = "it refuses a subscription"
            self._granted[mid] = codes
            self._changed.notify_all()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        topic = message.topic
        wanted = self._wanted.get(topic)
        if wanted is None:
            with self._changed:
                wanted = any(mqtt.topic_matches_sub(f, topic) for f in self._filters)
                if len(self._wanted) >= _MATCHED:
                    self._wanted = {}
                self._wanted[topic] = wanted
        if wanted:
            self._receiver(topic, bytes(message.payload), message.retain)

    def _unreachable(self, why: str) -> FleetfootError:
        return FleetfootError("broker_unreachable", f"cannot reach the broker {self._address}: {why}")


def _password(profile: Profile) -> str | None:
    if profile.password_file is None:
        return None
    return files.read(profile.password_file, 4096).decode("utf-8", "replace").rstrip("\r\n")


def _use_tls(client: mqtt.Client, profile: Profile) -> None:
    paths = [profile.ca_file, profile.cert_file, profile.cert_key_file]
    ca, cert, key = (None if path is None else str(path) for path in paths)
    try:
        client.tls_set(ca_certs=ca, certfile=cert, keyfile=key)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise FleetfootError(
            "config_invalid", f"cannot use the TLS files of profile {profile.name}: {error}"
        ) from error


def deadline(timeout: float | None) -> Callable[[], float | None]:
    """A function that tells how many seconds of `timeout` are left, never below 0; None for no limit."""
    end = None if timeout is None else time.monotonic() + timeout
    return lambda: None if end is None else max(0.0, end - time.monotonic())

"""The embedded broker, seen by paho clients as the rest of the project uses them (MQTT 3.1.1)."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest
from amqtt.contexts import BrokerConfig
from amqtt.utils import read_yaml_config
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fleetfoot_manager.broker import CANNOT, EmbeddedBroker, configuration
from fleetfoot_protocol.errors import GENERAL_REMEDIES, FleetfootError

SHIPPED = Path(__file__).parents[2] / "broker_conf"

Address = tuple[str, int]

SECONDS = 15.0


class Received(NamedTuple):
    topic: str
    payload: bytes
    retained: bool


class Peer:
    """A paho client whose callbacks fill queues: every wait is for a fact, with a deadline."""

    def __init__(self, address: Address, name: str, clean: bool = True) -> None:
        self.received: queue.Queue[Received] = queue.Queue()
        self._session_present: queue.Queue[bool] = queue.Queue()
        self._subscribed: queue.Queue[int] = queue.Queue()
        self._address = address
        self._client = Client(
            CallbackAPIVersion.VERSION2, name, clean_session=clean, protocol=MQTTProtocolVersion.MQTTv311
        )
        self._client.on_connect = lambda _c, _u, flags, _r, _p: self._session_present.put(
            flags.session_present
        )
        self._client.on_subscribe = lambda _c, _u, mid, _r, _p: self._subscribed.put(mid)
        self._client.on_message = self._on_message
        self.session_present = False

    def __enter__(self) -> Self:
        self._client.connect(*self._address, keepalive=60)
        self._client.loop_start()
        self.session_present = self._session_present.get(timeout=SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, *filters: str) -> None:
        """Subscribe and wait for the acknowledgements."""
        for topic_filter in filters:
            _, mid = self._client.subscribe(topic_filter, qos=1)
            assert self._subscribed.get(timeout=SECONDS) == mid

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish with QoS 1 and wait for the acknowledgement."""
        message = self._client.publish(topic, payload, qos=1, retain=retain)
        message.wait_for_publish(SECONDS)
        assert message.is_published()

    def next(self) -> Received:
        return self.received.get(timeout=SECONDS)

    def until(self, topic: str) -> list[Received]:
        """Everything received up to a message of that topic, which is left out."""
        before = []
        while (message := self.next()).topic != topic:
            before.append(message)
        return before

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.received.put(Received(message.topic, bytes(message.payload), message.retain))


@pytest.fixture
def address() -> Iterator[Address]:
    with EmbeddedBroker() as broker:
        yield broker.address


@pytest.fixture
def publisher(address: Address) -> Iterator[Peer]:
    with Peer(address, "publisher") as peer:
        yield peer


@contextmanager
def raw_connection(address: Address, name: str, will_topic: str, will: str) -> Iterator[socket.socket]:
    """A connected client made of bytes, so that it can end as no library lets it. Retained Will, QoS 1."""

    def field(text: str) -> bytes:
        return len(text).to_bytes(2) + text.encode()

    body = (
        field("MQTT")
        + bytes([4, 0x02 | 0x04 | 0x08 | 0x20, 0, 60])
        + field(name)
        + field(will_topic)
        + field(will)
    )
    with socket.create_connection(address, timeout=SECONDS) as connection:
        connection.sendall(bytes([0x10, len(body)]) + body)
        assert connection.recv(4) == bytes([0x20, 2, 0, 0])
        yield connection


def test_a_retained_message_reaches_who_subscribes_later(address: Address, publisher: Peer) -> None:
    publisher.publish("desired/app", b"1", retain=True)
    with Peer(address, "device") as device:
        device.subscribe("desired/app")
        assert device.next() == Received("desired/app", b"1", True)


def test_a_retained_message_reaches_who_has_subscribed_before(address: Address, publisher: Peer) -> None:
    with Peer(address, "device") as device:
        device.subscribe("desired/app")
        publisher.publish("desired/app", b"1", retain=True)
        assert device.next() == Received("desired/app", b"1", False)


def test_only_the_newest_retained_message_is_kept(address: Address, publisher: Peer) -> None:
    for payload in (b"1", b"2", b"3"):
        publisher.publish("desired/app", payload, retain=True)
    with Peer(address, "device") as device:
        device.subscribe("desired/app", "fence")
        publisher.publish("fence", b"")
        assert device.until("fence") == [Received("desired/app", b"3", True)]


def test_an_empty_retained_payload_deletes_and_is_passed_on(address: Address, publisher: Peer) -> None:
    publisher.publish("desired/app", b"1", retain=True)
    with Peer(address, "early") as early, Peer(address, "late") as late:
        early.subscribe("desired/app")
        assert early.next().payload == b"1"
        publisher.publish("desired/app", b"", retain=True)
        assert early.next() == Received("desired/app", b"", False)
        late.subscribe("desired/app", "fence")
        publisher.publish("fence", b"")
        assert late.until("fence") == []


# The three that fail with amqtt 0.12.1 as it is: see CorrectedBroker.
def test_who_never_subscribed_to_a_retained_message_does_not_get_it(
    address: Address, publisher: Peer
) -> None:
    publisher.publish("desired/app", b"1", retain=True)
    with Peer(address, "subscriber") as subscriber, Peer(address, "bystander") as early:
        subscriber.subscribe("desired/app")
        with Peer(address, "newcomer") as late:
            for bystander in (early, late):
                bystander.subscribe("fence")
            publisher.publish("fence", b"")
            assert early.until("fence") == []
            assert late.until("fence") == []


def test_a_subscriber_gets_a_retained_message_once(address: Address, publisher: Peer) -> None:
    publisher.publish("desired/app", b"1", retain=True)
    with Peer(address, "first") as first, Peer(address, "second") as second:
        first.subscribe("desired/app")
        second.subscribe("desired/app", "fence")
        with Peer(address, "third") as third:
            third.subscribe("desired/app", "fence")
            publisher.publish("fence", b"")
            assert second.until("fence") == [Received("desired/app", b"1", True)]
            assert third.until("fence") == [Received("desired/app", b"1", True)]


def test_thirty_devices_that_connect_at_once_all_get_their_own(address: Address, publisher: Peer) -> None:
    names = [f"dev-{number:03}" for number in range(30)]
    for name in names:
        publisher.publish(f"desired/{name}", name.encode(), retain=True)
    got: queue.Queue[tuple[str, list[Received]]] = queue.Queue()

    def live(name: str) -> None:
        with Peer(address, name) as device:
            device.subscribe(f"desired/{name}", f"fence/{name}")
            device.publish(f"fence/{name}", b"")
            got.put((name, device.until(f"fence/{name}")))

    threads = [threading.Thread(target=live, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    answers = dict(got.get(timeout=SECONDS) for _ in names)
    for thread in threads:
        thread.join(SECONDS)
    assert answers == {name: [Received(f"desired/{name}", name.encode(), True)] for name in names}


def test_the_will_of_a_connection_that_breaks_is_published_and_retained(
    address: Address, publisher: Peer
) -> None:
    with Peer(address, "watcher") as watcher, Peer(address, "late") as late:
        watcher.subscribe("presence/dev-001")
        with raw_connection(address, "dev-001", "presence/dev-001", "offline"):
            publisher.publish("presence/dev-001", b"online", retain=True)
            assert watcher.next().payload == b"online"
        assert watcher.next() == Received("presence/dev-001", b"offline", False)
        late.subscribe("presence/dev-001")
        assert late.next() == Received("presence/dev-001", b"offline", True)


def test_a_client_that_says_goodbye_leaves_no_will(address: Address, publisher: Peer) -> None:
    with Peer(address, "watcher") as watcher:
        watcher.subscribe("presence/dev-001", "fence")
        with raw_connection(address, "dev-001", "presence/dev-001", "offline") as connection:
            connection.sendall(bytes([0xE0, 0]))
            assert connection.recv(1) == b""
        publisher.publish("fence", b"")
        assert watcher.until("fence") == []


def test_a_clean_session_begins_without_subscriptions(address: Address, publisher: Peer) -> None:
    with Peer(address, "device") as device:
        device.subscribe("desired/app")
    with Peer(address, "device") as device:
        assert not device.session_present
        device.subscribe("fence")
        publisher.publish("desired/app", b"1")
        publisher.publish("fence", b"")
        assert device.until("fence") == []


def test_a_clean_session_taken_over_serves_the_newer_connection(address: Address, publisher: Peer) -> None:
    with raw_connection(address, "device", "presence/device", "offline"), Peer(address, "device") as newer:
        newer.subscribe("desired/app")
        publisher.publish("desired/app", b"1")
        assert newer.next() == Received("desired/app", b"1", False)


def test_what_was_acknowledged_before_leaving_is_delivered(address: Address) -> None:
    with Peer(address, "subscriber") as subscriber:
        subscriber.subscribe("events")
        with Peer(address, "leaving") as leaving:
            for number in range(100):
                leaving.publish("events", b"%d" % number)
        assert [subscriber.next().payload for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_the_largest_envelope_passes_unharmed(address: Address, publisher: Peer) -> None:
    envelope = os.urandom(64 * 1024)
    publisher.publish("releases/app", envelope, retain=True)
    with Peer(address, "device") as device:
        device.subscribe("releases/app")
        assert device.next() == Received("releases/app", envelope, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "broker.example", ""])
def test_no_address_but_loopback_is_bound(host: str) -> None:
    with pytest.raises(FleetfootError) as caught:
        EmbeddedBroker(host)
    assert caught.value.code == "unsafe_binding"
    assert caught.value.remedy == GENERAL_REMEDIES["unsafe_binding"]


@pytest.mark.parametrize(
    ("host", "bound"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("127.9.8.7",) * 2]
)
def test_every_loopback_address_is_served(host: str, bound: str) -> None:
    with EmbeddedBroker(host) as broker, Peer(broker.address, "device") as device:
        device.subscribe("fence")
        device.publish("fence", b"")
        assert device.until("fence") == []
        assert broker.address[0] == bound


def test_a_port_in_use_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        broker = EmbeddedBroker(port=port)
        with pytest.raises(FleetfootError, match=f"127.0.0.1 port {port}") as caught:
            broker.start()
    assert caught.value.code == "io_error"
    assert broker.start() == ("127.0.0.1", port)
    broker.stop()


def test_started_again_it_has_its_port_and_nothing_retained(address: Address) -> None:
    first = EmbeddedBroker()
    host, port = first.start()
    with Peer((host, port), "publisher") as publisher:
        publisher.publish("desired/app", b"1", retain=True)
    first.stop()
    with EmbeddedBroker(host, port) as again, Peer(again.address, "device") as device:
        device.subscribe("desired/app", "fence")
        device.publish("fence", b"")
        assert device.until("fence") == []


def test_stopping_ends_every_connection_and_the_thread() -> None:
    broker = EmbeddedBroker()
    before = set(threading.enumerate())
    address = broker.start()
    (thread,) = set(threading.enumerate()) - before
    with ExitStack() as stack:
        connected = stack.enter_context(raw_connection(address, "device", "presence/device", "offline"))
        # One that never said who it is. Connections are accepted in order: the later one proves it is known.
        silent = stack.enter_context(socket.create_connection(address, timeout=SECONDS))
        with Peer(address, "later") as later:
            later.publish("fence", b"")
        broker.stop()
        assert connected.recv(1) == b""
        assert silent.recv(1) == b""
    assert not thread.is_alive()
    broker.stop()


def test_it_stops_while_a_client_with_a_will_is_still_subscribing() -> None:
    subscribing = threading.Event()
    broker = EmbeddedBroker()
    host, port = broker.start()
    client = Client(CallbackAPIVersion.VERSION2, "hasty")
    client.will_set("will", b"off", 1, True)

    def subscribe(*_: object) -> None:
        client.subscribe([(f"topic/{n}", 1) for n in range(5)])
        client.publish("will", b"on", 1, True)
        subscribing.set()

    client.on_connect = subscribe
    client.connect(host, port)
    client.loop_start()
    try:
        assert subscribing.wait(10)
        broker.stop()  # raises FleetfootError `timeout` if something does not end
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_running_broker_is_not_started_twice_and_a_stopped_one_has_no_address() -> None:
    broker = EmbeddedBroker()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = broker.address
    with broker, pytest.raises(RuntimeError, match="runs already"):
        broker.start()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = broker.address


def test_it_says_at_start_what_it_cannot_be_trusted_with(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedBroker():
        pass
    (said,) = [record for record in caplog.records if record.name == "fleetfoot_manager.broker"]
    assert said.levelname == "WARNING"
    assert CANNOT
    assert all(flaw in said.getMessage() for flaw in CANNOT)


def test_the_shipped_configuration_of_amqtt_is_that_of_the_embedded_broker() -> None:
    shipped = read_yaml_config(SHIPPED / "amqtt.yaml")
    assert shipped is not None
    assert shipped["plugins"] == configuration()["plugins"]
    assert BrokerConfig.from_dict(shipped).listeners["default"].bind == "127.0.0.1:1883"


def test_the_readme_names_every_flaw() -> None:
    named = (SHIPPED / "README.md").read_text()
    assert [flaw for flaw in CANNOT if f"- it {flaw}" not in named] == []


@contextmanager
def standalone(port: int) -> Iterator[tuple["subprocess.Popen[str]", Address]]:
    command = [sys.executable, "-m", "fleetfoot_manager.broker", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("listening on 127.0.0.1:")
            yield process, ("127.0.0.1", int(said.rpartition(":")[2]))
        finally:
            process.kill()


def test_standalone_it_ends_orderly_on_sigterm() -> None:
    with standalone(0) as (process, address):
        with Peer(address, "device") as device:
            device.subscribe("fence")
            device.publish("fence", b"")
            assert device.until("fence") == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_standalone_and_killed_it_comes_back_empty_on_the_same_port() -> None:
    with standalone(0) as (process, address):
        with Peer(address, "publisher") as publisher:
            publisher.publish("desired/app", b"1", retain=True)
        process.kill()
        process.wait(SECONDS)
    with standalone(address[1]) as (_, again), Peer(again, "device") as device:
        assert again == address
        device.subscribe("desired/app", "fence")
        device.publish("fence", b"")
        assert device.until("fence") == []


def test_standalone_it_refuses_other_addresses_as_a_mistake_of_usage() -> None:
    command = [sys.executable, "-m", "fleetfoot_manager.broker", "--host", "0.0.0.0", "--port", "0"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 2
    assert run.stdout == ""
    assert GENERAL_REMEDIES["unsafe_binding"] in run.stderr

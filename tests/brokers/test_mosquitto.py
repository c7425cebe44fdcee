"""Our Mosquitto configuration, run: who may speak, who is heard, what survives."""

import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.mosquitto import Identity, Production
from tests.support.waiting import until

from fleetfoot_client.broker.rights import Role
from fleetfoot_client.broker.wire import V5, ClosedError, Peer, Will
from fleetfoot_client.cli import main
from fleetfoot_client.exits import Exit

pytestmark = pytest.mark.needs("mosquitto")

OWN = "ff/v1/groups/kitchens/devices/dev-001"
OTHER = "ff/v1/groups/kitchens/devices/dev-002"
NOT_AUTHORISED = 0x87


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    broker = Production(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    try:
        yield broker
    finally:
        broker.end(signal.SIGTERM)


def connect(who: Identity, client_id: str = "", *, will: Will | None = None, version: int = V5) -> Peer:
    context = ssl.create_default_context(cafile=str(who.ca))
    context.load_cert_chain(who.cert, who.key)
    name = client_id or f"test-{who.name}"
    address = ("127.0.0.1", who.port)
    return Peer(address, name, timeout=10, tls=context, will=will, version=version)


def heard(peer: Peer) -> list[tuple[str, bytes]]:
    """Everything that the broker has sent by now."""
    peer.ping()
    return [(m.topic, m.payload) for m in peer.collect(1000, 0.05)]


def test_a_device_is_connected_by_tls_1_3_only(broker: Production) -> None:
    who = broker.issue(Role.DEVICE, "dev-001")
    with connect(who) as peer:
        assert peer.refusal == 0
        assert peer.tls_version == "TLSv1.3"
    older = ssl.create_default_context(cafile=str(who.ca))
    older.load_cert_chain(who.cert, who.key)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        Peer(("127.0.0.1", who.port), "old", timeout=10, tls=older)


def test_without_a_certificate_nobody_is_connected(broker: Production) -> None:
    who = broker.issue(Role.DEVICE, "dev-001")
    nameless = ssl.create_default_context(cafile=str(who.ca))
    for port in broker.ports:
        with pytest.raises((ClosedError, ssl.SSLError)):
            Peer(("127.0.0.1", port), "nobody", timeout=10, tls=nameless, username="manager")


def test_the_check_says_what_to_show_to_a_listener_that_does_not_take_a_certificate(
    broker: Production, capsys: pytest.CaptureFixture[str]
) -> None:
    who = broker.issue(Role.DEVICE, "dev-001", at=Role.MANAGER)
    shown = ["--cert-file", str(who.cert), "--cert-key-file", str(who.key)]
    for words in (shown, []):
        assert main(["broker", "check", who.url, "--ca-file", str(who.ca), *words]) == Exit.BROKER
        assert (
            "what to do: show by what it knows you: --cert-file and --cert-key-file for the role"
            in capsys.readouterr().err
        )


@pytest.mark.parametrize("at", Role)
@pytest.mark.parametrize("role", Role)
def test_a_certificate_is_good_at_the_listener_of_its_role_only(
    broker: Production, role: Role, at: Role
) -> None:
    who = broker.issue(role, "manager", at=at)
    if role is at:
        connect(who).leave()
    else:
        with pytest.raises((ClosedError, ssl.SSLError)):
            connect(who)


@pytest.mark.parametrize("rest", ["status", "status/attestation", "presence", "progress", "events"])
def test_a_device_writes_its_own_topics(broker: Production, rest: str) -> None:
    with (
        connect(broker.issue(Role.MANAGER, "manager")) as manager,
        connect(broker.issue(Role.DEVICE, "dev-001")) as device,
    ):
        manager.subscribe(f"{OWN}/{rest}")
        assert device.publish(f"{OWN}/{rest}", b"mine") < 0x80
        assert heard(manager) == [(f"{OWN}/{rest}", b"mine")]


@pytest.mark.parametrize(
    "topic",
    [
        f"{OTHER}/status",
        f"{OTHER}/presence",
        f"{OTHER}/events",
        f"{OWN}/desired/kiosk",
        f"{OWN}/status/extra",
        "ff/v1/groups/kitchens/desired/kiosk",
        "ff/v1/groups/kitchens/heartbeat",
        "ff/v1/groups/kitchens/probe/kiosk",
        "ff/v1/groups/kitchens/rollouts/r-0001",
        "ff/v1/groups/kitchens/events",
        "ff/v1/releases/kiosk/" + "0" * 64,
        "ff/v1/trust/root/2",
        "ff/v1/manager/presence",
        "ff/v1/operators/dev-001/requests",
        "ff/v1/operators/alice/replies",
        "ffcheck/x/v1/manager/presence",
        "elsewhere",
    ],
)
def test_a_device_writes_nothing_else(broker: Production, topic: str) -> None:
    with (
        connect(broker.issue(Role.MANAGER, "manager")) as manager,
        connect(broker.issue(Role.DEVICE, "dev-001")) as device,
    ):
        manager.subscribe(topic)
        assert device.publish(topic, b"forged", retained=True) == NOT_AUTHORISED
        assert heard(manager) == []


def test_a_device_of_mqtt_3_is_refused_in_silence(broker: Production) -> None:
    with (
        connect(broker.issue(Role.MANAGER, "manager")) as manager,
        connect(broker.issue(Role.DEVICE, "dev-001"), version=4) as device,
    ):
        manager.subscribe(f"{OTHER}/events", f"{OWN}/events")
        device.publish(f"{OTHER}/events", b"forged")
        device.publish(f"{OWN}/events", b"mine")
        assert heard(manager) == [(f"{OWN}/events", b"mine")]


def test_a_device_reads_its_orders_and_nobody_elses(broker: Production) -> None:
    readable = [
        "ff/v1/groups/kitchens/desired/kiosk",
        f"{OWN}/desired/kiosk",
        "ff/v1/groups/kitchens/heartbeat",
        "ff/v1/groups/kitchens/probe/kiosk",
        "ff/v1/releases/kiosk/" + "0" * 64,
        "ff/v1/trust/root/1",
        f"{OWN}/presence",
    ]
    withheld = [
        f"{OTHER}/desired/kiosk",
        f"{OTHER}/status",
        f"{OTHER}/presence",
        f"{OTHER}/events",
        f"{OWN}/status",
        "ff/v1/groups/kitchens/rollouts/r-0001",
        "ff/v1/groups/kitchens/events",
        "ff/v1/manager/presence",
        "ff/v1/operators/alice/requests",
        "ff/v1/operators/alice/replies",
    ]
    with (
        connect(broker.issue(Role.MANAGER, "manager")) as manager,
        connect(broker.issue(Role.DEVICE, "dev-001")) as device,
    ):
        device.subscribe("#", *readable, *withheld)
        for topic in (*withheld, *readable):
            assert manager.publish(topic, b"x") < 0x80
        assert {topic for topic, _ in heard(device)} == set(readable)


def test_retained_messages_are_withheld_likewise(broker: Production) -> None:
    with connect(broker.issue(Role.MANAGER, "manager")) as manager:
        for topic in (f"{OWN}/desired/door", f"{OTHER}/desired/door"):
            manager.publish(topic, b"order", retained=True)
        with connect(broker.issue(Role.DEVICE, "dev-001")) as device:
            device.subscribe("ff/v1/groups/+/devices/+/desired/+")
            assert heard(device) == [(f"{OWN}/desired/door", b"order")]
        for topic in (f"{OWN}/desired/door", f"{OTHER}/desired/door"):
            manager.publish(topic, b"", retained=True)


def test_a_will_outside_the_list_is_never_published_and_one_inside_is(broker: Production) -> None:
    # Mosquitto 2.0 accepts the connection and judges the Will when it would be published.
    who = broker.issue(Role.DEVICE, "dev-001")
    with connect(broker.issue(Role.MANAGER, "manager")) as manager:
        manager.subscribe(f"{OTHER}/presence", "ff/v1/manager/presence", f"{OWN}/presence")
        for topic in (f"{OTHER}/presence", "ff/v1/manager/presence", f"{OWN}/presence"):
            connect(who, will=Will(topic, b"offline", retained=True), version=4).vanish()
        (message,) = manager.collect(1, 10)
        assert (message.topic, message.payload) == (f"{OWN}/presence", b"offline")
        assert heard(manager) == []
        manager.subscribe("ff/v1/manager/presence", f"{OTHER}/presence")
        assert heard(manager) == []
        manager.publish(f"{OWN}/presence", b"", retained=True)


def test_a_device_cannot_end_anothers_connection_by_its_client_id(broker: Production) -> None:
    victim = connect(broker.issue(Role.DEVICE, "dev-001"), "ff-device-dev-001")
    with connect(broker.issue(Role.DEVICE, "dev-002"), "ff-device-dev-001"):
        victim.ping()
    with connect(broker.issue(Role.DEVICE, "dev-001"), "another"):
        assert victim.closed_within(10), "its own second connection takes over, under whatever client id"
    victim.vanish()


def test_a_device_called_manager_has_the_rights_of_a_device(broker: Production) -> None:
    with connect(broker.issue(Role.DEVICE, "manager")) as device:
        assert device.publish("ff/v1/manager/presence", b"online") == NOT_AUTHORISED
        assert device.publish("ff/v1/groups/g/devices/manager/presence", b"online") < 0x80


@pytest.mark.parametrize("name", ["+", "#"])
def test_a_name_that_is_a_wildcard_may_nothing(broker: Production, name: str) -> None:
    with connect(broker.issue(Role.DEVICE, name), "wild") as device:
        assert device.publish(f"{OWN}/status", b"forged") == NOT_AUTHORISED


def test_an_operator_asks_in_its_own_name_and_reads_all_but_others_talk(broker: Production) -> None:
    talk = "ff/v1/operators"
    read = ["ff/v1/groups/kitchens/desired/kiosk", f"{OWN}/status", f"{talk}/alice/replies"]
    with (
        connect(broker.issue(Role.MANAGER, "manager")) as manager,
        connect(broker.issue(Role.OPERATOR, "alice"), "one") as alice,
    ):
        manager.subscribe(f"{talk}/+/requests")
        assert alice.publish(f"{talk}/alice/requests", b"please") < 0x80
        for topic in (f"{talk}/bob/requests", f"{talk}/alice/replies", f"{OWN}/status", read[0]):
            assert alice.publish(topic, b"forged") == NOT_AUTHORISED
        assert heard(manager) == [(f"{talk}/alice/requests", b"please")]
        alice.subscribe("ff/v1/#")
        for topic in (*read, f"{talk}/bob/replies", f"{talk}/bob/requests"):
            manager.publish(topic, b"x")
        assert {topic for topic, _ in heard(alice)} == set(read)
        with connect(broker.issue(Role.OPERATOR, "alice"), "another window"):
            alice.ping()


def test_an_integrator_reads_what_is_plain_and_writes_nothing(broker: Production) -> None:
    read = [f"{OWN}/status", f"{OWN}/presence", f"{OWN}/events", "ff/v1/groups/kitchens/rollouts/r-0001"]
    withheld = ["ff/v1/groups/kitchens/desired/kiosk", "ff/v1/operators/alice/requests"]
    with (
        connect(broker.issue(Role.MANAGER, "manager")) as manager,
        connect(broker.issue(Role.INTEGRATOR, "grafana")) as grafana,
    ):
        grafana.subscribe("ff/v1/#")
        for topic in (*read, *withheld):
            assert grafana.publish(topic, b"forged") == NOT_AUTHORISED
            manager.publish(topic, b"x")
        assert {topic for topic, _ in heard(grafana)} == set(read)


def test_more_than_64_kib_is_refused(broker: Production) -> None:
    with connect(broker.issue(Role.DEVICE, "dev-001")) as device:
        assert device.publish(f"{OWN}/status", bytes(65536)) < 0x80
    huge = connect(broker.issue(Role.DEVICE, "dev-001"))
    with pytest.raises(ClosedError):
        huge.publish(f"{OWN}/status", bytes(70_000))
    huge.vanish()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_retained_survives_a_restart_with_its_rights(tmp_path: Path, how: signal.Signals) -> None:
    broker = Production(tmp_path)
    broker.start()
    try:
        device, manager = broker.issue(Role.DEVICE, "dev-001"), broker.issue(Role.MANAGER, "manager")
        with connect(device) as peer:
            peer.publish(f"{OWN}/status", b"mine", retained=True)
        with connect(manager) as peer:
            peer.publish(f"{OWN}/desired/kiosk", b"order", retained=True)
            peer.publish(f"{OTHER}/desired/kiosk", b"order", retained=True)
        if how is signal.SIGKILL:
            broker.save()  # what autosave_interval does every 30 s
        broker.end(how)
        broker.start()
        with connect(manager) as peer:
            peer.subscribe(f"{OWN}/status")
            until(lambda: heard(peer) == [(f"{OWN}/status", b"mine")], "the status is there")
        with connect(device) as peer:
            peer.subscribe(f"{OWN}/desired/kiosk", f"{OTHER}/desired/kiosk")
            assert heard(peer) == [(f"{OWN}/desired/kiosk", b"order")]
    finally:
        broker.end(signal.SIGTERM)

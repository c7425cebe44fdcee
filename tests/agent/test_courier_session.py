"""The courier at a broker: what it asks for, lets in, sends, corrects and survives."""

import gc
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.agent.courierrig import (
    BASE,
    OWN,
    QUICK,
    HttpServer,
    Observer,
    Request,
    ScriptedBroker,
    carrying,
    device,
    filters_of,
    free_port,
    levels_of,
    mortal_broker,
    server_tls,
    until,
)
from tests.agent.tinycert import write_certificate

from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.courier.courier import Courier
from fleetfoot_agent.spool import (
    BlobState,
    BlobWant,
    CourierSide,
    ManifestWant,
    WakeAt,
    Want,
    WorkerSide,
    take_wake,
    wake_pending,
)
from fleetfoot_manager.broker import EmbeddedBroker

Address = tuple[str, int]
DIGEST = "d" * 64
#: For brokers that do not repeat a farewell.
CURT = replace(QUICK, farewell=0.1)

STANDING = {
    f"{BASE}/desired/kiosk",
    f"{OWN}/desired/kiosk",
    f"{BASE}/probe/kiosk",
    f"{BASE}/heartbeat",
    f"{OWN}/presence",
}


@pytest.fixture
def broker() -> Iterator[Address]:
    with EmbeddedBroker() as running:
        yield running.address


@pytest.fixture
def config(tmp_path: Path, broker: Address) -> AgentConfig:
    return device(tmp_path, broker[1])


def attestation_of(status: bytes) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(status).hexdigest()}).encode()


def payloads(worker: WorkerSide, slot: str) -> list[bytes]:
    return [message.payload for message in worker.messages(slot)]


def settled(courier: Courier, config: AgentConfig) -> None:
    """Until it is connected and its wake at the start has been taken."""
    until(lambda: courier.connected, "the connection")
    until(lambda: take_wake(config.wake_dir), "the wake at the start")


# In


def test_it_subscribes_to_exact_names_and_asks_for_a_will(tmp_path: Path) -> None:
    with ScriptedBroker() as broker, carrying(device(tmp_path, broker.port), CURT):
        connect = broker.await_packet(1)
        assert b"MQTT\x04" in connect
        assert connect[7] == 0x02 | 0x04 | 0x08 | 0x20  # clean, will, will QoS 1, will retained
        assert b"ff-device-dev-1" in connect
        assert connect.endswith(f"{OWN}/presence".encode() + b"\x00\x07offline")
        assert filters_of(broker.await_packet(8)) == STANDING


def test_what_is_retained_reaches_its_slot(config: AgentConfig, broker: Address) -> None:
    worker = WorkerSide(config.spool)
    with Observer(broker) as manager:
        manager.publish(f"{BASE}/desired/kiosk", b"group")
        manager.publish(f"{OWN}/desired/kiosk", b"own")
        manager.publish(f"{BASE}/probe/kiosk", b"probe")
        manager.publish(f"{BASE}/heartbeat", b"beat")
        with carrying(config):
            expected = {
                "group.kiosk": [b"group"],
                "own.kiosk": [b"own"],
                "probe.kiosk": [b"probe"],
                "heartbeat": [b"beat"],
            }
            until(
                lambda: {slot: payloads(worker, slot) for slot in worker.slots()} == expected, "four messages"
            )


def test_neither_a_heartbeat_nor_known_bytes_nor_nothing_wake(config: AgentConfig, broker: Address) -> None:
    worker = WorkerSide(config.spool)
    with Observer(broker) as manager, carrying(config) as courier:
        settled(courier, config)
        manager.publish(f"{BASE}/desired/kiosk", b"1")
        until(lambda: take_wake(config.wake_dir), "the wake")
        manager.publish(f"{BASE}/desired/kiosk", b"1")
        manager.publish(f"{BASE}/desired/kiosk", b"")
        manager.publish(f"{BASE}/heartbeat", b"beat")
        until(lambda: payloads(worker, "heartbeat") == [b"beat"], "the heartbeat, which came last")
        assert not wake_pending(config.wake_dir)
        assert payloads(worker, "group.kiosk") == [b"1"]


def test_a_message_that_is_too_large_is_let_in_as_one_byte_too_many(
    config: AgentConfig, broker: Address
) -> None:
    worker = WorkerSide(config.spool)
    with Observer(broker) as manager, carrying(config) as courier:
        settled(courier, config)
        manager.publish(f"{BASE}/desired/kiosk", b"x" * (1024 * 1024))
        until(lambda: take_wake(config.wake_dir), "the wake")
        assert payloads(worker, "group.kiosk") == [b"x" * (64 * 1024 + 1)]


def test_a_wake_comes_well_within_its_budget_and_the_next_not_before_its_time(
    config: AgentConfig, broker: Address
) -> None:
    firsts, seconds = [], []
    with Observer(broker) as manager, carrying(config, replace(QUICK, wake_interval=1.0)) as courier:
        settled(courier, config)
        for attempt in range(3):  # the best counts: the machine may be busy with something else
            rested = time.monotonic() + 1.0
            until(lambda: time.monotonic() > rested, "the second after the last wake")  # noqa: B023
            begun = time.monotonic()
            manager.publish(f"{BASE}/desired/kiosk", b"%d first" % attempt)
            until(lambda: take_wake(config.wake_dir), "the first wake")
            firsts.append(time.monotonic() - begun)
            manager.publish(f"{BASE}/desired/kiosk", b"%d second" % attempt)
            until(lambda: take_wake(config.wake_dir), "the second wake")
            seconds.append(time.monotonic() - begun)
    assert min(firsts) < 0.2
    assert all(second > 0.9 for second in seconds)


def test_a_broker_that_sends_what_nobody_asked_for_gets_nothing_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "fleetfoot_agent.courier")
    config = device(tmp_path, 1)
    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        with carrying(config, CURT):
            broker.await_packet(8)
            broker.publish(
                ("ff/v1/groups/other/desired/kiosk", b"x"),
                (f"{BASE}/desired/other", b"x"),
                (f"ff/v1/releases/kiosk/{DIGEST}", b"x"),
                ("ff/v1/trust/root/2", b"x"),
                ("evil\x1b[2J/topic", b"x"),
                (b"\xff\xfe", b"x"),
                (f"{BASE}/heartbeat", b"beat"),
            )
            until(lambda: worker.slots() == ["heartbeat"], "the one that was asked for")
    assert "\x1b" not in caplog.text
    assert "evil" in caplog.text


def test_manifests_and_roots_are_asked_for_while_they_are_wanted(
    config: AgentConfig, broker: Address
) -> None:
    worker = WorkerSide(config.spool)
    release, root = f"ff/v1/releases/kiosk/{DIGEST}", "ff/v1/trust/root/2"
    with Observer(broker) as manager, carrying(config) as courier:
        settled(courier, config)
        manager.publish(release, b"manifest")
        manager.publish(root, b"root")
        worker.write_want(
            Want(manifests=(ManifestWant("kiosk", DIGEST), ManifestWant("other", DIGEST)), roots=(2,))
        )
        until(lambda: payloads(worker, "root.2") == [b"root"], "the root")
        until(lambda: payloads(worker, f"manifest.{DIGEST}") == [b"manifest"], "the manifest")
        until(lambda: take_wake(config.wake_dir), "the wake")
        worker.write_want(Want())
        until(lambda: worker.slots() == [], "the slots to go")
        manager.publish(root, b"other root")
        manager.publish(f"{BASE}/heartbeat", b"beat")
        until(lambda: "heartbeat" in worker.slots(), "the heartbeat, which came last")
        assert worker.slots() == ["heartbeat"]


def test_wants_outlive_the_courier_and_a_garbled_list_changes_nothing(
    config: AgentConfig, broker: Address
) -> None:
    worker = WorkerSide(config.spool)
    worker.write_want(Want(roots=(2,)))
    with Observer(broker) as manager, carrying(config) as courier:
        until(lambda: courier.connected, "the connection")
        manager.publish("ff/v1/trust/root/2", b"1")
        until(lambda: payloads(worker, "root.2") == [b"1"], "the root")
        (config.spool / "out/want.json").write_bytes(b"{")
        manager.publish("ff/v1/trust/root/2", b"2")
        until(lambda: payloads(worker, "root.2") == [b"1", b"2"], "the other root")


def test_a_disk_that_refuses_a_message_gets_it_again(
    config: AgentConfig, broker: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fleetfoot_agent import durable

    worker = WorkerSide(config.spool)
    full = threading.Event()
    full.set()
    truth = durable.write_file

    def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
        if full.is_set() and "msg" in path.parts:
            raise OSError(28, "No space left on device")
        truth(path, data, mode)

    monkeypatch.setattr(durable, "write_file", write_file)
    with Observer(broker) as manager, carrying(config, replace(QUICK, ask_again=0.1)) as courier:
        settled(courier, config)
        manager.publish(f"{BASE}/desired/kiosk", b"1")
        manager.await_last(f"{BASE}/desired/kiosk", b"1")
        full.clear()
        until(lambda: payloads(worker, "group.kiosk") == [b"1"], "the message")
        assert courier.connected


def test_a_manifest_that_the_broker_lost_is_asked_for_again_until_it_comes(tmp_path: Path) -> None:
    release = f"ff/v1/releases/kiosk/{DIGEST}"

    def asked(broker: ScriptedBroker) -> set[str]:
        return filters_of(broker.await_packet(8))

    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        with carrying(config, replace(QUICK, ask_again=0.1)) as courier:
            until(lambda: courier.connected, "the connection")
            assert release not in asked(broker)
            worker.write_want(Want(manifests=(ManifestWant("kiosk", DIGEST),), roots=(2,)))
            # A manifest with QoS 0: it is asked for again until it comes, and clusters pay dearly for 1.
            assert levels_of(broker.await_packet(8)) == {release: 0, "ff/v1/trust/root/2": 1}
            # The broker grants it and brings nothing. A root may not be there yet: that is no loss.
            assert [asked(broker) for _ in range(3)] == [{release}] * 3
            broker.publish((release, b"manifest"))
            until(lambda: payloads(worker, f"manifest.{DIGEST}") == [b"manifest"], "the manifest")
            while not broker.packets.empty():
                broker.packets.get()
            threading.Event().wait(0.3)  # longer than its pause: nothing may come
            assert broker.packets.empty()


def test_what_is_wanted_is_not_forgotten_with_a_disk_that_failed_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = f"ff/v1/releases/kiosk/{DIGEST}"
    truth, failing = CourierSide.keep_slots, threading.Event()

    def keep_slots(self: CourierSide, is_kept: Callable[[str], bool]) -> None:
        if failing.is_set():
            raise OSError(5, "Input/output error")
        truth(self, is_kept)

    monkeypatch.setattr(CourierSide, "keep_slots", keep_slots)
    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        with carrying(config):
            assert release not in filters_of(broker.await_packet(8))
            failing.set()
            worker.write_want(Want(manifests=(ManifestWant("kiosk", DIGEST),)))
            until(lambda: "event=look_failed" in caplog.text, "the failure is told")
            threading.Event().wait(0.2)  # several looks, of which one is told
            failing.clear()
            assert filters_of(broker.await_packet(8)) == {release}
    assert caplog.text.count("event=look_failed") == 1


# Out


def test_presence_is_online_while_it_runs_and_offline_after(config: AgentConfig, broker: Address) -> None:
    with Observer(broker) as observer:
        with carrying(config):
            observer.await_last(f"{OWN}/presence", b"online")
        observer.await_last(f"{OWN}/presence", b"offline")
    with Observer(broker, name="late") as late:
        late.await_last(f"{OWN}/presence", b"offline")


def test_a_late_will_is_corrected(config: AgentConfig, broker: Address) -> None:
    presence = f"{OWN}/presence"
    with Observer(broker) as observer, carrying(config) as courier:
        settled(courier, config)
        observer.await_last(presence, b"online")
        observer.publish(presence, b"offline")
        until(
            lambda: observer.on(presence) == [b"online", b"offline", b"online"],
            f"the correction, heard {observer.on(presence)!r}",
        )


def test_status_and_attestation_are_published_on_change_and_on_every_connect(
    tmp_path: Path,
) -> None:
    port = free_port()
    config = device(tmp_path, port)
    worker = WorkerSide(config.spool)
    worker.write_status(b'{"n":1}', attestation_of(b'{"n":1}'))
    with carrying(config) as courier:
        for _ in range(2):  # the second broker knows nothing
            with mortal_broker(port) as address, Observer(address) as observer:
                observer.await_last(f"{OWN}/status", b'{"n":1}')
                observer.await_last(f"{OWN}/status/attestation", attestation_of(b'{"n":1}'))
            until(lambda: not courier.connected, "the loss")
        with mortal_broker(port) as address, Observer(address) as observer:
            observer.await_last(f"{OWN}/status", b'{"n":1}')
            worker.write_status(b'{"n":2}', attestation_of(b'{"n":2}'))
            observer.await_last(f"{OWN}/status", b'{"n":2}')
            observer.await_last(f"{OWN}/status/attestation", attestation_of(b'{"n":2}'))
        with mortal_broker(port) as address, Observer(address, name="late") as late:
            late.await_last(f"{OWN}/status", b'{"n":2}')


def test_a_status_without_its_attestation_is_not_published(config: AgentConfig, broker: Address) -> None:
    worker = WorkerSide(config.spool)
    with Observer(broker) as observer, carrying(config) as courier:
        settled(courier, config)
        (config.spool / "out/status.json").write_bytes(b"{2}")
        (config.spool / "out/status.sig").write_bytes(attestation_of(b"{1}"))
        worker.append_event(b"{}")
        until(lambda: observer.on(f"{OWN}/events") == [b"{}"], "the event, which came later")
        assert observer.on(f"{OWN}/status") == []
        (config.spool / "out/status.sig").write_bytes(attestation_of(b"{2}"))
        observer.await_last(f"{OWN}/status", b"{2}")


def test_events_go_out_in_order_and_are_acknowledged(config: AgentConfig, broker: Address) -> None:
    worker = WorkerSide(config.spool)
    events = [b'{"n":%d}' % n for n in range(60)]
    for event in events[:40]:
        worker.append_event(event)
    with Observer(broker) as observer, carrying(config) as courier:
        until(lambda: courier.connected, "the connection")
        for event in events[40:]:
            worker.append_event(event)
        until(lambda: len(observer.on(f"{OWN}/events")) >= 60, "sixty events")
        assert observer.on(f"{OWN}/events") == events
        until(
            lambda: worker.drop_acked_events() > 0 and not list((config.spool / "out/event").iterdir()),
            "acked",
        )


def test_an_event_is_seen_though_the_folder_seems_unchanged(
    config: AgentConfig, broker: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems tell changes apart by ticks of some milliseconds: here by one of minutes."""
    from fleetfoot_agent.courier import courier as module

    monkeypatch.setattr(module, "_RACY_NS", 10**12)
    worker = WorkerSide(config.spool)
    tick = time.time_ns()
    with Observer(broker) as observer, carrying(config) as courier:
        until(lambda: courier.connected, "the connection")
        for n in range(1, 4):
            worker.append_event(b"%d" % n)
            os.utime(config.spool / "out/event", ns=(tick, tick))
            until(lambda: len(observer.on(f"{OWN}/events")) == n, f"event {n}")  # noqa: B023


def test_a_restarted_courier_sends_only_what_was_not_acknowledged(
    config: AgentConfig, broker: Address
) -> None:
    worker = WorkerSide(config.spool)
    worker.append_event(b"{1}")
    with Observer(broker) as observer:
        with carrying(config):
            until(lambda: worker.acked() > 0, "the acknowledgement")
        worker.append_event(b"{2}")
        with carrying(config):
            until(lambda: observer.on(f"{OWN}/events") == [b"{1}", b"{2}"], "both events, each once")


def test_events_survive_a_broker_that_dies_without_acknowledging(tmp_path: Path) -> None:
    port = free_port()
    config = device(tmp_path, port)
    worker = WorkerSide(config.spool)
    for n in range(30):
        worker.append_event(b'{"n":%d}' % n)
    with carrying(config) as courier:
        until(lambda: not courier.connected, "no broker yet")
        with mortal_broker(port) as address, Observer(address) as observer:
            until(lambda: len(set(observer.on(f"{OWN}/events"))) == 30, "all events")
            until(lambda: worker.acked() > 0, "the acknowledgement")
        worker.append_event(b'{"n":30}')
        with mortal_broker(port) as address, Observer(address) as observer:
            until(lambda: observer.on(f"{OWN}/events")[-1:] == [b'{"n":30}'], "the event of the outage")


def test_unacknowledged_events_are_sent_again_on_the_next_connection(tmp_path: Path) -> None:
    class Deaf(ScriptedBroker):
        """Takes every PUBLISH and acknowledges none."""

        def acknowledges(self) -> bool:
            return False

    with Deaf() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        for n in range(3):
            worker.append_event(b'{"n":%d}' % n)

        def sent() -> list[bytes]:
            found: list[bytes] = []
            while len(found) < 3:
                body = broker.await_packet(3)
                if f"{OWN}/events".encode() in body:
                    found.append(body[-7:])
            return found

        with carrying(config, CURT):
            assert sent() == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
            broker.hang_up()
            assert sent() == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
            assert worker.acked() == 0


def test_blobs_are_fetched_told_and_wake_the_worker(config: AgentConfig, broker: Address) -> None:
    content = os.urandom(100_000)
    sha256 = hashlib.sha256(content).hexdigest()
    worker = WorkerSide(config.spool)
    with (
        HttpServer(lambda r: r.serve(content)) as server,
        Observer(broker) as observer,
        carrying(config) as courier,
    ):
        settled(courier, config)
        worker.write_want(Want(blobs=(BlobWant(sha256, len(content), (f"{server.url}/{sha256}",)),)))
        until(lambda: take_wake(config.wake_dir), "the wake")
        blob = worker.open_blob(sha256, len(content))
        assert blob is not None
        with blob:
            assert blob.read() == content
        last = {"sha256": sha256, "have": len(content), "length": len(content)}
        observer.await_last(f"{OWN}/progress", json.dumps(last, separators=(",", ":")).encode())
        worker.write_want(Want(blobs=(BlobWant("a" * 64, 1, ("ftp://nowhere/x",)),)))
        until(lambda: take_wake(config.wake_dir), "the wake for the failure")
        assert worker.blob_state("a" * 64).error == "upgrade_url_refused"
        assert worker.open_blob(sha256, len(content)) is None


def test_a_failed_blob_is_tried_again_when_the_broker_is_back(tmp_path: Path) -> None:
    content = b"content"
    sha256 = hashlib.sha256(content).hexdigest()
    found = threading.Event()

    def answer(request: Request) -> None:
        if found.is_set():
            request.serve(content)
        else:
            request.head(404)

    with ScriptedBroker() as broker, HttpServer(answer) as server:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        worker.write_want(Want(blobs=(BlobWant(sha256, len(content), (server.url,)),)))
        with carrying(config, CURT):
            broker.await_packet(8)
            until(lambda: worker.blob_state(sha256).error is not None, "the failure")
            found.set()
            broker.hang_up()
            until(lambda: worker.blob_state(sha256) == BlobState(7, None, server.url), "the blob")


# The link


def test_the_link_is_told_to_the_worker(tmp_path: Path) -> None:
    port = free_port()
    config = device(tmp_path, port)
    worker = WorkerSide(config.spool)

    def up() -> bool | None:
        link = worker.link()
        return None if link is None else link.up

    with carrying(config):
        until(lambda: up() is False, "down")
        with mortal_broker(port):
            until(lambda: up() is True, "up")
            link = worker.link()
            assert link is not None
            assert 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) - link.since < 30
            assert link.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        until(lambda: up() is False, "down again")
        with mortal_broker(port):
            until(lambda: up() is True, "up again")
    assert up() is False


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x30\x02\x00\xff",  # a PUBLISH whose topic is longer than the packet
        b"\x00" * 8,
        b"\xff" * 8,
        b"\x20\x02\x00\x05",
        b"\x90\x00",
        b"\x40\x01\x00",
    ],
)
def test_bytes_that_are_no_mqtt_end_the_connection_and_not_the_courier(
    tmp_path: Path, nonsense: bytes
) -> None:
    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        with carrying(config, CURT):
            broker.await_packet(8)
            broker.send(nonsense)
            until(lambda: broker.connections >= 2, "the next connection")
            broker.await_packet(8)
            broker.publish((f"{BASE}/heartbeat", b"beat"))
            until(lambda: payloads(worker, "heartbeat") == [b"beat"], "a message on it")


def test_a_refusal_and_a_silent_broker_are_met_with_another_attempt(tmp_path: Path) -> None:
    for answer in (b"\x20\x02\x00\x05", None):
        with ScriptedBroker(answer=answer) as broker:
            config = device(tmp_path, broker.port)
            with carrying(config, replace(QUICK, connack_timeout=0.2)) as courier:
                until(lambda: broker.connections >= 3, "three attempts")
                assert not courier.connected


def test_attempts_are_spread_at_random_and_not_by_a_fixed_delay(tmp_path: Path) -> None:
    arrivals: list[float] = []

    class Timed(ScriptedBroker):
        def hello(self) -> None:
            arrivals.append(time.monotonic())

    with Timed(answer=b"\x20\x02\x00\x05") as broker, carrying(device(tmp_path, broker.port)):
        until(lambda: len(arrivals) >= 12, "twelve attempts")
    gaps = [later - earlier for earlier, later in pairwise(arrivals[2:])]
    assert max(gaps) < 1.0
    assert max(gaps) - min(gaps) > 0.03


# TLS and credentials


def test_over_tls_it_carries_as_without(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with ScriptedBroker(tls=server_tls(certificate, key)) as broker:
        config = device(tmp_path, 0, url=f"mqtts://127.0.0.1:{broker.port}", ca_file=str(certificate))
        worker = WorkerSide(config.spool)
        with carrying(config, CURT):
            assert filters_of(broker.await_packet(8)) == STANDING
            # Many in one record: what TLS has already taken from the socket must not be left lying.
            broker.await_packet(3)  # its last answer is on its way
            probes = [(f"{BASE}/probe/kiosk", b"%d" % n) for n in range(200)]
            broker.publish(*probes, (f"{BASE}/heartbeat", b"beat"))
            until(lambda: payloads(worker, "heartbeat") == [b"beat"], "the last message", 5.0)
            # Of so many on one topic the newest is stored when the span is over.
            until(lambda: payloads(worker, "probe.kiosk")[-1] == b"199", "the newest of a flood", 5.0)


# paho leaves the socket of a failed TLS handshake to the garbage collector, which says so.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_a_broker_that_cannot_prove_its_name_gets_no_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fleetfoot_agent.courier")
    certificate, key = write_certificate(tmp_path, "real")
    other, _ = write_certificate(tmp_path, "other")
    with ScriptedBroker(tls=server_tls(certificate, key)) as broker:
        config = device(tmp_path, 0, url=f"mqtts://127.0.0.1:{broker.port}", ca_file=str(other))
        with carrying(config, CURT):
            until(lambda: broker.connections >= 2, "two attempts")
        assert broker.packets.empty()
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_name_and_password_are_sent_and_the_password_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "password").write_text("open sesame\n")
    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port, username="dev-1-user", password_file="password")
        with carrying(config, CURT):
            connect = broker.await_packet(1)
    assert connect.endswith(b"\x00\x0adev-1-user\x00\x0bopen sesame")
    assert "sesame" not in caplog.text


def test_a_missing_password_file_is_waited_for(tmp_path: Path) -> None:
    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port, username="u", password_file="password")
        with carrying(config, CURT) as courier:
            until(lambda: config.wake_dir.exists(), "the start")
            (tmp_path / "password").write_text("later")
            until(lambda: courier.connected, "the connection")


# Waking by the clock


def test_wake_at_wakes_when_its_time_has_come_and_at_once_after_a_reboot(
    config: AgentConfig, broker: Address
) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    worker = WorkerSide(config.spool)
    with carrying(config) as courier:
        settled(courier, config)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        worker.write_wake_at(WakeAt(boot, now + 0.4, time.time()))
        until(lambda: take_wake(config.wake_dir), "the wake")
        assert time.clock_gettime(time.CLOCK_BOOTTIME) >= now + 0.4
        worker.write_wake_at(WakeAt("another-boot", now + 10_000, time.time()))
        until(lambda: take_wake(config.wake_dir), "the wake after a reboot")
        worker.write_wake_at(WakeAt(boot, now + 10_000, time.time()))
        worker.append_event(b"{}")
        until(lambda: worker.acked() > 0, "the event, which came later")
        assert not wake_pending(config.wake_dir)


# The end


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.mark.parametrize("state", ["connected", "refused", "silent broker", "fetching"])
def test_stopping_leaves_no_thread_and_no_descriptor(tmp_path: Path, state: str) -> None:
    gc.collect()  # clients of earlier tests still hold theirs
    before, open_before = threads(), len(os.listdir("/proc/self/fd"))
    answer = None if state == "silent broker" else b"\x20\x02\x00\x00"
    with ScriptedBroker(answer=answer) as broker:
        port = free_port() if state == "refused" else broker.port
        config = device(tmp_path, port)
        worker = WorkerSide(config.spool)

        def hang(request: object) -> None:
            server.closing.wait()

        with HttpServer(hang) as server:
            courier = Courier(config, tuning=CURT)
            courier.start()
            if state == "fetching":
                worker.write_want(Want(blobs=(BlobWant("a" * 64, 1, (server.url,)),)))
                until(lambda: bool(server.requests), "the request")
            elif state != "refused":
                broker.await_packet(1)
            courier.stop()
            courier.stop()
    until(lambda: threads() <= before, "the threads to end")
    assert len(os.listdir("/proc/self/fd")) <= open_before


def test_many_couriers_live_in_one_process(tmp_path: Path, broker: Address) -> None:
    before = threads()
    names = [f"many-{n}" for n in range(25)]
    configs = {name: device(tmp_path, broker[1], name) for name in names}
    workers = {name: WorkerSide(config.spool) for name, config in configs.items()}
    couriers = [Courier(config, tuning=QUICK) for config in configs.values()]
    with Observer(broker) as manager:
        for courier in couriers:
            courier.start()
        until(lambda: all(courier.connected for courier in couriers), "all connections")
        manager.publish(f"{BASE}/desired/kiosk", b"to all")
        until(
            lambda: all(payloads(worker, "group.kiosk") == [b"to all"] for worker in workers.values()),
            "the message everywhere",
        )
        for name, worker in workers.items():
            worker.append_event(name.encode())
        until(
            lambda: all(manager.on(f"{BASE}/devices/{name}/events") == [name.encode()] for name in names),
            "each one's event",
        )
        for courier in couriers:
            courier.request_stop()
        for courier in couriers:
            courier.stop()
        for name in names:
            manager.await_last(f"{BASE}/devices/{name}/presence", b"offline")
    until(lambda: threads() <= before, "the threads to end")


class LeaderlessBroker(ScriptedBroker):
    """A cluster that has lost its leader: it refuses the first subscriptions and grants later ones."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    def grants(self) -> bytes:
        self.refusals -= 1
        return b"\x80" if self.refusals >= 0 else b"\x01"


def test_what_is_refused_for_a_moment_is_asked_for_again_on_the_same_connection(tmp_path: Path) -> None:
    with LeaderlessBroker(2) as broker, carrying(device(tmp_path, broker.port), QUICK):
        asked = [filters_of(broker.await_packet(8)) for _ in range(3)]
        assert asked[0] == asked[1] == asked[2]
        assert f"{BASE}/heartbeat" in asked[0]
        assert broker.connections == 1


class ForgetfulBroker(ScriptedBroker):
    """A cluster that has lost what it was sent: nothing is acknowledged."""

    def acknowledges(self) -> bool:
        return False


def test_a_broker_that_does_not_acknowledge_is_left_and_told_again(tmp_path: Path) -> None:
    tuning = replace(QUICK, ack_timeout=0.3)
    with ForgetfulBroker() as broker, carrying(device(tmp_path, broker.port), tuning):
        first, second = broker.await_packet(3), broker.await_packet(3)
        until(lambda: broker.connections > 1, "it connects anew")
    assert b"presence" in first
    assert b"presence" in second


class DeafBroker(ScriptedBroker):
    """It lets everybody in, acknowledges everything, and never answers a subscription."""

    def grants(self) -> bytes | None:
        return None


def test_a_broker_that_does_not_answer_a_subscription_is_left_and_was_never_a_link(tmp_path: Path) -> None:
    with DeafBroker() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        with carrying(config, replace(QUICK, suback_timeout=0.3)):
            first = filters_of(broker.await_packet(8))
            link = worker.link()
            assert link is not None
            assert not link.up
            assert filters_of(broker.await_packet(8)) == first
            assert broker.connections > 1


def test_the_link_is_up_once_the_subscriptions_are_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fleetfoot_agent.courier.session")
    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        with carrying(config):
            until(lambda: (link := worker.link()) is not None and link.up, "the link")
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert said[:2] == ["event=connected", "event=subscribed"]


def test_everything_is_subscribed_to_again_against_what_the_broker_lost(tmp_path: Path) -> None:
    with ScriptedBroker() as broker:
        config = device(tmp_path, broker.port)
        worker = WorkerSide(config.spool)
        with carrying(config, replace(QUICK, listen_again=0.1)) as courier:
            asked = [filters_of(broker.await_packet(8)) for _ in range(3)]
            assert asked[0] == asked[1] == asked[2]
            assert f"{BASE}/desired/kiosk" in asked[0]
            broker.publish((f"{BASE}/desired/kiosk", b"1"))
            until(lambda: payloads(worker, "group.kiosk") == [b"1"], "the message that was lost before")
            assert courier.connected
        assert broker.connections == 1

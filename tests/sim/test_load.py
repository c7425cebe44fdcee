"""Simulated devices: they verify and decide as real ones do, and their shapes are those of the seed."""

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.brokers.mosquitto import Mosquitto, bare
from tests.support.fleet import Bundle, Director, House, everybody

from fleetfoot_client.broker.wire import Type, take_packet
from fleetfoot_protocol import dsse, times, topics, trust
from fleetfoot_protocol.documents import Desired, Probe
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Installed, Status
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim import kiosk
from fleetfoot_sim.load import fleet as fleets
from fleetfoot_sim.load import mqtt
from fleetfoot_sim.load.device import Counts, Place, SimulatedDevice, public_of
from fleetfoot_sim.load.fleet import Fleet, Plan
from fleetfoot_sim.load.mqtt import Connection
from fleetfoot_sim.load.shapes import YEAR, Nature, Shapes, nature_of
from fleetfoot_sim.load.verifier import Verifier

GROUP = "ovens"
PLACE = Place(GROUP, kiosk.COMPONENT)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def bundles(house: House) -> list[Bundle]:
    return [house.release("1.0.0"), house.release("1.1.0")]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = bare(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.end(signal.SIGTERM)


def installed(bundle: Bundle) -> Installed:
    release = bundle.release
    return Installed(version=release.version, counter=release.counter, digest=bundle.digest)


class Alone:
    """One device without a connection; work ends when `finish` says so."""

    def __init__(self, house: House, running: Bundle, *, terse: bool = False, **nature: Any) -> None:
        facts = {"fails": False, "silent": False, "flaps": False, "work": 1.0, "away": 0.0}
        self.said: list[tuple[Kind, bytes]] = []
        self.wanted: list[str] = []
        self.due: list[Callable[[], None]] = []
        self.counts = Counts()
        self.device = SimulatedDevice(
            "sim-0001",
            1,
            Nature(**{**facts, **nature}),
            PLACE,
            Verifier(house.root),
            self.counts,
            lambda kind, payload: self.said.append((kind, payload)),
            self.wanted.append,
            lambda _seconds, act: self.due.append(act),
            installed(running),
            terse=terse,
        )

    def status(self) -> Status:
        """The last one, verified with the key that the enrolment names."""
        (_, payload), (_, attestation) = self.said[-2:]
        return trust.verify_status(payload, attestation, bytes.fromhex(public_of(1, "sim-0001")))

    def upgrade(self, order: bytes, bundle: Bundle) -> Status:
        self.device.told(order)
        self.device.given(bundle.envelope)
        while self.due:
            self.due.pop()()
        return self.status()


def order(
    house: House,
    *targets: Any,
    sequence: int = 7,
    key: str = "director",
    group: str = GROUP,
    **changes: Any,
) -> bytes:
    director = Director.__new__(Director)
    director.house, director.sequence, director.mirror = house, sequence, "http://127.0.0.1:1/blobs"
    document: Desired = director.desired(group, *targets)
    return director.sign(document.model_copy(update=changes), key=key)


def test_a_device_upgrades_itself_and_says_so_under_its_own_key(house: House, bundles: list[Bundle]) -> None:
    alone = Alone(house, bundles[0])
    status = alone.upgrade(order(house, everybody("r-1", bundles[1].goal())), bundles[1])
    one = status.components[kiosk.COMPONENT]
    assert one.running == installed(bundles[1])
    assert [(o.outcome, o.rollout, o.digest) for o in one.outcomes] == [
        ("completed", "r-1", bundles[1].digest)
    ]
    assert alone.wanted == [bundles[1].digest]
    assert (alone.counts.completed, alone.counts.repeated) == (1, 0)


def test_what_is_not_signed_or_not_for_it_or_old_changes_nothing(house: House, bundles: list[Bundle]) -> None:
    alone = Alone(house, bundles[0])
    goal = everybody("r-1", bundles[1].goal())
    alone.device.told(order(house, goal, key="alice"))
    alone.device.told(order(house, goal, group="others"))
    assert (alone.counts.refused, alone.said) == (2, [])
    alone.device.told(order(house, sequence=9))
    alone.device.told(order(house, goal, sequence=8))
    assert alone.counts.begun == 0
    # Nor does it begin with a manifest that is not the one.
    alone.device.told(order(house, goal, sequence=10))
    alone.device.given(bundles[0].envelope)
    assert alone.due == []


def probe(house: House, bundle: Bundle, name: str, *, key: str = "director", group: str = GROUP) -> bytes:
    payload = Probe(
        fleet=house.root.fleet,
        group=group,
        component=kiosk.COMPONENT,
        id=name,
        goal=bundle.goal(),
        issued=times.to_text(time.time()),
        expires=times.to_text(time.time() + 60),
    ).payload()
    return dsse.encode(dsse.sign(PayloadType.PROBE, payload, house.keys[key]))


def test_a_device_answers_a_probe_once_and_does_nothing_for_it(house: House, bundles: list[Bundle]) -> None:
    alone = Alone(house, bundles[0])
    for payload in (probe(house, bundles[1], "p-1", key="alice"), probe(house, bundles[1], "p-1", group="x")):
        alone.device.asked(payload)
    assert (alone.counts.refused, alone.wanted) == (2, [])
    alone.device.asked(probe(house, bundles[1], "p-1"))
    assert (alone.wanted, alone.said) == ([bundles[1].digest], [])
    alone.device.given(bundles[1].envelope)
    found = alone.status().components[kiosk.COMPONENT]
    assert found.preflight is not None
    assert (found.preflight.id, found.preflight.digest, found.preflight.verdict) == (
        "p-1",
        bundles[1].digest,
        "accepted",
    )
    assert (found.running, alone.counts.begun) == (installed(bundles[0]), 0)
    said = len(alone.said)
    alone.device.asked(probe(house, bundles[1], "p-1"))
    alone.device.given(bundles[1].envelope)
    assert len(alone.said) == said
    alone.device.asked(probe(house, bundles[0], "p-2"))
    assert alone.status().components[kiosk.COMPONENT].preflight != found.preflight


def test_an_order_of_its_own_goes_before_that_of_its_group(house: House, bundles: list[Bundle]) -> None:
    alone = Alone(house, bundles[0])
    goal = everybody("r-1", bundles[1].goal())
    alone.device.told(order(house, goal, sequence=1, device="sim-0002"))
    assert (alone.counts.refused, alone.said) == (1, [])
    pinned = order(house, sequence=1, device="sim-0001", baseline=bundles[0].goal())
    alone.device.told(pinned)
    status = alone.upgrade(order(house, goal), bundles[1])
    one = status.components[kiosk.COMPONENT]
    assert one.answered is not None
    assert (one.answered.scope, one.answered.sequence) == ("own", 2)
    assert (one.running, alone.wanted) == (installed(bundles[0]), [])
    alone.device.asked(probe(house, bundles[1], "p-1"))
    found = alone.status().components[kiosk.COMPONENT].preflight
    assert found is not None
    assert (found.verdict, found.code) == ("rejected", "upgrade_pinned")
    # The orders of a device are counted for themselves, and once it is released its group's counts again.
    released = order(house, sequence=2, device="sim-0001", released=True, baseline=None)
    status = alone.upgrade(released, bundles[1])
    assert status.components[kiosk.COMPONENT].running == installed(bundles[1])
    assert alone.counts.documents == 1


def test_a_group_that_is_held_defers_order_and_probe(house: House, bundles: list[Bundle]) -> None:
    alone = Alone(house, bundles[0])
    alone.device.told(order(house, everybody("r-1", bundles[1].goal()), hold=True))
    alone.device.asked(probe(house, bundles[1], "p-1"))
    one = alone.status().components[kiosk.COMPONENT]
    assert one.answered is not None
    assert one.preflight is not None
    assert (one.answered.verdict, one.preflight.verdict) == ("deferred", "deferred")
    assert (one.running, alone.wanted) == (installed(bundles[0]), [])


def test_a_device_that_fails_comes_back_and_refuses_that_attempt(house: House, bundles: list[Bundle]) -> None:
    alone = Alone(house, bundles[0], fails=True)
    status = alone.upgrade(order(house, everybody("r-1", bundles[1].goal())), bundles[1])
    one = status.components[kiosk.COMPONENT]
    assert one.running == installed(bundles[0])
    assert one.outcomes[0].outcome == "rolled_back"
    assert dict(one.refused) == {bundles[1].digest: 1}
    again = alone.upgrade(order(house, everybody("r-1", bundles[1].goal()), sequence=8), bundles[1])
    answered = again.components[kiosk.COMPONENT].answered
    assert answered is not None
    assert answered.code == "upgrade_refused_before"


def test_a_silent_device_begins_and_says_no_more(house: House, bundles: list[Bundle]) -> None:
    silent = Alone(house, bundles[0], silent=True)
    status = silent.upgrade(order(house, everybody("r-1", bundles[1].goal())), bundles[1])
    assert status.components[kiosk.COMPONENT].state == "downloading"
    silent.device.say()
    assert silent.status() == status


def test_whose_clock_is_a_year_ahead_takes_every_order_for_expired(
    house: House, bundles: list[Bundle]
) -> None:
    liar = Alone(house, bundles[0], skew=YEAR)
    for sequence in (7, 8):
        status = liar.upgrade(
            order(house, everybody("r-1", bundles[1].goal()), sequence=sequence), bundles[1]
        )
        one = status.components[kiosk.COMPONENT]
        assert one.answered is not None
        found = (one.answered.sequence, one.answered.verdict, one.answered.code)
        assert found == (sequence + 1, "rejected", "upgrade_expired"), "each order is answered"
        assert (one.running, liar.wanted) == (installed(bundles[0]), [])
    assert int(liar.status().at[:4]) == time.gmtime().tm_year + 1
    said = len(liar.said)
    liar.device.asked(probe(house, bundles[1], "p-1"))
    assert (len(liar.said), liar.wanted) == (said, [])


def test_whose_clock_is_a_year_behind_obeys_and_signed_times_still_end_an_order(
    house: House, bundles: list[Bundle]
) -> None:
    liar = Alone(house, bundles[0], skew=-YEAR)
    status = liar.upgrade(order(house, everybody("r-1", bundles[1].goal())), bundles[1])
    assert status.components[kiosk.COMPONENT].running == installed(bundles[1])
    assert int(status.at[:4]) == time.gmtime().tm_year - 1
    assert int(status.clock.floor[:4]) >= time.gmtime().tm_year - 1
    assert status.clock.floor > status.at


def test_a_device_answers_every_document_and_a_terse_one_what_is_new(
    house: House, bundles: list[Bundle]
) -> None:
    alone, terse = Alone(house, bundles[0]), Alone(house, bundles[0], terse=True)
    for sequence in (7, 8):
        for one in (alone, terse):
            one.device.told(order(house, sequence=sequence))
            one.device.told(order(house, sequence=sequence))
    answered = alone.status().components[kiosk.COMPONENT].answered
    assert answered is not None
    assert (answered.sequence, alone.counts.statuses, terse.counts.statuses) == (9, 2, 1)


def test_shapes_repeat_with_their_seed_and_have_their_shares() -> None:
    shapes = Shapes(fail=0.1, offline=0.5)
    fleet = [nature_of(shapes, 3, f"sim-{n}") for n in range(2000)]
    assert fleet == [nature_of(shapes, 3, f"sim-{n}") for n in range(2000)]
    assert 140 < sum(one.fails for one in fleet) < 260
    assert 900 < sum(one.away > 0 for one in fleet) < 1100
    with pytest.raises(FleetfootError, match="--fail"):
        Shapes(fail=2)


def test_a_slow_device_takes_ten_times_as_long_and_an_absent_one_comes_within_half_a_minute() -> None:
    names = [f"sim-{n}" for n in range(200)]
    quick, slow = ([nature_of(Shapes(work=2.0, slow=share), 1, n).work for n in names] for share in (0, 1))
    assert slow == [10 * work for work in quick]
    assert all(1.0 <= work <= 3.0 for work in quick)
    assert all(5 <= nature_of(Shapes(offline=1), 1, n).away <= 30 for n in names)


def test_a_packet_is_read_however_it_is_cut() -> None:
    heard: list[tuple[str, bytes, bool]] = []
    stream = b"".join(
        [b"\x20\x02\x00\x00", b"\x33\x0a\x00\x03a/b\x00\x07xyz", b"\x31\x86\x01\x00\x03a/c" + b"z" * 129]
    )
    for size in (1, 2, 3, 7, len(stream)):
        connection = Connection("c", lambda *message: heard.append(message))
        for start in range(0, len(stream), size):
            connection.data_received(stream[start : start + size])
        assert connection.up
        assert heard == [("a/b", b"xyz", True), ("a/c", b"z" * 129, True)]
        heard.clear()


class Leaderless(asyncio.Protocol):
    """A broker that grants everything but what is `denied`: that it refuses so many times."""

    def __init__(self, denied: dict[str, int]) -> None:
        self.denied = denied
        self.asked: list[list[str]] = []
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (packet := take_packet(self._buffer)) is not None:
            if packet.type == Type.CONNECT:
                self.transport.write(b"\x20\x02\x00\x00")
            elif packet.type == Type.SUBSCRIBE:
                self._subscribed(packet.body[:2], packet.body[2:])

    def _subscribed(self, mid: bytes, rest: bytes) -> None:
        names = []
        while rest:
            length = int.from_bytes(rest[:2], "big")
            names.append(rest[2 : 2 + length].decode())
            rest = rest[3 + length :]
        codes = bytes(self._code(name) for name in names)
        self.asked.append(names)
        self.transport.write(b"\x90" + bytes([2 + len(codes)]) + mid + codes)

    def _code(self, name: str) -> int:
        self.denied[name] = self.denied.get(name, 0) - 1
        return 0x80 if self.denied[name] >= 0 else 0x01


def test_what_a_broker_refuses_for_a_moment_is_asked_for_again_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "_AGAIN", (0.01, 0.05))

    async def whole() -> None:
        broker = Leaderless({"b": 2})
        server = await asyncio.get_running_loop().create_server(lambda: broker, "127.0.0.1", 0)
        connection = Connection("c", lambda *_: None)
        host, port = server.sockets[0].getsockname()
        await connection.open(host, port, None)
        connection.subscribe(["a", "b"])
        await until(lambda: connection.granted == 2, "both are granted")
        assert broker.asked == [["a", "b"], ["b"], ["b"]]
        assert connection.refusals == 0
        broker.denied["d"] = 1000
        connection.subscribe(["d"])
        await until(lambda: connection.refusals > 2, "it goes on asking")
        connection.abort()
        await until(lambda: connection.ended, "it is over")
        told = len(broker.asked)
        await asyncio.sleep(0.1)  # longer than any pause: nothing may happen
        assert len(broker.asked) == told
        server.close()

    asyncio.run(whole())


class Forgetful(Leaderless):
    """Grants everything, and brings the manifest only to who asks for it on a second connection, twice."""

    connections = 0

    def __init__(self, topic: str, manifest: bytes, order: tuple[str, bytes]) -> None:
        super().__init__({})
        self.topic, self.manifest, self.order = topic, manifest, order

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connections += 1
        self.asked.clear()
        self._buffer.clear()

    def _subscribed(self, mid: bytes, rest: bytes) -> None:
        super()._subscribed(mid, rest)
        for name in self.asked[-1]:
            if name == self.order[0]:
                self.transport.write(mqtt.publish_packet(*self.order, 0, retain=True))
            if name == self.topic and self.asked.count([name]) == 2 and self.connections == 2:
                self.transport.write(mqtt.publish_packet(name, self.manifest, 0, retain=True))


def test_a_manifest_that_does_not_come_is_asked_for_again_also_on_the_next_connection(
    house: House, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "_COURIER", replace(fleets._COURIER, ask_again=0.2))
    goal = bundles[1].goal()
    name = topics.build(Kind.RELEASE, component=kiosk.COMPONENT, digest=goal.digest)
    ordered = topics.build(Kind.GROUP_DESIRED, group=GROUP, component=kiosk.COMPONENT)
    broker = Forgetful(name, bundles[1].envelope, (ordered, order(house, everybody("r-1", goal))))

    async def whole() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: broker, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        plan = Plan(host, port, PLACE, 1, running=installed(bundles[0]), shapes=Shapes(work=0.05))
        fleet = Fleet(plan, Verifier(house.root))
        fleet.start()
        await until(lambda: broker.asked.count([name]) == 1, "it asks for the manifest")
        broker.transport.abort()
        await until(lambda: fleet.current(goal.digest) == 1, "it runs the new release")
        assert broker.asked.count([name]) == 2
        assert fleet.counts.begun == 1
        await fleet.stop()
        server.close()

    asyncio.run(whole())


@pytest.mark.parametrize("came", [True, False])
def test_what_came_while_a_fleet_was_told_something_is_read_before_it_counts_as_silence(came: bool) -> None:
    async def story() -> bool:
        ours, brokers = socket.socketpair()
        with ours, brokers:
            connection = Connection("c", lambda *_: None)
            asyncio.get_running_loop().add_reader(ours, lambda: setattr(connection, "unacknowledged", 0))
            connection.unacknowledged = 1
            if came:
                brokers.send(b"an acknowledgement")
            silent = await fleets._unanswered(connection)
            asyncio.get_running_loop().remove_reader(ours)
            return silent

    assert asyncio.run(story()) is not came


def test_a_broker_that_owes_an_answer_for_too_long_is_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(mqtt, "time", SimpleNamespace(monotonic=lambda: now[0]))
    connection = Connection("c", lambda *_: None)
    assert not connection.overdue(30.0)
    connection.publish("a", b"1")
    now[0] = 131.0
    assert connection.overdue(30.0)
    connection.data_received(b"\x40\x02\x00\x01")
    assert not connection.overdue(30.0)
    now[0] = 200.0
    connection.subscribe(["a"])
    assert not connection.overdue(30.0)
    now[0] = 231.0
    assert connection.overdue(30.0)


async def until(look: Callable[[], Any], what: str) -> None:
    for _ in range(1500):
        if look():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain: {what}")


def run(
    broker: Mosquitto, house: House, plan: dict[str, Any], act: Callable[[Fleet], Awaitable[None]]
) -> Fleet:
    async def whole() -> Fleet:
        facts = {"host": "127.0.0.1", "port": broker.ports[0], "place": PLACE, "devices": 40, **plan}
        fleet = Fleet(Plan(**facts), Verifier(house.root))
        fleet.start()
        try:
            await until(lambda: fleet.connected() == len(fleet.links), "all are connected")
            await act(fleet)
        finally:
            await fleet.stop()
        return fleet

    return asyncio.run(whole())


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("connections", [0, 3])
def test_a_fleet_upgrades_itself_by_one_message(
    broker: Mosquitto, house: House, bundles: list[Bundle], connections: int
) -> None:
    director = Director(house, "127.0.0.1", broker.ports[0], "http://127.0.0.1:1/blobs")
    goal = bundles[1].goal()

    async def act(fleet: Fleet) -> None:
        await asyncio.to_thread(director.release, bundles[1])
        await asyncio.to_thread(director.order, GROUP, everybody("r-1", goal))
        await until(lambda: fleet.current(goal.digest) == 40, "all run the new release")
        # A broker or a manager that says it again changes nothing.
        await asyncio.to_thread(director.order, GROUP, everybody("r-1", goal))
        await until(lambda: fleet.counts.documents == 80, "all have heard it again")
        await until(fleet.settled, "the broker has everything")

    plan = {"connections": connections, "running": installed(bundles[0]), "shapes": Shapes(work=0.05)}
    try:
        fleet = run(broker, house, plan, act)
    finally:
        director.publish(topics.build(Kind.GROUP_DESIRED, group=GROUP, component=kiosk.COMPONENT), b"")
        director.close()
    assert (fleet.counts.begun, fleet.counts.completed, fleet.counts.repeated) == (40, 40, 0)
    # Two orders and one manifest, each verified once for all.
    assert fleet.verifier.count == 3


@pytest.mark.needs("mosquitto")
def test_a_device_that_vanishes_is_offline_and_comes_back(broker: Mosquitto, house: House) -> None:
    director = Director(house, "127.0.0.1", broker.ports[0], "")
    presence = topics.build(Kind.PRESENCE, group=GROUP, device="sim-0001")

    async def act(fleet: Fleet) -> None:
        link = fleet.links[0]
        await until(lambda: director.heard.get(presence, [])[-1:] == [b"online"], "it is online")
        assert link.connection is not None
        link.connection.abort()
        await until(lambda: b"offline" in director.heard[presence], "its Will is heard")
        await until(lambda: link.up and director.heard[presence][-1] == b"online", "it is back")

    try:
        run(broker, house, {"devices": 2}, act)
    finally:
        director.close()


def test_who_has_nothing_to_say_pings_so_that_the_broker_does_not_give_it_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "_PING_SECONDS", 0.02)
    pings: list[bytes] = []
    made: list[asyncio.Protocol] = []
    gone: list[asyncio.Protocol] = []

    class Listening(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            made.append(self)
            transport.write(b"\x20\x02\x00\x00")

        def connection_lost(self, exc: Exception | None) -> None:
            gone.append(self)

        def data_received(self, data: bytes) -> None:
            pings.extend([data] if data == b"\xc0\x00" else [])

    async def whole() -> None:
        server = await asyncio.get_running_loop().create_server(Listening, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        fleet = Fleet(Plan(host, port, PLACE, 1), Verifier(house.root))
        fleet.start()
        await until(lambda: len(pings) > 2, "it pings")
        assert (len(made), gone) == (1, [])
        await fleet.stop()
        await until(lambda: gone, "it has left")
        server.close()
        await server.wait_closed()

    asyncio.run(whole())


@pytest.mark.needs("mosquitto")
def test_a_flapping_device_loses_its_connection_again_and_again(
    broker: Mosquitto, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "_FLAP_SECONDS", (0.05, 0.1))
    monkeypatch.setattr(fleets, "_RETRY_SECONDS", (0.05, 0.1))
    director = Director(house, "127.0.0.1", broker.ports[0], "")
    presence = topics.build(Kind.PRESENCE, group=GROUP, device="sim-0001")

    async def act(_: Fleet) -> None:
        said = director.heard.setdefault(presence, [])
        await until(lambda: said.count(b"offline") > 2 and said.count(b"online") > 3, "it comes and goes")

    try:
        run(broker, house, {"devices": 1, "shapes": Shapes(flapping=1)}, act)
    finally:
        director.close()

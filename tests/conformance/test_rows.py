"""Rows of the catalogue once per broker, as we ship it: what the broker stops, and what Fleetfoot survives.

What a broker stops stands in expectations.py and is asserted here; what Fleetfoot survives is the same on
all of them. The table of docs/security.md is made from a run by docs/security_table.py.
"""

import contextlib
import signal
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.attack.rows import row
from tests.brokers.mosquitto import Identity, Production
from tests.brokers.nats import ProductionCluster
from tests.conformance.brokers import ON, Embedded
from tests.conformance.conftest import Split
from tests.conformance.expectations import STOPPED
from tests.conformance.secure import SecureTown, context_of
from tests.end_to_end.town import Town
from tests.support.waiting import until

from fleetfoot_agent.enrol import asking
from fleetfoot_client.broker.rights import Role
from fleetfoot_client.broker.wire import ClosedError, Peer
from fleetfoot_protocol import enrolment, keys, topics
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import Pace
from fleetfoot_sim.scene import FIRST, GOOD, tool

GROUP, ROGUE = "kitchens", "dev-666"
DEVICES = ("dev-001", "dev-002")
ORDERS = topics.build(Kind.GROUP_DESIRED, group=GROUP, component=kiosk.COMPONENT)
HEARTBEAT = topics.build(Kind.HEARTBEAT, group=GROUP)
SECONDS = 60
#: A window that a program can use while the machine carries a flood.
PACE = Pace(window=2.5, settle=0.2, restart_delay=0.05)
#: Messages at once, row 80.
FLOOD = 10_000


@dataclass
class Side:
    """A broker as we ship it, with a town of two devices that run 1.1.0, and a rogue that nobody enrolled."""

    name: str
    town: Town
    server: Any

    def peer(self, role: Role, name: str, client_id: str = "") -> Peer:
        """A bare connection, by a certificate of this name where the broker wants one."""
        if not isinstance(self.town, SecureTown):
            return Peer(("127.0.0.1", self.town.broker_port), client_id or f"{name}-bare", timeout=20)
        who = self.town.secure.issue(role, name)
        return self.peer_of(who, client_id or f"{name}-bare")

    def peer_of(self, who: Identity, client_id: str) -> Peer:
        return Peer(("127.0.0.1", who.port), client_id, timeout=20, tls=context_of(who))

    def without_certificate(self, name: str) -> Peer:
        """A bare connection of who has none; where one is demanded it ends at the latest when it is used."""
        if not isinstance(self.town, SecureTown):
            return self.peer(Role.DEVICE, name)
        who = self.town.operator
        context = ssl.create_default_context(cafile=str(who.ca))
        port = self.town.secure.issue(Role.DEVICE, name).port
        return Peer(("127.0.0.1", port), name, timeout=20, tls=context)

    def manager(self) -> Peer:
        """Who may everything, beside the manager itself."""
        return self.peer(Role.MANAGER, "manager", f"beside-{time.monotonic_ns()}")

    def retained(self, *names: str) -> dict[str, bytes]:
        """What the broker keeps of these topics."""
        with self.manager() as peer:
            peer.subscribe(*names)
            peer.ping()
            return {m.topic: m.payload for m in peer.collect(len(names), 0.5) if m.retained}

    def shown(self) -> dict[str, Any]:
        """What must not change by an attack: what runs, as the manager knows it, and the processes."""
        components = {d: self.town.fleetfoot("device", "show", d)["components"] for d in DEVICES}
        return {d: (components[d][kiosk.COMPONENT]["version"], self.town.pid(d)) for d in DEVICES}

    def known(self) -> set[str]:
        """Whom the manager knows. A cluster that was restarted a moment ago may lose question or answer."""

        def listed() -> list[str]:
            with contextlib.suppress(AssertionError):
                return [one["id"] for one in self.town.fleetfoot("device", "list")["devices"]]
            return []

        return set(until(listed, "the manager answers", seconds=90))

    def alarms(self, device: str) -> list[str]:
        events = list(self.town.witness.events.values())
        return [
            e["errorcode"]
            for e in events
            if e["type"] == "dev.fleetfoot.alarm" and e["data"].get("device") == device
        ]

    def release(self, version: str) -> str:
        """Build, sign and publish one more release; its digest."""
        scene = self.town.scene
        tree = kiosk.write_tree(scene.folder / "apps" / version, version)
        facts = ["--component", kiosk.COMPONENT, "--version", version, "--entrypoint", kiosk.ENTRYPOINT]
        tool("release", "build", str(tree), *facts, "--out", str(scene.folder / "dist"))
        tool("release", "sign", str(scene.bundle(version)), "--key", str(scene.folder / "keys/release.key"))
        return self.town.publish(version)


def _made(name: str, folder: Path) -> tuple[Town, Any]:
    if name == "amqtt":
        town = Town(folder, own_broker=True)
        server = Embedded(folder / "broker", town.broker_port)
        town.broker = server
        return town, server
    secure: Production | ProductionCluster
    if name == "mosquitto":
        secure = Production(folder / "broker")
    else:
        secure = ProductionCluster(folder / "broker", [*DEVICES, ROGUE])
    try:
        secure.start()
        return SecureTown(folder, secure), secure
    except BaseException:
        secure.end(signal.SIGKILL)
        raise


@pytest.fixture(scope="module", params=ON)
def side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    name = str(request.param)
    town, server = _made(name, tmp_path_factory.mktemp(name))
    try:
        try:
            town.open()
            town.add(*DEVICES, pace=PACE)
            town.await_versions(dict.fromkeys(DEVICES, FIRST), seconds=SECONDS)
            town.publish(GOOD)
            rollout = town.rollout(GOOD, "--immediate", "--settle", "0")
            town.await_state(rollout, "completed", seconds=SECONDS)
            town.await_versions(dict.fromkeys(DEVICES, GOOD), seconds=SECONDS)
            yield Side(name, town, server)
        finally:
            town.close()
    finally:
        server.end(signal.SIGKILL)


def sent(peer: Peer, topic: str, payload: bytes, **how: Any) -> None:
    """Say something; a broker may end the connection for it."""
    with contextlib.suppress(ClosedError, OSError):
        peer.publish(topic, payload, **how)


@row(
    71,
    "a device writes another's status, attestation, presence, and an order",
    "what the manager knows and what runs is unchanged, one alarm where it arrived; the order is put back",
)
def test_row_71_what_a_device_says_for_others_counts_nowhere(side: Side, split: Split) -> None:
    kinds = (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE)
    mine, others = (
        [topics.build(kind, group=GROUP, device=device) for kind in kinds] for device in DEVICES[::-1]
    )
    genuine = until(lambda: side.retained(ORDERS).get(ORDERS), "the order is retained")
    said, before, alarms = side.retained(*mine), side.shown(), len(side.alarms("dev-001"))
    lies = {others[0]: said[mine[0]], others[1]: said[mine[1]], others[2]: b"offline", ORDERS: b"forged"}
    with side.manager() as watcher:
        watcher.subscribe(*(topic for topic in lies))
        watcher.ping()
        watcher.collect(len(lies) + 1, 0.5)
        for topic, lie in lies.items():
            with side.peer(Role.DEVICE, ROGUE) as rogue:
                sent(rogue, topic, lie, retained=True)
        heard = watcher.collect(10, 1.0)
    came = {m.topic for m in heard if lies.get(m.topic) == m.payload}
    assert len(came) in (0, len(lies)), came
    split(71, side.name, not came)
    if came:
        until(lambda: len(side.alarms("dev-001")) > alarms, "the manager alarms", seconds=SECONDS)
    until(lambda: side.retained(ORDERS).get(ORDERS) == genuine, "the order is the manager's again")
    until(lambda: side.retained(others[2]).get(others[2]) == b"online", "its presence is right again")
    assert side.shown() == before


@row(
    80,
    "10 000 messages at once and 1 MiB to what devices read, from another device and as the manager",
    "the spool stays bounded, an order is begun within five seconds",
)
def test_row_80_a_flood_does_not_keep_a_device_from_its_orders(side: Side, split: Split) -> None:
    with side.manager() as watcher:
        watcher.subscribe(HEARTBEAT)
        watcher.ping()
        watcher.collect(2, 0.3)
        with side.peer(Role.DEVICE, ROGUE) as rogue:
            sent(rogue, HEARTBEAT, b"x" * (1 << 20))
        with side.peer(Role.DEVICE, ROGUE) as rogue:
            sent(rogue, HEARTBEAT, b"flood")
        try:
            came = b"flood" in {m.payload for m in watcher.collect(4, 1.0)}
        except ClosedError:  # a packet of 1 MiB, which our own reader does not take
            came = True
    split(80, side.name, not came)
    digest = side.release("1.3.0")
    before = side.town.pid("dev-001")
    with side.manager() as flood:
        for number in range(FLOOD):
            flood.post(HEARTBEAT, b"%0500d" % number, qos=0)
        rollout = side.town.rollout("1.3.0", "--immediate", "--settle", "0")
        ordered = time.monotonic()
        begun = partial(side.town.witness.count, "upgrade_started", "dev-001", digest=digest)
        until(begun, "the device begins", seconds=SECONDS)
        took = time.monotonic() - ordered
    slot = side.town.devices["dev-001"].config.spool / "in" / "msg" / "heartbeat"
    assert len(list(slot.iterdir())) <= 9
    side.town.await_state(rollout, "completed", seconds=SECONDS)
    assert side.town.pid("dev-001") != before
    assert took < 5, f"begun after {took:.1f} s"


@row(
    77,
    "the broker killed with SIGKILL, everything that it kept lost",
    "orders, statuses and presence are there again by themselves; no device restarts anything",
)
def test_row_77_what_the_broker_loses_is_published_again(side: Side, split: Split) -> None:
    kinds = (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE)
    names = [topics.build(kind, group=GROUP, device=d) for d in DEVICES for kind in kinds]
    order = until(lambda: side.retained(ORDERS).get(ORDERS), "the order is retained")
    before, lost = side.shown(), f"ffcheck/lost-{time.monotonic_ns()}/v1/kept"
    began = [side.town.witness.count("upgrade_started", d) for d in DEVICES]
    with side.manager() as peer:
        peer.publish(lost, b"1", retained=True)
    side.server.end(signal.SIGKILL)
    side.server.empty()
    side.server.start()
    split(77, side.name, lost in side.retained(lost))
    until(lambda: side.retained(ORDERS).get(ORDERS) == order, "the order is back", seconds=SECONDS)
    until(lambda: set(side.retained(*names)) == set(names), "the devices are back", seconds=SECONDS)
    for device in DEVICES:
        side.town.await_presence(device, "online")
    assert side.shown() == before
    assert [side.town.witness.count("upgrade_started", d) for d in DEVICES] == began


@row(
    79,
    "the orders of a rollout, 5, 7 and 6, each a hundred times with QoS 1, to devices that come back",
    "7 is carried out, by one restart of each",
)
def test_row_79_of_repeated_and_reordered_orders_the_newest_is_carried_out_once(
    side: Side, split: Split
) -> None:
    for device in DEVICES:
        side.town.hosted[device].disconnect()

    digest = side.release("1.4.0")
    orders: list[bytes] = []

    def noted() -> bytes:
        order = until(
            lambda: next((o for o in [side.retained(ORDERS).get(ORDERS, b"")] if o not in orders), b""),
            "the next order",
        )
        orders.append(order)
        return order

    noted()
    rollout = side.town.rollout("1.4.0", "--immediate", "--settle", "0")
    five = noted()
    side.town.fleetfoot("rollout", "pause", rollout)
    six = noted()
    side.town.fleetfoot("rollout", "resume", rollout)
    seven = noted()
    for device in DEVICES:
        side.town.hosted[device].connect()
    with side.manager() as peer:
        for order in (five, seven, six):
            for _ in range(100):
                peer.post(ORDERS, order, retained=True)
            for _ in range(100):
                peer.acknowledgement()
    split(79, side.name, False)
    side.town.await_versions(dict.fromkeys(DEVICES, "1.4.0"), seconds=SECONDS)
    side.town.await_state(rollout, "completed", seconds=SECONDS)
    for device in DEVICES:
        events = ("upgrade_started", "upgrade_activated", "upgrade_completed")
        told = [partial(side.town.witness.count, event, device, digest=digest) for event in events]
        until(told[-1], f"{device} has told everything", seconds=SECONDS)
        assert [count() for count in told] == [1, 1, 1]


@row(
    74,
    "devices whose certificates say `+`, `#` and `a/b` write another's status",
    "nobody of such a name is known; what the manager knows and what runs is unchanged",
)
def test_row_74_a_name_that_is_a_wildcard_gives_no_rights(side: Side, split: Split) -> None:
    theirs, own = (topics.build(Kind.STATUS, group=GROUP, device=device) for device in DEVICES)
    lie, before = until(lambda: side.retained(own).get(own, b""), "a status is retained"), side.shown()
    with side.manager() as watcher:
        watcher.subscribe(theirs)
        watcher.ping()
        watcher.collect(2, 0.5)
        for number, name in enumerate(("+", "#", "a/b")):
            refused = contextlib.suppress(ClosedError, OSError)
            with refused, side.peer(Role.DEVICE, name, f"odd-{number}") as odd:
                sent(odd, theirs, lie, retained=True)
        came = lie in {m.payload for m in watcher.collect(4, 1.0)}
    split(74, side.name, not came)
    assert side.shown() == before
    assert side.known() == set(DEVICES)


@row(
    75,
    "a token used for a second device, which then connects without a certificate and speaks",
    "one device at most is enrolled by it; what the other says counts nowhere",
)
def test_row_75_whom_a_used_token_did_not_enrol_is_nobody(side: Side, split: Split) -> None:
    first, second = "dev-751", "dev-752"
    if isinstance(side.town, SecureTown):
        token = enrolment.decode(side.town.fleetfoot("device", "token", "--group", GROUP)["token"])
        asking.ask(token, enrolment.apply(token, first, keys.generate(), keys.generate(), {}))
        with pytest.raises(FleetfootError, match="used before"):
            asking.ask(token, enrolment.apply(token, second, keys.generate(), keys.generate(), {}))
    presence = topics.build(Kind.PRESENCE, group=GROUP, device=second)
    with side.manager() as watcher:
        watcher.subscribe(presence)
        watcher.ping()
        with contextlib.suppress(ClosedError, OSError), side.without_certificate(second) as nobody:
            sent(nobody, presence, b"online", retained=True)
        came = b"online" in {m.payload for m in watcher.collect(1, 1.0)}
        watcher.publish(presence, b"", retained=True)
    split(75, side.name, not came)
    assert side.known() - set(DEVICES) == ({first} if isinstance(side.town, SecureTown) else set())
    if isinstance(side.town, SecureTown):
        side.town.fleetfoot("device", "forget", first)


@row(
    76,
    "a device that was revoked connects again and speaks",
    "it is not known, and what it says counts nowhere",
)
def test_row_76_who_was_revoked_is_nobody(side: Side, split: Split) -> None:
    device = "dev-002"
    side.town.hosted[device].disconnect()
    presence = topics.build(Kind.PRESENCE, group=GROUP, device=device)
    status = topics.build(Kind.STATUS, group=GROUP, device=device)
    payload = until(lambda: side.retained(status).get(status, b""), "its status is retained")
    who = side.town.secure.issue(Role.DEVICE, device) if isinstance(side.town, SecureTown) else None
    side.town.fleetfoot("device", "forget", device)
    if isinstance(side.server, Production):
        side.server.pki.revoke("device", device)
        side.server.reload()
    elif isinstance(side.server, ProductionCluster):
        side.server.revoke(device)

    def connected() -> bool:
        try:
            peer = side.peer_of(who, device) if who else side.peer(Role.DEVICE, device, device)
        except (ClosedError, OSError):
            return False
        with peer:
            if peer.refusal:
                return False
            sent(peer, presence, b"online", retained=True)
            sent(peer, status, payload, retained=True)
            return not peer.closed_within(0.3)

    expected = STOPPED[76][side.name].value
    with contextlib.suppress(AssertionError):
        until(lambda: connected() is not expected, "the broker has read its files anew", seconds=10)
    split(76, side.name, not connected())
    assert device not in side.known()

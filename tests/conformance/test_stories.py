"""The same stories on every broker. What differs stands in expectations.py, and nowhere else."""

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from tests.brokers.faulty import Disorder, Fault
from tests.brokers.nats import Cluster
from tests.conformance.brokers import MAKERS, ON, WITH_POSTGRESQL, OnServer, town_on
from tests.conformance.expectations import BROKERS
from tests.end_to_end.town import Town
from tests.support import stores
from tests.support.waiting import until

from fleetfoot_client.broker.target import PATIENCE, Target
from fleetfoot_client.profiles import Address
from fleetfoot_sim.devices import free_ports
from fleetfoot_sim.scene import BAD, GOOD

SECONDS = 60

Open = Callable[..., tuple[Town, OnServer]]


def test_every_broker_has_its_expectations_with_reasons() -> None:
    assert set(BROKERS) == set(MAKERS)
    for expectations in BROKERS.values():
        assert all(one.reason for one in vars(expectations).values())


@pytest.fixture(scope="module")
def postgres() -> Iterator[stores.PostgresServer]:
    """A PostgreSQL server for the stores of this file."""
    server = stores.PostgresServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens towns of two devices that run 1.0.0; everything is closed at the end."""
    towns: list[tuple[Town, OnServer]] = []

    def make(name: str, fault: Fault | None = None) -> tuple[Town, OnServer]:
        database = ""
        if name in WITH_POSTGRESQL:
            schema = request.getfixturevalue("postgres").fresh()
            database = schema.render_as_string(hide_password=False)
        town, server = town_on(name, tmp_path, fault, database)
        towns.append((town, server))
        town.open()
        assert bool(database) is not bool(list(town.scene.manager.glob("*.sqlite3")))
        town.add("dev-001", "dev-002")
        town.await_versions(dict.fromkeys(town.devices, "1.0.0"), seconds=SECONDS)
        return town, server

    yield make
    for town, server in towns:
        try:
            town.close()
        finally:
            server.end(signal.SIGKILL)


def once(town: Town, digest: str) -> None:
    """Each device began and completed the release exactly once."""
    events = ("upgrade_started", "upgrade_completed")
    for device in town.devices:
        # An acknowledgement that the broker owes is given up after 30 s, and what it was for is sent again.
        told = partial(town.witness.count, events[-1], device, digest=digest)
        until(told, f"{device} has told everything", seconds=75)
        assert [town.witness.count(event, device, digest=digest) for event in events] == [1, 1]


@pytest.mark.parametrize("name", ON)
def test_a_release_that_dies_trips_the_rollout_and_goes_back(opened: Open, name: str) -> None:
    town, _ = opened(name)
    town.publish(BAD)
    rollout = town.rollout(BAD, "--immediate", "--settle", "0")
    town.await_state(rollout, "tripped", seconds=SECONDS)
    town.fleetfoot("rollout", "decide", rollout, "rollback")
    town.await_state(rollout, "rolled_back", seconds=SECONDS)
    town.await_versions(dict.fromkeys(town.devices, "1.0.0"), seconds=SECONDS)


@pytest.mark.parametrize("name", ON)
def test_a_device_is_away_and_the_manager_is_killed_in_the_middle(opened: Open, name: str) -> None:
    town, _ = opened(name)
    town.hosted["dev-002"].disconnect()
    town.await_presence("dev-002", "offline")
    digest = town.publish(GOOD)
    rollout = town.rollout(GOOD, "--immediate", "--settle", "0")
    town.await_versions({"dev-001": GOOD}, seconds=SECONDS)
    town.manager.end(signal.SIGKILL)
    town.manager.start()
    town.hosted["dev-002"].connect()
    town.await_versions({"dev-002": GOOD}, seconds=SECONDS)
    town.await_state(rollout, "completed", seconds=SECONDS)
    once(town, digest)


@pytest.mark.parametrize("name", ON)
def test_the_broker_is_killed_and_loses_everything(opened: Open, name: str) -> None:
    town, broker = opened(name)
    town.hosted["dev-002"].disconnect()
    town.await_presence("dev-002", "offline")
    digest = town.publish(GOOD)
    rollout = town.rollout(GOOD, "--immediate", "--settle", "0")
    town.await_versions({"dev-001": GOOD}, seconds=SECONDS)
    broker.end(signal.SIGKILL)
    broker.server.empty()
    broker.start()
    town.hosted["dev-002"].connect()
    town.await_versions({"dev-002": GOOD}, seconds=SECONDS)
    town.await_state(rollout, "completed", seconds=SECONDS)
    once(town, digest)


@pytest.mark.parametrize("name", ON)
def test_everything_comes_twice_and_out_of_order(opened: Open, name: str) -> None:
    town, _ = opened(name, Fault(to_client=Disorder))
    digest = town.publish(GOOD)
    rollout = town.rollout(GOOD, "--immediate", "--settle", "0")
    town.await_versions(dict.fromkeys(town.devices, GOOD), seconds=SECONDS)
    town.await_state(rollout, "completed", seconds=SECONDS)
    once(town, digest)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [one for one in ON if BROKERS[str(one.id)].outlives_a_node.value])
def test_a_node_of_the_broker_is_killed_in_the_middle(opened: Open, name: str) -> None:
    town, broker = opened(name)
    town.hosted["dev-002"].disconnect()
    town.await_presence("dev-002", "offline")
    digest = town.publish(GOOD)
    rollout = town.rollout(GOOD, "--immediate", "--settle", "0")
    town.await_versions({"dev-001": GOOD}, seconds=SECONDS)
    cast(Cluster, broker.server).kill_node()
    town.hosted["dev-002"].connect()
    # What was lost with a leader comes again only after its acknowledgement is overdue.
    town.await_versions({"dev-002": GOOD}, seconds=100)
    town.await_state(rollout, "completed", seconds=100)
    once(town, digest)


# -- where they differ


class Alone:
    """A broker that nobody uses but the test, and how to look at it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        (port,) = free_ports(1)
        self.server: Any = MAKERS[name](folder / name, port)
        self.target = Target(Address("127.0.0.1", port, False), run="conformance")

    def kept(self, name: str) -> bool:
        """Whether a retained message can be read."""
        with self.target.peer() as peer:
            peer.subscribe(self.target.topic(name))
            message = peer.receive(PATIENCE / 3)
        return message is not None


@pytest.fixture(scope="module", params=ON)
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """One for the tests below, since a cluster takes its time to start; they leave it running."""
    alone = Alone(str(request.param), tmp_path_factory.mktemp("alone"))
    alone.server.start()
    try:
        yield alone
    finally:
        alone.server.end(signal.SIGKILL)


def test_a_second_connection_of_one_name_does_as_expected(alone: Alone) -> None:
    older = alone.target.peer("same")
    with alone.target.peer("same") as newer:
        expectation = BROKERS[alone.name].takeover
        assert older.closed_within(PATIENCE) is expectation.value, expectation.reason
        newer.ping()
    older.vanish()


@pytest.mark.parametrize(
    ("how", "expected"), [("SIGTERM", "retained_after_stop"), ("SIGKILL", "retained_after_kill")]
)
def test_what_is_retained_after_a_restart_is_as_expected(alone: Alone, how: str, expected: str) -> None:
    with alone.target.peer() as peer:
        peer.publish(alone.target.topic(how), b"1", retained=True)
        until(lambda: alone.kept(how), "it is retained")
    alone.server.end(signal.Signals[how])
    alone.server.start()
    expectation = getattr(BROKERS[alone.name], expected)
    assert alone.kept(how) is expectation.value, expectation.reason

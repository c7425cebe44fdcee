"""What a broker refuses for a moment is asked for again, whichever of question and answer is noted first."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.agent.courierrig import ScriptedBroker, filters_of
from tests.support.waiting import until

from fleetfoot_manager.broker_address import Address
from fleetfoot_manager.happenings import Connected, Happening, Subscribed
from fleetfoot_manager.mqtt import MqttTransport
from fleetfoot_manager.subscriptions import Subscriptions

LATER = 61.0


@pytest.fixture
def asked() -> Subscriptions:
    return Subscriptions()


@pytest.mark.parametrize("early", [False, True])
def test_what_was_refused_is_due_once_and_what_was_granted_never(asked: Subscriptions, early: bool) -> None:
    if early:
        asked.answered(1, [True, False])
    asked.asked(1, ["a", "b"])
    if not early:
        asked.answered(1, [True, False])
    later = time.monotonic() + LATER
    assert asked.due(later) == ["b"]
    assert asked.due(later) == []
    asked.asked(2, ["b"])
    asked.answered(2, [True])
    assert asked.due(later) == []


def test_the_first_try_is_soon_and_later_ones_within_a_minute(asked: Subscriptions) -> None:
    latest = 0.0
    for number in range(100):
        asked.asked(number, ["a"])
        began = time.monotonic()
        asked.answered(number, [False])
        assert number or asked.due(began + 1.1) == ["a"]
        latest = max(latest, asked._due_at - began)
        assert number == 0 or asked.due(began + LATER) == ["a"]
    assert 10 < latest <= 60.1


def test_nothing_is_due_before_its_time(asked: Subscriptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    asked.asked(1, ["a"])
    before = time.monotonic()
    asked.answered(1, [False])
    assert asked.due(before + 0.9) == []
    assert asked.due(time.monotonic() + 1.0) == ["a"]


class Leaderless(ScriptedBroker):
    """Refuses the first subscription, grants the others."""

    asked = 0

    def grants(self) -> bytes:
        self.asked += 1
        return b"\x80" if self.asked == 1 else b"\x01"


@contextmanager
def connected(broker: ScriptedBroker) -> Iterator[tuple[MqttTransport, list[Happening]]]:
    """The manager's own connection to it, and what happens on it."""
    came: list[Happening] = []
    address = Address("127.0.0.1", broker.port)
    transport = MqttTransport(address, "manager", "ff/v1/manager/presence", came.extend)
    transport.start()
    try:
        until(lambda: Connected(1) in came, "the connection")
        yield transport, came
    finally:
        transport.stop()


def test_the_managers_connection_asks_again_and_listens_only_once_it_is_granted() -> None:
    with Leaderless() as broker, connected(broker) as (transport, came):
        transport.subscribe(["a", "b"])
        assert filters_of(broker.await_packet(8)) == {"a", "b"}
        assert Subscribed(1) not in came
        assert filters_of(broker.await_packet(8)) == {"a", "b"}
        until(lambda: Subscribed(1) in came, "it is granted")
        assert [one for one in came if isinstance(one, Connected)] == [Connected(1)]


def test_what_a_broker_keeps_is_fetched_without_a_subscription_that_costs_a_cluster_dearly() -> None:
    with ScriptedBroker() as broker, connected(broker) as (transport, _):
        transport.fetch(["a/b"])
        subscribed = broker.await_packet(8)
        assert filters_of(subscribed) == {"a/b"}
        assert subscribed[-1] == 0, "QoS"
        assert broker.await_packet(10).endswith(b"\x00\x03a/b")

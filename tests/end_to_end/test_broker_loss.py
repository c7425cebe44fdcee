"""The broker is a cache: killed and back empty, it is told everything again, and nobody installs twice."""

import contextlib
import json
import signal
import time
from collections import Counter
from typing import Any

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.end_to_end.town import Town
from tests.support.waiting import until

from fleetfoot_agent.spool import WorkerSide
from fleetfoot_manager import documents, reassert
from fleetfoot_manager.store import Store
from fleetfoot_protocol import events, topics
from fleetfoot_protocol.states import Lifecycle
from fleetfoot_protocol.topics import Kind

ONCE = ("upgrade_started", "upgrade_downloaded", "upgrade_activated", "upgrade_completed")


class Written:
    """Events at their source: as workers of this process write them, whether or not a broker carries them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._events: list[dict[str, Any]] = []
        append = WorkerSide.append_event

        def note(side: WorkerSide, payload: bytes) -> int:
            self._events.append(json.loads(payload))
            return append(side, payload)

        monkeypatch.setattr(WorkerSide, "append_event", note)

    def about(self, digest: str) -> Counter[tuple[str, str]]:
        """(device, event) -> how often it was written about a release."""
        return Counter(
            (event["data"]["device"], event["type"].removeprefix(events.PREFIX))
            for event in list(self._events)
            if event["data"].get("digest") == digest
        )


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    return Written(monkeypatch)


def truth(town: Town, *, away: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What a broker should hold: the manager's stored bytes, and what devices that are there say."""
    found = {topics.build(Kind.MANAGER_PRESENCE): b"online"}
    with Store(town.scene.manager, read_only=True) as store, store.read() as tx:
        for name in reassert.in_use(tx):
            stored = documents.get(tx, name)
            assert stored is not None
            found[f"ff/v1/{name}"] = stored.payload
    for name, device in town.devices.items():
        if name not in away:
            ids = {"group": device.group, "device": name}
            out = device.config.spool / "out"
            found[topics.build(Kind.PRESENCE, **ids)] = b"online"
            found[topics.build(Kind.STATUS, **ids)] = (out / "status.json").read_bytes()
            found[topics.build(Kind.STATUS_ATTESTATION, **ids)] = (out / "status.sig").read_bytes()
    return found


def held(town: Town, expected: dict[str, bytes], away: tuple[str, ...]) -> dict[str, bytes]:
    """What somebody who comes now is given by the broker; waits a little for what is expected."""
    found: dict[str, bytes] = {}

    def take(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        topic = topics.parse(message.topic)
        if message.retain and message.payload and topic is not None and topic.device not in away:
            found[message.topic] = bytes(message.payload)

    reader = mqtt.Client(CallbackAPIVersion.VERSION2)
    reader.on_connect = lambda client, *_: client.subscribe("ff/v1/#", 1)
    reader.on_message = take
    reader.connect("127.0.0.1", town.broker_port)
    reader.loop_start()
    with contextlib.suppress(AssertionError):
        until(lambda: dict(found) == expected, "all of it", seconds=2)
    reader.disconnect()
    reader.loop_stop()
    return found


def await_held(town: Town, *, away: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Wait until somebody who comes now is given by the broker exactly the truth; returns it."""
    deadline = time.monotonic() + 60
    while True:
        expected = truth(town, away=away)
        found = held(town, expected, away)
        if found == expected:
            return expected
        if time.monotonic() > deadline:
            assert found == expected  # says what is missing or differs


def all_answered(town: Town) -> bool:
    """Whether every device has answered the newest document of its group: it says nothing more by itself."""
    with Store(town.scene.manager, read_only=True) as store, store.read() as tx:
        newest = {
            group: documents.get(tx, documents.place(Kind.GROUP_DESIRED, group=group, component="kiosk"))
            for group in {device.group for device in town.devices.values()}
        }
    for name, device in town.devices.items():
        answer, stored = town.said(name).answered, newest[device.group]
        if answer is None or stored is None or answer.sequence != stored.sequence:
            return False
    return True


def lose_the_broker(town: Town) -> None:
    """Kill the broker and start it again, empty, on the same port."""
    assert town.broker is not None
    town.broker.end(signal.SIGKILL)
    town.broker.start()


def test_an_emptied_broker_in_the_middle_of_a_rollout_stops_nothing_and_repeats_nothing(
    town_with_broker: Town, written: Written
) -> None:
    town = town_with_broker
    wire = town.wire(town.artifact_port)
    town.open("--mirror", f"http://127.0.0.1:{wire.port}/blobs")
    town.add("dev-001", "dev-002", "dev-003")
    town.add("dev-004", "dev-005", "dev-006", group="lobbies")
    everybody = tuple(town.devices)
    town.await_versions(dict.fromkeys(everybody, "1.0.0"))
    digest = town.publish("1.1.0")
    wire.stall()
    rollout = town.rollout("1.1.0", "--waves", "3,100%", "--settle", "0", groups=("kitchens", "lobbies"))

    def canaries() -> list[str]:
        found = [name for name in everybody if town.said(name).state is Lifecycle.DOWNLOADING]
        return found if len(found) == 3 else []

    # One of the canaries goes away while it downloads: the first wave stays open for as long as this needs.
    away, *upgraded = until(canaries, "three devices have begun")
    town.hosted[away].disconnect()
    wire.mend()
    town.await_versions(dict.fromkeys(upgraded, "1.1.0"))
    until(lambda: all_answered(town), "every device has answered the order")

    def counted() -> bool:
        return town.witness.tally.progress[rollout].counts.get("healthy") == len(upgraded)

    until(counted, "the manager has counted them")
    before = await_held(town, away=(away,))
    pids = {name: town.pid(name) for name in everybody}
    events_before = written.about(digest)

    lose_the_broker(town)
    assert await_held(town, away=(away,)) == before
    assert {name: town.pid(name) for name in everybody} == pids
    assert written.about(digest) == events_before
    assert town.state(rollout) == "running"

    # It goes on; and once more, while the second wave is at work.
    town.hosted[away].connect()
    late = [name for name in everybody if name not in (away, *upgraded)]
    until(
        lambda: any(town.said(name).state is Lifecycle.PROBATION for name in late),
        "the second wave is at work",
    )
    lose_the_broker(town)
    town.await_versions(dict.fromkeys(everybody, "1.1.0"))
    town.await_state(rollout, "completed")
    assert town.witness.tally.progress[rollout].counts == {"healthy": 6}
    assert {name: town.pid(name) for name in upgraded} == {name: pids[name] for name in upgraded}
    once = {(name, event): 1 for name in everybody for event in ONCE}
    assert {key: count for key, count in written.about(digest).items() if key[1] in ONCE} == once
    await_held(town)


def test_an_emptied_broker_of_an_idle_fleet_is_told_everything_again(
    town_with_broker: Town, written: Written
) -> None:
    town = town_with_broker
    town.open()
    town.add("dev-001", "dev-002")
    town.await_versions({"dev-001": "1.0.0", "dev-002": "1.0.0"})
    digest = town.publish("1.1.0")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")
    town.await_state(rollout, "completed")
    town.await_versions({"dev-001": "1.1.0", "dev-002": "1.1.0"})
    until(lambda: all_answered(town), "both devices have answered the document that completed the rollout")
    before = await_held(town)
    kinds = {topic.kind for name in before if (topic := topics.parse(name)) is not None}
    assert kinds >= {
        Kind.MANAGER_PRESENCE,
        Kind.TRUST_ROOT,
        Kind.RELEASE,
        Kind.GROUP_DESIRED,
        Kind.HEARTBEAT,
        Kind.ROLLOUT,
        Kind.ROLLOUT_ATTESTATION,
        Kind.PRESENCE,
        Kind.STATUS,
        Kind.STATUS_ATTESTATION,
    }
    pids = {name: town.pid(name) for name in town.devices}
    events_before = written.about(digest)

    lose_the_broker(town)
    assert await_held(town) == before
    assert {name: town.pid(name) for name in town.devices} == pids
    assert written.about(digest) == events_before

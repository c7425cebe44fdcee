"""The manager as people run it: a real process, a real broker, signed requests, attested statuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.process import DeviceParty, ManagerProcess, OperatorParty, Party, closing
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.waiting import until

from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.topics import Kind

GROUPS = ("hall", "yard")
DEVICES = 10


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    return Realm(tmp_path)


@pytest.fixture
def manager(realm: Realm) -> Iterator[ManagerProcess]:
    manager = ManagerProcess(realm)
    with closing(manager):
        yield manager


class Fleet:
    """A started manager with ten enrolled devices that run 1.0.0, and two published releases."""

    def __init__(self, realm: Realm, manager: ManagerProcess) -> None:
        self.realm = realm
        self.manager = manager
        address = manager.ready["broker"]
        self.alice = OperatorParty(realm, address)
        self.sim = DeviceParty(address)
        self.watch = Party(address, "ff/v1/groups/#", "ff/v1/releases/#", "ff/v1/manager/presence")
        self.devices = [Device(f"dev-{n:02}", GROUPS[n % 2]) for n in range(DEVICES)]
        self.old, self.new = realm.release("1.0.0", 1), realm.release("1.1.0", 2)

    def prepare(self) -> None:
        self.alice.do("device.enroll", {"devices": [device.enrolment for device in self.devices]})
        for bundle in (self.old, self.new):
            self.alice.release(bundle)
        for device in self.devices:
            self.sim.say(device, device.status(runs(self.old)))
        until(lambda: len(self.on_old()) == DEVICES, "all devices are known on 1.0.0")

    def on_old(self) -> list[dict[str, Any]]:
        rows = self.alice.do("device.list")["devices"]
        return [row for row in rows if row["components"].get(COMPONENT, {}).get("version") == "1.0.0"]

    def start(self, bundle: Bundle, **more: Any) -> dict[str, Any]:
        arguments = {"component": COMPONENT, "version": bundle.release.version, "groups": list(GROUPS)}
        facts = {**arguments, "waves": [2, "50%", "100%"], "settle": 0, **more}
        return self.alice.do("rollout.start", facts)

    def show(self, name: str) -> dict[str, Any]:
        return self.alice.do("rollout.show", {"rollout": name})

    def exposed(self, name: str) -> list[Device]:
        """Devices that an open wave has exposed and that have not ended."""
        shown = self.show(name)
        waiting = {row["id"] for row in shown["devices"] if "since" in row and row["terminal"] == "pending"}
        return [device for device in self.devices if device.id in waiting]

    def obey(self, name: str, bundle: Bundle, wave: int) -> None:
        """Every exposed device completes, once the wave is open."""
        until(lambda: self.show(name)["wave"] >= wave, f"wave {wave} opens")
        for device in self.exposed(name):
            self.sim.say(device, device.status(ended(bundle, name, "completed", bundle)))

    def desired(self, group: str) -> Any:
        """The newest document that the broker holds for a group, read by somebody who just came."""
        topic = topics.build(Kind.GROUP_DESIRED, group=group, component=COMPONENT)
        reader = Party(self.manager.ready["broker"], topic)
        with closing(reader):
            payload = until(lambda: reader.on(topic), "a retained document")[-1]
        return trust.verify_desired(payload, self.realm.root)

    def close(self) -> None:
        for party in (self.alice, self.sim, self.watch):
            party.close()


@pytest.fixture
def fleet(realm: Realm, manager: ManagerProcess) -> Iterator[Fleet]:
    fleet = Fleet(realm, manager.first_start())
    try:
        fleet.prepare()
        yield fleet
    finally:
        fleet.close()


def test_a_release_goes_through_the_fleet_wave_by_wave(fleet: Fleet) -> None:
    started = fleet.start(fleet.new)
    name = started["rollout"]
    assert started["plan"]["waves"] == [2, 5, 10]
    for wave in (1, 2, 3):
        until(lambda wave=wave: fleet.show(name)["wave"] == wave, f"wave {wave} opens")
        assert len(fleet.exposed(name)) == {1: 2, 2: 3, 3: 5}[wave]
        fleet.obey(name, fleet.new, wave)
    row = until(lambda: (row := fleet.show(name))["state"] == "completed" and row, "it completes")
    assert row["counts"] == {"healthy": 10}
    for group in GROUPS:
        document = fleet.desired(group)
        assert document.targets == ()
        assert document.baseline is not None
        assert document.baseline.digest == fleet.new.digest

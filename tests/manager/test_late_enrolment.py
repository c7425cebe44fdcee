"""A device may run, connect and report before anybody enrols it: then what it has said counts at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.process import DeviceParty, ManagerProcess, OperatorParty, closing
from tests.manager.realm import COMPONENT, Device, Realm, runs
from tests.support.waiting import until

from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ManagerProcess]:
    manager = ManagerProcess(Realm(tmp_path))
    with closing(manager):
        yield manager


def test_what_devices_had_said_is_heard_when_they_are_enrolled(manager: ManagerProcess) -> None:
    realm = manager.first_start().realm
    address = manager.ready["broker"]
    bundle = realm.release("1.0.0", 1)
    devices = [Device(f"dev-{number}", "hall") for number in range(3)]
    alice, sim = OperatorParty(realm, address), DeviceParty(address)
    with closing(alice, sim):
        for device in devices:
            sim.say(device, device.status(runs(bundle)))
            presence = topics.build(Kind.PRESENCE, group=device.group, device=device.id)
            sim.publish(presence, b"online", retain=True)
        # A request is answered after everything before it: none of it is waiting any more.
        assert alice.do("device.list")["devices"] == []
        alice.do("device.enroll", {"devices": [device.enrolment for device in devices[:2]]})

        def known() -> list[str]:
            rows = alice.do("device.list")["devices"]
            return [row["id"] for row in rows if row["online"] and row["components"].get(COMPONENT)]

        until(lambda: known() == ["dev-0", "dev-1"], "both are known by what they had said")
        # Nothing stays of the question: each of their next statuses comes once.
        sim.say(devices[0], devices[0].status(runs(bundle, reason="again")))

        def said() -> str:
            shown = alice.do("device.show", {"device": "dev-0"})["components"][COMPONENT]
            return str(shown.get("reason", ""))

        until(lambda: said() == "again", "it is still heard")

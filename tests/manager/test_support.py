"""Devices that are too far behind, and what lies between two releases."""

from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Device, Realm, runs
from tests.support.waiting import until

from fleetfoot_manager import keyring
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_manager.rights import VERBS
from fleetfoot_protocol import keys, topics
from fleetfoot_protocol.reports import Reply
from fleetfoot_protocol.states import Right
from fleetfoot_protocol.topics import Kind


@pytest.fixture
def old(rig: Rig) -> Device:
    """A device on 1.1.0 while its group may have 3.0.0; 1.0.0, 2.0.0 and 2.1.0 are there too."""
    device = Device("dev-1", "hall")
    rig.enroll(device)
    bundles = {}
    for counter, version in enumerate(("1.0.0", "1.1.0", "2.0.0", "2.1.0", "3.0.0"), 1):
        bundles[version] = rig.realm.release(version, counter, notes=f"what is new in {version}")
        rig.publish(bundles[version])
    rig.say(device, device.status(runs(bundles["1.1.0"])))
    until(lambda: rig.device("dev-1").get("components"), "the device is heard")
    return device


def about(**more: Any) -> dict[str, Any]:
    return {"device": "dev-1", "component": COMPONENT, **more}


def test_who_is_more_than_a_major_behind_is_flagged(rig: Rig, old: Device) -> None:
    why = "1.1.0 is more than one major version behind 3.0.0"
    assert rig.device("dev-1")["unsupported"] == {COMPONENT: why}
    (row,) = rig.do("device.list")["devices"]
    assert row["unsupported"] == {COMPONENT: why}


DEVICE = {"device": "dev-1"}
OTHER_KEY = "1" * 64
#: Verb -> what it is asked with; those that are refused for a device out of support, and those that help.
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("pin", about()),
    ("pin", about(version="1.1.0")),
    ("downgrade", about(version="1.0.0")),
    ("move", {**DEVICE, "group": "yard"}),
    ("relabel", {**DEVICE, "labels": {"site": "north"}}),
    ("forget", DEVICE),
    ("enroll", {"labels": {"site": "north"}, "replace": True}),
    ("enroll", {"group": "yard", "replace": True}),
]
HELPS: list[tuple[str, dict[str, Any]]] = [
    ("upgrade", about(version="2.1.0")),
    ("release", about()),
    ("upgrade", about(version="2.1.0", pin=True)),
    ("unpin", about()),
    ("enroll", {"key": OTHER_KEY, "replace": True}),
    ("replace", {**DEVICE, "key": "2" * 64}),
    ("revoke", DEVICE),
]
#: Concerns who comes, not who is there.
APART = {"device.token"}


def test_upgrades_of_it_work_and_other_verbs_say_why_they_do_not(rig: Rig, old: Device) -> None:
    def ask(verb: str, more: dict[str, Any]) -> Reply:
        wish = {"devices": [{**old.enrolment, **more}]} if verb == "enroll" else more
        return rig.ask(f"device.{verb}", wish)

    for verb, more in REFUSED:
        reply = ask(verb, more)
        assert (reply.code, "out of support" in reply.message) == ("state_refused", True), verb
        assert "fleetfoot device upgrades dev-1 kiosk" in reply.remedy
        assert ("device revoke" in reply.remedy) == (verb == "forget")
    for verb, more in HELPS:
        reply = ask(verb, more)
        assert reply.ok, (verb, reply.message)


def test_every_verb_about_a_device_was_thought_of() -> None:
    changing = {verb for verb, right in VERBS.items() if right is not Right.READ and "device." in verb}
    assert changing - APART == {f"device.{verb}" for verb, _ in REFUSED + HELPS}


def test_the_way_up_is_one_major_at_a_time(rig: Rig, old: Device) -> None:
    rows = {row["version"]: row for row in rig.do("device.upgrades", about())["releases"]}
    assert [version for version, row in rows.items() if row["direct"]] == ["2.1.0", "2.0.0"]
    assert (rows["3.0.0"]["direct"], rows["3.0.0"]["reason"]) == (False, "requires upgrade to 2.x first")


def test_a_release_that_is_recalled_leaves_nobody_behind(rig: Rig, old: Device) -> None:
    rig.do("release.recall", {"component": COMPONENT, "version": "3.0.0", "reason": "smoke"})
    assert "unsupported" not in rig.device("dev-1")


@pytest.mark.parametrize("pair", [("1.1.0", "2.1.0"), ("2.1.0", "1.1.0")])
def test_two_releases_are_compared_in_either_order(rig: Rig, old: Device, pair: tuple[str, str]) -> None:
    found = rig.do("release.compare", {"component": COMPONENT, "version": pair[0], "to": pair[1]})
    assert (found["from"]["version"], found["to"]["version"]) == ("1.1.0", "2.1.0")
    assert [(step["version"], step["notes"]) for step in found["between"]] == [
        ("2.0.0", "what is new in 2.0.0"),
        ("2.1.0", "what is new in 2.1.0"),
    ]
    (platform,) = found["platforms"]
    assert (platform["platform"], platform["same"]) == ("linux/amd64", False)
    assert {platform["from_length"], platform["to_length"]} == {
        found["from"]["length"],
        found["to"]["length"],
    }


def test_what_is_the_same_artifact_is_said_to_be(rig: Rig) -> None:
    for counter, version in enumerate(("1.0.0", "1.0.1"), 1):
        rig.publish(rig.realm.release(version, counter, content=b"the same"))
    found = rig.do("release.compare", {"component": COMPONENT, "version": "1.0.0", "to": "1.0.1"})
    assert [row["same"] for row in found["platforms"]] == [True]


def test_a_group_may_be_made_before_its_first_device(rig: Rig) -> None:
    assert rig.do("group.create", {"group": "attic", "title": "Under the roof"})["devices"] == 0
    assert rig.ask("group.create", {"group": "attic"}).code == "exists_already"
    assert [row["group"] for row in rig.do("group.list")["groups"]] == ["attic"]
    assert rig.do("group.show", {"group": "attic"})["online"] == 0
    heartbeat = topics.build(Kind.HEARTBEAT, group="attic")
    until(lambda: rig.broker.on(heartbeat), "its heartbeat")
    rig.enroll(Device("dev-1", "attic"))
    assert [row["group"] for row in rig.do("group.list")["groups"]] == ["attic"]


def test_replaced_hardware_keeps_its_place_and_nothing_of_the_old(rig: Rig) -> None:
    old = Device("dev-1", "hall")
    rig.enroll(old)
    rig.say(old, old.status(runs(rig.realm.release("1.0.0", 1))))
    until(lambda: rig.device("dev-1").get("components"), "the old one is heard")
    rig.do("device.relabel", {"device": "dev-1", "labels": {"site": "north"}})
    new = Device("dev-1", "hall")
    public = keys.public_of(new.secret).hex()
    sent = len(rig.broker.sent)
    rig.do("device.replace", {"device": "dev-1", "key": public})
    cleared = [one.topic for one in rig.broker.sent[sent:] if one.retained and not one.payload]
    assert topics.build(Kind.STATUS, group="hall", device="dev-1") in cleared
    shown = rig.device("dev-1")
    assert (shown["group"], shown["labels"], shown["components"]) == ("hall", {"site": "north"}, {})
    rig.say(old, old.status())
    rig.say(new, new.status(labels={"site": "south"}))
    until(lambda: rig.device("dev-1")["labels"] == {"site": "south"}, "the new one is heard")
    assert keyring.read(rig.realm.state)["dev-1"]["key"] == public
    assert rig.ask("device.replace", {"device": "dev-1", "key": public}).code == "state_refused"


def test_replaced_hardware_takes_its_certificates_and_its_session_with_it(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path / "pki", "testfleet", ["127.0.0.1"])
    pki.issue("device", "dev-1")
    serials = set(pki.issued("device")["dev-1"])
    rig = Rig(Realm(tmp_path), pki=pki)
    try:
        rig.connect()
        rig.enroll(Device("dev-1", "hall"))
        found = rig.do("device.replace", {"device": "dev-1", "key": "1" * 64})
        names, cleared = until(lambda: rig.broker.evicted, "the old one is turned away")[-1]
    finally:
        rig.close()
    assert (found["certificates"], pki.revoked("device")) == (1, serials)
    assert "dev-1" in names
    assert topics.build(Kind.STATUS, group="hall", device="dev-1") in cleared
    pki.issue("device", "dev-1")
    assert not set(pki.issued("device")["dev-1"]) <= pki.revoked("device")

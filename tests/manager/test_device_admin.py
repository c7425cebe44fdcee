"""Who a device is: moved to another group, labelled anew, forgotten with everything it left on the broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Device, Realm, runs
from tests.support.waiting import until

from fleetfoot_protocol import topics
from fleetfoot_protocol.states import Role
from fleetfoot_protocol.topics import Kind

OPERATORS: dict[str, dict[str, tuple[Role, ...]]] = {
    "alice": {"*": (Role.ADMIN,)},
    "hugo": {"hall": (Role.ADMIN,)},
}
LEFT = (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE)
KIOSK = {"device": "oven", "component": COMPONENT}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """An oven and a grill in the hall, both on 1.0.0."""
    rig = Rig(Realm(tmp_path, OPERATORS))
    rig.connect()
    old = rig.realm.release("1.0.0", 1)
    for name in ("oven", "grill"):
        device = Device(name, "hall")
        rig.enroll(device)
        rig.say(device, device.status(runs(old)))
    rig.publish(old)
    rig.publish(rig.realm.release("1.1.0", 2))
    yield rig
    rig.close()


def cleared(rig: Rig, group: str = "hall") -> list[str]:
    """What was cleared of the oven's retained topics under that group."""
    base = topics.build(Kind.PRESENCE, group=group, device="oven").removesuffix("/presence")
    empty = {s.topic for s in rig.broker.sent if s.retained and not s.payload and s.topic.startswith(base)}
    return sorted(topic.removeprefix(f"{base}/") for topic in empty)


def member(rig: Rig, rollout: str) -> dict[str, str]:
    return next(row for row in rig.show(rollout)["devices"] if row["id"] == "oven")


def test_a_forgotten_device_leaves_no_retained_topic_and_no_row(rig: Rig) -> None:
    rig.do("device.pin", KIOSK)
    assert rig.do("device.forget", {"device": "oven"})["cleared"] == 4
    until(
        lambda: cleared(rig) == ["desired/kiosk", "presence", "status", "status/attestation"],
        "everything is cleared",
    )
    assert rig.ask("device.show", {"device": "oven"}).code == "not_found"
    assert [row["id"] for row in rig.do("device.list")["devices"]] == ["grill"]


def test_a_forgotten_device_is_awaited_by_no_rollout(rig: Rig) -> None:
    rollout = rig.start(rig.realm.release("1.1.0", 2), "hall", immediate=True)
    rig.do("device.forget", {"device": "oven"})
    assert (member(rig, rollout)["terminal"], member(rig, rollout)["reason"]) == (
        "skipped",
        "left the groups",
    )


def test_a_forgotten_device_comes_back_as_a_new_one(rig: Rig) -> None:
    rig.do("device.pin", KIOSK)
    rig.do("device.forget", {"device": "oven"})
    rig.enroll(Device("oven", "hall"))
    assert rig.device("oven")["own"] == {}
    assert "status" not in rig.device("oven")


def test_a_moved_device_is_of_the_new_group_and_left_nothing_in_the_old(rig: Rig) -> None:
    rig.do("device.pin", KIOSK)
    rollout = rig.start(rig.realm.release("1.1.0", 2), "hall", immediate=True)
    assert rig.do("device.move", {"device": "oven", "group": "yard"})["from"] == "hall"
    assert rig.device("oven")["group"] == "yard"
    assert rig.device("oven")["own"] == {}
    assert member(rig, rollout)["reason"] == "left the groups"
    until(lambda: len(cleared(rig)) == 4, "the old group's topics are cleared")
    heartbeat = topics.build(Kind.HEARTBEAT, group="yard")
    until(lambda: rig.broker.on(heartbeat), "the new group has a heartbeat")
    assert rig.ask("device.move", {"device": "oven", "group": "yard"}).code == "state_refused"


def test_a_device_moved_by_a_new_enrolment_left_nothing_either(rig: Rig) -> None:
    again = {**Device("oven", "yard").enrolment, "replace": True}
    rig.do("device.enroll", {"devices": [again]})
    until(lambda: cleared(rig) == ["presence", "status", "status/attestation"], "it is cleared")


def test_a_device_moved_into_a_group_joins_its_rollout(rig: Rig) -> None:
    rig.enroll(Device("lone", "yard"))
    rollout = rig.start(rig.realm.release("1.1.0", 2), "yard", immediate=True)
    rig.do("device.move", {"device": "oven", "group": "yard"})
    assert member(rig, rollout)["group"] == "yard"


def test_a_group_that_comes_to_be_by_a_move_knows_what_is_recalled(rig: Rig) -> None:
    bundle = rig.realm.release("1.1.0", 2)
    names = {"component": COMPONENT, "version": "1.1.0"}
    shown = rig.do("release.show", names)
    rig.do("release.recall", {**names, "reason": "smoke"})
    rig.do("device.move", {"device": "oven", "group": "yard"})
    assert rig.desired("yard").withdrawn == (shown["digest"],)
    assert bundle.release.version == "1.1.0"


def test_labels_of_the_enrolment_count_until_the_device_tells_its_own(rig: Rig) -> None:
    rig.enroll(Device("mute", "hall"))
    labels = {"site": "berlin"}
    told = rig.do("device.relabel", {"device": "mute", "labels": labels})
    assert (told["labels"], told["effective"]) == (labels, labels)
    told = rig.do("device.relabel", {"device": "oven", "labels": labels})
    assert (told["labels"], told["effective"]) == (labels, {})
    plan = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"], "selector": labels}
    assert rig.do("rollout.plan", plan)["plan"]["total"] == 1


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("device.move", {"device": "oven", "group": "yard"}),
        ("device.move", {"device": "lone", "group": "hall"}),
        ("device.forget", {"device": "lone"}),
        ("device.relabel", {"device": "lone", "labels": {}}),
    ],
)
def test_both_groups_of_a_move_must_be_ones_own(rig: Rig, verb: str, arguments: dict[str, str]) -> None:
    rig.enroll(Device("lone", "yard"))
    reply = rig.ask(verb, arguments, operator="hugo")
    assert (reply.code, "in group yard" in reply.message) == ("not_allowed", True)

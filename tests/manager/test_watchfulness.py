"""The manager notices who writes where nobody else should, and that its own heartbeat is not what it said."""

import json
from typing import Any

import pytest
from tests.attack.rows import row
from tests.manager.enginerig import Rig
from tests.manager.realm import Device, Realm
from tests.support.waiting import until

from fleetfoot_protocol import dsse, keys, times, topics, trust
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import RoleKeys

HEARTBEAT = topics.build(Kind.HEARTBEAT, group="hall")
EVENTS = topics.build(Kind.GROUP_EVENTS, group="hall")


def alarms(rig: Rig) -> list[tuple[str, str]]:
    """Code and what it is about, of every alarm the group was told of."""
    rig.do("manager.status")
    events = [json.loads(payload) for payload in rig.broker.on(EVENTS)]
    found = [event for event in events if event["type"] == "dev.fleetfoot.alarm"]
    return [(e["errorcode"], e["data"].get("device") or e["data"]["topic"]) for e in found]


def beats(rig: Rig) -> list[bytes]:
    return until(lambda: rig.broker.on(HEARTBEAT), "a heartbeat")


def echo(rig: Rig) -> None:
    """Everything retained comes back, as from a broker that does its work."""
    for sent in list(rig.broker.sent):
        if sent.retained:
            rig.arrive(sent.topic, sent.payload)
    rig.do("manager.status")


# -- who writes where


@row(71, "a status under a device's name that another key signed, or signed for another place",
     "ignored by the manager, one alarm a minute; the genuine ones count",
     holds=[("broker", "harm"), ("device", "harm")])  # fmt: skip
@pytest.mark.parametrize(
    ("secret", "changes", "code"),
    [
        (b"x" * 32, {}, "upgrade_signature_invalid"),
        (None, {"device": "dev-2"}, "upgrade_scope_mismatch"),
        (None, {"group": "yard"}, "upgrade_scope_mismatch"),
        (None, {"fleet": "otherfleet"}, "upgrade_scope_mismatch"),
    ],
)
def test_row_71_a_spoofed_status_is_ignored_and_alarmed_once_a_minute(
    rig: Rig, device: Device, secret: bytes | None, changes: dict[str, Any], code: str
) -> None:
    rig.say(device, device.status(agent="1.0.0"))
    echo(rig)
    spoofer = Device("dev-1", "hall", secret or device.secret, counter=device.counter)
    for _ in range(3):
        rig.say(device, spoofer.status(agent="6.6.6", **changes))
    assert rig.device("dev-1")["agent"] == "1.0.0"
    assert alarms(rig) == [(code, "dev-1")]
    rig.shift += 61
    rig.say(device, spoofer.status(agent="6.6.6", **changes))
    assert alarms(rig) == [(code, "dev-1")] * 2
    rig.say(device, device.status(agent="1.1.0"))
    assert rig.device("dev-1")["agent"] == "1.1.0"


@row(71, "a device writes its own status on another's topic", "ignored by the manager, an alarm",
     holds=[("device", "harm")])  # fmt: skip
def test_row_71_a_device_that_writes_on_anothers_topic_is_ignored_and_alarmed(
    rig: Rig, device: Device
) -> None:
    rig.say(device, device.status(agent="1.0.0"))
    other = Device("dev-2", "hall")
    rig.enroll(other)
    rig.say(device, other.status(agent="6.6.6"))
    assert rig.device("dev-1")["agent"] == "1.0.0"
    assert "agent" not in rig.device("dev-2")
    assert alarms(rig) == [("upgrade_signature_invalid", "dev-1")]


def test_a_stale_status_is_ignored_without_an_alarm(rig: Rig, device: Device) -> None:
    old, new = device.status(agent="1.0.0"), device.status(agent="1.1.0")
    rig.say(device, new)
    rig.say(device, old)
    rig.say(device, new)
    assert rig.device("dev-1")["agent"] == "1.1.0"
    assert alarms(rig) == []


# -- its own heartbeat


def test_a_heartbeat_that_comes_back_is_fresh(rig: Rig, device: Device) -> None:
    beats(rig)
    echo(rig)
    rig.shift += 100
    rig.do("manager.status")
    assert alarms(rig) == []


@row(11, "the broker does not give the manager's heartbeat back", "an alarm of the manager, once",
     holds=[("broker", "harm")])  # fmt: skip
def test_row_11_a_heartbeat_that_does_not_come_back_is_an_alarm_once(rig: Rig, device: Device) -> None:
    beats(rig)
    rig.shift += 100
    until(lambda: alarms(rig), "the alarm")
    rig.shift += 100
    assert alarms(rig) == [("upgrade_stale", "groups/hall/heartbeat")]


@row(11, "an older heartbeat of the manager's on the broker", "an alarm of the manager, and the newest again",
     holds=[("broker", "harm")])  # fmt: skip
def test_row_11_a_replayed_heartbeat_is_an_alarm_and_the_newest_is_told_again(
    rig: Rig, device: Device
) -> None:
    first = beats(rig)[-1]
    echo(rig)
    rig.shift += 3700
    until(lambda: beats(rig)[-1] != first, "the heartbeat of the next hour")
    echo(rig)
    newest, told = beats(rig)[-1], len(beats(rig))
    rig.arrive(HEARTBEAT, first)
    assert alarms(rig) == [("upgrade_stale", "groups/hall/heartbeat")]
    until(lambda: len(beats(rig)) > told, "the newest once more")
    assert beats(rig)[-1] == newest


def test_an_expired_heartbeat_on_the_broker_is_an_alarm(rig: Rig, device: Device) -> None:
    first = beats(rig)[-1]
    echo(rig)
    rig.shift += 25 * 3600
    until(lambda: beats(rig)[-1] != first, "a new heartbeat")
    rig.disconnect()
    rig.connect()
    rig.arrive(HEARTBEAT, first, retained=True)
    until(lambda: alarms(rig) == [("upgrade_stale", "groups/hall/heartbeat")], "the alarm")


def test_an_older_heartbeat_in_a_stale_cache_is_no_alarm(rig: Rig, device: Device) -> None:
    first = beats(rig)[-1]
    echo(rig)
    rig.shift += 3700
    until(lambda: beats(rig)[-1] != first, "the heartbeat of the next hour")
    rig.disconnect()
    rig.connect()
    rig.arrive(HEARTBEAT, first, retained=True)
    assert alarms(rig) == []


@row(11, "a heartbeat from a copy of the manager's key", "an alarm of the manager, and a newer heartbeat",
     holds=[("manager", "harm")])  # fmt: skip
def test_row_11_a_heartbeat_with_our_key_that_is_newer_than_ours_is_outdone(rig: Rig, device: Device) -> None:
    payload = beats(rig)[-1]
    echo(rig)
    rig.shift += 2
    ours = trust.verify_heartbeat(payload, rig.house.root)
    later = ours.model_copy(update={"issued": times.to_text(rig.now() + 60)})
    rig.arrive(HEARTBEAT, rig.house.director.envelope(PayloadType.HEARTBEAT, later))
    assert alarms(rig) == [("upgrade_equivocation", "groups/hall/heartbeat")]
    until(lambda: beats(rig)[-1] != payload, "a heartbeat anew")


def test_a_forged_root_on_the_broker_is_an_alarm_for_every_group(
    rig: Rig, realm: Realm, device: Device
) -> None:
    rig.enroll(Device("dev-2", "yard"))
    echo(rig)
    realm.secrets["thief"] = keys.generate()
    rig.arrive(topics.build(Kind.TRUST_ROOT, step="1"), realm.sign_root(realm.root, "thief"))
    assert alarms(rig) == [("upgrade_signature_invalid", "trust/root/1")]
    assert rig.broker.on(topics.build(Kind.GROUP_EVENTS, group="yard"))


# -- what a new root takes away


@row(16, "a rollout of a release whose signer a newer root has removed", "the manager does not even plan it",
     holds=[("release key", "unsigned")])  # fmt: skip
def test_row_16_a_release_whose_signer_has_left_the_root_is_not_even_planned(realm: Realm) -> None:
    first = Rig(realm)
    first.connect()
    device = Device("dev-1", "hall")
    first.enroll(device)
    first.publish(realm.release("1.1.0", 2))
    asked = {"component": "kiosk", "version": "1.1.0", "groups": ["hall"]}
    assert first.ask("rollout.plan", asked).ok
    first.close()
    realm.secrets["release"] = keys.generate()
    root = realm.make_root({"alice": {"*": ("admin",)}}, version=2)  # type: ignore[dict-item]
    assert isinstance(root.roles.release, RoleKeys)
    data = dsse.encode(dsse.sign(PayloadType.ROOT, root.payload(), realm.secrets["root"]))
    realm.root_path.write_bytes(data)
    second = Rig(realm)
    second.connect()
    try:
        for verb in ("rollout.plan", "rollout.start"):
            reply = second.ask(verb, asked)
            assert (reply.ok, reply.code) == (False, "upgrade_signature_invalid")
        second.publish(realm.release("1.2.0", 3))
        assert second.ask("rollout.plan", {**asked, "version": "1.2.0"}).ok
    finally:
        second.close()

"""Preflight: a signed question to each group, and an answer that is the devices' own, or none."""

import json
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, runs
from tests.support.waiting import until

from fleetfoot_manager import documents, schema
from fleetfoot_manager.agenda import EVERY_SECONDS
from fleetfoot_manager.store import Store
from fleetfoot_protocol import keys, times, topics, trust
from fleetfoot_protocol.documents import Probe
from fleetfoot_protocol.reports import Preflight
from fleetfoot_protocol.states import Verdict
from fleetfoot_protocol.topics import Kind

NAMES = ("asks", "off", "offline", "willing")


@pytest.fixture
def hall(rig: Rig) -> dict[str, Device]:
    found = {name: Device(name, "hall") for name in NAMES}
    old, new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
    rig.enroll(*found.values())
    rig.publish(old)
    rig.publish(new)
    for device in found.values():
        rig.say(device, device.status(runs(old)))
    return found


@pytest.fixture
def old(rig: Rig) -> Bundle:
    return rig.realm.release("1.0.0", 1)


def asked(rig: Rig, **more: Any) -> dict[str, Any]:
    wish = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"], **more}
    return rig.do("rollout.probe", wish)


def question(rig: Rig, group: str = "hall") -> Probe:
    sent = rig.broker.on(topics.build(Kind.PROBE, group=group, component=COMPONENT))
    return trust.verify_probe(sent[-1], rig.house.root)


def answers(rig: Rig, probe: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {name: probe[name] for name in ("id", "component", "digest", "groups")}
    return rig.do("rollout.answers", {**about, **more})


def says(rig: Rig, device: Device, old: Bundle, probe: dict[str, Any], verdict: str, code: str = "") -> None:
    """The device answers, as the worker would."""
    facts = {"id": probe["id"], "digest": probe["digest"], "verdict": Verdict(verdict), "code": code}
    answer = Preflight(**{"reason": "ordered", "at": times.to_text(0), **facts})
    rig.say(device, device.status(runs(old, preflight=answer)))


def all_answer(rig: Rig, hall: dict[str, Device], old: Bundle, probe: dict[str, Any]) -> None:
    says(rig, hall["willing"], old, probe, "accepted")
    says(rig, hall["off"], old, probe, "rejected", "upgrade_disabled")
    says(rig, hall["asks"], old, probe, "deferred", "upgrade_consent_pending")


def test_a_probe_is_one_signed_message_for_each_group(rig: Rig, hall: dict[str, Device]) -> None:
    rig.enroll(Device("other", "yard"))
    probe = asked(rig, groups=["hall", "yard"], deadline=60)
    for group in ("hall", "yard"):
        found = until(partial(question, rig, group), "a probe")
        assert (found.id, found.goal.digest, found.group) == (probe["id"], probe["digest"], group)
        assert times.from_text(found.expires) - times.from_text(found.issued) == 60
    assert probe["total"] == 5
    sent = [one for one in rig.broker.sent if "/desired/" in one.topic or "/rollouts/" in one.topic]
    assert sent == []


def test_answers_are_counted_by_what_devices_say_and_silence_is_unknown(
    rig: Rig, hall: dict[str, Device], old: Bundle
) -> None:
    probe = asked(rig)
    assert answers(rig, probe)["counts"] == {"ok": 0, "deferred": 0, "refused": 0, "unknown": 4}
    all_answer(rig, hall, old, probe)
    found = answers(rig, probe)
    assert found["counts"] == {"ok": 1, "deferred": 1, "refused": 1, "unknown": 1}
    assert [(r["counts_as"], r["why"], r["count"]) for r in found["reasons"]] == [
        ("refused", "upgrade_disabled", 1),
        ("unknown", "offline", 1),
        ("deferred", "upgrade_consent_pending", 1),
        ("ok", "ordered", 1),
    ]
    assert [row["device"] for row in found["devices"]] == ["off", "offline", "asks", "willing"]


def test_devices_named_one_by_one_are_asked_and_nobody_else_counts(
    rig: Rig, hall: dict[str, Device], old: Bundle
) -> None:
    rig.enroll(other := Device("other", "yard"))
    rig.say(other, other.status(runs(old)))
    named = {"groups": [], "devices": ["willing", "other"]}
    probe = asked(rig, **named)
    assert (probe["groups"], probe["total"]) == (["hall", "yard"], 2)
    all_answer(rig, hall, old, probe)
    of_no_group: list[str] = []
    for groups in (of_no_group, probe["groups"]):
        found = answers(rig, probe, **{**named, "groups": groups})
        assert (found["total"], found["counts"]["ok"], found["counts"]["unknown"]) == (2, 1, 1)
        assert [row["device"] for row in found["devices"]] == ["other", "willing"]
    rig.do("device.forget", {"device": "other"})
    about = {name: probe[name] for name in ("id", "component", "digest")}
    assert rig.ask("rollout.answers", {**about, **named}).code == "not_found"


def test_answers_of_nobody_in_particular_are_refused(rig: Rig, hall: dict[str, Device]) -> None:
    about = {name: value for name, value in asked(rig).items() if name in ("id", "component", "digest")}
    for wrong in ({}, {"devices": ["off", "off"]}, {"devices": ["off"], "selector": {"site": "b"}}):
        assert rig.ask("rollout.answers", {**about, **wrong}).code == "request_invalid"


def test_an_answer_to_another_question_is_none(rig: Rig, hall: dict[str, Device], old: Bundle) -> None:
    first = asked(rig)
    all_answer(rig, hall, old, first)
    second = asked(rig)
    assert second["id"] != first["id"]
    assert answers(rig, second)["counts"]["unknown"] == 4
    says(rig, hall["willing"], old, {**second, "digest": old.digest}, "accepted")
    assert answers(rig, second)["counts"]["unknown"] == 4


def test_only_the_devices_own_key_answers(rig: Rig, hall: dict[str, Device], old: Bundle) -> None:
    probe = asked(rig)
    rogue = Device("off", "hall", secret=keys.generate())
    says(rig, rogue, old, probe, "accepted")
    assert answers(rig, probe)["counts"]["ok"] == 0


def test_with_the_inventory_wiped_the_fleet_answers_the_same(
    rig: Rig, hall: dict[str, Device], old: Bundle
) -> None:
    probe = asked(rig)
    all_answer(rig, hall, old, probe)
    before = answers(rig, probe)
    rig.close()
    with Store(rig.realm.state) as store, ExitStack() as stack:
        store.acquire()
        tx = stack.enter_context(store.write())
        nothing = dict.fromkeys(("status", "status_sha256", "incarnation", "counter", "last_seen"))
        tx.execute(sa.update(schema.devices).values(past="{}", online=False, **nothing))
    again = Rig(rig.realm)
    try:
        again.connect()
        probe = asked(again)
        assert answers(again, probe)["counts"]["unknown"] == 4
        assert {row["why"] for row in answers(again, probe)["reasons"]} == {"never heard"}
        all_answer(again, hall, old, probe)
        after = answers(again, probe)
    finally:
        again.close()
    assert after["counts"] == before["counts"]
    assert [(r["device"], r["counts_as"]) for r in after["devices"]] == [
        (r["device"], r["counts_as"]) for r in before["devices"]
    ]


def test_a_probe_is_cleared_when_its_time_is_over_and_replaced_by_the_next(
    rig: Rig, hall: dict[str, Device]
) -> None:
    topic = topics.build(Kind.PROBE, group="hall", component=COMPONENT)
    asked(rig, deadline=10)
    second = asked(rig, deadline=20)
    assert until(lambda: question(rig).id == second["id"], "the second probe")
    with rig.store.read() as tx:
        assert len(documents.topics_of(tx, [Kind.PROBE])) == 1
    rig.shift = 20 + EVERY_SECONDS + 1
    until(lambda: rig.broker.on(topic)[-1] == b"", "the probe is cleared")
    with rig.store.read() as tx:
        assert documents.topics_of(tx, [Kind.PROBE]) == []


def test_what_is_stored_follows_another_message_on_its_topic(rig: Rig, hall: dict[str, Device]) -> None:
    topic = topics.build(Kind.PROBE, group="hall", component=COMPONENT)
    probe = asked(rig, deadline=600)
    ours = until(lambda: rig.broker.on(topic), "the probe")[-1]
    count = len(rig.broker.on(topic))
    rig.arrive(topic, ours, retained=True)
    rig.arrive(topic, b'{"forged": true}')
    until(lambda: len(rig.broker.on(topic)) > count, "it is told again")
    assert rig.broker.on(topic)[-1] == ours
    assert question(rig).id == probe["id"]


def test_what_could_not_be_planned_is_not_asked(rig: Rig, hall: dict[str, Device]) -> None:
    wish = {"component": COMPONENT, "version": "9.9.9", "groups": ["hall"]}
    assert rig.ask("rollout.probe", wish).code == "not_found"
    assert rig.ask("rollout.probe", {**wish, "version": "1.1.0", "groups": ["attic"]}).code == "not_found"
    assert rig.broker.on(topics.build(Kind.PROBE, group="hall", component=COMPONENT)) == []


def test_who_asked_stands_in_the_audit_log(rig: Rig, hall: dict[str, Device]) -> None:
    probe = asked(rig)
    (row,) = rig.do("audit.list", {"action": "group.upgrade.preflight"})["entries"]
    data = json.loads(row["data"])
    assert row["actor"] == "alice"
    assert (data["probe"], data["node_count"]) == (probe["id"], 4)

"""Requests of operators: who may what, what is answered, and that nothing is done twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.waiting import until

from fleetfoot_manager import audit
from fleetfoot_manager.requests import desk
from fleetfoot_manager.rights import VERBS
from fleetfoot_protocol import times, topics
from fleetfoot_protocol.documents import Target
from fleetfoot_protocol.reports import ComponentStatus, Platform, PolicySummary
from fleetfoot_protocol.states import RIGHTS, Right, Role
from fleetfoot_protocol.topics import Kind

Operators = dict[str, dict[str, tuple[Role, ...]]]
EVERYBODY: Operators = {str(role): {"*": (role,)} for role in Role}
START = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"]}


def opened(folder: Path, operators: Operators | None = None) -> Rig:
    rig = Rig(Realm(folder, operators))
    rig.connect()
    return rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = opened(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def ready(rig: Rig) -> Bundle:
    """1.1.0, published, with ten devices on 1.0.0 in the hall."""
    old, new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
    devices = [Device(f"dev-{n}", "hall") for n in range(10)]
    rig.enroll(*devices)
    rig.publish(old)
    rig.publish(new)
    for device in devices:
        rig.say(device, device.status(runs(old)))
    return new


def refusals(rig: Rig) -> list[dict[str, Any]]:
    with rig.store.read() as tx:
        rows = [row for row in audit.entries(tx) if row.action == "request.refused"]
    return [{"actor": row.actor, "request": row.request, **json.loads(row.data)} for row in rows]


# --- who may what ------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, dict[str, Any]] = {
    "release.upload": {
        "component": COMPONENT,
        "version": "1.1.0",
        "digest": "0" * 64,
        "blobs": [{"sha256": "0" * 64, "length": 1}],
    },
    "release.publish": {"component": COMPONENT, "version": "1.1.0", "digest": "0" * 64, "envelope": "0" * 64},
    "release.promote": {"component": COMPONENT, "version": "9.9.9", "to": "blessed"},
    "engine.pause": {"reason": "smoke"},
    "release.archive": {"component": COMPONENT, "version": "9.9.9"},
    "release.recall": {"component": COMPONENT, "version": "9.9.9", "reason": "smoke"},
    "release.lift": {"component": COMPONENT, "version": "9.9.9"},
    "release.show": {"component": COMPONENT, "version": "9.9.9"},
    "release.compare": {"component": COMPONENT, "version": "9.9.9", "to": "9.9.8"},
    "group.create": {"group": "hall"},
    "device.revoke": {"device": "dev-77"},
    "device.token": {"secret_sha256": "0" * 64, "group": "hall"},
    "device.replace": {"device": "dev-1", "key": "0" * 64},
    "device.enroll": {"devices": [{"id": "dev-9", "group": "hall", "key": "0" * 64}]},
    "device.show": {"device": "dev-1"},
    **{f"group.{verb}": {"group": "hall"} for verb in ("show", "drift", "policy", "forget")},
    "audit.show": {"n": 10_000},
    "audit.prune": {"through": 10_000, "hash": "0" * 64},
    "rollout.note": {"rollout": "r-1", "title": "smoke"},
    "rollout.report": {"rollout": "r-1"},
    "device.move": {"device": "dev-1", "group": "hall"},
    "device.relabel": {"device": "dev-1", "labels": {}},
    "device.forget": {"device": "dev-77"},
    "rollout.approve": {"rollout": "r-1"},
    "rollout.reject": {"rollout": "r-1", "reason": "not today"},
    **{
        f"device.{verb}": {"device": "dev-1", "component": COMPONENT, "version": "9.9.9"}
        for verb in ("upgrade", "downgrade", "pin")
    },
    **{
        f"device.{verb}": {"device": "dev-1", "component": COMPONENT}
        for verb in ("unpin", "release", "upgrades", "downgrades")
    },
    "rollout.plan": {**START, "version": "9.9.9"},
    "rollout.probe": {**START, "version": "9.9.9"},
    "rollout.answers": {"id": "p-1", "component": COMPONENT, "digest": "0" * 64, "groups": ["hall"]},
    "rollout.start": {**START, "version": "9.9.9"},
    "rollout.decide": {"rollout": "r-1", "decision": "abort"},
    **{
        f"rollout.{verb}": {"rollout": "r-1"}
        for verb in ("show", "pause", "resume", "activate", "cancel", "retry")
    },
}


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One operator for each role, named after it, and one device."""
    rig = opened(tmp_path_factory.mktemp("everybody"), EVERYBODY)
    rig.do("device.enroll", {"devices": [Device("dev-1", "hall").enrolment]}, operator="admin")
    yield rig
    rig.close()


def test_every_verb_has_a_right_and_somebody_who_answers_it() -> None:
    assert set(VERBS) == {*desk.HANDLERS, "release.publish"}


#: The table of roles, once more by hand: right -> who has it, and a verb of it.
TABLE = {
    "read": ("viewer operator group-admin approver release-manager admin", "device.show"),
    "one device": ("operator group-admin admin", "device.upgrade"),
    "pause, hold": ("operator group-admin approver release-manager admin", "rollout.pause"),
    "plan": ("operator group-admin approver release-manager admin", "rollout.plan"),
    "start, resume, decide, cancel": ("group-admin admin", "rollout.start"),
    "approve": ("approver admin", "rollout.approve"),
    "publish, promote, archive, recall": ("release-manager admin", "release.promote"),
    "operators, groups, devices": ("admin", "device.forget"),
}


def test_the_table_has_a_row_for_every_right() -> None:
    assert set(TABLE) == {str(right) for right in Right}


@pytest.mark.parametrize("role", [str(role) for role in Role])
@pytest.mark.parametrize("right", TABLE)
def test_each_cell_of_the_table_of_roles(everybody: Rig, right: str, role: str) -> None:
    everybody.acknowledge()
    holders, verb = TABLE[right]
    reply = everybody.ask(verb, ARGUMENTS.get(verb, {}), operator=role)
    if role in holders.split():
        assert reply.code != "not_allowed"
        return
    assert (reply.code, f"{role} has no right to {right} in" in reply.message) == ("not_allowed", True)
    row = refusals(everybody)[-1]
    assert (row["actor"], row["verb"], row["code"], row["message"]) == (role, verb, reply.code, reply.message)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_is_for_the_roles_of_its_right_alone(everybody: Rig, verb: str) -> None:
    # Who shares the rig must not use up the window of what is unacknowledged.
    everybody.acknowledge()
    for role in Role:
        reply = everybody.ask(verb, ARGUMENTS.get(verb, {}), operator=str(role))
        permitted = role in RIGHTS[VERBS[verb]]
        assert (reply.code != "not_allowed") == permitted, f"{role}: {reply.code}"


def test_a_role_counts_in_its_group_only(tmp_path: Path) -> None:
    operators: Operators = {"alice": {"*": (Role.ADMIN,)}, "bob": {"hall": (Role.GROUP_ADMIN,)}}
    rig = opened(tmp_path, operators)
    try:
        rig.enroll(Device("dev-1", "hall"), Device("dev-2", "yard"))
        rig.publish(rig.realm.release("1.1.0", 2))
        both = {**START, "groups": ["hall", "yard"]}
        assert rig.ask("rollout.start", both, operator="bob").code == "not_allowed"
        assert [row["id"] for row in rig.do("device.list", operator="bob")["devices"]] == ["dev-1"]
        assert rig.ask("device.list", {"group": "yard"}, operator="bob").code == "not_allowed"
        assert rig.ask("device.show", {"device": "dev-2"}, operator="bob").code == "not_allowed"
        name = rig.do("rollout.start", both)["rollout"]
        assert rig.ask("rollout.pause", {"rollout": name}, operator="bob").code == "not_allowed"
        assert rig.do("rollout.list", operator="bob")["rollouts"] == []
        assert rig.do("manager.status", operator="bob")["devices"] == 1
        rig.do("rollout.cancel", {"rollout": name})
        assert rig.ask("rollout.start", START, operator="bob").ok
    finally:
        rig.close()


def test_a_request_signed_for_one_group_concerns_no_other(rig: Rig, ready: Bundle) -> None:
    assert rig.ask("rollout.start", START, group="yard").code == "request_invalid"
    assert rig.ask("rollout.start", START, group="hall").ok


# --- what is answered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "life", "code"),
    [
        (-350, 300, ""),
        (-370, 300, "request_expired"),
        (50, 300, ""),
        (70, 300, "request_expired"),
        (0, 301, "request_invalid"),
        (0, 0, "request_invalid"),
    ],
)
def test_a_request_lives_five_minutes_with_a_minute_between_clocks(
    rig: Rig, shift: int, life: int, code: str
) -> None:
    issued = rig.now() + shift
    reply = rig.ask("manager.status", now=issued, expires=times.to_text(issued + life))
    assert (reply.code, reply.ok) == (code, not code)


@pytest.mark.parametrize(
    ("verb", "arguments", "code", "words"),
    [
        ("rollout.dance", {}, "request_invalid", "no verb rollout.dance"),
        ("manager.status", {"surprise": 1}, "request_invalid", "surprise"),
        ("rollout.start", {"component": COMPONENT}, "request_invalid", "version"),
        ("rollout.start", {**START, "waves": ["0%"]}, "request_invalid", "waves"),
        ("rollout.start", {**START, "waves": ["101%"]}, "request_invalid", "waves"),
        ("rollout.start", {**START, "waves": [1], "immediate": True}, "request_invalid", "exclude"),
        ("rollout.start", {**START, "groups": ["hall", "hall"]}, "request_invalid", "twice"),
        ("rollout.start", {**START, "version": "9.9.9"}, "not_found", "no release kiosk 9.9.9"),
        ("rollout.start", {**START, "groups": ["attic"]}, "not_found", "attic"),
        ("rollout.start", {**START, "selector": {"site": "moon"}}, "request_invalid", "selector"),
        ("rollout.pause", {"rollout": "r-unknown"}, "not_found", "r-unknown"),
        ("device.show", {"device": "dev-99"}, "not_found", "dev-99"),
        ("release.show", {"component": COMPONENT, "version": "9.9.9"}, "not_found", "9.9.9"),
    ],
)
def test_a_refusal_names_code_cause_and_remedy(
    rig: Rig, ready: Bundle, verb: str, arguments: dict[str, Any], code: str, words: str
) -> None:
    reply = rig.ask(verb, arguments)
    assert (reply.ok, reply.code) == (False, code)
    assert words in reply.message
    assert reply.remedy
    assert refusals(rig)[-1]["code"] == code


def test_a_refusal_is_in_the_audit_log_with_the_digest_of_its_request(rig: Rig) -> None:
    reply = rig.ask("device.show", {"device": "dev-99"})
    (row,) = refusals(rig)
    assert (row["actor"], row["verb"], row["code"]) == ("alice", "device.show", reply.code)
    assert len(row["request"]) == 64


def test_what_the_operator_did_not_sign_has_no_answer(rig: Rig) -> None:
    topic = topics.build(Kind.REQUESTS, operator="alice")
    request, payload = rig.realm.request("manager.status", {}, signer="release")
    rig.arrive(topic, payload)
    other, foreign = rig.realm.request("manager.status", {}, fleet="otherfleet")
    rig.arrive(topic, foreign)
    rig.do("manager.status")
    assert rig.replies(request.id) == rig.replies(other.id) == []
    assert rig.engine.desk.ignored == {"upgrade_identity_not_allowed": 1, "upgrade_scope_mismatch": 1}


def test_a_request_counts_on_its_operators_own_topic_only(rig: Rig) -> None:
    request, payload = rig.realm.request("manager.status", {})
    rig.arrive(topics.build(Kind.REQUESTS, operator="bob"), payload)
    rig.do("manager.status")
    assert rig.replies(request.id) == []


@pytest.mark.parametrize("verb", ["manager.status", "device.enroll", "rollout.pause"])
def test_a_repetition_gets_the_very_same_reply(rig: Rig, verb: str) -> None:
    request, payload = rig.realm.request(verb, ARGUMENTS.get(verb, {}))
    topic = topics.build(Kind.REQUESTS, operator="alice")
    for _ in range(2):
        rig.arrive(topic, payload)
    first, second = until(lambda: r if len(r := rig.replies(request.id)) == 2 else [], "two replies")
    assert first == second
    assert len(refusals(rig)) == (1 if verb == "rollout.pause" else 0)


def test_an_id_that_was_used_before_does_not_serve_for_something_else(rig: Rig) -> None:
    name = "the-same-id"
    assert rig.ask("device.enroll", ARGUMENTS["device.enroll"], id=name).ok
    reply = rig.ask("device.enroll", {"devices": [Device("dev-8", "hall").enrolment]}, id=name)
    assert not rig.ask("device.show", {"device": "dev-8"}).ok
    assert "used before" in next(reply for reply in rig.replies(name) if not reply.ok).message
    assert reply.id == name


# --- plans and rollouts ------------------------------------------------------------------------------------


def test_a_plan_tells_who_comes_when_and_who_will_refuse(rig: Rig) -> None:
    old, new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
    devices = [Device(f"dev-{n}", "hall") for n in range(10)]
    rig.enroll(*devices)
    rig.publish(new)
    off = PolicySummary(enabled=False, channels=("stable",))
    arm = Platform(os="linux", arch="arm64")
    rig.say(devices[0], devices[0].status(runs(new)))
    rig.say(devices[1], devices[1].status(runs(old), policy=off))
    rig.say(devices[2], devices[2].status(runs(old), platform=arm))
    rig.say(devices[3], devices[3].status(runs(old, refused={new.digest: 1})))
    rig.say(devices[4], devices[4].status(runs(old)))
    plan = rig.do("rollout.plan", {**START, "waves": [1, "35%", "100%"]})["plan"]
    assert plan["waves"] == [1, 4, 10]
    assert [batch["count"] for batch in plan["batches"]] == [1, 3, 6]
    assert sorted(one for batch in plan["batches"] for one in batch["devices"]) == [d.id for d in devices]
    assert {row["device"]: row["code"] for row in plan["refusing"]} == {
        "dev-1": "upgrade_disabled",
        "dev-2": "upgrade_no_matching_artifact",
        "dev-3": "upgrade_refused_before",
    }
    assert plan["already"] == ["dev-0"]
    assert (plan["settle"], plan["device_timeout"], plan["breaker"], plan["total"]) == (300, 300, 1, 10)
    assert rig.do("rollout.list", {"state": "all"})["rollouts"] == []


def test_a_release_without_an_artifact_for_anybody_is_not_planned(rig: Rig) -> None:
    device = Device("dev-1", "hall")
    rig.enroll(device)
    rig.publish(rig.realm.release("1.1.0", 2))
    rig.say(device, device.status(platform=Platform(os="linux", arch="riscv64")))
    reply = rig.ask("rollout.start", START)
    assert reply.code == "upgrade_no_matching_artifact"
    assert reply.message == "no matching release artifact for agent platform linux/riscv64"


def test_default_waves_are_ten_fifty_and_hundred_percent(rig: Rig, ready: Bundle) -> None:
    assert rig.do("rollout.plan", START)["plan"]["waves"] == [1, 5, 10]
    assert rig.do("rollout.plan", {**START, "immediate": True})["plan"]["waves"] == [10]


def test_one_component_has_one_live_rollout_in_a_group(rig: Rig, ready: Bundle) -> None:
    name = rig.start(ready, "hall")
    reply = rig.ask("rollout.start", START)
    assert reply.code == "conflict"
    assert name in reply.message
    rig.do("rollout.cancel", {"rollout": name})
    assert rig.ask("rollout.start", START).ok


def test_a_person_pauses_resumes_and_cancels(rig: Rig, ready: Bundle) -> None:
    name = rig.start(ready, "hall")
    assert rig.do("rollout.pause", {"rollout": name})["state"] == "paused"
    assert rig.desired("hall").targets[0].hold
    assert rig.ask("rollout.pause", {"rollout": name}).code == "state_refused"
    assert rig.do("rollout.resume", {"rollout": name})["state"] == "running"
    assert not rig.desired("hall").targets[0].hold
    assert rig.do("rollout.cancel", {"rollout": name})["state"] == "canceled"
    assert rig.desired("hall").targets == ()
    assert rig.ask("rollout.resume", {"rollout": name}).code == "state_refused"


def test_a_retry_is_another_attempt_for_those_who_failed(rig: Rig, ready: Bundle) -> None:
    name = rig.start(ready, "hall", waves=[1, "100%"])
    (first,) = [row["id"] for row in rig.show(name)["devices"] if row["wave"] == 1]
    device = Device(first, "hall")
    rig.do("device.enroll", {"devices": [{**device.enrolment, "replace": True}]})
    old = rig.realm.release("1.0.0", 1)
    failed = ended(ready, name, "rolled_back", old, code="upgrade_health_failed")
    rig.say(device, device.status(failed))
    assert rig.show(name)["state"] == "tripped"
    row = rig.do("rollout.retry", {"rollout": name})
    assert (row["state"], row["attempt"]) == ("running", 2)
    assert rig.desired("hall").targets[0].goal.attempt == 2


def test_who_acts_on_what_is_no_more_is_told_what_is(rig: Rig, ready: Bundle) -> None:
    name = rig.start(ready, "hall")
    seen = rig.show(name)["revision"]
    rig.do("rollout.pause", {"rollout": name})
    reply = rig.ask("rollout.cancel", {"rollout": name}, revision=seen)
    assert reply.code == "conflict"
    assert "is paused" in reply.message
    assert rig.ask("rollout.cancel", {"rollout": name}, revision=seen + 100).code == "conflict"
    assert rig.do("rollout.cancel", {"rollout": name}, revision=rig.show(name)["revision"])


def test_reports_of_devices_do_not_outdate_what_a_person_has_seen(rig: Rig, ready: Bundle) -> None:
    name = rig.start(ready, "hall", immediate=True)
    seen = rig.show(name)["revision"]
    device = Device("dev-1", "hall")
    rig.do("device.enroll", {"devices": [{**device.enrolment, "replace": True}]})
    rig.say(device, device.status(ended(ready, name, "completed", ready)))
    assert rig.show(name)["revision"] > seen
    assert rig.do("rollout.pause", {"rollout": name}, revision=seen)["state"] == "paused"


def test_a_ninth_target_is_refused_naming_the_standing_ones(rig: Rig) -> None:
    sites = [f"site-{n}" for n in range(9)]
    devices = [Device(f"dev-{n}", "hall", labels={"site": site}) for n, site in enumerate(sites)]
    rig.enroll(*devices)
    new = rig.realm.release("1.1.0", 2)
    rig.publish(new)
    standing: list[str] = []
    for device, site in zip(devices, sites, strict=True):
        rig.say(device, device.status(runs(new)))
        reply = rig.ask("rollout.start", {**START, "selector": {"site": site}, "immediate": True})
        if len(standing) == 8:
            assert reply.code == "conflict"
            assert all(name in reply.message for name in standing)
        else:
            standing.append(reply.result["rollout"])
            assert rig.show(standing[-1])["state"] == "completed"
    targets: tuple[Target, ...] = rig.desired("hall").targets
    assert sorted(target.rollout for target in targets) == sorted(standing)


# --- answers fit --------------------------------------------------------------------------------------------


def test_devices_are_listed_page_by_page(rig: Rig) -> None:
    names = [f"dev-{n:03}" for n in range(60)]
    labels = {f"label-{n}": "x" * 120 for n in range(12)}
    enrolments = [{**Device(name, "hall").enrolment, "labels": labels} for name in names]
    for start in (0, 20, 40):
        rig.do("device.enroll", {"devices": enrolments[start : start + 20]})
    found: list[str] = []
    pages = 0
    answer: dict[str, Any] = {"next": None}
    while "next" in answer:
        after = {"after": answer["next"]} if answer["next"] else {}
        answer = rig.do("device.list", {"limit": 50, **after})
        found += [row["id"] for row in answer["devices"]]
        pages += 1
    assert found == names
    assert pages > 2


def test_the_largest_rollout_can_be_planned_started_and_shown(rig: Rig) -> None:
    names = [f"a-device-with-quite-a-long-name-{n:030}" for n in range(600)]
    for start in range(0, 600, 200):
        enrolments = [Device(name, "hall").enrolment for name in names[start : start + 200]]
        rig.do("device.enroll", {"devices": enrolments})
    rig.publish(rig.realm.release("1.1.0", 2))
    started = rig.do("rollout.start", {**START, "waves": [f"{n}%" for n in range(2, 101, 2)]})
    assert sum(batch["count"] for batch in started["plan"]["batches"]) == 600
    shown = rig.show(started["rollout"])
    assert len(shown["devices"]) + shown["more"] == 600


def test_enrolment_is_all_or_nothing(rig: Rig) -> None:
    rig.enroll(Device("dev-1", "hall"))
    reply = rig.ask(
        "device.enroll",
        {"devices": [Device("dev-0", "hall").enrolment, Device("dev-1", "hall").enrolment]},
    )
    assert reply.code == "conflict"
    assert not rig.ask("device.show", {"device": "dev-0"}).ok


def test_a_device_that_fails_shows_code_and_remedy(rig: Rig, ready: Bundle) -> None:
    name = rig.start(ready, "hall", immediate=True)
    device = Device("dev-1", "hall")
    rig.do("device.enroll", {"devices": [{**device.enrolment, "replace": True}]})
    old = rig.realm.release("1.0.0", 1)
    component = ended(ready, name, "rolled_back", old, code="upgrade_health_failed").model_dump(
        mode="json", exclude_none=True
    )
    component["last_error"] = {
        "code": "upgrade_health_failed",
        "message": "no answer",
        "at": "2026-01-01T00:00:00Z",
    }
    rig.say(device, device.status(ComponentStatus.model_validate_json(json.dumps(component))))
    shown = rig.device("dev-1")
    assert shown["components"][COMPONENT]["badge"] == "rolled back"
    assert shown["components"][COMPONENT]["code"] == "upgrade_health_failed"
    assert "publish a corrected release" in shown["last_error"]["remedy"]
    assert shown["status"]["components"][COMPONENT]["rollout"] == name

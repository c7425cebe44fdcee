"""Approval before a rollout starts: when a group demands it, who gives it, what an approver may change."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Device, Realm

from fleetfoot_manager import audit, rollout_rows, status
from fleetfoot_protocol import topics
from fleetfoot_protocol.states import Role
from fleetfoot_protocol.topics import Kind

START = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"], "waves": [20, "50%", "100%"]}
DESIRED = topics.build(Kind.GROUP_DESIRED, group="hall", component=COMPONENT)
OPERATORS: dict[str, dict[str, tuple[Role, ...]]] = {
    "alice": {"*": (Role.ADMIN,)},
    "greta": {"*": (Role.GROUP_ADMIN,)},
    "anton": {"*": (Role.APPROVER,)},
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A hall with 101 devices, a yard with one, and 1.1.0 blessed."""
    rig = Rig(Realm(tmp_path, OPERATORS))
    rig.connect()
    rig.enroll(*(Device(f"dev-{n:03}", "hall") for n in range(101)), Device("yard-1", "yard"))
    rig.publish(rig.realm.release("1.1.0", 2))
    yield rig
    rig.close()


def asked(rig: Rig, operator: str = "greta", **changes: Any) -> str:
    """A rollout that awaits approval."""
    result = rig.do("rollout.start", {**START, **changes}, operator=operator)
    assert result["state"] == "awaiting_approval"
    assert result["plan"]["approval"]
    return str(result["rollout"])


def policy(rig: Rig, **changes: Any) -> None:
    rig.do("group.policy", {"group": "hall", **changes})


def rows(rig: Rig, action: str) -> list[dict[str, Any]]:
    with rig.store.read() as tx:
        return [json.loads(row.data) for row in audit.entries(tx) if row.action == action]


def test_more_than_a_hundred_devices_wait_for_approval_and_are_told_nothing(rig: Rig) -> None:
    rollout = asked(rig)
    assert rig.broker.on(DESIRED) == []
    assert rig.show(rollout)["requested_by"] == "greta"
    (waits,) = rig.do("manager.status")["waiting"]
    assert (waits["rollout"], waits["for"]) == (rollout, "approval")
    row = rig.do("rollout.approve", {"rollout": rollout}, operator="anton")
    assert (row["state"], row["wave"], row["decided_by"]) == ("running", 1, "anton")
    assert [target.rollout for target in rig.desired("hall").targets] == [rollout]


def test_a_hundred_devices_need_nobody(rig: Rig) -> None:
    rig.do("device.enroll", {"devices": [{**Device("dev-000", "yard").enrolment, "replace": True}]})
    assert rig.do("rollout.start", START)["state"] == "running"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"approval": "never"}, "running"),
        ({"approval": "always"}, "awaiting_approval"),
        ({"approval_above": 101}, "running"),
    ],
)
def test_the_group_says_which_rollouts_need_approval(rig: Rig, changes: dict[str, Any], state: str) -> None:
    policy(rig, **changes)
    assert rig.do("rollout.start", START)["state"] == state


def test_of_several_groups_the_strictest_counts(rig: Rig) -> None:
    rig.do("group.policy", {"group": "yard", "approval": "always"})
    policy(rig, approval="never")
    assert rig.do("rollout.start", {**START, "groups": ["hall", "yard"]})["state"] == "awaiting_approval"


def test_who_asked_does_not_approve_alone_where_the_group_says_so(rig: Rig) -> None:
    mine = asked(rig, "alice")
    assert status.look(rig.realm.state)["waits"][0]["who"] == ["alice", "anton"]
    policy(rig, approval_by_other=True)
    assert status.look(rig.realm.state)["waits"][0]["who"] == ["anton"]
    reply = rig.ask("rollout.approve", {"rollout": mine})
    assert (reply.code, "somebody else approves" in reply.message) == ("not_allowed", True)
    assert rig.show(mine)["state"] == "awaiting_approval"
    assert rig.do("rollout.approve", {"rollout": mine}, operator="anton")["state"] == "running"


def test_without_that_policy_an_approver_may_approve_an_own_rollout(rig: Rig) -> None:
    assert rig.do("rollout.approve", {"rollout": asked(rig, "alice")})["state"] == "running"


def test_an_approver_may_make_it_gentler_and_both_versions_are_kept(rig: Rig) -> None:
    rollout = asked(rig, breaker=3, settle=60)
    edit = {"rollout": rollout, "waves": [1, 10, "40%", "70%", "100%"], "breaker": 1, "settle": 600}
    row = rig.do("rollout.approve", edit, operator="anton")
    assert (row["waves"], row["state"]) == ([1, 10, 41, 71, 101], "running")
    (kept,) = rows(rig, "group.upgrade.approve")
    assert (kept["asked"]["waves"], kept["approved"]["waves"]) == ([20, "50%", "100%"], edit["waves"])
    assert (kept["asked"]["breaker"], kept["approved"]["breaker"]) == (3, 1)
    assert (kept["requested_by"], kept["edited"]) == ("greta", ["breaker", "settle", "waves"])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"waves": [21, "50%", "100%"]}, "larger"),
        ({"waves": [10, "100%"]}, "larger"),
        ({"breaker": 4}, "breaker"),
        ({"breaker": 0}, "breaker"),
        ({"settle": 59}, "settle"),
    ],
)
def test_an_approver_may_not_make_it_rougher(rig: Rig, edit: dict[str, Any], words: str) -> None:
    rollout = asked(rig, breaker=3, settle=60)
    reply = rig.ask("rollout.approve", {"rollout": rollout, **edit}, operator="anton")
    assert (reply.code, words in reply.message) == ("request_invalid", True), reply.message
    assert rig.show(rollout)["state"] == "awaiting_approval"
    assert rig.broker.on(DESIRED) == []


def test_waves_of_5_25_and_100_percent_are_rounded_up_and_may_become_batches(rig: Rig) -> None:
    rollout = asked(rig, waves=["5%", "25%", "100%"], failure_percent=20)
    assert rig.show(rollout)["waves"] == [6, 26, 101]
    edit = {"rollout": rollout, "batch_size": 5, "breaker": 1, "failure_percent": 10}
    row = rig.do("rollout.approve", edit, operator="anton")
    assert row["waves"] == [*range(5, 101, 5), 101]
    (kept,) = rows(rig, "group.upgrade.approve")
    assert (kept["asked"]["waves"], "waves" in kept["approved"]) == (["5%", "25%", "100%"], False)
    assert kept["edited"] == ["batch_size", "breaker", "failure_percent"]
    with rig.store.read() as tx:
        of = rollout_rows.load_one(tx, rollout)
    assert of is not None
    assert (of.strategy, of.consecutive, of.breaker, of.failure_percent) == ("batches", True, 1, 10)


@pytest.mark.parametrize(
    ("asks", "edit", "words"),
    [
        ({"waves": None, "batch_size": 10}, {"batch_size": 11}, "larger"),
        ({"waves": None, "batch_pct": 10}, {"batch_pct": 12}, "larger"),
        ({"failure_percent": 20}, {"failure_percent": 21}, "limit of failures"),
        ({"breaker": 3}, {"batch_size": 5, "breaker": 2}, "in a row"),
        ({}, {"batch_size": 5, "batch_pct": 5, "breaker": 1}, "exclude"),
        ({}, {"batch_size": 5, "waves": [5], "breaker": 1}, "exclude"),
    ],
)
def test_an_edit_of_batches_and_limits_may_not_make_it_rougher(
    rig: Rig, asks: dict[str, Any], edit: dict[str, Any], words: str
) -> None:
    wish = {name: value for name, value in {**START, **asks}.items() if value is not None}
    rollout = rig.do("rollout.start", wish, operator="greta")["rollout"]
    reply = rig.ask("rollout.approve", {"rollout": rollout, **edit}, operator="anton")
    assert (reply.code, words in reply.message) == ("request_invalid", True), reply.message
    assert rig.show(rollout)["state"] == "awaiting_approval"


def test_an_edit_may_not_reach_more_devices_than_were_asked_for(rig: Rig) -> None:
    rollout = asked(rig, waves=[20, 40])
    reply = rig.ask("rollout.approve", {"rollout": rollout, "waves": [20, 40, 60]}, operator="anton")
    assert "more devices" in reply.message


def test_what_is_rejected_ends_with_the_reason_and_frees_the_group(rig: Rig) -> None:
    rollout = asked(rig)
    reason = {"rollout": rollout, "reason": "not before the weekend"}
    row = rig.do("rollout.reject", reason, operator="anton")
    assert (row["state"], row["reason"]) == ("canceled", "rejected by anton: not before the weekend")
    assert rows(rig, "group.upgrade.reject")[0]["reason"] == reason["reason"]
    assert rig.ask("rollout.approve", {"rollout": rollout}, operator="anton").code == "state_refused"
    asked(rig)


def test_what_runs_is_neither_approved_nor_rejected(rig: Rig) -> None:
    policy(rig, approval="never")
    rollout = rig.do("rollout.start", START)["rollout"]
    for verb, more in (("approve", {}), ("reject", {"reason": "no"})):
        reply = rig.ask(f"rollout.{verb}", {"rollout": rollout, **more}, operator="anton")
        assert (reply.code, "does not await approval" in reply.message) == ("state_refused", True)


def test_approval_is_planned_over_the_devices_of_then(rig: Rig) -> None:
    rollout = asked(rig)
    rig.enroll(*(Device(f"new-{n}", "hall") for n in range(9)))
    row = rig.do("rollout.approve", {"rollout": rollout}, operator="anton")
    assert (row["total"], row["waves"]) == (110, [20, 55, 110])


def test_a_release_recalled_meanwhile_is_not_approved(rig: Rig) -> None:
    rollout = asked(rig)
    rig.do("release.recall", {"component": COMPONENT, "version": "1.1.0", "reason": "smoke"})
    assert rig.show(rollout)["state"] == "canceled"


def test_an_approver_acts_on_what_was_seen(rig: Rig) -> None:
    rollout = asked(rig)
    seen = rig.show(rollout)["revision"]
    reply = rig.ask("rollout.approve", {"rollout": rollout}, operator="anton", revision=seen + 100)
    assert reply.code == "conflict"
    rig.do("rollout.approve", {"rollout": rollout}, operator="anton", revision=seen)


def test_a_restart_keeps_what_awaits_approval(rig: Rig) -> None:
    rollout = asked(rig)
    rig.close()
    again = Rig(rig.realm)
    again.connect()
    try:
        assert again.do("rollout.approve", {"rollout": rollout}, operator="anton")["state"] == "running"
    finally:
        again.close()

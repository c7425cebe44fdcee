"""Preflight from the command line: asked once, waited for until the deadline, and silence is not consent."""

import itertools
from typing import Any

import pytest
from tests.client.rig import HandManager, Run
from tests.client.test_rollout import PLAN, WISH

from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol.reports import Request

DIGEST = "d" * 64
ASKED = {"id": "p-1", "digest": DIGEST, "component": "kiosk", "groups": ["ovens"], "total": 2}


def answered(ok: int, *, refused: int = 0) -> dict[str, Any]:
    counts = {"ok": ok, "deferred": 0, "refused": refused, "unknown": 2 - ok - refused}
    rows = [
        {"device": "d-1", "counts_as": "refused", "code": "upgrade_disabled", "reason": "switched\x1b off"},
        {"device": "d-2", "counts_as": "unknown", "reason": "offline"},
    ]
    reasons = [{"counts_as": "refused", "why": "upgrade_disabled", "count": refused}]
    return {"id": "p-1", "total": 2, "counts": counts, "reasons": reasons, "devices": rows[: 2 - ok]}


@pytest.fixture
def asked(manager: HandManager, profile: Profile) -> HandManager:
    manager.answers["rollout.probe"] = lambda request: ASKED
    return manager


def test_everybody_would_is_success_as_soon_as_everybody_has_answered(run: Run, asked: HandManager) -> None:
    looks = itertools.count()
    asked.answers["rollout.answers"] = lambda request: answered(min(2, next(looks)))
    done = run("rollout", "preflight", *WISH, "--selector", "site=b", "--deadline", "5m")
    assert done.code == 0
    assert "of 2 devices 2 ok, 0 deferred, 0 refused, 0 unknown" in done.out
    probe, *others = asked.heard
    wish = {"component": "kiosk", "groups": ["ovens"], "selector": {"site": "b"}}
    assert (probe.verb, probe.arguments) == ("rollout.probe", {**wish, "version": "1.1.0", "deadline": 300})
    assert len(others) == 3
    assert {request.verb for request in others} == {"rollout.answers"}
    assert others[0].arguments == {**wish, "id": "p-1", "digest": DIGEST}


def test_devices_named_one_by_one_are_who_is_asked_and_who_is_counted(run: Run, asked: HandManager) -> None:
    asked.answers["rollout.answers"] = lambda request: answered(2)
    wish = ("--component", "kiosk", "--version", "1.1.0", "--device", "d-1", "--device", "d-2")
    assert run("rollout", "preflight", *wish).code == 0
    for request in asked.heard:
        assert request.arguments["devices"] == ["d-1", "d-2"]


def test_silence_at_the_deadline_is_unknown_and_no_success(run: Run, asked: HandManager) -> None:
    asked.answers["rollout.answers"] = lambda request: answered(1)
    done = run("rollout", "preflight", *WISH, "--deadline", "1s")
    assert done.code == Exit.STOPPED
    assert "1 ok, 0 deferred, 0 refused, 1 unknown" in done.out


def test_refusals_are_told_literally_and_in_full_to_programs(run: Run, asked: HandManager) -> None:
    found = answered(0, refused=2)
    asked.answers["rollout.answers"] = lambda request: found
    done = run("rollout", "preflight", *WISH)
    assert done.code == Exit.STOPPED
    assert "d-1     refused  upgrade_disabled  switched\\x1b off" in done.out
    again = run("rollout", "preflight", *WISH, "--json")
    assert (again.code, again.json) == (Exit.STOPPED, {"preflight": found})


def test_a_plan_asks_the_fleet_too_if_it_is_told_to(run: Run, asked: HandManager) -> None:
    def plan(request: Request) -> dict[str, Any]:
        return {"plan": PLAN}

    asked.answers |= {"rollout.plan": plan, "rollout.answers": lambda request: answered(2)}
    assert run("rollout", "plan", *WISH).code == 0
    assert [request.verb for request in asked.heard] == ["rollout.plan"]
    done = run("rollout", "plan", "--preflight", *WISH)
    assert done.code == 0
    assert "3, 15, 30 (cumulative)" in done.out
    assert "preflight: of 2 devices 2 ok" in done.out
    assert run("rollout", "plan", "--preflight", *WISH, "--json").json == {
        "plan": PLAN,
        "preflight": answered(2),
    }

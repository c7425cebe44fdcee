"""Rollouts from the command line: what is asked for, what is acted on, how one is followed."""

import json
from typing import Any

import pytest
from tests.client.rig import HandManager, Ran, Run

from fleetfoot_client import following
from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile
from fleetfoot_client.session import Session
from fleetfoot_protocol import dsse, topics
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request, RolloutProgress
from fleetfoot_protocol.topics import Kind

DIGEST = "d" * 64
ROW: dict[str, Any] = {
    "rollout": "r-1", "component": "kiosk", "version": "1.1.0", "digest": DIGEST,
    "groups": ["ovens", "grills"], "state": "running", "reason": "", "wave": 1,
    "waves": [3, 15, 30], "total": 30, "counts": {"healthy": 2, "pending": 28}, "revision": 5, "attempt": 1,
}  # fmt: skip
PLAN = {
    "component": "kiosk", "version": "1.1.0", "digest": DIGEST, "groups": ["ovens"], "total": 30,
    "waves": [3, 15, 30], "batches": [], "settle": 300, "device_timeout": 600, "breaker": 1,
    "refusing": [{"device": "d-9", "code": "upgrade_disabled", "reason": "switched\x1b off"}],
    "already": ["d-1"], "revision": 0,
}  # fmt: skip
WISH = ["--component", "kiosk", "--version", "1.1.0", "--group", "ovens"]


def progress(**changes: Any) -> RolloutProgress:
    names = ("rollout", "component", "version", "digest", "state", "revision", "wave", "total", "counts")
    return RolloutProgress(
        **{
            **{name: ROW[name] for name in names},
            "fleet": "kitchens",
            "group": "ovens",
            "groups": tuple(ROW["groups"]),
            "waves": tuple(ROW["waves"]),
            "at": "2026-01-01T00:00:00Z",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["--waves", "3,15,30"], {"waves": [3, 15, 30]}),
        (["--waves", "10%,50%,100%"], {"waves": ["10%", "50%", "100%"]}),
        (["--immediate"], {"immediate": True}),
        (["--settle", "5m", "--device-timeout", "2h"], {"settle": 300, "device_timeout": 7200}),
        (["--settle", "0", "--breaker", "0"], {"settle": 0, "breaker": 0}),
        (["--selector", "site=b=c", "--selector", "x="], {"selector": {"site": "b=c", "x": ""}}),
        (["--group", "grills", "--exactly"], {"groups": ["ovens", "grills"], "mode": "exactly"}),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "start"])
def test_a_plan_and_a_start_ask_for_exactly_what_was_said(
    run: Run, profile: Profile, manager: HandManager, verb: str, options: list[str], expected: dict[str, Any]
) -> None:
    manager.answers[f"rollout.{verb}"] = lambda request: {"plan": PLAN, "rollout": "r-1", "revision": 1}
    assert run("rollout", verb, *WISH, *options).code == 0
    (heard,) = manager.heard
    assert heard.arguments == {"component": "kiosk", "version": "1.1.0", "groups": ["ovens"], **expected}
    assert heard.revision is None


@pytest.mark.parametrize(
    "options",
    [["--waves", "0"], ["--waves", "101%"], ["--waves", "3,,5"], ["--waves", "3", "--immediate"],
     ["--settle", "5 minutes"], ["--selector", "site"], ["--group", "Ovens"], ["--breaker", "-1"]],
)  # fmt: skip
def test_wrong_wishes_are_wrong_usage_and_ask_nobody(
    run: Run, profile: Profile, manager: HandManager, options: list[str]
) -> None:
    assert run("rollout", "start", *WISH, *options).code == Exit.USAGE
    assert manager.heard == []


def test_start_shows_id_and_plan_and_how_to_watch(run: Run, profile: Profile, manager: HandManager) -> None:
    manager.answers["rollout.start"] = lambda request: {"rollout": "r-1", "revision": 1, "plan": PLAN}
    done = run("rollout", "start", *WISH)
    assert "3, 15, 30 (cumulative)" in done.out
    assert "d-9     upgrade_disabled  switched\\x1b off" in done.out
    assert "fleetfoot rollout watch r-1" in done.out
    assert run("rollout", "start", *WISH, "--json").json == {"rollout": "r-1", "revision": 1, "plan": PLAN}
    assert run("rollout", "start", *WISH, "--quiet").out == "r-1\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pause", "r-1"], {"rollout": "r-1"}),
        (["resume", "r-1"], {"rollout": "r-1"}),
        (["retry", "r-1"], {"rollout": "r-1"}),
        (["cancel", "r-1"], {"rollout": "r-1"}),
        (["decide", "r-1", "rollback"], {"rollout": "r-1", "decision": "rollback"}),
    ],
)
def test_an_act_is_on_the_revision_that_is_present_or_named(
    run: Run, profile: Profile, manager: HandManager, arguments: list[str], expected: dict[str, str]
) -> None:
    verb = f"rollout.{arguments[0]}"
    manager.answers |= {"rollout.show": lambda request: ROW, verb: lambda request: {**ROW, "state": "paused"}}
    assert run("rollout", *arguments).code == 0
    assert [(r.verb, r.revision) for r in manager.heard] == [("rollout.show", None), (verb, 5)]
    assert manager.heard[1].arguments == expected
    manager.heard.clear()
    assert run("rollout", *arguments, "--revision", 3).code == 0
    assert [(r.verb, r.revision) for r in manager.heard] == [(verb, 3)]


def test_list_and_show_are_tables_for_people_and_the_reply_for_programs(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    devices = [
        {"id": "d-1", "group": "ovens", "wave": 1, "terminal": "rolled_back", "code": "upgrade_boot_failed"}
    ]
    manager.answers["rollout.list"] = lambda request: {"rollouts": [ROW], "asked": request.arguments["state"]}
    manager.answers["rollout.show"] = lambda request: {**ROW, "state": "tripped", "devices": devices}
    assert "r-1      kiosk 1.1.0  ovens grills  running  1/3   " in run("rollout", "list").out
    assert run("rollout", "list", "--all", "--json").json == {"rollouts": [ROW], "asked": "all"}
    shown = run("rollout", "show", "r-1").out
    assert "d-1     ovens  1     ↩ rolled back  upgrade_boot_failed" in shown
    assert "fleetfoot rollout decide r-1 continue|rollback|abort" in shown


def test_a_rollout_is_shown_with_its_strategy_its_pace_and_what_went_wrong(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    before = {"rollout": "r-0", "version": "1.0.0", "devices": 1, "median": 38, "p90": 38}
    row = ROW | {
        "strategy": "batches", "breaker": 2, "consecutive": True, "canaries": ["d-1"], "stage": "only",
        "approve_each_wave": True, "took": {"devices": 12, "median": 42, "p90": 70}, "before": before,
        "causes": [{"group": "ovens", "code": "upgrade_disk_full", "count": 7}],
        "state": "paused", "reason": "everything is staged; nobody activates before somebody says so",
    }  # fmt: skip
    manager.answers["rollout.show"] = lambda request: row
    shown = " ".join(run("rollout", "show", "r-1").out.split())
    for words in (
        "batches 1/3: 3, 15, 30 (cumulative) of 30",
        "canaries d-1 staging until 'rollout activate' trips at 2 failures in a row",
        "approval needed before each wave behind the first",
        "healthy after median 42 s, 9 of 10 within 70 s (12 devices)",
        "last time median 38 s, 9 of 10 within 38 s (1 device), 1.0.0 in r-0",
        "failures by cause DEVICES GROUP CODE 7 ovens upgrade_disk_full",
        "fleetfoot rollout activate r-1",
    ):
        assert words in shown
    assert run("rollout", "show", "r-1", "--json").json == row


def test_a_rollout_that_waits_for_a_blessing_is_not_told_to_be_resumed(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    reason = "the canary is well; later waves need a blessed release"
    manager.answers["rollout.show"] = lambda request: ROW | {"state": "paused", "reason": reason}
    shown = run("rollout", "show", "r-1").out
    assert "fleetfoot release promote kiosk 1.1.0 blessed" in shown
    assert "rollout resume" not in shown


@pytest.mark.parametrize(
    "result", [{}, {"rollouts": {}}, {"rollouts": [{"rollout": "r-1"}]}, {"rollouts": [3]}]
)
def test_a_reply_of_another_form_is_an_error_not_a_traceback(
    run: Run, profile: Profile, manager: HandManager, result: dict[str, Any]
) -> None:
    manager.answers["rollout.list"] = lambda request: result
    done = run("rollout", "list")
    assert (done.code, "code: upgrade_malformed" in done.err) == (Exit.FAILED, True)


def showing(manager: HandManager, row: dict[str, Any], *messages: RolloutProgress, key: str) -> None:
    """Answers rollout.show with `row`, and has `messages` published before the answer comes."""

    def show(request: Request) -> dict[str, Any]:
        for message in messages:
            manager.publish_progress(message, key, wait=False)
        return row

    manager.answers["rollout.show"] = show


def states(done: Ran) -> list[str]:
    return [json.loads(line)["state"] for line in done.out.splitlines()]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("completed", 0), ("paused", 3), ("tripped", 3), ("aborted", 3), ("rolled_back", 3), ("canceled", 3),
        ("expired", 3), ("superseded", 3),
    ],
)  # fmt: skip
def test_watching_ends_with_the_exit_code_of_how_the_rollout_stands(
    run: Run, profile: Profile, manager: HandManager, state: str, code: int
) -> None:
    name = f"r-{state.replace('_', '-')}"
    end = progress(rollout=name, state=state, revision=9, wave=3)
    showing(manager, {**ROW, "rollout": name}, end, key="director")
    done = run("rollout", "watch", name, "--timeout", "30s", "--json")
    assert (done.code, states(done)) == (code, ["running", state])


def test_watching_through_a_trip_ends_when_the_rollout_does(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    end = progress(rollout="r-2", state="rolled_back", revision=9)
    showing(manager, {**ROW, "rollout": "r-2", "state": "tripped"}, end, key="director")
    done = run("rollout", "watch", "r-2", "--until-end", "--timeout", "30s")
    assert done.code == Exit.STOPPED
    lines = done.out.splitlines()
    assert "tripped" in lines[0]
    assert "fleetfoot rollout decide r-2" in lines[1]
    assert "rolled_back" in lines[2]


@pytest.mark.parametrize(
    ("number", "key", "changes"),
    [
        (1, "alice", {}),
        (2, "stranger", {}),
        (3, "director", {"revision": 4}),
        (4, "director", {"fleet": "others"}),
    ],
)
def test_progress_that_is_forged_old_or_of_another_fleet_is_not_shown(
    run: Run, profile: Profile, manager: HandManager, number: int, key: str, changes: dict[str, Any]
) -> None:
    name = f"r-no-{number}"
    bad = progress(**{"rollout": name, "state": "aborted", "revision": 9, **changes})
    manager.publish_progress(bad, key)
    good = progress(rollout=name, state="completed", revision=9, group="grills")
    showing(manager, {**ROW, "rollout": name}, good, key="director")
    done = run("rollout", "watch", name, "--timeout", "30s", "--json")
    assert (done.code, states(done)) == (0, ["running", "completed"])


def test_progress_of_another_rollout_on_this_ones_topic_is_not_shown(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    other = progress(rollout="r-other", state="aborted", revision=9)
    payload = other.payload()
    attestation = dsse.attest(PayloadType.ROLLOUT, payload, 1, manager.fleet.secret("director"))
    ids = {"group": "ovens", "rollout": "r-moved"}
    manager.publish(topics.build(Kind.ROLLOUT, **ids), payload, retain=True)
    manager.publish(topics.build(Kind.ROLLOUT_ATTESTATION, **ids), attestation, retain=True)
    good = progress(rollout="r-moved", state="completed", revision=9, group="grills")
    showing(manager, {**ROW, "rollout": "r-moved"}, good, key="director")
    done = run("rollout", "watch", "r-moved", "--timeout", "30s", "--json")
    assert (done.code, states(done)) == (0, ["running", "completed"])


def test_watching_no_longer_than_asked_is_a_timeout(run: Run, profile: Profile, manager: HandManager) -> None:
    manager.answers["rollout.show"] = lambda request: {**ROW, "rollout": "r-4"}
    done = run("rollout", "watch", "r-4", "--timeout", "1s")
    assert (done.code, "rollout r-4 is running after 1 s" in done.err) == (Exit.TIMEOUT, True)


def test_a_broker_that_loses_progress_is_made_up_for_by_asking(
    profile: Profile, manager: HandManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ASK_AFTER", 0.1)
    answers = iter(
        [{**ROW, "rollout": "r-5"}, {**ROW, "rollout": "r-5", "state": "completed", "revision": 8}]
    )
    manager.answers["rollout.show"] = lambda request: next(answers)
    with Session(profile) as session:
        assert [view.state for view in following.follow(session, "r-5", timeout=30)] == [
            "running",
            "completed",
        ]


def test_a_rollout_that_is_not_there_is_the_managers_error(
    profile: Profile, manager: HandManager, run: Run
) -> None:
    with Session(profile) as session, pytest.raises(FleetfootError) as caught:
        next(following.follow(session, "r-6", reply_timeout=0.5))
    assert caught.value.code == "timeout"


def test_lists_that_were_shortened_say_how_much_is_missing(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    device = {"id": "d-1", "group": "ovens", "wave": 1, "terminal": "pending"}
    manager.answers |= {
        "rollout.list": lambda request: {"rollouts": [ROW], "more": 7},
        "rollout.show": lambda request: {**ROW, "devices": [device], "more": 29},
        "rollout.plan": lambda request: {"plan": {**PLAN, "refusing_count": 12, "already_count": 400}},
    }
    assert "... and 7 more" in run("rollout", "list").out
    assert "... and 29 more" in run("rollout", "show", "r-1").out
    plan = run("rollout", "plan", *WISH).out
    assert "12 would refuse it" in plan
    assert "... and 11 more" in plan
    assert "already there   400" in plan

"""What each command asks of the manager, word for word, and what it makes of the answer."""

from typing import Any

import pytest
from tests.client.rig import HandManager, Run

from fleetfoot_client import keyfiles
from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile

ROLLOUT = {"rollout": "r-1", "component": "kiosk", "version": "1.1.0", "state": "running", "revision": 5}
RELEASE = {
    "component": "kiosk", "version": "1.1.0", "digest": "d" * 64, "channel": "stable", "counter": 2,
    "life": "blessed", "created": "2026-01-01T00:00:00Z", "length": 10,
}  # fmt: skip
ACT = {"device": "oven-7", "component": "kiosk", "act": "d-1", "kind": "upgrade", "state": "open"}
KIOSK = {"component": "kiosk", "version": "1.1.0"}
OVEN = {"device": "oven-7", "component": "kiosk"}
POLICY = {"approval": "above", "approval_above": 100, "approval_by_other": False}
GROUP: dict[str, Any] = {
    "group": "ovens", "devices": 3, "online": 2, "policy": POLICY,
    "components": {"kiosk": {"versions": {"1.1.0": 3}, "states": {"updated": 3}, "baseline": "1.1.0"}},
}  # fmt: skip
PAST = {**ROLLOUT, "state": "completed", "total": 3, "success_percent": 66}
DRIFT = {"device": "oven-7", "component": "kiosk", "why": "ordered", "runs": "1.0.0", "badge": "idle"}

COMPARED = {
    "component": "kiosk", "from": {**RELEASE, "version": "1.0.0"}, "to": RELEASE,
    "platforms": [
        {"platform": "linux/amd64", "from_length": 10, "to_length": 20, "same": False},
        {"platform": "linux/arm64", "from_length": None, "to_length": 30, "same": False},
    ],
    "between": [{"version": "1.1.0", "notes": "a hotter\x1b oven", "recalled": ""}],
}  # fmt: skip
BEHIND = {
    "id": "oven-7", "group": "ovens", "components": {"kiosk": {"version": "1.0.0", "badge": "idle"}},
    "unsupported": {"kiosk": "3.0.0 is more than one major version ahead"},
}  # fmt: skip

#: command -> (verb, arguments, answer, words that people are shown)
ASKED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "release promote kiosk 1.1.0 blessed": (
        "release.promote", {**KIOSK, "to": "blessed"}, RELEASE, "kiosk 1.1.0 is blessed",
    ),
    "release archive kiosk 1.1.0": (
        "release.archive", KIOSK, {**RELEASE, "life": "archived"}, "kiosk 1.1.0 is archived",
    ),
    "release recall kiosk 1.1.0 --reason smoke": (
        "release.recall", {**KIOSK, "reason": "smoke"},
        {**RELEASE, "recalled": "smoke", "groups": ["a", "b"]}, "is recalled; 2 groups told",
    ),
    "release lift kiosk 1.1.0": ("release.lift", KIOSK, {**RELEASE, "groups": ["a"]}, "1 group told"),
    "rollout pause --all --reason smoke": (
        "engine.pause", {"reason": "smoke"}, {"engine": "paused", "rollouts": ["r-1"]}, "held: r-1",
    ),
    "rollout resume --all": (
        "engine.resume", {}, {"engine": "running", "rollouts": []}, "the engine goes on",
    ),
    "device upgrade oven-7 kiosk 1.1.0": (
        "device.upgrade", {**OVEN, "version": "1.1.0"}, ACT, "upgrade is open",
    ),
    "device downgrade oven-7 kiosk 1.1.0 --pin": (
        "device.downgrade", {**OVEN, "version": "1.1.0", "pin": True}, {**ACT, "online": False}, "offline",
    ),
    "device pin oven-7 kiosk": ("device.pin", OVEN, {**ACT, "kind": "pin", "state": "held"}, "pin is held"),
    "device unpin oven-7 kiosk": ("device.unpin", OVEN, {**ACT, "state": "released"}, "released"),
    "device release oven-7 kiosk": ("device.release", OVEN, {**ACT, "state": "released"}, "released"),
    "device upgrades oven-7 kiosk": (
        "device.upgrades", OVEN,
        {"releases": [{"version": "3.0.0", "direct": False, "reason": "requires upgrade to 2.x first"}]},
        "requires upgrade to 2.x first",
    ),
    "device downgrades oven-7 kiosk": ("device.downgrades", OVEN, {"releases": []}, "no downgrades"),
    "device move oven-7 bakery": (
        "device.move", {"device": "oven-7", "group": "bakery"}, {"device": "oven-7"}, "agent.toml",
    ),
    "device relabel oven-7 --label site=b": (
        "device.relabel", {"device": "oven-7", "labels": {"site": "b"}},
        {"labels": {"site": "b"}, "effective": {}}, "the device tells itself",
    ),
    "device forget oven-7": ("device.forget", {"device": "oven-7"}, {"cleared": 4}, "4 retained topics"),
    "group create bakery --title Bread": (
        "group.create", {"group": "bakery", "title": "Bread"}, {**GROUP, "group": "bakery"},
        "device enroll --group bakery",
    ),
    "group forget bakery": ("group.forget", {"group": "bakery"}, {"cleared": 2}, "2 retained topics cleared"),
    "release compare kiosk 1.0.0 1.1.0": (
        "release.compare", {"component": "kiosk", "version": "1.0.0", "to": "1.1.0"}, COMPARED,
        "hotter\\x1b oven",
    ),
    "device show oven-7": ("device.show", {"device": "oven-7"}, BEHIND, "out of support"),
    "group list": ("group.list", {}, {"groups": [GROUP]}, "1.1.0 3"),
    "group show ovens": ("group.show", {"group": "ovens"}, GROUP, "more than 100 devices"),
    "group show bakery": (
        "group.show", {"group": "bakery"}, {**GROUP, "title": "The first floor"}, "The first floor",
    ),
    "group drift ovens": (
        "group.drift", {"group": "ovens"}, {"drift": [DRIFT], "unheard_count": 2}, "2 have said nothing",
    ),
    "group policy ovens": ("group.show", {"group": "ovens"}, GROUP, "any approver"),
    "group policy ovens --approval above --approval-above 5 --approval-by-other yes": (
        "group.policy",
        {"group": "ovens", "approval": "above", "approval_above": 5, "approval_by_other": True},
        {"policy": {**POLICY, "approval_above": 5, "approval_by_other": True}}, "somebody else",
    ),
    "rollout approve r-1 --waves 1,10% --breaker 1 --settle 5m --revision 5": (
        "rollout.approve", {"rollout": "r-1", "waves": [1, "10%"], "breaker": 1, "settle": 300},
        {**ROLLOUT, "decided_by": "anton", "decision": "approved"}, "by anton",
    ),
    "rollout reject r-1 --reason no --revision 5": (
        "rollout.reject", {"rollout": "r-1", "reason": "no"}, {**ROLLOUT, "state": "canceled"}, "canceled",
    ),
    "rollout history --component kiosk --group ovens": (
        "rollout.history", {"component": "kiosk", "group": "ovens", "limit": 50},
        {"rollouts": [PAST], "components": {"kiosk": {"rollouts": 1, "completed": 1}}}, "66 %",
    ),
    "rollout note r-1 --title warm --category lesson --tag heat": (
        "rollout.note", {"rollout": "r-1", "title": "warm", "category": "lesson", "tags": ["heat"]},
        {}, "noted on rollout r-1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ASKED)
def test_a_command_asks_for_exactly_this(
    command: str, manager: HandManager, profile: Profile, run: Run
) -> None:
    verb, arguments, answer, words = ASKED[command]
    manager.answers[verb] = lambda request: answer
    done = run(*command.split())
    assert (done.code, words in done.out) == (0, True), done.out + done.err
    (request,) = manager.heard
    assert (request.verb, request.arguments, request.group) == (verb, arguments, "*")
    told = run(*command.split(), "--json").json
    assert set(answer) - {"group"} <= set(told) or "policy" in told


@pytest.mark.parametrize(
    ("certificates", "words"),
    [(2, "2 certificates of the old one are on devices.crl"), (0, "take the old one's at the broker away")],
)
def test_replaced_hardware_is_told_by_its_key_and_what_becomes_of_the_old_one(
    manager: HandManager, profile: Profile, run: Run, certificates: int, words: str
) -> None:
    answer = {"device": "oven-7", "cleared": 3, "certificates": certificates}
    manager.answers["device.replace"] = lambda request: answer
    done = run("device", "replace", "oven-7", "--key", manager.fleet.public("new"))
    assert (done.code, words in done.out) == (0, True), done.out + done.err
    (request,) = manager.heard
    key = keyfiles.load_public(str(manager.fleet.public("new"))).hex()
    assert (request.verb, request.arguments) == ("device.replace", {"device": "oven-7", "key": key})


def test_who_is_out_of_support_shows_it_in_the_list(manager: HandManager, profile: Profile, run: Run) -> None:
    manager.answers["device.list"] = lambda request: {"devices": [BEHIND]}
    assert "out of support" in run("device", "list").out


def test_an_approval_is_of_the_revision_that_was_seen(
    manager: HandManager, profile: Profile, run: Run
) -> None:
    manager.answers["rollout.show"] = lambda request: {**ROLLOUT, "revision": 7}
    manager.answers["rollout.approve"] = lambda request: ROLLOUT
    assert run("rollout", "approve", "r-1").code == Exit.OK
    assert [request.revision for request in manager.heard] == [None, 7]

"""What a plan says of its course: sizes, time, who is away or ahead, and what to think of first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm
from tests.support.waiting import until

from fleetfoot_protocol.reports import ComponentStatus, Disk, OutcomeRecord, Platform, PolicySummary
from fleetfoot_protocol.states import Lifecycle, Outcome

START = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"], "settle": 10}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    found = Rig(Realm(tmp_path))
    found.connect()
    yield found
    found.close()


def runs(bundle: Bundle, rollout: str = "") -> ComponentStatus:
    done = OutcomeRecord(
        rollout=rollout or None, attempt=1, digest=bundle.digest, version=bundle.release.version,
        outcome=Outcome.COMPLETED, running=bundle.digest, at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return ComponentStatus(
        state=Lifecycle.IDLE, running=bundle.installed, outcomes=(done,) if rollout else ()
    )


def test_a_plan_counts_its_batches_and_estimates_its_time(rig: Rig) -> None:
    devices = [Device(f"dev-{n}", "hall") for n in range(4)]
    rig.enroll(*devices)
    rig.publish(rig.realm.release("1.1.0", 2))
    plan = rig.do("rollout.plan", {**START, "waves": [1, 4]})["plan"]
    assert (plan["batch_count"], plan["batch_size"]) == (2, 3)
    assert [batch["phase"] for batch in plan["batches"]] == ["canary", "wave"]
    assert (plan["estimated_total_seconds"], plan["estimated_from"]) == (2 * (180 + 10), "defaults")
    assert (plan["offline_count"], plan["offline"]) == (4, [device.id for device in devices])
    assert plan["warnings"] == []
    assert [b["phase"] for b in rig.do("rollout.plan", {**START, "immediate": True})["plan"]["batches"]] == [
        "everybody"
    ]


def test_a_plan_says_whom_it_does_not_reach_and_that_its_time_is_too_short(rig: Rig) -> None:
    rig.enroll(*(Device(f"dev-{n}", "hall") for n in range(4)))
    rig.publish(rig.realm.release("1.1.0", 2))
    plan = rig.do("rollout.plan", {**START, "waves": [1, "50%"], "ttl": 60})["plan"]
    assert plan["warnings"] == [
        "the waves end with 2 of 4 devices: 2 are not reached",
        "it expires after 60 s, and takes about 380 s",
    ]
    assert rig.do("rollout.plan", {**START, "waves": [3, "50%", "100%"]})["plan"]["waves"] == [3, 4]
    for falling in ([3, 1], ["100%", 1, "50%"]):
        answer = rig.ask("rollout.plan", {**START, "waves": falling})
        assert (answer.code, "must not fall" in answer.message) == ("request_invalid", True)


def test_the_estimate_comes_from_what_devices_took_before(rig: Rig) -> None:
    device = Device("dev-1", "hall")
    rig.enroll(device)
    first, second = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
    rig.publish(first)
    rig.publish(second)
    name = rig.start(first, "hall", waves=["100%"])
    rig.shift += 50.0
    rig.say(device, device.status(runs(first, name)))
    until(lambda: rig.show(name)["state"] == "completed", "the first rollout completes")
    plan = rig.do("rollout.plan", {**START, "waves": ["100%"]})["plan"]
    assert plan["estimated_from"] == "history"
    assert 50 + 10 <= plan["estimated_total_seconds"] < 180


def test_a_plan_warns_of_what_is_perhaps_not_meant(rig: Rig) -> None:
    devices = [Device(f"dev-{n}", "hall") for n in range(3)]
    rig.enroll(*devices)
    old = rig.realm.release("1.0.0", 1)
    rig.publish(old)
    rig.publish(rig.realm.release("1.1.0", 2, min_counter=2))
    newer = rig.realm.release("1.2.0", 3)
    rig.say(devices[0], devices[0].status(runs(old)))
    rig.say(devices[1], devices[1].status(runs(old), platform=Platform(os="linux", arch="arm64")))
    rig.say(devices[2], devices[2].status(runs(newer)))
    plan = rig.do("rollout.plan", {**START, "waves": [3]})["plan"]
    assert plan["warnings"] == ["no way back to 1.0.0: 1.1.0 raises the floor above it"]
    assert (plan["ahead_count"], plan["ahead"]) == (1, ["dev-2"])
    of_two = rig.do("rollout.plan", {**START, "waves": [2, 3]})["plan"]
    told = any("mixes platforms (linux/amd64, linux/arm64)" in text for text in of_two["warnings"])
    assert told == ("dev-1" in of_two["batches"][0]["devices"])


def _policy(**more: Any) -> dict[str, Any]:
    return {"policy": PolicySummary(**{"enabled": True, "channels": ("dev",), **more})}


#: What a device says -> with which code the plan expects it to refuse, and a part of the reason.
REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "policy": (_policy(enabled=False), "upgrade_disabled", "disabled"),
    "channel": (_policy(channels=("stable",)), "upgrade_channel_not_allowed", "channel beta"),
    "pin": (_policy(pins={COMPONENT: "2.0.0"}), "upgrade_pinned", "2.0.0"),
    "version": (_policy(min_version="9.0.0"), "upgrade_version_too_old", "9.0.0"),
    "platform": ({"platform": Platform(os="linux", arch="arm64")}, "upgrade_no_matching_artifact", "arm64"),
    "disk": ({"disk": Disk(free=10)}, "upgrade_disk_full", "free"),
    "agent": ({"agent": "0.0.1"}, "upgrade_agent_too_old", "0.0.1"),
    "capability": ({"capabilities": ("rollback",)}, "upgrade_incompatible", "capability upgrade"),
    "staging": ({"capabilities": ("upgrade",)}, "upgrade_incompatible", "capability stage"),
    "hop": ({}, "upgrade_hop_required", "requires 2.x first"),
}


def test_every_reason_for_which_a_device_will_refuse_is_told_beforehand(rig: Rig) -> None:
    devices = {name: Device(name, "hall") for name in (*REFUSALS, "willing", "ahead", "there", "unheard")}
    rig.enroll(*devices.values())
    oldest, old, newer = (rig.realm.release(f"{n}.0.0", counter) for n, counter in ((1, 1), (2, 2), (4, 4)))
    goal = rig.realm.release("3.0.0", 3, channel="beta")
    rig.publish(goal)
    running = {"ahead": newer, "there": goal, "hop": oldest}
    for name, device in devices.items():
        if name != "unheard":
            says = REFUSALS[name][0] if name in REFUSALS else {}
            rig.say(device, device.status(runs(running.get(name, old)), **_policy() | says))
    wish = {**START, "version": "3.0.0", "stage": "first"}
    plan = rig.do("rollout.plan", wish)["plan"]
    told = {row["device"]: (row["code"], row["reason"]) for row in plan["refusing"]}
    assert told.keys() == REFUSALS.keys()
    for name, (_, code, part) in REFUSALS.items():
        assert told[name][0] == code
        assert part in told[name][1]
    assert (plan["ahead"], plan["already"]) == (["ahead"], ["there"])
    assert rig.do("rollout.start", wish)["plan"]["refusing"] == plan["refusing"]


def test_a_start_that_waits_names_what_is_to_be_approved(rig: Rig) -> None:
    rig.enroll(Device("dev-1", "hall"))
    rig.publish(rig.realm.release("1.1.0", 2))
    rig.do("group.policy", {"group": "hall", "approval": "always"})
    started = rig.do("rollout.start", START)
    assert started["plan"]["approval_id"] == started["rollout"]
    assert "approval_id" not in rig.do("rollout.plan", START)["plan"]

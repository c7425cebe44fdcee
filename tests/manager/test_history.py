"""Looking back: success rates over ended rollouts, notes that the next plan shows, and the report of one."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.waiting import until

PLAN = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall", "yard"]}


class Past:
    """Three devices in the hall, one in the yard, a rollout over all: two healthy, one failed, one had it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.old, self.new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
        self.devices = {n: Device(n, "hall") for n in ("good", "better", "had")} | {
            "bad": Device("bad", "yard")
        }
        rig.enroll(*self.devices.values())
        rig.publish(self.old)
        rig.publish(self.new)
        for name, device in self.devices.items():
            rig.say(device, device.status(runs(self.new if name == "had" else self.old)))
        self.rollout = rig.start(self.new, "hall", "yard", immediate=True, breaker=0)
        self.ends("good", "completed", self.new)
        self.ends("better", "completed", self.new)

    def ends(self, name: str, outcome: str, running: Bundle, code: str = "") -> None:
        device = self.devices[name]
        self.rig.say(device, device.status(ended(self.new, self.rollout, outcome, running, code=code)))

    def over(self) -> "Past":
        self.ends("bad", "rolled_back", self.old, "upgrade_health_failed")
        until(lambda: self.rig.show(self.rollout)["state"] == "completed", "the rollout ends")
        return self


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    rig = Rig(Realm(tmp_path))
    rig.connect()
    yield Past(rig)
    rig.close()


def test_history_counts_those_who_were_asked(past: Past) -> None:
    assert past.rig.do("rollout.history")["rollouts"] == []
    past.over()
    found = past.rig.do("rollout.history")
    (row,) = found["rollouts"]
    assert (row["rollout"], row["state"], row["total"]) == (past.rollout, "completed", 4)
    assert row["counts"] == {"healthy": 2, "rolled_back": 1, "skipped": 1}
    assert row["success_percent"] == 66
    assert found["components"][COMPONENT]["success_percent"] == 66
    assert found["releases"][f"{COMPONENT} 1.1.0"]["completed"] == 1
    assert found["groups"]["hall"] == {
        "rollouts": 1, "completed": 1, "counts": {"healthy": 2, "skipped": 1}, "success_percent": 100,
    }  # fmt: skip
    assert found["groups"]["yard"]["success_percent"] == 0


def test_who_was_taken_back_counts_for_no_success(past: Past) -> None:
    rig = past.rig
    rig.do("rollout.decide", {"rollout": past.rollout, "decision": "rollback"})
    assert rig.show(past.rollout)["counts"] == {"healthy": 2, "canceled": 1, "skipped": 1}
    rig.say(past.devices["good"], past.devices["good"].status(runs(past.old)))
    until(lambda: rig.show(past.rollout)["counts"].get("taken_back"), "one is back")
    shown = rig.show(past.rollout)
    assert (shown["state"], shown["total"]) == ("rolling_back", 4)
    assert shown["counts"] == {"healthy": 1, "canceled": 1, "skipped": 1, "taken_back": 1}
    assert rig.terminal(past.rollout, "good") == "taken_back"
    for name in ("better", "had"):
        rig.say(past.devices[name], past.devices[name].status(runs(past.old)))
    until(lambda: rig.show(past.rollout)["state"] == "rolled_back", "all are back")
    found = rig.do("rollout.history")
    (row,) = found["rollouts"]
    assert row["counts"] == {"canceled": 2, "taken_back": 2}
    for rate in (row, found["components"][COMPONENT], found["groups"]["hall"]):
        assert rate["success_percent"] == 0
    assert rig.do("rollout.report", {"rollout": past.rollout})["success_percent"] == 0


def test_history_is_of_one_component_or_group_if_asked(past: Past) -> None:
    past.over()
    for wanted, count in (({"component": "other"}, 0), ({"group": "yard"}, 1), ({"component": COMPONENT}, 1)):
        assert len(past.rig.do("rollout.history", wanted)["rollouts"]) == count


def test_a_note_is_shown_with_its_rollout_and_in_the_next_plan(past: Past) -> None:
    note = {
        "rollout": past.rollout,
        "title": "ovens need a warm start",
        "category": "lesson",
        "tags": ["heat"],
    }
    assert past.rig.do("rollout.note", note)["author"] == "alice"
    past.over()
    (shown,) = past.rig.do("rollout.plan", PLAN)["plan"]["notes"]
    assert (shown["title"], shown["category"], shown["rollout"]) == (
        "ovens need a warm start", "lesson", past.rollout,
    )  # fmt: skip
    assert past.rig.do("rollout.report", {"rollout": past.rollout})["notes"][0]["tags"] == ["heat"]
    assert (
        past.rig.ask("rollout.note", {"rollout": past.rollout, "title": "a\x1bb"}).code == "request_invalid"
    )


def test_a_report_is_of_an_ended_rollout_and_says_everything(past: Past) -> None:
    reply = past.rig.ask("rollout.report", {"rollout": past.rollout})
    assert (reply.code, "once it has ended" in reply.message) == ("state_refused", True)
    past.over()
    report = past.rig.do("rollout.report", {"rollout": past.rollout})
    assert (report["state"], report["requested_by"], report["success_percent"]) == ("completed", "alice", 66)
    assert report["asked"]["groups"] == ["hall", "yard"]
    devices = {row["id"]: row for row in report["devices"]}
    assert (devices["bad"]["terminal"], devices["bad"]["code"]) == ("rolled_back", "upgrade_health_failed")
    assert all(devices[name]["since"] <= devices[name]["ended"] for name in ("good", "better", "bad"))
    assert {name: row["on_goal"] for name, row in devices.items()} == {n: n != "bad" for n in devices}
    actions = [row["action"] for row in report["audit"]]
    assert actions == ["group.upgrade.schedule", "group.upgrade.complete"]
    for row in report["audit"]:
        assert past.rig.do("audit.show", {"n": row["n"]})["action"] == row["action"]


def test_a_large_report_comes_in_pages(past: Past) -> None:
    rig = past.over().rig
    names = [f"a-device-with-quite-a-long-name-{n:030}" for n in range(300)]
    for start in (0, 150):
        rig.do(
            "device.enroll",
            {"devices": [Device(name, "attic").enrolment for name in names[start : start + 150]]},
        )
    rig.do("group.policy", {"group": "attic", "approval": "never"})
    rollout = rig.start(past.new, "attic", waves=[1, "100%"])
    rig.do("rollout.cancel", {"rollout": rollout})
    found: list[str] = []
    page: dict[str, Any] = {"next": 0}
    pages = 0
    while "next" in page:
        page = rig.do("rollout.report", {"rollout": rollout, "after": page["next"]})
        found += [row["id"] for row in page["devices"]]
        pages += 1
    assert sorted(found) == names
    assert pages > 1


def test_a_rollout_says_what_its_devices_took_against_the_last_one_and_what_went_wrong(past: Past) -> None:
    rig = past.rig
    until(lambda: rig.show(past.rollout)["counts"].get("healthy") == 2, "two are healthy")
    alone = rig.show(past.rollout)
    assert (alone["took"]["devices"], "before" in alone, "causes" in alone) == (2, False, False)
    rig.shift += 40.0
    past.over()
    causes = rig.show(past.rollout)["causes"]
    assert causes == [{"group": "yard", "code": "upgrade_health_failed", "count": 1}]

    newer = rig.realm.release("1.2.0", 3)
    rig.publish(newer)
    second = rig.start(newer, "hall", immediate=True, breaker=0)
    assert "took" not in rig.show(second)
    for name, later in (("good", 20.0), ("better", 30.0), ("had", 50.0)):
        rig.shift += later
        rig.say(past.devices[name], past.devices[name].status(ended(newer, second, "completed", newer)))
        until(partial(_healthy, rig, second, name), f"{name} is healthy")
    shown = rig.show(second)
    assert shown["took"]["devices"] == 3
    assert 50 <= shown["took"]["median"] <= 55 < 90 <= shown["took"]["p90"] <= 95
    assert shown["before"] == {"rollout": past.rollout, "version": "1.1.0", **alone["took"]}
    one = _device(rig, second, "good")
    assert one["since"] < one["ended"]
    assert "causes" not in shown


def _device(rig: Rig, rollout: str, name: str) -> dict[str, Any]:
    return next(row for row in rig.show(rollout)["devices"] if row["id"] == name)


def _healthy(rig: Rig, rollout: str, name: str) -> bool:
    return bool(_device(rig, rollout, name)["terminal"] == "healthy")

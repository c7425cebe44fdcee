"""Strategies as operators ask for them: whom, at which pace, instead of what, and the way back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.waiting import until

from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.states import Lifecycle, Role

NAMES = [f"dev-{n:02}" for n in range(10)]


class Fleet:
    """Ten devices of the hall on 1.0.0, one of the yard, and 1.1.0, 2.0.0 and 3.0.0 blessed."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.devices = {name: Device(name, "hall") for name in NAMES} | {"yard-1": Device("yard-1", "yard")}
        rig.connect()
        rig.enroll(*self.devices.values())
        facts = (("1.0.0", 1), ("1.1.0", 2), ("2.0.0", 3), ("3.0.0", 4))
        self.releases = {version: rig.realm.release(version, counter) for version, counter in facts}
        for bundle in self.releases.values():
            rig.publish(bundle)
        for device in self.devices.values():
            rig.say(device, device.status(runs(self.old)))

    @property
    def old(self) -> Bundle:
        return self.releases["1.0.0"]

    @property
    def new(self) -> Bundle:
        return self.releases["1.1.0"]

    def asked(self, **more: Any) -> dict[str, Any]:
        facts = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"], "settle": 0}
        return {name: value for name, value in (facts | more).items() if value is not None}

    def start(self, **more: Any) -> str:
        return str(self.rig.do("rollout.start", self.asked(**more))["rollout"])

    def completes(
        self, rollout: str, *names: str, to: Bundle | None = None, before: Bundle | None = None
    ) -> None:
        for name in names:
            new = to or self.new
            said = ended(new, rollout, "completed", new)
            said = said.model_copy(update={"previous": (before or self.old).installed})
            self.rig.say(self.devices[name], self.devices[name].status(said))

    def lose(self, how: str) -> Installed:
        """What a device had before, and what is no way back any more."""
        old = self.rig.realm.release("0.9.0", 99)
        self.rig.publish(old)
        if how == "archived":
            self.rig.do("release.archive", {"component": COMPONENT, "version": "0.9.0"})
        elif how == "recalled":
            about = {"component": COMPONENT, "version": "0.9.0", "reason": "burns"}
            self.rig.do("release.recall", about)
        elif how == "withdrawn":
            name = self.start(version="0.9.0", immediate=True)
            assert (
                self.rig.do("rollout.decide", {"rollout": name, "decision": "rollback"})["state"]
                == "rolled_back"
            )
        return old.installed

    def in_wave(self, rollout: str, wave: int) -> list[str]:
        return [row["id"] for row in self.rig.show(rollout)["devices"] if row["wave"] == wave]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    operators: dict[str, dict[str, tuple[Role, ...]]] = {"alice": {"*": (Role.ADMIN,)}}
    rig = Rig(Realm(tmp_path, operators))
    yield Fleet(rig)
    rig.close()


def test_devices_are_named_one_by_one_of_any_groups(fleet: Fleet) -> None:
    plan = fleet.rig.do("rollout.plan", fleet.asked(groups=None, devices=["dev-03", "yard-1"]))["plan"]
    assert (plan["groups"], plan["total"]) == (["hall", "yard"], 2)
    name = fleet.start(groups=None, devices=["dev-03", "yard-1"], waves=["100%"])
    # In the order of admission, which the rollout's id draws.
    assert sorted(fleet.rig.desired("hall").targets[0].include) == ["dev-03", "yard-1"]
    assert sorted(row["id"] for row in fleet.rig.show(name)["devices"]) == ["dev-03", "yard-1"]


@pytest.mark.parametrize("verb", ["rollout.plan", "rollout.start"])
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"groups": None, "devices": ["dev-03", "ghost"]}, "not_found"),
        ({"devices": ["yard-1"]}, "not_found"),
        ({"canaries": ["yard-1"]}, "not_found"),
        ({"selector": {"site": "moon"}}, "request_invalid"),
        ({"groups": None}, "request_invalid"),
        ({"devices": ["dev-03"], "stage": "first"}, "request_invalid"),
        ({"batch_size": 2, "waves": ["100%"]}, "request_invalid"),
        ({"batch_size": 2, "batch_pct": 20}, "request_invalid"),
    ],
)
def test_what_cannot_be_resolved_is_refused_at_plan_and_start(
    fleet: Fleet, verb: str, wrong: dict[str, Any], code: str
) -> None:
    assert fleet.rig.ask(verb, fleet.asked(**wrong)).code == code


def test_batches_are_of_twenty_percent_with_a_breaker_of_two_in_a_row(fleet: Fleet) -> None:
    plan = fleet.rig.do("rollout.plan", fleet.asked(strategy="batches", settle=None))["plan"]
    assert (plan["waves"], plan["batch_size"], plan["batch_count"]) == ([2, 4, 6, 8, 10], 2, 5)
    assert (plan["breaker"], plan["consecutive"], plan["settle"]) == (2, True, 300)
    assert {batch["phase"] for batch in plan["batches"]} == {"batch"}
    plan = fleet.rig.do(
        "rollout.plan", fleet.asked(batch_size=4, batch_delay_seconds=7, settle=None, canaries=["dev-05"])
    )["plan"]
    assert (plan["waves"], plan["settle"]) == ([1, 4, 8, 10], 7)
    assert plan["batches"][0] == {"index": 1, "count": 1, "devices": ["dev-05"], "phase": "canary"}


def test_staging_only_waits_for_somebody_who_activates(fleet: Fleet) -> None:
    name = fleet.start(stage="only", waves=[1, "100%"], offline="wait")
    document = fleet.rig.desired("hall").targets[0]
    assert (document.stage_cut, document.activate_cut) == ("all", "0" * 16)
    assert fleet.rig.ask("rollout.activate", {"rollout": name}).code == "state_refused"
    for device in (fleet.devices[one] for one in NAMES):
        said = ended(fleet.new, name, "staged", fleet.old)
        said = said.model_copy(update={"state": Lifecycle.STAGED})
        fleet.rig.say(device, device.status(said))
    row = fleet.rig.show(name)
    assert (row["state"], row["counts"]) == ("paused", {"staged": 10})
    assert not fleet.rig.desired("hall").targets[0].hold
    row = fleet.rig.do("rollout.activate", {"rollout": name})
    assert (row["state"], row["wave"], row["counts"]) == ("running", 1, {"pending": 1, "staged": 9})
    fleet.completes(name, *fleet.in_wave(name, 1))
    fleet.completes(name, *fleet.in_wave(name, 2))
    assert fleet.rig.show(name)["state"] == "completed"


def test_a_rollout_expires_when_its_time_is_over(fleet: Fleet) -> None:
    name = fleet.start(ttl=60)
    fleet.rig.do("rollout.pause", {"rollout": name})
    fleet.rig.shift += 61
    until(lambda: fleet.rig.show(name)["state"] == "expired", "the end of its time")
    assert fleet.rig.desired("hall").targets == ()


def test_another_rollout_takes_the_place_of_what_is_under_way_only_if_asked_to(fleet: Fleet) -> None:
    first = fleet.start()
    assert fleet.rig.ask("rollout.start", fleet.asked(version="2.0.0")).code == "conflict"
    plan = fleet.rig.do("rollout.plan", fleet.asked(version="2.0.0"))["plan"]
    assert plan["blocked"].startswith(f"rollout {first} of kiosk 1.1.0 is running in hall; let it end")
    assert "supersedes" not in plan
    plan = fleet.rig.do("rollout.plan", fleet.asked(version="2.0.0", supersede=True, mode="exactly"))["plan"]
    assert (plan["supersedes"], plan["mode"], plan.get("blocked")) == ([first], "exactly", None)
    second = fleet.start(version="2.0.0", supersede=True)
    row = fleet.rig.show(first)
    assert (row["state"], row["reason"]) == ("superseded", f"superseded by {second}")
    assert [target.rollout for target in fleet.rig.desired("hall").targets] == [second]


def test_of_two_rollouts_the_higher_priority_stands_first(fleet: Fleet) -> None:
    high = fleet.start(version="2.0.0", priority=5, devices=["dev-01"], waves=["100%"])
    low = fleet.start(immediate=True)
    assert [target.rollout for target in fleet.rig.desired("hall").targets] == [high, low]
    device = fleet.devices["dev-01"]
    fleet.rig.say(device, device.status(runs(fleet.old)))
    assert fleet.rig.terminal(low, "dev-01") == "skipped"


def test_a_chain_goes_on_when_the_hop_before_has_completed(fleet: Fleet) -> None:
    answer = fleet.rig.do("rollout.start", fleet.asked(version="3.0.0", immediate=True))
    first, second = answer["chain"]
    assert answer["plan"]["chain"] == ["2.0.0", "3.0.0"]
    assert (fleet.rig.show(second)["state"], fleet.rig.show(second)["after"]) == ("planned", first)
    fleet.completes(first, *NAMES, to=fleet.releases["2.0.0"])
    assert fleet.rig.show(first)["state"] == "completed"
    assert fleet.rig.show(second)["state"] == "running"
    fleet.completes(second, *NAMES, to=fleet.releases["3.0.0"], before=fleet.releases["2.0.0"])
    assert fleet.rig.show(second)["state"] == "completed"
    baseline = fleet.rig.desired("hall").baseline
    assert baseline is not None
    assert baseline.version == "3.0.0"


def test_a_chain_goes_over_releases_of_narrower_channels(fleet: Fleet) -> None:
    for version, counter, channel in (("4.0.0", 5, "beta"), ("5.0.0", 6, "dev")):
        fleet.rig.publish(fleet.rig.realm.release(version, counter, channel=channel))
    plan = fleet.rig.do("rollout.plan", fleet.asked(version="5.0.0"))["plan"]
    assert plan["chain"] == ["2.0.0", "3.0.0", "4.0.0", "5.0.0"]


def test_what_stands_for_a_word_says_which_word(fleet: Fleet) -> None:
    name = fleet.start(waves=[1, "100%"], approve_each_wave=True)
    fleet.completes(name, *fleet.in_wave(name, 1))
    reply = fleet.rig.ask("rollout.resume", {"rollout": name})
    assert (reply.code, reply.remedy) == (
        "state_refused",
        f"let it go on: 'fleetfoot rollout approve {name}'",
    )


def test_why_named_devices_cannot_stage_first_is_said(fleet: Fleet) -> None:
    reply = fleet.rig.ask("rollout.plan", fleet.asked(devices=["dev-01"], stage="first"))
    assert reply.message.startswith("arguments: devices named one by one are admitted by name")


def test_a_hop_waits_where_its_group_has_come_to_demand_approval(fleet: Fleet) -> None:
    reply = fleet.rig.do("rollout.start", fleet.asked(version="3.0.0", immediate=True))
    first, second = reply["chain"]
    fleet.rig.do("group.policy", {"group": "hall", "approval": "always"})
    before = fleet.rig.show(second)["revision"]
    fleet.completes(first, *NAMES, to=fleet.releases["2.0.0"])
    assert fleet.rig.show(first)["state"] == "completed"
    row = fleet.rig.show(second)
    assert row["state"] == "awaiting_approval"
    assert row["revision"] > before
    assert fleet.rig.desired("hall").targets == ()
    fleet.rig.do("rollout.approve", {"rollout": second})
    assert fleet.rig.show(second)["state"] == "running"


def test_a_chain_ends_with_the_hop_that_does(fleet: Fleet) -> None:
    first, second = fleet.rig.do("rollout.start", fleet.asked(version="3.0.0"))["chain"]
    fleet.rig.do("rollout.cancel", {"rollout": first})
    row = fleet.rig.show(second)
    assert (row["state"], first in row["reason"]) == ("canceled", True)


def test_each_wave_is_approved_where_the_group_says_so(fleet: Fleet) -> None:
    fleet.rig.do("group.policy", {"group": "hall", "approval_waves": True})
    name = fleet.start(waves=[1, "100%"])
    fleet.completes(name, *fleet.in_wave(name, 1))
    row = fleet.rig.show(name)
    assert (row["state"], row["reason"]) == ("paused", "the next wave awaits approval")
    assert fleet.rig.ask("rollout.approve", {"rollout": name, "breaker": 1}).code == "request_invalid"
    row = fleet.rig.do("rollout.approve", {"rollout": name})
    assert (row["state"], row["wave"]) == ("running", 2)


def test_who_is_offline_is_not_waited_for_where_nobody_wants_to(fleet: Fleet) -> None:
    name = fleet.start(immediate=True, offline="skip")
    assert fleet.rig.show(name)["counts"] == {"silent": 10}


def test_a_device_goes_back_to_what_it_holds_although_nobody_published_it(fleet: Fleet) -> None:
    name = fleet.start(immediate=True)
    fleet.completes(name, "dev-01", before=fleet.rig.realm.release("0.9.0", 99))
    assert (
        fleet.rig.do("rollout.decide", {"rollout": name, "decision": "rollback"})["state"] == "rolling_back"
    )


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("archived", "kiosk 0.9.0 is archived: dev-01"),
        ("recalled", "kiosk 0.9.0 is recalled: dev-01"),
        ("withdrawn", "kiosk 0.9.0 is withdrawn in group hall: dev-01"),
        ("below", "kiosk 0.9.0 is below the floor 100: dev-01"),
    ],
)
def test_a_way_back_that_is_none_is_refused_before_it_is_promised(
    fleet: Fleet, lost: str, words: str
) -> None:
    before = fleet.lose(lost)
    name = fleet.start(immediate=True, breaker=0)
    said = ended(fleet.new, name, "completed", fleet.new)
    floor = 100 if lost == "below" else 0
    said = said.model_copy(update={"previous": before, "floor": floor})
    fleet.rig.say(fleet.devices["dev-01"], fleet.devices["dev-01"].status(said))
    fleet.completes(name, "dev-02")
    back = {"rollout": name, "decision": "rollback"}
    for pace in ({}, {"batch_size": 1}):
        reply = fleet.rig.ask("rollout.decide", back | pace)
        assert (reply.code, reply.message) == ("state_refused", f"not every device has a way back: {words}")
    state = fleet.rig.do("rollout.decide", back | {"leave_stranded": True})["state"]
    assert state == "rolling_back"


def test_a_rollback_in_steps_takes_back_who_moved_and_withdraws_in_the_end(fleet: Fleet) -> None:
    name = fleet.start(waves=[4, "100%"])
    moved = fleet.in_wave(name, 1)
    fleet.completes(name, *moved[:3])
    steps = {"rollout": name, "decision": "rollback", "waves": [1, "100%"], "settle": 0}
    back = fleet.rig.do("rollout.decide", steps)
    assert (back["instead_of"], back["waves"], back["total"]) == (name, [1, 3], 3)
    assert fleet.rig.show(name)["state"] == "superseded"
    target = fleet.rig.desired("hall").targets[0]
    assert (target.goal.digest, target.goal.mode, len(target.include)) == (fleet.old.digest, "exactly", 1)
    assert fleet.rig.desired("hall").withdrawn == ()
    for _ in range(2):
        rows = fleet.rig.show(back["rollout"])["devices"]
        due = [row["id"] for row in rows if row["terminal"] == "pending" and row.get("since")]
        fleet.completes(back["rollout"], *due, to=fleet.old, before=fleet.new)
    assert fleet.rig.show(back["rollout"])["state"] == "completed"
    assert fleet.rig.do("rollout.report", {"rollout": back["rollout"]})["takes_back"] == "1.1.0"
    report = fleet.rig.do("rollout.report", {"rollout": name})
    assert report["reason"] == f"superseded by {back['rollout']}"
    assert [row["what"] for row in report["audit"] if "what" in row] == ["rollback"]
    assert fleet.rig.desired("hall").withdrawn == (fleet.new.digest,)
    assert fleet.rig.desired("hall").targets == ()

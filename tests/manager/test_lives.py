"""The life of a release: whom it serves, who keeps it from being archived, how a recall reaches everybody."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.waiting import until

from fleetfoot_manager import audit
from fleetfoot_protocol.reports import ComponentStatus
from fleetfoot_protocol.resolve import Act, Why, resolve
from fleetfoot_protocol.resolve import Device as Memory

NAMES = {"component": COMPONENT, "version": "1.1.0"}
START = {**NAMES, "groups": ["hall"], "settle": 0}


class Hall:
    """Ten devices on 1.0.0, which is blessed, and 1.1.0, which is published only."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.old, self.new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
        self.devices = {f"dev-{n}": Device(f"dev-{n}", "hall") for n in range(10)}
        rig.enroll(*self.devices.values())
        rig.publish(self.old)
        rig.place(self.new)
        assert (
            rig.do("release.publish", {**self.new.publish_arguments(), "bless": False})["life"] == "published"
        )
        self.all_say(runs(self.old))

    def say(self, device: str, component: ComponentStatus) -> None:
        self.rig.say(self.devices[device], self.devices[device].status(component))

    def all_say(self, component: ComponentStatus) -> None:
        for device in self.devices:
            self.say(device, component)

    def wave(self, rollout: str, wave: int) -> list[str]:
        return [row["id"] for row in self.rig.show(rollout)["devices"] if row["wave"] == wave]

    def completes(self, rollout: str, wave: int) -> None:
        for device in self.wave(rollout, wave):
            self.say(device, ended(self.new, rollout, "completed", self.new))

    def upgrade_all(self) -> str:
        """A rollout of 1.1.0 that completed."""
        rollout = self.rig.start(self.new, "hall", waves=[1, "100%"])
        self.completes(rollout, 1)
        self.completes(rollout, 2)
        until(lambda: self.rig.show(rollout)["state"] == "completed", "the rollout completes")
        return rollout

    def promote(self, to: str = "blessed") -> None:
        assert self.rig.do("release.promote", {**NAMES, "to": to})["life"] == to


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    rig = Rig(Realm(tmp_path))
    rig.connect()
    yield Hall(rig)
    rig.close()


def life(hall: Hall) -> str:
    return str(hall.rig.do("release.show", NAMES)["life"])


def test_a_published_release_opens_the_first_wave_and_no_other_until_it_is_blessed(hall: Hall) -> None:
    rollout = hall.rig.start(hall.new, "hall", waves=[2, "50%", "100%"])
    hall.completes(rollout, 1)
    row = hall.rig.show(rollout)
    assert (row["state"], row["wave"]) == ("paused", 1)
    assert "blessed" in row["reason"]
    reply = hall.rig.ask("rollout.resume", {"rollout": rollout})
    assert (reply.code, "blessed" in reply.message) == ("state_refused", True)
    assert hall.rig.desired("hall").targets[0].hold
    hall.promote()
    row = hall.rig.show(rollout)
    assert (row["state"], row["wave"]) == ("running", 2)
    assert not hall.rig.desired("hall").targets[0].hold


def test_a_release_blessed_during_the_canary_does_not_stop(hall: Hall) -> None:
    rollout = hall.rig.start(hall.new, "hall", waves=[1, "100%"])
    hall.promote()
    assert hall.rig.show(rollout)["wave"] == 1
    hall.completes(rollout, 1)
    assert hall.rig.show(rollout)["wave"] == 2


def test_a_canary_that_a_person_paused_goes_on_when_that_person_says_so(hall: Hall) -> None:
    rollout = hall.rig.start(hall.new, "hall", waves=[1, "100%"])
    hall.rig.do("rollout.pause", {"rollout": rollout})
    hall.promote()
    assert hall.rig.show(rollout)["state"] == "paused"
    assert hall.rig.do("rollout.resume", {"rollout": rollout})["state"] == "running"


@pytest.mark.parametrize("verb", ["rollout.plan", "rollout.start"])
def test_a_published_release_does_not_go_to_a_group_in_one_wave(hall: Hall, verb: str) -> None:
    reply = hall.rig.ask(verb, {**START, "immediate": True})
    assert reply.code == "state_refused"
    assert "not blessed" in reply.message
    assert "release promote" in reply.remedy
    hall.promote()
    assert hall.rig.ask(verb, {**START, "immediate": True}).ok


def test_what_a_group_has_for_its_baseline_is_live(hall: Hall) -> None:
    hall.promote()
    hall.upgrade_all()
    assert life(hall) == "live"
    reply = hall.rig.ask("release.promote", {**NAMES, "to": "blessed"})
    assert reply.code == "state_refused"


def test_what_somebody_needs_is_not_archived_and_the_refusal_says_who(hall: Hall) -> None:
    hall.promote()
    old = {"component": COMPONENT, "version": "1.0.0"}
    reply = hall.rig.ask("release.archive", old)
    assert reply.code == "conflict"
    assert "runs on dev-0" in reply.message
    assert "5 more" in reply.message
    rollout = hall.upgrade_all()
    assert "baseline of group hall" in hall.rig.ask("release.archive", NAMES).message
    for device in hall.devices:
        hall.say(device, runs(hall.new, previous=hall.old.installed))
    assert "way back of dev-0" in hall.rig.ask("release.archive", old).message
    hall.all_say(runs(hall.new))
    assert hall.rig.do("release.archive", old)["life"] == "archived"
    assert hall.rig.show(rollout)["state"] == "completed"


def test_an_archived_release_serves_nobody_and_leaves_the_broker(hall: Hall) -> None:
    topic = f"ff/v1/releases/{COMPONENT}/{hall.new.digest}"
    assert hall.rig.do("release.archive", NAMES)["life"] == "archived"
    until(lambda: hall.rig.broker.on(topic)[-1] == b"", "the retained manifest is cleared")
    for verb, arguments in (("rollout.plan", START), ("release.promote", {**NAMES, "to": "blessed"})):
        reply = hall.rig.ask(verb, arguments)
        assert (reply.code, "archived" in reply.message) == ("state_refused", True)


def recall(hall: Hall) -> None:
    hall.rig.do("release.recall", {**NAMES, "reason": "leaks"})


def plan_of(hall: Hall, run: Bundle, prev: Bundle | None = None, group: str = "hall") -> tuple[Act, Why]:
    memory = Memory("dev-0", run=run.installed, prev=prev.installed if prev else None)
    plan = resolve(hall.rig.desired(group), None, memory)
    return plan.act, plan.why


def test_a_recall_sends_everybody_back_until_it_is_lifted(hall: Hall) -> None:
    hall.rig.enroll(Device("yard-1", "yard"))
    hall.promote()
    hall.upgrade_all()
    recall(hall)
    for group in ("hall", "yard"):
        assert hall.rig.desired(group).withdrawn == (hall.new.digest,)
        assert hall.rig.desired(group).baseline is None
        assert plan_of(hall, hall.new, hall.old, group) == (Act.RETURN, Why.RECALLED)
    reply = hall.rig.ask("rollout.start", {**START, "immediate": True})
    assert (reply.code, "recalled by alice: leaks" in reply.message) == ("state_refused", True)
    hall.rig.do("release.lift", NAMES)
    for group in ("hall", "yard"):
        assert hall.rig.desired(group).withdrawn == ()
    assert plan_of(hall, hall.old) == (Act.STAY, Why.NO_GOAL)
    assert hall.rig.ask("rollout.start", {**START, "immediate": True}).ok


def test_a_recall_rolls_a_rollout_back(hall: Hall) -> None:
    hall.promote()
    rollout = hall.rig.start(hall.new, "hall", waves=[1, "100%"])
    recall(hall)
    assert hall.rig.show(rollout)["state"] == "rolled_back"
    assert hall.rig.desired("hall").targets == ()


def test_a_recall_stands_while_a_rollout_takes_its_release_back(hall: Hall) -> None:
    """Lifted earlier, a device that has not heard of the recall would stay on what is being taken back."""
    hall.promote()
    rollout = hall.rig.start(hall.new, "hall", waves=["100%"])
    hall.say(next(iter(hall.devices)), runs(hall.new, previous=hall.old.installed))
    recall(hall)
    assert hall.rig.show(rollout)["state"] == "rolling_back"
    reply = hall.rig.ask("release.lift", NAMES)
    assert (reply.code, rollout in reply.message) == ("state_refused", True)
    assert hall.rig.desired("hall").withdrawn == (hall.new.digest,)
    hall.all_say(runs(hall.old))
    assert hall.rig.show(rollout)["state"] == "rolled_back"
    assert hall.rig.ask("release.lift", NAMES).ok


def test_a_group_that_comes_to_be_after_a_recall_is_told_of_it(hall: Hall) -> None:
    recall(hall)
    hall.rig.enroll(Device("yard-1", "yard"))
    assert hall.rig.desired("yard").withdrawn == (hall.new.digest,)


def test_lifting_a_recall_leaves_what_a_rollback_withdrew_before(hall: Hall) -> None:
    hall.rig.enroll(Device("yard-1", "yard"))
    hall.promote()
    rollout = hall.rig.start(hall.new, "hall", waves=[1, "100%"])
    hall.rig.do("rollout.decide", {"rollout": rollout, "decision": "rollback"})
    recall(hall)
    hall.rig.do("release.lift", NAMES)
    assert hall.rig.desired("hall").withdrawn == (hall.new.digest,)
    assert hall.rig.desired("yard").withdrawn == ()


def test_every_life_is_in_the_audit_log(hall: Hall) -> None:
    hall.promote()
    recall(hall)
    hall.rig.do("release.lift", NAMES)
    hall.rig.do("release.archive", NAMES)
    with hall.rig.store.read() as tx:
        actions = [row.action for row in audit.entries(tx) if row.action.startswith("release.")]
    assert actions[-4:] == ["release.promote", "release.recall", "release.lift", "release.archive"]

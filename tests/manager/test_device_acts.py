"""Acts on single devices: what their own documents say, when they end, what is refused and why."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.waiting import until

from fleetfoot_client.rows import ReachableRow
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.reports import Answer, ComponentStatus, PolicySummary
from fleetfoot_protocol.resolve import Act, Plan, Why, resolve
from fleetfoot_protocol.resolve import Device as Memory
from fleetfoot_protocol.topics import Kind

OVEN = {"device": "oven", "component": COMPONENT}
OWN = topics.build(Kind.DEVICE_DESIRED, group="hall", device="oven", component=COMPONENT)
DAY = 24 * 3600
VERSIONS = ("1.0.0", "1.1.0", "2.0.0", "3.0.0")


class Kitchen:
    """One device, `oven`, on 1.1.0, and releases 1.0.0 to 3.0.0 that are published, not blessed."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.oven = Device("oven", "hall")
        rig.enroll(self.oven)
        self.releases = {v: rig.realm.release(v, n) for n, v in enumerate(VERSIONS, 1)}
        for bundle in self.releases.values():
            rig.place(bundle)
            rig.do("release.publish", {**bundle.publish_arguments(), "bless": False})
        self.say(runs(self["1.1.0"]))

    def __getitem__(self, version: str) -> Bundle:
        return self.releases[version]

    def say(self, component: ComponentStatus, **changes: Any) -> None:
        self.rig.say(self.oven, self.oven.status(component, **changes))

    def ask(self, verb: str, version: str | None = None, **more: Any) -> dict[str, Any]:
        given = {"version": version} if version else {}
        return self.rig.do(f"device.{verb}", {**OVEN, **given, **more})

    def refused(self, verb: str, version: str | None = None, **more: Any) -> tuple[str, str]:
        given = {"version": version} if version else {}
        reply = self.rig.ask(f"device.{verb}", {**OVEN, **given, **more})
        assert not reply.ok
        return reply.code, reply.message

    @property
    def own(self) -> Desired:
        payload = until(lambda: self.rig.broker.on(OWN), "a document of the device's own")[-1]
        return trust.verify_desired(payload, self.rig.house.root)

    def plan(self, run: str, group: Desired | None = None) -> Plan:
        return resolve(group, self.own, Memory("oven", run=self[run].installed))

    def act(self) -> dict[str, Any]:
        return dict(self.rig.device("oven")["own"][COMPONENT])

    def ends(self, act: dict[str, Any], outcome: str, running: str, code: str = "") -> None:
        goal = self[act["version"]]
        self.say(ended(goal, act["act"], outcome, self[running], code=code, attempt=act["attempt"]))

    def baseline(self, version: str) -> None:
        """The group gets a baseline, from the device itself."""
        self.rig.do("release.promote", {"component": COMPONENT, "version": version, "to": "blessed"})
        self.say(runs(self[version]))
        rollout = self.rig.start(self[version], "hall", immediate=True)
        assert self.rig.show(rollout)["state"] == "completed"


@pytest.fixture
def kitchen(tmp_path: Path) -> Iterator[Kitchen]:
    rig = Rig(Realm(tmp_path))
    rig.connect()
    yield Kitchen(rig)
    rig.close()


def test_a_published_release_goes_to_one_device_by_a_document_of_its_own(kitchen: Kitchen) -> None:
    act = kitchen.ask("upgrade", "2.0.0")
    assert (act["state"], act["kind"], act["version"]) == ("open", "upgrade", "2.0.0")
    plan = kitchen.plan("1.1.0")
    assert (plan.act, plan.rollout) == (Act.INSTALL, act["act"])
    assert plan.goal is not None
    assert (plan.goal.digest, plan.goal.mode) == (kitchen["2.0.0"].digest, "at_least")


def test_an_act_that_is_done_is_released_with_a_higher_sequence_until_it_would_have_expired(
    kitchen: Kitchen,
) -> None:
    act = kitchen.ask("upgrade", "2.0.0")
    before = kitchen.own
    kitchen.ends(act, "completed", "2.0.0")
    until(lambda: kitchen.act()["state"] == "released", "the act is over")
    after = kitchen.own
    assert (after.released, after.targets, after.expires) == (True, (), before.expires)
    assert after.order > before.order
    kitchen.rig.shift = DAY - 60
    kitchen.rig.do("manager.status")
    assert kitchen.rig.broker.on(OWN)[-1]
    kitchen.rig.shift = DAY + 60
    until(lambda: kitchen.rig.broker.on(OWN)[-1] == b"", "the document is cleared")
    assert kitchen.rig.device("oven")["own"] == {}


def test_an_act_that_nobody_answers_expires_after_a_day(kitchen: Kitchen) -> None:
    kitchen.ask("upgrade", "2.0.0")
    kitchen.rig.shift = DAY + 60
    until(lambda: kitchen.rig.broker.on(OWN)[-1] == b"", "the document is cleared")


@pytest.mark.parametrize(
    ("outcome", "code"), [("rolled_back", "upgrade_health_failed"), ("failed", "upgrade_disk_full")]
)
def test_an_act_that_failed_is_over_and_tells_why(kitchen: Kitchen, outcome: str, code: str) -> None:
    act = kitchen.ask("upgrade", "2.0.0")
    kitchen.ends(act, outcome, "1.1.0", code)
    until(lambda: kitchen.own.released, "the act is over")
    assert {name: kitchen.act()[name] for name in ("outcome", "code")} == {"outcome": outcome, "code": code}


def test_an_outcome_of_something_else_ends_no_act(kitchen: Kitchen) -> None:
    act = kitchen.ask("upgrade", "2.0.0")
    kitchen.ends({**act, "attempt": 2}, "failed", "1.1.0")
    kitchen.ends({**act, "act": "d-another"}, "completed", "1.1.0")
    kitchen.ends(act, "completed", "1.1.0")
    assert kitchen.act()["state"] == "open"


def test_a_rejection_of_this_very_document_ends_the_act(kitchen: Kitchen) -> None:
    kitchen.ask("upgrade", "2.0.0")
    own = kitchen.own
    facts = {"epoch": 1, "scope": "own", "verdict": "rejected", "code": "upgrade_disabled"}
    for sequence in (own.sequence - 1, own.sequence):
        assert kitchen.act()["state"] == "open"
        answer = Answer.model_validate({**facts, "sequence": sequence})
        kitchen.say(runs(kitchen["1.1.0"], answered=answer))
    until(lambda: kitchen.own.released, "the act is over")
    assert kitchen.act()["outcome"] == "rejected"


def test_who_asks_again_for_what_failed_orders_another_attempt(kitchen: Kitchen) -> None:
    kitchen.say(runs(kitchen["1.1.0"], refused={kitchen["2.0.0"].digest: 2}))
    up = kitchen.ask("upgrades")["releases"]
    assert [(row["version"], row["direct"], row.get("refused")) for row in up] == [
        ("2.0.0", True, 2),
        ("3.0.0", False, None),
    ]
    assert ReachableRow.model_validate(up[0]).remark == "failed here before: this would be attempt 3"
    assert kitchen.ask("upgrade", "2.0.0")["attempt"] == 3


def test_a_downgrade_is_the_permission_to_go_down(kitchen: Kitchen) -> None:
    kitchen.ask("downgrade", "1.0.0")
    plan = kitchen.plan("1.1.0")
    assert (plan.act, plan.goal and plan.goal.mode) == (Act.INSTALL, "exactly")


def test_a_downgrade_that_the_group_would_undo_is_refused_unless_it_pins(kitchen: Kitchen) -> None:
    kitchen.baseline("1.1.0")
    code, message = kitchen.refused("downgrade", "1.0.0")
    assert (code, "would bring oven to 1.1.0" in message) == ("state_refused", True)
    act = kitchen.ask("downgrade", "1.0.0", pin=True)
    kitchen.ends(act, "completed", "1.0.0")
    until(lambda: kitchen.act()["state"] == "held", "the pin holds")
    assert kitchen.plan("1.0.0", kitchen.rig.desired("hall")).why is Why.CURRENT


def test_a_pin_holds_what_runs_past_a_month_until_it_is_taken_off(kitchen: Kitchen) -> None:
    kitchen.baseline("1.1.0")
    kitchen.say(runs(kitchen["1.0.0"]))
    kitchen.ask("pin")
    group = kitchen.rig.desired("hall")
    assert (kitchen.plan("1.0.0", group).act, kitchen.plan("1.0.0", group).why) == (Act.STAY, Why.PINNED)
    first = kitchen.own

    def renewed(last: tuple[int, int]) -> bool:
        return kitchen.own.order > last

    for days in (16, 32):
        kitchen.rig.shift = days * DAY
        until(partial(renewed, first.order), "the pin is renewed")
        first = kitchen.own
    assert kitchen.ask("unpin")["state"] == "released"
    assert kitchen.own.released
    assert kitchen.plan("1.0.0", group).act is Act.INSTALL
    assert kitchen.refused("unpin")[0] == "state_refused"


def test_an_upgrade_under_way_is_no_pin_but_can_be_released(kitchen: Kitchen) -> None:
    kitchen.ask("upgrade", "2.0.0")
    assert kitchen.refused("unpin") == ("state_refused", f"{COMPONENT} of oven is not pinned")
    assert kitchen.ask("release")["state"] == "released"
    assert kitchen.own.released


def test_a_device_that_obeys_its_own_document_is_skipped_by_rollouts(kitchen: Kitchen) -> None:
    kitchen.rig.enroll(Device("grill", "hall"))
    kitchen.ask("pin")
    kitchen.rig.do("release.promote", {"component": COMPONENT, "version": "2.0.0", "to": "blessed"})
    facts = {"component": COMPONENT, "version": "2.0.0", "groups": ["hall"]}
    (refusing,) = kitchen.rig.do("rollout.plan", facts)["plan"]["refusing"]
    assert (refusing["device"], "pin by alice" in refusing["reason"]) == ("oven", True)
    rollout = kitchen.rig.start(kitchen["2.0.0"], "hall", immediate=True)
    own = kitchen.own
    answer = {"epoch": 1, "sequence": own.sequence, "scope": "own", "verdict": "accepted", "reason": "pinned"}
    kitchen.say(runs(kitchen["1.1.0"], answered=Answer.model_validate(answer)))
    until(lambda: kitchen.rig.terminal(rollout, "oven") == "skipped", "the oven is skipped")


def test_a_device_that_has_just_been_released_is_not_passed_over(kitchen: Kitchen) -> None:
    kitchen.ask("pin")
    answer = {"epoch": 1, "sequence": kitchen.own.sequence, "scope": "own", "verdict": "accepted"}
    kitchen.say(runs(kitchen["1.1.0"], answered=Answer.model_validate(answer)))
    kitchen.ask("unpin")
    kitchen.rig.do("release.promote", {"component": COMPONENT, "version": "2.0.0", "to": "blessed"})
    rollout = kitchen.rig.start(kitchen["2.0.0"], "hall", immediate=True)
    kitchen.say(runs(kitchen["1.1.0"], answered=Answer.model_validate(answer)))
    assert kitchen.rig.terminal(rollout, "oven") == "pending"
    assert kitchen.rig.show(rollout)["state"] == "running"


@pytest.mark.parametrize("verb", ["upgrade", "downgrade"])
def test_what_runs_already_is_said_to_and_nothing_is_ordered(kitchen: Kitchen, verb: str) -> None:
    found = kitchen.ask(verb, "1.1.0")
    assert (found["already"], found["outcome"], found["version"]) == (True, "completed", "1.1.0")
    assert kitchen.rig.broker.on(OWN) == []
    kitchen.ask("upgrade", "2.0.0")
    code, message = kitchen.refused(verb, "1.1.0")
    assert (code, "runs 1.1.0 already, and is ordered to 2.0.0 by alice" in message) == ("conflict", True)


@pytest.mark.parametrize("verb", ["upgrade", "downgrade", "pin"])
def test_what_runs_already_can_be_pinned_by_its_version(kitchen: Kitchen, verb: str) -> None:
    kitchen.ask(verb, "1.1.0", **({} if verb == "pin" else {"pin": True}))
    plan = kitchen.plan("1.1.0")
    assert (plan.act, plan.why) == (Act.STAY, Why.CURRENT)
    kitchen.say(runs(kitchen["1.1.0"]))
    until(lambda: kitchen.act()["state"] == "held", "the pin holds")


@pytest.mark.parametrize(
    ("verb", "version", "code", "words"),
    [
        ("upgrade", "1.0.0", "upgrade_downgrade_refused", "newer than 1.0.0"),
        ("upgrade", "3.0.0", "upgrade_hop_required", "requires upgrade to 2.x first"),
        ("downgrade", "2.0.0", "state_refused", "not below"),
        ("upgrade", "9.9.9", "not_found", "9.9.9"),
        ("pin", "3.0.0", "upgrade_hop_required", "requires upgrade to 2.x first"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    kitchen: Kitchen, verb: str, version: str, code: str, words: str
) -> None:
    said, message = kitchen.refused(verb, version)
    assert (said, words in message) == (code, True), message
    assert kitchen.rig.broker.on(OWN) == []


def test_what_the_device_would_refuse_or_nobody_may_have_is_not_asked_of_it(kitchen: Kitchen) -> None:
    kitchen.rig.do("release.archive", {"component": COMPONENT, "version": "1.0.0"})
    assert "archived" in kitchen.refused("downgrade", "1.0.0")[1]
    kitchen.rig.do("release.recall", {"component": COMPONENT, "version": "2.0.0", "reason": "smoke"})
    assert "recalled" in kitchen.refused("upgrade", "2.0.0")[1]
    kitchen.rig.do("release.lift", {"component": COMPONENT, "version": "2.0.0"})
    off = PolicySummary(enabled=False, channels=("stable",))
    kitchen.say(runs(kitchen["1.1.0"]), policy=off)
    assert kitchen.refused("upgrade", "2.0.0")[0] == "upgrade_disabled"


def test_a_recall_ends_the_acts_towards_the_release(kitchen: Kitchen) -> None:
    kitchen.ask("upgrade", "2.0.0", pin=True)
    kitchen.rig.do("release.recall", {"component": COMPONENT, "version": "2.0.0", "reason": "smoke"})
    assert kitchen.own.released
    assert kitchen.act()["outcome"] == "canceled"


def test_upgrades_and_downgrades_are_listed_newest_first_with_what_stands_between(kitchen: Kitchen) -> None:
    up = kitchen.ask("upgrades")["releases"]
    assert [(row["version"], row["direct"], row.get("reason")) for row in up] == [
        ("2.0.0", True, None),
        ("3.0.0", False, "requires upgrade to 2.x first"),
    ]
    down = kitchen.ask("downgrades")["releases"]
    assert [(row["version"], row["direct"]) for row in down] == [("1.0.0", True)]
    kitchen.rig.do("release.archive", {"component": COMPONENT, "version": "1.0.0"})
    (old,) = kitchen.ask("downgrades")["releases"]
    assert (old["direct"], old["reason"]) == (False, "archived: it serves nobody")


def test_at_most_ten_reachable_releases_are_listed(kitchen: Kitchen) -> None:
    for n in range(12):
        kitchen.rig.publish(kitchen.rig.realm.release(f"2.1.{n}", 10 + n))
    rows = kitchen.ask("upgrades")["releases"]
    assert [row["version"] for row in rows if row["direct"]] == [f"2.1.{n}" for n in range(11, 1, -1)]
    assert [row["version"] for row in rows if not row["direct"]] == ["3.0.0"]


def test_a_broker_that_lost_the_document_is_told_it_again(kitchen: Kitchen) -> None:
    kitchen.ask("pin")
    first = len(kitchen.rig.broker.on(OWN))
    kitchen.rig.disconnect()
    kitchen.rig.connect()
    until(lambda: len(kitchen.rig.broker.on(OWN)) > first, "the pin is told again")
    assert kitchen.rig.broker.on(OWN)[-1] == kitchen.rig.broker.on(OWN)[first - 1]

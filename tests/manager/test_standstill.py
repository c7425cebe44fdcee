"""The engine paused: nothing begins, what stops is let through, everybody sees it, and it goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.waiting import until

from fleetfoot_manager import health, standstill, status
from fleetfoot_manager.rights import VERBS
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.resolve import Act, resolve
from fleetfoot_protocol.resolve import Device as Memory
from fleetfoot_protocol.states import Right, Role
from fleetfoot_protocol.topics import Kind

OPERATORS: dict[str, dict[str, tuple[Role, ...]]] = {
    "alice": {"*": (Role.ADMIN,)},
    "otto": {"*": (Role.OPERATOR,)},
    "hugo": {"hall": (Role.ADMIN,)},
}
#: What needs a right and lets no device begin, whatever is said.
HARMLESS = {
    "engine.pause", "engine.resume", "audit.prune",
    "release.upload", "release.archive", "release.recall", "release.lift",
    "group.create", "group.policy", "group.forget",
    "device.enroll", "device.move", "device.relabel", "device.replace", "device.forget", "device.token",
    "device.revoke", "device.unpin", "device.release",
    "rollout.plan", "rollout.probe", "rollout.note", "rollout.pause", "rollout.cancel", "rollout.reject",
}  # fmt: skip
#: What lets devices begin by what is said -> (arguments that do, arguments that do not).
DEPENDS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "rollout.decide": (
        [{"decision": "continue"}, {"decision": "rollback", "waves": [1]}],
        [{"decision": "rollback"}, {"decision": "abort"}],
    ),
    "device.pin": ([{"version": "1.1.0"}], [{}]),
    "release.publish": ([{"bless": True}], [{"bless": False}, {}]),
}  # fmt: skip


class House:
    """Two devices in each of two groups, a rollout over each: one goes, one was paused by hand."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.old, self.new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
        self.devices = {
            f"{group}-{n}": Device(f"{group}-{n}", group) for group in ("hall", "yard") for n in "12"
        }
        rig.enroll(*self.devices.values())
        rig.publish(self.old)
        rig.publish(self.new)
        for device in self.devices.values():
            rig.say(device, device.status(runs(self.old)))
        self.going = rig.start(self.new, "hall", waves=[1, 2])
        self.standing = rig.start(self.new, "yard", waves=[1, 2])
        rig.do("rollout.pause", {"rollout": self.standing})

    def states(self) -> tuple[str, str]:
        return self.rig.show(self.going)["state"], self.rig.show(self.standing)["state"]

    def completes(self, rollout: str, bundle: Bundle) -> None:
        """Whom the first wave admits is healthy."""
        (first,) = [row["id"] for row in self.rig.show(rollout)["devices"] if row["wave"] == 1]
        device = self.devices[first]
        self.rig.say(device, device.status(ended(bundle, rollout, "completed", bundle)))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    rig = Rig(Realm(tmp_path, OPERATORS))
    rig.connect()
    house = House(rig)
    yield house
    house.rig.close()


def test_everything_under_way_is_held_and_goes_on_alone(house: House) -> None:
    rig = house.rig
    found = rig.do("engine.pause", {"reason": "a bad batch of disks"}, operator="otto")
    assert (found["engine"], found["rollouts"]) == ("paused", [house.going])
    assert house.states() == ("paused", "paused")
    assert rig.show(house.going)["reason"] == "paused by otto: with the whole engine: a bad batch of disks"
    assert rig.desired("hall").targets[0].hold
    house.completes(house.going, house.new)
    assert rig.show(house.going)["wave"] == 1
    assert rig.ask("engine.pause").code == "state_refused"
    found = rig.do("engine.resume")
    assert (found["engine"], found["rollouts"]) == ("running", [house.going])
    until(lambda: rig.show(house.going)["wave"] == 2, "the next wave opens, for the first one is well")
    assert house.states() == ("running", "paused")
    assert rig.ask("engine.resume").code == "state_refused"
    actions = [row["action"] for row in rig.do("audit.list", {"action": "engine."})["entries"]]
    assert actions == ["engine.pause", "engine.resume"]


def test_what_awaits_an_approval_is_held_as_long(house: House) -> None:
    rig = house.rig
    rig.do("rollout.cancel", {"rollout": house.going})
    waiting = rig.start(house.new, "hall", waves=[1, 2], settle=0, approve_each_wave=True)
    house.completes(waiting, house.new)
    assert "awaits approval" in rig.show(waiting)["reason"]
    assert not rig.desired("hall").hold
    rig.do("engine.pause")
    assert rig.desired("hall").hold
    rig.do("engine.resume")
    assert not rig.desired("hall").hold
    assert rig.show(waiting)["state"] == "paused"


def test_nobody_begins_by_what_was_said_before(house: House) -> None:
    rig = house.rig
    rig.do("rollout.cancel", {"rollout": house.going})
    base = rig.start(house.new, "hall", immediate=True, settle=0)
    for name in ("hall-1", "hall-2"):
        rig.say(
            house.devices[name], house.devices[name].status(ended(house.new, base, "completed", house.new))
        )
    assert rig.show(base)["state"] == "completed"
    order = {"device": "yard-1", "component": COMPONENT, "version": "1.1.0"}
    rig.do("device.upgrade", order)
    own = topics.build(Kind.DEVICE_DESIRED, group="yard", device="yard-1", component=COMPONENT)
    joined, ordered = Device("new", "hall"), house.devices["yard-1"]

    def begins() -> tuple[Act, Act]:
        group, mine = rig.desired("hall"), trust.verify_desired(rig.broker.on(own)[-1], rig.realm.root)
        return (
            resolve(group, None, Memory(joined.id, run=house.old.installed)).act,
            resolve(rig.desired("yard"), mine, Memory(ordered.id, run=house.old.installed)).act,
        )

    assert begins() == (Act.INSTALL, Act.INSTALL)
    rig.do("engine.pause")
    assert begins() == (Act.DEFER, Act.DEFER)
    rig.do("device.move", {"device": "hall-1", "group": "yard"})
    assert begins() == (Act.DEFER, Act.DEFER)
    rig.do("release.recall", {"component": COMPONENT, "version": "1.1.0", "reason": "smoke"})
    here = Memory("hall-2", run=house.new.installed, prev=house.old.installed)
    assert resolve(rig.desired("hall"), None, here).act is Act.RETURN
    rig.do("engine.resume")
    assert not rig.desired("hall").hold


def test_meanwhile_nothing_begins_and_what_stops_is_let_through(house: House) -> None:
    rig = house.rig
    rig.do("engine.pause")
    wish = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"]}
    one = {"device": "hall-1", "component": COMPONENT, "version": "1.1.0"}
    for verb, arguments in (
        ("rollout.start", {**wish, "supersede": True}),
        ("rollout.resume", {"rollout": house.standing}),
        ("device.upgrade", one),
        ("release.publish", {**house.new.publish_arguments(), "bless": True}),
    ):
        reply = rig.ask(verb, arguments)
        assert (reply.code, "the engine is paused by alice since" in reply.message) == ("state_refused", True)
        assert "resume --all" in reply.remedy
    assert rig.do("rollout.plan", wish)["plan"]["total"] == 2
    assert rig.do("rollout.cancel", {"rollout": house.standing})["state"] == "canceled"
    assert (
        rig.do("rollout.decide", {"rollout": house.going, "decision": "rollback"})["state"] == "rolled_back"
    )
    rig.do("engine.resume")
    assert rig.ask("device.upgrade", {**one, "device": "yard-1"}).ok


def test_it_outlives_the_manager_and_is_seen_by_everybody(house: House) -> None:
    rig = house.rig
    assert "paused" not in rig.do("manager.status")
    rig.do("engine.pause", {"reason": "a bad batch"})
    rig.close()
    house.rig = rig = Rig(rig.realm)
    rig.connect()
    found = rig.do("manager.status")
    assert (found["engine"], found["paused"]["by"], found["paused"]["reason"]) == (
        "paused",
        "alice",
        "a bad batch",
    )
    first, *more = status.lines(status.look(rig.realm.state))
    assert "ENGINE PAUSED by alice since " in first
    assert "a bad batch" in first
    assert "everything waits for 'fleetfoot rollout resume --all', which can come from: alice" in more
    numbers = {one.name: list(one.values) for one in health.metrics(rig.engine, rig.store, "testfleet", 0.0)}
    assert numbers["engine_paused"] == [({}, 1.0)]
    rig.do("engine.resume")
    assert rig.do("manager.status")["engine"] == "running"


def test_no_hop_of_a_chain_begins(house: House) -> None:
    rig = house.rig
    rig.do("rollout.cancel", {"rollout": house.going})
    second_major = rig.realm.release("2.0.0", 3)
    for bundle in (second_major, rig.realm.release("3.0.0", 4)):
        rig.publish(bundle)
    far = {"component": COMPONENT, "version": "3.0.0", "groups": ["hall"], "immediate": True, "settle": 0}
    first, second = rig.do("rollout.start", far)["chain"]
    rig.do("engine.pause")
    for name in ("hall-1", "hall-2"):
        done = ended(second_major, first, "completed", second_major)
        rig.say(house.devices[name], house.devices[name].status(done))
    assert (rig.show(first)["state"], rig.show(second)["state"]) == ("paused", "planned")
    rig.do("engine.resume")
    assert (rig.show(first)["state"], rig.show(second)["state"]) == ("completed", "running")


@pytest.mark.parametrize(("operator", "verb"), [("hugo", "engine.pause"), ("otto", "engine.resume")])
def test_it_takes_the_right_in_every_group(house: House, operator: str, verb: str) -> None:
    reply = house.rig.ask(verb, operator=operator)
    assert (reply.code, "in every group" in reply.message) == ("not_allowed", True)


def test_every_verb_was_thought_of() -> None:
    asking = {verb for verb, right in VERBS.items() if right is not Right.READ}
    always = {verb for verb in asking if standstill.begins(verb, {})}
    assert always.isdisjoint(HARMLESS)
    assert asking == always | HARMLESS | set(DEPENDS)
    for verb, (begin, harmless) in DEPENDS.items():
        assert all(standstill.begins(verb, one) for one in begin), verb
        assert not any(standstill.begins(verb, one) for one in harmless), verb

"""Steering from the console, keys only, against a real manager and its broker: what counts is the audit."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.process import DeviceParty, ManagerProcess, OperatorParty
from tests.manager.realm import COMPONENT, Device, Realm, ended, runs
from tests.support.waiting import until
from tests.tui.driving import screen_text, settle, type_text
from textual.pilot import Pilot

from fleetfoot_client import keyfiles
from fleetfoot_client.profiles import Profile
from fleetfoot_client.rows import RolloutRow
from fleetfoot_client.session import Session
from fleetfoot_manager import rollout_gate
from fleetfoot_manager.rollout import (
    TRANSITIONS,
    Activate,
    Approve,
    Cancel,
    Decision,
    Pause,
    Resume,
    Retry,
)
from fleetfoot_manager.rollout import Kind as EventKind
from fleetfoot_protocol import keys
from fleetfoot_protocol.states import Lifecycle, RolloutState
from fleetfoot_tui import steering
from fleetfoot_tui.app import Console
from fleetfoot_tui.feed import Feed

SIZE = (110, 32)

_EVENTS: dict[str, EventKind] = {
    "pause": Pause,
    "resume": Resume,
    "continue": Decision.CONTINUE,
    "rollback": Decision.ROLLBACK,
    "abort": Decision.ABORT,
    "retry": Retry,
    "cancel": Cancel,
    "activate": Activate,
    "approve": Approve,
}


@pytest.mark.parametrize("act", steering.ACTS, ids=lambda act: act.name)
def test_what_is_offered_in_a_state_is_what_the_manager_takes(act: steering.Act) -> None:
    assert act.states == {state for state in RolloutState if _EVENTS[act.name] in TRANSITIONS.get(state, {})}


@pytest.mark.parametrize(
    ("reason", "offered"),
    [
        (rollout_gate.AWAITS_APPROVAL, {"approve"}),
        (rollout_gate.AWAITS_ACTIVATION, {"activate"}),
        (rollout_gate.AWAITS_BLESSING, set()),
        ("held by alice", {"resume"}),
    ],
)
def test_what_lets_a_paused_rollout_go_on_depends_on_what_it_stands_for(
    reason: str, offered: set[str]
) -> None:
    row = RolloutRow(
        rollout="r-1", component=COMPONENT, version="1.1.0", state="paused", reason=reason, revision=1
    )
    assert {name for name in ("resume", "activate", "approve") if steering.possible(name, row)} == offered


class House:
    """A manager with three devices in a group, all on 1.0.0, and 1.1.0 blessed."""

    def __init__(self, folder: Path) -> None:
        self.realm = Realm(folder)
        self.manager = ManagerProcess(self.realm).first_start()
        self.alice = OperatorParty(self.realm, self.manager.listen)
        self.fleet = DeviceParty(self.manager.listen)
        self.devices = [Device(f"oven-{n}", "ovens") for n in range(1, 4)]
        self.old, self.new = self.realm.release("1.0.0", 1), self.realm.release("1.1.0", 2)
        for bundle in (self.old, self.new):
            self.alice.release(bundle)
        self.alice.do("device.enroll", {"devices": [device.enrolment for device in self.devices]})
        for device in self.devices:
            self.fleet.say(device, device.status(runs(self.old), capabilities=("upgrade",)))
        key = folder / "alice.key"
        key.write_text(json.dumps(_key_file(self.realm)))
        key.chmod(0o600)
        self.profile = Profile("test", f"mqtt://{self.manager.listen}", "alice", key, self.realm.root_path)

    def audit(self, action: str) -> list[dict[str, Any]]:
        found = self.alice.do("audit.list", {"action": action})["entries"]
        return [json.loads(one["data"]) | {"actor": one["actor"]} for one in found]

    def rollout(self) -> dict[str, Any]:
        (found,) = self.alice.do("rollout.list", {"state": "all"})["rollouts"]
        return dict(found)

    def close(self) -> None:
        for one in (self.alice, self.fleet, self.manager):
            one.close()


def _key_file(realm: Realm) -> dict[str, str]:
    secret = realm.secrets["alice"]
    return {
        "kind": keyfiles.SECRET_KIND,
        "public": keys.public_of(secret).hex(),
        "secret": secret.hex(),
    }


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


async def see(pilot: Pilot[Any], *words: str) -> str:
    """Wait until all the words stand on the screen."""
    end = time.monotonic() + 60
    text = ""
    while time.monotonic() < end:
        assert isinstance(pilot.app, Console)
        pilot.app.tick()
        await pilot.pause()
        text = screen_text(pilot.app)
        if all(word in text for word in words):
            return text
        await asyncio.sleep(0.02)
    raise AssertionError(f"not on the screen: {words}\n{text}")


async def test_a_rollout_is_planned_started_trips_and_is_rolled_back_by_keys_alone(house: House) -> None:
    with Session(house.profile) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed, operator="alice")
        async with app.run_test(size=SIZE) as pilot:
            await see(pilot, "3 of 3 devices", "oven-3", "1.0.0")

            await pilot.press("n")
            await see(pilot, "version is missing")
            await pilot.press("tab")
            await type_text(pilot, "9.9.9")
            await see(pilot, "Start is not possible", "not_found")
            await pilot.press("ctrl+s")
            assert house.alice.do("rollout.list", {"state": "all"})["rollouts"] == []
            await pilot.press("home", *["delete"] * 5)
            await type_text(pilot, "1.1.0")
            await pilot.press("tab", "tab", "tab")
            await type_text(pilot, "1,3")
            await see(pilot, "1 ▸ 3", "ctrl+s starts it")
            await pilot.press("ctrl+s")
            await see(pilot, f"Start the rollout of {COMPONENT} 1.1.0?", "ovens")
            await pilot.press("y")
            await see(pilot, "▶ running", "oven-1", "wave")
            (scheduled,) = house.audit("group.upgrade.schedule")
            assert (scheduled["actor"], scheduled["version"], scheduled["waves"]) == (
                "alice",
                "1.1.0",
                [1, 3],
            )

            started = house.rollout()
            shown = house.alice.do("rollout.show", {"rollout": started["rollout"]})
            first = next(d["id"] for d in shown["devices"] if d["wave"] == 1)
            device = next(d for d in house.devices if d.id == first)
            failure = ended(
                house.new, started["rollout"], "rolled_back", house.old, code="upgrade_boot_failed"
            )
            house.fleet.say(device, device.status(failure, capabilities=("upgrade",)))
            await see(pilot, "✗ tripped", "upgrade_boot_failed  in ovens", "Continue", "Roll back")

            await pilot.press("b")
            await see(pilot, "Roll back rollout", "devices", "No, go back")
            await pilot.press("escape")
            await settle(pilot)
            assert house.audit("group.upgrade.decide") == []
            await pilot.press("b")
            await see(pilot, "Roll back rollout")
            await pilot.press("y")
            await see(pilot, "↩ rolled back")
            (decided,) = house.audit("group.upgrade.decide")
            assert (decided["actor"], decided["decision"]) == ("alice", "rollback")


async def test_read_only_signs_nothing_and_says_so(house: House) -> None:
    house.alice.do("rollout.start", {"component": COMPONENT, "version": "1.1.0", "groups": ["ovens"]})
    with Session(house.profile, read_only=True) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed, read_only=True)
        async with app.run_test(size=SIZE) as pilot:
            await see(pilot, "3 of 3 devices", "read-only")
            await pilot.press("2")
            await see(pilot, "▶ running")
            await pilot.press("enter")
            await see(pilot, "Pause", "oven-1")
            await pilot.press("p")
            await see(pilot, "read_only", "start without --read-only")
            assert house.rollout()["state"] == "running"
            assert house.audit("group.upgrade.paused") == []
            await pilot.press("escape", "6")
            await see(pilot, "✓ 1 to", "verified against the head the director signed")


async def test_marked_devices_are_upgraded_and_what_one_refuses_is_said(house: House) -> None:
    pinned = house.devices[1]
    policy = {"enabled": False, "channels": ("stable",)}
    house.fleet.say(pinned, pinned.status(runs(house.old), capabilities=("upgrade",), policy=policy))
    unable = house.devices[2]
    house.fleet.say(unable, unable.status(runs(house.old)))
    with Session(house.profile) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed)
        async with app.run_test(size=SIZE) as pilot:
            await see(pilot, "3 of 3 devices", "oven-3", "1.0.0")
            until(lambda: all(d.status for d in app.fleet.devices.values()), "statuses")
            await pilot.press("home", "space", "space", "space", "u")
            await see(pilot, "Upgrade 2 devices", "to which version")
            await type_text(pilot, "1.1.0")
            await pilot.press("enter")
            await see(pilot, "oven-1 oven-2", "1 that cannot be upgraded from afar")
            await pilot.press("y")
            await see(pilot, "Upgrade: 1 refusal", "oven-2", "upgrade_disabled")
            (asked,) = house.audit("node.upgrade.request")
            assert (asked["device"], asked["version"]) == ("oven-1", "1.1.0")
            await pilot.press("escape", "home", "down", "down", "enter")
            text = await see(pilot, "oven-3", "should run")
            assert "Upgrade" not in text


async def test_a_rollout_that_awaits_approval_is_approved_gentler(house: House) -> None:
    house.alice.do("group.policy", {"group": "ovens", "approval": "always"})
    house.alice.do(
        "rollout.start",
        {"component": COMPONENT, "version": "1.1.0", "groups": ["ovens"], "waves": [2, 3]},
    )
    with Session(house.profile) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed)
        async with app.run_test(size=SIZE) as pilot:
            await see(pilot, "3 of 3 devices")
            await pilot.press("4")
            await see(pilot, "1 awaits approval", "2 ▸ 3")
            await pilot.press("e")
            await see(pilot, "gentler")
            await pilot.press("home", *["delete"] * 3)
            await type_text(pilot, "1,2,3")
            await pilot.press("enter", "enter", "enter", "enter")
            await see(pilot, "It starts at once", "[1, 2, 3]")
            await pilot.press("y")
            await see(pilot, "0 await approval")
            (approved,) = house.audit("group.upgrade.approve")
            assert (approved["actor"], approved["edited"]) == ("alice", ["waves"])
            assert house.rollout()["waves"] == [1, 2, 3]


async def test_batches_are_staged_and_activated_from_the_console(house: House) -> None:
    with Session(house.profile) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed, operator="alice")
        async with app.run_test(size=SIZE) as pilot:
            await see(pilot, "3 of 3 devices", "oven-3", "1.0.0")
            await pilot.press("n", "tab")
            await type_text(pilot, "1.1.0")
            await pilot.press("tab", "tab", "tab", "tab")
            await type_text(pilot, "1")
            await pilot.press("tab")
            await type_text(pilot, "0")
            await pilot.press("tab", "tab", "tab", "tab", "tab")
            await type_text(pilot, "only")
            await see(pilot, "batches      1 ▸ 2 ▸ 3", "--stage only", "--batch-size 1", "ctrl+s starts it")
            await pilot.press("ctrl+s", "y")
            await see(pilot, "▶ staging", "strategy    batches, trips at 2 failures in a row")
            name = house.rollout()["rollout"]
            for device in house.devices:
                said = ended(house.new, name, "staged", house.old)
                staged = said.model_copy(update={"state": Lifecycle.STAGED})
                house.fleet.say(device, device.status(staged, capabilities=("upgrade",)))
            text = await see(pilot, "awaits activation", "✓ staging", "v Activate")
            assert "Resume" not in text
            await pilot.press("v")
            await see(pilot, "Activate rollout", "3, of which 3 were reached")
            await pilot.press("y")
            await see(pilot, "▶ running", "▶ 1")
            (activated,) = house.audit("group.upgrade.activate")
            assert (activated["actor"], activated["rollout"]) == ("alice", name)


async def test_the_next_wave_is_approved_from_the_console(house: House) -> None:
    wish = {"component": COMPONENT, "version": "1.1.0", "groups": ["ovens"], "waves": [1, 3], "settle": 0}
    name = house.alice.do("rollout.start", {**wish, "approve_each_wave": True})["rollout"]
    shown = house.alice.do("rollout.show", {"rollout": name})
    first = next(d["id"] for d in shown["devices"] if d["wave"] == 1)
    device = next(d for d in house.devices if d.id == first)
    house.fleet.say(
        device, device.status(ended(house.new, name, "completed", house.new), capabilities=("upgrade",))
    )
    with Session(house.profile) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed, operator="alice")
        async with app.run_test(size=SIZE) as pilot:
            await see(pilot, "3 of 3 devices")
            await pilot.press("4")
            await see(pilot, "1 awaits approval", "wave 2/2")
            await pilot.press("enter")
            text = await see(pilot, "awaits approval", "healthy in", "1 device", "o Approve")
            assert "Resume" not in text
            await pilot.press("o")
            await see(pilot, "Approve rollout", "Its next wave opens at once")
            await pilot.press("y")
            await see(pilot, "▶ running", "▶ 3")
            (approved,) = house.audit("group.upgrade.approve")
            assert (approved["actor"], approved["wave"]) == ("alice", 2)


async def test_the_manager_and_its_broker_go_and_come_back(house: House) -> None:
    with Session(house.profile) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed)
        async with app.run_test(size=SIZE) as pilot:
            await see(pilot, "3 of 3 devices", "✓ manager")
            house.manager.kill()
            await see(pilot, "✗ broker lost, below is what was known", "3 of 3 devices")
            house.manager.start()
            await see(pilot, "✓ broker", "✓ manager", "3 of 3 devices")

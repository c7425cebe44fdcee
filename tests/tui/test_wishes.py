"""The form of a new rollout says what the command says, option for option."""

import argparse
import json
import re
import shlex
from typing import Any, cast

import pytest
from tests.tui.driving import settle, type_text
from tests.tui.stage import Stage
from tests.tui.trouble import managed, troubled
from textual.widgets import Input

from fleetfoot_client.commands import rollout_arguments
from fleetfoot_manager.requests.rollout_arguments import RolloutPlan
from fleetfoot_tui import wishes
from fleetfoot_tui.screens.new_rollout import NewRolloutRoom

#: What somebody types into each field.
FILLED = {
    "component": "kiosk",
    "version": "1.2.0",
    "groups": "ovens, grills",
    "devices": "",
    "selector": "site=berlin floor=2",
    "canaries": "oven-01 oven-02",
    "stage": "first",
    "batches": "",
    "waves": "1,50%,100%",
    "settle": "5m",
    "breaker": "2",
    "failure_percent": "10%",
    "min_successes": "3",
    "offline": "skip",
    "device_timeout": "90",
    "approve_each_wave": "each wave",
    "priority": "7",
    "ttl": "2d",
    "batch_delay_seconds": "",
    "mode": "yes",
    "supersede": "y",
}
#: Other ways, instead of those above.
WAYS: dict[str, dict[str, str]] = {
    "waves": {},
    "batches of percent": {"waves": "", "batches": "20%", "batch_delay_seconds": "10m"},
    "batches of devices": {"waves": "", "batches": "50", "settle": ""},
    "at once": {"waves": "at once"},
    "single devices": {"groups": "", "selector": "", "stage": "", "devices": "oven-01 grill-03"},
}


def understood(line: str) -> dict[str, Any]:
    """What `fleetfoot rollout start` would ask the manager for."""
    parser = argparse.ArgumentParser()
    rollout_arguments.add_wishes(parser)
    words = shlex.split(line)
    assert words[:3] == ["fleetfoot", "rollout", "start"]
    asked = rollout_arguments.wishes(parser.parse_args(words[3:]))
    return {name: value for name, value in asked.items() if value is not None}


@pytest.mark.parametrize("way", WAYS)
def test_the_command_that_is_shown_asks_for_what_the_form_asks_for(way: str) -> None:
    asked = wishes.wishes(FILLED | WAYS[way])
    if way != "single devices":
        assert asked["selector"] == {"site": "berlin", "floor": "2"}
    assert (asked["ttl"], asked["approve_each_wave"]) == (172_800, True)
    assert (asked["mode"], asked["supersede"]) == ("exactly", True)
    assert understood(wishes.command(asked)) == asked
    # And the manager understands it.
    RolloutPlan.model_validate_json(json.dumps(asked))


def test_whatever_the_command_can_be_told_the_form_can_be_told_too() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    rollout_arguments.add_wishes(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    # Of the profile the console has its own; equal batches of 20 % are said with their size.
    known -= {"--profile", "--reply-timeout", "--json", "--batches"}
    said = {field.option for field in wishes.FIELDS.values()} | set(wishes.OPTIONS.values())
    assert said - {""} == known


def test_every_field_stands_in_the_form_once() -> None:
    assert sorted(name for line in wishes.FORM for name in line) == sorted(wishes.FIELDS)
    assert wishes.FIELDS.keys() == FILLED.keys()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("waves", "many", "waves: 'many' is neither"),
        ("batches", "0%", "batches: '0' is not a whole number"),
        ("stage", "later", "staging: first"),
        ("offline", "perhaps", "offline: wait"),
        ("approve_each_wave", "no", "approval: each wave"),
        ("failure_percent", "x", "or above: 'x'"),
        ("selector", "berlin", "labels: 'berlin' is no label"),
        ("ttl", "tomorrow", "expires in: 'tomorrow' is no time"),
        ("groups", " , ", "no group and no device"),
        ("devices", " ".join(f"oven-{n}" for n in range(501)), "or devices: at most 500 by name"),
        ("mode", "no", "exactly: yes (devices that run"),
        ("supersede", "r-1", "supersede: yes (it takes the place"),
        ("component", "", "component is missing"),
    ],
)
def test_what_cannot_be_understood_is_named(name: str, text: str, said: str) -> None:
    with pytest.raises(wishes.Wish, match=re.escape(said)):
        wishes.wishes(FILLED | {"waves": "", "batches": ""} | {name: text})


async def test_what_is_typed_into_the_form_is_what_is_asked_for(stage: Stage) -> None:
    troubled(stage)
    managed(stage)
    app = stage.console()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        app.push_screen(NewRolloutRoom(component="kiosk", version="1.2.0", groups="ovens"))
        await settle(pilot)
        filled = {3: "oven-01", 4: "at once", 13: "each", 14: "skip", 16: "7", 17: "2d", 18: "yes", 19: "yes"}
        for place, text in filled.items():
            while place != list(app.screen.query(Input)).index(cast("Input", app.focused)):
                await pilot.press("tab")
            await type_text(pilot, text)
        await pilot.pause(0.5)
        text = await settle(pilot)
        assert "ctrl+s starts it" in text
        assert stage.asker.of("rollout.plan")[-1] == {
            "component": "kiosk",
            "version": "1.2.0",
            "groups": ["ovens"],
            "devices": ["oven-01"],
            "immediate": True,
            "offline": "skip",
            "approve_each_wave": True,
            "priority": 7,
            "ttl": 172_800,
            "mode": "exactly",
            "supersede": True,
        }


async def test_marked_devices_are_the_target_and_what_is_under_way_forbids_the_start(stage: Stage) -> None:
    troubled(stage)
    managed(stage)
    plan = stage.asker.answers["rollout.plan"]["plan"]
    plan |= {"blocked": "rollout r-9 of kiosk 1.1.0 is running in ovens; cancel it", "mode": "exactly"}
    app = stage.console()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("home", "space", "space", "n")
        await settle(pilot)
        await pilot.press("tab")
        await type_text(pilot, "1.2.0")
        await pilot.pause(0.5)
        text = await settle(pilot)
        assert stage.asker.of("rollout.plan")[-1]["devices"] == ["grill-03", "grill-06"]
        assert "groups" not in stage.asker.of("rollout.plan")[-1]
        assert "Start is not possible: rollout r-9 of kiosk 1.1.0 is running in ovens" in text
        assert "go down to it" in text
        await pilot.press("ctrl+s")
        assert "nothing has begun" not in await settle(pilot)
        plan |= {"blocked": "", "supersedes": ["r-9"]}
        await pilot.press("home", "delete", "1")
        await pilot.pause(0.5)
        assert "supersedes   r-9" in await settle(pilot)
        await pilot.press("ctrl+s")
        text = await settle(pilot)
        assert "supersedes  r-9" in text
        assert "newer ones  go down to it" in text
        assert stage.asker.of("rollout.start") == []


async def test_read_only_is_said_before_anything_is_typed(stage: Stage) -> None:
    troubled(stage)
    managed(stage)
    app = stage.console(read_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("u")
        text = await settle(pilot)
        assert "read_only" in text
        assert "to which version" not in text
        await pilot.press("escape", "n", "tab")
        await type_text(pilot, "1.2.0")
        await pilot.pause(0.5)
        assert "Start is not possible: this console is read-only" in await settle(pilot)
        await pilot.press("ctrl+s")
        assert "Start the rollout" not in await settle(pilot)

"""The form of a new rollout says what the command says, option for option."""

import argparse
import re
import shlex
from typing import Any

import pytest
from tests.tui.driving import settle, type_text
from tests.tui.stage import Stage
from tests.tui.trouble import managed, troubled

from fleetfoot_client.commands import rollout_arguments
from fleetfoot_tui import wishes
from fleetfoot_tui.screens.new_rollout import NewRolloutRoom

#: What somebody types into each field.
FILLED = {
    "component": "kiosk",
    "version": "1.2.0",
    "groups": "ovens, grills",
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
}


def understood(line: str) -> dict[str, Any]:
    """What `fleetfoot rollout start` would ask the manager for."""
    parser = argparse.ArgumentParser()
    rollout_arguments.add_wishes(parser)
    words = shlex.split(line)
    assert words[:3] == ["fleetfoot", "rollout", "start"]
    asked = rollout_arguments.wishes(parser.parse_args(words[3:]))
    return {name: value for name, value in asked.items() if value is not None}


@pytest.mark.parametrize("batches", ["", "20%", "50"])
def test_the_command_that_is_shown_asks_for_what_the_form_asks_for(batches: str) -> None:
    filled = FILLED | ({"batches": batches, "waves": ""} if batches else {})
    asked = wishes.wishes(filled)
    assert asked["selector"] == {"site": "berlin", "floor": "2"}
    assert (asked["ttl"], asked["approve_each_wave"]) == (172_800, True)
    assert understood(wishes.command(asked)) == asked


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
        ("groups", " , ", "no group"),
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
        await pilot.press(*["tab"] * 11)
        assert app.focused is not None
        assert app.focused.id == "approve_each_wave"
        await type_text(pilot, "each")
        await pilot.press("tab")
        await type_text(pilot, "skip")
        await pilot.press("tab")
        await type_text(pilot, "7")
        await pilot.press("tab")
        await type_text(pilot, "2d")
        await pilot.pause(0.5)
        text = await settle(pilot)
        assert "ctrl+s starts it" in text
        assert stage.asker.of("rollout.plan")[-1] == {
            "component": "kiosk",
            "version": "1.2.0",
            "groups": ["ovens"],
            "offline": "skip",
            "approve_each_wave": True,
            "priority": 7,
            "ttl": 172_800,
        }

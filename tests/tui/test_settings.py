"""Keys and colours of one's own, and the grid: by keys alone."""

from pathlib import Path

import pytest
from tests.tui.driving import screen_text, second, settle
from tests.tui.stage import Stage
from tests.tui.trouble import managed, troubled

from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui import settings
from fleetfoot_tui.app import Console
from fleetfoot_tui.screens import bindings
from fleetfoot_tui.screens.grid import Line, laid_out

KNOWN = bindings() | Console.binding_ids()


def written(folder: Path, text: str) -> settings.Settings:
    (folder / settings.NAME).write_text(text)
    return settings.load({"FLEETFOOT_CONFIG_DIR": str(folder)}, KNOWN)


def test_without_a_file_everything_is_as_usual(tmp_path: Path) -> None:
    assert settings.load({"FLEETFOOT_CONFIG_DIR": str(tmp_path)}, KNOWN) == settings.Settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("theme = 'mauve'", "mauve"),
        ("[keys]\n'fleet.fault' = 'e'", "fleet.fault"),
        ("[keys]\n'fleet.faults' = 'no such key'", "no such key"),
        ("[keys", "console.toml"),
        ("colour = 1", "colour"),
    ],
)
def test_what_is_wrong_in_it_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(FleetfootError, match=named) as caught:
        written(tmp_path, text)
    assert caught.value.code == "config_invalid"


async def test_another_key_and_another_theme(stage: Stage, tmp_path: Path) -> None:
    own = written(tmp_path, "theme = 'textual-light'\n[keys]\n'fleet.faults' = 'e'\n'rollout.rollback' = 'B'")
    troubled(stage)
    managed(stage)
    app = stage.console(keys=own.keys, theme=own.theme)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        assert app.theme == "textual-light"
        await pilot.press("f")
        assert "faults only" not in await settle(pilot)
        await pilot.press("e")
        assert "faults only" in await settle(pilot)
        await pilot.press("2", "enter")
        await settle(pilot)
        await pilot.press("b")
        assert "The release is withdrawn" not in await settle(pilot)
        await pilot.press("B")
        assert "The release is withdrawn" in await settle(pilot)


def test_the_grid_has_a_heading_and_as_many_cells_as_fit() -> None:
    assert laid_out({"a": ["1", "2", "3"], "b": ["4"]}, 4) == [
        Line("a"),
        Line("a", ("1", "2")),
        Line("a", ("3",)),
        Line("b"),
        Line("b", ("4",)),
    ]


async def test_in_the_grid_one_goes_to_a_device_that_hurts_and_into_it(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=(80, 24)) as pilot:
        await second(pilot)
        await pilot.press("7")
        text = await second(pilot)
        assert "grills  10 devices" in text
        assert "ovens  20 devices" in text
        await pilot.press("f")
        await second(pilot)
        await pilot.press("down", "right")
        text = await settle(pilot)
        assert "oven-07" in text.splitlines()[-4]
        assert "disk_full" in text.splitlines()[-4]
        await pilot.press("enter")
        assert "oven-07" in (await settle(pilot)).splitlines()[0]
        await pilot.press("escape", "f")
        assert "oven-01" not in screen_text(app).splitlines()[0]

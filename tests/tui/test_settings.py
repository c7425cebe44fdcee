"""Keys and colours of one's own, and the grid: by keys alone."""

from pathlib import Path

import pytest
from tests.tui.driving import screen_text, second, settle
from tests.tui.stage import Stage
from tests.tui.trouble import managed, troubled

from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind
from fleetfoot_tui import settings
from fleetfoot_tui.app import Console
from fleetfoot_tui.screens import bindings
from fleetfoot_tui.screens.grid import Grid, Line, laid_out

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


async def test_of_the_grid_only_lines_in_which_something_changed_are_drawn_again(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(80, 24)) as pilot:
        await second(pilot)
        await pilot.press("7")
        text = await second(pilot)
        assert "✗" in text.splitlines()[3]
        grid = app.screen.query_one(Grid)
        before = grid.drawn
        await second(pilot)
        assert grid.drawn == before, "nothing has changed"
        stage.device("grill-06", "grills", stage.works("1.2.0", "probation", "1.1.0"), counter=2)
        text = await settle(pilot)
        assert "▶" in text.splitlines()[3]
        assert grid.drawn == before + 1
        await pilot.press("right")
        await settle(pilot)
        assert grid.drawn == before + 2, "the line of the cursor"
        stage.link.connected = False
        assert "?" in (await second(pilot)).splitlines()[3]


async def test_a_device_that_comes_or_goes_moves_the_cells(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(80, 24)) as pilot:
        await second(pilot)
        await pilot.press("7", "f")
        await second(pilot)
        assert app.screen.query_one(Grid).groups == {
            "grills": ["grill-09"],
            "ovens": ["oven-02", "oven-07", "oven-08"],
        }
        stage.put(Kind.STATUS, b"", group="ovens", device="oven-07")
        failed = stage.ended("1.2.0", "failed", "1.1.0", "upgrade_disk_full")
        stage.device("oven-11", "ovens", failed, counter=2)
        await settle(pilot)
        app.screen.renew()  # type: ignore[attr-defined]
        await settle(pilot)
        assert app.screen.query_one(Grid).groups["ovens"] == ["oven-02", "oven-08", "oven-11"]
        assert app.fleet.faulty == {name for name, device in app.fleet.devices.items() if device.faulty}

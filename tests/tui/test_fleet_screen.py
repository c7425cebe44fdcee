"""The fleet's screen: keys are pressed, and what stands on the screen is read."""

import json

import pytest
from rich.cells import cell_len
from tests.tui.driving import second, settle, type_text
from tests.tui.stage import Stage
from tests.tui.trouble import troubled

from fleetfoot_protocol.topics import Kind
from fleetfoot_tui.columns import GAP, Column, widths
from fleetfoot_tui.look import Cell, fitted
from fleetfoot_tui.room import hanging
from fleetfoot_tui.screens.fleet import COLUMNS
from fleetfoot_tui.table import LineTable

SIZE = (100, 30)


async def test_the_fleet_at_a_glance(stage: Stage) -> None:
    troubled(stage)
    async with stage.console().run_test(size=SIZE) as pilot:
        text = await settle(pilot)
        assert "fleetfoot ▸ bakery ▸ Fleet" in text
        assert "✓ broker" in text
        assert "ovens 20 ✗3" in text
        assert "30 of 30 devices" in text
        assert "↩ rolled back" in text


async def test_a_filter_is_typed_and_taken_away(stage: Stage) -> None:
    troubled(stage)
    async with stage.console().run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("slash")
        await type_text(pilot, "boot_failed")
        text = await settle(pilot)
        assert "1 of 30 devices" in text
        assert "oven-02" in text
        await pilot.press("enter", "escape")
        assert "30 of 30 devices" in await settle(pilot)
        await pilot.press("slash", "left_parenthesis")
        assert "no regular expression" in await settle(pilot)


async def test_faults_only_then_into_the_device_and_back(stage: Stage) -> None:
    troubled(stage)
    async with stage.console().run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("f")
        assert "4 of 30 devices" in await settle(pilot)
        await pilot.press("down", "enter")
        text = await settle(pilot)
        assert "Fleet ▸ oven-02" in text
        assert "upgrade_boot_failed" in text
        assert "what to do" in text
        await pilot.press("escape")
        assert "4 of 30 devices" in await settle(pilot)


async def test_marks_by_space_and_by_range(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("space", "down", "down", "v")
        text = await settle(pilot)
        assert "4 marked" in text
        assert app.screen.query_one(LineTable).marks == {"grill-03", "grill-06", "grill-09", "grill-12"}
        await pilot.press("c")
        assert "marked" not in await settle(pilot)


async def test_a_change_shows_up_and_the_cursor_stays_on_its_device(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("down", "down")
        table = app.screen.query_one(LineTable)
        here = table.cursor
        stage.device("aaa-first", "ovens", stage.runs("1.1.0"))
        stage.device("oven-01", "ovens", stage.works("1.2.0", "activating", "1.1.0"), counter=2)
        stage.clock.now += 1
        text = await settle(pilot)
        app.screen.renew()  # type: ignore[attr-defined]
        text = await settle(pilot)
        assert table.cursor == here
        assert "aaa-first" in text
        assert "upgrading switch" in text


async def test_a_cursor_that_nobody_has_moved_stays_at_the_top_while_the_fleet_comes_in(stage: Stage) -> None:
    stage.device("oven-05", "ovens", stage.runs("1.1.0"))
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        await settle(pilot)
        table = app.screen.query_one(LineTable)
        for name, keys, cursor in (("oven-04", [], "oven-04"), ("oven-03", ["home"], "oven-04")):
            await pilot.press(*keys)
            stage.device(name, "ovens", stage.runs("1.1.0"))
            await settle(pilot)
            app.screen.renew()  # type: ignore[attr-defined]
            await settle(pilot)
            assert (table.keys[0], table.cursor) == (name, cursor)


async def test_what_a_device_sends_is_shown_literally(stage: Stage) -> None:
    evil = "[bold red]\x1b[2J\u202egnp\x07"
    part = stage.ended("1.2.0", "failed", "1.0.0", "upgrade_disk_full", "cause")
    said = json.loads(stage.status("oven-1", "ovens", part).payload())
    said["labels"]["site"] = said["components"]["kiosk"]["last_error"]["code"] = evil
    stage.put(Kind.STATUS, json.dumps(said).encode(), group="ovens", device="oven-1")
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        text = await settle(pilot)
        assert "[bold red]" in text
        await pilot.press("enter")
        text = await settle(pilot)
        assert r"site=[bold red]\x1b[2J\u202egnp\x07" in text
        assert not {"\x1b", "\u202e", "\x07"} & set(text)
        await pilot.press("question_mark")
        await settle(pilot)


async def test_megabytes_of_a_device_cost_nothing(stage: Stage) -> None:
    stage.put(Kind.STATUS, b'{"agent": "' + b"x" * (5 << 20) + b'"}', group="ovens", device="oven-1")
    stage.put(Kind.DEVICE_EVENTS, b"x" * (5 << 20), group="ovens", device="oven-1", retained=False)
    async with stage.console().run_test(size=SIZE) as pilot:
        assert "2 dropped" in await second(pilot)


async def test_a_lost_broker_is_said_and_nothing_old_looks_new(stage: Stage) -> None:
    troubled(stage)
    async with stage.console().run_test(size=SIZE) as pilot:
        await settle(pilot)
        stage.link.connected = False
        assert "✗ broker lost, below is what was known" in await second(pilot)
        stage.link.connected = True
        stage.manager("offline")
        text = await second(pilot)
        assert "✓ broker" in text
        assert "✗ manager offline" in text


async def test_down_to_forty_by_ten_and_back(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        before = await settle(pilot)
        await pilot.resize_terminal(40, 10)
        small = await settle(pilot)
        assert "grill-03" in small
        await pilot.press("enter")
        await settle(pilot)
        await pilot.press("escape")
        await pilot.resize_terminal(1, 1)
        await settle(pilot)
        await pilot.resize_terminal(*SIZE)
        assert (await settle(pilot)).splitlines()[5:] == before.splitlines()[5:]


async def test_help_names_the_keys_of_the_screen(stage: Stage) -> None:
    async with stage.console().run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("question_mark")
        text = await settle(pilot)
        assert "Faults" in text
        assert "Mark range" in text
        await pilot.press("escape")
        assert "Help: Fleet" not in await settle(pilot)


async def test_without_colour_nothing_is_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        text = await settle(pilot)
        for word in ("✓ updated", "✗ upgrade failed", "↩ rolled back", "○ offline"):
            assert word in text
        colours = {
            segment.style.color.triplet
            for strip in app.screen._compositor.render_strips()
            for segment in strip.apply_filter(app._filters[0], app.screen.background_colors[1])
            if segment.style and segment.style.color and segment.style.color.triplet
        }
        assert all(len(set(colour)) == 1 for colour in colours)


@pytest.mark.parametrize("room", [20, 40, 79, 80, 119, 200])
def test_columns_never_take_more_than_there_is(room: int) -> None:
    given = widths(COLUMNS, room)
    shown = [width for width in given if width]
    assert sum(shown) + GAP * (len(shown) - 1) <= room
    assert all(c.least <= w <= c.most for c, w in zip(COLUMNS, given, strict=True) if w) or room < 40


def test_the_least_important_column_gives_way_first() -> None:
    columns = [Column("A", 5, 5), Column("B", 5, 9, rank=1), Column("C", 5, 5, rank=2)]
    assert widths(columns, 17) == [5, 5, 5]
    assert widths(columns, 16) == [5, 9, 0]
    assert widths(columns, 10) == [5, 0, 0]
    assert widths(columns, 3) == [3, 0, 0]


@pytest.mark.parametrize("width", [1, 2, 5, 9, 30])
@pytest.mark.parametrize(
    "text", ["", "plain", "日本語テキスト", "a\nb\tc", "\u202e" * 9, "e\u0301" * 9, "x" * 999]
)
def test_a_cell_is_exactly_as_wide_as_it_should_be(text: str, width: int) -> None:

    assert cell_len(fitted(text, width)) == width


def test_what_does_not_fit_hangs_below_its_beginning_and_keeps_its_colours() -> None:
    line = [Cell("12:00  ", "grey"), Cell("one two  ", "red"), Cell("three " + "x" * 25, "blue")]
    shown = [[(cell.text, cell.colour) for cell in cells] for cells in hanging(line, 27)]
    assert shown == [
        [("12:00  ", "grey"), ("one ", "red"), ("two  ", "red"), ("three ", "blue"), ("x" * 5, "blue")],
        [(" " * 7, ""), ("x" * 20, "blue")],
    ]
    assert hanging(line, 80) == [line]

"""Mouse, clipboard, picture and palette, and what devices send on every screen: done as a person does it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tui.driving import screen_text, second, settle, type_text
from tests.tui.stage import COMPONENT, Stage
from tests.tui.trouble import managed, troubled
from textual.pilot import Pilot

from fleetfoot_protocol.topics import Kind
from fleetfoot_tui.app import Console
from fleetfoot_tui.look import LONGEST
from fleetfoot_tui.screens.grid import Grid
from fleetfoot_tui.table import LineTable

SIZE = (100, 30)


def place_of(text: str, word: str) -> tuple[int, int]:
    """Where a word stands on the screen: column and line."""
    for y, line in enumerate(text.splitlines()):
        if (x := line.find(word)) >= 0:
            return x, y
    raise AssertionError(f"no {word} on the screen:\n{text}")


async def click(pilot: Pilot[Any], word: str, times: int = 1) -> str:
    """Click on a word."""
    assert isinstance(pilot.app, Console)
    assert await pilot.click(offset=place_of(screen_text(pilot.app), word), times=times)
    return await settle(pilot)


async def test_a_click_goes_there_a_second_one_opens_and_the_foot_can_be_clicked(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await click(pilot, "oven-07")
        assert app.screen.query_one(LineTable).cursor == "oven-07"
        text = await click(pilot, "oven-07", times=2)
        assert "Fleet ▸ oven-07" in text
        text = await click(pilot, "Back")
        assert "30 of 30 devices" in text
        assert "faults only" in await click(pilot, "Faults")


async def test_the_wheel_scrolls_and_a_click_below_the_last_row_is_none(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=(80, 24)) as pilot:
        before = await settle(pilot)
        assert "oven-29" not in before
        table = app.screen.query_one(LineTable)
        table.scroll_to(y=table.max_scroll_y, animate=False)
        text = await settle(pilot)
        assert "oven-29" in text
        await click(pilot, "oven-29")
        assert table.cursor == "oven-29"
        await pilot.press("f")
        await settle(pilot)
        here = table.cursor
        await pilot.click(offset=(5, 20), times=2)
        await settle(pilot)
        assert table.cursor == here
        assert app.screen.query(LineTable)


async def test_in_the_grid_a_click_goes_to_a_cell_and_a_second_one_opens_it(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=(80, 24)) as pilot:
        await second(pilot)
        await pilot.press("7")
        await second(pilot)
        grid = app.screen.query_one(Grid)
        await pilot.click(offset=(2, 5))
        await settle(pilot)
        assert grid.at == "oven-02"
        await pilot.click(offset=(2, 5), times=2)
        assert "Grid ▸ oven-02" in await settle(pilot)


async def test_a_window_is_answered_with_the_mouse(stage: Stage) -> None:
    troubled(stage)
    managed(stage)
    answer = stage.asker.answers["rollout.show"]
    stage.asker.answers["rollout.show"] = lambda asked: answer(asked) | {"total": 3}
    stage.asker.answers["rollout.decide"] = lambda asked: answer(asked) | {"revision": 8}
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("2", "down", "enter")
        await settle(pilot)
        await pilot.press("b")
        await settle(pilot)
        await click(pilot, "No, go back")
        assert stage.asker.of("rollout.decide") == []
        await pilot.press("b")
        await settle(pilot)
        await click(pilot, "y  Roll back")
        assert [asked["decision"] for asked in stage.asker.of("rollout.decide")] == ["rollback"]


async def test_the_id_of_a_device_is_copied(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await settle(pilot)
        await pilot.press("down", "y")
        assert "copied grill-06" in await settle(pilot)
        assert app.clipboard == "grill-06"


async def test_a_picture_is_written_and_one_that_cannot_be_is_said(stage: Stage, tmp_path: Path) -> None:
    troubled(stage)
    app = stage.console()
    app.folder = tmp_path
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await settle(pilot)
        await pilot.press("s")
        assert "picture in" in await settle(pilot)
        (picture,) = tmp_path.glob("*.svg")
        text = picture.read_text()
        assert text.startswith("<svg")
        assert "rolled&#160;back" in text
        assert "url(" not in text.replace("url(#", "")
        # The clock stands still, so that the name is the same: nothing is written over.
        await pilot.press("s")
        assert "no picture" in await settle(pilot)
        assert picture.read_text() == text
        assert stat_of(picture) == 1


def stat_of(path: Path) -> int:
    """How many pictures there are."""
    return len(list(path.parent.glob("*.svg")))


async def test_the_palette_goes_to_screens_and_changes_the_theme(stage: Stage) -> None:
    troubled(stage)
    managed(stage)
    app = stage.console()
    async with app.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("colon")
        await settle(pilot)
        await type_text(pilot, "audit")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await settle(pilot)
        assert "Fleet ▸ Audit" in await settle(pilot)
        await pilot.press("question_mark")
        assert ":  Palette" in await settle(pilot)


#: Markup, an escape sequence, text that runs from right to left, a bell, a line break, width without end.
EVIL = "[bold red]x[/]\x1b[2J\u202egnp\x07\n" + "é" * 500 + "x" * LONGEST


def hostile(stage: Stage) -> None:
    """Every text that a device, or whoever asked for something, can choose, is evil."""
    troubled(stage)
    managed(stage)
    part = stage.ended("1.2.0", "failed", "1.0.0", "upgrade_disk_full", "cause")
    said = json.loads(stage.status("oven-02", "ovens", part).payload())
    said["counter"] = 9
    said["labels"] = {"site": EVIL}
    said["alarms"] = [EVIL]
    said["agent"] = EVIL
    said["components"][COMPONENT]["last_error"] |= {"code": EVIL, "message": EVIL}
    stage.put(Kind.STATUS, json.dumps(said).encode(), group="ovens", device="oven-02")
    stage.event("upgrade_failed", "ovens", "oven-02", n=9, errorcode=EVIL, data={EVIL: EVIL, "message": EVIL})
    stage.event(EVIL, "ovens", "oven-02", n=10, severity=EVIL, component=EVIL)
    answers = stage.asker.answers
    for row in answers["rollout.list"]["rollouts"]:
        row["reason"] = row["requested_by"] = EVIL
    shown = answers["rollout.show"]
    causes = {"causes": [{"group": EVIL, "code": EVIL, "count": 3}], "reason": EVIL, "requested_by": EVIL}
    answers["rollout.show"] = lambda asked: shown(asked) | causes | _evil(shown(asked)["devices"])
    for release in answers["release.list"]["releases"]:
        release["notes"] = release["recalled"] = EVIL
    for compared in answers["release.compare"]["between"]:
        compared["notes"] = EVIL
    answers["rollout.plan"]["plan"]["refusing"][0]["reason"] = EVIL
    answers["rollout.plan"]["plan"]["warnings"] = [EVIL]
    entries = stage.audit
    entries[0] |= {"actor": EVIL[:40], "action": EVIL[:40], "data": json.dumps({EVIL: EVIL})}
    answers["audit.list"] = {"entries": entries[:1]}


def _evil(devices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"devices": [device | {"code": EVIL, "reason": EVIL} for device in devices]}


#: Keys that lead to a screen, from anywhere, and whether what is evil can be read on it.
WAYS = {
    "fleet": ("1 f", True),
    "device": ("1 f down enter", True),
    "grid": ("7 f down", True),
    "rollouts": ("2", False),
    "rollout": ("2 down enter", True),
    "question": ("2 down enter b", True),
    "releases": ("3", True),
    "compare": ("3 c", True),
    "approvals": ("4", False),
    "reject": ("4 down x", False),
    "events": ("5 w", True),
    "event": ("5 end enter", True),
    "audit": ("6", True),
    "entry": ("6 enter", True),
    "new": ("1 n tab 1 full_stop 2 full_stop 0 tab", True),
    "palette": ("1 colon", False),
}


@pytest.mark.parametrize("size", [(120, 40), (40, 10)], ids=["large", "small"])
async def test_what_others_write_is_shown_literally_on_every_screen(
    stage: Stage, size: tuple[int, int]
) -> None:
    hostile(stage)
    app = stage.console()
    async with app.run_test(size=size, notifications=True) as pilot:
        await second(pilot)
        for name, (keys, read) in WAYS.items():
            await pilot.press(*keys.split())
            if name in ("new", "palette"):
                await pilot.pause(0.4)
            text = await settle(pilot)
            assert not {"\x1b", "\u202e", "\x07"} & set(text), name
            assert max(map(len, text.splitlines())) <= size[0], name
            if read and size[0] > 100:
                assert "[bold red]" in text, f"{name}:\n{text}"
            await pilot.press(*["escape"] * 3)
        assert "0 dropped" in await second(pilot) or size[0] < 100
    assert len(EVIL) > LONGEST

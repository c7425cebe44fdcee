"""Every screen, with what hurts on it, as a picture: whoever changes how it looks has to look at it.

`make golden` draws them anew. They are kept as text: each line's characters and, below the screen,
runs of colour, so that a difference can be read in a review.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tui.driving import settle
from tests.tui.stage import Stage
from tests.tui.trouble import managed, troubled

from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui.app import Console
from fleetfoot_tui.pictures import self_contained
from fleetfoot_tui.room import Room

FOLDER = Path(__file__).parent / "pictures"
SIZES = ((80, 24), (120, 40))
SCREENS: dict[str, tuple[str, ...]] = {
    "fleet": (),
    "faults": ("f", "space"),
    "help": ("question_mark",),
    "device": ("f", "down", "enter"),
    "rollouts": ("2",),
    "rollout": ("2", "down", "enter"),
    "rollback": ("2", "down", "enter", "b"),
    "new-rollout": ("n", "tab", *"1.2.0".replace(".", "!"), "tab"),
    "releases": ("3",),
    "compare": ("3", "c"),
    "approvals": ("4",),
    "events": ("5", "w"),
    "audit": ("6",),
    "grid": ("7", "down", "right"),
    "lost": ("2", "down", "enter", "p"),
    "forged": ("6",),
    "refused": ("2", "down", "enter", "t", *"grills ovens", "enter"),
}


def _lost(stage: Stage) -> None:
    """The broker is gone while something is at work."""
    stage.link.connected = False
    stage.progress(state="running", reason="", revision=8)
    stage.asker.answers["rollout.show"] = FleetfootError("broker_unreachable", "the connection was lost")


def _forged(stage: Stage) -> None:
    """Somebody has changed an entry of the log."""
    entries = stage.audit
    entries[2]["actor"] = "mallory"
    stage.asker.answers["audit.list"] = {"entries": entries}


def _refused(stage: Stage) -> None:
    """The manager does not do it."""
    stage.asker.answers["rollout.retry"] = FleetfootError(
        "conflict", "the rollout is at revision 9, not 7", remedy="look at it again, then decide"
    )


#: What else has happened, to be seen on a screen.
CIRCUMSTANCES: dict[str, Callable[[Stage], None]] = {"lost": _lost, "forged": _forged, "refused": _refused}


def drawn(app: Console) -> str:
    """The screen as lines of text, then for each line where which colour begins."""
    strips = app.screen._compositor.render_strips()[: app.size.height]
    lines = ["".join(segment.text for segment in strip).rstrip() for strip in strips]
    colours = []
    for number, strip in enumerate(strips):
        column, last, runs = 0, "", []
        for segment in strip:
            style = segment.style
            now = f"{style.color.name if style and style.color else '-'}"
            now += f" on {style.bgcolor.name}" if style and style.bgcolor else ""
            now += " bold" if style and style.bold else ""
            if segment.text.strip() and now != last:
                runs.append(f"{column}:{now}")
                last = now
            column += segment.cell_length
        colours.append(f"{number:>2} {'  '.join(runs)}".rstrip())
    return "\n".join([*lines, "", *colours, ""])


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCREENS)
async def test_a_screen_looks_as_somebody_has_seen_it(stage: Stage, name: str, size: tuple[int, int]) -> None:
    text, picture = await look(stage, name, size)
    path = FOLDER / f"{name}-{size[0]}x{size[1]}.txt"
    if drawing := os.environ.get("FLEETFOOT_DRAW"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        Path(drawing).mkdir(parents=True, exist_ok=True)
        (Path(drawing) / f"{name}-{size[0]}x{size[1]}.svg").write_text(picture)
    assert text == path.read_text()
    assert "url(" not in picture.replace("url(#", "")


async def look(stage: Stage, name: str, size: tuple[int, int]) -> tuple[str, str]:
    """What is on the screen after its keys: as text and as SVG."""
    keys = SCREENS[name]
    troubled(stage)
    managed(stage)
    stage.audit_head()
    stage.event("rollout_started", "ovens", rollout="r-7k2m9x0a7c", data={"version": "1.2.0"})
    stage.event("upgrade_started", "ovens", "oven-02", n=2)
    remedy: dict[str, Any] = {"message": "exit status 1 twice", "remedy": "read the component's log"}
    code = "upgrade_boot_failed"
    stage.event(
        "upgrade_rolled_back", "ovens", "oven-02", n=3, severity="critical", errorcode=code, data=remedy
    )
    stage.event("circuit_breaker_tripped", "ovens", n=4, severity="critical", data={"reason": "1 failure"})
    app = stage.console()
    # Nothing happens by itself, and the age of the last message is no part of the picture.
    app.by_itself = False
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        app.every_second()
        await settle(pilot)
        stage.inbox.last = None
        app.tell_head()
        await settle(pilot)
        if name in CIRCUMSTANCES:
            CIRCUMSTANCES[name](stage)
            await settle(pilot)
            # Hours ago, so that it is the same when this test is slow; or it is no part of the picture.
            stage.inbox.last = time.monotonic() - 20_000 if name == "lost" else None
        for key in keys:
            await pilot.press({"!": "full_stop", " ": "space"}.get(key, key))
            await settle(pilot)
        if isinstance(app.screen, Room):
            app.screen.second()
        await settle(pilot)
        return drawn(app), self_contained(app.export_screenshot(simplify=True))

"""Pressing keys and reading the screen, as a person does."""

import time
from typing import Any

from textual.pilot import Pilot

from fleetfoot_tui.app import Console


def screen_text(app: Console) -> str:
    """What stands on the screen, line by line."""
    _width, height = app.size
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips[:height])


async def settle(pilot: Pilot[Any]) -> str:
    """Take in everything that waits, and draw it."""
    app = pilot.app
    assert isinstance(app, Console)
    app.tick()
    while len(app._inbox):
        app.tick()
    await pilot.pause()
    await app.workers.wait_for_complete()
    await pilot.pause()
    app.tick()
    await pilot.pause()
    # On a slow machine rows are chosen anew the later, the longer it took the last time.
    end = time.monotonic() + 30
    while getattr(app.screen, "_stale", False) and time.monotonic() < end:
        app.tick()
        await pilot.pause(0.01)
    return screen_text(app)


async def second(pilot: Pilot[Any]) -> str:
    """What happens once a second, now."""
    await settle(pilot)
    assert isinstance(pilot.app, Console)
    pilot.app.every_second()
    return await settle(pilot)


async def type_text(pilot: Pilot[Any], text: str) -> None:
    """Type a line."""
    names = {
        "[": "left_square_bracket",
        " ": "space",
        "/": "slash",
        "!": "exclamation_mark",
        "-": "minus",
        ":": "colon",
        ".": "full_stop",
    }
    await pilot.press(*(names.get(letter, letter) for letter in text))

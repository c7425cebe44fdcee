"""Pictures of the console, taken while the demo runs behind it, so that they show what there is to see.

The bad release has tripped; each screen is reached by keys and drawn once it shows what hurts; the decision
is taken by keys too.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fleetfoot_client.profiles import Profile
from fleetfoot_client.session import Session
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim.cast import GROUPS
from fleetfoot_sim.guided import Story

if TYPE_CHECKING:
    from fleetfoot_tui.app import Console

SIZE = (120, 36)
_PATIENCE = 90.0


class Portrait(NamedTuple):
    """A picture: the file's name, the keys that lead there from anywhere, what must stand on it before."""

    name: str
    keys: tuple[str, ...]
    words: tuple[str, ...]


class Hands(Protocol):
    """Who presses keys."""

    async def press(self, *keys: str) -> None:
        """One after the other."""
        ...

    async def pause(self) -> None:
        """Until what they brought is drawn."""
        ...


WHILE_TRIPPED = (
    Portrait("console-fleet", ("1", "o", "o"), ("rolled", "updated")),
    Portrait("console-grid", ("7",), ("kitchens", "updated")),
    Portrait("console-device", ("1", "home", "enter"), ("upgrade_", "meaning")),
    Portrait("console-rollout", ("2", "home", "enter"), ("tripped", "upgrade_", "probation")),
)


def take(folder: Path, profile: Profile, story: Story) -> None:
    """Draw them into the folder while the player waits for the decision, then decide."""
    asyncio.run(_take(folder, profile, story))


async def _take(folder: Path, profile: Profile, story: Story) -> None:
    from fleetfoot_tui.app import Console
    from fleetfoot_tui.feed import Feed

    with Session(profile) as session, Feed(profile) as feed:
        console = Console(session.root, feed, session, source=feed, operator=profile.operator)
        async with console.run_test(size=SIZE) as pilot:
            await _until(lambda: any("decision is yours" in said for said in story.said), "the decision")
            for portrait in WHILE_TRIPPED:
                await _press(pilot, portrait.keys)
                await _draw(console, pilot, portrait, folder)
            await _press(pilot, _decision(len(console.fleet.devices)))
            await _until(lambda: story.result is not None, "the end of the story")


def _decision(devices: int) -> tuple[str, ...]:
    """Keys that roll it back: confirmed by a letter, of many devices by typing the groups."""
    from fleetfoot_tui.dialogs import must_type

    typed = must_type(devices, " ".join(GROUPS))
    return ("b", *("space" if letter == " " else letter for letter in typed), "enter" if typed else "y")


async def _press(pilot: Hands, keys: tuple[str, ...]) -> None:
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


async def _draw(console: "Console", pilot: Hands, portrait: Portrait, folder: Path) -> None:
    from fleetfoot_tui.pictures import self_contained

    title = f"fleetfoot {console.fleet.root.fleet}"

    def picture() -> str:
        return self_contained(console.export_screenshot(title=title, simplify=True))

    await _until(lambda: all(word in picture() for word in portrait.words), f"what {portrait.name} shows")
    await pilot.pause()
    (folder / f"{portrait.name}.svg").write_text(picture(), encoding="utf-8")


async def _until(look: Callable[[], bool], what: str) -> None:
    for _ in range(int(_PATIENCE * 10)):
        if look():
            return
        await asyncio.sleep(0.1)
    raise FleetfootError("timeout", f"{what} was not seen within {_PATIENCE:g} s")


def into(folder: Path) -> Callable[[Profile, Story], None]:
    """`take`, as something to do once the fleet is up."""
    return partial(take, folder)

"""The demo behind a console: it plays in a process of its own, and a person watches and takes the decision.

The player prints a JSON object in each line: `{"say": text}`, `{"ready": profile}`, `{"result": figures}`;
after the last it stays until its input ends, so that one can look around.
"""

import json
import logging
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetfoot_client.profiles import Profile
from fleetfoot_client.session import Session
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim.demo import View
from fleetfoot_sim.interrupts import Interrupts
from fleetfoot_sim.processes import LineProcess

if TYPE_CHECKING:
    from fleetfoot_tui.app import Console

_PLAYER = ["-c", "import sys; from fleetfoot_client.cli import main; sys.exit(main())", "demo", "--told"]
#: Seconds until the fleet is up, at most; and those for which a line of the story stays on the screen.
_PATIENCE = 180.0
_SHOWN = 15.0


class Told:
    """The player's side: a display, and an audience that reads lines."""

    def __init__(self) -> None:
        self.last = View()
        self._told = 0
        self._step = ""

    def show(self, view: View) -> None:
        """Tell what is new; a step where nothing is told of it."""
        self.last = view
        new = [text for _, text in view.story[self._told :]]
        self._told = len(view.story)
        for text in new or ([view.step] if view.step != self._step else []):
            _tell("say", text)
        self._step = view.step

    def ready(self, profile: Profile) -> None:
        """The way to the fleet."""
        facts = {"broker": profile.broker, "operator": profile.operator}
        _tell("ready", facts | {"key": str(profile.key), "root": str(profile.root)})

    def ended(self, result: dict[str, Any]) -> None:
        """The figures; then until nobody looks any more."""
        _tell("result", result)
        sys.stdin.read()


def _tell(what: str, value: object) -> None:
    print(json.dumps({what: value}), flush=True)


class Story:
    """The audience's side: what the player says, before and while there is a console."""

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None
        self.profile: Profile | None = None
        self.console: Console | None = None
        #: Everything it has said.
        self.said: list[str] = []
        #: Nobody listens any more.
        self.over = False
        self._came = threading.Event()

    def take(self, line: str) -> None:
        """One line, on the thread that reads them."""
        said = json.loads(line)
        if "ready" in said:
            facts = said["ready"]
            key, root = Path(facts["key"]), Path(facts["root"])
            self.profile = Profile("demo", facts["broker"], facts["operator"], key, root)
            self._came.set()
        elif "result" in said:
            self.result = said["result"]
            self._show("That was the story. Look around as long as you like; ^q leaves and ends it all.")
        elif not self.over:
            self.said.append(str(said["say"]))
            if self.console is None:
                print(f"  {said['say']}", flush=True)
            else:
                self._show(str(said["say"]))

    def _show(self, text: str) -> None:
        console = self.console
        if console is not None and console.is_running:
            console.call_from_thread(partial(_put, console, text))

    def until_ready(self, player: LineProcess) -> Profile | None:
        """The way to the fleet once it is up; None if the player ended before."""
        for _ in range(int(_PATIENCE * 5)):
            if self._came.wait(0.2):
                break
            if player.process.poll() is not None:
                return None
        return self.profile


def _put(console: "Console", text: str) -> None:
    """The newest line of the story stands alone: where there are few lines, each covers what one looks at."""
    console.clear_notifications()
    console.notify(text, timeout=_SHOWN, markup=False)


def run(
    arguments: list[str], watch: Callable[[Profile, Story], None] | None = None
) -> tuple[int, dict[str, Any] | None]:
    """Play with these arguments behind a console: the exit code, and the figures if it came so far.

    watch: instead of the console and its person, once the fleet is up.
    """
    if watch is None:
        print("setting up a fleet on this machine; the console opens when it is there", flush=True)
    story = Story()
    with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="fleetfoot-guided-") as folder:
        log = Path(folder) / "player.log"
        with interrupts.held():
            player = LineProcess("demo", [*_PLAYER, *arguments], log, on_line=story.take)
        try:
            profile = story.until_ready(player)
            if profile is not None:
                (watch or _watched)(profile, story)
                print("ending everything that was started", flush=True)
        finally:
            story.over = True
            with interrupts.held():
                failed = player.process.poll()
                player.close()
        if profile is None or failed:
            sys.stderr.write(log.read_text(errors="replace"))
            return failed or 1, story.result
    return 0, story.result


def _watched(profile: Profile, story: Story) -> None:
    """The console, until the person leaves it."""
    from fleetfoot_tui import swift
    from fleetfoot_tui.app import Console
    from fleetfoot_tui.feed import Feed

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    swift.prepare()
    try:
        with Session(profile) as session, Feed(profile) as feed:
            story.console = Console(session.root, feed, session, source=feed, operator=profile.operator)
            story.console.run()
            story.console = None
    except FleetfootError as error:
        print(f"the console could not be opened: {error}", file=sys.stderr)
    finally:
        logging.disable(before)

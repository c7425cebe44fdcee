"""How the demo is shown where there is no console: plain lines, and its end as a picture."""

import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fleetfoot_protocol.states import BADGES, Lifecycle, Outcome, RolloutState
from fleetfoot_sim.demo import View
from fleetfoot_sim.scene import BAD, FIRST, GOOD

#: Version -> colour; told apart by glyph and number too.
_COLOURS = {FIRST: "grey62", GOOD: "dodger_blue1", BAD: "dark_orange"}
#: What a device does, in at most eight letters.
_STAGES: dict[str, str] = {
    Lifecycle.DOWNLOADING: "fetch",
    Lifecycle.VERIFYING: "verify",
    Lifecycle.STAGING: "unpack",
    Lifecycle.ACTIVATING: "switch",
    Lifecycle.PROBATION: "proving",
    Lifecycle.ROLLING_BACK: "return",
}
_STATE_COLOURS = {
    RolloutState.COMPLETED: "dodger_blue1",
    RolloutState.TRIPPED: "dark_orange",
    RolloutState.ROLLED_BACK: "dodger_blue1",
}


class Plain:
    """A line for each step and each change of a rollout."""

    def __init__(self, out: TextIO) -> None:
        self.last = View()
        self._out = out
        self._told = 0
        self._step = ""
        self._rollouts: dict[str, tuple[Any, ...]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _line(self, view: View, text: str) -> None:
        print(f"{view.seconds:5.1f} s  {text}", file=self._out, flush=True)

    def show(self, view: View) -> None:
        """Tell what is new."""
        self.last = view
        if view.step != self._step:
            self._step = view.step
            if len(view.story) == self._told:
                self._line(view, view.step)
        for _, text in view.story[self._told :]:
            self._line(view, text)
        self._told = len(view.story)
        for name, rollout in view.snapshot.get("rollouts", {}).items():
            seen = (rollout["state"], rollout["wave"])
            if self._rollouts.get(name) == seen:
                continue
            self._rollouts[name] = seen
            waves = rollout["waves"]
            reach = waves[rollout["wave"] - 1] if rollout["wave"] else 0
            why = f": {rollout['reason']}" if rollout["reason"] else ""
            self._line(
                view,
                f"  {rollout['version']} {rollout['state']}, wave {rollout['wave']} of {len(waves)}, "
                f"{reach} admitted{why}",
            )


def _cell(device: str, found: dict[str, str]) -> Text:
    state = found.get("state", Lifecycle.IDLE)
    version = found.get("version", "")
    badge = BADGES[state]
    if state == Lifecycle.IDLE:
        if found.get("last") == Outcome.ROLLED_BACK:
            return Text(
                f"{BADGES[Outcome.ROLLED_BACK].glyph} {version}", style=BADGES[Outcome.ROLLED_BACK].colour
            )
        glyph = BADGES[Outcome.COMPLETED].glyph if version else badge.glyph
        return Text(f"{glyph} {version or '-'}", style=_COLOURS.get(version, "grey62"))
    return Text(f"{badge.glyph} {_STAGES.get(state, badge.word)}", style=badge.colour)


def _grid(view: View) -> RenderableType:
    cells = view.snapshot.get("devices", {})
    table = Table.grid(padding=(0, 2))
    for group in sorted({group for _, group in view.members}):
        members = [device for device, where in view.members if where == group]
        table.add_row(Text(f"{group} ({len(members)})", style="bold"))
        for start in range(0, len(members), 8):
            row = Text()
            for device in members[start : start + 8]:
                cell = _cell(device, cells.get(device, {}))
                cell.truncate(10, pad=True)
                row.append_text(cell).append(" ")
            table.add_row(row)
    return table


def _strip(rollout: dict[str, Any]) -> Text:
    """The waves of a rollout as boxes, open ones filled."""
    text = Text()
    for index, size in enumerate(rollout["waves"], start=1):
        opened = index <= rollout["wave"]
        text.append(f" {'■' if opened else '□'} {size:>3} ", style="bold" if opened else "grey62")
    return text


def _rollouts(view: View) -> RenderableType:
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="grey62")
    for name in ("rollout", "waves", "state", "devices"):
        table.add_column(name, no_wrap=name != "state")
    for rollout in view.snapshot.get("rollouts", {}).values():
        counts = ", ".join(f"{n} {word.replace('_', ' ')}" for word, n in rollout["counts"].items() if n)
        table.add_row(
            Text(f"kiosk {rollout['version']}", style=_COLOURS.get(rollout["version"], "")),
            _strip(rollout),
            Text(rollout["state"].replace("_", " "), style=_STATE_COLOURS.get(rollout["state"], "")),
            Text(counts),
        )
    return table


def _legend() -> Text:
    """What the glyphs in the grid mean."""
    text = Text()
    meanings = {
        BADGES[Outcome.COMPLETED]: "healthy",
        BADGES[Lifecycle.PROBATION]: "at work",
        BADGES[Outcome.ROLLED_BACK]: f"tried {BAD} and came back by itself",
    }
    for badge, meaning in meanings.items():
        text.append(f"{badge.glyph} {meaning}   ", style="grey62")
    return text


def body(view: View) -> RenderableType:
    """Devices, rollouts and the story so far."""
    story = Text("\n").join(Text(f"{at:5.0f} s  {line}") for at, line in view.story)
    return Group(_grid(view), Text(), _legend(), Text(), _rollouts(view), Text(), story)


def epilogue(result: dict[str, Any], keep: Path | None) -> str:
    """What was seen, and what to do for a first real device."""
    good, bad = result["good"], result["bad"]
    waves = ", ".join(str(n) for n in good["waves"])
    final = ", ".join(f"{count} on {version}" for version, count in result["final"].items())
    kept = f"\nEverything is kept in {keep}: keys, releases, devices, logs.\n" if keep else ""
    path = "" if shutil.which("fleetfoot") else f'  export PATH="{Path(sys.executable).parent}:$PATH"\n'
    return f"""
What was seen, counted by a process that only subscribed:
  {good["version"]} reached {good["completed"]} devices in waves of {waves}
  {bad["version"]} was begun by {bad["started"]}, {bad["rolled_back"]} came back by themselves; it \
{"tripped" if bad["tripped"] else "did not trip"}, and {bad["untouched"]} devices never began it
  in the end: {final}   ({result["seconds"]} s)
{kept}
A first real device, in an empty folder:
{path}\
  fleetfoot key new root.key; fleetfoot key new release.key; fleetfoot key new me.key
  fleetfoot manager init --dir manager --operator me=me.key.pub
  fleetfoot trust init --request manager/root-request.json --root-key root.key \\
    --release-key release.key.pub --out root.json
  fleetfoot manager run --dir manager --root root.json &
  fleetfoot-agent init --dir device --device dev-001 --group lab --component app \\
    --broker mqtt://127.0.0.1 --root root.json --enable
Each says what comes next; README.md has the whole road.
"""

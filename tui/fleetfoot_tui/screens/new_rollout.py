"""A new rollout: what is wished for, and the plan as it would be, before anything begins."""

import argparse
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from textual import on
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Label

from fleetfoot_client import options
from fleetfoot_client.commands import rollout_text
from fleetfoot_client.commands.rollout_arguments import wave_list
from fleetfoot_client.rows import PlanRow, parse
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui.dialogs import Confirm, Deed, must_type
from fleetfoot_tui.look import Cell
from fleetfoot_tui.messages import Answered, Refused
from fleetfoot_tui.room import Page, Room, facts
from fleetfoot_tui.screens.rollout import RolloutRoom

#: Lines of the form: name, label, example.
_FORM = (
    (("component", "component", "kiosk"), ("version", "version", "1.2.0")),
    (("groups", "groups", "ovens grills"),),
    (("waves", "waves", "10%,50%,100%"), ("batches", "or batches", "20% or 50")),
    (("settle", "settle", "5m"), ("breaker", "trips at", "1")),
    (("canaries", "canaries", "oven-3 grill-1"), ("stage", "staging", "first or only")),
)
_FIELDS = tuple(field for line in _FORM for field in line)
#: What the manager is asked for -> the option of `fleetfoot rollout start`.
_OPTIONS = {
    "component": "--component",
    "version": "--version",
    "groups": "--group",
    "waves": "--waves",
    "batch_pct": "--batch-percent",
    "batch_size": "--batch-size",
    "settle": "--settle",
    "breaker": "--breaker",
    "canaries": "--canary",
    "stage": "--stage",
}
_PACE: tuple[tuple[str, Callable[[str], Any]], ...] = (
    ("waves", wave_list),
    ("settle", options.duration),
    ("breaker", options.natural),
)
_PATIENCE = 0.3
_LISTED = 8
_WAVES = 8


class Wish(ValueError):
    """What is missing or wrong in the form."""


def wishes(values: dict[str, str]) -> dict[str, Any]:
    """The arguments of `rollout.plan`. Wish says what is missing, or cannot be understood."""
    found: dict[str, Any] = {}
    for name in ("component", "version"):
        if not values[name]:
            raise Wish(f"{name} is missing")
        found[name] = values[name]
    found["groups"] = values["groups"].replace(",", " ").split()
    if not found["groups"]:
        raise Wish("no group is named")
    if values["canaries"]:
        found["canaries"] = values["canaries"].replace(",", " ").split()
    if values["stage"]:
        if values["stage"] not in rollout_text.STAGING:
            raise Wish("staging: first (everybody stages before the first wave) or only (and waits then)")
        found["stage"] = values["stage"]
    return found | _batches(values) | pace(values)


def _batches(values: dict[str, str]) -> dict[str, Any]:
    """Batches of percent or of devices."""
    said = values["batches"]
    if not said:
        return {}
    if values["waves"]:
        raise Wish("either waves or batches")
    name, number = ("batch_pct", said[:-1]) if said.endswith("%") else ("batch_size", said)
    try:
        return {name: options.positive(number)}
    except argparse.ArgumentTypeError as error:
        raise Wish(f"batches: {error}") from None


def command(asked: dict[str, Any]) -> str:
    """The command that starts the same."""
    words = ["fleetfoot", "rollout", "start"]
    for name, value in asked.items():
        if name == "waves":
            value = ",".join(map(str, value))
        for one in value if isinstance(value, list) else [value]:
            words += [_OPTIONS[name], f"{one:g}s" if name == "settle" else str(one)]
    return shlex.join(words)


def pace(values: dict[str, str]) -> dict[str, Any]:
    """Waves, settle and breaker, as far as they are said. Wish where one cannot be understood."""
    found: dict[str, Any] = {}
    for name, read in _PACE:
        if values.get(name):
            try:
                found[name] = read(values[name])
            except argparse.ArgumentTypeError as error:
                raise Wish(f"{name}: {error}") from None
    return found


class NewRolloutRoom(Room):
    """The form and the plan."""

    ABOUT = "Fill in what you wish: the manager plans it at once, and tells who would refuse. ctrl+s starts."
    BINDINGS = [Binding("ctrl+s", "start", "Start", id="rollout.start", priority=True)]
    AUTO_FOCUS = "Input"
    DEFAULT_CSS = """
    NewRolloutRoom #form { height: 5; }
    NewRolloutRoom #form Horizontal { height: 1; }
    NewRolloutRoom Label { width: 12; color: $text-muted; }
    NewRolloutRoom Input { width: 1fr; }
    """

    def __init__(self, **given: str) -> None:
        super().__init__()
        self._given = given
        self._timer: Timer | None = None
        self._asked: dict[str, Any] = {}
        self.plan: PlanRow | None = None
        self.reason = "component is missing"

    @property
    def crumb(self) -> str:
        """New rollout."""
        return "New rollout"

    def body(self) -> Iterable[Widget]:
        """Fields, then the plan."""
        with VerticalScroll(id="form", can_focus=False):
            for line in _FORM:
                with Horizontal():
                    for name, label, example in line:
                        yield Label(label, markup=False)
                        yield Input(self._given.get(name, ""), placeholder=example, id=name, compact=True)
        with VerticalScroll(can_focus=False):
            yield Page(id="plan")

    def renew(self) -> None:
        """Plan what stands in the form."""
        self._consider()

    @on(Input.Changed)
    def _typed(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._forbid("planning …")
        self._timer = self.set_timer(_PATIENCE, self._consider)

    @on(Input.Submitted)
    def _next(self) -> None:
        self.focus_next(Input)

    def _consider(self) -> None:
        try:
            values = {name: self.query_one(f"#{name}", Input).value.strip() for name, *_ in _FIELDS}
            self._asked = wishes(values)
        except Wish as wish:
            self._forbid(str(wish))
            return
        self._forbid("planning …")
        self.ask(f"plan {self._asked!r}", "rollout.plan", self._asked)

    def on_answered(self, message: Answered) -> None:
        """A plan, or the rollout that has begun."""
        if message.tag == "start":
            name = str(message.result.get("rollout"))
            self.notify(f"rollout {name}: {message.result.get('state')}", markup=False)
            self.app.switch_screen(RolloutRoom(name))
            return
        if message.tag != f"plan {self._asked!r}":
            return
        try:
            self.plan = parse(PlanRow, message.result.get("plan"))
        except FleetfootError as error:
            self._forbid(error.message)
            return
        self.reason = "" if self.plan.total else "no device would be in it"
        self._draw()

    def refused(self, message: Refused) -> None:
        """A plan that cannot be is the reason why it cannot start."""
        if message.tag == "start":
            self.console.show_error(message.error)
        elif message.tag == f"plan {self._asked!r}":
            error = message.error
            self._forbid(f"{error.message} ({error.code})" + (f". {error.remedy}" if error.remedy else ""))

    def _forbid(self, reason: str) -> None:
        self.plan, self.reason = None, reason
        self._draw()

    def _draw(self) -> None:
        self.refresh_bindings()
        self.query_one("#plan", Page).update(self.paint(self._lines()))

    def _lines(self) -> Iterable[list[Cell]]:
        yield []
        if self.reason:
            yield [Cell("Start is not possible: ", "grey"), Cell(self.reason, "yellow")]
        plan = self.plan
        if plan is None:
            return
        if not self.reason:
            yield [Cell("ctrl+s starts it", "bold"), Cell("; nothing has begun", "grey")]
        yield []
        refusing = max(plan.refusing_count, len(plan.refusing))
        already = max(plan.already_count, len(plan.already))
        yield from facts(
            [
                ("devices", f"{plan.total}" + (f", {already} have it already" if already else "")),
                (plan.strategy or "waves", _sizes(plan.waves)),
                ("canaries", " ".join(plan.canaries)),
                ("staging", rollout_text.STAGING.get(plan.stage, plan.stage)),
                ("settle", f"{plan.settle:g} s after each wave"),
                ("trips at", rollout_text.trips(plan)),
                ("approval", Cell(rollout_text.approval(plan), "yellow")),
                ("takes about", rollout_text.estimate(plan)),
                ("refusing", Cell(f"{refusing} would", "orange") if refusing else "nobody, as far as known"),
            ]
        )
        for one in plan.refusing[:_LISTED]:
            yield [Cell(f"  {one.device:20} "), Cell(f"{one.code} ", "orange"), Cell(one.reason, "grey")]
        if refusing > _LISTED:
            yield [Cell(f"  and {refusing - min(_LISTED, len(plan.refusing))} more", "grey")]
        for warning in plan.warnings:
            yield [Cell("mind: ", "grey"), Cell(warning, "yellow")]
        yield [Cell("as command  ", "grey"), Cell(command(self._asked))]
        for note in plan.notes:
            yield [Cell(f"noted {note.at[:10]} by {note.author}: ", "grey"), Cell(note.title)]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Start is shown, and grey while something forbids it."""
        if action == "start":
            return True if self.plan is not None and not self.reason else None
        return True

    def action_start(self) -> None:
        """Ask, then start."""
        plan = self.plan
        if plan is None or self.reason:
            return
        groups = " ".join(plan.groups)
        waves = _sizes(plan.waves)
        deed = Deed(
            f"Start the rollout of {plan.component} {plan.version}?",
            (
                ("devices", str(plan.total)),
                ("version", plan.version),
                ("groups", groups),
                (plan.strategy or "waves", waves),
            ),
            "Start",
            must_type(plan.total, groups),
        )
        self.app.push_screen(Confirm(deed), self._start)

    def _start(self, sure: bool | None) -> None:
        if sure:
            self.ask("start", "rollout.start", self._asked)


def _sizes(waves: tuple[int, ...]) -> str:
    """Cumulative sizes; of many, the first and the last."""
    return " ▸ ".join(map(str, waves if len(waves) <= _WAVES else (*waves[: _WAVES - 1], "…", waves[-1])))

"""A new rollout: what is wished for, and the plan as it would be, before anything begins."""

from collections.abc import Iterable
from typing import Any

from textual import on
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Label

from fleetfoot_client.commands import rollout_text
from fleetfoot_client.rows import PlanRow, parse
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui.dialogs import Confirm, Deed, must_type
from fleetfoot_tui.look import Cell
from fleetfoot_tui.messages import Answered, Refused
from fleetfoot_tui.room import Page, Room, facts
from fleetfoot_tui.screens.rollout import RolloutRoom
from fleetfoot_tui.wishes import FIELDS, FORM, Wish, command, wishes

_PATIENCE = 0.3
_LISTED = 8
_WAVES = 8
#: Columns of a name, in the form as in the plan.
_NAME = 13


class NewRolloutRoom(Room):
    """The form and the plan."""

    ABOUT = "Fill in what you wish: the manager plans it at once, and tells who would refuse. ctrl+s starts."
    BINDINGS = [Binding("ctrl+s", "start", "Start", id="rollout.start", priority=True)]
    AUTO_FOCUS = "Input"
    #: Two fields beside each other where there is room for both.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (66, "-wide")]
    DEFAULT_CSS = """
    NewRolloutRoom #form { height: auto; max-height: 46%; scrollbar-size-vertical: 1; }
    NewRolloutRoom #form Horizontal { height: auto; }
    NewRolloutRoom.-narrow #form .line { layout: vertical; }
    NewRolloutRoom Label { width: 13; color: $text-muted; }
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
            for line in FORM:
                with Horizontal(classes="line"):
                    for field in map(FIELDS.__getitem__, line):
                        with Horizontal():
                            yield Label(field.label, markup=False)
                            given = self._given.get(field.name, "")
                            yield Input(given, placeholder=field.example, id=field.name, compact=True)
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
            self._asked = wishes({n: self.query_one(f"#{n}", Input).value.strip() for n in FIELDS})
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
        nobody = "" if self.plan.total else "no device would be in it"
        self.reason = "this console is read-only" if self.console.read_only else self.plan.blocked or nobody
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
        refusing = max(plan.refusing_count, len(plan.refusing))
        yield from facts(_told(plan, refusing), width=_NAME)
        for one in plan.refusing[:_LISTED]:
            yield [Cell(f"  {one.device:20} ", "grey"), Cell(f"{one.code} ", "orange"), Cell(one.reason)]
        if refusing > _LISTED:
            yield [Cell(f"  and {refusing - min(_LISTED, len(plan.refusing))} more", "grey")]
        for warning in plan.warnings:
            yield [Cell("mind: ", "grey"), Cell(warning, "yellow")]
        yield [Cell("as command".ljust(_NAME), "grey"), Cell(command(self._asked))]
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
                *([("newer ones", "go down to it")] if plan.mode == "exactly" else []),
                *([("supersedes", " ".join(plan.supersedes))] if plan.supersedes else []),
            ),
            "Start",
            must_type(plan.total, groups),
        )
        self.app.push_screen(Confirm(deed), self._start)

    def _start(self, sure: bool | None) -> None:
        if sure:
            self.ask("start", "rollout.start", self._asked)


def _told(plan: PlanRow, refusing: int) -> Iterable[tuple[str, str | Cell]]:
    """What the plan says; what is as usual is not said."""
    already = max(plan.already_count, len(plan.already))
    skipped = ", not waited for" if plan.offline_policy == "skip" else ""
    yield "devices", f"{plan.total}" + (f", {already} have it already" if already else "")
    yield "by way of", " then ".join(plan.chain)
    yield plan.strategy or "waves", _sizes(plan.waves)
    yield "canaries", " ".join(plan.canaries)
    yield "staging", rollout_text.STAGING.get(plan.stage, plan.stage)
    yield "settle", f"{plan.settle:g} s after each wave" if len(plan.waves) > 1 else ""
    yield "trips at", rollout_text.trips(plan)
    yield "needs", f"{plan.min_successes} successes in each wave" if plan.min_successes > 1 else ""
    yield "approval", Cell(rollout_text.approval(plan), "yellow")
    yield "newer ones", _newer(plan)
    yield "supersedes", Cell(" ".join(plan.supersedes), "yellow")
    yield "offline now", f"{plan.offline_count}{skipped}" if plan.offline_count else ""
    yield "priority", str(plan.priority or "")
    yield "expires", plan.expires
    yield "takes about", rollout_text.estimate(plan)
    yield "refusing", Cell(f"{refusing} would", "orange") if refusing else "nobody, as far as known"


def _newer(plan: PlanRow) -> str | Cell:
    if plan.mode == "exactly":
        return Cell("go down to it", "yellow")
    return f"{plan.ahead_count} stay as they are" if plan.ahead_count else ""


def _sizes(waves: tuple[int, ...]) -> str:
    """Cumulative sizes; of many, the first and the last."""
    return " ▸ ".join(map(str, waves if len(waves) <= _WAVES else (*waves[: _WAVES - 1], "…", waves[-1])))

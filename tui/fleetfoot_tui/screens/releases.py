"""The catalogue: every release with its life, and what may be made of it."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from rich.text import Text
from textual.binding import Binding
from textual.widget import Widget

from fleetfoot_client.rows import ComparedRow, ReleaseRow, parse, parse_list
from fleetfoot_client.terminal import bytes_text
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui.columns import Column
from fleetfoot_tui.dialogs import Ask, Confirm, Deed, Field, Paper
from fleetfoot_tui.look import Cell, safe
from fleetfoot_tui.messages import Answered, Chosen, Pointed, Refused
from fleetfoot_tui.room import Page, Room, facts
from fleetfoot_tui.screens.new_rollout import NewRolloutRoom
from fleetfoot_tui.table import LineTable

COLUMNS = (
    Column("COMPONENT", 10, 20),
    Column("VERSION", 10, 20),
    Column("LIFE", 11, 11),
    Column("CHANNEL", 7, 10, rank=1),
    Column("RUN BY", 6, 6),
    Column("PLATFORMS", 14, 40, rank=2),
    Column("CREATED", 10, 10, rank=3),
)
_LIVES = {
    "draft": Cell("· draft", "grey"),
    "published": Cell("○ published", "yellow"),
    "blessed": Cell("◐ blessed", "cyan"),
    "live": Cell("● live", "blue"),
    "archived": Cell("- archived", "grey"),
}
_NEXT = {"published": "blessed", "blessed": "live"}


class ReleasesRoom(Room):
    """Releases; the one under the cursor below, in words."""

    ABOUT = (
        "published: single devices only; blessed and live: whole groups; archived: nobody. "
        "A recall withdraws a release everywhere until it is lifted."
    )
    BINDINGS = [
        Binding("p", "promote", "Promote", id="release.promote"),
        Binding("x", "archive", "Archive", id="release.archive"),
        Binding("r", "recall", "Recall", id="release.recall"),
        Binding("l", "lift", "Lift recall", id="release.lift"),
        Binding("c", "compare", "Compare", id="release.compare"),
        Binding("n", "new", "New rollout", id="rollout.new"),
    ]
    DEFAULT_CSS = "ReleasesRoom #about { height: 8; max-height: 35%; border-top: solid $surface-lighten-2; }"

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, ReleaseRow] = {}
        self._wrong = ""

    @property
    def crumb(self) -> str:
        """Releases."""
        return "Releases"

    def body(self) -> Iterable[Widget]:
        """Releases, and words about one."""
        yield LineTable(COLUMNS, self._cells, empty=" No release was published yet.")
        yield Page(id="about")

    def renew(self) -> None:
        """Ask for the catalogue."""
        self.ask("list", "release.list")
        self._tell()

    @property
    def row(self) -> ReleaseRow | None:
        """The release under the cursor."""
        return self._rows.get(self.query_one(LineTable).cursor or "")

    def on_answered(self, message: Answered) -> None:
        """The catalogue, or what became of an act."""
        if message.tag == "compare":
            self._compared(message.result)
            return
        if message.tag != "list":
            self.notify(f"{message.tag}: done", markup=False)
            self.ask("list", "release.list")
            return
        try:
            rows = parse_list(ReleaseRow, message.result, "releases")
        except FleetfootError as error:
            self.console.show_error(error)
            return
        self._rows = {row.digest: row for row in rows}
        self._wrong = ""
        table = self.query_one(LineTable)
        table.show(list(self._rows))
        table.dirty()
        self._tell()

    def refused(self, message: Refused) -> None:
        """Of the list: said below; of an act: in a window."""
        if message.tag == "list":
            self._wrong = message.error.message
            self._tell()
        else:
            self.console.show_error(message.error)

    def on_pointed(self, message: Pointed) -> None:
        """Another release."""
        self._tell()

    def _cells(self, key: str) -> Sequence[Cell]:
        row = self._rows[key]
        life = Cell("✗ recalled", "red") if row.recalled else _LIVES.get(row.life, Cell(row.life))
        run_by = self.fleet.versions.get(row.version, 0)
        return (
            Cell(row.component),
            Cell(row.version),
            life,
            Cell(row.channel, "grey"),
            Cell(str(run_by).rjust(6), "" if run_by else "grey"),
            Cell(" ".join(row.platforms), "grey"),
            Cell(row.created[:10], "grey"),
        )

    def _tell(self) -> None:
        self.refresh_bindings()
        row = self.row
        lines: list[list[Cell]] = [[Cell(self._wrong, "yellow")]] if self._wrong else []
        if row is not None:
            lines += facts(
                [
                    ("recalled", Cell(row.recalled, "red")),
                    ("digest", row.digest),
                    ("size", bytes_text(row.length)),
                    ("counter", f"{row.counter}" + (f", floor {row.min_counter}" if row.min_counter else "")),
                    ("notes", row.notes),
                ]
            )
        self.query_one("#about", Page).update(self.paint(lines))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What the life of the release permits."""
        row = self.row
        match action:
            case "promote":
                return row is not None and row.life in _NEXT and not row.recalled
            case "archive":
                return row is not None and row.life != "archived"
            case "recall":
                return row is not None and not row.recalled
            case "compare":
                return row is not None and bool(self._other(row))
            case "lift":
                return row is not None and bool(row.recalled)
        return True

    def _names(self, row: ReleaseRow) -> dict[str, str]:
        return {"component": row.component, "version": row.version}

    def _other(self, row: ReleaseRow) -> str:
        """What to compare with: of its component, the version that most devices run, else the one before."""
        others = [one for one in self._rows.values() if one.component == row.component and one != row]
        running = max(others, key=lambda one: self.fleet.versions.get(one.version, 0), default=None)
        if running is not None and self.fleet.versions.get(running.version, 0):
            return running.version
        before = max(
            (one for one in others if one.counter < row.counter), key=lambda o: o.counter, default=None
        )
        return before.version if before is not None else ""

    def action_compare(self) -> None:
        """With what the fleet runs: notes between, sizes by platform."""
        row = self.row
        if row is not None and (other := self._other(row)):
            named = {"component": row.component, "version": other, "to": row.version}
            self.ask("compare", "release.compare", named)

    def _compared(self, result: dict[str, Any]) -> None:
        try:
            both = parse(ComparedRow, result)
        except FleetfootError as error:
            self.console.show_error(error)
            return
        text = Text()
        for one in both.platforms:
            sizes = [bytes_text(n) if n is not None else "-" for n in (one.from_length, one.to_length)]
            same = "  the same artifact" if one.same else ""
            text.append(f"{safe(one.platform):16} {sizes[0]:>10} ▸ {sizes[1]:>10}{same}\n")
        for step in both.between:
            recalled = f" (recalled: {step.recalled})" if step.recalled else ""
            text.append(f"\n{safe(step.version + recalled)}\n", "bold")
            text.append(f"{safe(step.notes) or 'no notes'}\n")
        title = f"{both.component} {both.older.version} ▸ {both.newer.version}"
        self.app.push_screen(Paper(title, text))

    def action_promote(self) -> None:
        """One life further."""
        row = self.row
        if row is not None:
            life = _NEXT[row.life]
            facts_of = (("version", f"{row.component} {row.version}"), ("from", row.life), ("to", life))
            deed = Deed(f"Promote {row.component} {row.version} to {life}?", facts_of, "Promote")
            self._confirmed(deed, "promote", self._names(row) | {"to": life})

    def action_archive(self) -> None:
        """Nobody gets it any more."""
        row = self.row
        if row is not None:
            deed = Deed(f"Archive {row.component} {row.version}?", self._facts(row), "Archive")
            self._confirmed(deed, "archive", self._names(row))

    def action_recall(self) -> None:
        """Everybody who runs it goes back; the reason is asked for first."""
        row = self.row
        if row is not None:
            fields = [Field("reason", "Reason, shown to everybody who asks for the release")]
            about = f"Recall {row.component} {row.version}"
            self.app.push_screen(Ask(about, fields), partial(self._recall, row))

    def _recall(self, row: ReleaseRow, said: dict[str, str] | None) -> None:
        if said is None or not said["reason"]:
            return
        deed = Deed(
            f"Recall {row.component} {row.version} everywhere?",
            (*self._facts(row), ("reason", said["reason"])),
            "Recall",
            row.version if self.fleet.versions.get(row.version, 0) > 20 else "",
        )
        self._confirmed(deed, "recall", self._names(row) | said)

    def action_lift(self) -> None:
        """Take a recall back."""
        row = self.row
        if row is not None:
            deed = Deed(f"Lift the recall of {row.component} {row.version}?", self._facts(row), "Lift")
            self._confirmed(deed, "lift", self._names(row))

    def _facts(self, row: ReleaseRow) -> tuple[tuple[str, str], ...]:
        count = self.fleet.versions.get(row.version, 0)
        return (
            ("devices", f"{count} run it"),
            ("version", f"{row.component} {row.version}"),
            ("groups", "all"),
        )

    def _confirmed(self, deed: Deed, what: str, arguments: dict[str, str]) -> None:
        def done(sure: bool | None) -> None:
            if sure:
                self.ask(what, f"release.{what}", arguments)

        self.app.push_screen(Confirm(deed), done)

    def on_chosen(self, message: Chosen) -> None:
        """Plan a rollout of it."""
        self.action_new()

    def action_new(self) -> None:
        """Plan a rollout of it."""
        row = self.row
        if row is not None:
            self.app.push_screen(NewRolloutRoom(component=row.component, version=row.version))

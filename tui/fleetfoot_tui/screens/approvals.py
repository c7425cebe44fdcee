"""What waits for approval, and giving it, perhaps gentler than asked, or refusing it."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from textual.binding import Binding
from textual.widget import Widget

from fleetfoot_client.rows import RolloutRow, parse_list
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState
from fleetfoot_tui import waves
from fleetfoot_tui.columns import Column
from fleetfoot_tui.dialogs import Ask, Confirm, Deed, Field, must_type
from fleetfoot_tui.look import Cell
from fleetfoot_tui.messages import Answered, Chosen, Refused
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room
from fleetfoot_tui.screens.rollout import RolloutRoom
from fleetfoot_tui.table import LineTable
from fleetfoot_tui.wishes import PACE, Wish, read

COLUMNS = (
    Column("ROLLOUT", 12, 14),
    Column("UPGRADE", 12, 24),
    Column("GROUPS", 10, 30),
    Column("DEVICES", 7, 7),
    Column("FOR", 9, 12),
    Column("SO FAR", 11, 24),
    Column("WAVES", 12, 30, rank=1),
)
_AGAIN = 5


class ApprovalsRoom(Room):
    """Rollouts that await approval, of their start or of their next wave. The manager is asked for them."""

    ABOUT = (
        "Rollouts that wait for approval, to start or for their next wave. "
        "e approves with smaller waves, longer settle, earlier trip."
    )
    BINDINGS = [
        Binding("a", "approve", "Approve", id="approval.approve"),
        Binding("e", "edit", "Approve with edit", id="approval.edit"),
        Binding("x", "reject", "Reject", id="approval.reject"),
    ]
    DEFAULT_CSS = "ApprovalsRoom #about { height: 2; }"

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, RolloutRow] = {}
        self._wrong = ""
        self._seconds = 0

    @property
    def crumb(self) -> str:
        """Approvals."""
        return "Approvals"

    def body(self) -> Iterable[Widget]:
        """How many, and which."""
        yield Page(id="about")
        yield LineTable(COLUMNS, self._cells, empty=" Nothing waits for approval.")

    def renew(self) -> None:
        """Ask."""
        self.ask("list", "rollout.list", {"state": "active"})

    def notice(self, changes: Changes) -> None:
        """Events of planned or approved rollouts."""
        if changes.kinds & {"rollouts", "events"}:
            self.renew()

    def second(self) -> None:
        """Ask again now and then: an event may have been lost."""
        self._seconds += 1
        if self._seconds % _AGAIN == 0:
            self.renew()

    @property
    def row(self) -> RolloutRow | None:
        """The rollout under the cursor."""
        return self._rows.get(self.query_one(LineTable).cursor or "")

    def on_answered(self, message: Answered) -> None:
        """What waits, or what became of an act."""
        if message.tag != "list":
            state = str(message.result.get("state", "")).replace("_", " ")
            self.notify(f"{message.tag}: it is {state}", markup=False)
            self.renew()
            return
        try:
            rows = parse_list(RolloutRow, message.result, "rollouts")
        except FleetfootError as error:
            self.console.show_error(error)
            return
        self._wrong = ""
        self._rows = {row.rollout: row for row in rows if row.awaits == "approval"}
        self._show()

    def refused(self, message: Refused) -> None:
        """Of the list: said on top; of an act: in a window."""
        if message.tag == "list":
            self._wrong = message.error.message
            self._show()
        else:
            self.console.show_error(message.error)

    def _show(self) -> None:
        table = self.query_one(LineTable)
        table.show(sorted(self._rows))
        table.dirty()
        lines = [
            [Cell(f"{len(self._rows)} await{'s'[: len(self._rows) == 1]} approval", "bold")],
            [Cell(self._wrong, "yellow")],
        ]
        self.query_one("#about", Page).update(self.paint(lines))
        self.refresh_bindings()

    def _cells(self, key: str) -> Sequence[Cell]:
        row = self._rows[key]
        return (
            Cell(row.rollout),
            Cell(f"{row.component} {row.version}"),
            Cell(" ".join(row.groups), "grey"),
            Cell(str(row.total).rjust(7)),
            Cell(_what(row)),
            waves.tally(row),
            Cell(" ▸ ".join(map(str, row.waves))),
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There has to be something to decide on."""
        if action == "edit":
            return self.row is not None and not _begun(self.row)
        return self.row is not None if action in ("approve", "reject") else True

    def on_chosen(self, message: Chosen) -> None:
        """Into the rollout."""
        self.app.push_screen(RolloutRoom(message.key))

    def action_approve(self) -> None:
        """As it was asked for."""
        if self.row is not None:
            self._approve(self.row, {})

    def action_edit(self) -> None:
        """Gentler than asked for."""
        row = self.row
        if row is not None:
            sizes = ",".join(map(str, row.waves))
            batches = row.strategy == "batches"
            fields = [
                Field("batches", "batches, at most as large as asked for", "", "20% or 50")
                if batches
                else Field("waves", "waves, at most those asked for", sizes, "1,3,30"),
                Field("settle", "settle, at least as long", "", "as asked"),
                Field("breaker", "trips at, no later", "", "as asked"),
                Field("failure_percent", "trips above so many percent, no later", "", "as asked"),
            ]
            self.app.push_screen(Ask(f"Approve {row.rollout} gentler", fields), partial(self._edited, row))

    def _edited(self, row: RolloutRow, said: dict[str, str] | None) -> None:
        if said is None:
            return
        if said.get("waves") == ",".join(map(str, row.waves)):
            said["waves"] = ""
        try:
            self._approve(row, read(said, PACE))
        except Wish as wish:
            self.notify(str(wish), severity="warning", markup=False)

    def _approve(self, row: RolloutRow, edits: dict[str, Any]) -> None:
        groups = " ".join(row.groups)
        deed = Deed(
            f"Approve {_what(row)} of {row.rollout}? It opens at once."
            if _begun(row)
            else f"Approve rollout {row.rollout}? It starts at once.",
            (
                ("devices", str(row.total)),
                ("version", f"{row.component} {row.version}"),
                ("groups", groups),
                *((name, str(value)) for name, value in edits.items()),
            ),
            "Approve",
            must_type(row.total, groups),
        )

        def done(sure: bool | None) -> None:
            if sure:
                arguments = {"rollout": row.rollout, **edits}
                self.ask("approved", "rollout.approve", arguments, revision=row.revision)

        self.app.push_screen(Confirm(deed), done)

    def action_reject(self) -> None:
        """With a reason."""
        row = self.row
        if row is not None:
            fields = [Field("reason", "Reason, shown to whoever asked")]
            self.app.push_screen(Ask(f"Reject {row.rollout}", fields), partial(self._reject, row))

    def _reject(self, row: RolloutRow, said: dict[str, str] | None) -> None:
        if said is not None and said["reason"]:
            arguments = {"rollout": row.rollout, **said}
            self.ask("rejected", "rollout.reject", arguments, revision=row.revision)


def _begun(row: RolloutRow) -> bool:
    """Whether it is the next wave that waits: a rollout that has begun is changed no more."""
    return row.state == RolloutState.PAUSED


def _what(row: RolloutRow) -> str:
    return f"wave {row.wave + 1}/{len(row.waves)}" if _begun(row) else "its start"

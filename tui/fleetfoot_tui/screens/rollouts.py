"""All rollouts: those that go on first, then how the last ones went."""

from collections.abc import Iterable, Sequence

from textual.binding import Binding
from textual.widget import Widget

from fleetfoot_client.rows import RateRow, RolloutRow, parse, parse_list
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState
from fleetfoot_tui import waves
from fleetfoot_tui.columns import Column
from fleetfoot_tui.look import Cell, plural, rollout_badge
from fleetfoot_tui.messages import Answered, Chosen, Refused
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room
from fleetfoot_tui.screens.new_rollout import NewRolloutRoom
from fleetfoot_tui.screens.rollout import RolloutRoom, told
from fleetfoot_tui.table import LineTable

COLUMNS = (
    Column("ROLLOUT", 12, 14),
    Column("UPGRADE", 12, 24),
    Column("GROUPS", 14, 24, rank=1),
    Column("STATE", 19, 19),
    Column("WAVE", 5, 5),
    Column("DEVICES", 12, 60),
    Column("STARTED", 20, 20, rank=2),
)


class RolloutsRoom(Room):
    """Active rollouts and history."""

    ABOUT = "Rollouts that go on first, then ended ones. Progress comes signed over the broker."
    BINDINGS = [Binding("n", "new", "New rollout", id="rollout.new")]
    DEFAULT_CSS = "RolloutsRoom #rates { height: 2; }"

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, RolloutRow] = {}
        self._rates: list[Cell] = []
        self._wrong = ""

    @property
    def crumb(self) -> str:
        """Rollouts."""
        return "Rollouts"

    def body(self) -> Iterable[Widget]:
        """Success rates, and a line for each rollout."""
        yield Page(id="rates")
        yield LineTable(COLUMNS, self._cells, empty=" No rollouts yet: n begins one.")

    def renew(self) -> None:
        """What is signed at once; then the manager's list and history."""
        self._show()
        self.ask("list", "rollout.list", {"state": "all"})
        self.ask("history", "rollout.history")

    def notice(self, changes: Changes) -> None:
        """New progress."""
        if "rollouts" in changes.kinds:
            self._show()

    def on_answered(self, message: Answered) -> None:
        """The list, or the history."""
        try:
            if message.tag == "list":
                rows = parse_list(RolloutRow, message.result, "rollouts")
                self._rows |= {row.rollout: row for row in rows}
            else:
                self._rates = _rates(message.result)
        except FleetfootError as error:
            self._wrong = error.message
        else:
            self._wrong = ""
        self._show()

    def refused(self, message: Refused) -> None:
        """What is signed is shown all the same."""
        self._wrong = message.error.message
        self._show()

    def _show(self) -> None:
        for name, progress in self.fleet.rollouts.items():
            known = self._rows.get(name)
            if known is None or known.revision < progress.revision:
                self._rows[name] = told(progress, known)
        active = [row for row in self._rows.values() if not _ended(row)]
        ended = [row for row in self._rows.values() if _ended(row)]
        order = [
            row.rollout
            for rows in (active, ended)
            for row in sorted(rows, key=lambda r: (r.started, r.rollout), reverse=True)
        ]
        table = self.query_one(LineTable)
        table.show(order, lead=True)
        table.dirty()
        first = [Cell(_how_many(len(active), len(ended)), "bold")]
        second = [Cell(self._wrong, "yellow")] if self._wrong else self._rates
        self.query_one("#rates", Page).update(self.paint([first, second]))

    def _cells(self, key: str) -> Sequence[Cell]:
        row = self._rows[key]
        return (
            Cell(row.rollout),
            Cell(f"{row.component} {row.version}"),
            Cell(" ".join(row.groups), "grey"),
            rollout_badge(row.state),
            Cell(f"{row.wave}/{len(row.waves)}"),
            waves.tally(row),
            Cell(row.started, "grey"),
        )

    def on_chosen(self, message: Chosen) -> None:
        """Into the rollout."""
        self.app.push_screen(RolloutRoom(message.key))

    def action_new(self) -> None:
        """Plan one."""
        self.app.push_screen(NewRolloutRoom())


def _how_many(active: int, ended: int) -> str:
    return f"{active} {'goes' if active == 1 else 'go'} on, {ended} {'has' if ended == 1 else 'have'} ended"


def _ended(row: RolloutRow) -> bool:
    return row.state in {state for state in RolloutState if state.ended}


def _rates(result: dict[str, object]) -> list[Cell]:
    """`devices that got well  kiosk 92 % in 12 rollouts`."""
    found = result.get("components")
    cells = [Cell("devices that got well  ", "grey")]
    for name, value in list(found.items())[:4] if isinstance(found, dict) else ():
        rate = parse(RateRow, value)
        share = "-" if rate.success_percent is None else f"{rate.success_percent} %"
        good = rate.success_percent is None or rate.success_percent >= 90
        cells.append(Cell(f"{name} {share}", "blue" if good else "orange"))
        cells.append(Cell(f" in {plural(rate.rollouts, 'rollout')}   ", "grey"))
    return cells if len(cells) > 1 else []

"""Events as they happen: the tail follows, unless somebody looks at something."""

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence

from textual import on
from textual.binding import Binding
from textual.widget import Widget
from textual.widgets import Input

from fleetfoot_tui.columns import Column
from fleetfoot_tui.dialogs import Paper, explained
from fleetfoot_tui.happenings import Happening
from fleetfoot_tui.look import Cell, severity
from fleetfoot_tui.messages import Chosen
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room, facts
from fleetfoot_tui.table import LineTable

COLUMNS = (
    Column("TIME", 8, 8),
    Column("SEVERITY", 8, 8, rank=2),
    Column("EVENT", 26, 26),
    Column("WHO", 18, 24),
    Column("CODE", 12, 20, rank=1),
    Column("DETAILS", 12, 200, rank=3),
)


class EventsRoom(Room):
    """What devices and rollouts tell. Not signed: for people; what is decided is decided by statuses."""

    ABOUT = (
        "Events since this console was started. They are not signed, and decide nothing. While the cursor is "
        "on the last line, it follows; space holds the view still; enter shows one whole."
    )
    BINDINGS = [
        Binding("slash", "filter", "Filter", key_display="/", id="events.filter"),
        Binding("space", "pause", "Pause", id="events.pause"),
        Binding("w", "wrap", "Whole lines", id="events.wrap"),
        Binding("e", "export", "Export", id="events.export"),
    ]
    DEFAULT_CSS = """
    EventsRoom #about { height: 1; }
    EventsRoom #whole { height: 5; display: none; border-top: solid $surface-lighten-2; }
    EventsRoom #filter { dock: bottom; margin-bottom: 1; height: 1; border: none; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Happening] = {}
        self._paused = False
        self._filter = ""

    @property
    def crumb(self) -> str:
        """Events."""
        return "Events"

    def body(self) -> Iterable[Widget]:
        """State of the view, events, one of them whole."""
        yield Page(id="about")
        yield LineTable(COLUMNS, self._cells, empty=" Nothing has happened since the console was started.")
        yield Page(id="whole")
        field = Input(placeholder="regular expression, !inverse", id="filter", compact=True)
        field.display = False
        yield field

    def renew(self) -> None:
        """All that match."""
        wanted = self._wanted()
        found = [event for event in self.fleet.events if wanted is None or wanted(event)]
        table = self.query_one(LineTable)
        follows = not table.keys or table.place == len(table.keys) - 1
        self._shown = {str(event.number): event for event in found}
        table.show(list(self._shown))
        if follows:
            table.action_end(1)
        self._tell()

    def notice(self, changes: Changes) -> None:
        """New ones, unless the view is held still."""
        if "events" in changes.kinds:
            if self._paused:
                self._tell()
            else:
                self.renew()

    def _wanted(self) -> Callable[[Happening], bool] | None:
        text = self._filter
        if not text:
            return None
        inverse = len(text) > 1 and text.startswith("!")
        try:
            search = re.compile(text[1:] if inverse else text, re.IGNORECASE).search
        except re.error:
            return None
        return lambda event: (search(event.text) is None) is inverse

    def _tell(self) -> None:
        waiting = sum(1 for event in self.fleet.events if str(event.number) not in self._shown)
        cells = [Cell(f"{len(self._shown)} of {self.fleet.seen_events} events", "bold")]
        if self._filter:
            cells.append(Cell(f"  /{self._filter}", "cyan"))
        if self._paused:
            cells.append(Cell(f"  = held still, {waiting} not shown", "yellow"))
        self.query_one("#about", Page).update(self.paint([cells]))
        event = self._shown.get(self.query_one(LineTable).cursor or "")
        if event is not None:
            self.query_one("#whole", Page).update(self.paint(facts([("details", event.told)])))

    def on_pointed(self) -> None:
        """Another one."""
        self._tell()

    def _cells(self, key: str) -> Sequence[Cell]:
        event = self._shown[key]
        colour = severity(event.severity)
        return (
            Cell(event.time[11:19] if len(event.time) >= 19 else event.time, "grey"),
            Cell(event.severity, colour),
            Cell(event.kind, colour),
            Cell(f"{event.group}/{event.who}" if event.who else event.group),
            Cell(event.code.removeprefix("upgrade_"), "orange"),
            Cell(event.told, "grey"),
        )

    def action_filter(self) -> None:
        """Type a filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        # At once: what is typed next belongs into the field.
        self.set_focus(field)

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        self._filter = event.value
        self.renew()

    @on(Input.Submitted, "#filter")
    def _leave(self) -> None:
        self.query_one("#filter", Input).display = False
        self.set_focus(self.query_one(LineTable))

    def action_back(self) -> None:
        """The filter first, then the screen."""
        field = self.query_one("#filter", Input)
        if field.display or self._filter:
            field.value = ""
            self._leave()
            self.renew()
        else:
            super().action_back()

    def action_pause(self) -> None:
        """Hold the view still, or let it go on."""
        self._paused = not self._paused
        if self._paused:
            self._tell()
        else:
            self.renew()

    def action_wrap(self) -> None:
        """The details of the event under the cursor, wrapped, below."""
        whole = self.query_one("#whole", Page)
        whole.display = not whole.display
        self._tell()

    def on_chosen(self, message: Chosen) -> None:
        """One event, whole, with what to do."""
        event = self._shown.get(message.key)
        if event is not None:
            text = explained(event.code, "", event.remedy) if event.code else self.paint([[]])
            text.append("\n\n").append(self.paint([[Cell(event.raw.decode(errors="replace"))]]))
            self.app.push_screen(Paper(f"{event.kind} {event.time}", text))

    def action_export(self) -> None:
        """What is shown, as JSON lines, in a new file."""
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.console.now()))
        path = self.console.folder / f"fleetfoot-events-{moment}.jsonl"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(b" ".join(event.raw.split(b"\n")) + b"\n" for event in self._shown.values())
        except OSError as error:
            self.notify(f"not written: {path}: {error.strerror}", severity="error", markup=False)
        else:
            self.notify(f"{len(self._shown)} events in {path}", markup=False)

"""What every screen shares: head, foot, the way back, help, and asking the manager."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from rich.cells import cell_len, chop_cells
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from fleetfoot_tui.head import Head
from fleetfoot_tui.look import Cell, safe, style
from fleetfoot_tui.messages import Refused
from fleetfoot_tui.model import Changes, Fleet

if TYPE_CHECKING:
    from fleetfoot_tui.app import Console

#: What a scrollbar may take of the width.
_BAR = 3
Lines = Iterable[Iterable[Cell]]


class Room(Screen[None]):
    """A screen of the console. Subclasses say their `crumb` and `body`, and take notice of changes."""

    BINDINGS = [
        Binding("escape", "back", "Back", id="back"),
        Binding("question_mark", "app.help", "Help", key_display="?", id="help"),
    ]
    AUTO_FOCUS = "LineTable"
    #: What the screen is for, in a sentence or two; `?` shows it above the keys.
    ABOUT = ""

    #: Whether its widgets are there: until then nothing may be drawn into them.
    prepared = False
    _resumed = False

    @property
    def console(self) -> "Console":
        """The app."""
        return cast("Console", self.app)

    @property
    def fleet(self) -> Fleet:
        """The model."""
        return self.console.fleet

    @property
    def crumb(self) -> str:
        """Its name in the breadcrumbs."""
        return type(self).__name__

    def body(self) -> Iterable[Widget]:
        """The widgets between head and foot."""
        return ()

    def compose(self) -> ComposeResult:
        """Head, body, foot."""
        yield Head(markup=False)
        yield from self.body()
        yield Footer(show_command_palette=False, compact=True)

    def on_screen_resume(self) -> None:
        """Shown (again): nothing may be stale."""
        self._resumed = True
        if self.prepared:
            self.console.tell_head()
            self.renew()

    def on_mount(self) -> None:
        """Its widgets are there."""
        self.prepared = True
        if self._resumed:
            self.on_screen_resume()

    def renew(self) -> None:
        """Draw everything anew."""

    def notice(self, changes: Changes) -> None:
        """What has changed, up to ten times a second, while the screen is shown."""

    def watched(self) -> Iterable[str]:
        """Devices that somebody looks at: what they say is taken in before what others say."""
        return ()

    def second(self) -> None:
        """Once a second while the screen is shown: ages and countdowns."""

    def action_back(self) -> None:
        """The screen before."""
        self.console.back()

    def ask(
        self,
        tag: str,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
    ) -> None:
        """Ask the manager; `Answered` or `Refused` comes to this screen, under the tag."""
        self.console.ask(self, tag, verb, arguments, revision=revision)

    def on_refused(self, message: Refused) -> None:
        """The toolkit calls the handler of every base class: so there is this one alone."""
        self.refused(message)

    def refused(self, message: Refused) -> None:
        """Code, cause and remedy, if the screen has nothing better to do with a refusal."""
        self.console.show_error(message.error)

    def paint(self, lines: Lines) -> Text:
        """Lines of cells as text; whatever is in them is shown literally."""
        dark = self.app.current_theme.dark
        text = Text()
        every = [line for cells in lines for line in hanging(list(cells), self.size.width - _BAR)]
        for place, cells in enumerate(every):
            text.append("\n" if place else "")
            for cell in cells:
                text.append(safe(cell.text), style(cell.colour, dark=dark))
        return text


def hanging(cells: list[Cell], width: int) -> list[list[Cell]]:
    """A grey name and what does not fit behind it: wrapped, so that the name stands alone on its left."""
    if len(cells) < 2 or cells[0].colour != "grey":
        return [cells]
    name, *values = cells
    indent = cell_len(name.text)
    room = width - indent
    if room < 20 or sum(cell_len(safe(cell.text)) for cell in values) <= room:
        return [cells]
    lines, left = [[name]], room
    for cell in values:
        for word in re.findall(r"\s*\S+\s*|\s+", safe(cell.text)):
            # One that no line could hold begins where there is room, in pieces.
            pieces = [word]
            if cell_len(word.rstrip()) > room:
                first = chop_cells(word, max(2, left))[0]
                pieces = [first, *chop_cells(word[len(first) :], room)]
            for piece in pieces:
                if cell_len(piece.rstrip()) > left:
                    lines.append([Cell(" " * indent)])
                    left = room
                lines[-1].append(Cell(piece, cell.colour))
                left -= cell_len(piece)
    return lines


def packed(cells: Iterable[Cell], width: int, gap: int = 2) -> list[list[Cell]]:
    """Cells behind each other, in as many lines as they need; none is broken."""
    lines: list[list[Cell]] = [[]]
    left = width
    for cell in cells:
        if lines[-1] and len(cell.text) > left:
            lines.append([])
            left = width
        lines[-1] += [cell, Cell(" " * gap)]
        left -= len(cell.text) + gap
    return lines


class Page(Static):
    """Text of a screen that is written anew as a whole."""

    DEFAULT_CSS = "Page { height: auto; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)


def facts(pairs: Iterable[tuple[str, str | Cell]], *, width: int = 12) -> list[list[Cell]]:
    """`name  value` lines; those without a value are left out."""
    lines = []
    for name, value in pairs:
        cell = value if isinstance(value, Cell) else Cell(value)
        if cell.text:
            lines.append([Cell(name.ljust(width), "grey"), cell])
    return lines

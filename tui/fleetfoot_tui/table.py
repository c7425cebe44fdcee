"""A table on the line API: any number of rows, of which only those on the screen cost anything.

Rows are known by key; their cells are asked for when a line is drawn and kept until the row is said to be
dirty. Only dirty lines on the screen are drawn again.
"""

from collections.abc import Callable, Iterable, Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from fleetfoot_tui.columns import GAP, Column, widths
from fleetfoot_tui.look import Cell, fitted, style
from fleetfoot_tui.messages import Chosen, Pointed

_KEPT = 2000
Row = Callable[[str], Sequence[Cell]]


class LineTable(ScrollView, can_focus=True):
    """Rows under a heading. `row` gives the cells of a key, one for each column."""

    BINDINGS = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "page(-1)", show=False),
        Binding("pagedown,ctrl+f", "page(1)", show=False),
        Binding("home,g", "end(-1)", show=False),
        Binding("end,G", "end(1)", show=False),
        Binding("enter", "choose", "Open", key_display="↵", id="open"),
    ]
    DEFAULT_CSS = """
    LineTable { height: 1fr; background: $background; overflow-x: hidden; scrollbar-size-vertical: 1;
        scrollbar-gutter: stable; }
    """

    def __init__(
        self, columns: Sequence[Column], row: Row, *, empty: str = "", id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.columns = list(columns)
        self.keys: list[str] = []
        self.marks: set[str] = set()
        self.empty = empty
        #: Lines drawn since the start, for whoever measures.
        self.drawn = 0
        self._row = row
        self._cursor = 0
        self._moved = False
        self._strips: dict[str, Strip] = {}
        self._heading: Strip | None = None
        self._widths: list[int] = []

    # -- what it shows

    @property
    def cursor(self) -> str | None:
        """The key under the cursor."""
        return self.keys[self._cursor] if self.keys else None

    @property
    def place(self) -> int:
        """The number of the row under the cursor."""
        return self._cursor

    def show(self, keys: list[str], *, lead: bool = False) -> None:
        """Show these rows in this order; the cursor stays on its row, or near where it was.

        lead: a cursor on the first row stays there, whichever that is: the newest is what matters. So does
        one that nobody has moved yet: while a fleet comes in, it would end up anywhere.
        """
        before = None if self._cursor == 0 and (lead or not self._moved) else self.cursor
        self.keys = keys
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        place = self._place_of(before) if before is not None else None
        self._point(place if place is not None else min(self._cursor, max(0, len(keys) - 1)))
        self.refresh()

    def dirty(self, keys: Iterable[str] | None = None) -> None:
        """These rows have changed, or all of them: draw again what of them is on the screen."""
        if keys is None:
            self._strips.clear()
            self.refresh()
            return
        changed = set(keys)
        for key in changed:
            self._strips.pop(key, None)
        top = round(self.scroll_y)
        for line in range(self.size.height - 1):
            place = top + line
            if place < len(self.keys) and self.keys[place] in changed:
                self.refresh(Region(0, line + 1, self.size.width, 1))

    def on_screen(self) -> list[str]:
        """Keys of the rows that are on the screen."""
        top = round(self.scroll_y)
        return self.keys[top : top + max(0, self.size.height - 1)]

    def go(self, key: str) -> None:
        """Put the cursor on a row, if it is shown."""
        place = self._place_of(key)
        if place is not None:
            self._go_to(place)

    def _place_of(self, key: str) -> int | None:
        try:
            return self.keys.index(key)
        except ValueError:
            return None

    # -- drawing

    def notify_style_update(self) -> None:
        """Another theme: nothing that was drawn is right."""
        super().notify_style_update()
        self._strips.clear()
        self._heading = None

    def on_resize(self, event: events.Resize) -> None:
        """Another width: other columns."""
        self._strips.clear()
        self._heading = None
        self.virtual_size = Size(self.size.width, len(self.keys) + 1)
        self._keep_in_sight()

    def render_line(self, y: int) -> Strip:
        """The heading, or the row that the scroll offset puts on this line."""
        width = self.scrollable_content_region.width
        if self._heading is None or self._heading.cell_length != width:
            self._strips.clear()
            self._widths = widths(self.columns, width)
            self._heading = self._strip([Cell(column.title, "title") for column in self.columns], width)
        base = self.rich_style
        if y == 0:
            return self._heading.apply_style(base)
        place = round(self.scroll_y) + y - 1
        if place >= len(self.keys):
            text = self.empty if not self.keys and y == 2 else ""
            return Strip([Segment(fitted(text, width), base + self._style("grey"))], width)
        key = self.keys[place]
        strip = self._strips.get(key)
        if strip is None:
            if len(self._strips) > _KEPT:
                self._strips.clear()
            strip = self._strips[key] = self._strip(self._row(key), width)
            self.drawn += 1
        if key in self.marks:
            strip = strip.apply_style(base + Style(bold=True))
        if place == self._cursor:
            return self._readable(strip).apply_style(base + self._here())
        return strip.apply_style(base)

    def _strip(self, cells: Sequence[Cell], width: int) -> Strip:
        segments = []
        for cell, room in zip(cells, self._widths, strict=True):
            if room:
                segments.append(Segment(fitted(cell.text, room), self._style(cell.colour)))
                segments.append(Segment(" " * GAP))
        return Strip(segments).adjust_cell_length(width)

    def _here(self) -> Style:
        """Where the cursor is, told by the background, so that the colours of a row stay what they mean."""
        dark = self.app.current_theme.dark
        strong = "#1f4f7f" if dark else "#bcd9f5"
        return Style(bgcolor=strong if self.has_focus else "#444444" if dark else "#d0d0d0", bold=True)

    def _readable(self, strip: Strip) -> Strip:
        """What is grey elsewhere would not be read on the colour of the cursor."""
        grey, plain = self._style("grey"), self._style("")
        return Strip([Segment(text, plain if own == grey else own) for text, own, _ in strip])

    def _style(self, colour: str) -> Style:
        return style(colour, dark=self.app.current_theme.dark)

    # -- moving

    def action_move(self, step: int) -> None:
        """One row up or down."""
        self._go_to(self._cursor + step)

    def action_page(self, step: int) -> None:
        """One page up or down."""
        self._go_to(self._cursor + step * max(1, self.size.height - 2))

    def action_end(self, step: int) -> None:
        """The first or the last row."""
        self._go_to(0 if step < 0 else len(self.keys) - 1)

    def action_choose(self) -> None:
        """Enter."""
        if self.cursor is not None:
            self.post_message(Chosen(self.cursor))

    def on_click(self, event: events.Click) -> None:
        """The first click goes there, a second one opens."""
        place = round(self.scroll_y) + event.y - 1
        if event.y < 1 or place >= len(self.keys):
            return
        if place == self._cursor and event.chain > 1:
            self.action_choose()
        self._go_to(place)

    def _go_to(self, place: int) -> None:
        """Somebody wants to be there."""
        self._moved = True
        self._point(place)

    def _point(self, place: int) -> None:
        place = max(0, min(place, len(self.keys) - 1))
        before, self._cursor = self._cursor, place
        self._keep_in_sight()
        if before != place:
            top = round(self.scroll_y)
            for row in (before, place):
                self.refresh(Region(0, row - top + 1, self.size.width, 1))
        if self.keys:
            self.post_message(Pointed(self.keys[place]))

    def _keep_in_sight(self) -> None:
        height = max(1, self.size.height - 1)
        top = round(self.scroll_y)
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False)

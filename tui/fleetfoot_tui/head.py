"""The two lines on top of every screen: where one is, and whether what one sees can be trusted."""

from dataclasses import dataclass

from rich.text import Text
from textual.widgets import Static

from fleetfoot_tui.look import Cell, ago, safe, style


@dataclass(frozen=True, slots=True)
class Health:
    """How the way to the fleet is. `silence`: seconds since the last message, None before the first.

    manager: what it says of itself on the broker, None if nothing; engine: `running`, `paused`, `stuck` (it
    does not answer), or empty while it was not asked.
    """

    broker: bool
    manager: bool | None = None
    engine: str = ""
    silence: float | None = None
    dropped: int = 0
    read_only: bool = False
    recording: bool = False


def health_cells(health: Health) -> list[Cell]:
    """The second line, piece by piece."""
    if health.recording:
        cells = [Cell("▷ recording", "cyan")]
    elif health.broker:
        cells = [Cell("✓ broker", "blue")]
    else:
        cells = [Cell("✗ broker lost, below is what was known", "red")]
    if health.manager is not None:
        word = "✓ manager" if health.manager else "✗ manager offline"
        cells.append(Cell(word, "blue" if health.manager else "red"))
    else:
        cells.append(Cell("? manager", "yellow"))
    if health.engine:
        fine = health.engine == "running"
        cells.append(Cell(f"{'✓' if fine else '✗'} engine {health.engine}", "blue" if fine else "orange"))
    if health.silence is not None:
        cells.append(Cell(f"last message {ago(health.silence)} ago", "grey"))
    cells.append(Cell(f"{health.dropped} dropped", "orange" if health.dropped else "grey"))
    if health.read_only:
        cells.append(Cell("read-only", "yellow"))
    return cells


def line(cells: list[Cell], *, dark: bool, gap: str = "  ") -> Text:
    """Cells behind each other as one line of text."""
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    for place, cell in enumerate(cells):
        text.append(gap if place else "")
        text.append(safe(cell.text), style(cell.colour, dark=dark))
    return text


class Head(Static):
    """Breadcrumbs and health. Told by the app once a second, and whenever a screen comes up."""

    DEFAULT_CSS = "Head { dock: top; height: 2; background: $surface; }"

    def tell(self, crumbs: list[str], health: Health) -> None:
        """Show it."""
        dark = self.app.current_theme.dark
        where = [Cell(crumb, "bold" if crumb is crumbs[-1] else "grey") for crumb in crumbs]
        top = line(where, dark=dark, gap=" ▸ ")
        self.update(Text("\n").join([top, line(health_cells(health), dark=dark)]))

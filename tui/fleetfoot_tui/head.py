"""The two lines on top of every screen: where one is, and whether what one sees can be trusted."""

from dataclasses import dataclass

from rich.text import Text
from textual.widgets import Static

from fleetfoot_tui.look import Cell, ago, safe, style

#: What the manager says of its engine -> mark and colour; anything else is as bad as stuck.
_ENGINE = {"running": ("✓", "blue"), "paused": ("=", "yellow")}


@dataclass(frozen=True, slots=True)
class Health:
    """How the way to the fleet is. `silence`: seconds since the last message, None before the first.

    manager: what it says of itself on the broker, None if nothing; engine: `running`, `paused`, `stuck` (it
    does not answer), or empty while it was not asked; waiting: rollouts that wait for a person's act; ever:
    whether the broker was there at all; trouble: what it refused; acts: those without an answer.
    """

    broker: bool
    manager: bool | None = None
    engine: str = ""
    engine_note: str = ""
    silence: float | None = None
    dropped: int = 0
    read_only: bool = False
    recording: bool = False
    waiting: int = 0
    ever: bool = True
    trouble: str = ""
    acts: tuple[tuple[str, float], ...] = ()


def health_cells(health: Health) -> list[Cell]:
    """The second line, piece by piece. Nothing that was true once is said as if it still were."""
    cells = [_broker(health)]
    if not health.broker or health.manager is None:
        cells.append(Cell("? manager", "yellow"))
    else:
        word = "✓ manager" if health.manager else "✗ manager offline"
        cells.append(Cell(word, "blue" if health.manager else "red"))
    if health.broker and health.manager and health.engine:
        mark, colour = _ENGINE.get(health.engine, ("✗", "orange"))
        cells.append(Cell(f"{mark} engine {health.engine} {health.engine_note}".rstrip(), colour))
    if health.acts:
        cells.append(_unanswered(health))
    if health.waiting and health.broker and health.manager:
        verb = "waits" if health.waiting == 1 else "wait"
        cells.append(Cell(f"… {health.waiting} {verb} for a person", "yellow"))
    if health.silence is not None:
        cells.append(Cell(f"last message {ago(health.silence)} ago", "grey"))
    cells.append(Cell(f"{health.dropped} dropped", "orange" if health.dropped else "grey"))
    if health.read_only:
        cells.append(Cell("read-only", "yellow"))
    return cells


def _broker(health: Health) -> Cell:
    if health.recording:
        return Cell("▷ recording", "cyan")
    if health.trouble:
        return Cell(f"✗ broker: {health.trouble}", "red")
    if health.broker:
        return Cell("✓ broker", "blue")
    return Cell("✗ broker lost, below is what was known" if health.ever else "✗ no broker yet, trying", "red")


def _unanswered(health: Health) -> Cell:
    """What was signed and has no answer: it waits for the broker, or for the manager."""
    name, seconds = health.acts[0]
    more = f" and {len(health.acts) - 1} more" if health.acts[1:] else ""
    whom = "manager" if health.broker else "broker"
    return Cell(f"… {name}{more}: waits for the {whom}, {ago(seconds)}", "yellow")


#: What gives way last where there is little room, by colour.
_URGENT = ("red", "orange", "yellow")


def fitting(cells: list[Cell], room: int, gap: int = 2) -> list[Cell]:
    """The cells that fit: where not all do, those that say what is wrong stay, and the order too."""
    kept: set[int] = set()
    left = room + gap
    for place, cell in sorted(enumerate(cells), key=lambda item: (item[1].colour not in _URGENT, item[0])):
        if len(cell.text) + gap <= left or not kept:
            kept.add(place)
            left -= len(cell.text) + gap
    return [cell for place, cell in enumerate(cells) if place in kept]


def trail(crumbs: list[str], room: int) -> list[Cell]:
    """Where one is; what is further up gives way, since everybody knows how they came here."""
    shown = list(crumbs)
    while len(shown) > 1 and len(" ▸ ".join(shown)) > room:
        shown = ["…", *shown[2:]] if shown[0] == "…" else ["…", *shown[1:]]
    return [Cell(crumb, "grey" if n + 1 < len(shown) else "bold") for n, crumb in enumerate(shown)]


def line(cells: list[Cell], *, dark: bool, gap: str = "  ") -> Text:
    """Cells behind each other as one line of text."""
    text = Text(no_wrap=True, overflow="ellipsis", end="")
    for place, cell in enumerate(cells):
        text.append(gap if place else "")
        text.append(safe(cell.text), style(cell.colour, dark=dark))
    return text


class Head(Static):
    """Breadcrumbs and health. Told by the app once a second, and whenever a screen comes up."""

    DEFAULT_CSS = (
        "Head { dock: top; height: 2; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }"
    )

    def tell(self, crumbs: list[str], health: Health) -> None:
        """Show it."""
        dark, room = self.app.current_theme.dark, self.app.size.width
        top = line(trail(crumbs, room), dark=dark, gap=" ▸ ")
        self.update(Text("\n").join([top, line(fitting(health_cells(health), room), dark=dark)]))

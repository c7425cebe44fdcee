"""How things look: badges, colours that differ for the colour-blind too, and text of others made safe.

A state is always a glyph, a word and a colour, so that none of the three is needed. Colours are by name and
come from one table with a column for dark and one for light themes.
"""

from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.style import Style

from fleetfoot_client.terminal import literal
from fleetfoot_protocol.states import BADGES

#: Characters of foreign text that are looked at, at most, for one cell or line.
LONGEST = 2000

#: name -> (colour on a dark, on a light background). Blue and orange stay apart without red and green.
PALETTE: dict[str, tuple[str, str]] = {
    "": ("", ""),
    "plain": ("", ""),
    "grey": ("#8a8a8a", "#6c6c6c"),
    "blue": ("#5fafff", "#005faf"),
    "cyan": ("#5fd7d7", "#006767"),
    "yellow": ("#d7af00", "#7a5c00"),
    "orange": ("#ff8700", "#a85400"),
    "red": ("#ff5f5f", "#af0000"),
    "bold": ("bold", "bold"),
    "title": ("bold #8a8a8a", "bold #6c6c6c"),
}
_OF_BADGE = {"grey62": "grey", "dark_orange": "orange"}

#: States of rollouts, which have no badge in the contract: glyph and colour.
_ROLLOUTS: dict[str, tuple[str, str]] = {
    "planned": ("·", "grey"),
    "awaiting_approval": ("…", "yellow"),
    "running": ("▶", "blue"),
    "settling": ("▷", "cyan"),
    "paused": ("=", "yellow"),
    "tripped": ("✗", "red"),
    "rolling_back": ("↩", "orange"),
    "completed": ("✓", "blue"),
    "rolled_back": ("↩", "orange"),
    "aborted": ("✗", "red"),
    "canceled": ("-", "grey"),
    "expired": ("-", "grey"),
    "superseded": ("-", "grey"),
}
_SEVERITIES = {"critical": "red", "error": "red", "warning": "orange", "info": "", "debug": "grey"}


class Cell(NamedTuple):
    """A piece of text and the name of its colour in the palette."""

    text: str
    colour: str = ""


def style(colour: str, *, dark: bool) -> Style:
    """The style of a name of the palette."""
    return _STYLES[colour, dark]


_STYLES = {
    (name, dark): Style.parse(pair[0 if dark else 1])
    for name, pair in PALETTE.items()
    for dark in (True, False)
}


def badge(state: str) -> Cell:
    """Glyph, word and colour of a device's state or outcome; what is not known as it came."""
    found = BADGES.get(state)
    if found is None:
        return Cell(state.replace("_", " "), "grey")
    return Cell(f"{found.glyph} {found.word}", _OF_BADGE.get(found.colour, found.colour))


def glyph(state: str) -> Cell:
    """The glyph alone, for one cell of a grid."""
    found = BADGES.get(state)
    return Cell(found.glyph, _OF_BADGE.get(found.colour, found.colour)) if found else Cell("·", "grey")


def rollout_badge(state: str) -> Cell:
    """Glyph, word and colour of a rollout's state."""
    mark, colour = _ROLLOUTS.get(state, ("·", "grey"))
    return Cell(f"{mark} {state.replace('_', ' ')}", colour)


def severity(word: str) -> str:
    """The colour of a severity."""
    return _SEVERITIES.get(word, "")


def safe(text: str) -> str:
    """Text of others, bounded, with every control or invisible character written out."""
    return literal(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")


def fitted(text: str, width: int) -> str:
    """Safe text in exactly `width` columns of the terminal; what is cut ends in an ellipsis."""
    shown = literal(text[: 4 * width + 4])
    if shown.isascii():
        size = len(shown)
        if size <= width:
            return shown.ljust(width)
        return shown[: width - 1] + "…" if width > 1 else shown[:width]
    if cell_len(shown) <= width:
        return set_cell_size(shown, width)
    return set_cell_size(shown, width - 1) + "…" if width > 1 else set_cell_size(shown, width)


def ago(seconds: float) -> str:
    """A time span in at most four characters: `3s`, `12m`, `5h`, `40d`."""
    whole = max(0, int(seconds))
    for unit, size in (("s", 60), ("m", 60), ("h", 24)):
        if whole < size:
            return f"{whole}{unit}"
        whole //= size
    return f"{min(whole, 999)}d"


def span(seconds: float) -> str:
    """A time that is still to pass: `4:59`, `1:02:03`."""
    whole = max(0, int(seconds + 0.999))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def bar(share: float, width: int) -> str:
    """`share` of `width` as blocks; at least one where there is anything."""
    filled = min(width, max(1 if share > 0 else 0, round(share * width)))
    return "█" * filled


def plural(count: int, noun: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"

"""What the command line writes: text made safe, aligned columns, JSON.

Data goes to stdout, notes to stderr. Whatever came from a network or a file of somebody else passes
through `literal`, so that it can neither move a cursor nor hide a part of itself.
"""

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from fleetfoot_protocol.errors import FleetfootError

#: Categories of characters that have no shape of their own: control, format, surrogate, private,
#: unassigned, line and paragraph separator.
_SHAPELESS = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_GAP = "  "


def literal(text: str, *, keep: str = "") -> str:
    """`text` with every control or invisible character written out (`\\n`, `\\x1b`, `\\u202e`).

    Characters in `keep` stay as they are: a newline, where text may have several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _SHAPELESS else _escape(c) for c in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under a header in aligned columns; every cell is made literal. Ends without a newline."""
    lines = [[literal(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(columns(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(_align(line, widths) for line in lines)


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """`name  value` lines with aligned values, made literal; names with an empty value are left out."""
    shown = [[literal(name), literal(str(value))] for name, value in pairs if value not in ("", None)]
    width = max((columns(name) for name, _ in shown), default=0)
    return "\n".join(_align(line, [width, 0]) for line in shown)


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - columns(cell)) for cell, width in zip(cells, widths, strict=True)]
    return _GAP.join(padded).rstrip()


def bytes_text(count: int) -> str:
    """A number of bytes for people: `512 B`, `1.4 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def say(text: str = "") -> None:
    """A line of data on stdout, at once: whoever reads a pipe must not wait for a buffer to fill."""
    print(text, flush=True)


def note(text: str) -> None:
    """A line for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def show_json(value: Any, *, line: bool = False) -> None:
    """One JSON value on stdout, ASCII only; on a single line where values follow each other."""
    say(json.dumps(value) if line else json.dumps(value, indent=2))


def show(value: Any, text: str, *, as_json: bool) -> None:
    """The result of a command: `value` with --json, else `text`."""
    if as_json:
        show_json(value)
    else:
        say(text)


def show_error(error: FleetfootError, *, as_json: bool) -> None:
    """An error: as an object on stdout with --json, else cause, code and what to do on stderr."""
    if as_json:
        show_json({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
        return
    note(f"error: {literal(error.message)}")
    note(f"code: {literal(error.code)}")
    if error.remedy:
        note(f"what to do: {literal(error.remedy)}")

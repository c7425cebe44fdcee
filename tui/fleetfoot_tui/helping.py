"""What `?` shows: what a screen is for, and the keys that it has just now."""

from typing import TYPE_CHECKING

from rich.text import Text
from textual.binding import Binding

from fleetfoot_tui.room import Room
from fleetfoot_tui.table import LineTable

if TYPE_CHECKING:
    from fleetfoot_tui.app import Console


def text(console: "Console", room: Room) -> Text:
    """In two columns; the toolkit's own keys are left out."""
    own = {
        binding.description
        for kind in (*type(room).__mro__, LineTable, type(console))
        if kind.__module__.startswith("fleetfoot_tui")
        for binding in kind.__dict__.get("BINDINGS", ())
    }
    keys: dict[str, str] = {}
    for active in room.active_bindings.values():
        if active.binding.description in own - {""}:
            keys.setdefault(active.binding.description, console.get_key_display(active.binding))
    keys["Palette"] = console.get_key_display(Binding(console.COMMAND_PALETTE_BINDING, "", ""))
    shown = Text(f"{room.ABOUT}\n" if room.ABOUT else "")
    for place, (what, key) in enumerate(keys.items()):
        shown.append("" if place % 2 else "\n").append(f"{key:>7}  ", "bold").append(f"{what:22}")
    return shown

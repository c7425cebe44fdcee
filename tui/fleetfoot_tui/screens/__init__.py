"""The screens, by the name under which keys and palette know them."""

from fleetfoot_tui.room import Room

ROOMS: dict[str, type[Room]] = {}

"""How a device stands, in one cell."""

from fleetfoot_tui.device import Device
from fleetfoot_tui.look import Cell, badge

#: Stages of an upgrade, short enough to stand behind the badge.
_STAGES = {
    "downloading": "download",
    "verifying": "verify",
    "staging": "unpack",
    "activating": "switch",
    "probation": "probation",
}


def link(device: Device, connected: bool = True) -> Cell:
    """Whether it is there; without a broker, whether it was."""
    if device.online is None:
        return Cell("? unheard", "yellow")
    if not connected:
        return Cell("? was on" if device.online else "? was off", "yellow")
    return Cell("● online") if device.online else Cell("○ offline", "grey")


def state(device: Device) -> Cell:
    """The badge, with the stage and how far a download is."""
    if not device.said.components:
        return Cell("? silent", "yellow") if not device.status else Cell("- nothing", "grey")
    one, cell = device.main, badge(device.state)
    if one.lifecycle == "downloading" and device.percent is not None:
        return Cell(f"{cell.text} {device.percent}%", cell.colour)
    if cell.text == "▶ upgrading":
        return Cell(f"{cell.text} {_STAGES.get(one.lifecycle, one.lifecycle)}", cell.colour)
    return cell

"""The fleet as a grid: one cell for each device, by group, so that one sees at a glance where it hurts."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from fleetfoot_tui.device import Device
from fleetfoot_tui.look import Cell, badge, fitted, glyph, plural, style
from fleetfoot_tui.messages import Chosen, Pointed
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room, packed
from fleetfoot_tui.screens.device import DeviceRoom
from fleetfoot_tui.standing import link, state

#: Characters of a cell: the glyph and a blank, so that glyphs of any width stand apart.
_CELL = 2
#: Drawn lines that are kept.
_KEPT = 1000
#: Laying out the fleet anew may take this share of the time, however large it is.
_SHARE = 0.05

#: The states of which the glyphs are said in words.
_LEGEND = ("completed", "waiting", "probation", "staged", "rolled_back", "failed")


class Line(NamedTuple):
    """A line of the grid: the heading of a group, or some of its devices."""

    group: str
    devices: tuple[str, ...] = ()


def laid_out(groups: dict[str, list[str]], width: int) -> list[Line]:
    """Headings, and as many devices in each line as fit. Pure."""
    each = max(1, width // _CELL)
    lines: list[Line] = []
    for name, devices in groups.items():
        lines.append(Line(name))
        lines += [Line(name, tuple(devices[at : at + each])) for at in range(0, len(devices), each)]
    return lines


def cell_of(device: Device, *, connected: bool) -> Cell:
    """A glyph and its colour: what hurts first, then whether it is there, then what it does."""
    if device.verdict == "forged" or device.said.alarms:
        return Cell("!", "red")
    if device.main.faulty:
        return glyph(device.state)
    if not device.said.components:
        return Cell("?", "yellow")
    if not device.online:
        return Cell("○", "grey")
    return glyph(device.state) if connected else Cell("?", "yellow")


class Grid(ScrollView, can_focus=True):
    """Cells of devices; the arrows go from one to the next."""

    BINDINGS = [
        Binding("left,h", "step(-1)", show=False),
        Binding("right,l", "step(1)", show=False),
        Binding("up,k", "row(-1)", show=False),
        Binding("down,j", "row(1)", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]
    DEFAULT_CSS = "Grid { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }"

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, list[str]] = {}
        self.lines: list[Line] = []
        self.at = ""
        self._heading: dict[str, str] = {}
        # Where each device is, by line and column; a key must not search the fleet.
        self._place: dict[str, tuple[int, int]] = {}
        # Lines that were drawn, until something in them changes.
        self._strips: dict[int, Strip] = {}
        #: Lines drawn since the start, for whoever measures.
        self.drawn = 0

    def head(self, headings: dict[str, str]) -> None:
        """Other headings over the same devices."""
        other = {name for name in headings if headings[name] != self._heading.get(name)}
        self._heading = headings
        self._again(n for n, line in enumerate(self.lines) if not line.devices and line.group in other)

    def dirty(self, devices: Iterable[str]) -> None:
        """These devices have changed: draw again the lines in which they stand."""
        self._again({self._place[name][0] for name in devices if name in self._place})

    def _again(self, lines: Iterable[int]) -> None:
        top = round(self.scroll_y)
        for place in lines:
            self._strips.pop(place, None)
            if top <= place < top + self.size.height:
                self.refresh(Region(0, place - top, self.size.width, 1))

    def show(self, groups: dict[str, list[str]], headings: dict[str, str]) -> None:
        """These devices by group; the cursor stays on its device."""
        if groups == self.groups:
            self.head(headings)
            return
        self.groups, self._heading = groups, headings
        self._lay_out()
        if self.at not in self._place:
            self._first()

    def _first(self) -> None:
        first = next(iter(self._place), None)
        if first is not None:
            self._point(first)

    def _lay_out(self) -> None:
        self.lines = laid_out(self.groups, self.size.width - 1)
        self._place = {
            device: (place, column)
            for place, line in enumerate(self.lines)
            for column, device in enumerate(line.devices)
        }
        self.virtual_size = Size(self.size.width, len(self.lines))
        self.redraw()

    def redraw(self) -> None:
        """Nothing that was drawn is right."""
        self._strips.clear()
        self.refresh()

    def notify_style_update(self) -> None:
        """Another theme."""
        super().notify_style_update()
        self._strips.clear()

    def on_resize(self, event: events.Resize) -> None:
        """Other lines."""
        self._lay_out()

    def on_screen(self) -> list[str]:
        """Devices whose cells are on the screen."""
        top = round(self.scroll_y)
        return [device for one in self.lines[top : top + self.size.height] for device in one.devices]

    def render_line(self, y: int) -> Strip:
        """A heading or a line of cells."""
        place = round(self.scroll_y) + y
        if place >= len(self.lines):
            return Strip.blank(self.size.width, self.rich_style)
        strip = self._strips.get(place)
        if strip is None or strip.cell_length != self.size.width:
            if len(self._strips) > _KEPT:
                self._strips.clear()
            strip = self._strips[place] = self._strip(self.lines[place])
            self.drawn += 1
        return strip

    def _strip(self, line: Line) -> Strip:
        width, base = self.size.width, self.rich_style
        dark = self.app.current_theme.dark
        if not line.devices:
            text = fitted(f"{line.group}  {self._heading.get(line.group, '')}", width)
            return Strip([Segment(text, base + style("title", dark=dark))], width)
        room = self.screen
        fleet = room.fleet.devices if isinstance(room, Room) else {}
        connected = room.console.connected if isinstance(room, Room) else False
        segments = []
        for name in line.devices:
            device = fleet.get(name)
            cell = cell_of(device, connected=connected) if device is not None else Cell(" ")
            look = base + style(cell.colour, dark=dark)
            here = look + Style(reverse=True, bold=True) if name == self.at else look
            segments += [Segment(fitted(cell.text, 1), here), Segment(" ", base)]
        return Strip(segments).adjust_cell_length(width, base)

    def action_step(self, step: int) -> None:
        """The next device, or the one before; lines follow each other."""
        if self.at not in self._place:
            self._first()
            return
        line, column = self._place[self.at]
        beside = column + step
        if 0 <= beside < len(self.lines[line].devices):
            self._point(self.lines[line].devices[beside])
        elif (place := self._beyond(line, step)) is not None:
            self._point(self.lines[place].devices[0 if step > 0 else -1])

    def action_row(self, step: int) -> None:
        """The line below or above, in the same column as far as there is one."""
        if self.at not in self._place:
            return
        line, column = self._place[self.at]
        place = self._beyond(line, step)
        if place is not None:
            devices = self.lines[place].devices
            self._point(devices[min(column, len(devices) - 1)])

    def _beyond(self, line: int, step: int) -> int | None:
        """The next line with devices, up or down; headings are stepped over."""
        place = line + step
        while 0 <= place < len(self.lines) and not self.lines[place].devices:
            place += step
        return place if 0 <= place < len(self.lines) else None

    def action_choose(self) -> None:
        """Enter."""
        if self.at:
            self.post_message(Chosen(self.at))

    def on_click(self, event: events.Click) -> None:
        """The first click goes there, a second one opens."""
        place = round(self.scroll_y) + event.y
        devices = self.lines[place].devices if place < len(self.lines) else ()
        if event.x // _CELL < len(devices):
            name = devices[event.x // _CELL]
            if name == self.at and event.chain > 1:
                self.action_choose()
            self._point(name)

    def _point(self, name: str) -> None:
        before, self.at = self.at, name
        place, _ = self._place.get(name, (0, 0))
        top = round(self.scroll_y)
        if place < top or place >= top + self.size.height:
            self.scroll_to(y=max(0, place - 1), animate=False)
        self.dirty((before, name))
        self.post_message(Pointed(name))


class GridRoom(Room):
    """One cell for each device."""

    ABOUT = (
        "A cell for each device, by group. ! an alarm or a status that the device did not sign; "
        "○ offline; ? nothing known; else the glyph of its badge. The line below says it in words."
    )
    AUTO_FOCUS = "Grid"
    BINDINGS = [
        Binding("f", "faults", "Faults", id="grid.faults"),
        Binding("1", "app.room('fleet')", "Table"),
        Binding("2", "app.room('rollouts')", "Rollouts"),
    ]
    DEFAULT_CSS = "GridRoom #about { height: auto; max-height: 4; }"

    def __init__(self) -> None:
        super().__init__()
        self._faults = False
        self._stale = False
        self._again_at = 0.0

    @property
    def crumb(self) -> str:
        """Grid."""
        return "Grid"

    @property
    def grid(self) -> Grid:
        """The cells."""
        return self.query_one(Grid)

    def body(self) -> Iterable[Widget]:
        """Cells, and words about one of them."""
        yield Grid()
        yield Page(id="about")

    def watched(self) -> Iterable[str]:
        """The one under the cursor: of thousands on the screen none comes first."""
        return (self.grid.at,)

    def renew(self) -> None:
        """Everything, at once."""
        self._again_at = 0.0
        self.grid.redraw()
        self._lay_out()

    def _lay_out(self) -> None:
        """Who is there. What is O(fleet) is done only so often that it takes its share."""
        start = time.monotonic()
        self._stale = True
        if start < self._again_at:
            return
        self._stale = False
        devices = self.fleet.devices
        every = [devices[n] for n in sorted(self.fleet.faulty)] if self._faults else self.fleet.by_id()
        groups: dict[str, list[str]] = {name: [] for name in sorted(self.fleet.groups)}
        for device in every:
            groups.setdefault(device.group, []).append(device.id)
        shown = {name: found for name, found in groups.items() if found}
        self.grid.show(shown, {name: self._heading(name) for name in shown})
        self._tell()
        self._again_at = time.monotonic() + (time.monotonic() - start) / _SHARE

    def _heading(self, name: str) -> str:
        counts = self.fleet.groups.get(name)
        if counts is None:
            return ""
        hurt = f", {counts['faulty']} hurt" if counts["faulty"] else ""
        return f"{plural(counts['devices'], 'device')}, {counts['online']} online{hurt}"

    def notice(self, changes: Changes) -> None:
        """Cells are drawn from the model; the lines change only with who is there."""
        self.grid.dirty(changes.devices)
        if changes.members or self._stale:
            self._lay_out()
        if changes.devices:
            self._tell()

    def second(self) -> None:
        """Headings, and whoever has begun or ceased to hurt."""
        for name in self.grid.on_screen():
            if name in self.fleet.devices:
                self.fleet.attested(self.fleet.devices[name])
        if self._faults:
            self._lay_out()
        else:
            self.grid.head({name: self._heading(name) for name in self.grid.groups})
            self._tell()

    def on_pointed(self, message: Pointed) -> None:
        """Another device."""
        self._tell()

    def _tell(self) -> None:
        device = self.fleet.devices.get(self.grid.at)
        cells: list[Cell] = [Cell("No device is like that.", "grey")]
        if device is not None:
            one = device.main
            cells = [Cell(f"{device.id}  ", "bold"), Cell(f"{device.group}  ", "grey")]
            cells += [link(device, self.console.connected), Cell(f"  {one.version or '-'}  "), state(device)]
            room = max(4, self.size.width - sum(cell_len(cell.text) for cell in cells))
            trouble = " ".join(device.said.alarms) or one.error or one.code
            cells.append(Cell(fitted(f"  {trouble}", room).rstrip(), "orange"))
        legend = [
            badge(name) for name in ("completed", "waiting", "probation", "staged", "rolled_back", "failed")
        ]
        words = [*legend, Cell("○ offline", "grey"), Cell("? unknown", "yellow"), Cell("! alarm", "red")]
        self.query_one("#about", Page).update(self.paint([cells, *packed(words, self.size.width)]))

    def action_faults(self) -> None:
        """Only devices that a person should look at."""
        self._faults = not self._faults
        self.renew()

    def on_chosen(self, message: Chosen) -> None:
        """Into the device."""
        self.app.push_screen(DeviceRoom(message.key))

"""The fleet: groups with counts, version share, and a line for each device, of any number of them."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from textual import on
from textual.binding import Binding
from textual.widget import Widget
from textual.widgets import Input

from fleetfoot_tui import filters, ordering
from fleetfoot_tui.columns import Column
from fleetfoot_tui.device import Device
from fleetfoot_tui.filters import ORDERS, Sight
from fleetfoot_tui.look import Cell, ago, bar, plural
from fleetfoot_tui.messages import Chosen
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room
from fleetfoot_tui.screens.device import DeviceRoom
from fleetfoot_tui.screens.new_rollout import NewRolloutRoom
from fleetfoot_tui.standing import link, state
from fleetfoot_tui.table import LineTable

COLUMNS = (
    Column("", 1, 1),
    Column("DEVICE", 11, 30),
    Column("GROUP", 7, 16, rank=3),
    Column("LINK", 9, 9),
    Column("RUNS", 8, 14),
    Column("TARGET", 8, 14, rank=1),
    Column("STATE", 21, 21),
    Column("LAST ERROR", 10, 34, rank=2),
    Column("SEEN", 4, 4),
)
#: Ordering the fleet anew may take this share of the time, however large it is.
_SHARE = 0.05
_VERSIONS = 4
#: Attestations that are checked in one go.
_CHECKED = 60


class FleetRoom(Room):
    """The first screen."""

    ABOUT = (
        "All devices. Type / to filter: a regular expression, !text for the others, -l key=value for labels, "
        "-f letters for fuzzy, target:1.2.0. Before the name: ✓ marked, ! an alarm, or (red) a "
        "status that the device did not sign."
    )
    BINDINGS = [
        Binding("slash", "filter", "Filter", key_display="/", id="fleet.filter"),
        Binding("f,ctrl+z", "faults", "Faults", key_display="f", id="fleet.faults"),
        Binding("o", "sort", "Sort", id="fleet.sort"),
        Binding("O", "reverse", "Reverse", show=False, id="fleet.reverse"),
        Binding("space", "mark", "Mark", id="fleet.mark"),
        Binding("v", "mark_range", "Mark range", show=False, id="fleet.range"),
        Binding("c", "unmark", "Clear marks", show=False, id="fleet.unmark"),
        Binding("right_square_bracket", "group(1)", "Next group", key_display="]", show=False),
        Binding("left_square_bracket", "group(-1)", "Group before", key_display="[", show=False),
        Binding("y", "copy", "Copy id", show=False, id="copy"),
        Binding("u", "order('upgrade')", "Upgrade", id="device.upgrade"),
        Binding("d", "order('downgrade')", "Downgrade", show=False, id="device.downgrade"),
        Binding("i", "order('pin')", "Pin", show=False, id="device.pin"),
        Binding("I", "order('unpin')", "Unpin", show=False, id="device.unpin"),
        Binding("n", "new", "New rollout", show=False, id="rollout.new"),
        Binding("2", "app.room('rollouts')", "Rollouts"),
    ]
    DEFAULT_CSS = """
    FleetRoom #summary { height: 3; text-wrap: nowrap; text-overflow: ellipsis; }
    FleetRoom #filter { dock: bottom; margin-bottom: 1; height: 1; border: none; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.sight = Sight()
        self._wrong = ""
        self._marked_last = ""
        self._again_at = 0.0
        self._stale = True
        self._order_stale = False

    @property
    def crumb(self) -> str:
        """Fleet, or the group."""
        return self.sight.group or "Fleet"

    @property
    def table(self) -> LineTable:
        """The devices."""
        return self.query_one(LineTable)

    def body(self) -> Iterable[Widget]:
        """Summary, devices, the filter where one is typed."""
        yield Page(id="summary")
        yield LineTable(COLUMNS, self._row, empty=" No device is like that. Esc takes the filter away.")
        field = Input(
            placeholder="regex  !inverse  -l label  -f fuzzy  target:1.2.0", id="filter", compact=True
        )
        field.display = False
        yield field

    # -- keeping up

    def renew(self) -> None:
        """Everything, at once."""
        self._again_at = 0.0
        self._stale = True
        self.table.dirty()
        self._choose()
        self._summary()

    def notice(self, changes: Changes) -> None:
        """Dirty rows at once; order and choice of rows as often as they are cheap."""
        if "desired" in changes.kinds:
            self.table.dirty()
        elif changes.devices:
            self.table.dirty(changes.devices)
        self._stale |= changes.members
        self._order_stale |= bool(changes.devices) and self.sight.moves
        if self._stale or self._order_stale:
            self._choose()
        if changes.devices or changes.members:
            self._summary()

    def watched(self) -> Iterable[str]:
        """Those on the screen."""
        return self.query_one(LineTable).on_screen()

    def second(self) -> None:
        """Ages grow; attestations of what is on the screen are checked."""
        shown = [self.fleet.devices[key] for key in self.table.on_screen() if key in self.fleet.devices]
        for device in shown[:_CHECKED]:
            self.fleet.attested(device)
        self.table.dirty(device.id for device in shown)
        self._summary()

    def _choose(self) -> None:
        """Which rows in which order. What is O(fleet) is done only so often that it takes its share."""
        start = time.monotonic()
        if start < self._again_at:
            return
        self._stale = self._order_stale = False
        try:
            keys = filters.chosen(self.fleet, self.sight)
            self._wrong = ""
        except filters.FilterError as error:
            self._wrong = str(error)
            return
        self.table.marks &= self.fleet.devices.keys()
        self.table.show(keys)
        self._again_at = time.monotonic() + (time.monotonic() - start) / _SHARE

    # -- what it looks like

    def _row(self, key: str) -> Sequence[Cell]:
        device = self.fleet.devices.get(key)
        if device is None:
            return [Cell("")] * len(COLUMNS)
        one, target = device.main, self.fleet.target(device)
        error = device.said.alarms[0] if device.said.alarms else one.error or one.code
        age = ago(self.console.now() - device.seen) if device.seen else "-"
        return (
            self._mark(device),
            Cell(device.id),
            Cell(device.group, "grey"),
            link(device, self.console.connected),
            Cell(one.version or "-"),
            Cell("=", "grey") if target in ("", one.version) else Cell(target, "cyan"),
            state(device),
            Cell(error.removeprefix("upgrade_"), "orange" if device.faulty else "grey"),
            Cell(age.rjust(4), "grey"),
        )

    def _mark(self, device: Device) -> Cell:
        if device.id in self.table.marks:
            return Cell("✓", "cyan")
        if device.verdict == "forged":
            return Cell("!", "red")
        return Cell("!", "orange") if device.said.alarms else Cell("")

    def _summary(self) -> None:
        self.query_one("#summary", Page).update(
            self.paint([self._groups(), self._share(), self._sight_line()])
        )

    def _groups(self) -> list[Cell]:
        """Groups with counts, in one line: where they do not all fit, those that hurt come first."""
        every = sorted(self.fleet.groups.items())
        parts = [self._group(name, counts) for name, counts in every]
        if sum(map(_length, parts)) > self.size.width:
            every.sort(key=lambda item: (item[0] != self.sight.group, -item[1]["faulty"], item[0]))
            parts = [self._group(name, counts) for name, counts in every]
        cells: list[Cell] = []
        for place, part in enumerate(parts):
            if _length([*cells, *part]) > self.size.width - (12 if place + 1 < len(parts) else 0):
                cells.append(Cell(f"+{plural(len(parts) - place, 'group')}", "grey"))
                break
            cells += part
        return cells or [Cell("No device has said anything yet.", "grey")]

    def _group(self, name: str, counts: Counter[str]) -> list[Cell]:
        colour = "bold" if name == self.sight.group else ""
        cells = [Cell(f"{name} ", colour), Cell(f"{counts['devices']}", colour or "grey")]
        if away := counts["devices"] - counts["online"]:
            cells.append(Cell(f" ○{away}", "grey"))
        if counts["faulty"]:
            cells.append(Cell(f" ✗{counts['faulty']}", "red"))
        return [*cells, Cell("   ")]

    def _share(self) -> list[Cell]:
        total = sum(self.fleet.versions.values())
        if not total:
            return []
        found = self.fleet.versions.most_common()
        shown = [*found[:_VERSIONS]]
        if rest := sum(count for _, count in found[_VERSIONS:]):
            shown.append(("other", rest))
        room = max(4, (self.size.width - 2) // len(shown) - 18)
        colours = ("blue", "orange", "cyan", "yellow", "grey")
        cells: list[Cell] = []
        for (version, count), colour in zip(shown, colours, strict=False):
            cells.append(Cell(f"{version[:14]} "))
            cells.append(Cell(bar(count / total, room), colour))
            cells.append(Cell(f" {count}  ", "grey"))
        return cells

    def _sight_line(self) -> list[Cell]:
        sight, table = self.sight, self.table
        cells = [Cell(f"{len(table.keys)} of {len(self.fleet.devices)} devices", "bold")]
        order = ORDERS[sight.order].name
        cells.append(Cell(f"  by {order}{', reversed' if sight.reverse else ''}", "grey"))
        if sight.faults:
            cells.append(Cell("  faults only", "orange"))
        if sight.filter:
            cells.append(Cell(f"  /{sight.filter}", "cyan"))
        if self._wrong:
            cells.append(Cell(f"  {self._wrong}", "red"))
        if table.marks:
            cells.append(Cell(f"  {len(table.marks)} marked", "cyan"))
        return cells

    # -- what can be done

    def see(self, **changes: object) -> None:
        """Look at something else."""
        self.sight = replace(self.sight, **changes)  # type: ignore[arg-type]
        self.renew()
        self.console.tell_head()

    def action_filter(self) -> None:
        """Type a filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.value = self.sight.filter
        # At once: what is typed next belongs into the field.
        self.set_focus(field)

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        if event.input.display:
            self.see(filter=event.value)

    @on(Input.Submitted, "#filter")
    def _leave_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.set_focus(self.table)

    def action_back(self) -> None:
        """Esc takes away, one after the other, what narrows the view."""
        field = self.query_one("#filter", Input)
        if field.display or self.sight.filter:
            field.display = False
            self.set_focus(self.table)
            self.see(filter="")
        elif self.sight.faults:
            self.see(faults=False)
        elif self.table.marks:
            self.action_unmark()
        elif self.sight.group:
            self.see(group="")

    def action_faults(self) -> None:
        """Only devices that a person should look at."""
        self.see(faults=not self.sight.faults)

    def action_sort(self) -> None:
        """The next order."""
        self.see(order=(self.sight.order + 1) % len(ORDERS))

    def action_reverse(self) -> None:
        """The other way round."""
        self.see(reverse=not self.sight.reverse)

    def action_group(self, step: int) -> None:
        """Another group, or all of them."""
        names = ["", *sorted(self.fleet.groups)]
        here = names.index(self.sight.group) if self.sight.group in names else 0
        self.see(group=names[(here + step) % len(names)])

    def action_mark(self) -> None:
        """Mark or unmark, and go on."""
        key = self.table.cursor
        if key is None:
            return
        self.table.marks ^= {key}
        self._marked_last = key
        self.table.dirty({key})
        self.table.action_move(1)
        self._summary()

    def action_mark_range(self) -> None:
        """Mark all rows from the last marked one to the cursor."""
        key = self.table.cursor
        if key is not None:
            self.table.marks |= set(filters.ranged(self.table.keys, self._marked_last, key))
            self._marked_last = key
            self.renew()

    def action_unmark(self) -> None:
        """No marks."""
        self.table.marks.clear()
        self.renew()

    def chosen_devices(self) -> list[Device]:
        """The marked devices, else the one under the cursor."""
        keys = [k for k in self.table.keys if k in self.table.marks] or [self.table.cursor or ""]
        return [self.fleet.devices[key] for key in keys if key in self.fleet.devices]

    def action_order(self, kind: str) -> None:
        """Something for the marked devices, else for the one under the cursor."""
        ordering.begin(self.console, kind, self.chosen_devices())

    def action_new(self) -> None:
        """A rollout to the marked devices, else to the group that is shown or that of the device here."""
        found = self.chosen_devices()
        component = found[0].main.name if found else ""
        if self.table.marks:
            to = {"devices": " ".join(device.id for device in found)}
        else:
            to = {"groups": self.sight.group or " ".join(device.group for device in found)}
        self.app.push_screen(NewRolloutRoom(component=component, **to))

    def action_copy(self) -> None:
        """The device's id, into the clipboard of the terminal."""
        if self.table.cursor is not None:
            self.app.copy_to_clipboard(self.table.cursor)
            self.notify(f"copied {self.table.cursor}", markup=False)

    def on_chosen(self, message: Chosen) -> None:
        """Into the device."""
        self.app.push_screen(DeviceRoom(message.key))


def _length(cells: list[Cell]) -> int:
    return sum(len(cell.text) for cell in cells)

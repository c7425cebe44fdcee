"""One rollout: where it is, what next, where it hurts, and what can be decided."""

from collections.abc import Iterable, Sequence
from functools import partial

from textual.binding import Binding
from textual.widget import Widget

from fleetfoot_client.rows import GateRow, RolloutDevice, RolloutRow, parse
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import RolloutProgress
from fleetfoot_tui import steering, waves
from fleetfoot_tui.columns import Column
from fleetfoot_tui.dialogs import Confirm
from fleetfoot_tui.look import Cell, badge
from fleetfoot_tui.messages import Answered, Chosen, Refused
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room
from fleetfoot_tui.screens.device import DeviceRoom
from fleetfoot_tui.standing import state
from fleetfoot_tui.table import LineTable

COLUMNS = (
    Column("DEVICE", 12, 30),
    Column("GROUP", 8, 16, rank=1),
    Column("WAVE", 4, 4),
    Column("RESULT", 16, 18),
    Column("NOW", 21, 22, rank=2),
    Column("TOOK", 6, 8, rank=4),
    Column("CODE", 12, 26),
    Column("REASON", 8, 60, rank=3),
)
_BAD = ("failed", "rolled_back", "silent", "active")


class RolloutRoom(Room):
    """A rollout. What the director signed is shown at once; single devices are asked of the manager."""

    ABOUT = (
        "The strip shows the waves and how devices ended in them. Below: how far the reached devices got, "
        "failures by cause, every device. Acts are signed with the revision you see: if something else "
        "happened meanwhile, the manager refuses."
    )
    BINDINGS = [
        Binding(act.key, f"act('{act.name}')", act.label, id=f"rollout.{act.name}") for act in steering.ACTS
    ]
    DEFAULT_CSS = "RolloutRoom #picture { max-height: 60%; }"

    def __init__(self, rollout: str) -> None:
        super().__init__()
        self.rollout = rollout
        self.row: RolloutRow | None = None
        self._devices: dict[str, RolloutDevice] = {}
        self._asking = self._again = False
        self._wrong: FleetfootError | None = None
        self._answered = False

    @property
    def crumb(self) -> str:
        """Its id."""
        return self.rollout

    def body(self) -> Iterable[Widget]:
        """Picture and devices."""
        yield Page(id="picture")
        yield LineTable(COLUMNS, self._cells)

    # -- keeping up

    def renew(self) -> None:
        """What is signed at once, single devices when they come."""
        self._take_progress()
        self._draw()
        self._ask()

    def notice(self, changes: Changes) -> None:
        """Progress, and statuses of its devices."""
        if "rollouts" in changes.kinds and self._take_progress():
            self._draw()
            self._ask()
        elif changes.devices & self._devices.keys():
            self.query_one(LineTable).dirty(changes.devices)
            self._draw()

    def watched(self) -> Iterable[str]:
        """Those on the screen."""
        return self.query_one(LineTable).on_screen()

    def second(self) -> None:
        """Countdowns."""
        self._draw()
        if self._wrong is not None:
            self._ask()

    def _take_progress(self) -> bool:
        """The newer of what is known and what was signed; whether that is something new."""
        progress = self.fleet.rollouts.get(self.rollout)
        if progress is None or (self.row is not None and self.row.revision >= progress.revision):
            return False
        self.row = told(progress, self.row)
        self.refresh_bindings()
        return True

    def _ask(self) -> None:
        """One question at a time; what changes meanwhile is asked for afterwards."""
        if self._asking:
            self._again = True
            return
        self._asking, self._again = True, False
        self.ask("show", "rollout.show", {"rollout": self.rollout})

    def on_answered(self, message: Answered) -> None:
        """The rollout as the manager has it, or the outcome of an act."""
        if message.tag == "show":
            self._asking, self._wrong, self._answered = False, None, True
        try:
            row = parse(RolloutRow, message.result)
        except FleetfootError as error:
            self.console.show_error(error)
            return
        if self.row is None or row.revision >= self.row.revision:
            self.row = row if message.tag == "show" else _over(self.row, row)
            self._show_devices()
            self.refresh_bindings()
            self._draw()
        if message.tag != "show":
            self.notify(f"{message.tag}: it is {row.state.replace('_', ' ')}", markup=False)
            self._ask()
        elif self._again:
            self._ask()

    def refused(self, message: Refused) -> None:
        """Of a question: said in the picture. Of an act: in a window."""
        if message.tag == "show":
            self._asking, self._wrong = False, message.error
            self._draw()
        else:
            self.console.show_error(message.error)

    def _show_devices(self) -> None:
        found = self.row.devices if self.row else ()
        self._devices = {device.id: device for device in found}
        rank = {end: place for place, end in enumerate(_BAD)}
        order = sorted(found, key=lambda d: (rank.get(d.terminal, 9), d.wave or 9999, d.id))
        table = self.query_one(LineTable)
        table.show([device.id for device in order])
        table.dirty()

    # -- what it looks like

    def _draw(self) -> None:
        self.query_one("#picture", Page).update(self.paint(self._lines()))
        self.query_one(LineTable).empty = (
            " The manager tells no single devices."
            if self._answered
            else " Single devices are known to the manager alone."
        )

    def _lines(self) -> Iterable[list[Cell]]:
        row = self.row
        if row is None:
            wrong = self._wrong
            yield [
                Cell("Asking the manager …" if wrong is None else f"{wrong.message} ({wrong.code})", "yellow")
            ]
            return
        room = max(20, self.size.width - 4)
        yield waves.title(row)
        yield waves.strip(row, room)
        yield waves.gate(row, self.console.now(), room, turning=self.console.turning)
        yield from waves.strategy(row)
        yield waves.counts(row)
        yield from waves.pace(row)
        if row.requested_by:
            by = f", {row.decision} by {row.decided_by}" if row.decided_by else ""
            yield [Cell("asked by    ", "grey"), Cell(row.requested_by + by)]
        failures = waves.causes(row)
        if failures:
            yield [Cell("failures by cause", "title")]
            yield from failures
        states = {d.id: self._lifecycle(d.id) for d in row.devices}
        shown = waves.funnel(row.devices, states, max(10, room // 2))
        if shown and self.size.height >= 30:
            yield [Cell("how far they got", "title")]
            yield from shown
        if self._wrong is not None:
            known = "as they were" if row.devices else "not known"
            yield [Cell(f"single devices are {known}: {self._wrong.message}", "yellow")]

    def _lifecycle(self, device: str) -> str:
        found = self.fleet.devices.get(device)
        if found is None or found.main.rollout != self.rollout:
            return "idle"
        return found.main.lifecycle

    def _cells(self, key: str) -> Sequence[Cell]:
        device = self._devices.get(key)
        if device is None:
            return [Cell("")] * len(COLUMNS)
        return (
            Cell(device.id),
            Cell(device.group, "grey"),
            Cell(str(device.wave or "-").rjust(4), "grey"),
            badge(device.terminal),
            self._now(key),
            Cell(waves.needed(device, self.console.now()).rjust(6), "grey"),
            Cell(device.code.removeprefix("upgrade_"), "orange"),
            Cell(device.reason, "grey"),
        )

    def _now(self, key: str) -> Cell:
        """How the device stands in this rollout; of one that has not begun it, only what it runs."""
        known = self.fleet.devices.get(key)
        if known is None:
            return Cell("")
        if known.main.rollout == self.rollout:
            return state(known)
        return Cell(f"runs {known.main.version}" if known.main.version else "", "grey")

    # -- what can be done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what the state permits is offered."""
        if action == "act":
            return self.row is not None and steering.possible(str(parameters[0]), self.row)
        return True

    def action_act(self, name: str) -> None:
        """Ask once more where it matters, then let it be signed."""
        act, row = steering.BY_NAME[name], self.row
        if row is None:
            return
        if act.confirmed:
            self.app.push_screen(Confirm(steering.deed(act, row)), partial(self._do, act, row))
        else:
            self._do(act, row, True)

    def _do(self, act: steering.Act, row: RolloutRow, sure: bool | None) -> None:
        if sure:
            arguments = {"rollout": row.rollout} | ({"decision": act.decision} if act.decision else {})
            self.ask(act.name, act.verb, arguments, revision=row.revision)

    def on_chosen(self, message: Chosen) -> None:
        """Into the device."""
        self.app.push_screen(DeviceRoom(message.key))


def _over(before: RolloutRow | None, row: RolloutRow) -> RolloutRow:
    """The answer to an act, which tells no devices, pace and strategy, over what was known."""
    kept = (*GateRow.model_fields, "devices", "more", "took", "before", "causes")
    known = (
        {name: getattr(before, name) for name in kept if name not in row.model_fields_set} if before else {}
    )
    return row.model_copy(update=known)


def told(progress: RolloutProgress, before: RolloutRow | None) -> RolloutRow:
    """Signed progress over what the manager said before."""
    known = before.model_dump() if before is not None else {}
    said = progress.model_dump(mode="json", exclude={"spec", "fleet", "group", "digest", "at"})
    row = parse(RolloutRow, known | said)
    return row if row.state == "settling" else row.model_copy(update={"settles": ""})

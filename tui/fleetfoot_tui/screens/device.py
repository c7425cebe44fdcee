"""One device: what runs, what should run, why not, and what it said of itself."""

from collections.abc import Iterable

from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widget import Widget

from fleetfoot_client.rows import ReachableRow, parse_list
from fleetfoot_protocol.codes import TABLE, Code
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.resolve import Why
from fleetfoot_tui import ordering
from fleetfoot_tui.device import Device
from fleetfoot_tui.device_acts import CAPABILITY
from fleetfoot_tui.facts import ComponentFacts, read_outcomes
from fleetfoot_tui.look import Cell, ago, badge
from fleetfoot_tui.messages import Answered, Refused
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room, facts

_ATTESTED = {
    "yes": Cell("✓ signed by the device", "blue"),
    "forged": Cell("✗ not signed by the device: somebody else wrote this status", "red"),
    "unknown": Cell("? not checked: key or attestation are not here", "yellow"),
}
#: Lines of a list, at most.
_SHOWN = 8
#: Why a plan is what it is, in words.
_WHY: dict[Why, str] = {
    Why.NO_GOAL: "its documents want nothing",
    Why.PINNED: "it is pinned to what it runs",
    Why.CURRENT: "that is what it runs",
    Why.AHEAD: "it is ahead, and may stay so",
    Why.WITHDRAWN: "what it runs was withdrawn",
    Why.NO_WAY_BACK: "what it runs was recalled, and there is nothing to go back to",
    Why.BELOW_FLOOR: "it refuses: that is below its floor",
    Why.REFUSED: "it refuses: that failed here before",
    Why.HOLD: "it waits: on hold",
    Why.ORDERED: "ordered",
    Why.RECALLED: "what it runs was recalled",
}


class DeviceRoom(Room):
    """A device."""

    ABOUT = "What the device says of itself, and what its documents want of it by the rules that it has."
    BINDINGS = [
        Binding("u", "order('upgrade')", "Upgrade", id="device.upgrade"),
        Binding("d", "order('downgrade')", "Downgrade", id="device.downgrade"),
        Binding("i", "order('pin')", "Pin", id="device.pin"),
        Binding("I", "order('unpin')", "Unpin", id="device.unpin"),
        Binding("y", "copy", "Copy status", show=False, id="copy"),
    ]
    AUTO_FOCUS = "VerticalScroll"

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self._could: dict[str, tuple[ReachableRow, ...]] = {}
        self._asked = ""

    @property
    def crumb(self) -> str:
        """Its id."""
        return self.device

    def body(self) -> Iterable[Widget]:
        """One page, scrolled."""
        with VerticalScroll():
            yield Page(id="page")

    def renew(self) -> None:
        """All of it."""
        device = self.fleet.devices.get(self.device)
        if device is None:
            self.query_one(Page).update(self.paint([[Cell("It was forgotten, or moved away.", "yellow")]]))
            return
        self.query_one(Page).update(self.paint(self._lines(device)))
        self._ask_reachable(device)

    def _ask_reachable(self, device: Device) -> None:
        """Once for each version that it runs, and only of a device that can be upgraded."""
        one = device.main
        if one.version == self._asked or CAPABILITY not in device.said.capabilities or not one.name:
            return
        self._asked = one.version
        for kind in ("upgrade", "downgrade"):
            self.ask(f"could {kind}", f"device.{kind}s", {"device": device.id, "component": one.name})

    def notice(self, changes: Changes) -> None:
        """Its status, its documents, its events."""
        if self.device in changes.devices or changes.kinds & {"desired", "events"}:
            self.renew()

    def watched(self) -> Iterable[str]:
        """This one."""
        return (self.device,)

    def second(self) -> None:
        """Ages."""
        self.renew()

    def _lines(self, device: Device) -> Iterable[list[Cell]]:
        said = device.said
        link = "online" if device.online else "offline" if device.online is not None else "never heard of"
        known = self.console.connected
        link = link if known or device.online is None else f"it was {link} when the broker was lost"
        labels = " ".join(f"{k}={v}" for k, v in sorted({**device.labels, **said.labels}.items()))
        heard = f", last heard {ago(self.console.now() - device.seen)} ago" if device.seen else ""
        yield from facts(
            [
                ("group", device.group),
                ("link", Cell(link + heard, "" if device.online and known else "yellow")),
                ("status", _ATTESTED[self.fleet.attested(device)]),
                ("platform", said.platform),
                ("agent", said.agent),
                ("labels", labels),
                ("policy", _policy(device)),
                ("disk free", "" if said.free is None else f"{said.free / 1e9:.2f} GB"),
                ("clock", "" if said.clock_trusted else Cell("not synchronised", "yellow")),
            ]
        )
        for one in said.components:
            yield []
            yield from self._component(device, one)
        for alarm in said.alarms:
            yield []
            yield from facts([("alarm", Cell(alarm, "red")), *explained(alarm)])
        yield from self._reachable()
        yield from recent(device)
        yield from self._events()

    def _component(self, device: Device, one: ComponentFacts) -> Iterable[list[Cell]]:
        shown = badge(one.state)
        before = one.previous
        plan = self.fleet.answer(device, one)
        wanted, why = ("nothing", "") if plan is None or plan.goal is None else (plan.goal.version, "")
        if plan is not None:
            why = _WHY[plan.why]
            if plan.goal is None and str(plan.why) == "current":
                wanted = one.version
        yield [Cell(one.name, "bold"), Cell("  "), shown]
        yield from facts(
            [
                ("runs", f"{one.version or 'nothing'}  {one.digest[:12]}"),
                ("should run", f"{wanted}  ({why})" if why else wanted),
                ("way back", f"{before[0]}  {before[2][:12]}" if before else ""),
                ("stage", one.lifecycle.replace("_", " ") if one.lifecycle != "idle" else ""),
                ("rollout", one.rollout),
                ("reason", one.reason),
                ("code", Cell(one.code, "orange")),
                *explained(one.code),
            ]
        )
        if one.error and one.error != one.code:
            yield from facts(
                [("last error", Cell(one.error, "orange")), ("cause", one.message), *explained(one.error)[1:]]
            )
        elif one.error:
            yield from facts([("cause", one.message)])

    def _reachable(self) -> Iterable[list[Cell]]:
        """What it could go to by the manager's knowledge, and why not."""
        for kind, rows in self._could.items():
            yield []
            yield [Cell(f"could {kind} to", "title")]
            if not rows:
                yield [Cell("nothing", "grey")]
            for row in rows[:_SHOWN]:
                yield [Cell(_reachable(row), "grey" if not row.direct else "orange" if row.refused else "")]

    def _events(self) -> Iterable[list[Cell]]:
        found = [e for e in reversed(self.fleet.events) if e.who == self.device][:20]
        if found:
            yield []
            yield [Cell("events, the newest first", "title")]
        for event in found:
            yield [
                Cell(event.time.removesuffix("Z")[-8:].ljust(10), "grey"),
                Cell(event.kind.ljust(28)),
                Cell(f"{event.code} ", "orange"),
                Cell(event.told, "grey"),
            ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No upgrade for a device that does not say that it can be upgraded."""
        if action != "order":
            return True
        device = self.fleet.devices.get(self.device)
        return device is not None and CAPABILITY in device.said.capabilities and bool(device.main.name)

    def action_order(self, kind: str) -> None:
        """What it could go to is asked first, so that it can be read while one types."""
        device = self.fleet.devices.get(self.device)
        if device is None:
            return
        if kind in ("upgrade", "downgrade"):
            arguments = {"device": device.id, "component": device.main.name}
            self.ask(kind, f"device.{kind}s", arguments)
        else:
            ordering.begin(self.console, kind, [device])

    def on_answered(self, message: Answered) -> None:
        """What it could go to, and why not."""
        device = self.fleet.devices.get(self.device)
        try:
            rows = parse_list(ReachableRow, message.result, "releases")
        except FleetfootError as error:
            self.console.show_error(error)
            return
        if message.tag.startswith("could "):
            self._could[message.tag.removeprefix("could ")] = tuple(rows)
            self._could = dict(sorted(self._could.items(), reverse=True))
            self.renew()
        elif device is not None:
            told = [_reachable(row) for row in rows[:8]] or [f"There is nothing to {message.tag} to."]
            ordering.begin(self.console, message.tag, [device], told)

    def refused(self, message: Refused) -> None:
        """Of what nobody has pressed a key for, nothing is said."""
        if not message.tag.startswith("could "):
            super().refused(message)

    def action_copy(self) -> None:
        """The status as it came, into the clipboard of the terminal."""
        device = self.fleet.devices.get(self.device)
        if device is not None:
            self.app.copy_to_clipboard(device.status.decode(errors="replace"))
            self.notify("copied the status")


def _reachable(row: ReachableRow) -> str:
    if not row.direct:
        return f"✗ {row.version}  {row.remark}"
    return f"{'!' if row.refused else '✓'} {row.version}  {row.channel}  {row.remark}".rstrip()


def recent(device: Device) -> Iterable[list[Cell]]:
    """How the last work on it ended, as its status tells."""
    found = read_outcomes(device.status)
    if found:
        yield []
        yield [Cell("recent work, the newest first", "title")]
    for one in found[:_SHOWN]:
        shown = badge(one.outcome)
        yield [
            Cell(f"{one.at}  ", "grey"),
            Cell(f"{one.component} {one.version}  "),
            Cell(f"{shown.text}  ", shown.colour),
            Cell(f"{one.code}  ", "orange"),
            Cell(one.rollout, "grey"),
        ]


def _policy(device: Device) -> str | Cell:
    said = device.said
    if not device.status:
        return ""
    if not said.enabled:
        return Cell("upgrades are disabled on the device", "yellow")
    return f"upgrades enabled, channels {' '.join(said.channels) or 'none'}"


def explained(code: str) -> list[tuple[str, str | Cell]]:
    """Meaning and remedy of a code of the contract."""
    if code not in set(Code):
        return []
    known = TABLE[Code(code)]
    return [("meaning", known.meaning), ("what to do", known.remedy)]

"""Letting a person order something of devices: which version, really, and how it went."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui import device_acts, dialogs, underway
from fleetfoot_tui.asking import Nobody
from fleetfoot_tui.device import Device
from fleetfoot_tui.device_acts import LABELS, Order
from fleetfoot_tui.dialogs import Ask, Confirm, Field, Paper
from fleetfoot_tui.look import plural, safe

if TYPE_CHECKING:
    from fleetfoot_tui.app import Console


def begin(console: "Console", kind: str, devices: Sequence[Device], candidates: Sequence[str] = ()) -> None:
    """Ask for the version where the act needs one, then whether it is meant."""
    can, unable = device_acts.able(devices)
    if console.read_only:
        # At once, not after somebody has typed what they want.
        live = not isinstance(console.asker, Nobody)
        remedy = "leave, and start without --read-only" if live else "act with 'fleetfoot tui'"
        console.show_error(FleetfootError("read_only", "this console signs nothing", remedy=remedy))
    elif not can:
        console.notify(
            f"{plural(len(unable), 'device')} cannot be upgraded from afar: no capability 'upgrade'",
            severity="warning",
            markup=False,
        )
    elif kind in ("upgrade", "downgrade"):
        field = Field("version", "to which version", hint="1.2.0")
        title = f"{LABELS[kind]} {plural(len(can), 'device')}"
        named = partial(_named, console, kind, can, unable)
        console.push_screen(Ask(title, [field], about=candidates), named)
    else:
        _confirm(console, Order(kind, "", can), unable)


def _named(
    console: "Console",
    kind: str,
    can: tuple[Device, ...],
    unable: tuple[str, ...],
    said: dict[str, str] | None,
) -> None:
    if said is not None and said["version"]:
        _confirm(console, Order(kind, said["version"], can), unable)


def _confirm(console: "Console", order: Order, unable: tuple[str, ...]) -> None:
    def answered(sure: bool | None) -> None:
        first = underway.name_of(order.verb, order.arguments(order.devices[0]))
        if sure and console.may_begin(first):
            console.run_worker(partial(_carry_out, console, order), thread=True, name=order.verb)

    console.push_screen(Confirm(device_acts.deed(order, unable, console.fleet.root.fleet)), answered)


def _carry_out(console: "Console", order: Order) -> None:
    """On a thread: one signed request after the other; a refusal of one does not stop the others."""
    failed: list[tuple[str, FleetfootError]] = []
    for device in order.devices:
        try:
            arguments = order.arguments(device)
            name = underway.name_of(order.verb, arguments)
            console.act(name, order.verb, arguments, group=device.group)
        except FleetfootError as error:
            failed.append((device.id, error))
            if error.code in ("timeout", "broker_unreachable", "read_only"):
                break
    console.call_from_thread(_tell, console, order, failed)


def _tell(console: "Console", order: Order, failed: list[tuple[str, FleetfootError]]) -> None:
    if not failed:
        console.notify(
            f"{LABELS[order.kind]}: ordered of {plural(len(order.devices), 'device')}", markup=False
        )
        return
    text = Text()
    for device, error in failed:
        text.append(f"{safe(device)}\n", "bold").append(dialogs.error_text(error)).append("\n\n")
    console.push_screen(Paper(f"{LABELS[order.kind]}: {plural(len(failed), 'refusal')}", text))

"""Acts on single devices or on many marked ones: to what, to whom, and what came of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fleetfoot_tui.device import Device
from fleetfoot_tui.dialogs import Deed, must_type

#: What a device says that can be asked to upgrade.
CAPABILITY = "upgrade"
LABELS = {"upgrade": "Upgrade", "downgrade": "Downgrade", "pin": "Pin", "unpin": "Unpin"}


@dataclass(frozen=True, slots=True)
class Order:
    """One act on devices. `version` is empty for a pin to what runs, and for an unpin."""

    kind: str
    version: str
    devices: tuple[Device, ...]

    @property
    def verb(self) -> str:
        """The manager's word for it."""
        return f"device.{self.kind}"

    def arguments(self, device: Device) -> dict[str, Any]:
        """The request for one of them."""
        named = {"device": device.id, "component": device.main.name}
        return named | ({"version": self.version} if self.version else {})


def able(devices: Sequence[Device]) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Devices that can be asked, and the ids of those that do not say that they can."""
    can = tuple(d for d in devices if CAPABILITY in d.said.capabilities and d.main.name)
    known = {device.id for device in can}
    return can, tuple(device.id for device in devices if device.id not in known)


def deed(order: Order, unable: Sequence[str], fleet: str) -> Deed:
    """The question before it is signed."""
    groups = sorted({device.group for device in order.devices})
    names = " ".join(device.id for device in order.devices[:6])
    more = len(order.devices) - 6
    components = " ".join(sorted({device.main.name for device in order.devices}))
    return Deed(
        f"{LABELS[order.kind]} {len(order.devices)} device{'s'[: len(order.devices) != 1]}?",
        (
            ("devices", names + (f" and {more} more" if more > 0 else "")),
            ("version", f"{components} {order.version or 'what runs'}"),
            ("groups", " ".join(groups)),
            *((("left out", f"{len(unable)} that cannot be upgraded from afar"),) if unable else ()),
        ),
        LABELS[order.kind],
        must_type(len(order.devices), groups[0] if len(groups) == 1 else fleet),
    )

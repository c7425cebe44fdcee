"""The screens, by the name under which keys and palette know them."""

from textual.binding import Binding

from fleetfoot_tui.room import Room
from fleetfoot_tui.screens.approvals import ApprovalsRoom
from fleetfoot_tui.screens.audit import AuditRoom
from fleetfoot_tui.screens.device import DeviceRoom
from fleetfoot_tui.screens.events import EventsRoom
from fleetfoot_tui.screens.fleet import FleetRoom
from fleetfoot_tui.screens.grid import GridRoom
from fleetfoot_tui.screens.releases import ReleasesRoom
from fleetfoot_tui.screens.rollout import RolloutRoom
from fleetfoot_tui.screens.rollouts import RolloutsRoom


def bindings() -> frozenset[str]:
    """The ids under which keys can be bound anew."""
    rooms: tuple[type[Room], ...] = (*ROOMS.values(), FleetRoom, DeviceRoom, RolloutRoom)
    found = [one for room in rooms for kind in room.__mro__ for one in kind.__dict__.get("BINDINGS", ())]
    return frozenset(one.id for one in found if isinstance(one, Binding) and one.id)


#: All but the fleet, which lies below them.
ROOMS: dict[str, type[Room]] = {
    "rollouts": RolloutsRoom,
    "releases": ReleasesRoom,
    "approvals": ApprovalsRoom,
    "events": EventsRoom,
    "audit": AuditRoom,
    "grid": GridRoom,
}

"""The screens, by the name under which keys and palette know them."""

from fleetfoot_tui.room import Room
from fleetfoot_tui.screens.approvals import ApprovalsRoom
from fleetfoot_tui.screens.audit import AuditRoom
from fleetfoot_tui.screens.events import EventsRoom
from fleetfoot_tui.screens.releases import ReleasesRoom
from fleetfoot_tui.screens.rollouts import RolloutsRoom

#: All but the fleet, which lies below them.
ROOMS: dict[str, type[Room]] = {
    "rollouts": RolloutsRoom,
    "releases": ReleasesRoom,
    "approvals": ApprovalsRoom,
    "events": EventsRoom,
    "audit": AuditRoom,
}

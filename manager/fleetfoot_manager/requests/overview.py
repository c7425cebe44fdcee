"""`manager.status`: what runs here, in one look."""

from importlib.metadata import version
from typing import Any

from fleetfoot_manager import inventory, rights
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.work import Work
from fleetfoot_protocol.reports import Request


def status(work: Work, request: Request) -> dict[str, Any]:
    """Counts are of the groups that the operator may read."""
    arguments.parse(arguments.Nothing, request.arguments)
    house = work.house
    rights.demand_anywhere(house.root, request)
    groups = rights.readable(house.root, request, inventory.groups(work.tx))
    devices, online = inventory.counts(work.tx, groups)
    return {
        "version": version("fleetfoot"),
        "fleet": house.fleet,
        "root": house.root.version,
        "devices": devices,
        "online": online,
        "rollouts_active": sum(
            rights.reads_all(house.root, request, of.groups) for of in work.rollouts.values()
        ),
        "engine": "running",
        "broker": house.broker,
        "artifacts": house.artifacts,
        "uptime_seconds": max(0, int(work.now - house.started)),
    }

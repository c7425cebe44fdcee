"""`manager.status`: what runs here, in one look."""

from importlib.metadata import version
from typing import Any

from fleetfoot_manager import inventory, rights, standstill
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import fitted
from fleetfoot_manager.requests.groups import summary
from fleetfoot_manager.rollout import Rollout
from fleetfoot_manager.rollout_gate import AWAITS_BLESSING
from fleetfoot_manager.work import Work
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import RolloutState

_BUDGET = 16 * 1024
#: Where a rollout waits for a person -> for what.
_WAITS: dict[RolloutState, str] = {
    RolloutState.AWAITING_APPROVAL: "approval",
    RolloutState.PAUSED: "resume",
    RolloutState.TRIPPED: "decision",
}


def status(work: Work, request: Request) -> dict[str, Any]:
    """Counts are of the groups that the operator may read."""
    arguments.parse(arguments.Nothing, request.arguments)
    house = work.house
    rights.demand_anywhere(house.root, request)
    groups = rights.readable(house.root, request, inventory.groups(work.tx))
    devices, online = inventory.counts(work.tx, groups)
    still = standstill.of(work.tx)
    readable = [of for of in work.rollouts.values() if rights.reads_all(house.root, request, of.groups)]
    waiting, _ = fitted([row for of in readable if (row := waits(of))], _BUDGET)
    components, _ = fitted(list(summary(work.devices.members(work.tx, groups)).items()), _BUDGET)
    return {
        "version": version("fleetfoot"),
        "fleet": house.fleet,
        "root": house.root.version,
        "devices": devices,
        "online": online,
        "rollouts_active": len(readable),
        "waiting": waiting,
        "components": dict(components),
        "engine": "running" if still is None else "paused",
        **({} if still is None else {"paused": still.row()}),
        "broker": house.broker,
        "artifacts": house.artifacts,
        "uptime_seconds": max(0, int(work.now - house.started)),
    }


def waits(of: Rollout) -> dict[str, str] | None:
    """What a rollout waits for, if it is a person's act."""
    what = "blessing" if of.reason == AWAITS_BLESSING else _WAITS.get(of.state)
    if what is None:
        return None
    return {"rollout": of.id, "component": of.component, "state": str(of.state), "for": what}

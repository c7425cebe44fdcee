"""`manager.status`: what runs here, in one look."""

from importlib.metadata import version
from typing import Any

from fleetfoot_manager import inventory, rights, standstill
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import fitted
from fleetfoot_manager.requests.groups import summary
from fleetfoot_manager.rollout import Rollout
from fleetfoot_manager.rollout_gate import AWAITS_ACTIVATION, AWAITS_APPROVAL, AWAITS_BLESSING
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
#: Why a rollout stands that nobody has paused -> for what it waits; a resume could not give it.
_STANDS = {AWAITS_BLESSING: "blessing", AWAITS_APPROVAL: "approval", AWAITS_ACTIVATION: "activation"}


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
    what = _WAITS.get(of.state)
    if what is None:
        return None
    if of.state is RolloutState.PAUSED:
        what = _STANDS.get(of.reason, what)
    return {"rollout": of.id, "component": of.component, "state": str(of.state), "for": what}

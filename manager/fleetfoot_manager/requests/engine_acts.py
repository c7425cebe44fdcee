"""The verbs about everything at once: `engine.pause` and `engine.resume`."""

from typing import Any

from fleetfoot_manager import rights, standstill
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.rollout import TRANSITIONS, Pause, Resume
from fleetfoot_manager.standstill import Standstill
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import RolloutState

_WITH_ALL = "with the whole engine"


def pause(work: Work, request: Request) -> dict[str, Any]:
    """`engine.pause`: every rollout that is under way is held, every order too, and nothing new begins."""
    asked = arguments.parse(arguments.EnginePause, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    already = standstill.of(work.tx)
    if already is not None:
        raise FleetfootError("state_refused", f"the engine is {already}")
    going = [of.id for of in work.rollouts.values() if Pause in TRANSITIONS[of.state]]
    reason = f"{_WITH_ALL}: {asked.reason}" if asked.reason else _WITH_ALL
    for name in going:
        work.advance(name, Pause(request.operator, reason))
    found = Standstill(request.operator, work.now, asked.reason, tuple(going))
    standstill.keep(work.tx, found)
    work.renew_every_order()
    work.audit(request.operator, "engine.pause", {"reason": asked.reason, "rollouts": going})
    return {"engine": "paused", **found.row(), "rollouts": going}


def resume(work: Work, request: Request) -> dict[str, Any]:
    """`engine.resume`: those rollouts go on."""
    arguments.parse(arguments.Nothing, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    found = standstill.of(work.tx)
    if found is None:
        raise FleetfootError("state_refused", "the engine is not paused")
    held = [of for name in found.rollouts if (of := work.rollouts.get(name)) is not None]
    going = [of.id for of in held if of.state is RolloutState.PAUSED]
    standstill.keep(work.tx, None)
    work.renew_every_order()
    for name in going:
        work.advance(name, Resume())
    work.audit(request.operator, "engine.resume", {"rollouts": going})
    return {"engine": "running", "rollouts": going}

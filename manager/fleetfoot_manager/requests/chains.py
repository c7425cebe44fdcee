"""What comes behind a rollout that ended: the next hop of its chain begins, or is not needed any more."""

from dataclasses import replace

from fleetfoot_manager import planning, policies
from fleetfoot_manager.requests import starting
from fleetfoot_manager.rollout import Cancel, Rollout
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState

_MAX_REASON = 120


def follow(work: Work) -> None:
    """Let every rollout that waits for one which has ended begin, or end."""
    waiting = [of for of in work.rollouts.values() if of.after]
    for of in waiting:
        before = work.rollout(of.after)
        if before is not None and not before.state.ended:
            continue
        if before is None or before.state is not RolloutState.COMPLETED:
            ended = "is gone" if before is None else f"ended as {before.state}"
            work.advance(of.id, Cancel(f"{of.after}, which goes before it, {ended}"))
        elif of.state is RolloutState.PLANNED and of.started is None:
            _begin(work, of)


def _begin(work: Work, of: Rollout) -> None:
    """Plan it anew, over the devices of now, and start it; what forbids that ends it, with the reason.

    Where its groups have come to demand an approval that nobody gave, it waits for that first.
    """
    order = policies.order_of(work.tx, of.id)
    try:
        if order is None:
            raise FleetfootError("not_found", "nobody knows any more what was asked for")
        with work.step():
            asked = order.edited or order.asked
            made = planning.make(work.tx, asked, of.id, work.now)
            waits = made.rollout.state is RolloutState.AWAITING_APPROVAL and not order.decision
            revision = of.revision + 1
            fresh = replace(
                made.rollout,
                state=RolloutState.AWAITING_APPROVAL if waits else RolloutState.PLANNED,
                revision=revision,
                steered=revision if waits else of.steered,
                created=of.created,
                after="",
            )
            work.add(fresh)
            if not waits:
                starting.begin(work, replace(made, rollout=fresh), asked)
    except FleetfootError as error:
        work.advance(of.id, Cancel(f"it cannot begin: {error.message}"[:_MAX_REASON]))

"""The verbs that decide on a rollout before it starts: approve, perhaps gentler than asked, and reject."""

from dataclasses import replace
from typing import Any

from fleetfoot_manager import planning, policies, rollout
from fleetfoot_manager.policies import Order, plain
from fleetfoot_manager.requests import arguments, rollouts
from fleetfoot_manager.rollout import Approve, Cancel, Rollout
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import RolloutState


def approve(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.approve`: planned anew over the present inventory, then started."""
    asked = arguments.parse(arguments.RolloutApprove, request.arguments)
    of, order = _awaiting(work, request, asked.rollout)
    others = [g for g in of.groups if policies.of_group(work.tx, g).approval_by_other]
    if others and order.requester == request.operator:
        raise FleetfootError(
            "not_allowed",
            f"{request.operator} asked for {of.id}: in group {', '.join(others)} somebody else approves",
        )
    edits = asked.model_dump(exclude_none=True, exclude={"rollout"})
    pace = {"immediate": False} if asked.waves is not None else {}
    wanted = order.asked.model_copy(update=edits | pace)
    made = planning.make(work.tx, wanted, of.id, work.now)
    if edits:
        _demand_gentler(of, made.rollout)
    planned = replace(
        made.rollout, state=of.state, revision=of.revision, steered=of.steered, created=of.created
    )
    work.add(planned)
    work.advance(of.id, Approve())
    decided = order._replace(
        decided_by=request.operator, decision="approved", edited=wanted if edits else None, at=work.now
    )
    policies.keep_order(work.tx, decided)
    data = _about(of, order) | {"asked": plain(order.asked), "approved": plain(wanted)}
    work.audit(request.operator, "group.upgrade.approve", {**data, "edited": sorted(edits)})
    after = rollouts.begin(work, replace(made, rollout=planned))
    return rollouts.row_of(after) | decided.row()


def reject(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.reject`: it ends as canceled, with the reason."""
    asked = arguments.parse(arguments.RolloutReject, request.arguments)
    of, order = _awaiting(work, request, asked.rollout)
    after = work.advance(of.id, Cancel(f"rejected by {request.operator}: {asked.reason}"))
    decided = order._replace(decided_by=request.operator, decision="rejected", at=work.now)
    policies.keep_order(work.tx, decided)
    work.audit(request.operator, "group.upgrade.reject", _about(of, order) | {"reason": asked.reason})
    return rollouts.row_of(after) | decided.row()


def _about(of: Rollout, order: Order) -> dict[str, Any]:
    return {
        "rollout": of.id,
        "groups": list(of.groups),
        "component": of.component,
        "version": of.goal.version,
        "requested_by": order.requester,
    }


def _awaiting(work: Work, request: Request, name: str) -> tuple[Rollout, Order]:
    of = rollouts.named(work, request, name)
    rollouts.demand_seen(request, of)
    order = policies.order_of(work.tx, name)
    if of.state is not RolloutState.AWAITING_APPROVAL or order is None:
        raise rollout.IllegalTransition(of, Approve(), ": it does not await approval")
    return of, order


def _demand_gentler(asked: Rollout, wanted: Rollout) -> None:
    """Raise FleetfootError `request_invalid` unless the edit only makes batches smaller and trips earlier."""
    why = ""
    if wanted.waves[0] > asked.waves[0] or _largest(wanted.waves) > _largest(asked.waves):
        why = f"batches must not be larger than those asked for: {list(asked.waves)}"
    elif wanted.waves[-1] > asked.waves[-1]:
        why = f"it must not reach more devices than the {asked.waves[-1]} asked for"
    elif asked.breaker and not 0 < wanted.breaker <= asked.breaker:
        why = f"the breaker must not trip later than at {asked.breaker} failures"
    elif wanted.settle < asked.settle:
        why = f"waves must settle for at least the {asked.settle:g} s asked for"
    if why:
        raise FleetfootError("request_invalid", f"approval may only make {asked.id} gentler: {why}")


def _largest(waves: tuple[int, ...]) -> int:
    return max(size - before for before, size in zip((0, *waves), waves, strict=False))

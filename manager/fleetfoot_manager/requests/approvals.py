"""The verbs that decide on a rollout before it starts, or before its next wave: approve, and reject."""

from dataclasses import replace
from typing import Any

from fleetfoot_manager import planning, policies, rollout
from fleetfoot_manager.policies import Order, plain
from fleetfoot_manager.requests import arguments, rollout_arguments, rollouts, starting
from fleetfoot_manager.rollout import Approve, Cancel, Rollout
from fleetfoot_manager.rollout_gate import AWAITS_APPROVAL
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import RolloutState


def approve(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.approve`: planned anew over the present inventory, then started; or the next wave opens.

    Before the start it may be made gentler, and both versions are kept.
    """
    asked = arguments.parse(rollout_arguments.RolloutApprove, request.arguments)
    of, order = _awaiting(work, request, asked.rollout)
    _demand_another(work, request, of, order)
    edits = asked.model_dump(exclude_none=True, exclude={"rollout"})
    if of.state is RolloutState.PAUSED:
        return _approve_wave(work, request, of, order, edits)
    wanted = order.asked.model_copy(update=_paced(asked) | edits)
    made = planning.make(work.tx, wanted, of.id, work.now)
    if edits:
        _demand_gentler(of, made.rollout)
    planned = replace(
        made.rollout,
        state=of.state,
        revision=of.revision,
        steered=of.steered,
        created=of.created,
        after=of.after,
    )
    work.add(planned)
    work.advance(of.id, Approve())
    decided = order._replace(
        decided_by=request.operator, decision="approved", edited=wanted if edits else None, at=work.now
    )
    policies.keep_order(work.tx, decided)
    data = _about(of, order) | {"asked": plain(order.asked), "approved": plain(wanted)}
    work.audit(request.operator, "group.upgrade.approve", {**data, "edited": sorted(edits)})
    # A later hop of a chain begins once the one before it has completed.
    follows = work.rollouts[of.id] if of.after else None
    after = follows or starting.begin(work, replace(made, rollout=planned), wanted)
    return rollouts.row_of(after) | decided.row()


def _paced(asked: rollout_arguments.RolloutApprove) -> dict[str, Any]:
    """What an edit of the waves or batches puts out of force of what was asked for."""
    if asked.waves is None and asked.batch_pct is None and asked.batch_size is None:
        return {}
    return {"immediate": False, "strategy": None, "waves": None, "batch_pct": None, "batch_size": None} | (
        {"batch_delay_seconds": None} if asked.waves is not None else {}
    )


def _demand_another(work: Work, request: Request, of: Rollout, order: Order) -> None:
    others = policies.by_others(work.tx, of.groups)
    if others and order.requester == request.operator:
        raise FleetfootError(
            "not_allowed",
            f"{request.operator} asked for {of.id}: in group {', '.join(others)} somebody else approves",
        )


def _approve_wave(
    work: Work, request: Request, of: Rollout, order: Order, edits: dict[str, Any]
) -> dict[str, Any]:
    if edits:
        raise FleetfootError(
            "request_invalid",
            f"{of.id} is running as it was approved: {', '.join(sorted(edits))} cannot be changed any more",
            remedy="approve the wave as it is, or reject what is left of the rollout",
        )
    after = work.advance(of.id, Approve())
    data = _about(of, order) | {"wave": of.wave + 1}
    work.audit(request.operator, "group.upgrade.approve", data)
    return rollouts.row_of(after) | order.row()


def reject(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.reject`: it ends as canceled, with the reason."""
    asked = arguments.parse(rollout_arguments.RolloutReject, request.arguments)
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
    waits = of.state is RolloutState.AWAITING_APPROVAL or of.reason == AWAITS_APPROVAL
    if not waits or order is None:
        raise rollout.IllegalTransition(of, Approve(), ": it does not await approval")
    return of, order


def _demand_gentler(asked: Rollout, wanted: Rollout) -> None:
    """Raise FleetfootError `request_invalid` unless the edit only makes batches smaller and trips earlier."""
    why = ""
    if wanted.waves[0] > asked.waves[0] or _largest(wanted.waves) > _largest(asked.waves):
        why = f"batches must not be larger than those asked for: {list(asked.waves)}"
    elif wanted.waves[-1] > asked.waves[-1]:
        why = f"it must not reach more devices than the {asked.waves[-1]} asked for"
    elif asked.strategy != "batches" and wanted.strategy == "batches" and wanted.breaker != 1:
        why = "batches count failures in a row, which is later: with --breaker 1 it is not"
    elif asked.failure_percent and not 0 < wanted.failure_percent <= asked.failure_percent:
        why = f"the limit of failures must not rise above {asked.failure_percent} %"
    elif asked.breaker and not 0 < wanted.breaker <= asked.breaker:
        why = f"the breaker must not trip later than at {asked.breaker} failures"
    elif wanted.settle < asked.settle:
        why = f"waves must settle for at least the {asked.settle:g} s asked for"
    if why:
        raise FleetfootError("request_invalid", f"approval may only make {asked.id} gentler: {why}")


def _largest(waves: tuple[int, ...]) -> int:
    return max(size - before for before, size in zip((0, *waves), waves, strict=False))

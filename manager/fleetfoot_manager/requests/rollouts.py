"""The verbs about rollouts that there are: list, show, and what a person may do to a live one."""

from typing import Any

from fleetfoot_manager import course, notes, planning, policies, rights, rollout, rollout_rows
from fleetfoot_manager.requests import arguments, returning, rollout_arguments, starting
from fleetfoot_manager.requests.answers import BUDGET, fitted, moment, some
from fleetfoot_manager.rollout import (
    Activate,
    Cancel,
    Decide,
    Decision,
    Pause,
    Resume,
    Retry,
    Rollout,
    RolloutEvent,
)
from fleetfoot_manager.rollout_gate import AWAITS_ACTIVATION
from fleetfoot_manager.work import Work
from fleetfoot_protocol import strictjson
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import Terminal

_LISTED = 200
_SHOWN = 500
_NOTES = 10
#: Whom a person looks for first, when not everybody can be shown.
_INTERESTING = (
    Terminal.FAILED,
    Terminal.ROLLED_BACK,
    Terminal.SILENT,
    Terminal.ACTIVE,
    Terminal.PENDING,
    Terminal.STAGED,
    Terminal.CANCELED,
    Terminal.SKIPPED,
    Terminal.HEALTHY,
)

#: verb -> audit action.
_ACTIONS: dict[str, str] = {
    "rollout.pause": "group.upgrade.paused",
    "rollout.resume": "group.upgrade.resume",
    "rollout.activate": "group.upgrade.activate",
    "rollout.decide": "group.upgrade.decide",
    "rollout.cancel": "group.upgrade.cancel",
    "rollout.retry": "group.upgrade.retry",
}


def listing(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.list`: newest first, of the groups that the operator may read."""
    asked = arguments.parse(rollout_arguments.RolloutList, request.arguments)
    root = work.house.root
    rights.demand_anywhere(root, request)
    live = sorted(work.rollouts.values(), key=lambda of: of.created, reverse=True)
    found = [(of, of.counts) for of in live]
    if asked.state == "all":
        ended = rollout_rows.summaries(work.tx, live=False, limit=_LISTED)
        found += [(one.rollout, one.counts) for one in ended]
    readable = [(of, counts) for of, counts in found if rights.reads_all(root, request, of.groups)]
    rows = [row_of(of, counts) for of, counts in readable[:_LISTED]]
    shown, _ = fitted(rows)
    more = len(readable) - len(shown)
    return {"rollouts": shown, **({"more": more} if more else {})}


def show(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.show`: how it goes, and as many devices as fit, then those first that need a look."""
    of = named(work, request, arguments.parse(rollout_arguments.RolloutName, request.arguments).rollout)
    members = list(of.cohort)
    if len(members) > _SHOWN:
        members.sort(key=lambda member: _INTERESTING.index(of.devices[member.device].terminal))
    order = policies.order_of(work.tx, of.id)
    head = {
        **row_of(of),
        **planning.gate(of),
        "settle": int(of.settle),
        **(order.row() if order else {}),
        **course.of(work.tx, of),
        **some(notes=[note.row() for note in notes.newest(work.tx, _NOTES, rollout=of.id)]),
    }
    rows = [_device(of, *member) for member in members[:_SHOWN]]
    rows, _ = fitted(rows, BUDGET - len(strictjson.dumps(head)))
    more = len(of.cohort) - len(rows)
    return {**head, "devices": rows, **({"more": more} if more else {})}


def pause(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.pause`."""
    return _act(work, request, Pause(request.operator))


def resume(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.resume`."""
    return _act(work, request, Resume())


def activate(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.activate`: what everybody has staged."""
    asked = arguments.parse(rollout_arguments.RolloutName, request.arguments)
    event = Activate(request.operator)
    of = named(work, request, asked.rollout)
    if of.reason != AWAITS_ACTIVATION:
        raise rollout.IllegalTransition(of, event, ": nothing that is staged waits for it")
    return _steer(work, request, asked.rollout, event)


def cancel(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.cancel`."""
    return _act(work, request, Cancel())


def retry(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.retry`."""
    return _act(work, request, Retry())


def decide(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.decide`."""
    asked = arguments.parse(rollout_arguments.RolloutDecide, request.arguments)
    if asked.decision == "rollback":
        of = named(work, request, asked.rollout)
        demand_seen(request, of)
        if not asked.leave_stranded:
            returning.demand_ways_back(work, of)
        if asked.paced:
            return _in_steps(work, request, of, asked)
    return _steer(work, request, asked.rollout, Decide(Decision(asked.decision)), decision=asked.decision)


def _in_steps(
    work: Work, request: Request, of: Rollout, asked: rollout_arguments.RolloutDecide
) -> dict[str, Any]:
    """A rollback in steps: another rollout, which takes the place of this one."""
    event = Decide(Decision.ROLLBACK)
    if event.decision not in rollout.TRANSITIONS[of.state]:
        raise rollout.IllegalTransition(of, event)
    back = returning.planned_back(work, of, asked, request.operator)
    data = {
        "rollout": of.id,
        "groups": list(of.groups),
        "component": of.component,
        "version": of.goal.version,
        "failure_count": of.devices.failures,
        "decision": "rollback",
        "by": back.id,
    }
    work.audit(request.operator, _ACTIONS[request.verb], data)
    after = starting.put_in_place(work, back, [of])
    return row_of(after) | {"instead_of": of.id}


def _act(work: Work, request: Request, event: RolloutEvent) -> dict[str, Any]:
    asked = arguments.parse(rollout_arguments.RolloutName, request.arguments)
    return _steer(work, request, asked.rollout, event)


def _steer(work: Work, request: Request, name: str, event: RolloutEvent, **more: str) -> dict[str, Any]:
    """Let a person's act happen, if the person has seen what the rollout is now."""
    of = named(work, request, name)
    demand_seen(request, of)
    if of.id not in work.rollouts:
        raise rollout.IllegalTransition(of, event)
    after = work.advance(name, event)
    data = {
        "rollout": name,
        "groups": list(of.groups),
        "component": of.component,
        "version": of.goal.version,
        "failure_count": of.devices.failures,
        "state": str(after.state),
        **more,
    }
    work.audit(request.operator, _ACTIONS[request.verb], data)
    return row_of(after)


def demand_seen(request: Request, of: Rollout) -> None:
    """Raise FleetfootError `conflict` if the person acts on something else than what the rollout is now."""
    if request.revision is not None and not of.steered <= request.revision <= of.revision:
        raise FleetfootError(
            "conflict",
            f"rollout {of.id} is {of.state} in wave {of.wave} at revision {of.revision},"
            f" not as it was at revision {request.revision}",
        )


def named(work: Work, request: Request, name: str) -> Rollout:
    """The rollout, if it exists and the operator has the verb's right in all of its groups."""
    of = work.rollout(name)
    if of is None:
        # Who may do nothing anywhere learns no names here.
        rights.demand_anywhere(work.house.root, request)
        raise FleetfootError("not_found", f"no rollout {name}")
    rights.demand(work.house.root, request, of.groups)
    return of


def row_of(of: Rollout, counts: dict[str, int] | None = None) -> dict[str, Any]:
    """A rollout as lists show it. `counts`: of its devices, where they are not with it."""
    counts = of.counts if counts is None else counts
    return {
        "rollout": of.id,
        "component": of.component,
        "version": of.goal.version,
        "digest": of.goal.digest,
        "groups": list(of.groups),
        "state": str(of.state),
        "reason": of.reason,
        "strategy": of.strategy,
        "wave": of.wave,
        "waves": list(of.waves),
        "total": sum(counts.values()),
        "counts": counts,
        "revision": of.revision,
        "attempt": of.goal.attempt,
        **some(after=of.after, expires=moment(of.lives_until), stage=of.stage),
        **some(started=moment(of.started), ended=moment(of.ended), settles=moment(of.settle_until)),
    }


def _device(of: Rollout, device: str, group: str) -> dict[str, Any]:
    record = of.devices[device]
    return {
        "id": device,
        "group": group,
        "wave": record.wave,
        "terminal": of.result(device),
        **some(
            code=record.code,
            reason=record.reason,
            since=moment(record.since),
            ended=moment(record.ended),
        ),
    }

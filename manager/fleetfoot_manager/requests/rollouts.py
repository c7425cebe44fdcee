"""The verbs about rollouts: plan, start, list, show, and what a person may do to a live one."""

from typing import Any

from fleetfoot_manager import compose, derive, notes, planning, policies, rights, rollout, rollout_rows
from fleetfoot_manager.catalogue import ReleaseRow
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import fitted, moment, some
from fleetfoot_manager.rollout import (
    Cancel,
    Decide,
    Decision,
    Pause,
    Resume,
    Retry,
    Rollout,
    RolloutEvent,
    Start,
)
from fleetfoot_manager.work import Work
from fleetfoot_protocol import trust
from fleetfoot_protocol.documents import MAX_TARGETS
from fleetfoot_protocol.errors import FleetfootError, TrustError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import RolloutState, Terminal

_LISTED = 200
_SHOWN = 500
_NOTES = 3
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
    "rollout.decide": "group.upgrade.decide",
    "rollout.cancel": "group.upgrade.cancel",
    "rollout.retry": "group.upgrade.retry",
}


def plan(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.plan`: changes nothing."""
    asked = arguments.parse(arguments.RolloutPlan, request.arguments)
    rights.demand(work.house.root, request, asked.groups)
    made = planning.make(work.tx, asked, "r-plan", work.now)
    demand_signed(work, made.release)
    return {"plan": _described(work, made)}


def _described(work: Work, made: planning.Planned) -> dict[str, Any]:
    """The plan, with what people noted of earlier rollouts of the component."""
    found = [one.row() for one in notes.newest(work.tx, _NOTES, component=made.rollout.component)]
    shown = [{name: row[name] for name in ("rollout", "title", "category", "author", "at")} for row in found]
    return planning.describe(made) | {"notes": shown}


def demand_signed(work: Work, release: ReleaseRow) -> None:
    """A release whose signers have left the root since would be refused by every device: not even planned."""
    try:
        trust.verify_release(release.envelope, work.house.root)
    except TrustError as error:
        raise TrustError(
            error.upgrade_code,
            f"{release.component} {release.version}: {error.message}, by root {work.house.root.version}",
            remedy="have keys that the present root names sign it, as a release of a new version",
        ) from error


def start(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.start`: plans anew, and starts at once unless a group demands approval first."""
    asked = arguments.parse(arguments.RolloutPlan, request.arguments)
    rights.demand(work.house.root, request, asked.groups)
    _demand_no_other(work, asked)
    name = work.house.name("r-")
    made = planning.make(work.tx, asked, name, work.now)
    demand_signed(work, made.release)
    for group in asked.groups:
        _demand_room(work.intent(group, asked.component), group, asked.component)
    shown = _described(work, made)
    if shown["approval"]:
        shown["approval_id"] = name
    work.add(made.rollout)
    _tell_planned(work, made.rollout)
    policies.keep_order(work.tx, policies.Order(name, request.operator, asked))
    waits = made.rollout.state is RolloutState.AWAITING_APPROVAL
    after = made.rollout if waits else begin(work, made)
    data = {
        "rollout": name,
        "groups": list(asked.groups),
        "component": asked.component,
        "version": asked.version,
        "channel": made.release.channel,
        "strategy": "immediate" if asked.immediate else "waves",
        "waves": list(after.waves),
        "node_count": after.total,
        "approval": waits,
    }
    work.audit(request.operator, "group.upgrade.schedule", data)
    return {"rollout": name, "revision": after.revision, "state": str(after.state), "plan": shown}


def begin(work: Work, made: planning.Planned) -> Rollout:
    """Start a rollout that stands as planned, and tell it what its devices have said already."""
    name = made.rollout.id
    work.advance(name, Start())
    for entry in made.devices:
        status = entry.status
        own = entry.id in made.own
        report = derive.report(made.rollout, status, None, own=own) if status else None
        if report is not None and name in work.rollouts:
            work.advance(name, report)
    after = work.rollout(name)
    if after is None:
        raise AssertionError("a rollout that was just started is gone")
    return after


def _tell_planned(work: Work, of: Rollout) -> None:
    data = {"version": of.goal.version, "device_count": of.total, "waves": list(of.waves)}
    work.event(of.groups, Event.ROLLOUT_PLANNED, data, component=of.component, rollout=of.id)


def _demand_no_other(work: Work, asked: arguments.RolloutPlan) -> None:
    for of in work.rollouts.values():
        shared = sorted(set(of.groups) & set(asked.groups))
        if of.component == asked.component and shared:
            raise FleetfootError(
                "conflict",
                f"rollout {of.id} of {of.component} {of.goal.version} is {of.state} in {', '.join(shared)}",
                remedy=f"let it end, or cancel it: 'fleetfoot rollout cancel {of.id}'",
            )


def _demand_room(intent: compose.GroupIntent, group: str, component: str) -> None:
    if len(intent.standing) >= MAX_TARGETS:
        standing = ", ".join(target.rollout for target in intent.standing)
        raise FleetfootError(
            "conflict",
            f"group {group} has {MAX_TARGETS} standing targets for {component}: {standing}",
            remedy="complete an unrestricted rollout of a release at or above theirs",
        )


def listing(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.list`: newest first, of the groups that the operator may read."""
    asked = arguments.parse(arguments.RolloutList, request.arguments)
    root = work.house.root
    rights.demand_anywhere(root, request)
    found = sorted(work.rollouts.values(), key=lambda of: of.created, reverse=True)
    if asked.state == "all":
        found += rollout_rows.load(work.tx, live=False, limit=_LISTED)
    readable = [of for of in found if rights.reads_all(root, request, of.groups)]
    rows = [row_of(of) for of in readable[:_LISTED]]
    shown, _ = fitted(rows)
    more = len(readable) - len(shown)
    return {"rollouts": shown, **({"more": more} if more else {})}


def show(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.show`: with its devices, as many as fit; those that need a look come first then."""
    of = named(work, request, arguments.parse(arguments.RolloutName, request.arguments).rollout)
    members = list(of.cohort)
    if len(members) > _SHOWN:
        members.sort(key=lambda member: _INTERESTING.index(of.devices[member.device].terminal))
    rows = [_device(of, *member) for member in members[:_SHOWN]]
    rows, _ = fitted(rows)
    more = len(of.cohort) - len(rows)
    order = policies.order_of(work.tx, of.id)
    return {
        **row_of(of),
        **(order.row() if order else {}),
        "devices": rows,
        **({"more": more} if more else {}),
    }


def pause(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.pause`."""
    return _act(work, request, Pause(request.operator))


def resume(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.resume`."""
    return _act(work, request, Resume())


def cancel(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.cancel`."""
    return _act(work, request, Cancel())


def retry(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.retry`."""
    return _act(work, request, Retry())


def decide(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.decide`."""
    asked = arguments.parse(arguments.RolloutDecide, request.arguments)
    return _steer(work, request, asked.rollout, Decide(Decision(asked.decision)), decision=asked.decision)


def _act(work: Work, request: Request, event: RolloutEvent) -> dict[str, Any]:
    asked = arguments.parse(arguments.RolloutName, request.arguments)
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


def row_of(of: Rollout) -> dict[str, Any]:
    """A rollout as lists show it."""
    return {
        "rollout": of.id,
        "component": of.component,
        "version": of.goal.version,
        "digest": of.goal.digest,
        "groups": list(of.groups),
        "state": str(of.state),
        "reason": of.reason,
        "wave": of.wave,
        "waves": list(of.waves),
        "total": of.total,
        "counts": of.devices.counts,
        "revision": of.revision,
        "attempt": of.goal.attempt,
        **some(started=moment(of.started), ended=moment(of.ended), settles=moment(of.settle_until)),
    }


def _device(of: Rollout, device: str, group: str) -> dict[str, Any]:
    record = of.devices[device]
    return {
        "id": device,
        "group": group,
        "wave": record.wave,
        "terminal": str(record.terminal),
        **some(code=record.code, reason=record.reason, since=moment(record.since)),
    }

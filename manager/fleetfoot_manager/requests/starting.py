"""The verbs that plan and start rollouts, and how one is put in the place of what is under way."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fleetfoot_manager import compose, derive, hops, notes, planning, policies, rights, targets
from fleetfoot_manager.catalogue import ReleaseRow
from fleetfoot_manager.pace import strategy_of
from fleetfoot_manager.requests import arguments, rollout_arguments
from fleetfoot_manager.rollout import Rollout, Start, Supersede
from fleetfoot_manager.work import Work
from fleetfoot_protocol import trust
from fleetfoot_protocol.documents import MAX_TARGETS
from fleetfoot_protocol.errors import FleetfootError, TrustError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import RolloutState

_NOTES = 3


def plan(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.plan`: changes nothing."""
    asked = _asked(work, request)
    _, made, shown = _planned(work, asked, "r-plan")
    demand_signed(work, made.release)
    try:
        shown["supersedes"] = [of.id for of in _in_place_of(work, made, asked)]
    except FleetfootError as error:
        shown["blocked"] = f"{error.message}; {error.remedy}" if error.remedy else error.message
    return {"plan": shown}


def _asked(work: Work, request: Request) -> rollout_arguments.RolloutPlan:
    """What was asked for, by somebody who may ask it of all these groups."""
    asked = arguments.parse(rollout_arguments.RolloutPlan, request.arguments)
    # Who may do nothing anywhere learns no names here.
    rights.demand_anywhere(work.house.root, request)
    asked = targets.resolved(work.tx, asked)
    rights.demand(work.house.root, request, asked.groups)
    return asked


def _planned(
    work: Work, asked: rollout_arguments.RolloutPlan, name: str
) -> tuple[list[rollout_arguments.RolloutPlan], planning.Planned, dict[str, Any]]:
    """What is asked for hop by hop, the plan of the first hop, and both as they are shown."""
    steps = hops.of(work.tx, asked)
    made = planning.make(work.tx, steps[0], name, work.now)
    found = [one.row() for one in notes.newest(work.tx, _NOTES, component=made.rollout.component)]
    fields = ("rollout", "title", "category", "author", "at")
    shown = planning.describe(made)
    shown["notes"] = [{name: row[name] for name in fields} for row in found]
    if len(steps) > 1:
        shown["chain"] = [step.version for step in steps]
        shown["estimated_total_seconds"] *= len(steps)
    return steps, made, shown


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
    asked = _asked(work, request)
    name = work.house.name("r-")
    steps, made, shown = _planned(work, asked, name)
    demand_signed(work, made.release)
    shown["supersedes"] = [of.id for of in _in_place_of(work, made, asked)]
    if shown["approval"]:
        shown["approval_id"] = name
    work.add(made.rollout)
    tell_planned(work, made.rollout)
    policies.keep_order(work.tx, policies.Order(name, request.operator, steps[0]))
    following = _follow(work, request, name, steps[1:])
    waits = made.rollout.state is RolloutState.AWAITING_APPROVAL
    after = made.rollout if waits else begin(work, made, steps[0])
    data = {
        "rollout": name,
        "groups": list(asked.groups),
        "component": asked.component,
        "version": asked.version,
        "channel": made.release.channel,
        "strategy": strategy_of(asked),
        "waves": list(after.waves),
        "node_count": after.total,
        "approval": waits,
        **({"chain": [name, *following]} if following else {}),
    }
    work.audit(request.operator, "group.upgrade.schedule", data)
    chain = {"chain": [name, *following]} if following else {}
    return {"rollout": name, "revision": after.revision, "state": str(after.state), "plan": shown, **chain}


def _follow(
    work: Work, request: Request, before: str, steps: Iterable[rollout_arguments.RolloutPlan]
) -> list[str]:
    """Plan the further hops of a chain: each begins once the one before it has completed."""
    names = []
    for step in steps:
        name = work.house.name("r-")
        made = planning.make(work.tx, step, name, work.now)
        waiting = replace(made.rollout, after=before)
        work.add(waiting)
        tell_planned(work, waiting)
        policies.keep_order(work.tx, policies.Order(name, request.operator, step))
        names.append(name)
        before = name
    return names


def begin(work: Work, made: planning.Planned, asked: rollout_arguments.RolloutPlan) -> Rollout:
    """Start a rollout that stands as planned, and tell it what its devices have said already."""
    return put_in_place(work, made.rollout, _in_the_way(work, made.rollout, asked), made)


def put_in_place(
    work: Work, of: Rollout, others: Iterable[Rollout], made: planning.Planned | None = None
) -> Rollout:
    """Start a rollout in the place of these others."""
    for other in others:
        work.advance(other.id, Supersede(of.id))
    work.advance(of.id, Start())
    for entry in work.devices.members(work.tx, of.groups) if made is None else made.devices:
        status = entry.status
        own = made is not None and entry.id in made.own
        report = derive.report(of, status, None, own=own) if status else None
        if report is not None and of.id in work.rollouts:
            work.advance(of.id, report)
    after = work.rollout(of.id)
    if after is None:
        raise AssertionError("a rollout that was just started is gone")
    return after


def tell_planned(work: Work, of: Rollout) -> None:
    """The event of a rollout that has just been planned."""
    data = {"version": of.goal.version, "device_count": of.total, "waves": list(of.waves)}
    work.event(of.groups, Event.ROLLOUT_PLANNED, data, component=of.component, rollout=of.id)


def _in_place_of(work: Work, made: planning.Planned, asked: rollout_arguments.RolloutPlan) -> list[Rollout]:
    """The rollouts that would end for this one. FleetfootError `conflict` where there is no place for it."""
    others = _in_the_way(work, made.rollout, asked)
    for group in asked.groups:
        _demand_room(work, work.intent(group, asked.component), group, asked.component, others)
    return others


def _in_the_way(work: Work, new: Rollout, asked: rollout_arguments.RolloutPlan) -> list[Rollout]:
    """The rollouts that this one takes the place of. FleetfootError `conflict` for one that it cannot."""
    found = []
    for of in work.rollouts.values():
        shared = sorted(set(of.groups) & set(new.groups))
        if of.component != new.component or not shared or of.id == new.id or of.after == new.id:
            continue
        whole = set(of.groups) <= set(new.groups) and of.state is not RolloutState.ROLLING_BACK
        if asked.supersede and whole:
            found.append(of)
        elif of.priority == new.priority or of.goal.digest == new.goal.digest or of.after:
            raise FleetfootError(
                "conflict",
                f"rollout {of.id} of {of.component} {of.goal.version} is {of.state} in {', '.join(shared)}",
                remedy=f"let it end, or cancel it: 'fleetfoot rollout cancel {of.id}'; or take its place with"
                " --supersede, if all of its groups are named; or stand above or below it with --priority",
            )
    return found


def _demand_room(
    work: Work, intent: compose.GroupIntent, group: str, component: str, leaving: list[Rollout]
) -> None:
    gone = {of.id for of in leaving}
    live = [of.id for of in work.rollouts.values() if of.component == component and group in of.groups]
    there = [target.rollout for target in intent.standing] + [name for name in live if name not in gone]
    if len(there) >= MAX_TARGETS:
        raise FleetfootError(
            "conflict",
            f"group {group} has {MAX_TARGETS} targets for {component}: {', '.join(there)}",
            remedy="complete an unrestricted rollout of a release at or above theirs",
        )

"""The life of releases in a transaction: who needs one, recalling it everywhere, and lifting that again."""

import json
from collections.abc import Iterator
from dataclasses import replace

import sqlalchemy as sa

from fleetfoot_manager import acts, catalogue, documents, inventory, schema
from fleetfoot_manager.catalogue import Life, ReleaseRow
from fleetfoot_manager.effects import Lift, Withdraw
from fleetfoot_manager.rollout import Bless, Cancel, Decide, Decision
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState
from fleetfoot_protocol.topics import Kind

#: Those who need a release, named in a refusal at most.
_NAMED = 5
_NOT_STARTED = (RolloutState.PLANNED, RolloutState.AWAITING_APPROVAL)


def promote(work: Work, row: ReleaseRow, to: Life, actor: str) -> None:
    """Let a release serve more. What it serves already is no change. Rollouts that wait for it go on.

    Raises FleetfootError `state_refused` for an archived or recalled one, and for a way back.
    """
    if row.life == to:
        return
    catalogue.demand_serving(work.tx, row)
    if to not in catalogue.PROMOTIONS[Life(row.life)]:
        raise FleetfootError("state_refused", f"{row.component} {row.version} is {row.life}, not below {to}")
    catalogue.live_on(work.tx, row.digest, to)
    about = {"component": row.component, "version": row.version, "digest": row.digest}
    work.audit(actor, "release.promote", {**about, "from": row.life, "to": str(to)})
    for of in list(work.rollouts.values()):
        if of.goal.digest == row.digest:
            work.advance(of.id, Bless())


def archive(work: Work, row: ReleaseRow) -> None:
    """Let a release serve nobody any more. FleetfootError `conflict` naming those who need it."""
    needed = list(needed_by(work, row))
    if needed:
        more = f" and {len(needed) - _NAMED} more" if len(needed) > _NAMED else ""
        raise FleetfootError(
            "conflict",
            f"{row.component} {row.version} is needed: {', '.join(needed[:_NAMED])}{more}",
            remedy="upgrade those who run it or go back to it first, and complete or cancel their rollouts",
        )
    catalogue.live_on(work.tx, row.digest, Life.ARCHIVED)
    documents.drop(work.tx, documents.place(Kind.RELEASE, component=row.component, digest=row.digest))


def needed_by(work: Work, row: ReleaseRow) -> Iterator[str]:
    """Who needs a release, in words: groups, rollouts, devices that run it, go to it or may come back."""
    for of in work.rollouts.values():
        if of.goal.digest == row.digest:
            yield f"rollout {of.id} ({of.state})"
    for act in acts.standing(work.tx, row.component).values():
        if act.goal is not None and act.goal.digest == row.digest:
            yield f"{act.kind} of {act.device}"
    for group in every_group(work):
        intent = work.intent(group, row.component)
        if intent.baseline is not None and intent.baseline.digest == row.digest:
            yield f"baseline of group {group}"
        for target in intent.standing:
            if target.goal.digest == row.digest:
                yield f"standing target {target.rollout} of group {group}"
    for entry in work.devices.members(work.tx, inventory.groups(work.tx)):
        one = entry.status.components.get(row.component) if entry.status else None
        if one is None:
            continue
        if one.running is not None and one.running.digest == row.digest:
            yield f"runs on {entry.id}"
        elif one.target == row.digest and one.state != "idle":
            yield f"{entry.id} is on the way to it"
        elif one.previous is not None and one.previous.digest == row.digest:
            yield f"way back of {entry.id}"


def every_group(work: Work) -> list[str]:
    """The groups that are there, and those that are told anything."""
    tx = work.tx
    told = tx.scalars(sa.select(schema.intents.c.group).distinct())
    return sorted(
        {*inventory.known_groups(tx), *told, *(g for of in work.rollouts.values() for g in of.groups)}
    )


def recall(work: Work, row: ReleaseRow, reason: str, operator: str) -> list[str]:
    """Withdraw a release in every group until it is lifted; returns the groups.

    Rollouts of it go back, or are canceled if they have not started. Raises FleetfootError `state_refused`
    if it is recalled already, `conflict` where a group can withdraw no more.
    """
    known = catalogue.recall_of(work.tx, row.digest)
    if known is not None:
        raise FleetfootError(
            "state_refused", f"{row.component} {row.version} is recalled already: {known.reason}"
        )
    groups = every_group(work)
    before = [group for group in groups if row.digest in work.intent(group, row.component).withdrawn]
    work.tx.execute(
        sa.insert(schema.recalls).values(
            digest=row.digest,
            component=row.component,
            reason=reason,
            operator=operator,
            at=work.now,
            before=json.dumps(before),
        )
    )
    for of in list(work.rollouts.values()):
        if of.goal.digest != row.digest:
            continue
        if of.state in _NOT_STARTED:
            work.advance(of.id, Cancel("the release was recalled"))
        elif of.state is not RolloutState.ROLLING_BACK:
            work.advance(of.id, Decide(Decision.ROLLBACK))
    for act in acts.standing(work.tx, row.component).values():
        if act.goal is not None and act.goal.digest == row.digest:
            work.put_act(replace(act, state=acts.RELEASED, outcome="canceled", code=""))
    for group in groups:
        work.change_intent(group, row.component, Withdraw(row.digest))
        work.renew_desired(group, row.component)
    return groups


def lift(work: Work, row: ReleaseRow) -> list[str]:
    """Take a recall back; returns the groups. Where a rollback had withdrawn the release before, that stays.

    Raises FleetfootError `state_refused` if it is not recalled.
    """
    known = catalogue.recall_of(work.tx, row.digest)
    if known is None:
        raise FleetfootError("state_refused", f"{row.component} {row.version} is not recalled")
    work.tx.execute(sa.delete(schema.recalls).where(schema.recalls.c.digest == row.digest))
    groups = [
        group
        for group in every_group(work)
        if group not in known.before and row.digest in work.intent(group, row.component).withdrawn
    ]
    for group in groups:
        work.change_intent(group, row.component, Lift(row.digest))
        work.renew_desired(group, row.component)
    return groups


def adopt(work: Work, group: str) -> None:
    """Tell a group that has just come to be of every recall that stands."""
    for known in catalogue.recalls(work.tx):
        if known.digest not in work.intent(group, known.component).withdrawn:
            work.change_intent(group, known.component, Withdraw(known.digest))
            work.renew_desired(group, known.component)

"""The verbs about groups: who is in them and runs what, who differs from what is wanted, and policies."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from fleetfoot_manager import catalogue, inventory, lives, planning, policies, publisher, rights, schema
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import fitted, some
from fleetfoot_manager.requests.devices import badge_of
from fleetfoot_manager.wording import counted
from fleetfoot_manager.work import Work
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import ComponentStatus, Request, Status
from fleetfoot_protocol.resolve import Act, Device, Plan, Why, resolve
from fleetfoot_protocol.topics import Kind

#: Answers of `resolve` with which a device is where its documents want it.
_AT_HOME = frozenset({Why.CURRENT, Why.PINNED, Why.NO_GOAL})
_NOTHING = "nothing"


def listing(work: Work, request: Request) -> dict[str, Any]:
    """`group.list`: the groups that the operator may read."""
    arguments.parse(arguments.Nothing, request.arguments)
    rights.demand_anywhere(work.house.root, request)
    names = rights.readable(work.house.root, request, inventory.known_groups(work.tx))
    rows, more = fitted([_row(work, name) for name in names])
    return {"groups": rows, **({"more": more} if more else {})}


def show(work: Work, request: Request) -> dict[str, Any]:
    """`group.show`: one group with its policy."""
    return _row(work, _named(work, request))


def _named(work: Work, request: Request) -> str:
    asked = arguments.parse(arguments.GroupName, request.arguments)
    rights.demand(work.house.root, request, [asked.group])
    if asked.group not in inventory.known_groups(work.tx):
        raise FleetfootError("not_found", f"there is no group {asked.group}")
    return asked.group


def _row(work: Work, group: str) -> dict[str, Any]:
    entries = work.devices.members(work.tx, [group])
    components = summary(entries)
    for name, one in components.items():
        intent = work.intent(group, name)
        one |= some(baseline=intent.baseline.version if intent.baseline else None)
        one |= {"standing": len(intent.standing), "withdrawn": len(intent.withdrawn)}
    title = work.tx.scalar(sa.select(schema.groups.c.title).where(schema.groups.c.id == group))
    return {
        "group": group,
        **some(title=title),
        "devices": len(entries),
        "online": sum(entry.online for entry in entries),
        "components": components,
        "policy": policies.of_group(work.tx, group).model_dump(),
    }


def summary(entries: Iterable[DeviceEntry]) -> dict[str, dict[str, Any]]:
    """component -> how many devices run which version and are in which state (by the words of badges)."""
    versions: dict[str, Counter[str]] = {}
    states: dict[str, Counter[str]] = {}
    for entry in entries:
        for name, one in entry.status.components.items() if entry.status else ():
            running = one.running.version if one.running else _NOTHING
            versions.setdefault(name, Counter())[running] += 1
            states.setdefault(name, Counter())[badge_of(one)[0]] += 1
    return {
        name: {"versions": dict(versions[name].most_common()), "states": dict(states[name].most_common())}
        for name in sorted(versions)
    }


def drift(work: Work, request: Request) -> dict[str, Any]:
    """`group.drift`: devices that are not where the documents want them, and why as far as is known."""
    group = _named(work, request)
    table = schema.documents.c
    told = work.tx.scalars(
        sa.select(table.component).where(table.kind == str(Kind.GROUP_DESIRED), table.group == group)
    )
    wanted = {name: publisher.stored_desired(work.tx, group, name) for name in sorted(told)}
    entries = work.devices.members(work.tx, [group])
    rows = [row for entry in entries for row in _drift_of(work, entry, wanted)]
    unheard = [entry.id for entry in entries if entry.status is None]
    shown, more = fitted(rows)
    found = {"group": group, "devices": len(entries), "drift": shown, "unheard": unheard[:100]}
    return {**found, "unheard_count": len(unheard), **({"more": more} if more else {})}


def _drift_of(work: Work, entry: DeviceEntry, wanted: dict[str, Desired | None]) -> list[dict[str, Any]]:
    status, found = entry.status, []
    if status is None:
        return []
    for name, one in status.components.items():
        own = publisher.stored_own(work.tx, entry.group, entry.id, name)
        device = Device(entry.id, status.labels, one.running, one.previous, one.refused, one.floor)
        plan = resolve(wanted.get(name), own, device)
        if plan.why not in _AT_HOME:
            document = own if own is not None and not own.released else wanted.get(name)
            found.append(_drift_row(work, entry, status, name, one, plan, document))
    return found


def _drift_row(
    work: Work,
    entry: DeviceEntry,
    status: Status,
    name: str,
    one: ComponentStatus,
    plan: Plan,
    document: Desired | None,
) -> dict[str, Any]:
    code, reason = str(plan.code or ""), ""
    row = catalogue.by_digest(work.tx, plan.goal.digest) if plan.goal else None
    if plan.act is Act.INSTALL and plan.goal is not None and row is not None:
        refused = planning.refusal(status, row.manifest, plan.goal)
        code, reason = (str(refused.code), refused.reason) if refused else _its_own_word(one, document)
    return {
        "device": entry.id,
        "component": name,
        "online": entry.online,
        "act": str(plan.act),
        "why": str(plan.why),
        **some(
            runs=one.running.version if one.running else None,
            wants=plan.goal.version if plan.goal else None,
            rollout=plan.rollout,
            code=code,
            reason=reason,
        ),
        "badge": badge_of(one)[0],
    }


def _its_own_word(one: ComponentStatus, document: Desired | None) -> tuple[str, str]:
    """(code, reason) with which the device answered the document that stands, if it did not accept it."""
    said = one.answered
    if said is None or document is None or (said.epoch, said.sequence) != document.order:
        return "", ""
    return said.code, said.reason


def create(work: Work, request: Request) -> dict[str, Any]:
    """`group.create`: a group before its first device; recalls that stand count there at once."""
    asked = arguments.parse(arguments.GroupCreate, request.arguments)
    rights.demand(work.house.root, request, [asked.group])
    if asked.group in inventory.known_groups(work.tx):
        raise FleetfootError("exists_already", f"group {asked.group} is there already")
    inventory.remember_group(work.tx, asked.group, work.now, asked.title)
    lives.adopt(work, asked.group)
    work.renew_heartbeat(asked.group)
    work.audit(request.operator, "group.create", {"group": asked.group, "title": asked.title})
    return _row(work, asked.group)


def forget(work: Work, request: Request) -> dict[str, Any]:
    """`group.forget`: one without devices; what the manager keeps retained for it is cleared.

    History and audit log go on to name it. Sequences grow with time, so that a group of this name that is
    made later is not below what a device has heard of this one.
    """
    group = _named(work, request)
    devices, _ = inventory.counts(work.tx, [group])
    if devices:
        raise FleetfootError(
            "conflict",
            f"group {group} has {counted(devices, 'device')}",
            remedy=f"move or forget them first: 'fleetfoot device list --group {group}'",
        )
    if live := [of.id for of in work.rollouts.values() if group in of.groups]:
        raise FleetfootError(
            "conflict",
            f"group {group} is of rollout {', '.join(sorted(live))}, which is not over",
            remedy=f"complete or cancel it first: 'fleetfoot rollout show {min(live)}'",
        )
    cleared = work.forget_group(group)
    for table in (schema.intents, schema.policies):
        work.tx.execute(sa.delete(table).where(table.c.group == group))
    work.tx.execute(sa.delete(schema.groups).where(schema.groups.c.id == group))
    work.audit(request.operator, "group.forget", {"group": group})
    return {"group": group, "cleared": cleared}


def policy(work: Work, request: Request) -> dict[str, Any]:
    """`group.policy`: what is given is changed; also for a group that has no devices yet."""
    asked = arguments.parse(arguments.GroupPolicy, request.arguments)
    rights.demand(work.house.root, request, [asked.group])
    before = policies.of_group(work.tx, asked.group)
    after = before.model_copy(update=asked.model_dump(exclude_none=True, exclude={"group"}))
    if after != before:
        policies.keep(work.tx, asked.group, after)
        data = {"group": asked.group, "before": before.model_dump(), "after": after.model_dump()}
        work.audit(request.operator, "group.policy", data)
    return {"group": asked.group, "policy": after.model_dump()}

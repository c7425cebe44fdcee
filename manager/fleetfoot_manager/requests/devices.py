"""The verbs about devices: enroll, list, show."""

import json
from collections.abc import Mapping
from typing import Any

from fleetfoot_manager import catalogue, inventory, lives, revocation, rights, support
from fleetfoot_manager.inventory import DeviceEntry, Enrolled
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import BUDGET, fitted, moment, some
from fleetfoot_manager.requests.device_admin import leave
from fleetfoot_manager.work import Work
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.reports import ComponentStatus, OutcomeRecord, Problem, Request
from fleetfoot_protocol.states import BADGES, Lifecycle, Outcome, Verdict, shown_outcome

_AUDITED: dict[Enrolled, str] = {
    Enrolled.ADDED: "device.enroll",
    Enrolled.RELABELLED: "device.enroll",
    Enrolled.REPLACED: "device.enroll",
    Enrolled.MOVED: "device.move",
}


def enroll(work: Work, request: Request) -> dict[str, Any]:
    """`device.enroll`: all of them or none."""
    asked = arguments.parse(arguments.Enroll, request.arguments)
    rights.demand(work.house.root, request, {one.group for one in asked.devices})
    enrolled = unchanged = 0
    known_groups = set(inventory.known_groups(work.tx))
    known = {entry.id: entry for entry in inventory.named(work.tx, [one.id for one in asked.devices])}
    revocation.forgive(work.tx, *(one.id for one in asked.devices))
    for one in asked.devices:
        before = known.get(one.id)
        if before is not None:
            rights.demand(work.house.root, request, [before.group])
        did = inventory.enroll_over(
            work.tx, before, one.id, one.group, one.key, one.labels, work.now, replace=one.replace
        )
        if did is Enrolled.UNCHANGED:
            unchanged += 1
            continue
        enrolled += 1
        if before is not None and did in (Enrolled.MOVED, Enrolled.RELABELLED):
            support.demand(work.tx, before)
        if did is Enrolled.MOVED and before is not None:
            leave(work, before)
        work.devices.forget(one.id)
        work.devices.bouncer.changed()
        data = {"device": one.id, "group": one.group, "key": one.key, "labels": dict(one.labels)}
        work.audit(request.operator, _AUDITED[did], data)
        if did is Enrolled.ADDED:
            entry = DeviceEntry(one.id, one.group, bytes.fromhex(one.key), one.labels)
        else:
            entry = inventory.demand(work.tx, one.id)
        known[one.id] = entry
        work.join(entry.id, entry.group, entry.labels)
        work.newcomers.append((entry.group, entry.id))
    for group in {one.group for one in asked.devices} - known_groups:
        lives.adopt(work, group)
        work.renew_heartbeat(group)
    return {"enrolled": enrolled, "unchanged": unchanged}


def listing(work: Work, request: Request) -> dict[str, Any]:
    """`device.list`: a page of the groups that the operator may read."""
    asked = arguments.parse(arguments.DeviceList, request.arguments)
    root = work.house.root
    if asked.group is not None:
        rights.demand(root, request, [asked.group])
        groups = [asked.group]
    else:
        rights.demand_anywhere(root, request)
        groups = rights.readable(root, request, inventory.groups(work.tx))
    entries = inventory.page(work.tx, groups, asked.after, asked.limit + 1)
    versions = catalogue.versions(work.tx)
    newest = support.newest(work.tx)
    rows, _ = fitted([_flagged(row_of(entry, versions), entry, newest) for entry in entries[: asked.limit]])
    more = len(rows) < len(entries)
    return {"devices": rows, **({"next": rows[-1]["id"]} if more and rows else {})}


def show(work: Work, request: Request) -> dict[str, Any]:
    """`device.show`."""
    asked = arguments.parse(arguments.DeviceShow, request.arguments)
    entry = inventory.demand(work.tx, asked.device)
    rights.demand(work.house.root, request, [entry.group])
    row = _flagged(row_of(entry, catalogue.versions(work.tx)), entry, support.newest(work.tx))
    row["own"] = {act.component: act.row() for act in work.acts_of(entry.id)}
    problem = _last_problem(entry)
    if problem is not None:
        row["last_error"] = {**problem.model_dump(mode="json"), "remedy": _remedy(problem.code)}
    if entry.status_bytes is not None and len(entry.status_bytes) <= BUDGET - len(json.dumps(row)):
        row["status"] = json.loads(entry.status_bytes)
    return row


def _flagged(row: dict[str, Any], entry: DeviceEntry, newest: Mapping[str, str]) -> dict[str, Any]:
    """The row, saying by component why the device is out of support, if it is."""
    return {**row, **({"unsupported": found} if (found := support.behind(entry, newest)) else {})}


def row_of(entry: DeviceEntry, versions: dict[str, str]) -> dict[str, Any]:
    """A device as lists show it. `versions`: release digest -> version."""
    status = entry.status
    components = {} if status is None else status.components
    return {
        **some(
            id=entry.id,
            group=entry.group,
            platform=f"{status.platform.os}/{status.platform.arch}" if status else None,
            agent=status.agent if status else None,
            last_seen=moment(entry.last_seen),
        ),
        "online": entry.online,
        "key": entry.key.hex(),
        "labels": dict(entry.labels),
        "alarms": list(status.alarms) if status else [],
        "components": {name: _component(one, versions) for name, one in components.items()},
    }


def _component(one: ComponentStatus, versions: dict[str, str]) -> dict[str, Any]:
    badge, code, reason = badge_of(one)
    target = one.target if one.state is not Lifecycle.IDLE else None
    return some(
        version=one.running.version if one.running else None,
        digest=one.running.digest if one.running else None,
        state=str(one.state),
        badge=badge,
        target=versions.get(target, target[:12]) if target else None,
        code=code,
        reason=reason,
        rollout=one.rollout,
    )


def badge_of(one: ComponentStatus) -> tuple[str, str, str]:
    """(badge, code, reason): what is in hand, else how the last work ended, else a standing rejection."""
    answered = one.answered
    if one.state is not Lifecycle.IDLE:
        code = answered.code if answered and answered.verdict is Verdict.DEFERRED else ""
        return BADGES[one.state].word, code, one.reason or (answered.reason if answered else "")
    rejected = answered is not None and answered.verdict is Verdict.REJECTED
    if answered is not None and rejected and answered.code != Code.UPGRADE_REFUSED_BEFORE:
        return BADGES["rejected"].word, answered.code, answered.reason
    last = _newest(one.outcomes)
    if last is not None:
        running = (one.running.digest, one.running.counter) if one.running else ("", 0)
        completed = [record.digest for record in one.outcomes if record.outcome is Outcome.COMPLETED]
        before = one.previous.counter if one.previous else None
        shown = shown_outcome(last.outcome, last.digest, running, before, completed)
        return BADGES[shown].word, last.code, ""
    return BADGES[one.state].word, "", one.reason


def _newest(outcomes: tuple[OutcomeRecord, ...]) -> OutcomeRecord | None:
    return max(enumerate(outcomes), key=lambda item: (item[1].at, item[0]))[1] if outcomes else None


def _last_problem(entry: DeviceEntry) -> Problem | None:
    status = entry.status
    found = [one.last_error for one in status.components.values() if one.last_error] if status else []
    return max(found, key=lambda problem: problem.at, default=None)


def _remedy(code: str) -> str:
    return info(Code(code)).remedy if code in set(Code) else ""

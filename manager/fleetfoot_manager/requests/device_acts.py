"""The verbs about one device: upgrade, downgrade, pin, unpin, release, and what it could go to."""

from typing import Any

from fleetfoot_manager import acts, catalogue, inventory, planning, publisher, rights, support
from fleetfoot_manager.acts import Act
from fleetfoot_manager.catalogue import Life, ReleaseRow
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import moment, some
from fleetfoot_manager.work import Work
from fleetfoot_protocol import versions
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import ComponentStatus, Installed, Request, Status
from fleetfoot_protocol.resolve import Act as Asks
from fleetfoot_protocol.resolve import Device, resolve
from fleetfoot_protocol.states import Outcome

#: Releases in each list, reachable ones and others apart.
_LISTED = 10
_BOUND = 200


def upgrade(work: Work, request: Request) -> dict[str, Any]:
    """`device.upgrade`: to a newer release; a device that is ahead stays."""
    return _move(work, request, "upgrade")


def downgrade(work: Work, request: Request) -> dict[str, Any]:
    """`device.downgrade`: to an older release, the signed permission to go down."""
    return _move(work, request, "downgrade")


def _move(work: Work, request: Request, kind: str) -> dict[str, Any]:
    asked = arguments.parse(arguments.DeviceAct, request.arguments)
    entry, one = _component(work, request, asked.device, asked.component)
    row = catalogue.demand(work.tx, asked.component, asked.version)
    run = one.running
    if run is not None and run.digest == row.digest and not asked.pin:
        return _there(work, entry, asked.component, kind, row)
    if run is not None and kind == "upgrade" and run.digest != row.digest and row.counter <= run.counter:
        raise UpgradeError(
            Code.UPGRADE_DOWNGRADE_REFUSED,
            f"{entry.id} runs {run.version}, which is newer than {row.version}",
            remedy="to go down, ask for 'fleetfoot device downgrade'",
        )
    if kind == "downgrade" and (run is None or row.counter >= run.counter) and run != _installed(row):
        has = f"runs {run.version}" if run else "runs nothing"
        raise FleetfootError("state_refused", f"{entry.id} {has}: {row.version} is not below that")
    if kind == "downgrade":
        support.demand(work.tx, entry, asked.component)
    goal = _goal(work, entry, one, row, "at_least" if kind == "upgrade" else "exactly")
    if not asked.pin:
        _demand_rest(work, entry, one, row)
    return _put(work, request, entry, asked.component, kind, goal, row, pins=asked.pin)


def _there(work: Work, entry: DeviceEntry, component: str, kind: str, row: ReleaseRow) -> dict[str, Any]:
    """The release runs: nothing is ordered. FleetfootError `conflict` where an order takes it elsewhere."""
    for act in work.acts_of(entry.id):
        goal = act.goal
        if act.component == component and act.stands and goal is not None and goal.digest != row.digest:
            raise FleetfootError(
                "conflict",
                f"{entry.id} runs {row.version} already, and is ordered to {goal.version} by {act.operator}",
                remedy=f"end that first: 'fleetfoot device release {entry.id} {component}'",
            )
    return {
        "device": entry.id,
        "group": entry.group,
        "component": component,
        "act": "",
        "kind": kind,
        "state": acts.RELEASED,
        "outcome": str(Outcome.COMPLETED),
        "already": True,
        "version": row.version,
        "digest": row.digest,
        "online": entry.online,
    }


def _installed(row: ReleaseRow) -> Installed:
    return Installed(version=row.version, counter=row.counter, digest=row.digest)


def pin(work: Work, request: Request) -> dict[str, Any]:
    """`device.pin`: stays at a version, or at what runs, whatever its group is told; recalls still count."""
    asked = arguments.parse(arguments.DevicePin, request.arguments)
    entry, one = _component(work, request, asked.device, asked.component)
    support.demand(work.tx, entry, asked.component)
    if asked.version is None:
        return _put(work, request, entry, asked.component, "pin", None, None, pins=True)
    row = catalogue.demand(work.tx, asked.component, asked.version)
    goal = _goal(work, entry, one, row, "exactly")
    return _put(work, request, entry, asked.component, "pin", goal, row, pins=True)


def unpin(work: Work, request: Request) -> dict[str, Any]:
    """`device.unpin`: a device that is pinned obeys its group again."""
    return _release(work, request, pinned=True)


def release(work: Work, request: Request) -> dict[str, Any]:
    """`device.release`: whatever was asked of a device apart from its group is over."""
    return _release(work, request, pinned=False)


def _release(work: Work, request: Request, *, pinned: bool) -> dict[str, Any]:
    asked = arguments.parse(arguments.DeviceComponent, request.arguments)
    entry = _device(work, request, asked.device)
    known = next((act for act in work.acts_of(entry.id) if act.component == asked.component), None)
    if known is None or not known.stands or (pinned and not known.pins):
        what = "is not pinned" if pinned else "has no document of its own"
        raise FleetfootError("state_refused", f"{asked.component} of {entry.id} {what}")
    own = publisher.stored_own(work.tx, entry.group, entry.id, asked.component)
    expires = work.now + publisher.DESIRED_SECONDS if known.pins else known.expires
    after = Act(**{**_fields(known), "state": acts.RELEASED, "expires": expires})
    work.put_act(after)
    _audit(work, request, entry, after, "release" if own else "withdraw")
    return _row(entry, after)


def _fields(act: Act) -> dict[str, Any]:
    return {name: getattr(act, name) for name in act.__slots__}


def _device(work: Work, request: Request, device: str) -> DeviceEntry:
    entry = inventory.find(work.tx, device)
    if entry is None:
        rights.demand_anywhere(work.house.root, request)
        raise FleetfootError("not_found", f"no device {device} is enrolled")
    rights.demand(work.house.root, request, [entry.group])
    return entry


def _component(
    work: Work, request: Request, device: str, component: str
) -> tuple[DeviceEntry, ComponentStatus]:
    """The device and what it says of a component, if the operator has the verb's right in its group."""
    entry = _device(work, request, device)
    one = entry.status.components.get(component) if entry.status else None
    if one is None:
        said = "no such component" if entry.status else "nothing yet"
        raise FleetfootError("state_refused", f"{device} has said {said} of {component}")
    return entry, one


def _goal(work: Work, entry: DeviceEntry, one: ComponentStatus, row: ReleaseRow, mode: Any) -> Goal:
    """The goal, if the release serves the device and the device is not known to refuse it.

    What failed on the device before may be tried once more: a person asks for it by name.
    """
    catalogue.demand_serving(work.tx, row)
    if row.digest in work.intent(entry.group, row.component).withdrawn:
        raise FleetfootError(
            "state_refused",
            f"{row.component} {row.version} is withdrawn in group {entry.group} since a rollback",
            remedy="start a rollout of it, which lifts that, or choose another release",
        )
    goal = Goal(
        version=row.version,
        counter=row.counter,
        digest=row.digest,
        length=max(artifact.length for artifact in row.manifest.artifacts),
        attempt=one.refused.get(row.digest, 0) + 1,
        mode=mode,
    )
    status = entry.status
    answer = planning.refusal(status, row.manifest, goal) if status else None
    if answer is not None and answer.code is not None:
        reason = answer.reason
        if answer.code is Code.UPGRADE_HOP_REQUIRED:
            reason = _hop(one.running, row.version)
        raise UpgradeError(answer.code, f"{entry.id} would refuse {row.version}: {reason}")
    return goal


def _hop(run: Installed | None, version: str) -> str:
    """What has to come first, in words: at most one major per hop."""
    here, there = versions.major(run.version) if run else 0, versions.major(version)
    if there > here:
        return f"requires upgrade to {here + 1}.x first"
    return f"requires downgrade to {here - 1}.x first"


def _demand_rest(work: Work, entry: DeviceEntry, one: ComponentStatus, row: ReleaseRow) -> None:
    """Refuse an act that the group's document would undo as soon as it is done."""
    group = work.desired_now(entry.group, row.component)
    after = Device(
        entry.id, entry.labels, run=_installed(row), prev=one.running, refused=one.refused, floor=one.floor
    )
    plan = resolve(group, None, after)
    if plan.act in (Asks.INSTALL, Asks.STAGE) and plan.goal is not None:
        raise FleetfootError(
            "state_refused",
            f"group {entry.group} would bring {entry.id} to {plan.goal.version} as soon as it is done",
            remedy="pin it as well: the same command with --pin",
        )


def _put(
    work: Work,
    request: Request,
    entry: DeviceEntry,
    component: str,
    kind: str,
    goal: Goal | None,
    row: ReleaseRow | None,
    *,
    pins: bool,
) -> dict[str, Any]:
    life = publisher.DESIRED_SECONDS if pins else acts.LIFE_SECONDS
    act = Act(
        device=entry.id,
        component=component,
        act=work.house.name("d-"),
        kind=kind,
        goal=goal,
        pins=pins,
        operator=request.operator,
        created=work.now,
        expires=work.now + life,
        state=acts.HELD if goal is None else acts.OPEN,
    )
    work.put_act(act)
    work.devices.expect_act(work.tx, entry.id, True)
    _audit(work, request, entry, act, kind, row)
    return _row(entry, act)


def _audit(
    work: Work, request: Request, entry: DeviceEntry, act: Act, what: str, row: ReleaseRow | None = None
) -> None:
    data = {
        "device": entry.id,
        "group": entry.group,
        "component": act.component,
        "act": act.act,
        "kind": what,
    }
    data |= some(version=act.goal.version if act.goal else None, channel=row.channel if row else None)
    work.audit(request.operator, "node.upgrade.request", {**data, "pins": act.pins})


def _row(entry: DeviceEntry, act: Act) -> dict[str, Any]:
    return {
        "device": entry.id,
        "group": entry.group,
        "component": act.component,
        **act.row(),
        "online": entry.online,
        **some(expires=moment(act.expires) if not (act.pins and act.stands) else None),
    }


def upgrades(work: Work, request: Request) -> dict[str, Any]:
    """`device.upgrades`: the newest releases above what runs."""
    return _listed(work, request, up=True)


def downgrades(work: Work, request: Request) -> dict[str, Any]:
    """`device.downgrades`: the newest releases below what runs."""
    return _listed(work, request, up=False)


def _listed(work: Work, request: Request, *, up: bool) -> dict[str, Any]:
    asked = arguments.parse(arguments.DeviceComponent, request.arguments)
    entry, one = _component(work, request, asked.device, asked.component)
    if entry.status is None:
        raise AssertionError("a component without a status")
    run = one.running
    reachable: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for row in catalogue.listed(work.tx, asked.component, _BOUND):
        here = run.counter if run else 0
        if row.counter == here or (row.counter > here) != up:
            continue
        why = _why_not(work, entry, entry.status, one, row)
        line = {"version": row.version, "digest": row.digest, "channel": row.channel, "counter": row.counter}
        line |= {"life": row.life, "created": row.manifest.created, "direct": why is None}
        line |= {"refused": one.refused[row.digest]} if row.digest in one.refused else {}
        (reachable if why is None else others).append({**line, **(why or {})})
    for lines in (reachable, others):
        lines.sort(key=lambda line: (line["life"] == Life.ARCHIVED, -line["counter"]))
    return {
        "device": entry.id,
        "component": asked.component,
        **some(version=run.version if run else None),
        "releases": [*reachable[:_LISTED], *others[:_LISTED]],
    }


def _why_not(
    work: Work, entry: DeviceEntry, status: Status, one: ComponentStatus, row: ReleaseRow
) -> dict[str, str] | None:
    """Why the device cannot go to a release directly, or None."""
    if row.life == Life.ARCHIVED:
        return {"reason": "archived: it serves nobody"}
    recall = catalogue.recall_of(work.tx, row.digest)
    if recall is not None:
        return {"reason": f"recalled: {recall.reason}"}
    if row.digest in work.intent(entry.group, row.component).withdrawn:
        return {"reason": f"withdrawn in group {entry.group}"}
    attempt = one.refused.get(row.digest, 0) + 1
    goal = Goal(
        version=row.version, counter=row.counter, digest=row.digest, length=0, attempt=attempt, mode="exactly"
    )
    answer = planning.refusal(status, row.manifest, goal)
    if answer is None:
        return None
    hop = answer.code is Code.UPGRADE_HOP_REQUIRED
    return {"code": str(answer.code), "reason": _hop(one.running, row.version) if hop else answer.reason}

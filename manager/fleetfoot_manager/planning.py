"""A plan: which devices a rollout would reach in which wave, and who is known to refuse.

The same computation serves `rollout.plan` and `rollout.start`; it changes nothing. That a device is known
to refuse keeps it in the cohort: its answer counts, and policy may change until then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from fleetfoot_manager import acts, catalogue, inventory, outlook, policies
from fleetfoot_manager.acts import Act
from fleetfoot_manager.catalogue import Life, ReleaseRow
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests.answers import BUDGET
from fleetfoot_manager.requests.arguments import RolloutPlan
from fleetfoot_manager.rollout import Rollout, planned
from fleetfoot_protocol import admission, strictjson
from fleetfoot_protocol.allow import Environment, Permission, Rules, allow, find_artifact
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Release
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import Status
from fleetfoot_protocol.resolve import Act as Asks
from fleetfoot_protocol.resolve import Plan, Why
from fleetfoot_protocol.states import RolloutState

DEFAULT_WAVES: tuple[int | str, ...] = ("10%", "50%", "100%")
DEFAULT_SETTLE = 300
DEFAULT_TIMEOUT = 300
_LISTED = (100, 30, 10)


@dataclass(frozen=True, slots=True)
class Planned:
    """A rollout that has not started, with the inventory that it was planned over.

    own: acts that stand, by device: those devices obey them, not the group. course: see `outlook`.
    """

    rollout: Rollout
    release: ReleaseRow
    devices: Sequence[DeviceEntry]
    own: Mapping[str, Act]
    course: Mapping[str, Any]


def make(tx: Connection, asked: RolloutPlan, name: str, now: float) -> Planned:
    """Plan a rollout.

    Raises FleetfootError `not_found`, `request_invalid`, `upgrade_no_matching_artifact`, or `state_refused`
    for a release whose life does not serve it.
    """
    release = catalogue.demand(tx, asked.component, asked.version)
    catalogue.demand_serving(tx, release)
    unknown = sorted(set(asked.groups) - set(inventory.groups(tx)))
    if unknown:
        raise FleetfootError("not_found", f"no devices are enrolled in group {', '.join(unknown)}")
    devices = [
        entry
        for entry in inventory.of_groups(tx, asked.groups)
        if admission.matches(asked.selector, entry.labels)
    ]
    if not devices:
        raise FleetfootError("request_invalid", "no device of these groups matches the selector")
    _demand_artifact(release.manifest, devices)
    approval = policies.demand_approval(tx, asked.groups, len(devices))
    of = _rollout(asked, name, release, devices, now, approval)
    course = outlook.describe(tx, of, release, devices)
    made = Planned(of, release, devices, acts.standing(tx, release.component), course)
    if made.rollout.canary and len(made.rollout.waves) == 1:
        raise FleetfootError(
            "state_refused",
            f"{release.component} {release.version} is published, not blessed: it serves single devices, and"
            " the first wave of a rollout with more waves",
            remedy="let a first wave be its canary, e.g. --waves 1,100%, upgrade single devices with"
            " 'fleetfoot device upgrade', or bless it:"
            f" 'fleetfoot release promote {release.component} {release.version} blessed'",
        )
    return made


def _rollout(
    asked: RolloutPlan,
    name: str,
    release: ReleaseRow,
    devices: Sequence[DeviceEntry],
    now: float,
    approval: bool,
) -> Rollout:
    shares = ("100%",) if asked.immediate else asked.waves or DEFAULT_WAVES
    try:
        waves = admission.wave_sizes(shares, len(devices))
    except ValueError as error:
        raise FleetfootError("request_invalid", f"waves: {error}") from None
    goal = Goal(
        version=release.version,
        counter=release.counter,
        digest=release.digest,
        length=max(artifact.length for artifact in release.manifest.artifacts),
        mode=asked.mode,
    )
    return planned(
        id=name,
        component=asked.component,
        goal=goal,
        devices=[(entry.id, entry.group) for entry in devices],
        waves=waves,
        now=now,
        groups=tuple(sorted(asked.groups)),
        selector=asked.selector,
        already=_already(devices, asked.component, release.digest),
        settle=float(_or(asked.settle, 0 if asked.immediate else DEFAULT_SETTLE)),
        device_timeout=float(_or(asked.device_timeout, DEFAULT_TIMEOUT)),
        breaker=asked.breaker,
        approval=approval,
        canary=release.life == Life.PUBLISHED,
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _already(devices: Sequence[DeviceEntry], component: str, digest: str) -> set[str]:
    found = set()
    for entry in devices:
        status = entry.status
        one = status.components.get(component) if status else None
        if one is not None and one.running is not None and one.running.digest == digest:
            found.add(entry.id)
    return found


def _demand_artifact(release: Release, devices: Sequence[DeviceEntry]) -> None:
    """Refuse a release that fits none of those devices whose platform is known."""
    platforms = {status.platform for entry in devices if (status := entry.status)}
    misfits = [find_artifact(release, platform) for platform in platforms]
    if misfits and all(isinstance(one, Permission) for one in misfits):
        names = ", ".join(sorted({f"{platform.os}/{platform.arch}" for platform in platforms}))
        raise UpgradeError(
            Code.UPGRADE_NO_MATCHING_ARTIFACT, f"no matching release artifact for agent platform {names}"
        )


def refusal(status: Status, release: Release, goal: Goal) -> Permission | None:
    """The rejection that the device is expected to answer with, or None."""
    one = status.components.get(release.component)
    run = one.running if one else None
    if run is not None and run.digest == goal.digest:
        return None
    if one is not None and goal.counter < one.floor:
        return Permission("reject", Code.UPGRADE_BELOW_FLOOR, f"the device's floor is {one.floor}")
    if one is not None and one.refused.get(goal.digest, 0) >= goal.attempt:
        return Permission("reject", Code.UPGRADE_REFUSED_BEFORE, "it failed there before")
    rules = Rules(
        enabled=status.policy.enabled,
        allowed_channels=status.policy.channels,
        min_version=status.policy.min_version,
        pins=status.policy.pins,
    )
    environment = Environment(platform=status.platform, agent=status.agent, run=run, free=status.disk.free)
    answer = allow(Plan(Asks.INSTALL, Why.ORDERED, goal), release, rules, environment)
    return answer if answer.verdict == "reject" else None


def describe(plan: Planned) -> dict[str, Any]:
    """The plan as operators see it; device lists are shortened until it fits."""
    refusing = _refusing(plan)
    for listed in _LISTED:
        shown = _describe(plan, refusing, listed)
        if len(strictjson.dumps(shown)) <= BUDGET:
            return shown
    return _describe(plan, refusing, 0)


def _refusing(plan: Planned) -> list[dict[str, str]]:
    manifest, found = plan.release.manifest, []
    for entry in plan.devices:
        if (act := plan.own.get(entry.id)) is not None:
            why = f"{act.kind} by {act.operator} ({act.act}): it obeys a document of its own"
            found.append({"device": entry.id, "code": str(Code.UPGRADE_PINNED), "reason": why})
            continue
        status = entry.status
        answer = refusal(status, manifest, plan.rollout.goal) if status else None
        if answer is not None:
            found.append({"device": entry.id, "code": str(answer.code), "reason": answer.reason})
    return found


def _describe(plan: Planned, refusing: list[dict[str, str]], listed: int) -> dict[str, Any]:
    of = plan.rollout
    already = [member.device for member in of.cohort if of.devices[member.device].on_goal]
    batches = []
    for index in range(1, len(of.waves) + 1):
        ids = [member.device for member in of.cohort if of.devices[member.device].wave == index]
        batches.append(
            {
                "index": index,
                "count": len(ids),
                "devices": ids[:listed],
                "phase": outlook.phase(of, index),
            }
        )
    return {
        "component": of.component,
        "version": of.goal.version,
        "digest": of.goal.digest,
        "groups": list(of.groups),
        "total": of.total,
        "waves": list(of.waves),
        "batches": batches,
        **plan.course,
        "settle": int(of.settle),
        "device_timeout": int(of.device_timeout),
        "breaker": of.breaker,
        "approval": of.state is RolloutState.AWAITING_APPROVAL,
        "refusing": refusing[:listed],
        "refusing_count": len(refusing),
        "already": already[:listed],
        "already_count": len(already),
        "revision": of.revision,
    }

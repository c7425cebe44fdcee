"""A plan: which devices a rollout would reach in which wave, and who is known to refuse.

The same computation serves `rollout.plan` and `rollout.start`; it changes nothing. That a device is known
to refuse keeps it in the cohort: its answer counts, and policy may change until then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.engine import Connection

from fleetfoot_manager import acts, catalogue, outlook, pace, policies, targets
from fleetfoot_manager.acts import Act
from fleetfoot_manager.catalogue import Life, ReleaseRow
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests.answers import BUDGET, moment, some
from fleetfoot_manager.requests.rollout_arguments import RolloutPlan
from fleetfoot_manager.rollout import Rollout, planned
from fleetfoot_protocol import strictjson
from fleetfoot_protocol.allow import Environment, Permission, Rules, allow, find_artifact
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Release
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.reports import Status
from fleetfoot_protocol.resolve import Act as Asks
from fleetfoot_protocol.resolve import Plan, Why
from fleetfoot_protocol.states import RolloutState

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
    devices = targets.members(tx, asked)
    _demand_artifact(release.manifest, devices, each=bool(asked.devices))
    approval = policies.demand_approval(tx, asked.groups, len(devices))
    if policies.demand_each_wave(tx, asked.groups):
        asked = asked.model_copy(update={"approve_each_wave": True})
    of = _rollout(asked, name, release, devices, now, approval)
    course = outlook.describe(tx, of, release, devices)
    made = Planned(of, release, devices, acts.standing(tx, release.component), course)
    if made.rollout.canary and (len(made.rollout.waves) == 1 or made.rollout.stage):
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
    asks = pace.of(asked, len(devices), now)
    return planned(
        id=name,
        component=asked.component,
        goal=goal_of(release, asked.mode),
        devices=[(entry.id, entry.group) for entry in devices],
        waves=asks.waves,
        now=now,
        groups=tuple(sorted(asked.groups)),
        selector=asked.selector,
        already=_already(devices, asked.component, release.digest),
        settle=asks.settle,
        device_timeout=float(DEFAULT_TIMEOUT if asked.device_timeout is None else asked.device_timeout),
        approval=approval,
        canary=release.life == Life.PUBLISHED,
        **asks.gate,
    )


def goal_of(release: ReleaseRow, mode: Literal["at_least", "exactly"]) -> Goal:
    """The release as a goal, at its first attempt."""
    length = max(artifact.length for artifact in release.manifest.artifacts)
    return Goal(
        version=release.version, counter=release.counter, digest=release.digest, length=length, mode=mode
    )


def _already(devices: Sequence[DeviceEntry], component: str, digest: str) -> set[str]:
    found = set()
    for entry in devices:
        status = entry.status
        one = status.components.get(component) if status else None
        if one is not None and one.running is not None and one.running.digest == digest:
            found.add(entry.id)
    return found


def _demand_artifact(release: Release, devices: Sequence[DeviceEntry], *, each: bool) -> None:
    """Refuse a release that fits none of those devices whose platform is known; or, with `each`, not all."""
    platforms = {status.platform for entry in devices if (status := entry.status)}
    misfits = [one for one in platforms if isinstance(find_artifact(release, one), Permission)]
    if misfits and (each or len(misfits) == len(platforms)):
        names = ", ".join(sorted({f"{platform.os}/{platform.arch}" for platform in misfits}))
        raise UpgradeError(
            Code.UPGRADE_NO_MATCHING_ARTIFACT, f"no matching release artifact for agent platform {names}"
        )


def refusal(
    status: Status, release: Release, goal: Goal, needs: Sequence[str] = ("upgrade",)
) -> Permission | None:
    """The rejection that the device is expected to answer with, or None. `needs`: capabilities.

    A device that names none at all says nothing of what it can do.
    """
    lacks = [one for one in needs if status.capabilities and one not in status.capabilities]
    if lacks:
        why = f"the device has no capability {' and '.join(lacks)}"
        return Permission("reject", Code.UPGRADE_INCOMPATIBLE, why)
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


def gate(of: Rollout) -> dict[str, Any]:
    """What stops a rollout and what lets it on, as it is shown; what is as usual is left out."""
    return {
        "breaker": of.breaker,
        **some(
            consecutive=of.consecutive or None,
            canaries=list(of.include) or None,
            stage=of.stage,
            failure_percent=of.failure_percent or None,
            min_successes=of.min_successes if of.min_successes > 1 else None,
            approve_each_wave=of.each_wave or None,
            offline_policy="skip" if of.skip_offline else None,
            priority=of.priority or None,
            expires=moment(of.lives_until),
            after=of.after,
        ),
    }


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
    needs = ("upgrade", "stage") if plan.rollout.stage else ("upgrade",)
    for entry in plan.devices:
        if (act := plan.own.get(entry.id)) is not None:
            why = f"{act.kind} by {act.operator} ({act.act}): it obeys a document of its own"
            found.append({"device": entry.id, "code": str(Code.UPGRADE_PINNED), "reason": why})
            continue
        status = entry.status
        answer = refusal(status, manifest, plan.rollout.goal, needs) if status else None
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
        "mode": of.goal.mode,
        "strategy": of.strategy,
        "waves": list(of.waves),
        "batches": batches,
        **gate(of),
        **plan.course,
        "settle": int(of.settle),
        "device_timeout": int(of.device_timeout),
        "approval": of.state is RolloutState.AWAITING_APPROVAL,
        "refusing": refusing[:listed],
        "refusing_count": len(refusing),
        "already": already[:listed],
        "already_count": len(already),
        "revision": of.revision,
    }

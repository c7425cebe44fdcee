"""What a device should do: one pure function for device, manager, simulator and console (contract section 4).

`resolve` looks at verified, unexpired documents and the device's own memory only. Local policy comes
afterwards, in `allow`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fleetfoot_protocol import admission
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Goal, Target
from fleetfoot_protocol.reports import Installed


class Act(StrEnum):
    """What the documents ask of the device."""

    STAY = "stay"
    INSTALL = "install"
    STAGE = "stage"
    RETURN = "return"
    DEFER = "defer"
    REJECT = "reject"


class Why(StrEnum):
    """The reason of a plan, in one word."""

    NO_GOAL = "no_goal"
    PINNED = "pinned"
    CURRENT = "current"
    AHEAD = "ahead"
    WITHDRAWN = "withdrawn"
    NO_WAY_BACK = "no_way_back"
    BELOW_FLOOR = "below_floor"
    REFUSED = "refused"
    HOLD = "hold"
    ORDERED = "ordered"
    RECALLED = "recalled"


#: Why -> error code, for those that have one.
WHY_CODES: dict[Why, Code] = {
    Why.NO_WAY_BACK: Code.UPGRADE_NO_WAY_BACK,
    Why.BELOW_FLOOR: Code.UPGRADE_BELOW_FLOOR,
    Why.REFUSED: Code.UPGRADE_REFUSED_BEFORE,
    Why.HOLD: Code.UPGRADE_ON_HOLD,
}


@dataclass(frozen=True, slots=True)
class Device:
    """The device's memory, as far as `resolve` looks at it, for one component.

    run: what runs; prev: the way back; refused: digest -> highest attempt that failed here; floor: the
    lowest counter that may ever be installed.
    """

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    run: Installed | None = None
    prev: Installed | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. `goal` stands with INSTALL, STAGE, DEFER and REJECT; with RETURN it is the way back.

    `rollout` is the target's rollout, if a target decided.
    """

    act: Act
    why: Why
    goal: Goal | None = None
    rollout: str | None = None

    @property
    def code(self) -> Code | None:
        """The error code of this plan, or None."""
        return WHY_CODES.get(self.why)


def _ways_back(
    device: Device, decisive: Desired | None, group: Desired | None
) -> Iterator[tuple[Goal, bool]]:
    """Candidates for a return in order, each with whether it is refused on this device."""
    if device.prev is not None:
        prev = device.prev
        # What ran here before needs no new attempt: any refusal of its digest counts.
        yield (
            Goal(version=prev.version, counter=prev.counter, digest=prev.digest, length=0, mode="exactly"),
            prev.digest in device.refused,
        )
    for document in (decisive, group):
        if document is not None and document.baseline is not None:
            goal = document.baseline
            yield goal, device.refused.get(goal.digest, 0) >= goal.attempt


def _return(device: Device, decisive: Desired | None, group: Desired | None, withdrawn: set[str]) -> Plan:
    for goal, refused in _ways_back(device, decisive, group):
        if goal.digest not in withdrawn and not refused and goal.counter >= device.floor:
            return Plan(Act.RETURN, Why.RECALLED, goal)
    return Plan(Act.STAY, Why.NO_WAY_BACK)


def first_target(document: Desired, device: Device) -> Target | None:
    """The first target of the document that admits the device at its stage cut."""
    for target in document.targets:
        if admission.admitted(target, device.id, device.labels, target.stage_cut):
            return target
    return None


def resolve(group: Desired | None, own: Desired | None, device: Device) -> Plan:
    """The plan for one component of one device.

    group, own: the newest verified, unexpired group and device document, or None.
    """
    live = own is not None and not own.released
    document = own if live else group
    withdrawn = set(group.withdrawn if group else ()) | set(own.withdrawn if own and live else ())
    if device.run is not None and device.run.digest in withdrawn:
        return _return(device, document, group, withdrawn)
    target = first_target(document, device) if document else None
    goal = target.goal if target else document.baseline if document else None
    if document is None or goal is None:
        return Plan(Act.STAY, Why.PINNED if live else Why.NO_GOAL)
    rollout = target.rollout if target else None
    return _towards(document, target, goal, rollout, device, withdrawn)


def _towards(
    document: Desired,
    target: Target | None,
    goal: Goal,
    rollout: str | None,
    device: Device,
    withdrawn: set[str],
) -> Plan:
    run = device.run
    if run is not None and run.digest == goal.digest:
        return Plan(Act.STAY, Why.CURRENT, goal, rollout)
    if goal.digest in withdrawn:
        # Within one document this is malformed; a device document may still name what its group withdrew.
        # Installing it would be undone at once by the recall above, for ever.
        return Plan(Act.STAY, Why.WITHDRAWN, goal, rollout)
    if run is not None and goal.mode == "at_least" and run.counter >= goal.counter:
        return Plan(Act.STAY, Why.AHEAD, goal, rollout)
    if goal.counter < device.floor:
        return Plan(Act.REJECT, Why.BELOW_FLOOR, goal, rollout)
    if device.refused.get(goal.digest, 0) >= goal.attempt:
        return Plan(Act.REJECT, Why.REFUSED, goal, rollout)
    if document.hold or (target is not None and target.hold):
        return Plan(Act.DEFER, Why.HOLD, goal, rollout)
    if target is None or admission.admitted(target, device.id, device.labels, target.activate_cut):
        return Plan(Act.INSTALL, Why.ORDERED, goal, rollout)
    return Plan(Act.STAGE, Why.ORDERED, goal, rollout)

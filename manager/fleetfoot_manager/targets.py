"""Whom a rollout is for: groups, a selector over labels, or devices named one by one."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from sqlalchemy.engine import Connection

from fleetfoot_manager import inventory
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests.rollout_arguments import RolloutAnswers, RolloutPlan, RolloutProbe
from fleetfoot_protocol import admission
from fleetfoot_protocol.errors import FleetfootError

_NAMED = 10
P = TypeVar("P", RolloutPlan, RolloutProbe, RolloutAnswers)


def resolved(tx: Connection, asked: P) -> P:
    """With the groups of devices that were named one by one. FleetfootError `not_found` for unknown ids."""
    if not asked.devices:
        return asked
    found = {entry.id: entry.group for entry in inventory.named(tx, asked.devices)}
    if missing := [device for device in asked.devices if device not in found]:
        raise FleetfootError("not_found", f"not enrolled: {_some(missing)}")
    if asked.groups:
        if strangers := [device for device in asked.devices if found[device] not in asked.groups]:
            raise FleetfootError("not_found", f"not in group {', '.join(asked.groups)}: {_some(strangers)}")
        return asked
    return asked.model_copy(update={"groups": tuple(sorted(set(found.values())))})


def members(tx: Connection, asked: RolloutPlan) -> Sequence[DeviceEntry]:
    """The cohort, by id. FleetfootError `not_found` for a name, `request_invalid` if nobody is left."""
    unknown = sorted(set(asked.groups) - set(inventory.groups(tx)))
    if unknown:
        raise FleetfootError("not_found", f"no devices are enrolled in group {', '.join(unknown)}")
    if asked.devices:
        # The groups as they were resolved: a device that has moved since is not theirs any more.
        resolved(tx, asked)
        found = sorted(inventory.named(tx, asked.devices), key=lambda entry: entry.id)
    else:
        every = inventory.of_groups(tx, asked.groups)
        found = [entry for entry in every if admission.matches(asked.selector, entry.labels)]
    if not found:
        raise FleetfootError("request_invalid", "no device of these groups matches the selector")
    ids = {entry.id for entry in found}
    if strangers := [device for device in asked.canaries if device not in ids]:
        raise FleetfootError("not_found", f"canaries that are not of the cohort: {_some(strangers)}")
    return found


def _some(ids: Iterable[str]) -> str:
    names = list(ids)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")

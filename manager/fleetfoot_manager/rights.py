"""Which right each verb needs, and in which groups (VOCABULARY, "Roles").

The table is the whole truth about who may ask for what: a verb that is not in it does not exist.
"""

from collections.abc import Iterable

from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import Right
from fleetfoot_protocol.trust import TrustRoot

VERBS: dict[str, Right] = {
    "manager.status": Right.READ,
    "release.upload": Right.RELEASE,
    "release.publish": Right.RELEASE,
    "release.list": Right.READ,
    "release.show": Right.READ,
    "device.enroll": Right.ADMINISTER,
    "device.list": Right.READ,
    "device.show": Right.READ,
    "rollout.plan": Right.PLAN,
    "rollout.start": Right.STEER,
    "rollout.list": Right.READ,
    "rollout.show": Right.READ,
    "rollout.pause": Right.FREEZE,
    "rollout.resume": Right.STEER,
    "rollout.decide": Right.STEER,
    "rollout.cancel": Right.STEER,
    "rollout.retry": Right.STEER,
}

#: Asks for every group.
EVERY_GROUP = "*"


def demand(root: TrustRoot, operator: str, verb: str, groups: Iterable[str]) -> None:
    """Raise FleetfootError `not_allowed` unless the operator has the verb's right in every group."""
    right = VERBS[verb]
    for group in groups:
        if not root.may(operator, right, group):
            where = "every group" if group == EVERY_GROUP else f"group {group}"
            raise FleetfootError("not_allowed", f"{operator} has no right to {right} in {where}")


def demand_anywhere(root: TrustRoot, operator: str, verb: str) -> None:
    """Raise FleetfootError `not_allowed` unless the operator has the verb's right in some group."""
    entry = root.roles.operators.get(operator)
    if entry is None or not any(root.may(operator, VERBS[verb], group) for group in entry.roles):
        raise FleetfootError("not_allowed", f"{operator} has no right to {VERBS[verb]} in any group")


def reads_all(root: TrustRoot, operator: str, groups: Iterable[str]) -> bool:
    """Whether the operator may read every one of the groups."""
    return all(root.may(operator, Right.READ, group) for group in groups)


def readable(root: TrustRoot, operator: str, groups: Iterable[str]) -> list[str]:
    """Those of the groups that the operator may read."""
    return [group for group in groups if root.may(operator, Right.READ, group)]

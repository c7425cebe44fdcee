"""Which right each verb needs, and in which groups (VOCABULARY, "Roles").

The table is the whole truth about who may ask for what: a verb that is not in it does not exist.
"""

from collections.abc import Iterable

from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import Right
from fleetfoot_protocol.trust import TrustRoot

VERBS: dict[str, Right] = {
    "manager.status": Right.READ,
    "engine.pause": Right.FREEZE,
    "engine.resume": Right.STEER,
    "release.upload": Right.RELEASE,
    "release.publish": Right.RELEASE,
    "release.promote": Right.RELEASE,
    "release.archive": Right.RELEASE,
    "release.recall": Right.RELEASE,
    "release.lift": Right.RELEASE,
    "release.list": Right.READ,
    "release.compare": Right.READ,
    "release.show": Right.READ,
    "group.list": Right.READ,
    "group.show": Right.READ,
    "group.drift": Right.READ,
    "group.create": Right.ADMINISTER,
    "group.forget": Right.ADMINISTER,
    "group.policy": Right.ADMINISTER,
    "device.enroll": Right.ADMINISTER,
    "device.list": Right.READ,
    "device.show": Right.READ,
    "device.move": Right.ADMINISTER,
    "device.relabel": Right.ADMINISTER,
    "device.replace": Right.ADMINISTER,
    "device.forget": Right.ADMINISTER,
    "device.token": Right.ADMINISTER,
    "device.revoke": Right.ADMINISTER,
    "device.upgrade": Right.DEVICE_ACT,
    "device.downgrade": Right.DEVICE_ACT,
    "device.pin": Right.DEVICE_ACT,
    "device.unpin": Right.DEVICE_ACT,
    "device.release": Right.DEVICE_ACT,
    "device.upgrades": Right.READ,
    "device.downgrades": Right.READ,
    "rollout.plan": Right.PLAN,
    "rollout.probe": Right.PLAN,
    "rollout.answers": Right.READ,
    "rollout.start": Right.STEER,
    "audit.list": Right.READ,
    "audit.show": Right.READ,
    "audit.prune": Right.ADMINISTER,
    "rollout.history": Right.READ,
    "rollout.note": Right.PLAN,
    "rollout.report": Right.READ,
    "rollout.approve": Right.APPROVE,
    "rollout.reject": Right.APPROVE,
    "rollout.list": Right.READ,
    "rollout.show": Right.READ,
    "rollout.pause": Right.FREEZE,
    "rollout.resume": Right.STEER,
    "rollout.activate": Right.STEER,
    "rollout.decide": Right.STEER,
    "rollout.cancel": Right.STEER,
    "rollout.retry": Right.STEER,
}

#: Asks for every group.
EVERY_GROUP = "*"


def demand(root: TrustRoot, request: Request, groups: Iterable[str]) -> None:
    """Raise FleetfootError unless the operator has the verb's right in every one of the groups.

    `not_allowed`; `request_invalid` if the request was signed for one group and concerns another.
    """
    right = VERBS[request.verb]
    for group in groups:
        if not root.may(request.operator, right, group):
            where = "every group" if group == EVERY_GROUP else f"group {group}"
            raise FleetfootError("not_allowed", f"{request.operator} has no right to {right} in {where}")
        if request.group not in (EVERY_GROUP, group):
            raise FleetfootError("request_invalid", f"signed for group {request.group}, concerns {group}")


def demand_anywhere(root: TrustRoot, request: Request) -> None:
    """Raise FleetfootError `not_allowed` unless the operator has the verb's right in some group."""
    right = VERBS[request.verb]
    entry = root.roles.operators.get(request.operator)
    if entry is None or not any(root.may(request.operator, right, group) for group in entry.roles):
        raise FleetfootError("not_allowed", f"{request.operator} has no right to {right} in any group")


def reads_all(root: TrustRoot, request: Request, groups: Iterable[str]) -> bool:
    """Whether the operator may read every one of the groups."""
    return all(root.may(request.operator, Right.READ, group) for group in groups)


def readable(root: TrustRoot, request: Request, groups: Iterable[str]) -> list[str]:
    """Those of the groups that the operator may read; the one that the request is about, if it names one."""
    return [
        group
        for group in groups
        if root.may(request.operator, Right.READ, group) and request.group in (EVERY_GROUP, group)
    ]

"""The verbs about who a device is: move it, label it anew, replace its hardware, forget it."""

from typing import Any

import sqlalchemy as sa

from fleetfoot_manager import documents, inventory, lives, rights, schema, support
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.topics import Kind

#: What a device leaves retained on the broker.
_LEFT = (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE)


def move(work: Work, request: Request) -> dict[str, Any]:
    """`device.move`: right in both groups. What was asked of the device alone ends."""
    asked = arguments.parse(arguments.DeviceMove, request.arguments)
    entry = demand(work, request, asked.device)
    rights.demand(work.house.root, request, [asked.group])
    support.demand(work.tx, entry)
    if entry.group == asked.group:
        raise FleetfootError("state_refused", f"{entry.id} is in group {asked.group} already")
    new = asked.group not in inventory.known_groups(work.tx)
    leave(work, entry)
    table = schema.devices
    work.tx.execute(sa.update(table).where(table.c.id == entry.id).values(group=asked.group, online=False))
    work.devices.forget(entry.id)
    work.join(entry.id, asked.group, entry.labels)
    work.newcomers.append((asked.group, entry.id))
    if new:
        lives.adopt(work, asked.group)
        work.renew_heartbeat(asked.group)
    data = {"device": entry.id, "from": entry.group, "group": asked.group}
    work.audit(request.operator, "device.move", data)
    return {"device": entry.id, "group": asked.group, "from": entry.group}


def relabel(work: Work, request: Request) -> dict[str, Any]:
    """`device.relabel`: the labels of the enrolment, which stand in until the device tells its own."""
    asked = arguments.parse(arguments.DeviceRelabel, request.arguments)
    entry = demand(work, request, asked.device)
    support.demand(work.tx, entry)
    inventory.enroll(work.tx, entry.id, entry.group, entry.key.hex(), asked.labels, work.now, replace=True)
    work.devices.forget(entry.id)
    after = inventory.demand(work.tx, entry.id)
    work.join(after.id, after.group, after.labels)
    data = {"device": entry.id, "group": entry.group, "labels": dict(asked.labels)}
    work.audit(request.operator, "device.relabel", data)
    return {"device": entry.id, "labels": dict(asked.labels), "effective": dict(after.labels)}


def replace(work: Work, request: Request) -> dict[str, Any]:
    """`device.replace`: other hardware under the same name, in the same group, with the same labels.

    What the old one said is forgotten and cleared, what was asked of it alone ends. Its certificates are
    listed as revoked first, so that a failure here errs on the safe side, and its session is ended.
    """
    asked = arguments.parse(arguments.DeviceReplace, request.arguments)
    entry = demand(work, request, asked.device)
    if entry.key.hex() == asked.key:
        raise FleetfootError("state_refused", f"{entry.id} has this key already")
    pki = work.house.pki
    listed = pki.revoke("device", entry.id) if pki is not None and pki.can_enroll else 0
    cleared = leave(work, entry)
    labels = dict(entry.enrolled_labels)
    inventory.enroll(work.tx, entry.id, entry.group, asked.key, labels, work.now, replace=True)
    work.devices.forget(entry.id)
    work.newcomers.append((entry.group, entry.id))
    work.evictions.append((entry.group, entry.id))
    data = {"device": entry.id, "group": entry.group, "key": asked.key, "replaced": entry.key.hex()}
    work.audit(request.operator, "device.enroll", {**data, "certificates": listed})
    return {"device": entry.id, "group": entry.group, "cleared": cleared, "certificates": listed}


def forget(work: Work, request: Request) -> dict[str, Any]:
    """`device.forget`: out of the inventory and its rollouts; everything it left retained is cleared."""
    asked = arguments.parse(arguments.DeviceShow, request.arguments)
    entry = demand(work, request, asked.device)
    gone = f"if it is gone for good: 'fleetfoot device revoke {entry.id}'"
    support.demand(work.tx, entry, otherwise=gone)
    cleared = remove(work, entry)
    data = {"device": entry.id, "group": entry.group, "key": entry.key.hex()}
    work.audit(request.operator, "device.forget", data)
    return {"device": entry.id, "group": entry.group, "cleared": cleared}


def remove(work: Work, entry: DeviceEntry) -> int:
    """Out of the inventory and its rollouts; returns how many retained topics are cleared."""
    cleared = leave(work, entry)
    # In no group: every rollout is told that the device has left.
    work.join(entry.id, "", entry.labels)
    work.tx.execute(sa.delete(schema.devices).where(schema.devices.c.id == entry.id))
    work.devices.forget(entry.id)
    return cleared


def demand(work: Work, request: Request, device: str) -> DeviceEntry:
    """The device, if the operator has the verb's right in its group."""
    entry = inventory.find(work.tx, device)
    if entry is None:
        rights.demand_anywhere(work.house.root, request)
        raise FleetfootError("not_found", f"no device {device} is enrolled")
    rights.demand(work.house.root, request, [entry.group])
    return entry


def leave(work: Work, entry: DeviceEntry) -> int:
    """Clear every retained topic of a device under its group, its own documents first; returns how many.

    The group is there for as long as nobody forgets it, also if this was its last device.
    """
    inventory.remember_group(work.tx, entry.group, work.now)
    known = work.acts_of(entry.id)
    for act in known:
        work.drop_own(entry.group, act)
    for kind in _LEFT:
        topic = documents.place(kind, group=entry.group, device=entry.id)
        documents.enqueue(work.tx, topic, b"", retained=True)
    return len(known) + len(_LEFT)

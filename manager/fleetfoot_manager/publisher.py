"""Documents of the manager: composed, signed and stored with their publication, in one transaction.

Desired states live 30 days and are made anew at half of that; heartbeats live 24 hours and are made anew
every hour and whenever a document of their group changes (VOCABULARY, "Defaults").
"""

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import acts, audit, compose, documents, schema
from fleetfoot_manager.house import House
from fleetfoot_manager.rollout_state import Rollout
from fleetfoot_protocol import dsse, times
from fleetfoot_protocol.auditchain import AuditHead
from fleetfoot_protocol.documents import Desired, Goal, Heartbeat, Order, Probe, Target, read
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import RolloutProgress
from fleetfoot_protocol.topics import Kind

log = logging.getLogger(__name__)

DESIRED_SECONDS = 30 * 24 * 3600.0
HEARTBEAT_SECONDS = 24 * 3600.0
HEARTBEAT_EVERY = 3600.0


def stored_desired(tx: Connection, group: str, component: str) -> Desired | None:
    """The group's document of a component as it stands, or None."""
    topic = documents.place(Kind.GROUP_DESIRED, group=group, component=component)
    stored = documents.get(tx, topic)
    return None if stored is None else read(Desired, dsse.decode(stored.payload).payload)


def put_desired(
    tx: Connection,
    house: House,
    group: str,
    component: str,
    intent: compose.GroupIntent,
    targets: Sequence[Target],
    now: float,
    *,
    beyond: int = 0,
    hold: bool = False,
) -> None:
    """Compose, sign and store the group's desired state. `beyond`: a sequence that it must exceed."""
    ids = {"group": group, "component": component}
    known = documents.get(tx, documents.place(Kind.GROUP_DESIRED, **ids))
    last = known.sequence if known and known.epoch == house.root.epoch else 0
    sequence = documents.next_sequence(max(last, beyond), now)
    desired = compose.desired(
        intent,
        targets,
        fleet=house.fleet,
        group=group,
        component=component,
        epoch=house.root.epoch,
        sequence=sequence,
        issued=now,
        expires=now + DESIRED_SECONDS,
        mirror=house.mirror,
        hold=hold,
    )
    documents.put(
        tx,
        Kind.GROUP_DESIRED,
        ids,
        house.director.envelope(PayloadType.DESIRED, desired),
        now,
        epoch=desired.epoch,
        sequence=sequence,
        renew=now + DESIRED_SECONDS / 2,
    )
    log.info("desired group=%s component=%s sequence=%d targets=%d", group, component, sequence, len(targets))


def stored_own(tx: Connection, group: str, device: str, component: str) -> Desired | None:
    """The device's own document of a component as it stands, or None."""
    topic = documents.place(Kind.DEVICE_DESIRED, group=group, device=device, component=component)
    stored = documents.get(tx, topic)
    return None if stored is None else read(Desired, dsse.decode(stored.payload).payload)


def put_own(
    tx: Connection,
    house: House,
    group: str,
    act: acts.Act,
    now: float,
    *,
    beyond: int = 0,
    hold: bool = False,
) -> None:
    """Compose, sign and store a device's own document. `beyond`: a sequence that it must exceed."""
    ids = {"group": group, "device": act.device, "component": act.component}
    known = documents.get(tx, documents.place(Kind.DEVICE_DESIRED, **ids))
    last = known.sequence if known and known.epoch == house.root.epoch else 0
    renewed = act.pins and act.stands
    desired = Desired(
        fleet=house.fleet,
        group=group,
        device=act.device,
        component=act.component,
        epoch=house.root.epoch,
        sequence=documents.next_sequence(max(last, beyond), now),
        issued=times.to_text(now),
        expires=times.to_text(now + DESIRED_SECONDS if renewed else act.expires),
        mirror=house.mirror,
        targets=acts.targets(act),
        hold=hold and act.stands,
        released=not act.stands,
    )
    documents.put(
        tx,
        Kind.DEVICE_DESIRED,
        ids,
        house.director.envelope(PayloadType.DESIRED, desired),
        now,
        epoch=desired.epoch,
        sequence=desired.sequence,
        renew=now + DESIRED_SECONDS / 2 if renewed else None,
    )
    log.info("own device=%s component=%s act=%s state=%s", act.device, act.component, act.act, act.state)


def put_heartbeat(tx: Connection, house: House, group: str, now: float) -> None:
    """Sign and store the group's heartbeat: the newest order of each of its documents."""
    table = schema.documents.c
    rows = tx.execute(
        sa.select(table.component, table.epoch, table.sequence).where(
            table.kind == str(Kind.GROUP_DESIRED), table.group == group
        )
    )
    heartbeat = Heartbeat(
        fleet=house.fleet,
        group=group,
        issued=times.to_text(now),
        expires=times.to_text(now + HEARTBEAT_SECONDS),
        components={row[0]: Order(epoch=row[1], sequence=row[2]) for row in rows},
    )
    envelope = house.director.envelope(PayloadType.HEARTBEAT, heartbeat)
    documents.put(tx, Kind.HEARTBEAT, {"group": group}, envelope, now, renew=now + HEARTBEAT_EVERY)


def put_probe(
    tx: Connection,
    house: House,
    group: str,
    component: str,
    name: str,
    goal: Goal,
    now: float,
    expires: float,
) -> None:
    """Sign and store a preflight question; it takes the place of the one before. Times in unix seconds."""
    ids = {"group": group, "component": component}
    probe = Probe(
        fleet=house.fleet,
        group=group,
        component=component,
        id=name,
        goal=goal,
        issued=times.to_text(now),
        expires=times.to_text(expires),
    )
    envelope = house.director.envelope(PayloadType.PROBE, probe)
    documents.put(tx, Kind.PROBE, ids, envelope, now, epoch=house.root.epoch, renew=expires)
    log.info("probe=%s group=%s component=%s version=%s", name, group, component, goal.version)


def drop_probes(tx: Connection, house: House, now: float) -> None:
    """Clear from the broker what nobody waits for any more, and what no device would believe."""
    table = schema.documents.c
    spent = sa.or_(table.renew <= now, table.epoch != house.root.epoch)
    for topic in tx.scalars(sa.select(table.topic).where(table.kind == str(Kind.PROBE), spent)).all():
        documents.drop(tx, topic)


def probed(tx: Connection) -> set[str]:
    """Digests of the releases that devices are being asked about."""
    table = schema.documents.c
    rows = tx.scalars(sa.select(table.payload).where(table.kind == str(Kind.PROBE)))
    return {read(Probe, dsse.decode(payload).payload).goal.digest for payload in rows}


def put_audit_head(tx: Connection, house: House, now: float) -> None:
    """Sign and store how long the audit log is; nothing while it is empty."""
    end = audit.last(tx)
    if end is None:
        return
    head = AuditHead(fleet=house.fleet, count=end.n, hash=end.hash, issued=times.to_text(now))
    envelope = house.director.envelope(PayloadType.AUDIT, head)
    documents.put(tx, Kind.AUDIT_HEAD, {}, envelope, now, sequence=end.n)


def put_progress(tx: Connection, house: House, of: Rollout, now: float) -> None:
    """Store the rollout's progress and its attestation for each of its groups."""
    for group in of.groups:
        ids = {"group": group, "rollout": of.id}
        known = documents.get(tx, documents.place(Kind.ROLLOUT_ATTESTATION, **ids))
        sequence = documents.next_sequence(known.sequence if known else 0, now)
        payload = progress(house, of, group, now).payload()
        attestation = house.director.attest(PayloadType.ROLLOUT, payload, sequence)
        documents.put(tx, Kind.ROLLOUT, ids, payload, now)
        documents.put(tx, Kind.ROLLOUT_ATTESTATION, ids, attestation, now, sequence=sequence)


def progress(house: House, of: Rollout, group: str, now: float) -> RolloutProgress:
    """The rollout as integrators of one of its groups see it."""
    return RolloutProgress(
        fleet=house.fleet,
        rollout=of.id,
        group=group,
        groups=of.groups,
        component=of.component,
        version=of.goal.version,
        digest=of.goal.digest,
        state=str(of.state),
        reason=of.reason,
        revision=of.revision,
        waves=of.waves,
        wave=of.wave,
        total=of.total,
        counts=of.devices.counts,
        at=times.to_text(now),
    )

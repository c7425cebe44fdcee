"""Retained documents and the outbox, as rows (contract section 3, "Order and floors").

A document's signed bytes are stored in the transaction that decided them, with a publication in the
outbox; whoever publishes or re-asserts sends stored bytes. Of retained topics only the newest publication
waits: what it replaces need not reach anybody. Topics here are without their root: `groups/g/heartbeat`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

#: Events that wait for a broker, at most; the oldest go first.
MAX_WAITING_EVENTS = 10_000

_PREFIX = f"{topics.DEFAULT_ROOT}/{topics.VERSION}/"


def place(kind: Kind, **ids: str) -> str:
    """The topic of `kind` without root and version."""
    return topics.build(kind, **ids).removeprefix(_PREFIX)


class Publication(NamedTuple):
    """A row of the outbox."""

    id: int
    topic: str
    payload: bytes
    retained: bool
    qos: int


class Stored(NamedTuple):
    """A retained document as it is stored. `sequence` is 0 for kinds that have none."""

    topic: str
    payload: bytes
    sha256: str
    epoch: int
    sequence: int


def next_sequence(last: int, now: float) -> int:
    """The sequence after `last`: one more, or unix milliseconds if that is more."""
    return max(last + 1, int(now * 1000))


def put(
    tx: Connection,
    kind: Kind,
    ids: Mapping[str, str],
    payload: bytes,
    now: float,
    *,
    epoch: int | None = None,
    sequence: int | None = None,
    renew: float | None = None,
) -> None:
    """Store the newest document of a retained topic and put it into the outbox.

    ids: those of the topic; renew: unix seconds at which it should be made anew.
    """
    topic = place(kind, **ids)
    columns = {name: ids.get(name, "") for name in ("group", "device", "component")}
    row: dict[str, Any] = {
        "kind": str(kind),
        "epoch": epoch,
        "sequence": sequence,
        "payload": payload,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "issued": now,
        "renew": renew,
        **columns,
    }
    from_store = sa.update(schema.documents).where(schema.documents.c.topic == topic).values(**row)
    if tx.execute(from_store).rowcount == 0:
        tx.execute(sa.insert(schema.documents).values(topic=topic, **row))
    enqueue(tx, topic, payload, retained=True)


def get(tx: Connection, topic: str) -> Stored | None:
    """The document of a topic, or None."""
    table = schema.documents.c
    row = tx.execute(
        sa.select(table.topic, table.payload, table.sha256, table.epoch, table.sequence).where(
            table.topic == topic
        )
    ).first()
    return Stored(row[0], row[1], row[2], row[3] or 0, row[4] or 0) if row else None


def drop(tx: Connection, topic: str) -> None:
    """Forget a document and clear its retained topic."""
    if tx.execute(sa.delete(schema.documents).where(schema.documents.c.topic == topic)).rowcount:
        enqueue(tx, topic, b"", retained=True)


def topics_of(tx: Connection, kinds: Iterable[Kind]) -> list[str]:
    """The topics of all documents of these kinds, in a stable order."""
    table = schema.documents.c
    wanted = [str(kind) for kind in kinds]
    return list(tx.scalars(sa.select(table.topic).where(table.kind.in_(wanted)).order_by(table.topic)))


def due(tx: Connection, kind: Kind, now: float) -> list[tuple[str, str]]:
    """(group, component) of the documents of a kind whose time to be made anew has come."""
    table = schema.documents.c
    rows = tx.execute(
        sa.select(table.group, table.component).where(table.kind == str(kind), table.renew <= now)
    )
    return [(row[0], row[1]) for row in rows]


def own_due(tx: Connection, now: float) -> list[tuple[str, str]]:
    """(device, component) of devices' own documents whose time to be made anew has come."""
    table = schema.documents.c
    rows = tx.execute(
        sa.select(table.device, table.component).where(
            table.kind == str(Kind.DEVICE_DESIRED), table.renew <= now
        )
    )
    return [(row[0], row[1]) for row in rows]


def next_due(tx: Connection) -> float | None:
    """When the next document has to be made anew, unix seconds."""
    moment: float | None = tx.scalar(sa.select(sa.func.min(schema.documents.c.renew)))
    return moment


def enqueue(tx: Connection, topic: str, payload: bytes, *, retained: bool, qos: int = 1) -> None:
    """Put a publication into the outbox; a retained one replaces those of its topic that still wait."""
    if retained:
        tx.execute(
            sa.delete(schema.outbox).where(schema.outbox.c.topic == topic, schema.outbox.c.retained.is_(True))
        )
    tx.execute(sa.insert(schema.outbox).values(topic=topic, payload=payload, retained=retained, qos=qos))


def enqueue_all(tx: Connection, sends: Sequence[tuple[str, bytes]]) -> None:
    """Put publications that are not retained into the outbox, in their order."""
    if sends:
        rows = [{"topic": topic, "payload": data, "retained": False, "qos": 1} for topic, data in sends]
        tx.execute(sa.insert(schema.outbox), rows)


def waiting(tx: Connection, after: int, limit: int) -> Sequence[Publication]:
    """Up to `limit` publications behind row `after`, in their order."""
    table = schema.outbox
    rows = tx.execute(sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit))
    return [Publication(*row) for row in rows]


def acknowledged(tx: Connection, ids: Iterable[int]) -> None:
    """Remove publications that the broker has acknowledged."""
    tx.execute(sa.delete(schema.outbox).where(schema.outbox.c.id.in_(list(ids))))


def trim_events(tx: Connection) -> int:
    """Drop the oldest not retained publications beyond `MAX_WAITING_EVENTS`; returns how many."""
    table = schema.outbox.c
    newest = sa.select(table.id).where(table.retained.is_(False)).order_by(table.id.desc())
    keep = tx.scalar(newest.offset(MAX_WAITING_EVENTS).limit(1))
    if keep is None:
        return 0
    return tx.execute(sa.delete(schema.outbox).where(table.retained.is_(False), table.id <= keep)).rowcount

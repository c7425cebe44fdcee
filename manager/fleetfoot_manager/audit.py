"""The audit log: who did what, as a chain of hashes that anyone can verify (`fleetfoot_protocol.auditchain`).

`request` is the digest of the signed request that caused an entry, empty where the manager acted by itself.
How long the log is and the hash of its last entry are signed and published with every entry.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_protocol import auditchain, strictjson, times
from fleetfoot_protocol.auditchain import GENESIS, hash_of
from fleetfoot_protocol.errors import FleetfootError

MANAGER = "manager"


class Entry(NamedTuple):
    """One row. `actor` is an operator or `manager`; `data` is a JSON object as text."""

    n: int
    at: str
    actor: str
    action: str
    data: str
    request: str
    previous: str
    hash: str


def append(
    tx: Connection, now: float, actor: str, action: str, data: dict[str, Any], request: str = ""
) -> None:
    """Add a row to the chain, inside the transaction of what it tells."""
    end = last(tx)
    n, previous = (end.n + 1, end.hash) if end else (1, GENESIS)
    row = (n, times.to_text(now), actor, action, strictjson.dumps(data).decode(), request, previous)
    tx.execute(sa.insert(schema.audit).values(**Entry(*row, hash_of(*row))._asdict()))


def last(tx: Connection) -> Entry | None:
    """The newest row, or None."""
    row = tx.execute(sa.select(schema.audit).order_by(schema.audit.c.n.desc()).limit(1)).first()
    return Entry(*row) if row else None


def entry(tx: Connection, n: int) -> Entry | None:
    """One row, or None."""
    row = tx.execute(sa.select(schema.audit).where(schema.audit.c.n == n)).first()
    return Entry(*row) if row else None


def entries(tx: Connection) -> Iterator[Entry]:
    """All rows in their order."""
    for row in tx.execute(sa.select(schema.audit).order_by(schema.audit.c.n)):
        yield Entry(*row)


def page(
    tx: Connection, limit: int, *, after: int | None, actor: str | None, action: str | None
) -> list[Entry]:
    """Up to `limit` rows in their order: those behind row `after`, or the newest if that is None.

    action: what the action begins with.
    """
    table = schema.audit.c
    query = sa.select(schema.audit)
    if actor is not None:
        query = query.where(table.actor == actor)
    if action is not None:
        query = query.where(table.action.startswith(action, autoescape=True))
    if after is not None:
        query = query.where(table.n > after).order_by(table.n)
        return [Entry(*row) for row in tx.execute(query.limit(limit))]
    newest = tx.execute(query.order_by(table.n.desc()).limit(limit)).all()
    return [Entry(*row) for row in reversed(newest)]


def prune(tx: Connection, through: int, expected: str) -> int:
    """Delete the rows up to `through`, whose hash the caller must know; returns how many there were.

    Whoever calls adds the entry that tells of it. FleetfootError `not_found`, `conflict`, `state_refused`.
    """
    row, end = entry(tx, through), last(tx)
    if row is None or end is None:
        raise FleetfootError("not_found", f"the audit log has no entry {through}")
    if row.hash != expected:
        raise FleetfootError(
            "conflict", f"entry {through} is another one here", remedy="export the log of this manager anew"
        )
    if row.n == end.n:
        raise FleetfootError("state_refused", "the newest entry stays: the chain goes on from it")
    return tx.execute(sa.delete(schema.audit).where(schema.audit.c.n <= through)).rowcount


def first_broken(rows: Iterator[Entry]) -> int | None:
    """The number of the first row that does not follow from the one before it, or None."""
    found = auditchain.flaws((auditchain.Entry(**row._asdict()) for row in rows), [])
    return min((flaw.n for flaw in found), default=None)

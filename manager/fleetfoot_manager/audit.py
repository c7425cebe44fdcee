"""The audit log: who did what, as a chain of hashes that anyone can verify.

Each row's hash is the sha256 over the hash before it and the row itself as JSON with sorted keys: a row
that is changed, dropped or put in between breaks the chain from there on. `request` is the digest of the
signed request that caused the row, empty where the manager acted by itself.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_protocol import strictjson, times

#: The hash before the first row.
GENESIS = "0" * 64
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


def _hash(n: int, at: str, actor: str, action: str, data: str, request: str, previous: str) -> str:
    row = {"n": n, "at": at, "actor": actor, "action": action, "data": data, "request": request}
    return hashlib.sha256(previous.encode() + strictjson.dumps(row)).hexdigest()


def append(
    tx: Connection, now: float, actor: str, action: str, data: dict[str, Any], request: str = ""
) -> None:
    """Add a row to the chain, inside the transaction of what it tells."""
    last = tx.execute(
        sa.select(schema.audit.c.n, schema.audit.c.hash).order_by(schema.audit.c.n.desc()).limit(1)
    ).first()
    n, previous = (last.n + 1, last.hash) if last else (1, GENESIS)
    at, text = times.to_text(now), strictjson.dumps(data).decode()
    entry = Entry(
        n,
        at,
        actor,
        action,
        text,
        request,
        previous,
        _hash(n, at, actor, action, text, request, previous),
    )
    tx.execute(sa.insert(schema.audit).values(**entry._asdict()))


def entries(tx: Connection) -> Iterator[Entry]:
    """All rows in their order."""
    for row in tx.execute(sa.select(schema.audit).order_by(schema.audit.c.n)):
        yield Entry(*row)


def first_broken(rows: Iterator[Entry]) -> int | None:
    """The number of the first row that does not follow from the one before it, or None."""
    previous = GENESIS
    for expected, row in enumerate(rows, 1):
        good = _hash(*row[:6], previous)
        if row.n != expected or row.previous != previous or row.hash != good:
            return expected
        previous = row.hash
    return None

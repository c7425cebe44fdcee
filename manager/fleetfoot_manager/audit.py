"""The audit log: who did what, as a chain of hashes that anyone can verify (`fleetfoot_protocol.auditchain`).

`request` is the digest of the signed request that caused an entry, empty where the manager acted by itself.
How long the log is and the hash of its last entry are signed and published with every entry.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_manager.store import write_many
from fleetfoot_protocol import auditchain, strictjson, times
from fleetfoot_protocol.auditchain import GENESIS, hash_of
from fleetfoot_protocol.errors import FleetfootError

MANAGER = "manager"
_AT_ONCE = 500
_INSERT = (
    "INSERT INTO audit (n, at, actor, action, data, request, previous, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class Wanted(NamedTuple):
    """Which rows are meant; None for any. action: how it begins. group: it is about. since: as `at`."""

    actor: str | None = None
    action: str | None = None
    group: str | None = None
    since: str | None = None

    def about(self, data: str) -> bool:
        """Whether a row with these data is about the group: it, among others, or where a device came from."""
        value = json.loads(data)
        named = value.get("groups")
        came_from = [value.get("from")] if "device" in value else []
        return self.group in [value.get("group"), *came_from, *(named if isinstance(named, list) else [])]


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
    append_all(tx, now, [(actor, action, data, request)])


def append_all(tx: Connection, now: float, told: Iterable[tuple[str, str, dict[str, Any], str]]) -> None:
    """Add rows to the chain: of each its actor, action, data and request."""
    end = last(tx)
    first, previous = (end.n + 1, end.hash) if end else (1, GENESIS)
    at, rows = times.to_text(now), []
    for n, (actor, action, data, request) in enumerate(told, first):
        row = (n, at, actor, action, strictjson.dumps(data).decode(), request, previous)
        previous = hash_of(*row)
        rows.append(Entry(*row, previous))
    write_many(tx, _INSERT, rows)


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


def page(tx: Connection, limit: int, wanted: Wanted, *, after: int | None) -> list[Entry]:
    """Up to `limit` rows in their order: those behind row `after`, or the newest if that is None."""
    table = schema.audit.c
    query = sa.select(schema.audit)
    if wanted.actor is not None:
        query = query.where(table.actor == wanted.actor)
    if wanted.action is not None:
        query = query.where(table.action.startswith(wanted.action, autoescape=True))
    if wanted.since is not None:
        query = query.where(table.at >= wanted.since)
    if after is not None:
        query = query.where(table.n > after)
    query = query.order_by(table.n if after is not None else table.n.desc())
    if wanted.group is None:
        found = [Entry(*row) for row in tx.execute(query.limit(limit))]
    else:
        # The text narrows it down; what else bears this name is told apart by `about`.
        query = query.where(table.data.contains(f'"{wanted.group}"', autoescape=True))
        with tx.execute(query.execution_options(yield_per=_AT_ONCE)) as rows:
            those = (Entry(*row) for row in rows)
            found = list(islice((one for one in those if wanted.about(one.data)), limit))
    return found if after is not None else found[::-1]


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

"""Statuses that nobody has looked into yet, as they came, each with its attestation.

Under load, what a device says is stored at once and verified later, unless a decision waits for it. Such a
claim counts for nothing: it stands apart from what is known of a device, and only verification moves it
there (`ingest`). A device has one claim at most. Whoever has another one first verifies the one there is:
so each is looked into in the end, and nobody's message can push a true one out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_manager.store import write_many

#: So many wait at most; from there on everything is verified when it comes.
MAX_CLAIMS = 200_000
_AT_ONCE = 500


class Claim(NamedTuple):
    """A status as it came, with what came as its attestation. `at`: when, unix seconds."""

    device: str
    sha256: str
    status: bytes
    attestation: bytes
    at: float


class Claims:
    """What waits, in the store; here is only whose it is. One thread, that of the store's writer."""

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}
        self._new: dict[str, Claim] = {}

    def load(self, tx: Connection) -> None:
        """Know again what an earlier run left."""
        table = schema.claims.c
        self._waiting = {row[0]: row[1] for row in tx.execute(sa.select(table.device, table.sha256))}

    def __len__(self) -> int:
        return len(self._waiting)

    def of(self, device: str) -> str | None:
        """The sha256 of the status that a device has waiting, or None."""
        return self._waiting.get(device)

    def add(self, claim: Claim) -> None:
        """Let it wait. Its device must have none."""
        self._waiting[claim.device] = claim.sha256
        self._new[claim.device] = claim

    def flush(self, tx: Connection) -> None:
        """Write the new ones into the transaction."""
        write_many(
            tx,
            "INSERT INTO claims (device, sha256, status, attestation, at) VALUES (?, ?, ?, ?, ?)",
            list(self._new.values()),
        )
        self._new = {}

    def take(self, tx: Connection, most: int) -> list[Claim]:
        """Up to so many, which wait no more."""
        names = [name for name, _ in zip(self._waiting, range(most), strict=False)]
        slices = (names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE))
        return [claim for some in slices for claim in self._out(tx, some)]

    def take_of(self, tx: Connection, device: str) -> list[Claim]:
        """The device's, if it has one, which waits no more."""
        return self._out(tx, [device]) if device in self._waiting else []

    def _out(self, tx: Connection, names: Sequence[str]) -> list[Claim]:
        for name in names:
            del self._waiting[name]
        found = [self._new.pop(name) for name in names if name in self._new]
        stored = list(set(names) - {claim.device for claim in found})
        if stored:
            table = schema.claims
            rows = tx.execute(sa.select(*table.c[Claim._fields]).where(table.c.device.in_(stored)))
            found += [Claim(*row) for row in rows]
            tx.execute(sa.delete(table).where(table.c.device.in_(stored)))
        return found

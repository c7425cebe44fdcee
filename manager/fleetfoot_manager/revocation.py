"""Revoked devices: forgotten, on the list of certificates, and turned away from the broker.

A revoked device's session is taken from it and what it left retained is cleared, at once and again whenever
it is heard of, until somebody enrols that name anew: a broker may learn later than the manager whose
certificates are worth nothing any more.
"""

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema


def revoke(tx: Connection, device: str, group: str, now: float) -> None:
    """Remember that whoever calls itself so is to be turned away."""
    forgive(tx, device)
    tx.execute(sa.insert(schema.revoked_devices).values(id=device, group=group, at=now))


def forgive(tx: Connection, *devices: str) -> None:
    """Somebody may have these names again."""
    table = schema.revoked_devices
    tx.execute(sa.delete(table).where(table.c.id.in_(devices)))


def revoked_groups(tx: Connection) -> dict[str, str]:
    """Every revoked device with its last group."""
    table = schema.revoked_devices.c
    return {row[0]: row[1] for row in tx.execute(sa.select(table.id, table.group))}


class Bouncer:
    """Whom to turn away, and when: each at once, and not again within `seconds`. One thread."""

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._revoked: dict[str, str] | None = None
        self._last: dict[str, float] = {}
        self._due: dict[tuple[str, str], float] = {}

    def changed(self) -> None:
        """Somebody was revoked, or enrolled anew."""
        self._revoked = None

    def heard(self, tx: Connection, group: str, device: str, now: float) -> None:
        """Somebody who is not enrolled says something: a revoked device will be turned away."""
        if self._revoked is None:
            self._revoked = revoked_groups(tx)
        if device in self._revoked:
            self._due.setdefault((group, device), self._last.get(device, now - self._seconds) + self._seconds)

    def next_deadline(self) -> float:
        """When somebody is to be turned away, infinity if nobody is."""
        return min(self._due.values(), default=float("inf"))

    def due(self, now: float) -> list[tuple[str, str]]:
        """(group, device) of those whose turn it is."""
        found = [who for who, when in self._due.items() if when <= now]
        for who in found:
            del self._due[who]
            self._last[who[1]] = now
        return found


def left_topics(whole: Callable[[str], str], group: str, device: str) -> list[str]:
    """Every topic under which a device leaves something retained."""
    base = whole(f"groups/{group}/devices/{device}")
    return [f"{base}/{name}" for name in ("status", "status/attestation", "presence")]

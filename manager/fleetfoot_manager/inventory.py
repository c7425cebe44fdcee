"""The inventory: enrolled devices, what they said of themselves last, and whether they are there.

A device's labels are those in its own attested status, which it admits itself by; until it has said
something, those of its enrolment stand in.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_manager.store import read_many, write_many
from fleetfoot_protocol import strictjson
from fleetfoot_protocol.documents import read
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Status

MAX_PAST_INCARNATIONS = 8
#: Names in one statement.
_AT_ONCE = 500


@dataclass(slots=True)
class Heard:
    """Whether a device is there, and when it was heard. Nobody signs that: it is changed in place."""

    online: bool = False
    last_seen: float | None = None


@dataclass(frozen=True)
class DeviceEntry:
    """An enrolled device. `status`: the bytes of its last attested status, verified by the manager."""

    id: str
    group: str
    key: bytes
    enrolled_labels: Mapping[str, str]
    status_bytes: bytes | None = None
    status_sha256: str | None = None
    incarnation: str | None = None
    counter: int = 0
    past: Mapping[str, int] = field(default_factory=dict)
    heard: Heard = field(default_factory=Heard, compare=False)

    @property
    def online(self) -> bool:
        """Whether the device is connected."""
        return self.heard.online

    @property
    def last_seen(self) -> float | None:
        """When the device was heard, unix seconds."""
        return self.heard.last_seen

    @cached_property
    def status(self) -> Status | None:
        """The last attested status, or None."""
        return None if self.status_bytes is None else read(Status, self.status_bytes)

    def forget_parsed(self) -> None:
        """Parse the status anew when it is asked for again."""
        self.__dict__.pop("status", None)

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels by which the device admits itself, as far as is known."""
        status = self.status
        return self.enrolled_labels if status is None else status.labels


#: The columns of an entry, in the order in which `_entry` takes them.
_COLUMNS = tuple(
    schema.devices.c[name]
    for name in ("id", "group", "key", "labels", "status", "status_sha256", "incarnation", "counter", "past",
                 "online", "last_seen")
)  # fmt: skip
_NAMED = str(sa.select(*_COLUMNS).compile()) + " WHERE devices.id IN (?)"


def _entry(row: Sequence[Any]) -> DeviceEntry:
    device, group, key, labels, status, sha256, incarnation, counter, past, online, last_seen = row
    return DeviceEntry(
        device, group, bytes.fromhex(key), _object(labels), status, sha256, incarnation, counter or 0,
        _object(past), Heard(bool(online), last_seen),
    )  # fmt: skip


def _object(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {} if text == "{}" else json.loads(text)
    return found


def find(tx: Connection, device: str) -> DeviceEntry | None:
    """The device, or None if it is not enrolled."""
    row = tx.execute(sa.select(*_COLUMNS).where(schema.devices.c.id == device)).first()
    return _entry(row) if row else None


def named(tx: Connection, devices: Sequence[str]) -> list[DeviceEntry]:
    """Those of these devices that are enrolled."""
    # A fleet that speaks at once is read here: without what a row costs in SQLAlchemy.
    some = (devices[at : at + _AT_ONCE] for at in range(0, len(devices), _AT_ONCE))
    return [_entry(row) for names in some for row in read_many(tx, _NAMED, names)]


def demand(tx: Connection, device: str) -> DeviceEntry:
    """The device, or FleetfootError `not_found`."""
    entry = find(tx, device)
    if entry is None:
        raise FleetfootError("not_found", f"no device {device} is enrolled")
    return entry


def of_groups(tx: Connection, groups: Iterable[str]) -> list[DeviceEntry]:
    """All devices of these groups, by id."""
    table = schema.devices.c
    query = sa.select(*_COLUMNS).where(table.group.in_(list(groups))).order_by(table.id)
    return [_entry(row) for row in tx.execute(query)]


def page(tx: Connection, groups: Sequence[str], after: str | None, limit: int) -> list[DeviceEntry]:
    """Up to `limit` devices of these groups with ids behind `after`."""
    table = schema.devices.c
    query = sa.select(*_COLUMNS).where(table.group.in_(groups), table.id > (after or ""))
    return [_entry(row) for row in tx.execute(query.order_by(table.id).limit(limit))]


def groups(tx: Connection) -> list[str]:
    """The groups that have devices."""
    return list(tx.scalars(sa.select(schema.devices.c.group).distinct().order_by(schema.devices.c.group)))


def known_groups(tx: Connection) -> list[str]:
    """The groups that are there: those that have devices, that were made, and that had a device."""
    return sorted({*groups(tx), *tx.scalars(sa.select(schema.groups.c.id))})


def remember_group(tx: Connection, group: str, now: float, title: str = "") -> None:
    """Let a group be there, whoever leaves it, until it is forgotten."""
    table = schema.groups
    if tx.scalar(sa.select(table.c.id).where(table.c.id == group)) is None:
        tx.execute(sa.insert(table).values(id=group, title=title, created=now))


def counts(tx: Connection, groups: Sequence[str]) -> tuple[int, int]:
    """(devices, of them online) in these groups."""
    table = schema.devices.c
    row = tx.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.cast(table.online, sa.Integer)), 0)).where(
            table.group.in_(groups)
        )
    ).one()
    return int(row[0]), int(row[1])


def counters(tx: Connection) -> list[tuple[str, str | None, int | None]]:
    """(device, incarnation, counter) of the newest status of every device."""
    table = schema.devices.c
    return [
        (row[0], row[1], row[2]) for row in tx.execute(sa.select(table.id, table.incarnation, table.counter))
    ]


_ADD = 'INSERT INTO devices (id, "group", key, labels, enrolled, online) VALUES (?, ?, ?, ?, ?, ?)'


class Enrolled(Enum):
    """What an enrolment did."""

    UNCHANGED = "unchanged"
    ADDED = "added"
    RELABELLED = "relabelled"
    REPLACED = "replaced"
    MOVED = "moved"


def enroll(
    tx: Connection,
    device: str,
    group: str,
    key: str,
    labels: Mapping[str, str],
    now: float,
    *,
    replace: bool = False,
) -> Enrolled:
    """Enrol a device, or bring its enrolment up to date.

    Another key or group needs `replace`, else FleetfootError `conflict`. A new key makes the manager
    forget what was said under the old one.
    """
    return enroll_over(tx, find(tx, device), device, group, key, labels, now, replace=replace)


def enroll_over(
    tx: Connection,
    known: DeviceEntry | None,
    device: str,
    group: str,
    key: str,
    labels: Mapping[str, str],
    now: float,
    *,
    replace: bool = False,
) -> Enrolled:
    """As `enroll`, by whom the present enrolment was read already: None if there is none."""
    text = strictjson.dumps(dict(labels)).decode()
    if known is None:
        row = (device, group, key, text, now, False)
        write_many(tx, _ADD, [row])
        return Enrolled.ADDED
    same_key, same_group = known.key.hex() == key, known.group == group
    if not (same_key and same_group) and not replace:
        raise FleetfootError(
            "conflict",
            f"device {device} is enrolled in group {known.group} with "
            + ("this key" if same_key else f"another key ({known.key.hex()[:16]}…)"),
            remedy="check that no two devices have the same id; to replace the enrolment say so",
        )
    if same_key and same_group and dict(known.enrolled_labels) == dict(labels):
        return Enrolled.UNCHANGED
    values: dict[str, Any] = {"group": group, "key": key, "labels": text}
    if not same_key:
        values |= {"status": None, "status_sha256": None, "incarnation": None, "counter": None, "past": "{}"}
    _update(tx, device, **values)
    if not same_group:
        return Enrolled.MOVED
    return Enrolled.RELABELLED if same_key else Enrolled.REPLACED


def keep(tx: Connection, entries: Iterable[DeviceEntry]) -> None:
    """Write what devices said of themselves."""
    write_many(
        tx,
        "UPDATE devices SET status = ?, status_sha256 = ?, incarnation = ?, counter = ?, past = ?"
        " WHERE id = ?",
        [
            (
                entry.status_bytes,
                entry.status_sha256,
                entry.incarnation,
                entry.counter,
                strictjson.dumps(dict(entry.past)).decode(),
                entry.id,
            )
            for entry in entries
        ],
    )


def keep_heard(tx: Connection, heard: Mapping[str, Heard]) -> None:
    """Write who is there, and when devices were heard."""
    write_many(
        tx,
        "UPDATE devices SET online = ?, last_seen = ? WHERE id = ?",
        [(one.online, one.last_seen, device) for device, one in heard.items()],
    )


def _update(tx: Connection, device: str, **values: Any) -> None:
    tx.execute(sa.update(schema.devices).where(schema.devices.c.id == device).values(**values))

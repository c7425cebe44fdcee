"""Rollouts in the store: a row for the rollout, one for each of its devices; written is what has changed.

`rollouts.rollout` holds everything but devices and cohort, as JSON; `rollouts.cohort` the order of admission;
`rollouts.sums` how many devices ended how, which is all that lists and success rates need of them.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_manager.rollout_devices import DeviceRecord, DeviceTable
from fleetfoot_manager.rollout_state import Rollout
from fleetfoot_manager.store import upsert, write_many
from fleetfoot_protocol.states import TAKEN_BACK, Terminal

_FIELDS = tuple(one.name for one in fields(DeviceRecord))
_COLUMNS = ("rollout", "device", *_FIELDS)
_UPSERT = (
    f"INSERT INTO rollout_devices ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
    " ON CONFLICT (rollout, device) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _FIELDS)
)


class Summary(NamedTuple):
    """A rollout without its devices, but how many there are: once it has ended by group, before under ""."""

    rollout: Rollout
    sums: Mapping[str, Mapping[str, int]]

    @property
    def counts(self) -> dict[str, int]:
        """How many devices ended how, or have not."""
        found: Counter[str] = Counter()
        for counts in self.sums.values():
            found.update(counts)
        return {name: found[name] for name in (*map(str, Terminal), TAKEN_BACK) if found[name]}


def summaries(
    tx: Connection, *, live: bool, component: str | None = None, limit: int | None = None
) -> list[Summary]:
    """Live or ended rollouts, newest first. Reads no row of a device."""
    table = schema.rollouts.c
    query = sa.select(table.rollout, table.sums).where(table.live.is_(live)).order_by(table.created.desc())
    if component is not None:
        query = query.where(table.component == component)
    rows = tx.execute(query.limit(limit)).all()
    empty: dict[str, Any] = {"cohort": [], "devices": {}}
    return [Summary(Rollout.from_json(json.loads(text) | empty), json.loads(sums)) for text, sums in rows]


def load(tx: Connection, *, live: bool | None = None, limit: int | None = None) -> list[Rollout]:
    """Rollouts, newest first; only live or only ended ones if asked."""
    table = schema.rollouts.c
    query = sa.select(table.id, table.rollout, table.cohort).order_by(table.created.desc())
    if live is not None:
        query = query.where(table.live.is_(live))
    if limit is not None:
        query = query.limit(limit)
    rows = tx.execute(query).all()
    devices = records(tx, [row[0] for row in rows])
    return [_rollout(*row, devices[row[0]]) for row in rows]


def load_one(tx: Connection, name: str) -> Rollout | None:
    """A rollout, or None."""
    table = schema.rollouts.c
    row = tx.execute(sa.select(table.id, table.rollout, table.cohort).where(table.id == name)).first()
    return None if row is None else _rollout(*row, records(tx, [name])[name])


def records(tx: Connection, names: Iterable[str]) -> Mapping[str, dict[str, dict[str, Any]]]:
    """What is known of the devices of these rollouts, as JSON values: by rollout, then by device."""
    table = schema.rollout_devices
    query = sa.select(*(table.c[name] for name in _COLUMNS)).where(table.c.rollout.in_(list(names)))
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for rollout, device, *values in tx.execute(query):
        found[rollout][device] = dict(zip(_FIELDS, values, strict=True))
    return found


def _rollout(_name: str, text: str, cohort: str, devices: Mapping[str, Any]) -> Rollout:
    of = Rollout.from_json(json.loads(text) | {"cohort": json.loads(cohort), "devices": devices})
    return replace(of, devices=of.devices.kept())


def keep(tx: Connection, before: Rollout | None, of: Rollout) -> None:
    """Write what has changed since `before`, which is how the store has it; None if it has not."""
    head = replace(of, cohort=(), devices=DeviceTable({}, of.devices.opened)).to_json()
    values: dict[str, Any] = {
        "component": of.component,
        "digest": of.goal.digest,
        "state": str(of.state),
        "live": not of.state.ended,
        "revision": of.revision,
        "created": of.created,
        "rollout": json.dumps({k: v for k, v in head.items() if k not in ("cohort", "devices")}),
        "sums": json.dumps(_sums(of)),
    }
    if before is None or before.cohort is not of.cohort:
        values["cohort"] = json.dumps([list(member) for member in of.cohort], separators=(",", ":"))
    upsert(tx, schema.rollouts, {"id": of.id}, values)
    if before is None:
        rows = [{"rollout": of.id, "group": group} for group in of.groups]
        tx.execute(sa.insert(schema.rollout_groups), rows)
    write_many(tx, _UPSERT, [_row(of.id, device, of.devices[device]) for device in of.devices.news])


def _sums(of: Rollout) -> dict[str, dict[str, int]]:
    """Told apart by group at the end only: until then every report of a device would have to count them."""
    if not of.state.ended:
        return {"": of.counts}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for device, group in of.cohort:
        found[group][of.result(device)] += 1
    return {group: dict(counts) for group, counts in found.items()}


def _row(rollout: str, device: str, record: DeviceRecord) -> tuple[Any, ...]:
    values = (getattr(record, name) for name in _FIELDS)
    return (rollout, device, *(str(one) if isinstance(one, str) else one for one in values))

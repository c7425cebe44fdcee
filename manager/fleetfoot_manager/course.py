"""How a rollout goes, in figures: what devices took to be healthy, against the last one, what went wrong."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median, quantiles
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_manager.rollout import Rollout
from fleetfoot_protocol.states import Terminal

#: Ended rollouts among which the last one is looked for that has anything to compare with.
_NEWEST = 5
_CAUSES = 20
_WENT_WRONG = frozenset({Terminal.FAILED, Terminal.ROLLED_BACK, Terminal.SILENT})


def took(tx: Connection, rollouts: Iterable[str]) -> list[float]:
    """Seconds from being asked to being healthy, of all devices of these rollouts that are; in order."""
    row = schema.rollout_devices.c
    query = sa.select(row.ended - row.since).where(
        row.rollout.in_(list(rollouts)),
        row.terminal == str(Terminal.HEALTHY),
        row.since.is_not(None),
        row.ended.is_not(None),
    )
    return sorted(tx.scalars(query))


def ninth(times: Sequence[float]) -> float:
    """What nine of ten stayed below. `times`: at least one, in order."""
    return float(times[0] if len(times) == 1 else quantiles(times, n=10, method="inclusive")[-1])


def of(tx: Connection, rollout: Rollout) -> dict[str, Any]:
    """The fields of a shown rollout that are about how it goes; what is not known is left out."""
    found = {
        "took": _figures(took(tx, [rollout.id])),
        "before": _before(tx, rollout),
        "causes": _causes(rollout),
    }
    return {name: value for name, value in found.items() if value}


def _figures(times: Sequence[float]) -> dict[str, Any]:
    """Whole seconds, rounded."""
    if not times:
        return {}
    return {"devices": len(times), "median": round(median(times)), "p90": round(ninth(times))}


def _before(tx: Connection, rollout: Rollout) -> dict[str, Any]:
    """The last rollout of the component before this one in which a device proved healthy."""
    table = schema.rollouts.c
    query = (
        sa.select(table.id, table.rollout)
        .where(
            table.component == rollout.component,
            table.live.is_(False),
            table.id != rollout.id,
            table.created <= rollout.created,
        )
        .order_by(table.created.desc())
        .limit(_NEWEST)
    )
    for name, text in tx.execute(query).all():
        if figures := _figures(took(tx, [name])):
            return {"rollout": name, "version": json.loads(text)["goal"]["version"], **figures}
    return {}


def _causes(rollout: Rollout) -> list[dict[str, Any]]:
    """Failures by group and code, the most frequent first; how they ended where there is no code."""
    if not any(rollout.devices.counts.get(str(end)) for end in _WENT_WRONG):
        return []
    found = Counter(
        (group, record.code or str(record.terminal))
        for device, group in rollout.cohort
        if (record := rollout.devices[device]).terminal in _WENT_WRONG
    )
    return [
        {"group": group, "code": code, "count": count} for (group, code), count in found.most_common(_CAUSES)
    ]

"""What a plan can say of the future: how long it will take, who is away, and what to think of first.

Times come from this fleet: what devices took from being asked to being healthy in the newest rollouts of the
component. Without any, from the defaults: probation, and what is usual around it.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import catalogue, course, schema
from fleetfoot_manager.catalogue import ReleaseRow
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.rollout import Rollout

#: Rollouts that are looked at, and seconds that a device takes where there is none.
NEWEST = 5
USUAL_SECONDS = 180.0
_LISTED = 30


def device_seconds(tx: Connection, component: str) -> float | None:
    """What nine of ten devices stayed below in the newest ended rollouts of the component, if any did."""
    table = schema.rollouts.c
    names = tx.scalars(
        sa.select(table.id)
        .where(table.component == component, table.live.is_(False))
        .order_by(table.created.desc())
        .limit(NEWEST)
    )
    times = course.took(tx, names)
    return course.ninth(times) if times else None


def describe(
    tx: Connection, of: Rollout, release: ReleaseRow, devices: Sequence[DeviceEntry]
) -> dict[str, Any]:
    """The fields of a plan that are about its course. Ids are shortened, their counts are not."""
    sizes = [after - before for before, after in zip((0, *of.waves), of.waves, strict=False)]
    known = device_seconds(tx, of.component)
    seconds = USUAL_SECONDS if known is None else known
    estimate = round((len(sizes) + bool(of.stage)) * (seconds + of.settle))
    away = [entry.id for entry in devices if not entry.online]
    ahead = [entry.id for entry in devices if _ahead(entry, of)]
    return {
        "batch_size": max(sizes),
        "batch_count": len(sizes),
        "estimated_total_seconds": estimate,
        "estimated_from": "defaults" if known is None else "history",
        "offline": away[:_LISTED],
        "offline_count": len(away),
        "ahead": ahead[:_LISTED],
        "ahead_count": len(ahead),
        "warnings": [*warnings(tx, of, release, devices), *_cut_short(of, estimate)],
    }


def _ahead(entry: DeviceEntry, of: Rollout) -> bool:
    one = entry.status.components.get(of.component) if entry.status else None
    run = one.running if one else None
    ahead = run is not None and run.digest != of.goal.digest and run.counter >= of.goal.counter
    return ahead and of.goal.mode == "at_least"


def phase(of: Rollout, index: int) -> str:
    """What the batch with this index, from 1, is in the rollout."""
    if len(of.waves) == 1:
        return "everybody"
    if of.strategy == "batches" and not (of.include and index == 1):
        return "batch"
    return "canary" if index == 1 else "wave"


def warnings(tx: Connection, of: Rollout, release: ReleaseRow, devices: Sequence[DeviceEntry]) -> list[str]:
    """What is permitted, and perhaps not meant."""
    found = []
    floor, there = release.manifest.min_counter, _runs(of, devices)
    stuck = sorted({version for version, counter in there if counter < floor})
    if stuck:
        found.append(f"no way back to {', '.join(stuck[:5])}: {release.version} raises the floor above it")
    archived = {row.version for row in catalogue.listed(tx, of.component) if row.life == "archived"}
    gone = sorted({version for version, _ in there} & archived)
    if gone:
        found.append(f"the way back to {', '.join(gone[:5])} leads to an archived release")
    platforms = {
        f"{status.platform.os}/{status.platform.arch}"
        for entry in devices
        if of.devices[entry.id].wave == 1 and (status := entry.status)
    }
    if len(of.waves) > 1 and len(platforms) > 1:
        found.append(
            f"the canary mixes platforms ({', '.join(sorted(platforms))}): few of each will tell little"
        )
    return found


def _cut_short(of: Rollout, estimate: int) -> list[str]:
    """What keeps the rollout from reaching everybody, in number or in time."""
    found = []
    if beyond := of.total - of.waves[-1]:
        found.append(f"the waves end with {of.waves[-1]} of {of.total} devices: {beyond} are not reached")
    if of.lives_until is not None and of.lives_until < of.created + estimate:
        found.append(f"it expires after {of.lives_until - of.created:.0f} s, and takes about {estimate} s")
    return found


def _runs(of: Rollout, devices: Sequence[DeviceEntry]) -> set[tuple[str, int]]:
    """(version, counter) of what runs and would be replaced."""
    found = set()
    for entry in devices:
        one = entry.status.components.get(of.component) if entry.status else None
        if one is not None and one.running is not None and one.running.digest != of.goal.digest:
            found.add((one.running.version, one.running.counter))
    return found

"""Ways back: whether there is one before it is promised, and the way back in steps.

A recall (`withdrawn`) takes everybody back at once. In steps it goes by a rollout of the release before, with
goals that are `exactly` and cuts that widen like any other's; in the end the release left is withdrawn, too.
"""

from collections import Counter
from typing import NamedTuple

from fleetfoot_manager import catalogue, pace, planning, policies
from fleetfoot_manager.catalogue import Life, ReleaseRow
from fleetfoot_manager.compose import GroupIntent
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests import rollout_arguments
from fleetfoot_manager.requests.starting import tell_planned
from fleetfoot_manager.rollout import Rollout, planned
from fleetfoot_manager.work import Work
from fleetfoot_protocol.documents import MAX_LISTED
from fleetfoot_protocol.errors import FleetfootError

_NAMED = 10


class _Way(NamedTuple):
    """Where a device would go back to. `held`: it said that it has that version itself.

    `barred`: why it may not, although it holds it and there is nothing else.
    """

    device: str
    version: str
    counter: int
    digest: str
    held: bool
    barred: str = ""


def _moved(work: Work, of: Rollout) -> list[DeviceEntry]:
    """Devices that run the goal, or are on the way to it, as far as is known."""
    return [
        entry
        for entry in work.devices.members(work.tx, of.groups)
        if (record := of.devices.get(entry.id)) is not None and record.moved
    ]


def _way(of: Rollout, entry: DeviceEntry, intent: GroupIntent) -> _Way | None:
    """What the device would return to, by what it said last; None if it did not say."""
    one = entry.status.components.get(of.component) if entry.status else None
    if one is None:
        return None
    run, prev = one.running, one.previous
    before = prev if run is None or run.digest == of.goal.digest else run
    gone = {*intent.withdrawn, of.goal.digest}
    for way in (before, intent.baseline):
        if way is not None and way.digest not in gone and way.counter >= one.floor:
            return _Way(entry.id, way.version, way.counter, way.digest, way is before)
    if before is None:
        return None
    below = before.counter < one.floor
    barred = f"is below the floor {one.floor}" if below else f"is withdrawn in group {entry.group}"
    return _Way(entry.id, before.version, before.counter, before.digest, True, barred)


def demand_ways_back(work: Work, of: Rollout) -> None:
    """Raise FleetfootError `state_refused` if a device that moved would go back to what serves nobody."""
    lost: dict[str, list[str]] = {}
    for entry in _moved(work, of):
        way = _way(of, entry, work.intent(entry.group, of.component))
        if way is not None and (why := _lost(work, of, way)):
            lost.setdefault(why, []).append(way.device)
    if lost:
        told = "; ".join(
            f"{why}: {', '.join(ids[:_NAMED])}" + (f" and {len(ids) - _NAMED} more" if ids[_NAMED:] else "")
            for why, ids in lost.items()
        )
        raise FleetfootError(
            "state_refused",
            f"not every device has a way back: {told}"[:1500],
            remedy="abort instead, or leave those where they are: --leave-stranded",
        )


def _lost(work: Work, of: Rollout, way: _Way) -> str:
    row = catalogue.by_digest(work.tx, way.digest)
    if row is not None and catalogue.recall_of(work.tx, row.digest) is not None:
        return f"{of.component} {way.version} is recalled"
    if way.barred:
        return f"{of.component} {way.version} {way.barred}"
    if row is None:
        # What came with the device was perhaps never published: it goes back to it without anybody's help.
        return "" if way.held else f"{of.component} {way.version} is gone from the catalogue"
    if row.life == Life.ARCHIVED:
        return f"{of.component} {way.version} is archived"
    return ""


def planned_back(work: Work, of: Rollout, asked: rollout_arguments.RolloutDecide, operator: str) -> Rollout:
    """The rollout that takes back, in steps, the devices that moved; added, and not started."""
    moved = _moved(work, of)
    release = _release_before(work, of, moved)
    catalogue.demand_serving(work.tx, release)
    listed = len(moved) <= MAX_LISTED
    cohort = moved if listed else [e for e in work.devices.members(work.tx, of.groups) if e.id in of.devices]
    total = sum(of.devices[entry.id].since is not None for entry in cohort)
    waves = (
        pace.shared(asked.waves, total)
        if asked.waves is not None
        else pace.batches(asked.batch_size, asked.batch_pct, total)
    )
    # By name where that goes: who never moved has nothing to do with it. Else by the same salt, so that the
    # devices below the cut are those that were admitted.
    back = planned(
        id=work.house.name("r-"),
        component=of.component,
        goal=planning.goal_of(release, "exactly"),
        devices=[(entry.id, entry.group) for entry in cohort],
        waves=waves,
        now=work.now,
        groups=of.groups,
        selector=of.selector,
        salt=of.salt,
        already=[] if listed else [entry.id for entry in cohort if not of.devices[entry.id].moved],
        settle=float(pace.DEFAULT_SETTLE if asked.settle is None else asked.settle),
        device_timeout=of.device_timeout,
        listed=listed,
        strategy="waves" if asked.waves is not None else "batches",
        priority=of.priority,
        withdraws=of.goal.digest,
    )
    work.add(back)
    tell_planned(work, back)
    order = rollout_arguments.RolloutPlan(
        component=of.component, version=release.version, groups=of.groups, mode="exactly", waves=asked.waves,
        batch_pct=asked.batch_pct, batch_size=asked.batch_size, settle=asked.settle,
        devices=tuple(entry.id for entry in moved) if listed else (),
    )  # fmt: skip
    policies.keep_order(work.tx, policies.Order(back.id, operator, order))
    return back


def _release_before(work: Work, of: Rollout, moved: list[DeviceEntry]) -> ReleaseRow:
    """The release that most of the devices would go back to."""
    ways = (_way(of, entry, work.intent(entry.group, of.component)) for entry in moved)
    votes = Counter(way.digest for way in ways if way is not None and not way.barred)
    row = catalogue.by_digest(work.tx, votes.most_common(1)[0][0]) if votes else None
    if row is None:
        why = "there is no release to go back to" if moved else "nobody has moved"
        raise FleetfootError(
            "state_refused",
            f"{of.id} cannot be taken back in steps: {why}",
            remedy=f"take it back at once: 'fleetfoot rollout decide {of.id} rollback'",
        )
    return row

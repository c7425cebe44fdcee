"""Chains: a device takes at most one major version at a time, so a farther one is reached hop by hop."""

from sqlalchemy.engine import Connection

from fleetfoot_manager import catalogue, targets
from fleetfoot_manager.catalogue import Life, ReleaseRow
from fleetfoot_manager.requests.rollout_arguments import RolloutPlan
from fleetfoot_protocol import versions
from fleetfoot_protocol.fields import CHANNELS_ADMITTED

_BOUND = 1000


def of(tx: Connection, asked: RolloutPlan) -> list[RolloutPlan]:
    """The same order as a sequence of orders, one for each hop; alone where no hop is needed or possible.

    For each major version between the lowest that runs and the one wanted: the newest release of it that
    serves whole groups. Without one the order stays as it is, and the plan says who refuses it.
    """
    release = catalogue.demand(tx, asked.component, asked.version)
    wanted = versions.major(release.version)
    running = [
        versions.major(one.running.version)
        for entry in targets.members(tx, asked)
        if entry.status
        and (one := entry.status.components.get(asked.component)) is not None
        and one.running is not None
    ]
    lowest = min(running, default=wanted)
    between: dict[int, ReleaseRow] = {}
    for row in catalogue.listed(tx, asked.component, _BOUND) if wanted - lowest > 1 else ():
        major = versions.major(row.version)
        best = between.get(major)
        newer = lowest < major < wanted and (best is None or row.counter > best.counter)
        if newer and row.counter < release.counter and _serves(tx, row, release):
            between[major] = row
    if len(between) != max(0, wanted - lowest - 1):
        return [asked]
    steps = [between[major].version for major in sorted(between)]
    return [asked.model_copy(update={"version": version}) for version in [*steps, asked.version]]


def _serves(tx: Connection, row: ReleaseRow, wanted: ReleaseRow) -> bool:
    groups = row.life in (Life.BLESSED, Life.LIVE) and row.channel in CHANNELS_ADMITTED[wanted.channel]
    return groups and catalogue.recall_of(tx, row.digest) is None

"""How simulated devices behave: drawn once for each device, from the seed and its id, so that runs repeat."""

import random
from dataclasses import dataclass

from fleetfoot_protocol.errors import FleetfootError

#: By so many seconds the clock of a liar is off.
YEAR = 365 * 86400


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shares of the fleet, 0 to 1, except `work`: seconds that an upgrade takes on a device.

    fail: it comes back from every release. slow: it takes ten times as long. silent: it begins and is never
    heard again. flapping: it loses its connection every few seconds. offline: it is not there at first, and
    comes after some time. lying: its clock is a year ahead or a year behind, and it calls it trusted.
    """

    fail: float = 0.0
    slow: float = 0.0
    silent: float = 0.0
    flapping: float = 0.0
    offline: float = 0.0
    lying: float = 0.0
    work: float = 1.0

    def __post_init__(self) -> None:
        for name in ("fail", "slow", "silent", "flapping", "offline", "lying"):
            if not 0 <= getattr(self, name) <= 1:
                raise FleetfootError("usage", f"--{name} must be from 0 to 1", remedy="0.05 is one in twenty")
        if not 0 <= self.work <= 3600:
            raise FleetfootError("usage", "--work must be from 0 to 3600 seconds")


@dataclass(frozen=True, slots=True)
class Nature:
    """What one device is like. `work` in seconds; `away`: seconds until it is there at first; `skew`: seconds
    that its clock is ahead."""

    fails: bool
    silent: bool
    flaps: bool
    work: float
    away: float
    skew: int = 0


def nature_of(shapes: Shapes, seed: int, device: str) -> Nature:
    """The nature of a device: the same for the same seed and id."""
    # No secret: a repeatable draw is what is wanted.
    draw = random.Random(f"{seed}/{device}")  # noqa: S311
    fails, silent, flaps, lies, slow, offline = (
        draw.random() < share
        for share in (shapes.fail, shapes.silent, shapes.flapping, shapes.lying, shapes.slow, shapes.offline)
    )
    work = shapes.work * draw.uniform(0.5, 1.5) * (10 if slow else 1)
    away = draw.uniform(5, 30) if offline else 0.0
    return Nature(fails, silent, flaps, work, away, draw.choice((YEAR, -YEAR)) if lies else 0)

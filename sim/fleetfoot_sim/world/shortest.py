"""From a run that fails to the shortest story that fails too."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fleetfoot_sim.world.story import Happening
from fleetfoot_sim.world.world import run

_LINES = 25
#: Where a run's store lies: in memory where the system has such a place, since nobody cuts the power here.
PLACE = next((place for place in (Path("/dev/shm"),) if os.access(place, os.W_OK)), None)  # noqa: S108


class Failure(NamedTuple):
    """What went wrong in which story, and the last of what had happened."""

    error: Exception
    story: list[Happening]
    trace: list[str]


def attempt(seed: int, story: list[Happening]) -> Failure | None:
    """One run: its failure, or None."""
    with tempfile.TemporaryDirectory(prefix="fleetfoot-run-", dir=PLACE) as folder:
        try:
            run(Path(folder), seed, story)
        except Exception as error:
            return Failure(error, story, getattr(error, "trace", []))
    return None


def failure_of(
    seed: int, story: list[Happening], again: Callable[[int, list[Happening]], Failure | None] = attempt
) -> Failure | None:
    """The failure of a seed in its shortest story, or None if it has none.

    Happenings are left out one half, one quarter, at last one at a time, for as long as something fails.
    """
    failure = again(seed, story)
    if failure is None:
        return None
    size = max(1, len(story) // 2)
    while size >= 1:
        start, shorter = 0, False
        while start < len(failure.story):
            rest = failure.story[:start] + failure.story[start + size :]
            found = again(seed, rest)
            if found is None:
                start += size
            else:
                failure, shorter = found, True
        if size == 1 and not shorter:
            break
        size = max(1, size // 2) if size > 1 else (1 if shorter else 0)
    return failure


def tell(seed: int, failure: Failure) -> str:
    """The failure as people read it."""
    lines = [f"seed {seed}: {type(failure.error).__name__}: {failure.error}"]
    lines += [f"  {happening.line()}" for happening in failure.story] or ["  (nothing has to happen for it)"]
    return "\n".join(
        [*lines, "  the last that happened:", *(f"    {line}" for line in failure.trace[-_LINES:])]
    )

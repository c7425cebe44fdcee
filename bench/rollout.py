"""The core of a rollout over a million devices, without store and network: to plan, to open its waves,
and whether a report costs more in a large fleet.

The limit of opening a wave is what nobody can go below who looks at the devices at all: to hash the place of
each, and find between which two the cut is.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.common import Figure, cost_of
from fleetfoot_manager import collector
from fleetfoot_manager.rollout import Report, Rollout, Start, advance, planned
from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.states import RolloutState, Terminal

_GOAL = Goal(version="1.1.0", counter=2, digest="a" * 64, length=1000)
_SMALL = 1000
#: None takes everybody, so that each has a cut to be found.
_WAVES = ("1%", "10%", "90%")
_REPORTS = 20_000
#: Each has to stage before a wave opens: of a million, that alone would take a minute.
_STAGED = 100_000
_NOW = 1_800_000_000.0

T = TypeVar("T")


def _timed(act: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and seconds of processor."""
    began = time.process_time()
    found = act()
    return found, time.process_time() - began


def _memory() -> float:
    return cost_of(int(Path("/proc/self").resolve().name)).rss


def _plan(devices: int, stage: str = "") -> Rollout:
    pairs = [(f"dev-{number:07}", "everywhere") for number in range(devices)]
    waves = admission.wave_sizes(_WAVES, devices)
    return planned(
        id="r-bench", component="kiosk", goal=_GOAL, devices=pairs, waves=waves, now=_NOW, settle=0.0,
        breaker=0, stage=stage,
    )  # fmt: skip


def _cuts(devices: int) -> list[float]:
    """Seconds of processor to find the cut of each wave, one by itself."""
    fit = [admission.Candidate(f"dev-{number:07}", {}) for number in range(devices)]
    sizes = admission.wave_sizes(_WAVES, devices)
    return [_timed(partial(admission.cut_for, size, "r-bench", fit))[1] for size in sizes]


def _open_staged(devices: int) -> tuple[float, float]:
    """Seconds of processor to let everybody stage, and then to open the last wave, whose devices have."""
    rollout = _plan(devices, stage="first")
    (rollout, _), staging = _timed(lambda: advance(rollout, Start(), _NOW))
    for device in _awaited(rollout, rollout.total):
        said = Report(device, "b" * 64, Terminal.STAGED, rollout=rollout.id, attempt=1)
        rollout, _ = advance(rollout, said, _NOW)
    last = rollout.waves[-1] - rollout.waves[-2]
    (_, count), seconds = _timed(lambda: rollout.devices.open(len(rollout.waves), _NOW))
    if rollout.wave != 1 or count < last:
        raise RuntimeError(f"wave {rollout.wave} is open, and {count} devices are asked again")
    return staging, seconds


def _open_all(rollout: Rollout) -> tuple[Rollout, list[float]]:
    """With the last wave open, eight tenths of the devices in it; seconds of processor to open each."""
    (rollout, _), first = _timed(lambda: advance(rollout, Start(), _NOW))
    seconds = [first]
    while rollout.wave < len(rollout.waves):
        *most, last = _awaited(rollout, rollout.approved)
        rollout = _reported(rollout, most)
        rollout, more = _timed(partial(_reported, rollout, [last]))
        seconds.append(more)
    return rollout, seconds


def _dearest(opening: list[float], cuts: list[float]) -> tuple[float, float]:
    """(to open, to find its cut), of the wave whose opening costs most against its cut."""
    return max(zip(opening, cuts, strict=True), key=lambda pair: pair[0] / pair[1])


def _awaited(rollout: Rollout, upto: int) -> list[str]:
    return [m.device for m in rollout.cohort[:upto] if rollout.devices[m.device].awaited]


def _reported(rollout: Rollout, devices: Iterable[str]) -> Rollout:
    """These say that they are at work, and then that all is well."""
    for device in devices:
        for terminal, digest in ((Terminal.ACTIVE, "b" * 64), (Terminal.HEALTHY, _GOAL.digest)):
            said = Report(device, digest, terminal, rollout=rollout.id, attempt=1)
            rollout, _ = advance(rollout, said, _NOW)
    return rollout


def _report_cost(rollout: Rollout, reports: int) -> float:
    """Seconds of processor for a report, where eight tenths of the devices are awaited."""
    names = _awaited(rollout, rollout.total)[: reports // 2]
    _, seconds = _timed(lambda: _reported(rollout, names))
    return seconds / (2 * len(names))


def figures(quick: bool) -> list[Figure]:
    """For a small fleet and a large one."""
    devices = 5_000 if quick else 1_000_000
    each = 1e6 / devices
    collector.calm()  # as the manager does
    cuts = _cuts(devices)
    empty = _memory()
    rollout, plan = _timed(lambda: _plan(devices))
    memory = (_memory() - empty) * 2**20 / devices
    opened, opening = _open_all(rollout)
    if (opened.state, opened.wave) != (RolloutState.RUNNING, 3):
        raise RuntimeError(f"the last wave is not open: {opened.state} {opened.wave}")
    large = _report_cost(opened, min(_REPORTS, devices))
    small = _report_cost(_open_all(_plan(_SMALL))[0], _SMALL)
    label = f"{devices} devices"
    some = min(_STAGED, devices)
    staging, behind = _open_staged(some)
    any_cut = min(cuts) * some / devices
    open_one, its_cut = _dearest(opening, cuts)
    return [
        Figure(f"{label}: plan three waves", plan * each, "µs a device", sum(cuts) * each,
               "to find the three cuts", note="the cuts, the order of all, a record each"),
        Figure(f"{label}: open a wave, the dearest of three", open_one * 1e3, "ms", its_cut * 1e3,
               "to find its cut", at_most=1.0, note="with the report that lets it open"),
        Figure(f"{some} devices: let everybody stage", staging * 1e3, "ms", any_cut * 1e3, "to find a cut",
               at_most=1.0),
        Figure(f"{some} devices: open a wave behind staging", behind * 1e3, "ms", any_cut * 1e3,
               "to find a cut", at_most=1.0, note="of nine tenths of them, who have all staged"),
        Figure(f"a report among {devices}", large * 1e6, "µs", small * 1e6, f"a report among {_SMALL}",
               at_most=2.0, note="eight tenths of the devices are awaited"),
        Figure(f"{label}: memory of the rollout", memory, "B a device"),
    ]  # fmt: skip

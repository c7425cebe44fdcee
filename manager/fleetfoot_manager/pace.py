"""At which pace a rollout goes out: its waves, and what its gate demands, from what was asked for. Pure."""

from typing import Any, NamedTuple

from fleetfoot_manager.requests.rollout_arguments import RolloutPlan
from fleetfoot_protocol import admission
from fleetfoot_protocol.errors import FleetfootError

DEFAULT_WAVES: tuple[int | str, ...] = ("10%", "50%", "100%")
DEFAULT_SETTLE = 300
DEFAULT_BATCH_PERCENT = 20
MAX_BATCHES = 1000
#: Failures that trip, where nobody says it: waves at the first, batches at the second in a row.
_BREAKERS = {"immediate": 1, "waves": 1, "batches": 2}


class Pace(NamedTuple):
    """waves: cumulative counts. gate: the fields of a rollout that its gate goes by."""

    strategy: str
    waves: tuple[int, ...]
    settle: float
    gate: dict[str, Any]


def strategy_of(asked: RolloutPlan) -> str:
    """The word for how it goes out."""
    if asked.at_once:
        return "immediate"
    return "batches" if asked.strategy == "batches" or asked.batched else "waves"


def of(asked: RolloutPlan, total: int, now: float) -> Pace:
    """The pace over `total` devices. FleetfootError `request_invalid`."""
    strategy = strategy_of(asked)
    named = len(asked.canaries)
    sizes = tuple(size for size in _sizes(asked, strategy, total) if size > named)
    waves = (named, *sizes) if named else sizes
    breaker = asked.breaker
    if breaker is None:
        breaker = 0 if asked.failure_percent else _BREAKERS[strategy]
    delay = asked.batch_delay_seconds if asked.settle is None else asked.settle
    usual = 0 if strategy == "immediate" and not named else DEFAULT_SETTLE
    gate = {
        "strategy": strategy,
        "breaker": breaker,
        "consecutive": strategy == "batches",
        "failure_percent": asked.failure_percent or 0,
        "min_successes": asked.min_successes,
        "each_wave": asked.approve_each_wave,
        "skip_offline": asked.offline == "skip",
        "priority": asked.priority,
        "lives_until": None if asked.ttl is None else now + asked.ttl,
        "stage": asked.stage or "",
        "include": asked.canaries,
        "listed": bool(asked.devices),
    }
    return Pace(strategy, waves, float(usual if delay is None else delay), gate)


def _sizes(asked: RolloutPlan, strategy: str, total: int) -> tuple[int, ...]:
    if strategy == "batches":
        return batches(asked.batch_size, asked.batch_pct, total)
    shares = ("100%",) if asked.at_once else asked.waves or DEFAULT_WAVES
    return shared(shares, total)


def shared(shares: tuple[int | str, ...], total: int) -> tuple[int, ...]:
    """Cumulative counts of waves. FleetfootError `request_invalid`.

    Counts, and percentages, rise or stay among themselves; how the one kind stands to the other hangs on the
    size of the fleet, and what adds nobody there is dropped.
    """
    counts = [share for share in shares if isinstance(share, int)]
    percents = [int(share[:-1]) for share in shares if isinstance(share, str) and share[:-1].isdecimal()]
    if counts != sorted(counts) or percents != sorted(percents):
        raise FleetfootError("request_invalid", "waves: sizes are cumulative, so they must not fall")
    try:
        return admission.wave_sizes(shares, total)
    except ValueError as error:
        raise FleetfootError("request_invalid", f"waves: {error}") from None


def batches(size: int | None, percent: int | None, total: int) -> tuple[int, ...]:
    """Cumulative counts of batches of `size` devices, or of so many percent, the last being what is left."""
    if size is None:
        size = max(1, -(-total * (percent or DEFAULT_BATCH_PERCENT) // 100))
    if total > size * MAX_BATCHES:
        least = -(-total // MAX_BATCHES)
        raise FleetfootError(
            "request_invalid",
            f"{total} devices in batches of {size} are more than {MAX_BATCHES} batches",
            remedy=f"let a batch have at least {least} devices",
        )
    return (*range(size, total, size), total)

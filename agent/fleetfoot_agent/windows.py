"""Maintenance windows: when the owner of a device lets it be upgraded. Pure: the caller knows the time.

A window opens when its cron expression matches the clock of its time zone, as cron would start a job: an
hour that summer time leaves out is made up for right after the gap, one that comes twice counts once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from fleetfoot_agent.policy import Window

#: Longer than any clock is ever put back.
_BEFORE = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether any window is open; `until`: when that may change, unix seconds, None if it never does."""

    open: bool
    until: int | None


def check(window: Window) -> None:
    """Raise `ValueError`, in words, for a window that cannot be."""
    zone = _zone(window.timezone)
    try:
        CronSim(window.start, datetime(2026, 1, 1, tzinfo=zone))
    except CronSimError as error:
        raise ValueError(
            f"start must be a cron expression such as '0 2 * * 1-5', not {window.start[:80]!a}"
        ) from error


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # known also where no database of time zones is installed
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"timezone {name[:80]!a} is not known here; is tzdata installed?") from error


def look(windows: Iterable[Window], now: float) -> Opening:
    """What the windows say at `now`, unix seconds. Without any it is always open."""
    found = [_look(window, now) for window in windows]
    if not found:
        return Opening(True, None)
    opened = [opening for opening in found if opening.open]
    untils = [opening.until for opening in opened or found if opening.until is not None]
    if opened:
        return Opening(True, max(untils))
    return Opening(False, min(untils, default=None))


def _look(window: Window, now: float) -> Opening:
    zone, length = _zone(window.timezone), timedelta(minutes=window.minutes)
    moment = datetime.fromtimestamp(now, UTC)
    last = upcoming = None
    # The iterator gives only later starts than it is told, and knows of an hour that comes twice only if
    # it is told of a moment before that hour.
    for start in CronSim(window.start, (moment - length - _BEFORE).astimezone(zone)):
        upcoming = start.astimezone(UTC)  # what is added within a zone is added to its clock, not to the time
        if upcoming > moment:
            break
        last, upcoming = upcoming, None
    if last is not None and moment < last + length:
        return Opening(True, int((last + length).timestamp()))
    return Opening(False, None if upcoming is None else int(upcoming.timestamp()))

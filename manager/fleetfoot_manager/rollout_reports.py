"""What a device's report makes of its record: when an outcome counts, and when not (contract section 5).

- An outcome counts only for the same rollout and attempt; healthy only with the goal's digest running.
- The first of healthy, failed, rolled_back wins for an attempt. What the manager had concluded by itself
  (pending, silent, already on the target) gives way to what the device then says.
- A device that is not exposed cannot have worked on the rollout: of it, only what runs is of interest, and
  whether it obeys a document of its own: then it says nothing to the group's when its wave opens.
"""

from dataclasses import replace

from fleetfoot_manager.rollout_devices import DeviceRecord
from fleetfoot_manager.rollout_events import Report
from fleetfoot_manager.rollout_state import ALREADY, OWN, Rollout
from fleetfoot_protocol.states import RolloutState, Terminal

#: What only a device can say, and says once for an attempt.
FINAL = frozenset({Terminal.HEALTHY, Terminal.FAILED, Terminal.ROLLED_BACK})
#: Where staging does not go first, a staged device is still on its way.
_AT_WORK = frozenset({Terminal.ACTIVE, Terminal.STAGED})
#: States in which the goal is no longer wanted of anybody who has not begun.
_CLOSED = frozenset(
    {
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLED_BACK,
        RolloutState.ABORTED,
        RolloutState.CANCELED,
        RolloutState.EXPIRED,
        RolloutState.SUPERSEDED,
    }
)


def recorded(rollout: Rollout, record: DeviceRecord, report: Report, now: float) -> DeviceRecord:
    """The record after the report; an equal one if the report says nothing that counts."""
    on_goal = report.running == rollout.goal.digest
    if record.gone:
        return record
    if record.since is None:
        return _not_exposed(rollout, record, report, on_goal, now)
    seen = replace(record, on_goal=on_goal)
    if record.terminal in FINAL:
        return seen
    mine = report.rollout == rollout.id and report.attempt == rollout.goal.attempt
    said = report.terminal if mine else None
    if said in FINAL:
        if said is Terminal.HEALTHY and not on_goal:
            return seen
        return _ended(seen, said, report.code, report.reason, now)
    if said is Terminal.STAGED and rollout.stage:
        return _staged(rollout, seen, now)
    if said in _AT_WORK:
        begins = record.terminal in (Terminal.PENDING, Terminal.SKIPPED)
        return seen.anew(Terminal.ACTIVE) if begins else seen
    if report.terminal in _AT_WORK:
        return seen
    return _at_rest(rollout, record, seen, said, report, now)


def _staged(rollout: Rollout, seen: DeviceRecord, now: float) -> DeviceRecord:
    """It has staged: the end for a device that is not to activate yet; of one that is, no news."""
    if seen.wave <= rollout.wave or seen.success:
        return seen
    return _ended(seen, Terminal.STAGED, "", "", now)


def _not_exposed(
    rollout: Rollout, record: DeviceRecord, report: Report, on_goal: bool, now: float
) -> DeviceRecord:
    if record.wave == 0 or report.terminal in _AT_WORK:
        return record
    passed_over = record.reason == OWN
    if on_goal:
        waits = passed_over or record.terminal is Terminal.PENDING
        there = replace(record, terminal=Terminal.SKIPPED, reason=ALREADY, ended=now, on_goal=True)
        return there if waits else record
    left = replace(record, on_goal=False)
    if report.terminal is Terminal.SKIPPED and report.reason == OWN:
        waits = record.terminal in (Terminal.PENDING, Terminal.SKIPPED)
        return _ended(left, Terminal.SKIPPED, "", OWN, now) if waits else record
    if passed_over or record.on_goal:
        # It would have been asked, and is not any more where the rollout is over.
        closed = rollout.state in _CLOSED
        return _ended(left, Terminal.CANCELED, "", "", now) if closed else left.anew()
    return record


def _at_rest(
    rollout: Rollout,
    before: DeviceRecord,
    seen: DeviceRecord,
    said: Terminal | None,
    report: Report,
    now: float,
) -> DeviceRecord:
    """Nothing is in hand on the device, and nothing final has been said of this attempt."""
    closed = rollout.state in _CLOSED
    if said is Terminal.SKIPPED and not closed:
        return _ended(seen, said, report.code, report.reason, now)
    if seen.on_goal and not closed:
        return _ended(seen, Terminal.SKIPPED, "", ALREADY, now)
    # It was at work, or stood on the goal, and now is neither: it has not begun, and may.
    if seen.terminal is Terminal.ACTIVE or (before.on_goal and seen.terminal is Terminal.SKIPPED):
        if closed:
            return _ended(seen, Terminal.CANCELED, report.code, report.reason, now)
        return seen.anew()
    return seen


def _ended(record: DeviceRecord, terminal: Terminal, code: str, reason: str, now: float) -> DeviceRecord:
    if (record.terminal, record.code, record.reason) == (terminal, code, reason):
        return record
    return replace(record, terminal=terminal, code=code, reason=reason, ended=now)

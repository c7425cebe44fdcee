"""A rollout: what may happen to it when, and what follows (contract section 5). Pure: no I/O, no clock.

`advance(rollout, event, now)` is the whole engine. `TRANSITIONS` says which event each state takes, who
handles it and where that may lead; any other event is refused and changes nothing. The shell stores the
returned rollout together with what its effects publish in one transaction, and only then does them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fleetfoot_manager import rollout_acts as act
from fleetfoot_manager.effects import Effect, ordered
from fleetfoot_manager.rollout_acts import IllegalTransition
from fleetfoot_manager.rollout_devices import DeviceRecord, DeviceTable
from fleetfoot_manager.rollout_events import (
    Activate,
    Approve,
    Away,
    Bless,
    Cancel,
    Decide,
    Decision,
    Expire,
    Joined,
    Kind,
    Left,
    Pause,
    Report,
    Resume,
    Retry,
    RolloutEvent,
    Start,
    Supersede,
    Tick,
    kind_of,
)
from fleetfoot_manager.rollout_gate import Turn, overdue_at, target
from fleetfoot_manager.rollout_plan import planned
from fleetfoot_manager.rollout_state import Member, Rollout
from fleetfoot_protocol.states import RolloutState

__all__ = [
    "TRANSITIONS",
    "Activate",
    "Approve",
    "Away",
    "Bless",
    "Cancel",
    "Decide",
    "Decision",
    "DeviceRecord",
    "DeviceTable",
    "Expire",
    "IllegalTransition",
    "Joined",
    "Kind",
    "Left",
    "Member",
    "Pause",
    "Report",
    "Resume",
    "Retry",
    "Rollout",
    "RolloutEvent",
    "Start",
    "Step",
    "Supersede",
    "Tick",
    "advance",
    "due",
    "next_deadline",
    "planned",
    "target",
]


@dataclass(frozen=True, slots=True)
class Step:
    """Who handles an event in a state, and the states it may lead to."""

    handler: Callable[[Rollout, Any, float], Turn]
    leads_to: frozenset[RolloutState]


def _to(handler: Callable[[Rollout, Any, float], Turn], *states: RolloutState) -> Step:
    return Step(handler, frozenset(states))


_S = RolloutState
#: Wherever the gate may lead from an open wave.
_ONWARD = (_S.RUNNING, _S.SETTLING, _S.PAUSED, _S.TRIPPED, _S.COMPLETED)
_BACK = (_S.ROLLING_BACK, _S.ROLLED_BACK)

#: Every (state, event) a rollout takes. What is not here is illegal.
TRANSITIONS: dict[RolloutState, dict[Kind, Step]] = {
    _S.AWAITING_APPROVAL: {
        Bless: _to(act.on_bless, _S.AWAITING_APPROVAL),
        Approve: _to(act.on_approve, _S.PLANNED),
        Report: _to(act.on_late_report, _S.AWAITING_APPROVAL),
        Joined: _to(act.on_joined, _S.AWAITING_APPROVAL),
        Left: _to(act.on_left, _S.AWAITING_APPROVAL),
        Cancel: _to(act.on_cancel, _S.CANCELED),
        Expire: _to(act.on_expire, _S.EXPIRED),
        Supersede: _to(act.on_supersede, _S.SUPERSEDED),
    },
    _S.PLANNED: {
        Bless: _to(act.on_bless, _S.PLANNED),
        Start: _to(act.on_start, *_ONWARD),
        Report: _to(act.on_late_report, _S.PLANNED),
        Joined: _to(act.on_joined, _S.PLANNED),
        Left: _to(act.on_left, _S.PLANNED),
        Cancel: _to(act.on_cancel, _S.CANCELED),
        Expire: _to(act.on_expire, _S.EXPIRED),
        Supersede: _to(act.on_supersede, _S.SUPERSEDED),
    },
    _S.RUNNING: {
        Bless: _to(act.on_bless, _S.RUNNING),
        Report: _to(act.on_report, *_ONWARD),
        Tick: _to(act.on_tick, *_ONWARD),
        Away: _to(act.on_away, *_ONWARD),
        Joined: _to(act.on_joined, _S.RUNNING),
        Left: _to(act.on_left, *_ONWARD),
        Pause: _to(act.on_pause, _S.PAUSED),
        Retry: _to(act.on_retry, _S.RUNNING),
        Decision.ROLLBACK: _to(act.on_rollback, *_BACK),
        Cancel: _to(act.on_cancel, _S.CANCELED),
        Expire: _to(act.on_expire, _S.EXPIRED),
        Supersede: _to(act.on_supersede, _S.SUPERSEDED),
    },
    _S.SETTLING: {
        Bless: _to(act.on_bless, _S.SETTLING),
        Report: _to(act.on_report, _S.SETTLING, _S.TRIPPED),
        Tick: _to(act.on_tick, *_ONWARD),
        Joined: _to(act.on_joined, _S.SETTLING),
        Left: _to(act.on_left, _S.SETTLING),
        Pause: _to(act.on_pause, _S.PAUSED),
        Decision.ROLLBACK: _to(act.on_rollback, *_BACK),
        Cancel: _to(act.on_cancel, _S.CANCELED),
        Expire: _to(act.on_expire, _S.EXPIRED),
        Supersede: _to(act.on_supersede, _S.SUPERSEDED),
    },
    _S.PAUSED: {
        Bless: _to(act.on_bless, *_ONWARD),
        Report: _to(act.on_late_report, _S.PAUSED),
        Tick: _to(act.on_idle_tick, _S.PAUSED),
        Joined: _to(act.on_joined, _S.PAUSED),
        Left: _to(act.on_left, _S.PAUSED),
        Approve: _to(act.on_approve_wave, *_ONWARD),
        Activate: _to(act.on_activate, *_ONWARD),
        Resume: _to(act.on_resume, *_ONWARD),
        Retry: _to(act.on_retry, _S.RUNNING),
        Decision.ROLLBACK: _to(act.on_rollback, *_BACK),
        Cancel: _to(act.on_cancel, _S.CANCELED),
        Expire: _to(act.on_expire, _S.EXPIRED),
        Supersede: _to(act.on_supersede, _S.SUPERSEDED),
    },
    _S.TRIPPED: {
        Bless: _to(act.on_bless, _S.TRIPPED),
        Report: _to(act.on_late_report, _S.TRIPPED),
        Tick: _to(act.on_idle_tick, _S.TRIPPED),
        Joined: _to(act.on_joined, _S.TRIPPED),
        Left: _to(act.on_left, _S.TRIPPED),
        Retry: _to(act.on_retry, _S.RUNNING),
        Decision.CONTINUE: _to(act.on_continue, *_ONWARD),
        Decision.ROLLBACK: _to(act.on_rollback, *_BACK),
        Decision.ABORT: _to(act.on_abort, _S.ABORTED),
        Cancel: _to(act.on_cancel, _S.CANCELED),
        Expire: _to(act.on_expire, _S.EXPIRED),
        Supersede: _to(act.on_supersede, _S.SUPERSEDED),
    },
    _S.ROLLING_BACK: {
        Bless: _to(act.on_bless, _S.ROLLING_BACK),
        Report: _to(act.on_report_back, *_BACK),
        Tick: _to(act.on_tick_back, *_BACK),
        Joined: _to(act.on_joined_too_late, _S.ROLLING_BACK),
        Left: _to(act.on_left_back, *_BACK),
    },
    # A device that was silent tells later how it went; that is written down, and nothing follows.
    _S.COMPLETED: {Report: _to(act.on_late_report, _S.COMPLETED)},
    _S.ROLLED_BACK: {Report: _to(act.on_late_report, _S.ROLLED_BACK)},
    _S.ABORTED: {Report: _to(act.on_late_report, _S.ABORTED)},
    _S.CANCELED: {Report: _to(act.on_late_report, _S.CANCELED)},
    _S.EXPIRED: {Report: _to(act.on_late_report, _S.EXPIRED)},
    _S.SUPERSEDED: {Report: _to(act.on_late_report, _S.SUPERSEDED)},
}


def advance(rollout: Rollout, event: RolloutEvent, now: float) -> tuple[Rollout, tuple[Effect, ...]]:
    """The rollout after `event` at `now` (unix seconds), and what to do, in order.

    An event that changes nothing returns the very same rollout and no effects. Raises `IllegalTransition`,
    or FleetfootError `request_invalid` for an event that is malformed.
    """
    step = TRANSITIONS[rollout.state].get(kind_of(event))
    if step is None:
        raise IllegalTransition(rollout, event)
    after, effects = step.handler(rollout, event, now)
    if after is rollout:
        return rollout, ()
    if after.state not in step.leads_to:
        raise AssertionError(f"{rollout.state} -> {after.state} by {event} is not in the table")
    revision = rollout.revision + 1
    steered = revision if _steering(after) != _steering(rollout) else rollout.steered
    return replace(after, revision=revision, steered=steered), ordered(effects)


def _steering(rollout: Rollout) -> tuple[RolloutState, int, int]:
    """What a person who acts on a rollout must have seen."""
    return rollout.state, rollout.wave, rollout.goal.attempt


def next_deadline(rollout: Rollout) -> float | None:
    """When time brings something, see `due`: a timeout, the end of settling or of its life. Unix seconds."""
    if rollout.state is _S.ROLLING_BACK:
        return rollout.return_until
    moments: list[float | None] = [rollout.lives_until]
    if rollout.state in (_S.RUNNING, _S.SETTLING):
        first = rollout.devices.first_awaited
        moments += [rollout.settle_until, None if first is None else overdue_at(rollout, first)]
    return min((moment for moment in moments if moment is not None), default=None)


def due(rollout: Rollout, heard: float) -> Tick | Expire:
    """What time brings, once the next deadline has come. `heard`: see `Tick`."""
    over = rollout.lives_until is not None and heard >= rollout.lives_until
    return Expire() if over and rollout.state is not _S.ROLLING_BACK else Tick(heard)

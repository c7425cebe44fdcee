"""What each event does to a rollout that may take it: the handlers of the table of transitions.

Each takes the rollout, the event and the time, and returns the rollout and what to do (contract section 5).
A handler that changes nothing returns the very same rollout.
"""

from collections.abc import Callable
from dataclasses import replace

from fleetfoot_manager.effects import Effect, Emit, Lift, PublishDesired, PublishProgress, Withdraw
from fleetfoot_manager.rollout_devices import FAILURES
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
from fleetfoot_manager.rollout_gate import (
    AWAITS_ACTIVATION,
    AWAITS_APPROVAL,
    AWAITS_BLESSING,
    Turn,
    away,
    dismissed,
    end,
    onward,
    open_staging,
    open_wave,
    proceed,
    settled,
    silenced,
    stages,
    succeeded,
    with_devices,
)
from fleetfoot_manager.rollout_plan import new_record
from fleetfoot_manager.rollout_reports import FINAL, recorded
from fleetfoot_manager.rollout_state import Member, Rollout
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.fields import visible
from fleetfoot_protocol.states import RolloutState, Terminal

MAX_REASON = 160
_LEFT = "left the groups"
#: Why a rollout stands -> what a resume is told that cannot give what it waits for.
_WAITS = frozenset({AWAITS_BLESSING, AWAITS_APPROVAL, AWAITS_ACTIVATION})
#: What counts for failures in a row.
_TELLING = FINAL | {Terminal.STAGED}


class IllegalTransition(FleetfootError):
    """The rollout's state does not take this event (`state_refused`); nothing has changed."""

    def __init__(self, rollout: Rollout, event: RolloutEvent, why: str = "") -> None:
        kind = kind_of(event)
        name = str(kind) if isinstance(kind, Decision) else kind.__name__.lower()
        message = f"rollout {rollout.id} is {rollout.state}: cannot {name}{why}"
        super().__init__("state_refused", message, remedy=_remedy(rollout))


def _remedy(rollout: Rollout) -> str | None:
    """What lets a rollout on that stands for a person's word; None where 'show' says it."""
    if rollout.state is not RolloutState.PAUSED:
        return None
    release = f"{rollout.component} {rollout.goal.version}"
    words = {
        AWAITS_BLESSING: f"fleetfoot release promote {release} blessed",
        AWAITS_APPROVAL: f"fleetfoot rollout approve {rollout.id}",
        AWAITS_ACTIVATION: f"fleetfoot rollout activate {rollout.id}",
    }
    word = words.get(rollout.reason)
    return f"let it go on: '{word}'" if word else None


def on_approve(rollout: Rollout, event: Approve, now: float) -> Turn:
    approved = replace(rollout, state=RolloutState.PLANNED)
    return approved, [PublishProgress(), Emit(Event.ROLLOUT_APPROVED)]


def on_approve_wave(rollout: Rollout, event: Approve, now: float) -> Turn:
    """The next wave of a rollout of which each is approved; one that stands for something else stands on."""
    if rollout.reason != AWAITS_APPROVAL:
        return rollout, []
    return _permitted(rollout, now, Emit(Event.ROLLOUT_APPROVED, {"batch_index": rollout.wave + 1}))


def on_activate(rollout: Rollout, event: Activate, now: float) -> Turn:
    """What everybody has staged goes on, wave by wave; one that stands for something else stands on."""
    if rollout.reason != AWAITS_ACTIVATION:
        return rollout, []
    return _permitted(rollout, now, Emit(Event.ROLLOUT_RESUMED, {"by": event.by}))


def _permitted(rollout: Rollout, now: float, told: Emit) -> Turn:
    """A rollout that stood for a person's word alone goes on with its next wave."""
    opened, effects = open_wave(_unheld(rollout, RolloutState.RUNNING, now), now)
    after, more = proceed(opened, now)
    return after, [*effects, told, *more]


def _further(rollout: Rollout, told: Rollout, now: float, on: Callable[[Rollout, float], Turn]) -> Turn:
    """What follows from `told`, which was learned of the devices; nothing, if it is nothing new."""
    if told is rollout:
        return rollout, []
    after, more = on(told, now)
    return after, [PublishProgress(), *more]


def on_away(rollout: Rollout, event: Away, now: float) -> Turn:
    """Of whom was asked, these are offline: nobody waits for them; they converge when they come back."""
    return _further(rollout, away(rollout, event.devices, now), now, proceed)


def on_bless(rollout: Rollout, event: Bless, now: float) -> Turn:
    """A rollout that stood for this alone goes on by itself."""
    if not rollout.canary:
        return rollout, []
    blessed = replace(rollout, canary=False)
    if rollout.reason != AWAITS_BLESSING:
        return blessed, []
    # What waits for more than this goes on waiting.
    after, effects = onward(_unheld(blessed, RolloutState.RUNNING, now), now, blessed.from_wave)
    if after.state is RolloutState.PAUSED:
        return after, effects
    after, more = proceed(after, now)
    return after, [*effects, Emit(Event.ROLLOUT_RESUMED), *more]


def on_start(rollout: Rollout, event: Start, now: float) -> Turn:
    data = {
        "version": rollout.goal.version,
        "digest": rollout.goal.digest,
        "device_count": rollout.total,
        "waves": list(rollout.waves),
    }
    opens = open_staging if rollout.stage else open_wave
    opened, effects = opens(replace(rollout, started=now), now)
    after, more = proceed(opened, now)
    return after, [Lift(rollout.goal.digest), Emit(Event.ROLLOUT_STARTED, data), *effects, *more]


def _told(rollout: Rollout, report: Report, now: float) -> Turn:
    """The report written down, and what is worth telling of it."""
    before = rollout.devices.get(report.device)
    if before is None:
        return rollout, []
    after = recorded(rollout, before, report, now)
    rollout = with_devices(rollout, {report.device: after})
    if after.terminal is not before.terminal and after.terminal in _TELLING:
        streak = rollout.streak + 1 if after.terminal in FAILURES else 0
        if streak != rollout.streak:
            rollout = replace(rollout, streak=streak)
    effects: list[Effect] = []
    if after.terminal is not before.terminal:
        effects.append(PublishProgress())
        if after.terminal is Terminal.ACTIVE:
            effects.append(Emit(Event.INSTANCE_STARTED, {"device": report.device}))
        elif after.terminal in FINAL:
            healthy = after.terminal is Terminal.HEALTHY
            code = Code(after.code) if not healthy and after.code in set(Code) else None
            data = {"device": report.device, "healthy": healthy}
            effects.append(Emit(Event.INSTANCE_HEALTH_CHECK, data, code))
    return rollout, effects


def on_report(rollout: Rollout, event: Report, now: float) -> Turn:
    told, effects = _told(rollout, event, now)
    after, more = proceed(told, now)
    return after, effects + more


def on_late_report(rollout: Rollout, event: Report, now: float) -> Turn:
    """Where no gate waits for it: written down, and nothing follows."""
    return _told(rollout, event, now)


def on_report_back(rollout: Rollout, event: Report, now: float) -> Turn:
    told, effects = _told(rollout, event, now)
    after, more = _returned(told, now)
    return after, effects + more


def on_tick(rollout: Rollout, event: Tick, now: float) -> Turn:
    heard = _heard(event, now)
    after = silenced(rollout, heard)
    effects: list[Effect] = [PublishProgress()]  # where nothing changes, nothing of this is done
    if after.settle_until is not None and heard >= after.settle_until:
        after, more = settled(after, now)
        effects += more
    after, more = proceed(after, now)
    return after, effects + more


def on_tick_back(rollout: Rollout, event: Tick, now: float) -> Turn:
    return _returned(rollout, _heard(event, now))


def _heard(event: Tick, now: float) -> float:
    return now if event.heard is None else min(event.heard, now)


def on_idle_tick(rollout: Rollout, event: Tick, now: float) -> Turn:
    """Under a hold no time runs out."""
    return rollout, []


def _checked(reason: str) -> str:
    """Progress carries the reason in one line of 256 characters: what does not fit there is refused here."""
    try:
        visible(reason)
    except ValueError as error:
        raise FleetfootError("request_invalid", f"the reason {error}") from None
    if len(reason) > MAX_REASON:
        raise FleetfootError("request_invalid", f"the reason is longer than {MAX_REASON} characters")
    return reason


def on_pause(rollout: Rollout, event: Pause, now: float) -> Turn:
    reason = _checked(event.reason)
    paused = replace(
        rollout,
        state=RolloutState.PAUSED,
        resume_to=rollout.state,
        reason=f"paused by {event.by}" + (f": {reason}" if reason else ""),
        settle_until=None,
    )
    data = {"by": event.by, "reason": reason}
    return paused, [PublishDesired(), PublishProgress(), Emit(Event.ROLLOUT_PAUSED, data)]


def _unheld(rollout: Rollout, state: RolloutState, now: float) -> Rollout:
    settle_until = now + rollout.settle if state is RolloutState.SETTLING else None
    return replace(rollout, state=state, resume_to=None, reason="", unheld=now, settle_until=settle_until)


def on_resume(rollout: Rollout, event: Resume, now: float) -> Turn:
    if rollout.reason in _WAITS:
        raise IllegalTransition(rollout, event, f": {rollout.reason}")
    back = rollout.resume_to or RolloutState.RUNNING
    after, more = proceed(_unheld(rollout, back, now), now)
    return after, [PublishDesired(), PublishProgress(), Emit(Event.ROLLOUT_RESUMED), *more]


def on_continue(rollout: Rollout, event: Decide, now: float) -> Turn:
    if not rollout.devices.awaited and not succeeded(rollout):
        what = f"wave {rollout.wave}" if rollout.wave else "the staging"
        raise IllegalTransition(rollout, event, f": {what} has no success; retry, roll back or abort")
    forgiven = replace(rollout, failures_before=rollout.devices.failures, streak=0)
    after, more = proceed(_unheld(forgiven, RolloutState.RUNNING, now), now)
    return after, [PublishDesired(), PublishProgress(), _decided(event), *more]


def on_rollback(rollout: Rollout, event: Decide, now: float) -> Turn:
    back = replace(
        dismissed(rollout, now),
        state=RolloutState.ROLLING_BACK,
        resume_to=None,
        reason="",
        settle_until=None,
        return_until=now + rollout.device_timeout,
    )
    after, more = _returned(back, now)
    withdraw = Withdraw(rollout.goal.digest)
    return after, [withdraw, PublishDesired(), PublishProgress(), _decided(event), *more]


def _returned(rollout: Rollout, now: float) -> Turn:
    """Rolled back once nobody is known to be on the goal or on the way to it, or time is over."""
    left = rollout.devices.moved
    if not left:
        return end(rollout, RolloutState.ROLLED_BACK, "", now)
    if rollout.return_until is not None and now >= rollout.return_until:
        return end(rollout, RolloutState.ROLLED_BACK, f"{left} not known to have returned", now)
    return rollout, []


def on_abort(rollout: Rollout, event: Decide, now: float) -> Turn:
    after, effects = end(dismissed(rollout, now), RolloutState.ABORTED, "", now)
    return after, [*effects, _decided(event)]


def _decided(event: Decide) -> Emit:
    return Emit(Event.ROLLOUT_DECIDED, {"decision": str(event.decision)})


def on_cancel(rollout: Rollout, event: Cancel, now: float) -> Turn:
    after, effects = end(dismissed(rollout, now), RolloutState.CANCELED, _checked(event.reason), now)
    return after, [*effects, Emit(Event.ROLLOUT_CANCELED)]


def on_expire(rollout: Rollout, event: Expire, now: float) -> Turn:
    after, effects = end(dismissed(rollout, now), RolloutState.EXPIRED, "", now)
    return after, [*effects, Emit(Event.ROLLOUT_EXPIRED)]


def on_supersede(rollout: Rollout, event: Supersede, now: float) -> Turn:
    """Another rollout takes its place: who has not begun begins that one instead."""
    why = f"superseded by {event.by}"
    after, effects = end(dismissed(rollout, now), RolloutState.SUPERSEDED, why, now)
    return after, [*effects, Emit(Event.ROLLOUT_CANCELED, {"superseded_by": event.by})]


def on_retry(rollout: Rollout, event: Retry, now: float) -> Turn:
    again = {
        device: record.anew()
        for device, record in rollout.devices.items()
        if record.terminal in (*FAILURES, Terminal.SILENT) and not record.gone
    }
    if not again:
        # A new attempt would only disown the outcomes of those that are at work.
        raise IllegalTransition(rollout, event, ": no exposed device has failed or is silent")
    goal = rollout.goal.model_copy(update={"attempt": rollout.goal.attempt + 1})
    tried = replace(with_devices(rollout, again), goal=goal)
    tried = replace(tried, failures_before=tried.devices.failures, streak=0)
    return _unheld(tried, RolloutState.RUNNING, now), [PublishDesired(), PublishProgress()]


def on_joined(rollout: Rollout, event: Joined, now: float) -> Turn:
    """Into the cohort; exposed at once if the cut of an open wave admits it, as the document already does."""
    known = rollout.devices.get(event.device)
    moved = Member(event.device, event.group) not in rollout.cohort
    if rollout.listed and known is None:
        return rollout, []
    if moved:
        rollout = rollout.with_member(event.device, event.group)
    if known is None or (known.gone and known.terminal not in FINAL):
        record = new_record(rollout.wave_of(event.device), False, now)
        staged = rollout.stage and rollout.started is not None and stages(rollout, event.device)
        if record.wave > 0 and (staged or record.wave <= rollout.wave):
            record = replace(record, since=now)
    else:
        record = replace(known, gone=False)
    return with_devices(rollout, {event.device: record}), [PublishProgress()]


def on_joined_too_late(rollout: Rollout, event: Joined, now: float) -> Turn:
    """No target stands any more: the device has nothing to do with this rollout."""
    return rollout, []


def _gone(rollout: Rollout, device: str, now: float) -> Rollout:
    record = rollout.devices.get(device)
    if record is None or record.gone:
        return rollout
    record = replace(record, gone=True)
    if record.terminal not in FINAL:
        record = replace(record, terminal=Terminal.SKIPPED, code="", reason=_LEFT, on_goal=False, ended=now)
    return with_devices(rollout, {device: record})


def on_left(rollout: Rollout, event: Left, now: float) -> Turn:
    return _further(rollout, _gone(rollout, event.device, now), now, proceed)


def on_left_back(rollout: Rollout, event: Left, now: float) -> Turn:
    return _further(rollout, _gone(rollout, event.device, now), now, _returned)

"""The life of an upgrade on a device: a literal table and a pure step function (contract section 4).

The record is journaled before anything is done, so the state *is* the intent: whoever finds a record
after a crash knows what was being done and does it again or undoes it. `step` never touches anything; it
raises `IllegalTransition`, and changes nothing, for an event that the table does not know in that state.
"""

from dataclasses import dataclass, field
from typing import Any

from fleetfoot_agent.worker.record import Record, Retry, Work
from fleetfoot_agent.worker.steps import (
    Abandon,
    Activate,
    Begin,
    Checked,
    Fail,
    Fetched,
    Healthy,
    Permit,
    Recalled,
    Reorder,
    StepEvent,
    Swapped,
    Told,
    Unpacked,
    Unwell,
    WayBackFailed,
    WayBackProven,
)
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import (
    MAX_OUTCOMES,
    MAX_REFUSED,
    Installed,
    OutcomeRecord,
    Problem,
)
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle, Outcome

#: Seconds before work that failed for want of a network or of disk space is tried again: doubled each time.
RETRY_BASE, RETRY_CAP = 60, 3600

#: Failures that say nothing about the release: they are tried again, later.
TRANSIENT = frozenset(
    {
        Code.UPGRADE_DOWNLOAD_FAILED,
        Code.UPGRADE_DOWNLOAD_SLOW,
        Code.UPGRADE_TLS_FAILED,
        Code.UPGRADE_DISK_FULL,
        Code.UPGRADE_READ_ONLY,
        Code.UPGRADE_IO_ERROR,
        Code.UPGRADE_HOOK_FAILED,
    }
)


class IllegalTransition(FleetfootError):
    """An event that cannot happen in this state: a defect, never a normal course."""

    def __init__(self, state: Lifecycle, event: object) -> None:
        super().__init__("upgrade_internal", f"{type(event).__name__} cannot happen while {state}")


_L = Lifecycle

#: (state, event) -> the states it may lead to. Nothing else happens.
TRANSITIONS: dict[tuple[Lifecycle, type], tuple[Lifecycle, ...]] = {
    (_L.IDLE, Begin): (_L.WAITING,),
    (_L.WAITING, Reorder): (_L.WAITING,),
    (_L.WAITING, Permit): (_L.DOWNLOADING, _L.STAGED),
    (_L.WAITING, Abandon): (_L.IDLE,),
    (_L.WAITING, Fail): (_L.IDLE,),
    (_L.DOWNLOADING, Reorder): (_L.DOWNLOADING,),
    (_L.DOWNLOADING, Fetched): (_L.VERIFYING,),
    (_L.DOWNLOADING, Abandon): (_L.IDLE,),
    (_L.DOWNLOADING, Fail): (_L.IDLE,),
    (_L.VERIFYING, Reorder): (_L.VERIFYING,),
    (_L.VERIFYING, Checked): (_L.STAGING,),
    (_L.VERIFYING, Abandon): (_L.IDLE,),
    (_L.VERIFYING, Fail): (_L.IDLE,),
    (_L.STAGING, Reorder): (_L.STAGING,),
    (_L.STAGING, Unpacked): (_L.STAGED,),
    (_L.STAGING, Abandon): (_L.IDLE,),
    (_L.STAGING, Fail): (_L.IDLE,),
    (_L.STAGED, Reorder): (_L.STAGED,),
    (_L.STAGED, Told): (_L.STAGED,),
    (_L.STAGED, Activate): (_L.ACTIVATING,),
    (_L.STAGED, Abandon): (_L.IDLE,),
    (_L.STAGED, Fail): (_L.IDLE,),
    (_L.ACTIVATING, Swapped): (_L.PROBATION,),
    (_L.ACTIVATING, Unwell): (_L.ROLLING_BACK,),
    (_L.ACTIVATING, Recalled): (_L.ROLLING_BACK,),
    (_L.PROBATION, Healthy): (_L.IDLE,),
    (_L.PROBATION, Unwell): (_L.ROLLING_BACK,),
    (_L.PROBATION, Recalled): (_L.ROLLING_BACK,),
    (_L.ROLLING_BACK, WayBackProven): (_L.IDLE,),
    (_L.ROLLING_BACK, WayBackFailed): (_L.IDLE,),
}

#: States in which a changed plan abandons the work.
BEFORE_ACTIVATION = frozenset({_L.WAITING, _L.DOWNLOADING, _L.VERIFYING, _L.STAGING, _L.STAGED})
#: States in which the worker stays resident, and at most one component is at a time.
IN_FLIGHT = frozenset({_L.ACTIVATING, _L.PROBATION, _L.ROLLING_BACK})
#: States in which the blobs in the spool are still read.
NEEDS_BLOBS = frozenset({_L.DOWNLOADING, _L.VERIFYING, _L.STAGING})


@dataclass(frozen=True, slots=True)
class Say:
    """An event for the outbox."""

    event: Event
    code: Code | None = None
    data: dict[str, Any] = field(default_factory=dict)


Step = tuple[Record, tuple[Say, ...]]


def _put(record: Record, **changes: Any) -> Record:
    return record.model_copy(update=changes)


def _work(record: Record) -> Work:
    if record.work is None:
        raise FleetfootError("upgrade_internal", f"state {record.state} without work")
    return record.work


def _facts(work: Work) -> dict[str, Any]:
    return {"version": work.goal.version, "digest": work.goal.digest, "attempt": work.goal.attempt}


def _ended(record: Record, outcome: Outcome, code: Code | None, running: str | None, now: int) -> Record:
    """The record with an outcome added; the oldest are forgotten."""
    work = _work(record)
    entry = OutcomeRecord(
        rollout=work.rollout,
        attempt=work.goal.attempt,
        digest=work.goal.digest,
        version=work.goal.version,
        outcome=outcome,
        code=str(code or ""),
        running=running,
        at=times.to_text(now),
    )
    return _put(record, outcomes=(*record.outcomes, entry)[-MAX_OUTCOMES:])


def _refuse(record: Record) -> Record:
    """Remember that this digest failed here; the oldest refusals make room."""
    goal = _work(record).goal
    refused = {d: a for d, a in record.refused.items() if d != goal.digest}
    refused[goal.digest] = max(goal.attempt, record.refused.get(goal.digest, 0))
    return _put(record, refused=dict(list(refused.items())[-MAX_REFUSED:]))


def line(text: str) -> str:
    """`text` as one line of at most 256 characters; those without a shape of their own are replaced."""
    return "".join(c if c.isprintable() else "?" for c in text)[:256]


def problem(code: Code, message: str, now: int) -> Problem:
    """An error as the status tells it."""
    return Problem(code=str(code), message=line(message), at=times.to_text(now))


def _running(record: Record) -> str | None:
    return record.run.digest if record.run else None


def _begin(record: Record, event: Begin, now: int) -> Step:
    work = Work(act=event.act, goal=event.goal, rollout=event.rollout, name=event.name, old=event.old)
    return _put(record, state=_L.WAITING, work=work), ()


def _reorder(record: Record, event: Reorder, now: int) -> Step:
    work = _work(record).model_copy(update={"act": event.act, "goal": event.goal, "rollout": event.rollout})
    if work.rollout != _work(record).rollout or work.goal.attempt != _work(record).goal.attempt:
        work = work.model_copy(update={"told": False})
    return _put(record, work=work), ()


def _permit(record: Record, event: Permit, now: int) -> Step:
    work = _work(record).model_copy(update={"min_counter": event.min_counter})
    state = _L.STAGED if event.present else _L.DOWNLOADING
    return _put(record, state=state, work=work), (Say(Event.UPGRADE_STARTED, data=_facts(work)),)


def _fetched(record: Record, event: Fetched, now: int) -> Step:
    return _put(record, state=_L.VERIFYING), (Say(Event.UPGRADE_DOWNLOADED, data=_facts(_work(record))),)


def _checked(record: Record, event: Checked, now: int) -> Step:
    return _put(record, state=_L.STAGING), ()


def _unpacked(record: Record, event: Unpacked, now: int) -> Step:
    facts = _facts(_work(record))
    said = (Say(Event.UPGRADE_VERIFIED, data=facts), Say(Event.UPGRADE_STAGED, data=facts))
    return _put(record, state=_L.STAGED, retry=None), said


def _told(record: Record, event: Told, now: int) -> Step:
    done = _ended(record, Outcome.STAGED, None, _running(record), now)
    return _put(done, work=_work(record).model_copy(update={"told": True})), ()


def _activate(record: Record, event: Activate, now: int) -> Step:
    return _put(record, state=_L.ACTIVATING, work=_work(record).model_copy(update={"old": event.old})), ()


def _swapped(record: Record, event: Swapped, now: int) -> Step:
    return _put(record, state=_L.PROBATION), (Say(Event.UPGRADE_ACTIVATED, data=_facts(_work(record))),)


def _healthy(record: Record, event: Healthy, now: int) -> Step:
    work = _work(record)
    goal = work.goal
    done = _ended(record, Outcome.COMPLETED, None, goal.digest, now)
    done = _put(
        done,
        state=_L.IDLE,
        work=None,
        run=Installed(version=goal.version, counter=goal.counter, digest=goal.digest),
        prev=None if work.act is Act.RETURN else record.run,
        floor=max(record.floor, work.min_counter),
        refused={d: a for d, a in record.refused.items() if d != goal.digest},
        last_error=None,
        retry=None,
        checks=event.checks,
    )
    facts = _facts(work)
    return done, (
        Say(Event.UPGRADE_HEALTH_CHECK, data={**facts, "healthy": True}),
        Say(Event.UPGRADE_COMPLETED, data=facts),
    )


def _unwell(record: Record, event: Unwell, now: int) -> Step:
    work = _work(record).model_copy(update={"cause": event.code, "cause_text": line(event.message)})
    facts = {**_facts(work), "healthy": False, "message": line(event.message)}
    said = (
        Say(Event.UPGRADE_HEALTH_CHECK, event.code, facts),
        Say(Event.UPGRADE_HEALTHCHECK_FAILED, event.code, facts),
    )
    error = problem(event.code, event.message, now)
    return _put(record, state=_L.ROLLING_BACK, work=work, last_error=error, checks=event.checks), said


def _recalled(record: Record, event: Recalled, now: int) -> Step:
    work = _work(record).model_copy(update={"cause": Code.UPGRADE_CANCELED, "cause_text": "withdrawn"})
    return _put(record, state=_L.ROLLING_BACK, work=work), ()


def _back(record: Record, now: int) -> Record:
    """The record after a return, whether or not what it returned to is well."""
    work = _work(record)
    if work.cause is Code.UPGRADE_CANCELED:
        done = _ended(record, Outcome.CANCELED, work.cause, _running(record), now)
    else:
        done = _refuse(_ended(record, Outcome.ROLLED_BACK, work.cause, _running(record), now))
    return _put(done, state=_L.IDLE, work=None, retry=None)


def _proven(record: Record, event: WayBackProven, now: int) -> Step:
    work = _work(record)
    facts = {**_facts(work), "cause": str(work.cause or ""), "message": work.cause_text}
    return _put(_back(record, now), checks=event.checks), (
        Say(Event.UPGRADE_ROLLED_BACK, Code.UPGRADE_ROLLED_BACK, facts),
    )


def _not_proven(record: Record, event: WayBackFailed, now: int) -> Step:
    facts = {**_facts(_work(record)), "message": line(event.message)}
    done = _put(_back(record, now), last_error=problem(Code.UPGRADE_BOTH_BAD, event.message, now))
    return done, (
        Say(Event.UPGRADE_ROLLBACK_FAILED, Code.UPGRADE_BOTH_BAD, facts),
        Say(Event.ALARM, Code.UPGRADE_BOTH_BAD, facts),
    )


def _abandon(record: Record, event: Abandon, now: int) -> Step:
    # Who heard that it started must hear that it ended; a hold, a refusal, a policy and what was only to be
    # staged have told it already.
    work = _work(record)
    quiet = event.code is None or record.state is _L.WAITING or work.told
    said = () if quiet else (Say(Event.UPGRADE_DEFERRED, event.code, _facts(work)),)
    return _put(record, state=_L.IDLE, work=None), said


def _fail(record: Record, event: Fail, now: int) -> Step:
    work = _work(record)
    first = record.retry is None or record.retry.digest != work.goal.digest
    done = _put(record, last_error=problem(event.code, event.message, now))
    if event.code in TRANSIENT:
        tries = 1 if first or record.retry is None else record.retry.tries + 1
        wait = min(RETRY_CAP, RETRY_BASE * 2 ** min(tries - 1, 10))
        retry = Retry(digest=work.goal.digest, attempt=work.goal.attempt, tries=tries, at=now + wait)
        done = _put(done, retry=retry)
    else:
        done = _refuse(done)
    done = _ended(done, Outcome.FAILED, event.code, _running(record), now)
    facts = {**_facts(work), "message": line(event.message)}
    return _put(done, state=_L.IDLE, work=None), (Say(event.event, event.code, facts),)


_HANDLERS: dict[type, Any] = {
    Begin: _begin,
    Reorder: _reorder,
    Permit: _permit,
    Fetched: _fetched,
    Checked: _checked,
    Unpacked: _unpacked,
    Told: _told,
    Activate: _activate,
    Swapped: _swapped,
    Healthy: _healthy,
    Unwell: _unwell,
    Recalled: _recalled,
    WayBackProven: _proven,
    WayBackFailed: _not_proven,
    Abandon: _abandon,
    Fail: _fail,
}


def step(record: Record, event: StepEvent, now: int) -> Step:
    """The record after `event` at `now` (unix seconds), and what is to be told to the world.

    Raises `IllegalTransition` for a pair that is not in `TRANSITIONS`, and for a handler that would leave it.
    """
    allowed = TRANSITIONS.get((record.state, type(event)))
    if allowed is None:
        raise IllegalTransition(record.state, event)
    done, said = _HANDLERS[type(event)](record, event, now)
    if done.state not in allowed:
        raise IllegalTransition(record.state, event)
    return done, said

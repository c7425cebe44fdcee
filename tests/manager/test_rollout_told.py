"""What each act does and tells, whole, and where the rollout then is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from tests.manager.rollouts import (
    GOAL,
    NEW,
    START,
    S,
    all_healthy,
    approving,
    canary,
    exposed,
    failed,
    go,
    healthy,
    on_goal,
    only_staged,
    plan,
    rolling_back,
    running,
    says,
    settling,
    tripped,
)

from fleetfoot_manager.effects import (
    Effect,
    Emit,
    Lift,
    PublishDesired,
    PublishProgress,
    SetBaseline,
    Withdraw,
)
from fleetfoot_manager.rollout import (
    Activate,
    Approve,
    Bless,
    Cancel,
    Decide,
    Decision,
    Expire,
    Joined,
    Left,
    Pause,
    Resume,
    Retry,
    Rollout,
    RolloutEvent,
    Start,
    Supersede,
    Tick,
    advance,
)
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.states import RolloutState

LATER = START + 9
NOW: dict[str, Any] = {"settle": 0.0}
BLESSING = "the canary is well; later waves need a blessed release"
APPROVAL = "the next wave awaits approval"


class Course(NamedTuple):
    """Where a rollout is, with everything that may be left over from where it was."""

    state: RolloutState
    wave: int = 1
    reason: str = ""
    resume_to: RolloutState | None = None
    settle_until: float | None = None
    return_until: float | None = None
    unheld: float | None = None
    ended: float | None = None


def course(of: Rollout) -> Course:
    return Course(*(getattr(of, name) for name in Course._fields))


def passing(**options: Any) -> Rollout:
    """One of the first wave failed, and the others are well."""
    rollout = running(**options)
    first, *others = exposed(rollout)
    return go(rollout, *map(healthy, others), failed(first))


def batch(wave: int, devices: int) -> Emit:
    return Emit(Event.BATCH_STARTED, {"batch_index": wave, "device_count": devices})


def passed(wave: int, well: int = 0, bad: int = 0) -> Emit:
    data = {"batch_index": wave, "healthy_count": well, "failed_count": bad}
    return Emit(Event.BATCH_COMPLETED, data)


def decided(word: str) -> Emit:
    return Emit(Event.ROLLOUT_DECIDED, {"decision": word})


def paused(by: str, reason: str) -> Emit:
    return Emit(Event.ROLLOUT_PAUSED, {"by": by, "reason": reason})


def trip(wave: int, reason: str, *names: str) -> Emit:
    data = {"batch_index": wave, "failed_device_ids": [*names], "failed_count": len(names), "reason": reason}
    return Emit(Event.CIRCUIT_BREAKER_TRIPPED, data)


PUBLISH = (PublishDesired(), PublishProgress())
STARTED = Emit(
    Event.ROLLOUT_STARTED, {"version": "1.1.0", "digest": NEW, "device_count": 30, "waves": [3, 15, 30]}
)
RESUMED = Emit(Event.ROLLOUT_RESUMED)
SETTLED = START + 60
FIRST, SECOND = (member.device for member in plan().cohort[:2])


def next_below() -> str:
    """Somebody whom the first wave admits."""
    rollout = plan()
    return next(name for name in (f"new-{n}" for n in range(1000)) if rollout.wave_of(name) == 1)


Row = tuple[str, Callable[[], Rollout], RolloutEvent, float, Course, tuple[Effect, ...]]
#: What happens to which rollout, when; where it then is, and what is done.
ROWS: list[Row] = [
    (
        "approved",
        lambda: plan(approval=True),
        Approve(),
        LATER,
        Course(S.PLANNED, 0),
        (PublishProgress(), Emit(Event.ROLLOUT_APPROVED)),
    ),
    (
        "the start passes a wave that is there already",
        lambda: on_goal(plan(), 1),
        Start(),
        LATER,
        Course(S.SETTLING, settle_until=LATER + 60),
        (Lift(NEW), *PUBLISH, STARTED, batch(1, 3), passed(1)),
    ),
    (
        "a canary is well and waits",
        lambda: settling(canary=True),
        Tick(),
        SETTLED,
        Course(S.PAUSED, 1, BLESSING, S.RUNNING),
        (*PUBLISH, paused("manager", BLESSING)),
    ),
    (
        "a wave is well and the next one waits",
        lambda: settling(each_wave=True),
        Tick(),
        SETTLED,
        Course(S.PAUSED, 1, APPROVAL, S.RUNNING),
        (*PUBLISH, paused("manager", APPROVAL)),
    ),
    ("blessed while it runs", lambda: running(canary=True), Bless(), LATER, Course(S.RUNNING), ()),
    (
        "blessed under a pause",
        lambda: go(running(canary=True), Pause("ann")),
        Bless(),
        LATER,
        Course(S.PAUSED, 1, "paused by ann", S.RUNNING),
        (),
    ),
    (
        "blessed, and the next wave opens",
        canary,
        Bless(),
        LATER,
        Course(S.RUNNING, 2, unheld=LATER),
        (*PUBLISH, batch(2, 12), RESUMED),
    ),
    (
        "blessed, and the next wave is there already",
        lambda: on_goal(canary(), 2),
        Bless(),
        LATER,
        Course(S.RUNNING, 3, unheld=LATER),
        (*PUBLISH, batch(2, 12), RESUMED, passed(2), batch(3, 15)),
    ),
    (
        "blessed, and awaits approval",
        lambda: all_healthy(running(canary=True, each_wave=True, **NOW)),
        Bless(),
        LATER,
        Course(S.PAUSED, 1, APPROVAL, S.RUNNING, unheld=LATER),
        (*PUBLISH, paused("manager", APPROVAL)),
    ),
    (
        "the next wave approved",
        approving,
        Approve(),
        LATER,
        Course(S.RUNNING, 2, unheld=LATER),
        (*PUBLISH, batch(2, 12), Emit(Event.ROLLOUT_APPROVED, {"batch_index": 2})),
    ),
    (
        "activated",
        only_staged,
        Activate("ann"),
        LATER,
        Course(S.RUNNING, 1, unheld=LATER),
        (*PUBLISH, batch(1, 3), Emit(Event.ROLLOUT_RESUMED, {"by": "ann"})),
    ),
    (
        "well, whatever code is said beside it",
        running,
        replace(healthy(FIRST), code="upgrade_boot_failed"),
        LATER,
        Course(S.RUNNING),
        (PublishProgress(), Emit(Event.INSTANCE_HEALTH_CHECK, {"device": FIRST, "healthy": True})),
    ),
    (
        "failed with a code that nobody knows",
        lambda: running(breaker=2),
        replace(failed(FIRST), code="nonsense"),
        LATER,
        Course(S.RUNNING),
        (PublishProgress(), Emit(Event.INSTANCE_HEALTH_CHECK, {"device": FIRST, "healthy": False})),
    ),
    (
        "failed while it settles",
        lambda: go(go(running(), *map(healthy, exposed(running())[1:])), Tick(), at=START + 300),
        failed(FIRST),
        START + 301,
        Course(S.TRIPPED, 1, "1 failed in wave 1, limit 1"),
        (
            *PUBLISH,
            Emit(Event.INSTANCE_HEALTH_CHECK, {"device": FIRST, "healthy": False}, Code.UPGRADE_BOOT_FAILED),
            trip(1, "1 failed in wave 1, limit 1", FIRST),
        ),
    ),
    (
        "one of two is silent",
        lambda: go(running(), Joined(next_below(), "hall"), at=START + 20),
        Tick(),
        START + 300,
        Course(S.RUNNING),
        (PublishProgress(),),
    ),
    (
        "settled, and the next wave opens",
        settling,
        Tick(),
        SETTLED,
        Course(S.RUNNING, 2),
        (*PUBLISH, batch(2, 12)),
    ),
    (
        "settled, but somebody has joined",
        lambda: go(settling(), Joined(next_below(), "hall"), at=START + 20),
        Tick(),
        SETTLED,
        Course(S.RUNNING),
        (PublishProgress(),),
    ),
    (
        "settled, but who made it pass has left",
        lambda: go(on_goal(go(plan(waves=(1, 30)), Start()), 1), Left(FIRST)),
        Tick(),
        SETTLED,
        Course(S.TRIPPED, 1, "wave 1 ended without a success"),
        (*PUBLISH, trip(1, "wave 1 ended without a success")),
    ),
    (
        "the last one awaited leaves",
        lambda: go(running(), *map(healthy, exposed(running())[1:])),
        Left(FIRST),
        LATER,
        Course(S.SETTLING, settle_until=LATER + 60),
        (PublishProgress(), passed(1, 2)),
    ),
    (
        "paused while it settles, without a word why",
        settling,
        Pause("ann"),
        LATER,
        Course(S.PAUSED, 1, "paused by ann", S.SETTLING),
        (*PUBLISH, paused("ann", "")),
    ),
    (
        "resumed where it settles, though somebody has joined",
        lambda: go(settling(), Pause("ann"), Joined(next_below(), "hall")),
        Resume(),
        LATER,
        Course(S.SETTLING, settle_until=LATER + 60, unheld=LATER),
        (*PUBLISH, RESUMED),
    ),
    (
        "continued, and the wave passes",
        passing,
        Decide(Decision.CONTINUE),
        LATER,
        Course(S.SETTLING, settle_until=LATER + 60, unheld=LATER),
        (*PUBLISH, decided("continue"), passed(1, 2, 1)),
    ),
    (
        "rolled back from a pause",
        lambda: go(running(), healthy(FIRST), Pause("ann", "smoke")),
        Decide(Decision.ROLLBACK),
        LATER,
        Course(S.ROLLING_BACK, return_until=LATER + 300),
        (Withdraw(NEW), *PUBLISH, decided("rollback")),
    ),
    (
        "rolled back while it settles",
        settling,
        Decide(Decision.ROLLBACK),
        LATER,
        Course(S.ROLLING_BACK, return_until=LATER + 300),
        (Withdraw(NEW), *PUBLISH, decided("rollback")),
    ),
    (
        "the last one has returned",
        rolling_back,
        says(FIRST, None),
        LATER,
        Course(S.ROLLED_BACK, ended=LATER),
        (PublishProgress(),),
    ),
    (
        "the way back takes too long",
        rolling_back,
        Tick(),
        START + 300,
        Course(S.ROLLED_BACK, 1, "1 not known to have returned", ended=START + 300),
        (PublishProgress(),),
    ),
    (
        "aborted",
        tripped,
        Decide(Decision.ABORT),
        LATER,
        Course(S.ABORTED, ended=LATER),
        (*PUBLISH, decided("abort")),
    ),
    (
        "canceled under a pause, without a word why",
        lambda: go(running(), Pause("ann")),
        Cancel(),
        LATER,
        Course(S.CANCELED, ended=LATER),
        (*PUBLISH, Emit(Event.ROLLOUT_CANCELED)),
    ),
    (
        "canceled while it settles",
        settling,
        Cancel("enough"),
        LATER,
        Course(S.CANCELED, 1, "enough", ended=LATER),
        (*PUBLISH, Emit(Event.ROLLOUT_CANCELED)),
    ),
    (
        "expired",
        tripped,
        Expire(),
        LATER,
        Course(S.EXPIRED, ended=LATER),
        (*PUBLISH, Emit(Event.ROLLOUT_EXPIRED)),
    ),
    (
        "superseded",
        running,
        Supersede("r-2"),
        LATER,
        Course(S.SUPERSEDED, 1, "superseded by r-2", ended=LATER),
        (*PUBLISH, Emit(Event.ROLLOUT_CANCELED, {"superseded_by": "r-2"})),
    ),
    ("tried again", tripped, Retry(), LATER, Course(S.RUNNING, unheld=LATER), PUBLISH),
    (
        "everybody was there already",
        lambda: go(plan(waves=(30,), already={name for name, _ in plan().cohort}), Start()),
        Tick(),
        SETTLED,
        Course(S.COMPLETED, ended=SETTLED),
        (
            SetBaseline(GOAL),
            *PUBLISH,
            Emit(Event.ROLLOUT_COMPLETED, {"version": "1.1.0", "completed_count": 0, "failed_count": 0}),
        ),
    ),
]


@pytest.mark.parametrize(
    ("make", "event", "at", "where", "done"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_an_act_does_this_and_nothing_else(
    make: Callable[[], Rollout], event: RolloutEvent, at: float, where: Course, done: tuple[Effect, ...]
) -> None:
    before = make()
    after, effects = advance(before, event, at)
    assert (course(after), effects, after.revision) == (where, done, before.revision + 1)

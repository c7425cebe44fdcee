"""What people do to a rollout, and who comes and goes while it runs."""

from typing import Any

import pytest
from tests.manager.rollouts import (
    DEVICES,
    GOAL,
    IN_STATE,
    NEW,
    OLD,
    START,
    S,
    T,
    all_healthy,
    awaited,
    events_of,
    exposed,
    failed,
    go,
    healthy,
    plan,
    rolling_back,
    running,
    says,
    settling,
    terminals,
    tripped,
)

from fleetfoot_manager.effects import (
    Emit,
    PublishDesired,
    PublishProgress,
    Withdraw,
)
from fleetfoot_manager.rollout import (
    Cancel,
    Decide,
    Decision,
    Expire,
    IllegalTransition,
    Joined,
    Left,
    Pause,
    Resume,
    Retry,
    RolloutEvent,
    Tick,
    advance,
    next_deadline,
    target,
)
from fleetfoot_protocol import admission
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import RolloutProgress
from fleetfoot_protocol.states import RolloutState


@pytest.mark.parametrize("state", [S.RUNNING, S.SETTLING])
def test_a_pause_holds_and_a_resume_goes_on_where_it_was(state: RolloutState) -> None:
    before = IN_STATE[state]()
    paused, done = advance(before, Pause("ann", "smoke in the hall"), START + 1)
    assert (paused.state, paused.resume_to) == (S.PAUSED, state)
    assert paused.reason == "paused by ann: smoke in the hall"
    held, free = target(paused), target(before)
    assert held is not None
    assert free is not None
    assert held == free.model_copy(update={"hold": True})
    assert done == (
        PublishDesired(),
        PublishProgress(),
        Emit(Event.ROLLOUT_PAUSED, {"by": "ann", "reason": "smoke in the hall"}),
    )
    resumed, done = advance(paused, Resume(), START + 500)
    assert (resumed.state, resumed.resume_to, resumed.reason) == (state, None, "")
    assert target(resumed) == free
    assert done == (PublishDesired(), PublishProgress(), Emit(Event.ROLLOUT_RESUMED))
    # settling starts over: what was seen while nothing moved proves nothing
    assert resumed.settle_until == (START + 560 if state is S.SETTLING else None)


@pytest.mark.parametrize("reason", ["a\nb", "\x1b[2J", "x" * 161])
def test_a_reason_that_progress_could_not_carry_is_refused(reason: str) -> None:
    rollout = running()
    with pytest.raises(FleetfootError) as refused:
        advance(rollout, Pause("ann", reason), START)
    assert refused.value.code == "request_invalid"


def test_the_longest_reason_fits_into_progress() -> None:
    rollout = go(running(), Pause("a" * 63, "x" * 160))
    RolloutProgress(
        fleet="f",
        rollout=rollout.id,
        group="hall",
        groups=rollout.groups,
        component="kiosk",
        version=GOAL.version,
        digest=NEW,
        state=rollout.state,
        reason=rollout.reason,
        revision=rollout.revision,
        waves=rollout.waves,
        wave=rollout.wave,
        total=rollout.total,
        counts=rollout.devices.counts,
        at="2026-01-01T00:00:00Z",
    )


def test_failures_during_a_pause_trip_on_resume_without_letting_go_of_the_hold() -> None:
    rollout = go(running(), Pause("ann"))
    rollout = go(rollout, failed(exposed(rollout)[0]))
    assert rollout.state is S.PAUSED
    rollout, done = advance(rollout, Resume(), START + 9)
    assert rollout.state is S.TRIPPED
    assert done.count(PublishDesired()) == 1
    assert list(events_of(done)) == [Event.ROLLOUT_RESUMED, Event.CIRCUIT_BREAKER_TRIPPED]


@pytest.mark.parametrize("state", [S.PAUSED, S.TRIPPED])
def test_reports_go_on_being_recorded_under_a_hold_and_nothing_widens(state: RolloutState) -> None:
    rollout = IN_STATE[state]()
    before = target(rollout)
    after = all_healthy(rollout)
    assert terminals(after)["healthy"] >= 2
    assert (after.state, after.wave, target(after)) == (state, 1, before)


def test_continue_takes_the_hold_off_and_counts_anew() -> None:
    rollout = tripped()
    _, second, third = exposed(rollout)
    rollout, done = advance(rollout, Decide(Decision.CONTINUE), START + 5)
    assert (rollout.state, rollout.failures_before, rollout.reason) == (S.RUNNING, 1, "")
    stands = target(rollout)
    assert stands is not None
    assert not stands.hold
    assert done == (
        PublishDesired(),
        PublishProgress(),
        Emit(Event.ROLLOUT_DECIDED, {"decision": "continue"}),
    )
    assert go(rollout, failed(second)).state is S.TRIPPED
    assert go(rollout, healthy(second), healthy(third)).state is S.SETTLING


@pytest.mark.parametrize("state", [S.RUNNING, S.SETTLING, S.PAUSED, S.TRIPPED])
def test_a_rollback_withdraws_the_release_and_waits_for_those_who_moved(state: RolloutState) -> None:
    rollout = running() if state is not S.SETTLING else settling()
    good, bad, active = exposed(rollout)
    rollout = go(rollout, healthy(good), says(active, T.ACTIVE))
    if state is S.PAUSED:
        rollout = go(rollout, Pause("ann"))
    elif state is S.TRIPPED:
        rollout = go(rollout, failed(bad))
    assert rollout.state is state
    rollout, done = advance(rollout, Decide(Decision.ROLLBACK), START + 50)
    assert done == (
        Withdraw(NEW),
        PublishDesired(),
        PublishProgress(),
        Emit(Event.ROLLOUT_DECIDED, {"decision": "rollback"}),
    )
    assert (rollout.state, next_deadline(rollout)) == (S.ROLLING_BACK, START + 350)
    assert target(rollout) is None
    assert "pending" not in terminals(rollout)
    rollout = go(rollout, says(active, None), says(bad, None, OLD))
    assert rollout.state is S.ROLLING_BACK
    rollout, done = advance(rollout, says(good, None, OLD), START + 60)
    assert (rollout.state, rollout.reason, rollout.ended) == (S.ROLLED_BACK, "", START + 60)
    assert rollout.devices[good].terminal is T.HEALTHY
    assert PublishProgress() in done


def test_a_rollback_does_not_wait_longer_than_the_device_timeout() -> None:
    rollout = rolling_back()
    assert advance(rollout, Tick(), START + 299) == (rollout, ())
    rollout = go(rollout, Tick(), at=START + 300)
    assert (rollout.state, rollout.reason) == (S.ROLLED_BACK, "1 not known to have returned")


def test_a_rollback_does_not_wait_for_a_device_that_left() -> None:
    rollout = rolling_back()
    assert go(rollout, Left(exposed(rollout)[0])).state is S.ROLLED_BACK


def test_a_rollback_of_what_nobody_runs_is_over_at_once() -> None:
    rollout, done = advance(tripped(), Decide(Decision.ROLLBACK), START)
    assert rollout.state is S.ROLLED_BACK
    assert Withdraw(NEW) in done


@pytest.mark.parametrize(
    ("event", "state", "told"),
    [
        (Decide(Decision.ABORT), S.ABORTED, Event.ROLLOUT_DECIDED),
        (Cancel(), S.CANCELED, Event.ROLLOUT_CANCELED),
        (Expire(), S.EXPIRED, Event.ROLLOUT_EXPIRED),
    ],
)
def test_abort_cancel_and_expire_drop_the_target_and_leave_who_moved(
    event: RolloutEvent, state: RolloutState, told: Event
) -> None:
    rollout = tripped()
    _, good, active = exposed(rollout)
    rollout = go(rollout, healthy(good), says(active, T.ACTIVE))
    rollout, done = advance(rollout, event, START + 5)
    assert (rollout.state, rollout.ended, target(rollout)) == (state, START + 5, None)
    assert terminals(rollout) == {"active": 1, "healthy": 1, "rolled_back": 1, "canceled": 27}
    assert [type(effect) for effect in done] == [PublishDesired, PublishProgress, Emit]
    assert list(events_of(done)) == [told]
    # probation finishes, and is written down; work before it is given up
    assert go(rollout, healthy(active)).devices[active].terminal is T.HEALTHY
    assert go(rollout, says(active, None)).devices[active].terminal is T.CANCELED


@pytest.mark.parametrize("options", [{}, {"approval": True}])
def test_canceling_what_never_started_publishes_no_desired_state(options: dict[str, Any]) -> None:
    rollout, done = advance(plan(**options), Cancel(), START)
    assert terminals(rollout) == {"canceled": 30}
    assert PublishDesired() not in done


def test_a_retry_is_one_more_attempt_for_those_that_failed_or_were_silent() -> None:
    rollout = running(breaker=0)
    good, bad, quiet = exposed(rollout)
    rollout = go(rollout, healthy(good), Pause("ann"), failed(bad), Resume())
    rollout = go(rollout, Tick(), at=START + 300)
    assert terminals(rollout) == {"pending": 27, "healthy": 1, "rolled_back": 1, "silent": 1}
    rollout = go(rollout, Pause("ann"), at=START + 310)
    rollout, done = advance(rollout, Retry(), START + 320)
    assert (rollout.state, rollout.goal.attempt, rollout.resume_to) == (S.RUNNING, 2, None)
    stands = target(rollout)
    assert stands is not None
    assert (stands.goal.attempt, stands.hold) == (2, False)
    assert done == (PublishDesired(), PublishProgress())
    assert set(awaited(rollout)) == {bad, quiet}
    assert rollout.devices[bad].code == ""
    assert next_deadline(rollout) == START + 620
    assert go(rollout, failed(bad, attempt=1)).devices[bad].terminal is T.PENDING
    assert go(rollout, healthy(bad, attempt=2)).devices[bad].terminal is T.HEALTHY


def test_after_a_retry_the_breaker_counts_anew() -> None:
    rollout = go(tripped(), Retry())
    bad = exposed(rollout)[0]
    assert (rollout.state, rollout.devices.failures) == (S.RUNNING, 0)
    assert go(rollout, failed(bad, attempt=2)).state is S.TRIPPED


def test_failures_forgiven_before_a_retry_forgive_none_after_it() -> None:
    rollout = go(tripped(), Decide(Decision.CONTINUE), Retry())
    assert go(rollout, failed(exposed(rollout)[0], attempt=2)).state is S.TRIPPED


def test_who_was_at_work_on_the_old_attempt_counts_by_what_runs() -> None:
    rollout = running()
    bad, active, _ = exposed(rollout)
    rollout = go(rollout, says(active, T.ACTIVE), failed(bad), Retry())
    assert rollout.devices[active].terminal is T.ACTIVE
    record = go(rollout, healthy(active, attempt=1)).devices[active]
    assert (record.terminal, record.success) == (T.SKIPPED, True)
    assert go(rollout, failed(active, attempt=1)).devices[active].terminal is T.PENDING


def test_a_retry_with_nothing_to_retry_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="no exposed device"):
        advance(running(), Retry(), START)


def ids_around(cut: str) -> tuple[str, str]:
    """An id below the cut and one that is not, neither of them in the cohort."""
    ids = [f"new-{n:03}" for n in range(200)]
    return (
        next(i for i in ids if admission.below(cut, "r-1", i)),
        next(i for i in ids if not admission.below(cut, "r-1", i)),
    )


def test_a_device_that_joins_shifts_nobody_and_is_exposed_if_the_cut_admits_it() -> None:
    rollout = running()
    before = exposed(rollout)
    cut = rollout.cuts[0]
    below, above = ids_around(cut)
    rollout = go(rollout, Joined(below, "hall"), Joined(above, "yard"), at=START + 20)
    assert getattr(target(rollout), "stage_cut", None) == cut
    assert set(exposed(rollout)) == {*before, below}
    assert rollout.devices[below].since == START + 20
    assert rollout.devices[above].since is None
    assert rollout.total == 32
    stands = target(rollout)
    assert stands is not None
    assert {m.device for m in rollout.cohort if admission.admitted(stands, m.device, {}, cut)} == {
        *before,
        below,
    }
    positions = [admission.position("r-1", member.device) for member in rollout.cohort]
    assert positions == sorted(positions)
    rollout = go(all_healthy(rollout), Tick(), at=START + 80)
    assert (
        len({m.device for m in rollout.cohort if m.device in exposed(rollout)} & {d for d, _ in DEVICES})
        == 15
    )


def test_a_device_that_joins_under_a_hold_does_not_let_it_go() -> None:
    rollout = tripped()
    below, _ = ids_around(rollout.cuts[0])
    after, done = advance(rollout, Joined(below, "hall"), START + 1)
    assert (after.state, target(after)) == (S.TRIPPED, target(rollout))
    assert done == (PublishProgress(),)


def test_a_device_that_is_known_joins_no_second_time_and_may_change_its_group() -> None:
    rollout = running()
    device, group = rollout.cohort[0]
    assert advance(rollout, Joined(device, group), START) == (rollout, ())
    other = "yard" if group == "hall" else "hall"
    moved = go(rollout, Joined(device, other))
    assert moved.cohort[0] == (device, other)
    assert (moved.total, moved.devices) == (30, rollout.devices)


def test_a_device_that_left_is_not_awaited_and_not_exposed_later() -> None:
    rollout = running()
    one, two, three = exposed(rollout)
    later = rollout.cohort[3].device
    rollout = go(rollout, healthy(one), healthy(two), Left(three), Left(later))
    assert rollout.state is S.SETTLING
    assert rollout.devices[three].reason == "left the groups"
    rollout = go(rollout, Tick(), at=START + 60)
    assert (rollout.wave, len(exposed(rollout))) == (2, 14)
    assert advance(rollout, healthy(later), START + 61) == (rollout, ())


def test_a_device_that_left_and_came_back_is_awaited_again() -> None:
    rollout = running()
    device, group = rollout.cohort[0]
    rollout = go(rollout, Left(device), Joined(device, group), at=START + 30)
    record = rollout.devices[device]
    assert (record.terminal, record.since, record.gone, rollout.total) == (T.PENDING, START + 30, False, 30)


def test_the_failure_of_a_device_that_left_stays_a_failure() -> None:
    rollout = running(breaker=2)
    one, two, _ = exposed(rollout)
    rollout = go(rollout, failed(one), Left(one))
    assert go(rollout, failed(two)).state is S.TRIPPED


def test_what_a_device_reports_after_it_left_changes_nothing() -> None:
    rollout = running(breaker=0)
    device = exposed(rollout)[0]
    rollout = go(rollout, Left(device))
    for report in (healthy(device), failed(device), says(device, T.ACTIVE), says(device, None, NEW)):
        assert advance(rollout, report, START) == (rollout, ())
    assert advance(rollout, Left(device), START) == (rollout, ())


def test_a_wave_that_everybody_left_does_not_pass() -> None:
    rollout = running()
    assert go(rollout, *map(Left, exposed(rollout))).state is S.TRIPPED

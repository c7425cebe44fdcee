"""The gate of a rollout, what a report counts for, and time: pass, settle, trip, silence."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.manager.rollouts import (
    GOAL,
    NEW,
    OLD,
    START,
    S,
    T,
    awaited,
    events_of,
    exposed,
    failed,
    go,
    healthy,
    plan,
    running,
    says,
    settling,
    terminals,
)

from fleetfoot_manager.effects import (
    Emit,
    PublishDesired,
    PublishProgress,
    SetBaseline,
    Stand,
)
from fleetfoot_manager.rollout import (
    Cancel,
    Decide,
    Decision,
    IllegalTransition,
    Joined,
    Left,
    Pause,
    Report,
    Resume,
    Start,
    Tick,
    advance,
    next_deadline,
    target,
)
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.states import RolloutState, Terminal


def test_a_wave_settles_once_all_its_devices_have_ended_and_then_the_next_one_opens() -> None:
    rollout = running()
    *first, last = exposed(rollout)
    rollout = go(rollout, *(healthy(device) for device in first))
    assert rollout.state is S.RUNNING
    rollout, done = advance(rollout, healthy(last), START + 5)
    assert (rollout.state, rollout.settle_until, next_deadline(rollout)) == (
        S.SETTLING,
        START + 65,
        START + 65,
    )
    assert events_of(done)[Event.BATCH_COMPLETED] == {
        "batch_index": 1,
        "healthy_count": 3,
        "failed_count": 0,
    }
    assert PublishDesired() not in done
    assert advance(rollout, Tick(), START + 64) == (rollout, ())
    rollout, done = advance(rollout, Tick(), START + 65)
    assert (rollout.state, rollout.wave, len(exposed(rollout))) == (S.RUNNING, 2, 15)
    assert done == (
        PublishDesired(),
        PublishProgress(),
        Emit(Event.BATCH_STARTED, {"batch_index": 2, "device_count": 12}),
    )


def test_without_settling_the_next_wave_opens_with_the_last_outcome() -> None:
    rollout = running(settle=0.0)
    *first, last = exposed(rollout)
    rollout, done = advance(go(rollout, *map(healthy, first)), healthy(last), START)
    assert rollout.wave == 2
    assert list(events_of(done)) == [Event.INSTANCE_HEALTH_CHECK, Event.BATCH_COMPLETED, Event.BATCH_STARTED]


def test_a_wave_of_devices_that_are_all_on_the_target_passes_at_once_however_many_waves() -> None:
    many = [(f"dev-{n:04}", "hall") for n in range(500)]
    rollout = plan(devices=many, waves=tuple(range(1, 501)), settle=0.0, already={d for d, _ in many})
    rollout, done = advance(rollout, Start(), START)
    assert rollout.state is S.COMPLETED
    assert done.count(PublishDesired()) == 1


def test_the_first_failure_trips_and_holds() -> None:
    rollout = running()
    bad = exposed(rollout)[1]
    rollout, done = advance(rollout, failed(bad), START + 1)
    assert rollout.state is S.TRIPPED
    stands = target(rollout)
    assert stands is not None
    assert stands.hold
    assert stands.stage_cut == getattr(target(running()), "stage_cut", None)
    assert done[:2] == (PublishDesired(), PublishProgress())
    told = events_of(done)
    assert told[Event.INSTANCE_HEALTH_CHECK] == {"device": bad, "healthy": False}
    assert (
        Emit(Event.INSTANCE_HEALTH_CHECK, told[Event.INSTANCE_HEALTH_CHECK], Code.UPGRADE_BOOT_FAILED) in done
    )
    assert told[Event.CIRCUIT_BREAKER_TRIPPED] == {
        "batch_index": 1,
        "failed_device_ids": [bad],
        "failed_count": 1,
        "reason": rollout.reason,
    }
    assert rollout.reason
    assert next_deadline(rollout) is None


@pytest.mark.parametrize("terminal", [T.FAILED, T.ROLLED_BACK])
def test_failed_and_rolled_back_both_count_for_the_breaker(terminal: Terminal) -> None:
    rollout = running(breaker=2)
    first, second, _ = exposed(rollout)
    rollout = go(rollout, says(first, terminal))
    assert rollout.state is S.RUNNING
    assert go(rollout, says(first, terminal)).state is S.RUNNING
    assert go(rollout, says(second, terminal)).state is S.TRIPPED


def test_never_more_than_a_hundred_devices_are_named() -> None:
    many = [(f"dev-{n:04}", "hall") for n in range(300)]
    rollout = running(devices=many, waves=(300,), breaker=150)
    for device in exposed(rollout)[:149]:
        rollout = go(rollout, failed(device))
    _, done = advance(rollout, failed(exposed(rollout)[149]), START)
    told = events_of(done)[Event.CIRCUIT_BREAKER_TRIPPED]
    assert len(told["failed_device_ids"]) == 100
    assert told["failed_count"] == 150


def test_without_a_breaker_a_wave_with_a_success_passes_over_its_failures() -> None:
    rollout = running(breaker=0)
    good, *bad = exposed(rollout)
    rollout = go(rollout, *map(failed, bad))
    assert rollout.state is S.RUNNING
    rollout, done = advance(rollout, healthy(good), START)
    assert rollout.state is S.SETTLING
    assert events_of(done)[Event.BATCH_COMPLETED] == {"batch_index": 1, "healthy_count": 1, "failed_count": 2}


@pytest.mark.parametrize("ending", ["failed", "silent"])
def test_a_wave_without_a_success_never_passes(ending: str) -> None:
    rollout = running(breaker=0)
    if ending == "silent":
        rollout = go(rollout, Tick(), at=START + 300)
    else:
        rollout = go(rollout, *map(failed, exposed(rollout)))
    assert rollout.state is S.TRIPPED
    assert rollout.reason == "wave 1 ended without a success"
    assert rollout.devices.awaited == 0
    with pytest.raises(IllegalTransition, match="no success"):
        advance(rollout, Decide(Decision.CONTINUE), START + 301)


def test_the_success_of_an_earlier_wave_does_not_pass_a_later_one() -> None:
    rollout = settling(breaker=0)
    rollout = go(rollout, Tick(), at=START + 60)
    rollout = go(rollout, *map(failed, awaited(rollout)))
    assert (rollout.state, rollout.wave) == (S.TRIPPED, 2)


def test_a_device_that_fails_while_the_wave_settles_trips() -> None:
    rollout = running()
    good, quiet, other = exposed(rollout)
    rollout = go(rollout, healthy(good), healthy(other))
    rollout = go(rollout, Tick(), at=START + 300)
    assert rollout.state is S.SETTLING
    assert rollout.devices[quiet].terminal is T.SILENT
    rollout, done = advance(rollout, failed(quiet), START + 310)
    assert rollout.state is S.TRIPPED
    assert PublishDesired() in done
    assert next_deadline(rollout) is None


def test_a_device_that_joins_while_the_wave_settles_is_waited_for_before_the_next() -> None:
    rollout = settling()
    joined = next(one for one in (f"new-{n}" for n in range(1000)) if rollout.wave_of(one) == 1)
    rollout = go(rollout, Joined(joined, "hall"), Tick(), at=START + 61)
    assert (rollout.state, rollout.wave) == (S.RUNNING, 1)
    assert go(rollout, healthy(joined), at=START + 70).settle_until == START + 130


def test_a_success_that_is_undone_while_the_wave_settles_does_not_pass_it() -> None:
    rollout = running(waves=(1, 30))
    (only,) = exposed(rollout)
    rollout = go(rollout, says(only, None, NEW))
    assert rollout.state is S.SETTLING
    rollout = go(rollout, says(only, None, OLD), Tick(), at=START + 60)
    assert (rollout.state, rollout.wave, rollout.devices[only].terminal) == (S.RUNNING, 1, T.PENDING)
    assert go(rollout, healthy(only), at=START + 70).settle_until == START + 130
    assert go(rollout, Left(only), at=START + 70).state is S.TRIPPED


def test_a_batch_is_completed_once_even_if_it_trips_while_settling() -> None:
    rollout = running()
    good, quiet, other = exposed(rollout)
    rollout = go(rollout, healthy(good), healthy(other))
    rollout = go(rollout, Tick(), at=START + 300)
    rollout = go(rollout, failed(quiet), at=START + 310)
    rollout, done = advance(rollout, Decide(Decision.CONTINUE), START + 320)
    assert (rollout.state, rollout.settle_until) == (S.SETTLING, START + 380)
    assert list(events_of(done)) == [Event.ROLLOUT_DECIDED]


def test_after_the_last_wave_an_unrestricted_rollout_becomes_the_baseline() -> None:
    rollout = settling(waves=(30,))
    rollout, done = advance(rollout, Tick(), START + 60)
    assert rollout.state is S.COMPLETED
    assert target(rollout) is None
    assert done == (
        SetBaseline(GOAL),
        PublishDesired(),
        PublishProgress(),
        Emit(Event.ROLLOUT_COMPLETED, {"version": "1.1.0", "completed_count": 30, "failed_count": 0}),
    )


@pytest.mark.parametrize("options", [{"selector": {"site": "north"}, "waves": (30,)}, {"waves": (3,)}])
def test_a_restricted_rollout_becomes_a_standing_target(options: dict[str, Any]) -> None:
    rollout = settling(**options)
    stood = target(rollout)
    rollout, done = advance(rollout, Tick(), START + 60)
    assert rollout.state is S.COMPLETED
    assert stood is not None
    assert done[0] == Stand(stood)
    assert not stood.hold
    assert not any(isinstance(effect, SetBaseline) for effect in done)


@pytest.mark.parametrize(
    ("report", "after"),
    [
        (lambda d: healthy(d), T.HEALTHY),
        (lambda d: replace(healthy(d), rollout="r-2"), T.SKIPPED),  # runs the goal, but by other work
        (lambda d: replace(healthy(d), attempt=2), T.SKIPPED),
        (lambda d: replace(healthy(d), running=OLD), T.PENDING),
        (lambda d: replace(healthy(d), running=None), T.PENDING),
        (lambda d: replace(failed(d), rollout="r-2"), T.PENDING),
        (lambda d: replace(failed(d), attempt=2), T.PENDING),
        (lambda d: replace(failed(d), rollout=None, attempt=None), T.PENDING),
        (lambda d: says(d, T.FAILED), T.FAILED),
        (lambda d: says(d, T.ROLLED_BACK), T.ROLLED_BACK),
        (lambda d: says(d, T.ACTIVE), T.ACTIVE),
        (lambda d: says(d, T.STAGED), T.ACTIVE),
        (lambda d: says(d, T.ACTIVE, NEW), T.ACTIVE),  # in probation: not healthy yet
        (lambda d: replace(says(d, T.ACTIVE, NEW), rollout="r-2"), T.PENDING),
        (lambda d: says(d, T.CANCELED), T.PENDING),
        (lambda d: says(d, T.SKIPPED), T.SKIPPED),
        (lambda d: says(d, None), T.PENDING),
        (lambda d: says(d, None, NEW), T.SKIPPED),
    ],
)
def test_an_outcome_counts_only_for_this_rollout_attempt_and_digest(
    report: Callable[[str], Report], after: Terminal
) -> None:
    rollout = running(breaker=0)
    device = exposed(rollout)[0]
    assert go(rollout, report(device)).devices[device].terminal is after


def test_the_first_outcome_of_an_attempt_wins() -> None:
    rollout = running(breaker=0)
    good, bad, _ = exposed(rollout)
    rollout = go(rollout, healthy(good), failed(bad))
    assert go(rollout, failed(good)).devices[good].terminal is T.HEALTHY
    assert go(rollout, healthy(bad)).devices[bad].terminal is T.ROLLED_BACK


def test_a_failure_is_recorded_with_its_code_and_reason() -> None:
    rollout = running()
    device = exposed(rollout)[0]
    record = go(rollout, failed(device), at=START + 7).devices[device]
    assert (record.code, record.reason, record.ended) == ("upgrade_boot_failed", "exit 1", START + 7)


def test_the_same_report_again_changes_nothing() -> None:
    rollout = running(breaker=0)
    device = exposed(rollout)[0]
    for report in (says(device, T.ACTIVE), says(device, None, NEW), says(device, T.SKIPPED), failed(device)):
        rollout = go(rollout, report)
        assert advance(rollout, report, START + 9) == (rollout, ())


def test_a_device_tells_when_it_begins_and_no_second_time() -> None:
    rollout = running()
    device = exposed(rollout)[0]
    rollout, done = advance(rollout, says(device, T.ACTIVE), START)
    assert done == (PublishProgress(), Emit(Event.INSTANCE_STARTED, {"device": device}))
    assert rollout.devices[device].terminal is T.ACTIVE


def test_a_device_that_put_its_work_down_is_awaited_again() -> None:
    rollout = running()
    device = exposed(rollout)[0]
    for rest in (says(device, None), says(device, T.CANCELED)):
        assert go(rollout, says(device, T.ACTIVE), rest).devices[device].terminal is T.PENDING


def test_of_a_device_that_is_not_exposed_only_what_runs_is_of_interest() -> None:
    rollout = running()
    last = rollout.cohort[-1].device
    for report in (failed(last), says(last, T.ACTIVE), says(last, T.ACTIVE, NEW), says(last, T.SKIPPED)):
        assert advance(rollout, report, START) == (rollout, ())
    on_it = go(rollout, says(last, None, NEW))
    record = on_it.devices[last]
    assert (record.terminal, record.reason, record.since) == (T.SKIPPED, "already on the target", None)
    assert go(on_it, says(last, None, OLD)).devices[last].terminal is T.PENDING


def test_a_device_already_on_the_target_is_a_success_of_its_wave() -> None:
    rollout = plan(breaker=0)
    first = rollout.cohort[0].device
    rollout = go(rollout, says(first, None, NEW), Start())
    assert len(exposed(rollout)) == 3
    assert len(awaited(rollout)) == 2
    assert go(rollout, *map(failed, awaited(rollout))).state is S.SETTLING


def test_a_report_of_a_stranger_changes_nothing() -> None:
    assert advance(running(), healthy("dev-999"), START)[1] == ()


def test_a_device_without_an_answer_is_silent_after_its_timeout_and_not_before() -> None:
    rollout = running()
    one, two, three = exposed(rollout)
    rollout = go(rollout, healthy(one), says(two, T.ACTIVE))
    assert next_deadline(rollout) == START + 300
    assert advance(rollout, Tick(), START + 299.9) == (rollout, ())
    rollout, done = advance(rollout, Tick(), START + 300)
    assert {rollout.devices[device].terminal for device in (two, three)} == {T.SILENT}
    assert PublishProgress() in done
    assert rollout.state is S.SETTLING


@pytest.mark.parametrize(
    ("report", "after"),
    [(healthy, T.HEALTHY), (failed, T.ROLLED_BACK), (lambda d: says(d, None, NEW), T.SKIPPED)],
)
@pytest.mark.parametrize("state", [S.SETTLING, S.PAUSED, S.COMPLETED])
def test_a_silent_device_becomes_later_what_it_reports(
    report: Callable[[str], Report], after: Terminal, state: RolloutState
) -> None:
    rollout = running(waves=(30,), breaker=0)
    quiet, *rest = exposed(rollout)
    rollout = go(rollout, *map(healthy, rest))
    rollout = go(rollout, Tick(), at=START + 300)
    assert terminals(rollout) == {"healthy": 29, "silent": 1}
    if state is S.PAUSED:
        rollout = go(rollout, Pause("ann"), at=START + 301)
    elif state is S.COMPLETED:
        rollout = go(rollout, Tick(), at=START + 360)
    assert rollout.state is state
    later = go(rollout, report(quiet), at=START + 9999)
    assert later.devices[quiet].terminal is after
    assert later.state is state


def test_a_late_report_of_an_ended_rollout_publishes_no_desired_state() -> None:
    rollout = go(running(waves=(30,)), Cancel())
    _, done = advance(rollout, failed(exposed(rollout)[0]), START + 5)
    assert [type(effect) for effect in done] == [PublishProgress, Emit]
    assert list(events_of(done)) == [Event.INSTANCE_HEALTH_CHECK]


def test_a_silent_device_that_only_begins_is_not_awaited_again() -> None:
    rollout = running(waves=(3,))
    quiet, *rest = exposed(rollout)
    rollout = go(go(rollout, *map(healthy, rest)), Tick(), at=START + 300)
    rollout = go(rollout, says(quiet, T.ACTIVE), at=START + 301)
    assert (rollout.devices[quiet].terminal, rollout.devices.awaited) == (T.SILENT, 0)


@pytest.mark.parametrize("hold", ["pause", "trip"])
def test_no_device_becomes_silent_for_the_time_of_a_hold(hold: str) -> None:
    rollout = running()
    bad, *_ = exposed(rollout)
    rollout = go(rollout, Pause("ann") if hold == "pause" else failed(bad))
    assert next_deadline(rollout) is None
    assert advance(rollout, Tick(), START + 5000) == (rollout, ())
    on = Resume() if hold == "pause" else Decide(Decision.CONTINUE)
    rollout = go(rollout, on, at=START + 5000)
    assert next_deadline(rollout) == START + 5300
    assert go(rollout, Tick(), at=START + 5299) is rollout
    assert "silent" in terminals(go(rollout, Tick(), at=START + 5300))

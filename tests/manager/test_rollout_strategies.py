"""How a rollout goes out: named canaries, batches, staging first, limits of failures, approved waves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.manager.rollouts import (
    DEVICES,
    GOAL,
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
    running,
    says,
    terminals,
)

from fleetfoot_manager.effects import PublishDesired, SetBaseline, Stand, Withdraw
from fleetfoot_manager.rollout import (
    Activate,
    Approve,
    Away,
    Decide,
    Decision,
    Expire,
    IllegalTransition,
    Joined,
    Pause,
    Resume,
    Retry,
    Rollout,
    Start,
    Supersede,
    Tick,
    advance,
    due,
    next_deadline,
    target,
)
from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import Target
from fleetfoot_protocol.events import Event

CANARIES = ("dev-007", "dev-021")


def admitted(rollout: Rollout, cut: str = "activate_cut") -> set[str]:
    stands = target(rollout)
    assert isinstance(stands, Target)
    return {d for d, _ in DEVICES if admission.admitted(stands, d, {}, getattr(stands, cut))}


# --- who


def test_named_canaries_are_the_first_wave_and_count_in_the_later_ones() -> None:
    rollout = running(include=CANARIES, waves=(2, 15, 30), settle=0.0)
    assert set(exposed(rollout)) == admitted(rollout) == set(CANARIES)
    rollout = all_healthy(rollout)
    assert (rollout.wave, len(admitted(rollout))) == (2, 15)
    assert set(exposed(rollout)) == admitted(rollout) > set(CANARIES)
    rollout = all_healthy(rollout)
    assert (rollout.wave, len(admitted(rollout))) == (3, 30)


def test_devices_named_one_by_one_are_the_cohort_and_no_cut_admits_anybody_else() -> None:
    named = DEVICES[3:9]
    rollout = running(devices=named, listed=True, waves=(2, 6), settle=0.0)
    assert len(admitted(rollout)) == 2
    assert admitted(rollout) == set(exposed(rollout))
    after, done = advance(rollout, Joined("dev-900", "hall"), START)
    assert (after, done) == (rollout, ())
    rollout = all_healthy(rollout)
    assert admitted(rollout) == {device for device, _ in named}
    for device in awaited(rollout):
        rollout, done = advance(rollout, healthy(device), START)
    (stands,) = [effect for effect in done if isinstance(effect, Stand)]
    assert rollout.state is S.COMPLETED
    assert set(stands.target.include) == {device for device, _ in named}


# --- the breaker of batches


def batches(**options: Any) -> Rollout:
    return running(waves=(6, 12, 18, 24, 30), consecutive=True, breaker=2, settle=0.0, **options)


def test_batches_trip_at_the_second_failure_in_a_row_and_a_success_resets() -> None:
    rollout = batches()
    a, b, c, d, e, f = exposed(rollout)
    rollout = go(rollout, failed(a), healthy(b), failed(c), healthy(d), failed(e))
    assert (rollout.state, rollout.streak) == (S.RUNNING, 1)
    rollout = go(rollout, failed(f))
    assert rollout.state is S.TRIPPED
    assert rollout.reason == "2 failed one after another in wave 1, limit 2"


def test_failures_in_a_row_go_on_over_batches_and_a_decision_forgives_them() -> None:
    rollout = batches()
    *good, bad = exposed(rollout)
    rollout = go(rollout, *map(healthy, good), failed(bad))
    assert (rollout.state, rollout.wave, rollout.streak) == (S.RUNNING, 2, 1)
    tripped = go(rollout, failed(awaited(rollout)[0]))
    assert tripped.state is S.TRIPPED
    assert go(tripped, Decide(Decision.CONTINUE)).streak == 0
    assert go(tripped, Retry()).streak == 0


def test_the_same_failure_told_twice_is_no_second_one() -> None:
    rollout = batches()
    first = exposed(rollout)[0]
    assert go(rollout, failed(first), failed(first)).streak == 1


# --- limits


def test_a_percentage_of_failures_trips_once_it_is_passed() -> None:
    rollout = running(waves=(10, 30), breaker=0, failure_percent=20)
    a, b, c, *_ = exposed(rollout)
    rollout = go(rollout, failed(a), failed(b))
    assert rollout.state is S.RUNNING
    rollout = go(rollout, failed(c))
    assert (rollout.state, rollout.reason) == (S.TRIPPED, "3 of 10 failed in wave 1, limit 20 %")


def test_a_wave_needs_as_many_successes_as_were_demanded() -> None:
    rollout = running(waves=(10, 30), breaker=0, min_successes=3)
    good, also, *bad = exposed(rollout)
    rollout = go(rollout, healthy(good), healthy(also), *map(failed, bad))
    assert rollout.state is S.TRIPPED
    assert rollout.reason == "wave 1 ended with fewer than 3 successes"


def test_a_wave_smaller_than_the_demand_needs_all_of_itself() -> None:
    assert all_healthy(running(waves=(2, 30), min_successes=3)).state is S.SETTLING


# --- a wave in which nobody could take it


def ahead(device: str) -> Any:
    return replace(says(device, T.SKIPPED), reason="ahead of the target")


def test_a_wave_of_devices_that_are_all_ahead_is_judged_together_with_the_next_one() -> None:
    rollout = go(running(), *map(ahead, exposed(running())))
    assert (rollout.state, rollout.wave, rollout.from_wave, rollout.passed) == (S.RUNNING, 2, 1, 0)
    worse = go(replace(rollout, breaker=0), *map(failed, awaited(rollout)))
    assert (worse.state, worse.reason) == (S.TRIPPED, "wave 2 ended without a success")
    assert all_healthy(rollout).state is S.SETTLING


def test_the_last_wave_may_be_all_ahead_if_one_before_it_passed() -> None:
    rollout = all_healthy(running(waves=(3, 30), settle=0.0))
    assert go(rollout, *map(ahead, awaited(rollout))).state is S.COMPLETED
    alone = running(waves=(30,))
    assert go(alone, *map(ahead, exposed(alone))).state is S.TRIPPED


def test_a_release_that_is_not_blessed_does_not_reach_a_second_wave_that_way() -> None:
    rollout = running(canary=True)
    rollout = go(rollout, *map(ahead, exposed(rollout)))
    assert (rollout.state, rollout.wave) == (S.TRIPPED, 1)


# --- offline


def test_who_is_offline_when_asked_is_silent_at_once_where_nobody_waits_for_it() -> None:
    rollout = running(skip_offline=True)
    good, gone, other = exposed(rollout)
    rollout = go(rollout, says(other, T.ACTIVE), Away(frozenset({gone, other, "dev-900"})))
    assert rollout.devices[gone].terminal is T.SILENT
    assert rollout.devices[other].terminal is T.ACTIVE, "at work is in flight, not offline"
    rollout = go(rollout, healthy(good), healthy(other))
    assert rollout.state is S.SETTLING
    assert go(rollout, healthy(gone)).devices[gone].terminal is T.HEALTHY


# --- staging first


def staged(device: str) -> Any:
    return says(device, T.STAGED)


def all_staged(rollout: Rollout) -> Rollout:
    return go(rollout, *map(staged, awaited(rollout)))


def test_everybody_stages_before_the_first_wave_activates() -> None:
    rollout = running(stage="first", settle=0.0)
    assert (rollout.wave, len(exposed(rollout))) == (0, 30)
    assert (admitted(rollout), len(admitted(rollout, "stage_cut"))) == (set(), 30)
    rollout = all_staged(rollout)
    assert (rollout.state, rollout.wave) == (S.RUNNING, 1)
    assert (len(admitted(rollout)), len(admitted(rollout, "stage_cut"))) == (3, 30)
    assert terminals(rollout) == {"pending": 3, "staged": 27}
    for wave in (2, 3):
        rollout = all_healthy(rollout)
        assert rollout.wave == wave
    assert all_healthy(rollout).state is S.COMPLETED


def test_what_a_device_staged_is_no_news_once_it_is_to_activate() -> None:
    rollout = all_staged(running(stage="first", settle=0.0))
    first = awaited(rollout)[0]
    assert go(rollout, staged(first)).devices[first].terminal is T.PENDING
    assert go(rollout, says(first, T.ACTIVE)).devices[first].terminal is T.ACTIVE


def test_staging_without_a_success_does_not_pass_and_a_silent_device_is_asked_again() -> None:
    rollout = running(stage="first", settle=0.0)
    assert go(rollout, Tick(), at=START + 300).state is S.TRIPPED
    one = awaited(rollout)[-1]
    rollout = go(go(rollout, staged(one)), Tick(), at=START + 300)
    assert (rollout.state, rollout.wave) == (S.RUNNING, 1)
    assert terminals(rollout) == {"pending": 3, "staged": 1, "silent": 26}


def test_staging_only_stands_without_a_hold_until_somebody_activates() -> None:
    rollout = all_staged(running(stage="only", settle=0.0))
    stands = target(rollout)
    assert rollout.state is S.PAUSED
    assert stands is not None
    assert not stands.hold, "a hold would make devices put down what they have staged"
    assert terminals(rollout) == {"staged": 30}
    assert go(rollout, Tick(), at=START + 10**6) == rollout
    with pytest.raises(IllegalTransition, match="staged"):
        advance(rollout, Resume(), START)
    rollout, done = advance(rollout, Activate("ann"), START)
    assert (rollout.state, rollout.wave) == (S.RUNNING, 1)
    assert PublishDesired() in done
    assert events_of(done)[Event.ROLLOUT_RESUMED] == {"by": "ann"}


def test_activating_what_does_not_wait_for_it_changes_nothing() -> None:
    paused = go(running(), Pause("ann"))
    assert advance(paused, Activate("ann"), START) == (paused, ())
    assert advance(paused, Approve(), START) == (paused, ())


def test_a_failure_while_staging_trips() -> None:
    rollout = running(stage="first")
    rollout = go(rollout, says(exposed(rollout)[0], T.FAILED))
    assert (rollout.state, rollout.reason) == (S.TRIPPED, "1 failed while staging, limit 1")


def test_who_joins_a_staged_rollout_stages() -> None:
    rollout = all_staged(running(stage="only", settle=0.0))
    rollout = go(rollout, Joined("dev-900", "hall"))
    assert rollout.devices["dev-900"].awaited


# --- approval of each wave


def test_each_wave_waits_for_a_word_and_a_resume_is_none() -> None:
    rollout = all_healthy(running(each_wave=True, settle=0.0))
    stands = target(rollout)
    assert (rollout.state, rollout.wave, rollout.reason) == (
        S.PAUSED,
        1,
        "the next wave awaits approval",
    )
    assert stands is not None
    assert not stands.hold
    with pytest.raises(IllegalTransition, match="awaits approval"):
        advance(rollout, Resume(), START)
    rollout = go(rollout, Approve())
    assert (rollout.state, rollout.wave) == (S.RUNNING, 2)


# --- the end of its time, and what takes its place


@pytest.mark.parametrize(
    "make",
    [
        lambda: plan(approval=True, lives_until=START + 50),
        lambda: plan(lives_until=START + 50),
        lambda: running(lives_until=START + 50),
        lambda: go(running(lives_until=START + 50), Pause("ann")),
    ],
)
def test_a_rollout_expires_in_whatever_state_its_time_is_over(make: Callable[[], Rollout]) -> None:
    rollout = make()
    assert next_deadline(rollout) == START + 50
    assert isinstance(due(rollout, START + 49), Tick)
    over = due(rollout, START + 50)
    assert isinstance(over, Expire)
    rollout = go(rollout, over, at=START + 50)
    assert (rollout.state, target(rollout)) == (S.EXPIRED, None)


def test_a_rollback_is_not_cut_short_by_the_end_of_its_time() -> None:
    rollout = running(lives_until=START + 50)
    rollout = go(rollout, healthy(exposed(rollout)[0]), Decide(Decision.ROLLBACK))
    assert isinstance(due(rollout, START + 60), Tick)
    assert next_deadline(rollout) == START + 300


def test_what_is_superseded_names_its_successor_and_drops_its_target() -> None:
    rollout, done = advance(running(), Supersede("r-2"), START)
    assert (rollout.state, rollout.reason, target(rollout)) == (S.SUPERSEDED, "superseded by r-2", None)
    assert PublishDesired() in done
    assert events_of(done)[Event.ROLLOUT_CANCELED] == {"superseded_by": "r-2"}
    assert set(terminals(rollout)) == {"canceled"}


# --- the way back in steps


@pytest.mark.parametrize("wide", [True, False])
def test_in_the_end_of_a_way_back_in_steps_the_release_is_withdrawn(wide: bool) -> None:
    goal = GOAL.model_copy(update={"mode": "exactly"})
    back = plan(waves=(30 if wide else 10,), settle=0.0, withdraws="c" * 64)
    rollout, done = advance(replace(back, goal=goal), Start(), START)
    for device in awaited(rollout):
        rollout, done = advance(rollout, healthy(device), START)
    assert rollout.state is S.COMPLETED
    assert Withdraw("c" * 64) in done
    kept = [effect for effect in done if isinstance(effect, SetBaseline | Stand)]
    assert kept == ([SetBaseline(GOAL)] if wide else [])

"""The forms that a rollout may have beside plain waves: who is asked when, and by whose word it goes on."""

import math
from typing import Any

import pytest
from tests.manager.rollouts import (
    DEVICES,
    GOAL,
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
    running,
    says,
)

from fleetfoot_manager.effects import PublishDesired, PublishProgress, SetBaseline, Stand, Withdraw
from fleetfoot_manager.requests.overview import waits
from fleetfoot_manager.rollout import (
    Activate,
    Approve,
    Away,
    Bless,
    Decide,
    Decision,
    Expire,
    IllegalTransition,
    Joined,
    Left,
    Resume,
    Retry,
    Rollout,
    Start,
    Tick,
    advance,
    due,
    next_deadline,
    target,
)
from fleetfoot_manager.rollout_gate import AWAITS_ACTIVATION, AWAITS_APPROVAL, AWAITS_BLESSING, AWAY, STAGING
from fleetfoot_protocol import admission
from fleetfoot_protocol.events import Event

NAMES = [device for device, _ in DEVICES]
NOW = {"settle": 0.0}


def staged(rollout: Rollout) -> Rollout:
    """Everybody who is awaited has staged."""
    return go(rollout, *(says(device, T.STAGED) for device in awaited(rollout)))


def admitted(rollout: Rollout) -> tuple[set[str], set[str]]:
    """Whom the target lets stage and activate."""
    one = target(rollout)
    assert one is not None
    return (
        {d for d in NAMES if admission.admitted(one, d, {}, one.stage_cut)},
        {d for d in NAMES if admission.admitted(one, d, {}, one.activate_cut)},
    )


# --- staging first ------------------------------------------------------------------------------------


def test_everybody_stages_before_anybody_activates() -> None:
    before = plan(stage="first", **NOW)
    rollout, done = advance(before, Start(), START)
    assert (rollout.state, rollout.wave, rollout.reason, rollout.approved) == (S.RUNNING, 0, STAGING, 30)
    assert before.approved == 0 and not before.staging and rollout.staging  # noqa: PT018
    assert events_of(done)[Event.BATCH_STARTED] == {"batch_index": 0, "device_count": 30, "phase": "stage"}
    assert PublishDesired() in done
    assert PublishProgress() in done
    assert admitted(rollout) == (set(NAMES), set())
    nearly = go(rollout, *(says(device, T.STAGED) for device in NAMES[1:]))
    assert nearly.wave == 0
    assert nearly.devices[NAMES[1]].terminal is T.STAGED
    opened, done = advance(nearly, says(NAMES[0], T.STAGED), START + 5)
    assert (opened.state, opened.wave, opened.reason, opened.staging) == (S.RUNNING, 1, "", False)
    assert Event.BATCH_COMPLETED not in events_of(done), "no batch has activated"
    assert events_of(done)[Event.BATCH_STARTED] == {"batch_index": 1, "device_count": 3}
    first = [d for d in NAMES if opened.devices[d].wave == 1]
    assert admitted(opened) == (set(NAMES), set(first))
    again = opened.devices[first[0]]
    assert (again.terminal, again.since, again.ended, again.code, again.reason) == (
        T.PENDING,
        START + 5,
        None,
        "",
        "",
    )
    assert opened.devices[next(d for d in NAMES if d not in first)].terminal is T.STAGED


def test_who_stages_late_is_no_news_once_its_wave_is_open() -> None:
    opened = staged(running(stage="first", **NOW))
    device = awaited(opened)[0]
    after = go(opened, says(device, T.STAGED))
    assert after.devices[device].terminal is T.PENDING
    done = go(after, healthy(device))
    assert go(done, says(device, T.STAGED)).devices[device].terminal is T.HEALTHY


def test_a_staging_in_which_nobody_stages_trips() -> None:
    rollout = go(running(stage="first", breaker=0), *(failed(device) for device in NAMES))
    assert (rollout.state, rollout.reason) == (S.TRIPPED, "the staging ended without a success")
    with pytest.raises(IllegalTransition, match="the staging has no success"):
        go(rollout, Decide(Decision.CONTINUE))
    assert go(running(stage="first"), failed("dev-000")).reason == "1 failed while staging, limit 1"


def test_who_was_silent_while_staging_is_asked_again_by_its_wave() -> None:
    rollout = running(stage="first", **NOW)
    first = [d for d in NAMES if rollout.devices[d].wave == 1]
    late = go(rollout, *(says(device, T.STAGED) for device in NAMES if device != first[0]))
    opened = go(late, Tick(), at=START + 300)
    assert opened.wave == 1
    assert opened.devices[first[0]].terminal is T.PENDING
    assert opened.devices[first[0]].since == math.nextafter(START + 300, math.inf)


def test_what_is_only_staged_waits_until_somebody_says_so() -> None:
    rollout = staged(running(stage="only", **NOW))
    assert (rollout.state, rollout.reason, rollout.wave) == (S.PAUSED, AWAITS_ACTIVATION, 0)
    one = target(rollout)
    assert one is not None
    assert not one.hold, "what is staged stays, and whoever is not yet, stages"
    assert admitted(rollout) == (set(NAMES), set())
    with pytest.raises(IllegalTransition, match="nobody activates before"):
        go(rollout, Resume())
    assert go(rollout, Approve()) is rollout
    opened, done = advance(rollout, Activate("ann"), START + 9)
    assert (opened.state, opened.wave, opened.unheld, opened.resume_to) == (S.RUNNING, 1, START + 9, None)
    assert events_of(done)[Event.ROLLOUT_RESUMED] == {"by": "ann"}
    assert Event.BATCH_STARTED in events_of(done)


def test_who_joins_while_others_stage_stages_too() -> None:
    rollout = running(stage="first")
    joined = go(rollout, Joined("dev-900", "hall"), at=START + 1)
    assert joined.devices["dev-900"].since == (START + 1 if joined.devices["dev-900"].wave else None)
    assert go(plan(stage="first"), Joined("dev-900", "hall")).devices["dev-900"].since is None


def test_canaries_by_name_alone_stage_when_they_activate() -> None:
    order = [member.device for member in plan().cohort]
    names = (order[0], order[-1], order[-2])
    rollout = running(stage="first", include=names, waves=(3, 10), **NOW)
    asks = {device for device in NAMES if rollout.devices[device].since is not None}
    assert admitted(rollout)[0] == asks
    assert order[0] in asks
    assert not {order[-1], order[-2]} & asks
    opened = staged(rollout)
    assert opened.wave == 1
    assert {device for device in names if opened.devices[device].since is not None} == set(names)
    away = go(rollout, Left(order[-1]))
    assert go(away, Joined(order[-1], "hall")).devices[order[-1]].since is None


# --- words --------------------------------------------------------------------------------------------


def test_each_wave_behind_the_first_waits_for_an_approval() -> None:
    rollout = all_healthy(running(each_wave=True, **NOW))
    assert (rollout.state, rollout.reason, rollout.wave) == (S.PAUSED, AWAITS_APPROVAL, 1)
    assert rollout.resume_to is S.RUNNING
    one = target(rollout)
    assert one is not None
    assert not one.hold
    assert go(rollout, Activate("ann")) is rollout
    assert go(rollout, Bless()) is rollout
    with pytest.raises(IllegalTransition, match="awaits approval"):
        go(rollout, Resume())
    opened, done = advance(rollout, Approve(), START + 7)
    assert (opened.state, opened.wave, opened.from_wave, opened.unheld) == (S.RUNNING, 2, 2, START + 7)
    assert events_of(done)[Event.ROLLOUT_APPROVED] == {"batch_index": 2}
    assert events_of(done)[Event.BATCH_STARTED] == {"batch_index": 2, "device_count": 12}
    assert [d for d in NAMES if opened.devices[d].since == START + 7] == [
        d for d in NAMES if opened.devices[d].wave == 2
    ]


def test_a_wave_that_everybody_has_passed_already_waits_for_the_approval_of_the_next() -> None:
    rollout = all_healthy(running(each_wave=True, **NOW))
    second = [d for d in NAMES if rollout.devices[d].wave == 2]
    there = go(rollout, *(says(device, None, NEW) for device in second))
    again, done = advance(there, Approve(), START)
    assert (again.state, again.reason, again.wave) == (S.PAUSED, AWAITS_APPROVAL, 2)
    assert events_of(done)[Event.ROLLOUT_PAUSED] == {"by": "manager", "reason": AWAITS_APPROVAL}


def test_a_blessing_lets_go_on_what_waits_for_it_alone() -> None:
    rollout = all_healthy(running(canary=True, **NOW))
    assert (rollout.state, rollout.reason, rollout.wave) == (S.PAUSED, AWAITS_BLESSING, 1)
    one = target(rollout)
    assert one is not None
    assert one.hold
    opened, done = advance(rollout, Bless(), START + 3)
    assert (opened.state, opened.wave, opened.canary, opened.unheld) == (S.RUNNING, 2, False, START + 3)
    assert {Event.ROLLOUT_RESUMED, Event.BATCH_STARTED} <= events_of(done).keys()
    assert PublishDesired() in done
    assert PublishProgress() in done
    assert go(running(canary=True), Bless()).canary is False
    assert go(opened, Bless()) is opened


@pytest.mark.parametrize(
    ("form", "reason"),
    [({"each_wave": True}, AWAITS_APPROVAL), ({"stage": "only"}, AWAITS_ACTIVATION)],
)
def test_a_blessing_is_neither_an_approval_nor_the_word_to_activate(
    form: dict[str, Any], reason: str
) -> None:
    rollout = running(canary=True, **form, **NOW)
    rollout = staged(rollout) if "stage" in form else all_healthy(rollout)
    assert rollout.reason == AWAITS_BLESSING
    blessed, done = advance(rollout, Bless(), START)
    assert (blessed.state, blessed.reason, blessed.wave) == (S.PAUSED, reason, rollout.wave)
    waited = [row["for"] for of in (rollout, blessed) if (row := waits(of))]
    assert waited == ["blessing", "approval" if "each_wave" in form else "activation"]
    assert not blessed.canary
    assert Event.ROLLOUT_RESUMED not in events_of(done)
    assert PublishDesired() in done


# --- how many may fail, how many must not -------------------------------------------------------------


def test_the_limit_of_failures_is_a_share_of_those_who_were_asked() -> None:
    rollout = running(waves=(10, 30), breaker=0, failure_percent=20)
    names = exposed(rollout)
    fair = go(rollout, failed(names[0]), failed(names[1]))
    assert fair.state is S.RUNNING, "20 of 100 are not more than 20"
    tripped = go(fair, failed(names[2]))
    assert (tripped.state, tripped.reason) == (S.TRIPPED, "3 of 10 failed in wave 1, limit 20 %")
    on = go(tripped, Decide(Decision.CONTINUE))
    assert on.state is S.RUNNING, "what somebody has decided upon is forgiven"
    assert go(on, failed(names[3]), failed(names[4])).state is S.RUNNING
    assert go(on, *(failed(name) for name in names[3:6])).state is S.TRIPPED


def test_the_breaker_of_batches_counts_failures_in_a_row() -> None:
    rollout = running(waves=(10, 30), breaker=2, consecutive=True)
    names = exposed(rollout)
    between = go(rollout, failed(names[0]), healthy(names[1]), failed(names[2]))
    assert (between.state, between.streak) == (S.RUNNING, 1)
    assert go(between, failed(names[2])).streak == 1, "said twice, counted once"
    assert go(between, says(names[4], T.ACTIVE)).streak == 1
    tripped = go(between, failed(names[3]))
    assert (tripped.state, tripped.reason) == (S.TRIPPED, "2 failed one after another in wave 1, limit 2")
    on = go(tripped, Decide(Decision.CONTINUE))
    assert (on.state, on.streak) == (S.RUNNING, 0)
    again = go(tripped, Retry())
    assert (again.state, again.streak, again.failures_before) == (S.RUNNING, 0, 0)
    none = go(running(waves=(10, 30), breaker=0, consecutive=True), *(failed(n) for n in names[:3]))
    assert none.state is S.RUNNING


def test_a_wave_needs_as_many_successes_as_were_asked_for() -> None:
    rollout = running(waves=(3, 30), breaker=0, min_successes=2, **NOW)
    one, two, three = exposed(rollout)
    poor = go(rollout, healthy(one), failed(two), failed(three))
    assert (poor.state, poor.reason) == (S.TRIPPED, "wave 1 ended with fewer than 2 successes")
    assert go(rollout, healthy(one), healthy(two), failed(three)).wave == 2
    small = running(waves=(1, 30), breaker=0, min_successes=2, **NOW)
    assert go(small, healthy(exposed(small)[0])).wave == 2, "no more than there are"


# --- who is away, for how long, and what is left in the end -------------------------------------------


def test_nobody_waits_for_who_is_offline_where_that_was_asked_for() -> None:
    rollout = running(skip_offline=True, **NOW)
    one, two, three = exposed(rollout)
    rollout = go(rollout, says(two, T.ACTIVE), healthy(three))
    after, done = advance(rollout, Away(frozenset({one, two, "dev-029", "nobody"})), START + 4)
    record = after.devices[one]
    assert (record.terminal, record.reason, record.ended) == (T.SILENT, AWAY, START + 4)
    assert after.devices[two].terminal is T.ACTIVE, "it is at work"
    assert after.devices["dev-029"].terminal is T.PENDING
    assert PublishProgress() in done
    assert go(after, Away(frozenset({one}))) is after
    assert go(after, healthy(two)).wave == 2


def test_a_rollout_lives_no_longer_than_it_may() -> None:
    rollout = running(lives_until=START + 200)
    assert next_deadline(rollout) == START + 200
    assert isinstance(due(rollout, START + 199), Tick)
    assert isinstance(due(rollout, START + 200), Expire)
    back = go(rollout, says(exposed(rollout)[0], T.ACTIVE), Decide(Decision.ROLLBACK))
    assert isinstance(due(back, START + 500), Tick), "a way back is gone to its end"
    assert next_deadline(plan(lives_until=START + 200)) == START + 200


def test_who_brings_everybody_back_leaves_no_way_forward() -> None:
    rollout = running(waves=(30,), withdraws=OLD, **NOW)
    names = awaited(rollout)
    nearly = go(rollout, *(healthy(name) for name in names[1:]))
    after, done = advance(nearly, healthy(names[0]), START)
    assert after.state is S.COMPLETED
    assert Withdraw(OLD) in done
    assert SetBaseline(GOAL.model_copy(update={"mode": "at_least"})) in done
    few = running(waves=(3,), withdraws=OLD, **NOW)
    names = awaited(few)
    _, done = advance(go(few, *(healthy(name) for name in names[1:])), healthy(names[0]), START)
    assert Withdraw(OLD) in done
    assert not [effect for effect in done if isinstance(effect, SetBaseline | Stand)]


# --- named devices ------------------------------------------------------------------------------------


def test_named_devices_are_asked_by_name_and_nobody_else() -> None:
    few = DEVICES[:6]
    rollout = running(devices=few, waves=(2, 6), listed=True, **NOW)
    one = target(rollout)
    assert one is not None
    assert set(one.include) == set(exposed(rollout))
    assert len(one.include) == 2
    assert one.stage_cut == one.activate_cut == admission.NOBODY
    assert go(rollout, Joined("dev-900", "hall")) is rollout
    assert rollout.restricted
    assert rollout.wave_of("dev-900") == 0
    assert rollout.wave_of(few[0][0]) == rollout.devices[few[0][0]].wave
    wide = all_healthy(rollout)
    both = target(wide)
    assert both is not None
    assert set(both.include) == {device for device, _ in few}
    before = target(go(rollout, Left("dev-000")))
    assert before is not None


def test_canaries_are_the_first_wave_by_name() -> None:
    names = ("dev-020", "dev-007")
    rollout = plan(include=names, waves=(2, 10, 30))
    assert [member.device for member in rollout.cohort][:2] == sorted(
        names, key=lambda name: (admission.position("r-1", name), name)
    )
    assert {d for d in NAMES if rollout.devices[d].wave == 1} == set(names)
    assert all(rollout.wave_of(name) == 1 for name in names)
    started = go(rollout, Start())
    one = target(started)
    assert one is not None
    assert set(one.include) == set(names)
    assert set(exposed(started)) == set(names)
    moved = started.with_member("dev-007", "hall")
    assert {member.device for member in moved.cohort[:2]} == set(names), "in the order of admission still"

"""The table of transitions, planning and starting, revisions and effects of a rollout."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from tests.manager.rollouts import (
    DEVICES,
    IN_STATE,
    NEW,
    SAMPLES,
    START,
    S,
    all_healthy,
    events_of,
    exposed,
    failed,
    go,
    healthy,
    plan,
    running,
    settling,
    terminals,
    tripped,
)

from fleetfoot_manager import effects, rollout_events
from fleetfoot_manager.effects import (
    Effect,
    Emit,
    Lift,
    PublishDesired,
    PublishProgress,
)
from fleetfoot_manager.rollout import (
    TRANSITIONS,
    Approve,
    Cancel,
    Decide,
    Decision,
    IllegalTransition,
    Kind,
    Pause,
    Report,
    Rollout,
    RolloutEvent,
    Start,
    Tick,
    advance,
    next_deadline,
    target,
)
from fleetfoot_protocol import admission
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.states import RolloutState

PAIRS = [
    pytest.param(state, kind, id=f"{state}-{getattr(kind, '__name__', kind)}")
    for state in S
    for kind in SAMPLES
]


def test_the_table_has_a_row_for_every_state_and_the_samples_a_line_for_every_event() -> None:
    assert set(TRANSITIONS) == set(RolloutState) == set(IN_STATE)
    kinds = set(get_args(rollout_events.RolloutEvent)) - {Decide} | set(Decision)
    assert set(SAMPLES) == kinds
    assert {kind for row in TRANSITIONS.values() for kind in row} == kinds


def word(kind: Kind) -> str:
    return str(kind) if isinstance(kind, Decision) else kind.__name__.lower()


def test_each_state_takes_these_events_and_no_other() -> None:
    taken = {state: " ".join(sorted(map(word, row))) for state, row in TRANSITIONS.items()}
    assert taken == {
        S.AWAITING_APPROVAL: "approve bless cancel expire joined left report supersede",
        S.PLANNED: "bless cancel expire joined left report start supersede",
        S.RUNNING: "away bless cancel expire joined left pause report retry rollback supersede tick",
        S.SETTLING: "bless cancel expire joined left pause report rollback supersede tick",
        S.PAUSED: (
            "activate approve bless cancel expire joined left report resume retry rollback supersede tick"
        ),
        S.TRIPPED: "abort bless cancel continue expire joined left report retry rollback supersede tick",
        S.ROLLING_BACK: "bless joined left report tick",
        **dict.fromkeys(
            (S.COMPLETED, S.ROLLED_BACK, S.ABORTED, S.CANCELED, S.EXPIRED, S.SUPERSEDED), "report"
        ),
    }


def test_a_step_that_leads_where_the_table_does_not_say_is_a_mistake_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = TRANSITIONS[S.PLANNED][Start]
    monkeypatch.setitem(TRANSITIONS[S.PLANNED], Start, replace(step, leads_to=frozenset({S.PAUSED})))
    with pytest.raises(AssertionError, match=r"planned -> running by Start\(\) is not in the table"):
        advance(plan(), Start(), START)


@pytest.mark.parametrize("state", list(RolloutState))
def test_an_ended_rollout_takes_nothing_but_late_reports(state: RolloutState) -> None:
    assert state.ended == (set(TRANSITIONS[state]) == {Report})


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_a_pair_in_the_table_leads_where_it_says_and_any_other_is_refused(
    state: RolloutState, kind: Kind
) -> None:
    rollout = IN_STATE[state]()
    before = json.dumps(rollout.to_json())
    assert rollout.state is state
    step = TRANSITIONS[state].get(kind)
    if step is None:
        with pytest.raises(IllegalTransition) as refused:
            advance(rollout, SAMPLES[kind], START + 1)
        assert refused.value.code == "state_refused"
        assert str(state) in refused.value.message
    else:
        after, _ = advance(rollout, SAMPLES[kind], START + 1)
        assert after.state in step.leads_to
    assert json.dumps(rollout.to_json()) == before


def test_every_state_is_entered_but_the_one_that_only_a_plan_brings() -> None:
    entered = {
        after
        for before, row in TRANSITIONS.items()
        for step in row.values()
        for after in step.leads_to
        if after is not before
    }
    assert entered == set(RolloutState) - {S.AWAITING_APPROVAL}


def test_before_the_start_no_target_stands_and_no_time_runs() -> None:
    for rollout in (plan(), plan(approval=True), go(plan(approval=True), Approve())):
        assert target(rollout) is None
        assert next_deadline(rollout) is None
        assert exposed(rollout) == []


def test_a_rollout_that_awaits_approval_starts_only_when_approved() -> None:
    waiting = plan(approval=True)
    with pytest.raises(IllegalTransition):
        advance(waiting, Start(), START)
    approved, done = advance(waiting, Approve(), START)
    assert list(events_of(done)) == [Event.ROLLOUT_APPROVED]
    assert go(approved, Start()).state is S.RUNNING


def test_the_start_lifts_publishes_and_tells_in_this_order() -> None:
    rollout, done = advance(plan(), Start(), START)
    assert done == (
        Lift(NEW),
        PublishDesired(),
        PublishProgress(),
        Emit(
            Event.ROLLOUT_STARTED,
            {"version": "1.1.0", "digest": NEW, "device_count": 30, "waves": [3, 15, 30]},
        ),
        Emit(Event.BATCH_STARTED, {"batch_index": 1, "device_count": 3}),
    )
    assert (rollout.state, rollout.wave, rollout.started) == (S.RUNNING, 1, START)
    assert terminals(rollout) == {"pending": 30}
    assert {rollout.devices[device].since for device in exposed(rollout)} == {START}


def test_ten_fifty_and_a_hundred_percent_of_thirty_in_two_groups_admit_exactly_3_15_and_30() -> None:
    shares = admission.wave_sizes(["10%", "50%", "100%"], 30)
    rollout = running(waves=shares, settle=0.0)
    seen = []
    while rollout.state is S.RUNNING:
        stands = target(rollout)
        assert stands is not None
        admitted = {d for d, _ in DEVICES if admission.admitted(stands, d, {}, stands.activate_cut)}
        assert admitted == set(exposed(rollout))
        assert stands.stage_cut == stands.activate_cut
        seen.append(len(admitted))
        rollout = all_healthy(rollout)
    assert seen == [3, 15, 30]
    assert rollout.state is S.COMPLETED


def test_the_last_wave_over_everybody_says_all() -> None:
    assert getattr(target(running(waves=(30,))), "stage_cut", None) == "all"
    short = target(running(waves=(29,)))
    assert short is not None
    assert short.stage_cut != "all"


def test_devices_beyond_the_last_wave_are_skipped_and_never_exposed() -> None:
    rollout = running(waves=(3,), settle=0.0)
    assert terminals(rollout) == {"pending": 3, "skipped": 27}
    done = all_healthy(rollout)
    assert done.state is S.COMPLETED
    assert len(exposed(done)) == 3


def test_the_revision_steered_on_changes_with_state_wave_and_attempt_and_not_with_reports() -> None:
    rollout = running()
    assert rollout.steered == rollout.revision == 2
    told = go(rollout, healthy(exposed(rollout)[0]))
    assert (told.revision, told.steered) == (3, 2)
    for event in (Pause("ann"), Cancel()):
        after = go(told, event)
        assert after.steered == after.revision == 4


def every_effect() -> list[Effect]:
    found: list[Effect] = []
    acts: list[tuple[Rollout, RolloutEvent]] = [
        (plan(), Start()),
        (tripped(), Decide(Decision.ROLLBACK)),
        (settling(waves=(30,)), Tick()),
        (settling(waves=(3,), selector={"site": "north"}), Tick()),
    ]
    for rollout, event in acts:
        found += advance(rollout, event, START + 60)[1]
    rollout = running()
    return found + list(advance(rollout, failed(exposed(rollout)[0]), START)[1])


def test_every_effect_is_produced_and_comes_back_from_json() -> None:
    found = every_effect()
    assert {type(effect) for effect in found} == set(effects.KINDS.values()) == set(get_args(effects.Effect))
    for effect in found:
        assert effects.from_json(json.loads(json.dumps(effects.to_json(effect)))) == effect


def test_intent_goes_before_documents_before_progress_before_events() -> None:
    rank = {kind: place for place, kind in enumerate(effects.KINDS.values())}
    for rollout in IN_STATE.values():
        for kind in TRANSITIONS[rollout().state]:
            _, done = advance(rollout(), SAMPLES[kind], START + 400)
            ranks = [rank[type(effect)] for effect in done]
            assert ranks == sorted(ranks)
            assert done.count(PublishDesired()) <= 1
            assert done.count(PublishProgress()) <= 1

"""The life of an upgrade: the table says what `step` does, and nothing else happens."""

import itertools
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetfoot_agent.worker import lifecycle
from fleetfoot_agent.worker.journal import read_record, record_bytes
from fleetfoot_agent.worker.lifecycle import TRANSIENT, TRANSITIONS, IllegalTransition, Step, step
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
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import MAX_OUTCOMES, MAX_REFUSED, CheckResult, Installed
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle, Outcome

L = Lifecycle
NOW = 1_800_000_000


def digest(number: int) -> str:
    return f"{number:064x}"


def goal(number: int = 2, attempt: int = 1) -> Goal:
    return Goal(version=f"1.{number}.0", counter=number, digest=digest(number), length=10, attempt=attempt)


def installed(number: int) -> Installed:
    return Installed(version=f"1.{number}.0", counter=number, digest=digest(number))


def name(number: int) -> str:
    return f"1.{number}.0-{digest(number)[:8]}"


def working(state: Lifecycle, **work: Any) -> Record:
    """A record in `state` that runs 1.1.0, has 1.0.0 to go back to, and works on 1.2.0."""
    facts = {"act": Act.INSTALL, "goal": goal(), "rollout": "r-1", "name": name(2), "old": name(1)}
    return Record(
        state=state,
        run=installed(1),
        prev=Installed(version="1.0.0", counter=1, digest=digest(100)),
        floor=1,
        work=None if state is L.IDLE else Work(**{**facts, **work}),
    )


#: For each event one that is as harmless as can be.
EXAMPLES: dict[type, tuple[StepEvent, ...]] = {
    Begin: (Begin(Act.INSTALL, goal(), "r-1", name(2), name(1)),),
    Reorder: (Reorder(Act.STAGE, goal(), "r-2"),),
    Permit: (Permit(2, False), Permit(2, True)),
    Fetched: (Fetched(),),
    Checked: (Checked(),),
    Unpacked: (Unpacked(),),
    Told: (Told(),),
    Activate: (Activate(name(1)),),
    Swapped: (Swapped(),),
    Healthy: (Healthy(),),
    Unwell: (Unwell(Code.UPGRADE_BOOT_FAILED, "it died"),),
    Recalled: (Recalled(),),
    WayBackProven: (WayBackProven(),),
    WayBackFailed: (WayBackFailed("it is not well either"),),
    Abandon: (Abandon(), Abandon(Code.UPGRADE_CANCELED)),
    Fail: (
        Fail(Event.UPGRADE_DOWNLOAD_FAILED, Code.UPGRADE_DOWNLOAD_FAILED, "gone"),
        Fail(Event.UPGRADE_VERIFY_FAILED, Code.UPGRADE_TREE_MISMATCH, "changed"),
    ),
}
PAIRS = list(itertools.product(L, EXAMPLES))


def test_the_examples_are_all_events_there_are() -> None:
    assert set(EXAMPLES) == set(get_args(StepEvent))


@pytest.mark.parametrize(("state", "kind"), PAIRS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_table_is_what_step_does(state: Lifecycle, kind: type) -> None:
    record = working(state)
    before = record.model_dump_json()
    led = set()
    for event in EXAMPLES[kind]:
        if (state, kind) in TRANSITIONS:
            led.add(step(record, event, NOW)[0].state)
        else:
            with pytest.raises(IllegalTransition) as caught:
                step(record, event, NOW)
            assert caught.value.code == Code.UPGRADE_INTERNAL
            assert kind.__name__ in caught.value.message
    assert record.model_dump_json() == before
    assert led == set(TRANSITIONS.get((state, kind), ()))


def test_a_handler_that_would_leave_the_table_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lifecycle.TRANSITIONS, (L.WAITING, Permit), (L.STAGED,))
    with pytest.raises(IllegalTransition):
        step(working(L.WAITING), Permit(1, present=False), NOW)


@pytest.mark.parametrize("state", [L.WAITING, L.DOWNLOADING, L.VERIFYING, L.STAGING, L.STAGED])
def test_before_activation_work_can_be_ordered_anew_dropped_and_fail(state: Lifecycle) -> None:
    assert state in lifecycle.BEFORE_ACTIVATION
    assert {kind for at, kind in TRANSITIONS if at is state} >= {Reorder, Abandon, Fail}


def test_who_stays_resident_and_who_reads_blobs_is_written_out() -> None:
    assert {L.ACTIVATING, L.PROBATION, L.ROLLING_BACK} == lifecycle.IN_FLIGHT
    assert {L.DOWNLOADING, L.VERIFYING, L.STAGING} == lifecycle.NEEDS_BLOBS


def test_a_record_that_says_at_work_but_not_on_what_is_a_defect() -> None:
    with pytest.raises(FleetfootError) as caught:
        step(Record(state=L.STAGING), Unpacked(), NOW)
    assert caught.value.code == Code.UPGRADE_INTERNAL


def test_work_is_there_exactly_when_something_is_done() -> None:
    for (state, kind), _ in TRANSITIONS.items():
        for event in EXAMPLES[kind]:
            done, _ = step(working(state), event, NOW)
            assert (done.work is None) == (done.state is L.IDLE)


# -- what each event does


def said(result: Step) -> list[tuple[Event, Code | None]]:
    return [(say.event, say.code) for say in result[1]]


def test_beginning_notes_the_order_and_says_nothing_yet() -> None:
    record, told = step(working(L.IDLE), EXAMPLES[Begin][0], NOW)
    assert record.work == Work(act=Act.INSTALL, goal=goal(), rollout="r-1", name=name(2), old=name(1))
    assert told == ()


def test_the_start_is_told_once_policy_permits_it() -> None:
    result = step(working(L.WAITING), Permit(7, present=False), NOW)
    assert result[0].work is not None
    assert result[0].work.min_counter == 7
    assert said(result) == [(Event.UPGRADE_STARTED, None)]
    assert result[1][0].data == {"version": "1.2.0", "digest": digest(2), "attempt": 1}


@pytest.mark.parametrize(
    ("state", "event", "told"),
    [
        (L.DOWNLOADING, Fetched(), [Event.UPGRADE_DOWNLOADED]),
        (L.VERIFYING, Checked(), []),
        (L.STAGING, Unpacked(), [Event.UPGRADE_VERIFIED, Event.UPGRADE_STAGED]),
        (L.ACTIVATING, Swapped(), [Event.UPGRADE_ACTIVATED]),
        (L.PROBATION, Healthy(), [Event.UPGRADE_HEALTH_CHECK, Event.UPGRADE_COMPLETED]),
    ],
)
def test_each_stage_that_is_done_is_told(state: Lifecycle, event: StepEvent, told: list[Event]) -> None:
    assert said(step(working(state), event, NOW)) == [(name, None) for name in told]


def test_a_stage_only_order_ends_as_staged_and_can_still_be_activated() -> None:
    told, _ = step(working(L.STAGED, act=Act.STAGE), Told(), NOW)
    assert told.outcomes[-1].outcome is Outcome.STAGED
    assert told.outcomes[-1].running == digest(1)
    assert told.work is not None
    assert told.work.told
    ordered, _ = step(told, Reorder(Act.INSTALL, goal(), "r-1"), NOW)
    assert ordered.work is not None
    assert ordered.work.act is Act.INSTALL
    assert ordered.work.told  # the same order, wider: its staging is not told again
    active, _ = step(ordered, Activate(name(1)), NOW)
    assert active.state is L.ACTIVATING


@pytest.mark.parametrize(("rollout", "attempt"), [("r-2", 1), ("r-1", 2), (None, 1)])
def test_another_rollout_or_attempt_is_told_anew(rollout: str | None, attempt: int) -> None:
    record = working(L.STAGED, act=Act.STAGE, told=True)
    done, _ = step(record, Reorder(Act.STAGE, goal(attempt=attempt), rollout), NOW)
    assert done.work is not None
    assert not done.work.told
    assert (done.work.rollout, done.work.goal.attempt) == (rollout, attempt)


def test_the_way_back_is_what_runs_when_activation_begins() -> None:
    done, told = step(working(L.STAGED, old=None), Activate(name(1)), NOW)
    assert done.work is not None
    assert done.work.old == name(1)
    assert told == ()


def test_commit_moves_the_way_back_raises_the_floor_and_forgives() -> None:
    record = working(L.PROBATION, min_counter=5).model_copy(
        update={
            "refused": {digest(2): 1, digest(9): 4},
            "retry": Retry(digest=digest(2), attempt=1, tries=1, at=9),
        }
    )
    done, _ = step(record, Healthy(), NOW)
    assert (done.run, done.prev, done.floor) == (installed(2), installed(1), 5)
    assert done.refused == {digest(9): 4}
    assert (done.last_error, done.retry) == (None, None)
    entry = done.outcomes[-1]
    assert (entry.rollout, entry.attempt, entry.digest, entry.running) == ("r-1", 1, digest(2), digest(2))
    assert (entry.outcome, entry.code) == (Outcome.COMPLETED, "")


def test_a_lower_min_counter_does_not_lower_the_floor() -> None:
    assert step(working(L.PROBATION, min_counter=0), Healthy(), NOW)[0].floor == 1


def test_a_return_leaves_no_way_back_to_what_was_left() -> None:
    done, _ = step(working(L.PROBATION, act=Act.RETURN), Healthy(), NOW)
    assert (done.run, done.prev) == (installed(2), None)


@pytest.mark.parametrize("state", [L.ACTIVATING, L.PROBATION])
def test_what_is_not_well_is_left_and_refused_at_this_attempt(state: Lifecycle) -> None:
    event = Unwell(Code.UPGRADE_HEALTH_FAILED, "it answers 500")
    back, told = step(working(state, goal=goal(attempt=3)), event, NOW)
    assert back.state is L.ROLLING_BACK
    assert back.last_error is not None
    assert (back.last_error.code, back.last_error.message) == (event.code, event.message)
    assert [say.event for say in told] == [Event.UPGRADE_HEALTH_CHECK, Event.UPGRADE_HEALTHCHECK_FAILED]
    assert told[0].data["healthy"] is False
    done, told = step(back, WayBackProven(), NOW)
    assert done.refused == {digest(2): 3}
    assert (done.run, done.prev) == (installed(1), back.prev)
    entry = done.outcomes[-1]
    assert (entry.outcome, entry.code) == (Outcome.ROLLED_BACK, "upgrade_health_failed")
    assert entry.running == digest(1)
    assert said((done, told)) == [(Event.UPGRADE_ROLLED_BACK, Code.UPGRADE_ROLLED_BACK)]
    assert told[0].data["cause"] == "upgrade_health_failed"


def test_a_refusal_never_falls_back_to_a_lower_attempt() -> None:
    record = working(L.ROLLING_BACK, cause=Code.UPGRADE_BOOT_FAILED)
    record = record.model_copy(update={"refused": {digest(2): 5}})
    assert step(record, WayBackProven(), NOW)[0].refused == {digest(2): 5}


@pytest.mark.parametrize("state", [L.ACTIVATING, L.PROBATION])
@pytest.mark.parametrize("end", [WayBackProven(), WayBackFailed("dead")])
def test_what_was_recalled_is_not_held_against_the_release(state: Lifecycle, end: StepEvent) -> None:
    back, told = step(working(state), Recalled(), NOW)
    assert told == ()
    done, _ = step(back, end, NOW)
    assert done.refused == {}
    assert (done.outcomes[-1].outcome, done.outcomes[-1].code) == (Outcome.CANCELED, "upgrade_canceled")


def test_what_fails_once_more_is_the_newest_refusal() -> None:
    """By their order the oldest make room: one that fails again and again must not be the first to go."""
    record = working(L.STAGING, goal=goal(attempt=2)).model_copy(
        update={"refused": {digest(2): 1, digest(9): 1}}
    )
    assert list(fail(record, Code.UPGRADE_TREE_MISMATCH).refused.items()) == [(digest(9), 1), (digest(2), 2)]


def test_two_bad_versions_are_an_alarm() -> None:
    record = working(L.ROLLING_BACK, cause=Code.UPGRADE_BOOT_FAILED)
    result = step(record, WayBackFailed("it does not start"), NOW)
    both = Code.UPGRADE_BOTH_BAD
    assert said(result) == [(Event.UPGRADE_ROLLBACK_FAILED, both), (Event.ALARM, both)]
    assert result[0].last_error is not None
    assert result[0].last_error.code == both
    assert result[0].outcomes[-1].outcome is Outcome.ROLLED_BACK
    assert result[0].refused == {digest(2): 1}


def test_abandoned_work_leaves_no_trace() -> None:
    for state in lifecycle.BEFORE_ACTIVATION:
        before = working(state)
        done, told = step(before, Abandon(), NOW)
        assert done == before.model_copy(update={"state": L.IDLE, "work": None})
        assert told == ()


@pytest.mark.parametrize("state", sorted(lifecycle.BEFORE_ACTIVATION))
def test_who_heard_that_work_started_hears_that_another_order_ended_it(state: Lifecycle) -> None:
    result = step(working(state), Abandon(Code.UPGRADE_SUPERSEDED), NOW)
    heard = state is not L.WAITING
    assert said(result) == ([(Event.UPGRADE_DEFERRED, Code.UPGRADE_SUPERSEDED)] if heard else [])


def test_what_was_only_to_be_staged_has_ended_before_its_order_goes() -> None:
    staged = step(working(L.STAGED), Told(), NOW)[0]
    assert step(staged, Abandon(Code.UPGRADE_CANCELED), NOW)[1] == ()


# -- failures


def fail(record: Record, code: Code, now: int = NOW) -> Record:
    return step(record, Fail(Event.UPGRADE_INSTALL_FAILED, code, "why"), now)[0]


@pytest.mark.parametrize("code", sorted(set(Code) - TRANSIENT))
def test_a_permanent_failure_is_refused_at_this_attempt(code: Code) -> None:
    done = fail(working(L.STAGING, goal=goal(attempt=2)), code)
    assert done.refused == {digest(2): 2}
    assert done.retry is None
    assert (done.outcomes[-1].outcome, done.outcomes[-1].code) == (Outcome.FAILED, str(code))


def test_want_of_network_or_disk_or_an_owner_is_no_fault_of_the_release() -> None:
    """Written out once more: by a code that is missing here a release would be refused for a cut cable."""
    assert sorted(TRANSIENT) == [
        "upgrade_disk_full",
        "upgrade_download_failed",
        "upgrade_download_slow",
        "upgrade_hook_failed",
        "upgrade_io_error",
        "upgrade_read_only",
        "upgrade_tls_failed",
    ]


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_a_transient_failure_is_tried_again_later_and_later(code: Code) -> None:
    record, waits = Record(run=installed(1)), []
    for tries in range(1, 10):
        record = step(record, EXAMPLES[Begin][0], NOW)[0]
        record = fail(record, code)
        assert record.refused == {}
        assert record.retry is not None
        assert (record.retry.digest, record.retry.attempt, record.retry.tries) == (digest(2), 1, tries)
        waits.append(record.retry.at - NOW)
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_another_release_begins_to_wait_from_the_start() -> None:
    record = working(L.WAITING).model_copy(
        update={"retry": Retry(digest=digest(7), attempt=1, tries=5, at=NOW)}
    )
    done = fail(record, Code.UPGRADE_DISK_FULL)
    assert done.retry == Retry(digest=digest(2), attempt=1, tries=1, at=NOW + 60)


def test_a_failure_is_told_with_its_stage_code_and_cause() -> None:
    event = Fail(Event.UPGRADE_DOWNLOAD_FAILED, Code.UPGRADE_URL_REFUSED, "file:// is no source\x1b[31m")
    record, told = step(working(L.DOWNLOADING), event, NOW)
    assert said((record, told)) == [(Event.UPGRADE_DOWNLOAD_FAILED, Code.UPGRADE_URL_REFUSED)]
    assert record.last_error is not None
    assert record.last_error.message == "file:// is no source?[31m"
    assert record.run == installed(1)


# -- what is remembered is bounded


def test_the_newest_outcomes_are_kept() -> None:
    record = Record(run=installed(1))
    for attempt in range(1, 40):
        begin = Begin(Act.INSTALL, goal(attempt=attempt), "r-1", name(2), name(1))
        record = fail(step(record, begin, NOW)[0], Code.UPGRADE_DOWNLOAD_FAILED)
    assert [o.attempt for o in record.outcomes] == list(range(40 - MAX_OUTCOMES, 40))


def test_the_newest_refusals_are_kept_also_through_the_journal() -> None:
    record = Record(run=installed(1))
    for number in range(1000, 1000 - MAX_REFUSED - 10, -1):
        begin = Begin(Act.INSTALL, goal(number), "r-1", name(number), name(1))
        record = fail(step(record, begin, NOW)[0], Code.UPGRADE_TREE_MISMATCH)
        record = read_record(record_bytes(record))
    newest = range(1000 - 10, 1000 - MAX_REFUSED - 10, -1)
    assert list(record.refused) == [digest(number) for number in newest]


# -- any course at all

GOALS = st.builds(goal, st.integers(1, 90), st.integers(1, 3))
TEXTS = st.text(max_size=300)
ROLLOUTS = st.sampled_from([None, "r-1", "r-2"])
ACTS = st.sampled_from([Act.INSTALL, Act.STAGE, Act.RETURN])
RESULTS = st.lists(
    st.builds(CheckResult, check=st.just("http://127.0.0.1/health"), healthy=st.booleans()), max_size=3
).map(tuple)
EVENTS: dict[type, st.SearchStrategy[Any]] = {
    Begin: st.builds(Begin, ACTS, GOALS, ROLLOUTS, st.just(name(2)), st.sampled_from([None, name(1)])),
    Reorder: st.builds(Reorder, ACTS, GOALS, ROLLOUTS),
    Permit: st.builds(Permit, st.integers(0, 90), st.booleans()),
    Activate: st.builds(Activate, st.sampled_from([None, name(1)])),
    Healthy: st.builds(Healthy, RESULTS),
    Unwell: st.builds(Unwell, st.sampled_from(Code), TEXTS, RESULTS),
    WayBackProven: st.builds(WayBackProven, RESULTS),
    WayBackFailed: st.builds(WayBackFailed, TEXTS),
    Fail: st.builds(Fail, st.just(Event.UPGRADE_INSTALL_FAILED), st.sampled_from(Code), TEXTS),
    **{kind: st.just(EXAMPLES[kind][0]) for kind in EXAMPLES if not EXAMPLES[kind][0].__dataclass_fields__},
    Abandon: st.builds(Abandon, st.sampled_from([None, Code.UPGRADE_CANCELED, Code.UPGRADE_SUPERSEDED])),
}


def walk(data: st.DataObject, record: Record, steps: int) -> Record:
    for _ in range(steps):
        kinds = [kind for state, kind in TRANSITIONS if state is record.state]
        kind = data.draw(st.sampled_from(kinds))
        before = record
        record, told = step(record, data.draw(EVENTS[kind]), NOW)
        assert record.floor >= before.floor
        assert all(say.data["digest"] for say in told)
    return record


@settings(max_examples=40)
@given(st.data())
def test_every_record_that_can_be_reached_survives_the_journal(data: st.DataObject) -> None:
    record = walk(data, Record(), data.draw(st.integers(0, 60)))
    assert read_record(record_bytes(record)) == record
    assert len(record.outcomes) <= MAX_OUTCOMES
    assert len(record.refused) <= MAX_REFUSED
    assert (record.work is None) == (record.state is L.IDLE)

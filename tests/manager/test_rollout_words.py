"""What brings nothing, what is refused in which words, and what stands in the documents."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tests.manager.rollouts import (
    GOAL,
    NEW,
    START,
    S,
    T,
    all_healthy,
    approving,
    awaited,
    canary,
    exposed,
    failed,
    go,
    on_goal,
    only_staged,
    plan,
    rolling_back,
    running,
    says,
    settling,
)

from fleetfoot_manager.rollout import (
    Activate,
    Away,
    Bless,
    Cancel,
    Decide,
    Decision,
    Expire,
    IllegalTransition,
    Joined,
    Left,
    Pause,
    Report,
    Resume,
    Retry,
    Rollout,
    RolloutEvent,
    Start,
    Tick,
    advance,
    due,
    next_deadline,
    target,
)
from fleetfoot_protocol.documents import Target
from fleetfoot_protocol.errors import FleetfootError

LATER = START + 9
NOW: dict[str, Any] = {"settle": 0.0}
BLESSING = "the canary is well; later waves need a blessed release"
APPROVAL = "the next wave awaits approval"
ACTIVATION = "everything is staged; nobody activates before somebody says so"
SETTLED = START + 60
FIRST = plan().cohort[0].device
SHOW = "look at the present state with the matching 'show' command"


def nothing_new() -> Iterable[tuple[Rollout, RolloutEvent, float]]:
    there = on_goal(running(), 3)
    yield running(), Bless(), LATER
    yield running(), Left("dev-999"), LATER
    yield rolling_back(), Left("dev-999"), START + 999
    yield running(), Joined(*running().cohort[0]), LATER
    yield there, says(there.cohort[-1].device, None, NEW), LATER
    yield running(), Tick(), START + 299
    # What came after that moment was not heard yet, and no clock runs ahead.
    yield running(), Tick(START + 299), START + 400
    yield running(), Tick(START + 999), START + 299
    yield settling(), Tick(SETTLED - 1), START + 400
    yield rolling_back(), Tick(START + 299), START + 400


@pytest.mark.parametrize("number", range(10))
def test_what_is_nothing_new_changes_and_does_nothing(number: int) -> None:
    rollout, event, now = [*nothing_new()][number]
    assert advance(rollout, event, now) == (rollout, ())


@pytest.mark.parametrize(
    ("make", "event", "message", "remedy"),
    [
        (plan, Resume(), "rollout r-1 is planned: cannot resume", SHOW),
        (running, Decide(Decision.CONTINUE), "rollout r-1 is running: cannot continue", SHOW),
        (lambda: go(running(), Pause("ann")), Start(), "rollout r-1 is paused: cannot start", SHOW),
        (
            lambda: go(running(), Cancel(APPROVAL)),
            Resume(),
            "rollout r-1 is canceled: cannot resume",
            SHOW,
        ),
        (
            canary,
            Resume(),
            f"rollout r-1 is paused: cannot resume: {BLESSING}",
            "let it go on: 'fleetfoot release promote kiosk 1.1.0 blessed'",
        ),
        (
            approving,
            Resume(),
            f"rollout r-1 is paused: cannot resume: {APPROVAL}",
            "let it go on: 'fleetfoot rollout approve r-1'",
        ),
        (
            only_staged,
            Resume(),
            f"rollout r-1 is paused: cannot resume: {ACTIVATION}",
            "let it go on: 'fleetfoot rollout activate r-1'",
        ),
        (
            lambda: go(running(breaker=0), *map(failed, exposed(running()))),
            Decide(Decision.CONTINUE),
            "rollout r-1 is tripped: cannot continue: wave 1 has no success; retry, roll back or abort",
            SHOW,
        ),
        (
            lambda: go(running(stage="first"), Tick(), at=START + 300),
            Decide(Decision.CONTINUE),
            "rollout r-1 is tripped: cannot continue: the staging has no success; retry, roll back or abort",
            SHOW,
        ),
        (
            running,
            Retry(),
            "rollout r-1 is running: cannot retry: no exposed device has failed or is silent",
            SHOW,
        ),
    ],
)
def test_what_is_refused_says_why_and_what_lets_it_go_on(
    make: Callable[[], Rollout], event: RolloutEvent, message: str, remedy: str
) -> None:
    with pytest.raises(IllegalTransition) as refused:
        advance(make(), event, LATER)
    assert (refused.value.code, refused.value.message, refused.value.remedy) == (
        "state_refused",
        message,
        remedy,
    )


def test_the_document_says_exactly_this() -> None:
    rollout = running(
        devices=[(f"dev-{n}", "hall") for n in range(9)],
        waves=(2, 4),
        stage="first",
        include=(),
        selector={"site": "north"},
    )
    base = Target(
        rollout="r-1",
        goal=GOAL,
        selector={"site": "north"},
        salt="r-1",
        stage_cut=rollout.cuts[1],
        activate_cut="0" * 16,
    )
    assert target(rollout) == base
    opened = go(rollout, *(says(name, T.STAGED) for name in awaited(rollout)))
    opened = go(opened, Tick(), at=SETTLED)
    assert target(opened) == base.model_copy(update={"activate_cut": rollout.cuts[0]})
    assert target(go(opened, Pause("ann"))) == base.model_copy(
        update={"activate_cut": rollout.cuts[0], "hold": True}
    )
    few = running(listed=True, waves=(2, 4), **NOW)
    assert getattr(target(few), "include", ()) == tuple(exposed(few))
    assert len(exposed(few)) == 2, "the others are nobody's yet, or beyond the last wave"


def test_the_shortest_settling_is_one() -> None:
    assert all_healthy(running(settle=1.0)).settle_until == START + 1


def test_what_staged_once_is_not_asked_for_its_word_a_second_time() -> None:
    rollout = all_healthy(go(only_staged(), Activate("ann")))
    rollout = go(rollout, Tick(), at=SETTLED)
    assert (rollout.state, rollout.wave) == (S.RUNNING, 2)


def test_the_staging_passes_by_who_is_there_already() -> None:
    rollout = running(stage="first", breaker=0, **NOW)
    there, *others = exposed(rollout)
    rollout = go(rollout, *map(failed, others), says(there, None, NEW))
    assert (rollout.wave, rollout.reason) == (2, "wave 2 ended without a success")


def test_a_canary_that_proves_nothing_any_more_completes_nothing() -> None:
    rollout = go(running(canary=True, waves=(1, 30)), says(FIRST, None, NEW))
    assert (rollout.state, rollout.passed) == (S.SETTLING, 1)
    rollout = go(rollout, says(FIRST, T.SKIPPED), Tick(), at=SETTLED)
    assert (rollout.state, rollout.reason) == (S.TRIPPED, "wave 1 ended without a success")


def test_time_brings_a_tick_or_the_end() -> None:
    assert due(running(), LATER) == Tick(LATER)
    assert due(running(lives_until=LATER), LATER) == Expire()
    assert next_deadline(go(settling(), Tick(), at=SETTLED)) == SETTLED + 300


def test_the_least_that_can_be_said_says_nothing_more() -> None:
    assert Report("d", None) == Report("d", None, None, "", "", None, None)
    assert (Pause("ann"), Cancel()) == (Pause("ann", ""), Cancel(""))
    assert [str(decision) for decision in Decision] == ["continue", "rollback", "abort"]


@pytest.mark.parametrize(
    ("reason", "why"),
    [("a\nb", "the reason"), ("x" * 161, "the reason is longer than 160 characters")],
)
def test_a_reason_that_progress_could_not_carry_is_refused_in_words(reason: str, why: str) -> None:
    for event in (Pause("ann", reason), Cancel(reason)):
        with pytest.raises(FleetfootError, match=why) as refused:
            advance(running(), event, START)
        assert refused.value.code == "request_invalid"


def test_why_a_rollout_stages_and_why_nobody_waits_for_a_device_is_said_in_these_words() -> None:
    assert running(stage="first").reason == "everybody stages, nobody activates yet"
    passed_over = go(running(skip_offline=True), Away(frozenset({FIRST})))
    assert passed_over.devices[FIRST].reason == "offline when it was asked"

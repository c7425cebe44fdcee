"""What is written down of a device, whole: after what it reports, after time, and when it comes and goes."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.manager.rollouts import (
    NEW,
    OLD,
    START,
    S,
    T,
    exposed,
    failed,
    go,
    healthy,
    plan,
    running,
    says,
)

from fleetfoot_manager.rollout import (
    Cancel,
    Decide,
    Decision,
    DeviceRecord,
    Joined,
    Left,
    Report,
    Retry,
    Rollout,
    Start,
    Tick,
    advance,
)
from fleetfoot_protocol.states import RolloutState, Terminal

FIRST, *_, LAST = (member.device for member in plan().cohort)
LATER = START + 9
ALREADY = "already on the target"
OWN = "obeys a document of its own"
#: A rollout over the first three of thirty that no failure trips: of whom is asked, of whom comes later.
ASKED, IDLE = DeviceRecord(1, since=START), DeviceRecord(3)
ENDED = replace(ASKED, ended=LATER)
PASSED = replace(IDLE, terminal=Terminal.SKIPPED, reason=OWN, ended=LATER)


def tried(device: str, terminal: Terminal | None, digest: str = OLD) -> Report:
    """With words, as a device may add them to whatever it says."""
    return replace(says(device, terminal, digest), code="upgrade_boot_failed", reason="exit 1")


def pinned(digest: str = OLD) -> Report:
    """The last device, which obeys a document of its own."""
    return replace(says(LAST, T.SKIPPED, digest), reason=OWN)


def after(rollout: Rollout, *reports: Report) -> DeviceRecord:
    """The record of the device that reports, one second after the other; the last at `LATER`."""
    for number, report in enumerate(reports, start=1):
        rollout = go(rollout, report, at=LATER - len(reports) + number)
    return rollout.devices[reports[-1].device]


@pytest.mark.parametrize(
    ("reports", "record"),
    [
        ([tried(FIRST, T.ROLLED_BACK)], ("upgrade_boot_failed", "exit 1", T.ROLLED_BACK, False)),
        ([tried(FIRST, T.HEALTHY, NEW)], ("upgrade_boot_failed", "exit 1", T.HEALTHY, True)),
        ([tried(FIRST, T.SKIPPED)], ("upgrade_boot_failed", "exit 1", T.SKIPPED, False)),
        ([tried(FIRST, None, NEW)], ("", ALREADY, T.SKIPPED, True)),
    ],
)
def test_how_it_ended_stands_with_its_words_and_its_moment(
    reports: list[Report], record: tuple[str, str, Terminal, bool]
) -> None:
    code, reason, terminal, on_goal = record
    expected = replace(ENDED, terminal=terminal, code=code, reason=reason, on_goal=on_goal)
    assert after(running(breaker=0), *reports) == expected


@pytest.mark.parametrize(
    ("reports", "terminal", "on_goal"),
    [
        ([tried(FIRST, T.ACTIVE)], T.ACTIVE, False),
        ([tried(FIRST, T.STAGED)], T.ACTIVE, False),
        ([tried(FIRST, T.SKIPPED), tried(FIRST, T.ACTIVE)], T.ACTIVE, False),
        ([tried(FIRST, T.SKIPPED, NEW), tried(FIRST, None)], T.PENDING, False),
        ([tried(FIRST, T.ACTIVE), tried(FIRST, None)], T.PENDING, False),
        ([tried(FIRST, T.ACTIVE), tried(FIRST, T.CANCELED)], T.PENDING, False),
    ],
)
def test_of_who_has_not_ended_no_words_are_kept(
    reports: list[Report], terminal: Terminal, on_goal: bool
) -> None:
    assert after(running(breaker=0), *reports) == replace(ASKED, terminal=terminal, on_goal=on_goal)


def test_who_cannot_take_it_stays_so_when_nothing_more_is_said() -> None:
    skipped = replace(ENDED, terminal=T.SKIPPED, code="upgrade_boot_failed", reason="exit 1", ended=LATER - 1)
    assert after(running(), tried(FIRST, T.SKIPPED), tried(FIRST, None)) == skipped


def test_who_was_silent_on_the_goal_and_goes_back_is_not_awaited_again() -> None:
    rollout = go(running(), says(FIRST, T.ACTIVE, NEW))
    rollout = go(rollout, healthy(exposed(rollout)[1]), Tick(), at=START + 300)
    mute = DeviceRecord(
        1,
        T.SILENT,
        reason="no answer within the device timeout",
        since=START,
        ended=START + 300,
        on_goal=True,
    )
    assert rollout.devices[FIRST] == mute
    assert go(rollout, says(FIRST, None)).devices[FIRST] == replace(mute, on_goal=False)


def test_only_who_is_over_its_time_is_silent() -> None:
    rollout = running()
    late = next(name for name in (f"new-{n}" for n in range(1000)) if rollout.wave_of(name) == 1)
    rollout = go(rollout, Joined(late, "hall"), at=START + 20)
    rollout = go(rollout, Tick(), at=START + 300)
    assert rollout.state is S.RUNNING
    assert rollout.devices[late] == DeviceRecord(1, since=START + 20)
    assert rollout.devices[FIRST].terminal is T.SILENT


@pytest.mark.parametrize(
    ("reports", "record"),
    [
        (
            [tried(LAST, None, NEW)],
            replace(IDLE, terminal=T.SKIPPED, reason=ALREADY, ended=LATER, on_goal=True),
        ),
        (
            [tried(LAST, None, NEW), tried(LAST, T.HEALTHY, NEW)],
            replace(IDLE, terminal=T.SKIPPED, reason=ALREADY, ended=LATER - 1, on_goal=True),
        ),
        ([tried(LAST, None, NEW), tried(LAST, None)], IDLE),
        ([tried(LAST, T.ROLLED_BACK)], IDLE),
        ([tried(LAST, T.ACTIVE, NEW)], IDLE),
        ([tried(LAST, T.STAGED, NEW)], IDLE),
        ([tried(LAST, T.SKIPPED)], IDLE),
        ([pinned()], PASSED),
        ([replace(pinned(), terminal=None)], IDLE),
        ([pinned(), pinned()], replace(PASSED, ended=LATER - 1)),
        ([pinned(), tried(LAST, None)], IDLE),
        ([pinned(), tried(LAST, None, NEW)], replace(PASSED, reason=ALREADY, on_goal=True)),
        ([tried(LAST, None, NEW), pinned()], PASSED),
        ([pinned(NEW)], replace(PASSED, reason=ALREADY, on_goal=True)),
        (
            [tried(LAST, None, NEW), pinned(NEW)],
            replace(PASSED, reason=ALREADY, on_goal=True, ended=LATER - 1),
        ),
    ],
)
def test_of_who_is_not_asked_yet_what_runs_is_written_down_and_whether_it_obeys_its_own(
    reports: list[Report], record: DeviceRecord
) -> None:
    assert after(running(), *reports) == record


def test_who_is_beyond_the_last_wave_stays_there_whatever_runs() -> None:
    rollout = plan(waves=(3,), already={LAST})
    record = DeviceRecord(0, T.SKIPPED, reason="beyond the last wave", ended=START - 10, on_goal=True)
    for report in (says(LAST, None, NEW), says(LAST, None, OLD)):
        assert after(go(rollout, Start()), report) == record


def test_nothing_can_be_said_of_a_canceled_device_that_was_never_asked() -> None:
    rollout = go(running(), Cancel())
    record = replace(IDLE, terminal=T.CANCELED, ended=START)
    for report in (says(LAST, None, NEW), says(LAST, None), tried(LAST, T.ROLLED_BACK), pinned()):
        assert after(rollout, report) == record


def test_who_obeys_its_own_is_not_awaited_when_its_wave_opens() -> None:
    """It has nothing to say to the document of its group, and would count as silent in the end."""
    rollout = go(plan(), Start(), pinned())
    for wave in (1, 2, 3):
        asked = [d for d, record in rollout.devices.items() if record.wave == wave and d != LAST]
        rollout = go(rollout, *(healthy(d) for d in asked))
        rollout = go(rollout, Tick(), at=START + 1000 * wave)
    assert rollout.state is S.COMPLETED
    assert rollout.devices[LAST] == replace(PASSED, since=START + 2000, ended=START)
    # Once it is released, it does what its group is asked to do.
    assert go(rollout, says(LAST, T.HEALTHY, NEW)).devices[LAST].terminal is T.HEALTHY


@pytest.mark.parametrize("state", S)
def test_who_puts_its_work_down_may_begin_again_only_while_the_goal_is_wanted(state: RolloutState) -> None:
    at_work = go(running(), says(FIRST, T.ACTIVE))
    record = after(replace(at_work, state=state), tried(FIRST, None))
    wanted = state not in {S.ROLLING_BACK, S.ROLLED_BACK, S.ABORTED, S.CANCELED, S.EXPIRED, S.SUPERSEDED}
    canceled = replace(ENDED, terminal=T.CANCELED, code="upgrade_boot_failed", reason="exit 1")
    assert record == (ASKED if wanted else canceled)


def test_where_the_goal_is_not_wanted_nobody_is_skipped_for_it() -> None:
    rollout = go(running(), says(FIRST, T.ACTIVE), Cancel())
    canceled = replace(ENDED, terminal=T.CANCELED, code="upgrade_boot_failed", reason="exit 1")
    assert after(rollout, tried(FIRST, T.SKIPPED)) == canceled
    second = exposed(rollout)[1]
    assert after(rollout, says(second, None, NEW)) == DeviceRecord(
        1, T.CANCELED, since=START, ended=START, on_goal=True
    )


def test_who_is_not_asked_any_more_does_not_wait() -> None:
    there = go(running(), says(LAST, None, NEW), says(FIRST, T.ACTIVE), Decide(Decision.ROLLBACK))
    assert there.state is S.ROLLING_BACK
    assert after(there, tried(LAST, None)) == replace(IDLE, terminal=T.CANCELED, ended=LATER)


# --- while everybody stages


def test_who_has_staged_has_ended_for_now() -> None:
    staging = running(stage="first")
    assert after(staging, tried(LAST, T.STAGED)) == replace(IDLE, since=START, terminal=T.STAGED, ended=LATER)
    there = after(staging, says(LAST, None, NEW), says(LAST, T.STAGED, NEW))
    assert (there.terminal, there.reason, there.ended) == (T.SKIPPED, ALREADY, LATER - 1)


def test_a_wave_asks_anew_who_has_staged_or_was_silent_and_nobody_else() -> None:
    rollout = running(stage="first", settle=0.0, breaker=0)
    bad, there, mute, *others = (member.device for member in rollout.cohort)
    rollout = go(rollout, failed(bad), says(there, None, NEW), *(says(name, T.STAGED) for name in others))
    assert rollout.wave == 0
    rollout, _ = advance(rollout, Tick(), START + 300)
    assert rollout.wave == 1
    assert rollout.devices[bad].terminal is T.ROLLED_BACK
    assert rollout.devices[there].terminal is T.SKIPPED
    assert rollout.devices[mute] == DeviceRecord(1, since=math.nextafter(START + 300, math.inf))
    assert rollout.devices[others[0]].terminal is T.STAGED


def test_who_left_before_the_staging_does_not_stage() -> None:
    rollout = go(plan(stage="first"), Left(FIRST), Start())
    assert rollout.devices[FIRST].since is None
    assert len(exposed(rollout)) == 29
    # Also where not all stage at once: who is a canary by name alone stages when its wave opens.
    canaries = plan(stage="first", include=(FIRST, LAST), waves=(2, 10))
    rollout = go(canaries, Left(FIRST), Start())
    assert rollout.devices[FIRST].since is rollout.devices[LAST].since is None
    assert exposed(rollout)


# --- who comes and goes


def test_who_left_has_nothing_to_do_with_it_any_more() -> None:
    rollout = go(running(), tried(FIRST, T.SKIPPED, NEW))
    rollout = go(rollout, Left(FIRST), at=LATER)
    assert rollout.devices[FIRST] == DeviceRecord(
        1, T.SKIPPED, reason="left the groups", since=START, ended=LATER, gone=True
    )
    for event in (Left(FIRST), Left("dev-999")):
        assert advance(rollout, event, LATER + 9) == (rollout, ())


def test_who_failed_and_left_comes_back_as_one_that_failed() -> None:
    rollout = go(running(breaker=0), failed(FIRST))
    record = rollout.devices[FIRST]
    rollout = go(rollout, Left(FIRST), at=LATER)
    assert rollout.devices[FIRST] == replace(record, gone=True)
    assert go(rollout, Joined(*rollout.cohort[0]), at=LATER).devices[FIRST] == record


def test_who_failed_and_left_is_not_tried_again() -> None:
    rollout = running(breaker=0)
    _, other, _ = exposed(rollout)
    rollout = go(rollout, failed(FIRST), failed(other), Left(FIRST))
    again = go(rollout, Retry(), at=LATER)
    assert again.devices[FIRST] == rollout.devices[FIRST]
    assert again.devices[other] == ASKED


@pytest.mark.parametrize("report", [lambda name: says(name, T.ACTIVE), lambda name: says(name, None)])
def test_who_only_moves_to_another_group_goes_on(report: Callable[[str], Report]) -> None:
    rollout = go(running(), report(FIRST))
    record, other = rollout.devices[FIRST], {"hall": "yard", "yard": "hall"}[rollout.cohort[0].group]
    moved = go(rollout, Joined(FIRST, other), at=LATER)
    assert (moved.devices[FIRST], moved.cohort[0]) == (record, (FIRST, other))
    assert advance(moved, Joined(FIRST, other), LATER + 1) == (moved, ())


def test_who_joins_beyond_the_last_wave_is_skipped_and_was_never_asked() -> None:
    rollout = running(waves=(3,))
    rollout = go(rollout, Joined("new-0", "hall"), at=LATER)
    assert rollout.devices["new-0"] == DeviceRecord(0, T.SKIPPED, reason="beyond the last wave", ended=LATER)


def test_a_named_device_that_left_and_came_back_is_asked_again() -> None:
    rollout = running(listed=True)
    rollout = go(rollout, Left(FIRST), Joined(*rollout.cohort[0]), at=LATER)
    assert rollout.devices[FIRST] == DeviceRecord(1, since=LATER)


def test_who_was_taken_back_with_its_rollout_is_told_apart_from_who_is_healthy() -> None:
    rollout = running()
    first, second, third = exposed(rollout)
    on = go(rollout, healthy(first), healthy(second), says(first, None))
    assert on.counts == on.devices.counts == {"pending": 28, "healthy": 2}, "it has merely gone on"
    assert [on.result(name) for name in (first, second, third)] == ["healthy", "healthy", "pending"]
    back = go(on, Decide(Decision.ROLLBACK))
    assert back.state is S.ROLLING_BACK
    assert back.counts == {"healthy": 1, "taken_back": 1, "canceled": 28}
    assert [back.result(name) for name in (first, second, third)] == ["taken_back", "healthy", "canceled"]
    over = go(back, says(second, None), says(third, None))
    assert over.state is S.ROLLED_BACK
    assert over.counts == {"taken_back": 2, "canceled": 28}
    assert over.result(second) == "taken_back"

"""What a step leaves in the record and puts into its events, to the last word."""

from typing import Any

import pytest
from tests.agent.test_lifecycle import NOW, L, goal, working

from fleetfoot_agent.worker.lifecycle import Step, problem, step
from fleetfoot_agent.worker.record import Record, Retry
from fleetfoot_agent.worker.steps import (
    Fail,
    Healthy,
    Recalled,
    StepEvent,
    Unpacked,
    Unwell,
    WayBackFailed,
    WayBackProven,
)
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import CheckResult

FACTS = {"version": "1.2.0", "digest": goal().digest, "attempt": 1}
CHECKS = (CheckResult(check="http", healthy=False, message="503"),)
BOOT = Code.UPGRADE_BOOT_FAILED


def tried(record: Record) -> Record:
    """The record after an attempt that failed for now."""
    retry = Retry(digest=goal().digest, attempt=1, tries=2, at=NOW + 60)
    error = problem(Code.UPGRADE_DOWNLOAD_FAILED, "gone", NOW)
    return record.model_copy(update={"retry": retry, "last_error": error})


def data(result: Step) -> list[dict[str, Any]]:
    return [say.data for say in result[1]]


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (L.STAGING, Unpacked()),
        (L.PROBATION, Healthy()),
        (L.ROLLING_BACK, WayBackProven()),
        (L.ROLLING_BACK, WayBackFailed("dead too")),
    ],
)
def test_nothing_waits_to_be_tried_again_once_it_was_unpacked_or_has_ended(
    state: L, event: StepEvent
) -> None:
    assert step(tried(working(state)), event, NOW)[0].retry is None


def test_who_proves_well_has_no_error_left() -> None:
    result = step(tried(working(L.PROBATION)), Healthy(CHECKS), NOW)
    assert result[0].last_error is None
    assert result[0].checks == CHECKS
    assert data(result) == [{**FACTS, "healthy": True}, FACTS]


def test_who_is_not_well_says_so_in_one_line() -> None:
    result = step(working(L.PROBATION), Unwell(BOOT, "it\ndied", CHECKS), NOW)
    assert result[0].checks == CHECKS
    assert result[0].work is not None
    assert result[0].work.cause_text == "it?died"
    assert data(result) == [{**FACTS, "healthy": False, "message": "it?died"}] * 2


@pytest.mark.parametrize(
    ("before", "cause", "message"),
    [(Unwell(BOOT, "it died"), BOOT, "it died"), (Recalled(), Code.UPGRADE_CANCELED, "withdrawn")],
)
def test_the_way_back_tells_what_it_was_taken_for(before: StepEvent, cause: Code, message: str) -> None:
    back = step(working(L.PROBATION), before, NOW)[0]
    result = step(back, WayBackProven(CHECKS), NOW)
    assert result[0].checks == CHECKS
    assert data(result) == [{**FACTS, "cause": cause, "message": message}]


def test_a_way_back_whose_cause_nobody_knows_any_more_tells_none() -> None:
    assert data(step(working(L.ROLLING_BACK), WayBackProven(), NOW)) == [
        {**FACTS, "cause": "", "message": ""}
    ]


def test_a_way_back_that_fails_says_why_twice() -> None:
    result = step(working(L.ROLLING_BACK), WayBackFailed("dead\ttoo"), NOW)
    assert data(result) == [{**FACTS, "message": "dead?too"}] * 2


def test_a_failure_says_why() -> None:
    event = Fail(Event.UPGRADE_DOWNLOAD_FAILED, Code.UPGRADE_DOWNLOAD_FAILED, "gone\n")
    assert data(step(working(L.DOWNLOADING), event, NOW)) == [{**FACTS, "message": "gone?"}]

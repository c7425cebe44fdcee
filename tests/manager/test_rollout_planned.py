"""A rollout as it is planned: every field, what is refused in which words, and its form in JSON."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
from tests.manager.rollouts import (
    DEVICES,
    GOAL,
    IN_STATE,
    OLD,
    START,
    S,
    T,
    failed,
    go,
    plan,
)

from fleetfoot_manager.rollout import DeviceRecord, Member, Rollout, Start, planned
from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import MAX_LISTED
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState

NAMES = [device for device, _ in DEVICES]
#: What nobody says otherwise.
DEFAULTS = {
    "selector": {},
    "settle": 300.0,
    "device_timeout": 300.0,
    "breaker": 1,
    "restricted": False,
    "canary": False,
    "state": S.PLANNED,
    "wave": 0,
    "passed": 0,
    "reason": "",
    "resume_to": None,
    "failures_before": 0,
    "settle_until": None,
    "return_until": None,
    "unheld": None,
    "strategy": "waves",
    "include": (),
    "listed": False,
    "stage": "",
    "consecutive": False,
    "streak": 0,
    "failure_percent": 0,
    "min_successes": 1,
    "each_wave": False,
    "skip_offline": False,
    "priority": 0,
    "lives_until": None,
    "withdraws": "",
    "after": "",
    "from_wave": 1,
    "revision": 1,
    "steered": 1,
    "started": None,
    "ended": None,
}
#: What somebody says, and where it is not kept as it was said.
SAID: dict[str, Any] = {
    "groups": ("attic", "hall", "yard"),
    "selector": {"site": "north"},
    "salt": "pepper",
    "settle": 0.0,
    "device_timeout": 1.0,
    "breaker": 0,
    "canary": True,
    "strategy": "batches",
    "include": tuple(NAMES[4:7]),
    "stage": "only",
    "consecutive": True,
    "failure_percent": 7,
    "min_successes": 2,
    "each_wave": True,
    "skip_offline": True,
    "priority": 3,
    "lives_until": START + 50,
    "withdraws": OLD,
    "after": "r-0",
}


def body_of(rollout: Rollout) -> dict[str, Any]:
    return {field.name: getattr(rollout, field.name) for field in fields(rollout)}


def test_what_nobody_says_is_as_it_is_written_down() -> None:
    rollout = planned(
        id="r-1", component="kiosk", goal=GOAL, devices=DEVICES[:2], waves=(1, 2), now=START
    )  # fmt: skip
    two = [admission.Candidate(name, {}) for name in NAMES[:2]]
    first, second = admission.ranked("r-1", two)
    group = dict(DEVICES)
    assert body_of(rollout) == DEFAULTS | {
        "id": "r-1",
        "component": "kiosk",
        "goal": GOAL,
        "groups": ("hall", "yard"),
        "salt": "r-1",
        "waves": (1, 2),
        "cuts": admission.cuts_for((1, 2), "r-1", two),
        "cohort": (Member(first, group[first]), Member(second, group[second])),
        "devices": {first: DeviceRecord(1), second: DeviceRecord(2)},
        "created": START,
    }
    bare = {name: body_of(rollout)[name] for name in body_of(rollout) if name not in DEFAULTS}
    assert {name: getattr(Rollout(**bare), name) for name in DEFAULTS} == DEFAULTS


def test_what_somebody_says_is_kept() -> None:
    rollout = plan(**SAID)
    assert {name: getattr(rollout, name) for name in SAID} == SAID
    assert rollout.restricted, "a selector: whoever else comes to the groups is none of its business"
    assert set(rollout.cohort[:3]) == set(DEVICES[4:7])
    assert rollout.cuts == admission.cuts_for(
        (3, 15, 30), "pepper", [admission.Candidate(name, {}) for name in NAMES], include=SAID["include"]
    )


def test_who_is_there_already_or_is_beyond_the_waves_is_written_down_so() -> None:
    order = [member.device for member in plan().cohort]
    rollout = plan(waves=(3,), already={order[0], order[-1]})
    at = START - 10
    assert rollout.restricted
    assert [rollout.devices[order[place]] for place in (0, 1, 3, -1)] == [
        DeviceRecord(1, T.SKIPPED, reason="already on the target", ended=at, on_goal=True),
        DeviceRecord(1),
        DeviceRecord(0, T.SKIPPED, reason="beyond the last wave", ended=at),
        DeviceRecord(0, T.SKIPPED, reason="beyond the last wave", ended=at, on_goal=True),
    ]
    assert [rollout.wave_of(order[place]) for place in (0, 2, 3, -1)] == [1, 1, 0, 0]


SHOWN = r"\x1b" * 20
RISE = "waves must rise from 1 to at most 30 devices"
CANARIES = tuple(NAMES[:3])
NEGATIVE = "settle, device_timeout and breaker must not be negative"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"waves": ()}, RISE),
        ({"waves": (0, 3)}, RISE),
        ({"waves": (3, 3)}, RISE),
        ({"waves": (15, 3)}, RISE),
        ({"waves": (31,)}, RISE),
        ({"devices": []}, "a rollout needs devices, each in one group"),
        (
            {"devices": [("dev-1", "hall"), ("dev-1", "yard")], "waves": (1,)},
            "a rollout needs devices, each in one group",
        ),
        ({"settle": -1.0}, NEGATIVE),
        ({"device_timeout": 0.0}, NEGATIVE),
        ({"breaker": -1}, NEGATIVE),
        ({"stage": "sometimes"}, "there is no way to stage 'sometimes'"),
        ({"stage": "\x1b" * 30}, f"there is no way to stage '{SHOWN}'"),
        (
            {"include": (NAMES[1], NAMES[1]), "waves": (2, 30)},
            "canaries are devices of the cohort, each named once",
        ),
        (
            {"include": (NAMES[1], "dev-999"), "waves": (2, 30)},
            "canaries are devices of the cohort, each named once",
        ),
        ({"include": NAMES[:1], "waves": (2, 30)}, "canaries are the first wave"),
        (
            {"include": CANARIES, "waves": (3,), "stage": "first"},
            "canaries stage when they activate: to stage first takes a wave behind them",
        ),
        (
            {"listed": True, "stage": "first"},
            "devices named one by one are admitted to staging and to activating at once",
        ),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_words(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(FleetfootError) as refused:
        plan(**wrong)
    assert (refused.value.code, refused.value.message) == ("request_invalid", why)


@pytest.mark.parametrize(
    "form",
    [
        {"waves": (1,)},
        {"waves": (30,), "stage": "first"},
        {"waves": (3,), "include": CANARIES},
        {"waves": (3, 4), "include": CANARIES, "stage": "only"},
        {"devices": DEVICES[:3], "waves": (3,), "include": CANARIES},
        {"settle": 0.0, "device_timeout": 0.1, "breaker": 0},
    ],
)
def test_what_is_just_within_bounds_is_planned(form: dict[str, Any]) -> None:
    assert plan(**form).state is S.PLANNED


def test_no_more_can_be_named_than_a_document_can_name() -> None:
    many = [(f"dev-{number:04}", "hall") for number in range(MAX_LISTED + 1)]
    assert plan(devices=many[1:], waves=(MAX_LISTED,), listed=True).listed
    with pytest.raises(FleetfootError, match=f"no more than {MAX_LISTED} devices can be named"):
        plan(devices=many, waves=(MAX_LISTED + 1,), listed=True)
    names = tuple(device for device, _ in many)
    widest = plan(devices=many, waves=(MAX_LISTED, MAX_LISTED + 1), include=names[1:])
    assert len(widest.include) == MAX_LISTED
    with pytest.raises(FleetfootError, match=f"no more than {MAX_LISTED} devices can be named"):
        plan(devices=many, waves=(MAX_LISTED + 1,), include=names)


def at_work(**form: Any) -> Rollout:
    return go(plan(**form), Start(), failed("dev-004"))


def is_plain(value: object) -> bool:
    """Whether it is what reading JSON gives: nothing that only looks like it."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(is_plain, value.values()))
    return (
        all(map(is_plain, value))
        if type(value) is list
        else type(value) in (str, int, float, bool, type(None))
    )


FORMS: list[dict[str, Any]] = [
    SAID,
    {"listed": True},
    {"stage": "first", "selector": {"a": "b"}},
]
ONES: dict[str, Callable[[], Rollout]] = {
    **{f"form {number}": partial(plan, **form) for number, form in enumerate(FORMS)},
    **{f"form {number} at work": partial(at_work, **form) for number, form in enumerate(FORMS)},
    "whose selector nobody may change": lambda: replace(plan(), selector=MappingProxyType({"a": "b"})),
    **{str(state): make for state, make in IN_STATE.items()},
}


@pytest.mark.parametrize("name", ONES)
def test_a_rollout_is_exactly_the_same_after_a_way_through_json(name: str) -> None:
    rollout = ONES[name]()
    body = rollout.to_json()
    assert is_plain(body)
    again = Rollout.from_json(json.loads(json.dumps(body)))
    assert again == rollout
    assert again.devices.opened == rollout.devices.opened
    assert isinstance(again.state, RolloutState)
    assert again.resume_to is rollout.resume_to
    assert all(record.terminal is again.devices[name].terminal for name, record in rollout.devices.items())


def test_what_was_written_before_waves_were_kept_as_one_fact_is_still_read() -> None:
    body = at_work().to_json()
    del body["opened"], body["include"]
    again = Rollout.from_json(body)
    assert (again, again.devices.opened, again.include) == (at_work(), {}, ())

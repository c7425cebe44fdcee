"""The state machine of rollouts notices mistakes that somebody could make in the core."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.stateful import run_state_machine_as_test
from tests.manager.test_rollout_stateful import Fleet

from fleetfoot_manager import compose, rollout_acts, rollout_devices, rollout_gate, rollout_reports
from fleetfoot_manager.effects import Lift, PublishDesired, Withdraw
from fleetfoot_manager.rollout import TRANSITIONS
from fleetfoot_manager.rollout_events import Decision, Kind, Resume, Retry, Start, Supersede
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState

Patch = pytest.MonkeyPatch
S = RolloutState
#: The same examples each time, and nothing made small: it is enough that one is found.
SEARCH = settings(
    max_examples=10,
    stateful_step_count=40,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
#: In how many times ten examples a mistake must show.
_SEARCHED = 60
#: Where the search begins. Another seed finds it too, only later.
FIRST_SEEDS = {
    "blessing_permits_what_awaits_approval": 41,
    "canary_goes_on_unblessed": 4,
    "completion_leaves_nothing": 1,
    "continue_forgives_nothing": 60,
    "it_settles_for_no_time": 14,
    "one_success_is_always_enough": 70,
    "outcome_of_any_attempt_counts": 4,
    "percentage_is_of_everybody": 25,
    "resume_publishes_nothing": 3,
    "start_lifts_nothing": 1,
    "time_under_a_hold_counts": 12,
    "withdrawn_release_stays_the_baseline": 42,
}


def _handled(
    patch: Patch, kind: Kind, change: Callable[[Any, Any, list[Any]], tuple[Any, list[Any]]]
) -> None:
    """Wherever this event is taken, `change` makes something else of what comes of it."""
    for steps in TRANSITIONS.values():
        if kind in steps:
            step = steps[kind]

            def handler(of: Any, event: Any, now: float, real: Any = step.handler) -> Any:
                after, effects = real(of, event, now)
                return (after, effects) if after is of else change(of, after, effects)

            patch.setitem(steps, kind, replace(step, handler=handler))


def _without(patch: Patch, kind: Kind, effect: type) -> None:
    _handled(patch, kind, lambda of, after, done: (after, [e for e in done if not isinstance(e, effect)]))


def pause_does_not_hold(patch: Patch) -> None:
    patch.setitem(rollout_gate.HELD, S.PAUSED, False)


def trip_does_not_hold(patch: Patch) -> None:
    patch.setitem(rollout_gate.HELD, S.TRIPPED, False)


def rollback_withdraws_nothing(patch: Patch) -> None:
    _without(patch, Decision.ROLLBACK, Withdraw)


def start_lifts_nothing(patch: Patch) -> None:
    _without(patch, Start, Lift)


def resume_publishes_nothing(patch: Patch) -> None:
    _without(patch, Resume, PublishDesired)


def superseded_devices_go_on_waiting(patch: Patch) -> None:
    _handled(patch, Supersede, lambda of, after, done: (replace(after, devices=of.devices), done))


def superseded_target_stands_on(patch: Patch) -> None:
    _without(patch, Supersede, PublishDesired)


def retry_is_the_same_attempt(patch: Patch) -> None:
    _handled(patch, Retry, lambda of, after, done: (replace(after, goal=of.goal), done))


def continue_forgives_nothing(patch: Patch) -> None:
    def change(of: Any, after: Any, done: list[Any]) -> Any:
        return replace(after, failures_before=of.failures_before), done

    _handled(patch, Decision.CONTINUE, change)


def breaker_is_one_too_late(patch: Patch) -> None:
    real = rollout_gate._too_many
    looser = {1: 2, 2: 3, 0: 0}
    patch.setattr(rollout_gate, "_too_many", lambda of: real(replace(of, breaker=looser[of.breaker])))


def percentage_is_of_everybody(patch: Patch) -> None:
    real = rollout_gate._too_many
    patch.setattr(rollout_gate, "_too_many", lambda of: real(replace(of, wave=len(of.waves))))


def wave_passes_without_a_success(patch: Patch) -> None:
    for module in (rollout_gate, rollout_acts):
        patch.setattr(module, "succeeded", lambda of: True)


def one_success_is_always_enough(patch: Patch) -> None:
    real = rollout_gate.succeeded
    for module in (rollout_gate, rollout_acts):
        patch.setattr(module, "succeeded", lambda of: real(replace(of, min_successes=1)))


def nobody_is_awaited(patch: Patch) -> None:
    patch.setattr(rollout_devices.DeviceTable, "awaited", property(lambda table: 0))


def time_under_a_hold_counts(patch: Patch) -> None:
    patch.setattr(rollout_gate, "overdue_at", lambda of, since: since + of.device_timeout)


def outcome_of_any_attempt_counts(patch: Patch) -> None:
    real = rollout_reports.recorded

    def recorded(of: Any, record: Any, report: Any, now: float) -> Any:
        return real(of, record, replace(report, attempt=of.goal.attempt), now)

    patch.setattr(rollout_acts, "recorded", recorded)


def it_settles_for_no_time(patch: Patch) -> None:
    real = rollout_acts.on_tick

    def on_tick(of: Any, event: Any, now: float) -> Any:
        return real(replace(of, settle_until=now) if of.settle_until else of, event, now)

    for steps in TRANSITIONS.values():
        for kind, step in steps.items():
            if step.handler is real:
                patch.setitem(steps, kind, replace(step, handler=on_tick))


def _goes_on(patch: Patch, reason: str) -> None:
    real = rollout_gate._await

    def wait(of: Any, why: str) -> Any:
        return rollout_gate.open_wave(of, 2_000.0) if why == reason else real(of, why)

    patch.setattr(rollout_gate, "_await", wait)


def wave_opens_without_its_approval(patch: Patch) -> None:
    _goes_on(patch, rollout_gate.AWAITS_APPROVAL)


def what_is_only_staged_activates(patch: Patch) -> None:
    _goes_on(patch, rollout_gate.AWAITS_ACTIVATION)


def canary_goes_on_unblessed(patch: Patch) -> None:
    _goes_on(patch, rollout_gate.AWAITS_BLESSING)


def blessing_permits_what_awaits_approval(patch: Patch) -> None:
    patch.setattr(rollout_acts, "onward", lambda of, now, first: rollout_gate.open_wave(of, now))


def completion_leaves_nothing(patch: Patch) -> None:
    patch.setattr(rollout_gate, "_lasting", lambda of: [])


def withdrawn_release_stays_the_baseline(patch: Patch) -> None:
    def withdrawn(intent: Any, digest: str) -> Any:
        return replace(intent, withdrawn=tuple({**dict.fromkeys(intent.withdrawn), digest: None}))

    patch.setattr(compose, "_withdrawn", withdrawn)


def end_of_the_way_back_is_never_waited_for(patch: Patch) -> None:
    real = rollout_acts._returned
    patch.setattr(rollout_acts, "_returned", lambda of, now: real(replace(of, return_until=now), now))


@pytest.fixture(autouse=True)
def the_same_examples_each_time(monkeypatch: Patch) -> Iterator[None]:
    """Hypothesis draws constants too that stand in whichever of our modules are loaded.

    With other tests beside these a seed would be another search; there is no setting for that.
    """
    providers.CONSTANTS_CACHE.cache.clear()
    monkeypatch.setattr(providers, "_get_local_constants", Constants)
    yield
    providers.CONSTANTS_CACHE.cache.clear()


MISTAKES = [found for name, found in list(globals().items()) if name.islower() and hasattr(found, "__code__")]
MISTAKES = [one for one in MISTAKES if one.__module__ == __name__ and not one.__name__.startswith("_")]


def first_noticed(seeds: range) -> int | None:
    for number in seeds:
        try:
            run_state_machine_as_test(seed(number)(Fleet), settings=SEARCH)
        except (AssertionError, FleetfootError, BaseExceptionGroup):
            return number
    return None


@pytest.mark.parametrize("plant", MISTAKES, ids=lambda one: one.__name__)
def test_a_planted_mistake_is_noticed(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    first = FIRST_SEEDS.get(plant.__name__, 0)
    found = first_noticed(range(first, first + _SEARCHED))
    assert found is not None, "nobody noticed"
    print(f"noticed with seed {found}")


def test_where_nothing_is_planted_nothing_is_noticed() -> None:
    assert all(first_noticed(range(first, first + 1)) is None for first in {0, *FIRST_SEEDS.values()})

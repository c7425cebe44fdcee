"""What each act publishes, seen in the documents and in what devices make of them (contract section 5)."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.manager.rollouts import (
    DEVICES,
    GOAL,
    NEW,
    OLD,
    START,
    awaited,
    exposed,
    failed,
    healthy,
    plan,
)

from fleetfoot_manager.compose import GroupIntent, applied, desired
from fleetfoot_manager.effects import (
    Effect,
    Emit,
    Lift,
    PublishDesired,
    PublishProgress,
    SetBaseline,
    Stand,
    Withdraw,
)
from fleetfoot_manager.rollout import (
    Cancel,
    Decide,
    Decision,
    Expire,
    Pause,
    Resume,
    Retry,
    Rollout,
    RolloutEvent,
    Start,
    advance,
    target,
)
from fleetfoot_protocol.documents import Desired, Goal, Target, read
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.resolve import Act, Device, Plan, Why, resolve
from fleetfoot_protocol.states import RolloutState

BASE = Goal(version="1.0.0", counter=1, digest=OLD, length=900)
RAN = Installed(version="1.0.0", counter=1, digest=OLD)
RUNS = Installed(version="1.1.0", counter=2, digest=NEW)
OTHER = "c" * 64


def document(intent: GroupIntent, *targets: Target, **options: Any) -> Desired:
    given: dict[str, Any] = {
        "fleet": "acme",
        "group": "hall",
        "component": "kiosk",
        "epoch": 1,
        "sequence": 7,
        "issued": START + 0.9,
        "expires": START + 60,
    }
    return desired(intent, targets, **given | options)


def a_target(name: str, digest: str = NEW, **options: Any) -> Target:
    given: dict[str, Any] = {
        "rollout": name,
        "goal": GOAL.model_copy(update={"digest": digest}),
        "salt": name,
        "stage_cut": "all",
        "activate_cut": "all",
    }
    return Target(**given | options)


@dataclass
class World:
    """One rollout and one of its groups, the way a shell keeps them."""

    rollout: Rollout = field(default_factory=lambda: plan(settle=0.0))
    intent: GroupIntent = field(default_factory=lambda: GroupIntent(baseline=BASE))
    now: float = START
    published: Desired | None = None

    def do(self, *events: RolloutEvent) -> "World":
        for event in events:
            self.rollout, done = advance(self.rollout, event, self.now)
            for effect in done:
                self.intent = applied(self.intent, effect)
                if effect == PublishDesired():
                    stands = target(self.rollout)
                    self.published = document(self.intent, *([stands] if stands else []))
        return self

    def plan_of(self, device: str, run: Installed = RAN, **memory: Any) -> Plan:
        return resolve(self.published, None, Device(id=device, run=run, **memory))

    @property
    def first(self) -> str:
        return self.rollout.cohort[0].device

    @property
    def last(self) -> str:
        return self.rollout.cohort[-1].device

    def all_healthy(self) -> "World":
        return self.do(*(healthy(device, self.rollout.goal.attempt) for device in awaited(self.rollout)))


def started() -> World:
    return World().do(Start())


def tripped() -> World:
    world = started()
    return world.do(failed(world.first))


# --- each act, by what a device then does


def test_plan_publishes_nothing() -> None:
    assert World().published is None


def test_start_tells_the_first_wave_to_install_and_nobody_else() -> None:
    world = started()
    assert world.published is not None
    assert [t.rollout for t in world.published.targets] == ["r-1"]
    assert world.plan_of(world.first) == Plan(Act.INSTALL, Why.ORDERED, GOAL, "r-1")
    assert world.plan_of(world.last).why is Why.CURRENT
    installing = [d for d, _ in DEVICES if world.plan_of(d).act is Act.INSTALL]
    assert sorted(installing) == sorted(exposed(world.rollout))
    assert len(installing) == 3


def test_widening_tells_the_next_ones() -> None:
    world = started().all_healthy()
    assert sum(world.plan_of(d).act is Act.INSTALL for d, _ in DEVICES) == 15
    world.all_healthy()
    assert all(world.plan_of(d).act is Act.INSTALL for d, _ in DEVICES)


@pytest.mark.parametrize("hold", ["pause", "trip"])
def test_pause_and_trip_stop_those_who_have_not_begun_and_resume_and_continue_let_them(hold: str) -> None:
    world = started().do(Pause("ann")) if hold == "pause" else tripped()
    second = world.rollout.cohort[1].device
    assert (world.plan_of(second).act, world.plan_of(second).why) == (Act.DEFER, Why.HOLD)
    assert world.plan_of(world.last).why is Why.CURRENT
    world.do(Resume() if hold == "pause" else Decide(Decision.CONTINUE))
    assert world.plan_of(second).act is Act.INSTALL
    assert world.plan_of(world.last).why is Why.CURRENT


def test_rollback_sends_back_who_moved_and_a_new_start_lifts_it() -> None:
    world = started()
    world.do(healthy(world.first), Decide(Decision.ROLLBACK))
    assert world.published is not None
    assert (world.published.targets, world.published.withdrawn) == ((), (NEW,))
    back = world.plan_of(world.first, RUNS, prev=RAN)
    assert (back.act, back.goal and back.goal.digest) == (Act.RETURN, OLD)
    assert world.plan_of(world.last).why is Why.CURRENT
    world.rollout = plan(settle=0.0)
    world.do(Start())
    assert world.published.withdrawn == ()
    assert world.plan_of(world.first).act is Act.INSTALL


@pytest.mark.parametrize("act", [Decide(Decision.ABORT), Cancel(), Expire()])
def test_abort_cancel_and_expire_leave_everybody_where_he_is(act: RolloutEvent) -> None:
    world = tripped().do(act)
    assert world.published is not None
    assert (world.published.targets, world.published.withdrawn, world.published.baseline) == ((), (), BASE)
    assert world.plan_of(world.first, RUNS, prev=RAN).why is Why.AHEAD
    assert world.plan_of(world.last).why is Why.CURRENT


def test_completing_makes_it_the_baseline_for_whoever_comes_later() -> None:
    world = started().all_healthy().all_healthy().all_healthy()
    assert world.rollout.state is RolloutState.COMPLETED
    assert world.published is not None
    assert (world.published.targets, world.published.baseline) == ((), GOAL)
    assert world.plan_of("dev-999").act is Act.INSTALL
    assert world.plan_of(world.first, RUNS).why is Why.CURRENT
    assert world.plan_of(world.first, refused={NEW: 1}).why is Why.REFUSED


def test_completing_a_restricted_one_leaves_the_baseline_and_stands() -> None:
    world = World(plan(waves=(3,), settle=0.0)).do(Start()).all_healthy()
    assert world.rollout.state is RolloutState.COMPLETED
    assert target(world.rollout) is None
    assert world.published is not None
    assert world.published.baseline == BASE
    assert [t.rollout for t in world.published.targets] == ["r-1"]
    assert world.plan_of(world.first).act is Act.INSTALL
    assert world.plan_of(world.last).why is Why.CURRENT


def test_retry_tells_those_that_refused_to_try_again() -> None:
    world = tripped()
    world.do(Decide(Decision.CONTINUE))
    assert world.plan_of(world.first, refused={NEW: 1}).why is Why.REFUSED
    world.do(Retry())
    again = world.plan_of(world.first, refused={NEW: 1})
    assert (again.act, again.goal and again.goal.attempt) == (Act.INSTALL, 2)


def test_a_rollback_over_what_is_already_the_baseline_leaves_no_baseline() -> None:
    world = World(plan(settle=0.0), GroupIntent(baseline=GOAL)).do(Start(), Decide(Decision.ROLLBACK))
    assert world.published is not None
    assert world.published.baseline is None
    assert world.intent == GroupIntent(withdrawn=(NEW,))


# --- the intent


def test_lifting_a_withdrawn_baseline_does_not_give_it_to_everybody_at_once() -> None:
    intent = GroupIntent(baseline=GOAL, standing=(a_target("r-0"), a_target("r-9", OTHER)))
    for effect in (Withdraw(NEW), Withdraw(NEW), Lift(NEW)):
        intent = applied(intent, effect)
    assert intent == GroupIntent(standing=(a_target("r-9", OTHER),))


def test_withdrawing_twice_is_withdrawing_once_and_the_order_is_kept() -> None:
    intent = GroupIntent()
    for digest in (NEW, OTHER, NEW):
        intent = applied(intent, Withdraw(digest))
    assert intent.withdrawn == (NEW, OTHER)
    assert applied(intent, Lift(NEW)).withdrawn == (OTHER,)
    assert applied(intent, Lift(OLD)) == intent


def test_more_withdrawn_releases_than_a_document_can_name_are_refused() -> None:
    full = GroupIntent(withdrawn=tuple(f"{n:064x}" for n in range(64)))
    assert len(document(full).withdrawn) == 64
    assert applied(full, Withdraw(f"{5:064x}")) == full
    with pytest.raises(FleetfootError) as refused:
        applied(full, Withdraw(NEW))
    assert refused.value.code == "conflict"
    assert full.withdrawn[0] in refused.value.remedy


@pytest.mark.parametrize("effect", [PublishDesired(), PublishProgress(), Emit(Event.ROLLOUT_STARTED)])
def test_what_is_no_intent_changes_none(effect: Effect) -> None:
    intent = GroupIntent(baseline=BASE, withdrawn=(OTHER,))
    assert applied(intent, effect) is intent


def ahead(name: str, counter: int, **options: Any) -> Target:
    return a_target(name, OTHER, **options).model_copy(
        update={"goal": GOAL.model_copy(update={"digest": OTHER, "counter": counter})}
    )


def test_a_new_baseline_supersedes_standing_targets_that_are_not_ahead_of_it() -> None:
    standing = (ahead("r-3", 3), ahead("r-2", 2), ahead("r-1", 1))
    intent = applied(GroupIntent(baseline=BASE, standing=standing), SetBaseline(GOAL))
    assert (intent.baseline, intent.standing) == (GOAL, (standing[0],))
    exactly = GOAL.model_copy(update={"mode": "exactly"})
    assert applied(GroupIntent(standing=standing), SetBaseline(exactly)).standing == ()


@pytest.mark.parametrize(
    ("old", "kept"),
    [
        ({}, False),
        ({"selector": {"site": "north"}}, False),
        ({"selector": {"site": "north", "floor": "2"}}, False),
        ({"selector": {"floor": "2"}}, True),
    ],
)
def test_a_new_standing_target_supersedes_those_it_covers(old: dict[str, Any], kept: bool) -> None:
    before = a_target("r-old", OTHER, **old)
    new = a_target("r-new", selector={} if not old else {"site": "north"})
    intent = applied(GroupIntent(standing=(before,)), Stand(new))
    assert intent.standing == ((new, before) if kept else (new,))


@pytest.mark.parametrize(
    "narrow", [{"stage_cut": "8" * 16, "activate_cut": "8" * 16}, {"exclude": ("dev-1",)}]
)
def test_a_standing_target_that_may_not_reach_all_supersedes_none(narrow: dict[str, Any]) -> None:
    before, new = a_target("r-old", OTHER), a_target("r-new", **narrow)
    assert applied(GroupIntent(standing=(before,)), Stand(new)).standing == (new, before)


def test_the_same_rollout_stands_once() -> None:
    narrow = {"stage_cut": "8" * 16, "activate_cut": "8" * 16}
    intent = GroupIntent()
    for _ in range(2):
        intent = applied(intent, Stand(a_target("r-1", **narrow)))
    assert len(intent.standing) == 1


def test_an_intent_comes_back_from_json() -> None:
    for intent in (
        GroupIntent(),
        GroupIntent(BASE, (NEW, OTHER), (ahead("r-1", 3, include=("dev-1",), selector={"a": "b"}),)),
    ):
        assert GroupIntent.from_json(json.loads(json.dumps(intent.to_json()))) == intent


# --- the document


def test_the_document_says_what_was_given_in_whole_seconds() -> None:
    made = document(GroupIntent(baseline=BASE), mirror="http://127.0.0.1:8000")
    assert (made.fleet, made.group, made.component, made.order) == ("acme", "hall", "kiosk", (1, 7))
    assert (made.issued, made.expires) == ("1970-01-01T00:16:40Z", "1970-01-01T00:17:40Z")
    assert (made.mirror, made.baseline, made.targets, made.hold) == ("http://127.0.0.1:8000", BASE, (), False)
    assert read(Desired, made.payload()) == made


def test_live_rollouts_stand_before_standing_targets() -> None:
    made = document(GroupIntent(standing=(a_target("r-old"),)), a_target("r-live"), a_target("r-second"))
    assert [t.rollout for t in made.targets] == ["r-live", "r-second", "r-old"]


def test_a_rollout_that_is_live_and_stands_is_named_once() -> None:
    made = document(GroupIntent(standing=(a_target("r-1"),)), a_target("r-1", hold=True))
    assert [(t.rollout, t.hold) for t in made.targets] == [("r-1", True)]


def test_a_ninth_target_is_refused_and_the_standing_ones_are_named() -> None:
    intent = GroupIntent(standing=tuple(a_target(f"r-{n}") for n in range(7)))
    assert len(document(intent, a_target("r-live")).targets) == 8
    with pytest.raises(FleetfootError) as refused:
        document(intent, a_target("r-live"), a_target("r-ninth"))
    assert refused.value.code == "conflict"
    assert all(f"r-{n}" in refused.value.message for n in range(7))


def test_a_withdrawn_baseline_is_left_out_and_a_withdrawn_target_refused() -> None:
    intent = GroupIntent(baseline=GOAL, withdrawn=(NEW,))
    assert document(intent).baseline is None
    with pytest.raises(FleetfootError, match="r-live is withdrawn"):
        document(intent, a_target("r-live"))

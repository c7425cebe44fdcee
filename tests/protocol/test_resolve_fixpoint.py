"""What `resolve` leads to (contract section 4): at most two moves to a fixpoint, and never to and fro.

The documents stay as they are; the device does what the plan says and asks again. Every world that
hypothesis thinks of, and all worlds of three releases, come to rest.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.resolve_cases import ALL, NOBODY, document, goal, installed, target

from fleetfoot_protocol.documents import Desired, Goal, Target
from fleetfoot_protocol.resolve import Act, Device, Plan, Why, resolve

MOVES = (Act.INSTALL, Act.RETURN)


@dataclass(frozen=True)
class World:
    """Documents, a device and the releases' floors: counter -> min_counter.

    clears, raises: whether a success forgets earlier refusals of the release, and whether a return raises
    the floor. The contract leaves both open; rest must not depend on them.
    """

    group: Desired | None
    own: Desired | None
    device: Device
    floors: Mapping[int, int]
    clears: bool = True
    raises: bool = True

    def plan(self) -> Plan:
        return resolve(self.group, self.own, self.device)

    def succeeded(self, plan: Plan) -> "World":
        """After the device did what the plan says."""
        assert plan.goal is not None
        device, counter = self.device, plan.goal.counter
        returning = plan.act is Act.RETURN
        refused = {d: a for d, a in device.refused.items() if not self.clears or d != plan.goal.digest}
        floor = device.floor if returning and not self.raises else max(device.floor, self.floors[counter])
        after = replace(
            device,
            run=installed(counter),
            prev=None if returning else device.run,
            refused=refused,
            floor=floor,
        )
        return replace(self, device=after)

    def failed(self, plan: Plan) -> "World":
        """After the device tried and went back to what it ran before."""
        assert plan.goal is not None
        attempt = max(plan.goal.attempt, self.device.refused.get(plan.goal.digest, 0))
        refused = {**self.device.refused, plan.goal.digest: attempt}
        return replace(self, device=replace(self.device, refused=refused))


def walk(world: World, failures: Iterable[bool] = ()) -> tuple[list[tuple[Plan, bool]], World]:
    """Every move until rest, each with whether it succeeded, and the world at rest.

    failures: for each move in turn whether it fails; those beyond succeed.
    """
    moves: list[tuple[Plan, bool]] = []
    fails = iter(failures)
    while (plan := world.plan()).act in MOVES:
        good = not next(fails, False)
        moves.append((plan, good))
        world = world.succeeded(plan) if good else world.failed(plan)
        assert len(moves) < 20, f"no rest: {[(p.act, p.goal and p.goal.version) for p, _ in moves]}"
    return moves, world


def comes_to_rest(world: World) -> None:
    """At most a return and an installation, in this order; no release is left and taken up again."""
    moves, after = walk(world)
    acts = [plan.act for plan, _ in moves]
    assert acts in ([], [Act.INSTALL], [Act.RETURN], [Act.RETURN, Act.INSTALL])
    ran = [world.device.run, *(installed(plan.goal.counter) for plan, _ in moves if plan.goal)]
    assert len(set(ran)) == len(ran)
    assert after.plan() == after.plan()
    assert after.plan().act not in MOVES
    if moves:
        rests_well(after)


def rests_well(world: World) -> None:
    """Where a device went by order, it does not rest on something withdrawn or below its floor unasked."""
    run = world.device.run
    assert run is not None
    live = world.own is not None and not world.own.released
    withdrawn = {*(world.group.withdrawn if world.group else ())}
    withdrawn |= {*(world.own.withdrawn if world.own and live else ())}
    assert run.digest not in withdrawn
    assert world.plan().why is not Why.NO_WAY_BACK


COUNTERS = (1, 2, 3, 4)
GOALS = st.builds(
    goal,
    st.sampled_from(COUNTERS),
    st.integers(1, 3),
    st.sampled_from(["at_least", "exactly"]),
)
CUTS = st.sampled_from([(ALL, ALL), (ALL, NOBODY), (NOBODY, NOBODY)])


@st.composite
def target_lists(draw: st.DrawFn) -> list[Target]:
    goals = draw(st.lists(GOALS, max_size=3))
    cuts = draw(st.lists(CUTS, min_size=len(goals), max_size=len(goals)))
    holds = draw(st.lists(st.booleans(), min_size=len(goals), max_size=len(goals)))
    return [
        target(g, *cut, hold=hold, rollout=f"r-{n}")
        for n, (g, cut, hold) in enumerate(zip(goals, cuts, holds, strict=True))
    ]


@st.composite
def documents(draw: st.DrawFn, device: str | None = None) -> Desired:
    targets, baseline = draw(target_lists()), draw(st.none() | GOALS)
    named = {t.goal.counter for t in targets} | ({baseline.counter} if baseline else set())
    return document(
        *targets,
        baseline=baseline,
        withdrawn=tuple(c for c in COUNTERS if c not in named and draw(st.booleans())),
        hold=draw(st.booleans()),
        released=device is not None and draw(st.booleans()),
        device=device,
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    placed = st.none() | st.sampled_from(COUNTERS).map(installed)
    refused = draw(st.dictionaries(st.sampled_from(COUNTERS), st.integers(1, 3), max_size=4))
    return World(
        group=draw(st.none() | documents()),
        own=draw(st.none() | documents("dev-001")),
        device=Device(
            id="dev-001",
            run=draw(placed),
            prev=draw(placed),
            refused={goal(counter).digest: attempt for counter, attempt in refused.items()},
            floor=draw(st.integers(0, 5)),
        ),
        floors={counter: draw(st.integers(0, counter)) for counter in COUNTERS},
        clears=draw(st.booleans()),
        raises=draw(st.booleans()),
    )


@given(worlds())
@settings(max_examples=400)
def test_a_device_comes_to_rest_after_at_most_two_moves(world: World) -> None:
    comes_to_rest(world)


@given(worlds(), st.lists(st.booleans(), max_size=12))
@settings(max_examples=400)
def test_a_device_comes_to_rest_though_moves_fail(world: World, failures: list[bool]) -> None:
    comes_to_rest_though(world, failures)


def comes_to_rest_though(world: World, failures: Iterable[bool]) -> None:
    """Each failure is final for its attempt, and there are no more successes than without failures."""
    moves, after = walk(world, failures)
    assert after.plan().act not in MOVES
    # Three ways back and one goal can fail; a return and an installation can succeed.
    failed = [(plan.goal.digest, plan.goal.attempt) for plan, good in moves if plan.goal and not good]
    assert len(failed) <= 4
    assert len(set(failed)) == len(failed), "what failed is not tried again in the same attempt"
    succeeded = [plan.act for plan, good in moves if good]
    assert succeeded in ([], [Act.INSTALL], [Act.RETURN], [Act.RETURN, Act.INSTALL])


@given(worlds())
@settings(max_examples=150)
def test_an_installation_that_fails_leaves_what_ran_and_is_refused(world: World) -> None:
    plan = world.plan()
    if plan.act is not Act.INSTALL:
        return
    after = world.failed(plan)
    assert (after.device.run, after.device.prev) == (world.device.run, world.device.prev)
    assert after.plan() == replace(plan, act=Act.REJECT, why=Why.REFUSED)


@given(worlds())
@settings(max_examples=150)
def test_a_plan_is_never_below_the_floor_nor_to_what_is_withdrawn(world: World) -> None:
    plan = world.plan()
    if plan.act in (*MOVES, Act.STAGE):
        assert plan.goal is not None
        assert plan.goal.counter >= world.device.floor
        assert world.group is None or plan.goal.digest not in world.group.withdrawn
        assert world.device.run is None or plan.goal.digest != world.device.run.digest
        assert world.device.refused.get(plan.goal.digest, 0) < plan.goal.attempt


# -- all worlds of three releases

SMALL = (1, 2, 3)
CHOICES: tuple[Goal | None, ...] = (
    None,
    *(goal(counter, mode="at_least") for counter in SMALL),
    *(goal(counter, mode="exactly") for counter in SMALL),
)
SUBSETS = tuple(chain.from_iterable(combinations(SMALL, size) for size in range(len(SMALL) + 1)))


def small_documents(device: str | None, targets: tuple[Goal | None, ...] = CHOICES) -> Iterator[Desired]:
    """Every document of at most one target, a baseline and withdrawn releases."""
    for wanted, baseline, withdrawn in product(targets, CHOICES, SUBSETS):
        if not {g.counter for g in (wanted, baseline) if g} & set(withdrawn):
            to = (target(wanted),) if wanted else ()
            yield document(*to, baseline=baseline, withdrawn=withdrawn, device=device)


def small_devices() -> Iterator[Device]:
    for run, prev, floor in product((None, *SMALL), (None, *SMALL), (0, 2, 3)):
        yield Device(
            id="dev-001",
            run=installed(run) if run else None,
            prev=installed(prev) if prev else None,
            floor=floor,
        )


DEVICES = tuple(small_devices())
FLOORS = (dict.fromkeys(SMALL, 0), {counter: counter for counter in SMALL})


#: Which moves fail, in turn; the last: all that can.
PATTERNS = ((True,), (False, True), (True, False, True), (True,) * 20)


def test_all_small_worlds_with_a_group_document_come_to_rest() -> None:
    groups = (None, *small_documents(None))
    for group, device, floors in product(groups, DEVICES, FLOORS):
        world = World(group, None, device, floors)
        comes_to_rest(world)
        for failures in PATTERNS:
            comes_to_rest_though(world, failures)


def test_all_small_worlds_with_a_device_document_come_to_rest() -> None:
    # Beside a live device document nothing of the group counts but its baseline and what it withdrew.
    groups = [g for g in small_documents(None, (None,)) if not g.baseline or g.baseline.mode == "at_least"]
    owns = [o for o in small_documents("dev-001") if not (o.targets and o.baseline)]
    for turn, (group, own) in enumerate(product(groups, owns)):
        for at, device in enumerate(DEVICES):
            world = World(group, own, device, FLOORS[(turn + at) % 2])
            comes_to_rest(world)
            comes_to_rest_though(world, PATTERNS[(turn // 2 + at) % len(PATTERNS)])


@pytest.mark.parametrize("run", SMALL)
def test_what_a_group_withdrew_is_not_installed_for_the_device_document(run: int) -> None:
    # Without this a device would install, recall, install ... for as long as both documents stand.
    group = document(baseline=goal(1), withdrawn=(2,))
    own = document(baseline=goal(2, mode="exactly"), device="dev-001")
    world = World(group, own, Device(id="dev-001", run=installed(run)), FLOORS[0])
    moves, after = walk(world)
    assert [plan.act for plan, _ in moves] == ([Act.RETURN] if run == 2 else [])
    assert after.plan().why is Why.WITHDRAWN

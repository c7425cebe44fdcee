"""What holds of a rollout whatever happens to it, in any order: checked after each event of random walks."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.manager.rollouts import GOAL, NEW, OLD, S, T

from fleetfoot_manager.effects import Effect, PublishDesired, SetBaseline, Stand, Withdraw
from fleetfoot_manager.rollout import (
    Activate,
    Approve,
    Cancel,
    Decide,
    Decision,
    DeviceTable,
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
    next_deadline,
    planned,
    target,
)
from fleetfoot_manager.rollout_gate import AWAITS_ACTIVATION, AWAITS_APPROVAL
from fleetfoot_manager.rollout_reports import FINAL
from fleetfoot_protocol import admission
from fleetfoot_protocol.states import RolloutState, Terminal

TIMEOUT, SETTLE = 100.0, 30.0
WALKS = settings(max_examples=150)
#: What the gate asks of waves.
MARKS = ("all", "success", "passive", "waiting", "due", "moving", *Terminal)
PEOPLE = (Pause, Resume, Decide, Retry, Cancel, Expire)


@dataclass
class Walk:
    """A rollout on its way, with everything that must hold of each step."""

    rollout: Rollout
    now: float = 0.0
    original: frozenset[str] = frozenset()
    joined: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.original = frozenset(self.rollout.devices)

    def take(self, event: RolloutEvent) -> bool:
        """One event; False if it was refused."""
        before = self.rollout
        known = json.dumps(before.to_json())
        due = next_deadline(before)
        try:
            after, done = advance(before, event, self.now)
        except IllegalTransition:
            assert json.dumps(before.to_json()) == known
            return False
        assert json.dumps(before.to_json()) == known
        if isinstance(event, Joined) and event.device not in self.original:
            self.joined.add(event.device)
        if isinstance(event, Tick) and due is not None:
            assert (after is not before) == (self.now >= due), "a tick acts exactly when it is due"
        self.check_step(before, after, event, done)
        self.check_state(after)
        self.rollout = after
        return True

    def check_step(
        self, before: Rollout, after: Rollout, event: RolloutEvent, done: tuple[Effect, ...]
    ) -> None:
        if after is before:
            assert done == ()
            return
        assert after.revision == before.revision + 1
        assert (after.steered == after.revision) == (
            (before.state, before.wave, before.goal) != (after.state, after.wave, after.goal)
        )
        if target(after) != target(before):
            assert PublishDesired() in done
        assert after.wave >= before.wave
        if before.state is S.TRIPPED and not isinstance(event, PEOPLE):
            assert (after.state, after.wave, target(after)) == (S.TRIPPED, before.wave, target(before))
        self.check_widening(before, after)
        self.check_outcomes(before, after, event)
        if after.state is S.COMPLETED and before.state is not S.COMPLETED:
            wide = after.waves[-1] == len(self.original) and not after.selector
            (intent,) = [effect for effect in done if isinstance(effect, SetBaseline | Stand)]
            assert isinstance(intent, SetBaseline) == wide
        if after.state in (S.ROLLING_BACK, S.ROLLED_BACK) and before.state not in (
            S.ROLLING_BACK,
            S.ROLLED_BACK,
        ):
            assert Withdraw(NEW) in done

    def check_widening(self, before: Rollout, after: Rollout) -> None:
        """No wave is left behind without a success, and none opens beyond the breaker."""
        left = range(before.from_wave, after.from_wave)
        records = list(after.devices.values())
        assert not left or any(record.success for record in records if record.wave in left)
        merged = range(after.from_wave, after.wave)
        assert before.wave == after.wave or all(
            record.terminal is T.SKIPPED for record in records if record.wave in merged
        )
        going = after.wave > before.wave and after.state in (S.RUNNING, S.SETTLING) and after.breaker
        if going and after.consecutive:
            assert after.streak < after.breaker
        elif going:
            assert after.devices.failures - after.failures_before < after.breaker

    def check_outcomes(self, before: Rollout, after: Rollout, event: RolloutEvent) -> None:
        for device, old in before.devices.items():
            new = after.devices[device]
            if old.terminal in FINAL and new.terminal is not old.terminal:
                assert isinstance(event, Retry)
                assert old.terminal is not T.HEALTHY
                assert after.goal.attempt == before.goal.attempt + 1
            if new.terminal in FINAL and new.terminal is not old.terminal:
                assert isinstance(event, Report)
                assert (event.device, event.terminal) == (device, new.terminal)
                assert (event.rollout, event.attempt) == (before.id, before.goal.attempt)
                assert old.since is not None
                assert event.running == NEW or new.terminal is not T.HEALTHY

    def check_state(self, rollout: Rollout) -> None:
        assert Rollout.from_json(json.loads(json.dumps(rollout.to_json()))) == rollout
        fresh = DeviceTable(dict(rollout.devices))
        for name in ("counts", "failures", "awaited", "first_awaited", "moved"):
            assert getattr(rollout.devices, name) == getattr(fresh, name)
        for wave, mark in product(range(len(rollout.waves) + 1), MARKS):
            assert rollout.devices.sum(mark, [wave]) == fresh.sum(mark, [wave])
        ids = [member.device for member in rollout.cohort]
        assert sorted(ids) == sorted(rollout.devices)
        assert ids == admission.ranked(rollout.salt, [admission.Candidate(d, {}) for d in ids])
        exposed = {device for device, record in rollout.devices.items() if record.since is not None}
        assert len(exposed) <= rollout.approved + len(self.joined)
        assert (target(rollout) is None) == (
            rollout.state not in (S.RUNNING, S.SETTLING, S.PAUSED, S.TRIPPED)
        )
        assert rollout.state not in (S.RUNNING, S.SETTLING) or next_deadline(rollout) is not None
        stands = target(rollout)
        if stands is not None:
            waits = rollout.reason in (AWAITS_APPROVAL, AWAITS_ACTIVATION)
            assert stands.hold == (rollout.state in (S.PAUSED, S.TRIPPED) and not waits)
            cut = stands.stage_cut
            admitted = {d for d in ids if admission.admitted(stands, d, rollout.selector, cut)}
            activating = {
                d for d in ids if admission.admitted(stands, d, rollout.selector, stands.activate_cut)
            }
            allowed = rollout.waves[rollout.wave - 1] if rollout.wave else 0
            assert len(activating & self.original) == allowed
            assert len(admitted & self.original) == rollout.approved
            assert admitted - self.original <= self.joined
            assert exposed <= admitted
            assert {device for device in admitted if not rollout.devices[device].gone} <= exposed


# --- worlds and moves


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    total = draw(st.integers(1, 12))
    devices = [(f"dev-{n:02}", ("hall", "yard")[n % 2]) for n in range(total)]
    waves = draw(st.sets(st.integers(1, total), min_size=1, max_size=4))
    if draw(st.booleans()):
        waves.add(total)
    return planned(
        id="r-1",
        component="kiosk",
        goal=GOAL,
        devices=devices,
        waves=tuple(sorted(waves)),
        now=0.0,
        salt=f"salt-{draw(st.integers(0, 50))}",
        groups=("hall", "yard"),
        selector=draw(st.sampled_from([{}, {}, {"site": "north"}])),
        already=draw(st.sets(st.sampled_from([d for d, _ in devices]), max_size=2)),
        settle=draw(st.sampled_from([0.0, SETTLE])),
        device_timeout=TIMEOUT,
        breaker=draw(st.integers(0, 3)),
        stage=draw(st.sampled_from(["", "", "", "first", "only"])),
        consecutive=draw(st.booleans()),
        each_wave=draw(st.sampled_from([False, False, True])),
        failure_percent=draw(st.sampled_from([0, 0, 30])),
        min_successes=draw(st.sampled_from([1, 1, 2])),
        approval=draw(st.sampled_from([False, False, False, True])),
    )


@dataclass(frozen=True)
class Wait:
    """Time passes, and a Tick tells; None: until the next deadline."""

    seconds: float | None


@dataclass(frozen=True)
class Answers:
    """Some of the awaited devices, by a mask, end as told."""

    terminal: Terminal
    mask: int


Move = RolloutEvent | Wait | Answers
DEVICES = st.integers(0, 14).map(lambda n: f"dev-{n:02}")
REPORTS = st.builds(
    Report,
    device=DEVICES,
    running=st.sampled_from([NEW, NEW, OLD, OLD, None]),
    terminal=st.sampled_from([None, *Terminal]),
    code=st.sampled_from(["", "upgrade_boot_failed", "a code of tomorrow"]),
    rollout=st.sampled_from(["r-1", "r-1", "r-1", "r-2", None]),
    attempt=st.sampled_from([1, 1, 1, 2, None]),
)
ENDS = st.sampled_from([T.HEALTHY, T.HEALTHY, T.FAILED, T.ROLLED_BACK, T.ACTIVE])
WAITS = st.sampled_from([None, None, 0.0, 1.0, SETTLE, TIMEOUT, 500.0])
ON: st.SearchStrategy[Move] = st.one_of(
    REPORTS,
    st.builds(Answers, ENDS, st.integers(1, 15)),
    st.builds(Answers, st.just(T.HEALTHY), st.just(15)),
    st.builds(Wait, WAITS),
    st.builds(Wait, st.none()),
    st.builds(Joined, DEVICES, st.sampled_from(["hall", "yard"])),
    st.builds(Left, DEVICES),
    st.sampled_from([Pause("ann"), Resume(), Retry(), Decide(Decision.CONTINUE), Resume(), Start()]),
    st.sampled_from([Approve(), Activate("ann")]),
    st.builds(Answers, st.just(T.STAGED), st.just(15)),
)
STOPS: st.SearchStrategy[Move] = st.sampled_from(
    [Decide(Decision.ROLLBACK), Decide(Decision.ABORT), Cancel(), Expire(), Approve()]
)


def play(walk: Walk, moves: Iterable[Move]) -> None:
    for move in moves:
        match move:
            case Wait(seconds):
                due = next_deadline(walk.rollout)
                walk.now = max(walk.now, due or 0.0) if seconds is None else walk.now + seconds
                walk.take(Tick())
            case Answers(terminal, mask):
                answer(walk, terminal, mask)
            case _:
                walk.now += 0.5
                walk.take(move)


def answer(walk: Walk, terminal: Terminal, mask: int = 15) -> None:
    awaited = [device for device, record in walk.rollout.devices.items() if record.awaited]
    running = NEW if terminal is T.HEALTHY else OLD
    for place, device in enumerate(sorted(awaited)):
        if mask >> place % 4 & 1:
            attempt = walk.rollout.goal.attempt
            walk.take(Report(device, running, terminal, rollout="r-1", attempt=attempt))


def begun(rollout: Rollout) -> Walk:
    walk = Walk(rollout)
    if rollout.state is S.AWAITING_APPROVAL:
        assert walk.take(Approve())
    assert walk.take(Start())
    return walk


def drive(walk: Walk, decision: Decision, answering: bool) -> None:
    """To the end: people do what is asked of them; devices answer, or only time passes."""
    people: dict[RolloutState, RolloutEvent] = {
        S.AWAITING_APPROVAL: Approve(),
        S.PLANNED: Start(),
        S.PAUSED: Resume(),
        S.TRIPPED: Decide(decision),
    }
    words: dict[str, RolloutEvent] = {AWAITS_APPROVAL: Approve(), AWAITS_ACTIVATION: Activate("ann")}
    for _ in range(20 + 5 * len(walk.rollout.waves) + len(walk.rollout.devices) + 10):
        state = walk.rollout.state
        if state.ended:
            return
        if walk.rollout.reason in words:
            assert walk.take(words[walk.rollout.reason])
        elif state in people:
            assert walk.take(people[state])
        elif answering and state is S.RUNNING and walk.rollout.devices.awaited:
            answer(walk, T.STAGED if walk.rollout.staging else T.HEALTHY)
        else:
            play(walk, [Wait(None)])
    raise AssertionError(f"still {walk.rollout.state}")


# --- the properties


@given(
    rollouts(),
    st.lists(ON, min_size=1, max_size=25),
    st.lists(st.one_of(STOPS, ON), max_size=10),
    st.sampled_from([Decision.ROLLBACK, Decision.ABORT]),
    st.booleans(),
)
@settings(max_examples=200)
def test_whatever_happens_the_rules_hold_and_every_rollout_ends(
    rollout: Rollout, moves: list[Move], stops: list[Move], decision: Decision, answering: bool
) -> None:
    walk = begun(rollout)
    play(walk, moves)
    note(f"reached {walk.rollout.state} in wave {walk.rollout.wave}")
    play(walk, stops)
    drive(walk, decision, answering)
    note(f"ended {walk.rollout.state}")


@given(rollouts(), st.lists(st.one_of(STOPS, ON), max_size=8))
@WALKS
def test_the_rules_hold_before_a_start_too(rollout: Rollout, moves: list[Move]) -> None:
    walk = Walk(rollout)
    play(walk, moves)
    drive(walk, Decision.ROLLBACK, answering=True)


@given(rollouts())
@WALKS
def test_a_rollout_of_which_every_device_proves_healthy_completes(rollout: Rollout) -> None:
    walk = begun(rollout)
    drive(walk, Decision.ABORT, answering=True)
    assert walk.rollout.state is S.COMPLETED
    assert all(record.success for record in walk.rollout.devices.values() if record.wave)


@given(rollouts(), st.lists(REPORTS, max_size=20))
@WALKS
def test_a_hold_by_a_trip_stands_whatever_devices_say_and_however_long_it_lasts(
    rollout: Rollout, reports: list[Report]
) -> None:
    walk = begun(rollout)
    answer(walk, T.FAILED)
    if walk.rollout.state is not S.TRIPPED:
        return
    stood = target(walk.rollout)
    for report in reports:
        play(walk, [report, Wait(1000.0)])
        assert (walk.rollout.state, target(walk.rollout)) == (S.TRIPPED, stood)


@given(st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=60)
def test_for_every_k_a_wave_exposes_exactly_k(total: int, seed: int) -> None:
    devices = [(f"dev-{n:02}", ("hall", "yard", "roof")[n % 3]) for n in range(total)]
    rollout = planned(
        id="r-1",
        component="kiosk",
        goal=GOAL,
        devices=devices,
        waves=tuple(range(1, total + 1)),
        now=0.0,
        salt=f"salt-{seed}",
        settle=0.0,
    )
    walk = begun(rollout)
    for k in range(1, total + 1):
        stands = target(walk.rollout)
        assert stands is not None
        admitted = [d for d, _ in devices if admission.admitted(stands, d, {}, stands.stage_cut)]
        assert len(admitted) == k
        answer(walk, T.HEALTHY)
    assert walk.rollout.state is S.COMPLETED

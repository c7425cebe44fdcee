"""Rollouts, one after the other, as a machine: people, devices, time and crashes in any order.

Everything is real but the shell: the engine's core decides, `compose` makes the documents, each device does
what its own `resolve` of the published document says. The machine is the shell: it keeps what is stored,
applies effects in their order, and loses everything else in a crash.
"""

import json
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.manager.rollouts import NEW, OLD, S, T
from tests.manager.rolloutwatch import Watch
from tests.manager.test_rollout_properties import REPORTS

from fleetfoot_manager import compose
from fleetfoot_manager.compose import GroupIntent
from fleetfoot_manager.documents import next_sequence
from fleetfoot_manager.effects import Effect, Lift, PublishDesired, SetBaseline, Stand, Withdraw
from fleetfoot_manager.rollout import (
    TRANSITIONS,
    Activate,
    Approve,
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
    Supersede,
    Tick,
    advance,
    due,
    next_deadline,
    planned,
    target,
)
from fleetfoot_manager.rollout_events import kind_of
from fleetfoot_manager.rollout_gate import AWAITS_ACTIVATION, AWAITS_APPROVAL
from fleetfoot_protocol.documents import Desired, Goal, read
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.resolve import Act, Device, Plan, Why, resolve
from fleetfoot_protocol.states import RolloutState, Terminal

GROUPS = ("hall", "yard")
LABELS = {"site": "north"}
NEWER = "c" * 64
RELEASES = {
    digest: Goal(version=f"1.{counter}.0", counter=counter, digest=digest, length=1000)
    for counter, digest in enumerate((OLD, NEW, NEWER), start=1)
}
DEVICES = st.integers(0, 9).map(lambda n: f"dev-{n:02}")
PEOPLE: tuple[RolloutEvent, ...] = (
    Approve(),
    Activate("ann"),
    Start(),
    Bless(),
    Pause("ann"),
    Resume(),
    Retry(),
    Decide(Decision.CONTINUE),
    Decide(Decision.ROLLBACK),
    Decide(Decision.ABORT),
    Cancel(),
    Expire(),
)
#: Most of the time people do what gets a rollout on.
ONWARD = st.sampled_from(
    [Approve(), Activate("ann"), Start(), Start(), Bless(), Resume(), Retry(), Decide(Decision.CONTINUE)]
)
#: What people do about devices that failed.
REACTIONS: st.SearchStrategy[RolloutEvent] = st.sampled_from(
    [Decide(Decision.CONTINUE), Retry(), Decide(Decision.ROLLBACK), Decide(Decision.ABORT), Tick()]
)
ENDS = st.sampled_from([T.ACTIVE, T.HEALTHY, T.HEALTHY, T.HEALTHY, T.ROLLED_BACK, T.FAILED])


#: How a rollout goes out, beside waves and breaker.
FORMS: dict[str, st.SearchStrategy[Any]] = {
    "stage": st.sampled_from(["", "first", "only"]),
    "each_wave": st.booleans(),
    "min_successes": st.sampled_from([1, 2, 3]),
    "failure_percent": st.sampled_from([0, 20, 50]),
    "consecutive": st.booleans(),
    "include": st.booleans(),
    "listed": st.booleans(),
    "withdraws": st.booleans(),
    "lives_until": st.sampled_from([50.0, 400.0]),
}


def installed(goal: Goal) -> Installed:
    return Installed(version=goal.version, counter=goal.counter, digest=goal.digest)


class Fleet(RuleBasedStateMachine):
    """A manager's shell around its core, and the devices that read what it publishes."""

    @initialize(devices=st.integers(1, 8))
    def begin(self, devices: int) -> None:
        self.now = 1_000.0
        self.behind = 0.0
        self.rollout: Rollout | None = None
        self.count = 0
        self.intents = {g: GroupIntent(baseline=RELEASES[OLD]) for g in GROUPS}
        self.orders: dict[str, tuple[int, int]] = dict.fromkeys(GROUPS, (1, 0))
        self.published: dict[str, Desired] = {}
        self.home = {f"dev-{n:02}": GROUPS[n % 2] for n in range(devices)}
        self.runs = dict.fromkeys((f"dev-{n:02}" for n in range(10)), RELEASES[OLD])
        self.refused: dict[str, dict[str, int]] = {device: {} for device in self.runs}
        self.joined: set[str] = set()
        self.original: frozenset[str] = frozenset()
        self.watch = Watch()
        self.taken: RolloutEvent | None = None
        for group in GROUPS:
            self.publish(group)

    # -- the shell

    def document(self, group: str, order: tuple[int, int]) -> Desired:
        stands = target(self.rollout) if self.rollout is not None else None
        return compose.desired(
            self.intents[group],
            () if stands is None else (stands,),
            fleet="acme",
            group=group,
            component="kiosk",
            epoch=order[0],
            sequence=order[1],
            issued=1_000.0,
            expires=2_000_000.0,
        )

    def publish(self, group: str) -> None:
        epoch, last = self.orders[group]
        document = self.document(group, (epoch, next_sequence(last, self.now - self.behind)))
        assert read(Desired, document.payload()) == document, "what is published is well-formed"
        assert document.order > self.orders[group], "the order never goes back"
        before = self.published.get(group)
        self.check_hold(before, document)
        self.published[group], self.orders[group] = document, document.order

    def check_hold(self, before: Desired | None, after: Desired) -> None:
        """While a hold stands nothing is wider than it was, unless a person's word comes between."""
        if not isinstance(self.taken, Report | Tick | Joined | Left | Away):
            return
        held = {t.rollout: t for t in before.targets if t.hold} if before is not None else {}
        for one in after.targets:
            if one.hold and one.rollout in held:
                assert one.stage_cut == held[one.rollout].stage_cut
                assert one.activate_cut == held[one.rollout].activate_cut
            assert not one.hold or one.goal.digest not in after.withdrawn

    def take(self, event: RolloutEvent) -> bool:
        """One event on the rollout; False if it was refused, which must change nothing."""
        before = self.rollout
        assert before is not None
        known = json.dumps(before.to_json())
        try:
            after, effects = advance(before, event, self.now)
        except IllegalTransition:
            assert json.dumps(before.to_json()) == known
            return False
        assert kind_of(event) in TRANSITIONS[before.state]
        assert json.dumps(before.to_json()) == known
        self.check_end(before, after, event, effects)
        self.watch.step(before, event, after, self.now)
        self.rollout, self.taken = after, event
        self.do(effects)
        self.check_intents(before, after)
        return True

    def check_intents(self, before: Rollout, after: Rollout) -> None:
        """What an act leaves behind in the documents of its groups (contract section 5)."""
        for group in after.groups:
            intent, document = self.intents[group], self.published[group]
            if before.started is None and after.started is not None:
                assert after.goal.digest not in document.withdrawn, "started, and still withdrawn"
            if after.state is before.state:
                continue
            if after.state in (S.ROLLING_BACK, S.ROLLED_BACK):
                assert after.goal.digest in document.withdrawn, "going back without a recall"
            if after.state is S.COMPLETED and after.withdraws:
                assert after.withdraws in document.withdrawn, "what it came back from stays"
            if after.state is S.COMPLETED and not after.restricted:
                assert intent.baseline is not None
                assert intent.baseline.digest == after.goal.digest, "completed, and no baseline"
            elif after.state is S.COMPLETED and not after.withdraws:
                assert document.targets[0].rollout == after.id, "completed, and does not stand"
                assert not document.targets[0].hold

    def do(self, effects: tuple[Effect, ...]) -> None:
        assert self.rollout is not None
        for effect in effects:
            for group in self.rollout.groups:
                if isinstance(effect, Lift | Withdraw | SetBaseline | Stand):
                    self.intents[group] = compose.applied(self.intents[group], effect)
                elif isinstance(effect, PublishDesired):
                    self.publish(group)

    def check_end(
        self, before: Rollout, after: Rollout, event: RolloutEvent, effects: tuple[Effect, ...]
    ) -> None:
        assert not before.state.ended or after.state is before.state, "what has ended stays so"
        assert not before.state.ended or PublishDesired() not in effects
        if after.state.ended and not before.state.ended:
            wanted = after.state is S.COMPLETED
            lasting = (Withdraw,) if after.withdraws else (SetBaseline, Stand)
            back = isinstance(event, Decide)  # that withdraws the goal itself
            assert back or wanted == any(isinstance(e, lasting) for e in effects)
        permits = isinstance(event, Approve | Activate | Bless)
        if before.state in (S.PAUSED, S.TRIPPED) and after.state is before.state and not permits:
            # Whoever comes, or comes back, is exposed by the cut that stands already: nobody else.
            newly = {d for d, r in after.devices.items() if r.since is not None} - {
                d for d, r in before.devices.items() if r.since is not None
            }
            assert newly <= ({event.device} if isinstance(event, Joined) else set())

    @property
    def live(self) -> Rollout | None:
        return self.rollout if self.rollout is not None and not self.rollout.state.ended else None

    # -- people

    @precondition(lambda self: self.live is None and self.home and len(self.intents["hall"].standing) < 6)
    @rule(data=st.data(), digest=st.sampled_from([NEW, NEW, NEWER, OLD]), down=st.booleans())
    def somebody_plans(self, data: st.DataObject, digest: str, down: bool) -> None:
        """Also over the one before, which the new one then supersedes."""
        total = len(self.home)
        waves = data.draw(st.sets(st.integers(1, total), min_size=1, max_size=3)) | data.draw(
            st.sampled_from([set(), {total}])
        )
        mode = "exactly" if down else "at_least"
        goal = RELEASES[digest].model_copy(update={"mode": mode, "attempt": 1})
        pace, waves = self.pace(data, digest, waves)
        self.count += 1
        self.rollout = planned(
            id=f"r-{self.count}",
            component="kiosk",
            goal=goal,
            devices=list(self.home.items()),
            waves=tuple(sorted(waves)),
            now=self.now,
            groups=GROUPS,
            selector=data.draw(st.sampled_from([{}, {}, LABELS])),
            already={d for d in self.home if self.runs[d].digest == digest},
            settle=data.draw(st.sampled_from([0.0, 30.0])),
            device_timeout=100.0,
            # A breaker of one or two would trip before any share of so few devices does.
            breaker=0 if "failure_percent" in pace else data.draw(st.integers(0, 2)),
            approval=data.draw(st.sampled_from([False, False, True])),
            canary=data.draw(st.sampled_from([False, False, False, True])),
            **pace,
        )
        self.original, self.joined, self.watch = frozenset(self.home), set(), Watch()
        if data.draw(st.sampled_from([True, True, True, False])):
            self.take(Approve())
            self.take(Start())

    def pace(self, data: st.DataObject, digest: str, waves: set[int]) -> tuple[dict[str, Any], set[int]]:
        """How else it goes out: half of the rollouts have something of it."""
        if data.draw(st.booleans()):
            return {}, waves
        pace = data.draw(st.fixed_dictionaries({}, optional=FORMS))
        pace = {name: value for name, value in pace.items() if value}
        if pace.pop("withdraws", False):
            pace["withdraws"] = next(one for one in RELEASES if one != digest)
        if "lives_until" in pace:
            pace["lives_until"] += self.now
        if pace.pop("include", False):
            named = tuple(sorted(self.home)[: min(waves)])
            pace["include"], waves = named, {len(named)} | {n for n in waves if n > len(named)}
        if pace.get("listed") or ("include" in pace and len(waves) == 1):
            pace.pop("stage", None)
        return pace, waves

    @precondition(lambda self: self.rollout is not None)
    @rule(event=ONWARD)
    def somebody_gets_it_on(self, event: RolloutEvent) -> None:
        self.take(event)

    @precondition(lambda self: self.rollout is not None)
    @rule(event=st.sampled_from(PEOPLE))
    def somebody_acts(self, event: RolloutEvent) -> None:
        taken = self.take(event)
        assert self.rollout is not None
        assert not taken or self.rollout.state is not S.AWAITING_APPROVAL or isinstance(event, Bless)

    @precondition(lambda self: self.live is not None and self.live.state in (S.RUNNING, S.SETTLING))
    @rule(word=st.sampled_from([Pause("ann"), Pause("ann"), Decide(Decision.ROLLBACK)]))
    def somebody_stops_what_is_under_way(self, word: RolloutEvent) -> None:
        assert self.take(word)

    @precondition(lambda self: self.live is not None and self.live.wave)
    @rule(data=st.data(), digest=st.sampled_from([NEW, NEWER]))
    def somebody_supersedes(self, data: st.DataObject, digest: str) -> None:
        """Another rollout takes the place of the one that is live."""
        if len(self.intents["hall"].standing) < 6 and self.take(Supersede(f"r-{self.count + 1}")):
            self.somebody_plans(data, digest, False)

    @precondition(lambda self: self.rollout is not None and self.rollout.state in (S.PAUSED, S.TRIPPED))
    @rule(event=st.sampled_from([Resume(), Decide(Decision.CONTINUE), Decide(Decision.ROLLBACK), Retry()]))
    def somebody_ends_the_hold(self, event: RolloutEvent) -> None:
        self.take(event)

    # -- devices

    def asks(self, device: str) -> Plan:
        facts = Device(device, LABELS, installed(self.runs[device]), None, self.refused[device])
        return resolve(self.published[self.home[device]], None, facts)

    def obey(self, ends: list[Terminal]) -> None:
        """Devices that are asked to install or stage do, and tell the truth about how it went."""
        asked = [(d, p) for d in sorted(self.home) if (p := self.asks(d)).act in (Act.INSTALL, Act.STAGE)]
        for (device, plan), end in zip(asked, ends, strict=False):
            assert plan.goal is not None
            goal = plan.goal
            if end is T.HEALTHY and plan.act is Act.STAGE:
                end = T.STAGED
            elif end is T.HEALTHY:
                self.runs[device] = goal
            if end in (T.FAILED, T.ROLLED_BACK):
                self.refused[device][goal.digest] = goal.attempt
            running = self.runs[device].digest
            self.take(Report(device, running, end, rollout=plan.rollout, attempt=goal.attempt))

    @precondition(lambda self: self.live is not None and self.live.started)
    @rule(ends=st.lists(ENDS, min_size=1, max_size=4))
    def devices_obey(self, ends: list[Terminal]) -> None:
        self.obey(ends)

    @precondition(lambda self: self.live is not None and self.live.started)
    @rule(waves=st.integers(1, 3), words=st.lists(ONWARD, max_size=2))
    def waves_go_well(self, waves: int, words: list[RolloutEvent]) -> None:
        for _ in range(waves):
            self.obey([T.HEALTHY] * 10)
            self.time_brings(next_deadline(self.rollout) if self.rollout else None)
        for word in words:
            self.take(word)

    @precondition(lambda self: self.live is not None and self.live.started)
    @rule(ends=st.lists(st.sampled_from([T.FAILED, T.HEALTHY]), min_size=1, max_size=4), word=REACTIONS)
    def devices_fail_and_somebody_reacts(self, ends: list[Terminal], word: RolloutEvent) -> None:
        self.obey(ends)
        self.take(word)

    @precondition(lambda self: self.live is not None and self.live.state is S.ROLLING_BACK)
    @rule()
    def a_device_on_its_way_back_says_so(self) -> None:
        for device in sorted(self.home):
            if self.asks(device).act is Act.RETURN:
                self.take(Report(device, self.runs[device].digest, T.ACTIVE))

    @precondition(lambda self: self.rollout is not None)
    @rule()
    def devices_go_back_where_recalled(self) -> None:
        for device in sorted(self.home):
            plan = self.asks(device)
            if plan.act is Act.RETURN:
                assert plan.goal is not None
                assert plan.goal.digest not in self.published[self.home[device]].withdrawn
                self.runs[device] = RELEASES[plan.goal.digest]
                self.take(Report(device, plan.goal.digest))

    @precondition(lambda self: self.rollout is not None)
    @rule(report=REPORTS)
    def somebody_says_anything(self, report: Report) -> None:
        self.take(report)

    @precondition(lambda self: self.live is not None)
    @rule(device=DEVICES, group=st.sampled_from(GROUPS))
    def a_device_comes(self, device: str, group: str) -> None:
        if device not in self.original:
            self.joined.add(device)
        if self.take(Joined(device, group)):
            self.home[device] = group

    @precondition(lambda self: self.live is not None and len(self.home) > 1)
    @rule(device=DEVICES)
    def a_device_leaves(self, device: str) -> None:
        if device in self.home and self.take(Left(device)):
            del self.home[device]

    @precondition(lambda self: self.live is not None and self.live.state is S.RUNNING)
    @rule(devices=st.sets(DEVICES, max_size=3))
    def devices_are_away(self, devices: set[str]) -> None:
        self.take(Away(frozenset(devices)))

    # -- time and crashes

    @precondition(lambda self: self.rollout is not None)
    @rule(seconds=st.sampled_from([None, None, 1.0, 30.0, 100.0, 500.0]))
    def time_passes(self, seconds: float | None) -> None:
        assert self.rollout is not None
        moment = next_deadline(self.rollout)
        self.time_brings(moment if seconds is None else self.now + seconds)

    def time_brings(self, until: float | None) -> None:
        """What is due at `until`."""
        assert self.rollout is not None
        before, moment = self.rollout, next_deadline(self.rollout)
        self.now = max(self.now, until or 0.0)
        self.take(due(before, self.now))
        if moment is not None and self.now >= moment and not before.state.ended:
            assert self.rollout is not before, "time brings what it was said to bring"
        until = before.lives_until
        if until is not None and self.now >= until and before.state is not S.ROLLING_BACK:
            assert self.rollout.state.ended, "it outlives its time"

    @rule(seconds=st.sampled_from([0.0, 3600.0]))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.behind = seconds

    @rule()
    def the_manager_crashes(self) -> None:
        """What was stored is all there is: it says the same, and publishing again changes no decision."""

        def stored(body: dict[str, Any]) -> Any:
            return json.loads(json.dumps(body))

        if self.rollout is not None:
            back = Rollout.from_json(stored(self.rollout.to_json()))
            assert back == self.rollout
            self.rollout = back
        for group, intent in self.intents.items():
            self.intents[group] = GroupIntent.from_json(stored(intent.to_json()))
            assert self.intents[group] == intent
            self.publish(group)

    # -- what always holds

    @invariant()
    def what_is_published_is_what_stands(self) -> None:
        """No act forgets to publish: composing anew gives the same document."""
        for group, document in self.published.items():
            assert self.document(group, document.order) == document

    @invariant()
    def exposed_are_those_that_were_approved_or_joined(self) -> None:
        if self.rollout is None:
            return
        exposed = {d for d, record in self.rollout.devices.items() if record.since is not None}
        assert len(exposed) <= self.rollout.approved + len(self.joined)
        assert len(exposed & self.original) <= self.rollout.approved
        if self.rollout.state in (S.PLANNED, S.AWAITING_APPROVAL):
            assert not exposed

    @invariant()
    def devices_read_what_the_table_says(self) -> None:
        """Whoever is exposed is asked, whoever is not is not; under a hold nobody begins."""
        of = self.rollout
        stands = None if of is None else target(of)
        for device in self.home:
            plan = self.asks(device)
            record = None if of is None else of.devices.get(device)
            if of is None or stands is None:
                assert of is None or plan.rollout != of.id or of.state is S.COMPLETED
            elif record is None or record.since is None:
                assert plan.rollout != of.id
            elif plan.why is not Why.RECALLED and plan.why is not Why.NO_WAY_BACK:
                assert plan.rollout == of.id
                assert (plan.act, plan.why) == self.expected(device, of)

    def expected(self, device: str, of: Rollout) -> tuple[Act, Why]:
        goal, run = of.goal, self.runs[device]
        if run.digest == goal.digest:
            return Act.STAY, Why.CURRENT
        if goal.mode == "at_least" and run.counter >= goal.counter:
            return Act.STAY, Why.AHEAD
        if self.refused[device].get(goal.digest, 0) >= goal.attempt:
            return Act.REJECT, Why.REFUSED
        waits = of.reason in (AWAITS_APPROVAL, AWAITS_ACTIVATION)
        if of.state is S.TRIPPED or (of.state is S.PAUSED and not waits):
            return Act.DEFER, Why.HOLD
        activates = of.devices[device].wave <= of.wave
        return (Act.INSTALL if activates else Act.STAGE), Why.ORDERED


TestFleet = Fleet.TestCase
# Without the phase that explains: it traces every line of every run.
TestFleet.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


@pytest.mark.parametrize("state", [state for state in S if state.ended])
def test_nothing_but_a_report_is_taken_once_a_rollout_has_ended(state: RolloutState) -> None:
    assert set(TRANSITIONS[state]) == {Report}
    assert TRANSITIONS[state][Report].leads_to == {state}

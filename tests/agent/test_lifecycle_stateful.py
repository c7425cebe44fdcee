"""The life of an upgrade as a machine: any events in any order, and the power gone at any moment.

The machine keeps what a second pair of eyes would know: the record as it was last journaled and the trees
that lie on the device. A crash throws away everything but the journal.
"""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.agent.test_lifecycle import EVENTS, EXAMPLES, NOW

from fleetfoot_agent.worker.journal import read_record, record_bytes
from fleetfoot_agent.worker.lifecycle import (
    BEFORE_ACTIVATION,
    IN_FLIGHT,
    TRANSITIONS,
    IllegalTransition,
    step,
)
from fleetfoot_agent.worker.record import Record
from fleetfoot_agent.worker.steps import (
    Activate,
    Begin,
    Fail,
    Healthy,
    Recalled,
    StepEvent,
    Swapped,
    Unwell,
    WayBackFailed,
    WayBackProven,
)
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle, Outcome

L = Lifecycle
#: What may change what runs, what it could go back to, or the floor: a commit, and nothing else.
COMMITS = (Healthy,)
#: What ends work that was begun -> how it may be written down.
ENDINGS: dict[type, set[Outcome]] = {
    Healthy: {Outcome.COMPLETED},
    WayBackProven: {Outcome.ROLLED_BACK, Outcome.CANCELED},
    WayBackFailed: {Outcome.ROLLED_BACK, Outcome.CANCELED},
    Fail: {Outcome.FAILED},
}


class Device(RuleBasedStateMachine):
    """A device of one component, whose journal is written before anything is done."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.journal = record_bytes(self.record)
        #: What `current` leads to, and the tree that was swapped out and is kept while on trial.
        self.current: str | None = None
        self.kept: str | None = None
        self.recalled = False
        self.now = NOW

    # -- what happens

    @rule(data=st.data(), seconds=st.integers(0, 5000))
    def something_that_may_happen(self, data: st.DataObject, seconds: int) -> None:
        self.now += seconds
        kinds = [kind for state, kind in TRANSITIONS if state is self.record.state]
        self.take(data.draw(EVENTS[data.draw(st.sampled_from(kinds))]))

    @rule(kinds=st.permutations(list(EXAMPLES)), data=st.data())
    def something_that_cannot_happen(self, kinds: list[type], data: st.DataObject) -> None:
        for kind in kinds[:4]:
            if (self.record.state, kind) in TRANSITIONS:
                continue
            event: Any = data.draw(EVENTS[kind])
            with pytest.raises(IllegalTransition) as caught:
                step(self.record, event, self.now)
            assert caught.value.code == Code.UPGRADE_INTERNAL
            assert record_bytes(self.record) == self.journal

    @rule()
    def power_is_cut(self) -> None:
        """Only the journal is left; it says the same as what was known."""
        back = read_record(self.journal)
        assert back == self.record
        self.record = back

    @precondition(lambda self: self.record.state in IN_FLIGHT)
    @rule(data=st.data())
    def power_is_cut_and_the_trial_goes_wrong(self, data: st.DataObject) -> None:
        """Whatever is on trial, from the journal alone there is a way to rest."""
        self.power_is_cut()
        if self.record.state is not L.ROLLING_BACK:
            self.take(data.draw(EVENTS[Unwell]))
        self.take(data.draw(EVENTS[data.draw(st.sampled_from([WayBackProven, WayBackFailed]))]))
        assert self.record.state is L.IDLE

    @precondition(lambda self: self.record.state in BEFORE_ACTIVATION)
    @rule(data=st.data())
    def power_is_cut_and_the_plan_is_gone(self, data: st.DataObject) -> None:
        """Before activation, whatever was begun can be dropped: what runs was never touched."""
        self.power_is_cut()
        self.take(data.draw(EVENTS[Fail]))
        assert self.record.state is L.IDLE

    # -- what must follow of each event

    def take(self, event: StepEvent) -> None:
        before, journal = self.record, record_bytes(self.record)
        after, said = step(before, event, self.now)
        assert record_bytes(before) == journal, "a record is never changed in place"
        assert after.state in TRANSITIONS[before.state, type(event)]
        self.check_memory(before, after, event)
        self.check_outcome(before, after, event)
        self.check_refusals(before, after, event)
        work = before.work or after.work
        assert work is not None
        assert all(say.data["digest"] == work.goal.digest for say in said)
        self.record, self.journal = after, record_bytes(after)
        self.move(event)

    def move(self, event: StepEvent) -> None:
        """What the shell does to the trees once the event is journaled."""
        match event:
            case Activate():
                self.kept = self.current
                self.recalled = False
            case Swapped():
                assert self.record.work is not None
                self.current = self.record.work.goal.digest
            case Recalled():
                self.recalled = True
            case Healthy():
                self.kept = None
            case WayBackProven() | WayBackFailed():
                self.current = self.kept

    def check_memory(self, before: Record, after: Record, event: StepEvent) -> None:
        """Only a commit changes what runs; then what ran becomes the way back, but after a return."""
        assert after.floor >= before.floor
        if not isinstance(event, COMMITS):
            assert (after.run, after.prev, after.floor) == (before.run, before.prev, before.floor)
            return
        work = before.work
        assert work is not None
        assert after.run is not None
        assert after.run.digest == work.goal.digest
        assert after.prev == (None if work.act is Act.RETURN else before.run)
        assert after.floor == max(before.floor, work.min_counter)

    def check_outcome(self, before: Record, after: Record, event: StepEvent) -> None:
        """What ended is written down once, with the order that it belongs to."""
        if type(event) not in ENDINGS:
            return
        assert before.work is not None
        entry = after.outcomes[-1]
        assert after.outcomes[:-1] == (*before.outcomes, entry)[-len(after.outcomes) : -1]
        assert entry.outcome in ENDINGS[type(event)]
        assert (entry.outcome is Outcome.CANCELED) == (
            before.work.cause is Code.UPGRADE_CANCELED and not isinstance(event, Fail)
        )
        goal = before.work.goal
        assert (entry.rollout, entry.attempt, entry.digest) == (
            before.work.rollout,
            goal.attempt,
            goal.digest,
        )
        assert entry.running == (after.run.digest if after.run else None)
        assert entry.code or entry.outcome is Outcome.COMPLETED

    def check_refusals(self, before: Record, after: Record, event: StepEvent) -> None:
        """An attempt that failed here is refused, and a refusal is lifted by proof of health alone."""
        goal = before.work.goal if before.work else None
        for digest, attempt in before.refused.items():
            if goal is not None and digest == goal.digest and isinstance(event, Healthy):
                assert digest not in after.refused
            elif digest in after.refused or len(after.refused) < len(before.refused):
                assert after.refused[digest] >= attempt
        if goal is not None and after.outcomes != before.outcomes:
            entry = after.outcomes[-1]
            if entry.outcome is Outcome.ROLLED_BACK:
                assert after.refused[goal.digest] >= goal.attempt
            if entry.outcome is Outcome.FAILED:
                # Either refused for good or tried again later: never neither, which would be a tight loop.
                later = after.retry is not None and after.retry.digest == goal.digest
                assert (later and after.retry is not None and after.retry.at > self.now) or (
                    after.refused[goal.digest] >= goal.attempt
                )

    # -- what always holds

    @invariant()
    def the_journal_says_what_is_known(self) -> None:
        assert read_record(self.journal) == self.record

    @invariant()
    def work_is_there_exactly_when_something_is_done(self) -> None:
        assert (self.record.work is None) == (self.record.state is L.IDLE)

    @invariant()
    def never_without_a_way_back_while_on_trial(self) -> None:
        """From every state in flight some event leads back, and the record still names what ran before."""
        if self.record.state not in IN_FLIGHT:
            return
        ways = {kind for state, kind in TRANSITIONS if state is self.record.state}
        assert ways & {Unwell, WayBackProven, WayBackFailed}
        assert (self.record.run.digest if self.record.run else None) == self.kept
        if self.record.state is L.ROLLING_BACK:
            assert self.record.work is not None
            assert self.record.work.cause is not None, "going back, and nobody knows why"

    @invariant()
    def at_rest_what_runs_is_what_was_committed(self) -> None:
        if self.record.state not in IN_FLIGHT:
            assert (self.record.run.digest if self.record.run else None) == self.current

    @invariant()
    def what_was_recalled_is_not_held_against_the_release(self) -> None:
        if self.recalled and self.record.state is L.ROLLING_BACK:
            assert self.record.work is not None
            assert self.record.work.cause is Code.UPGRADE_CANCELED


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=60, stateful_step_count=40)


def test_every_state_has_a_way_to_rest() -> None:
    """By the table alone: no state is a dead end, and none in flight is left by one event only."""
    rests = {L.IDLE}
    while more := {s for (s, _), led in TRANSITIONS.items() if set(led) & rests} - rests:
        rests |= more
    assert rests == {state for state, _ in TRANSITIONS}
    for state in IN_FLIGHT:
        assert len([kind for at, kind in TRANSITIONS if at is state]) > 1
    assert Begin in {kind for state, kind in TRANSITIONS if state is L.IDLE}

"""One component's upgrade, carried out: the plan it follows, and what comes next in each state of its record.

`journal` holds the record, `staging` what is done before activation, `proving` what is done from there.
Whatever raises inside becomes a `Fail` with its code before activation, and a return after it.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import Layout, disk_error, version_name
from fleetfoot_agent.seam import Seam
from fleetfoot_agent.worker import planning, steps
from fleetfoot_agent.worker.journal import Journal
from fleetfoot_agent.worker.lifecycle import BEFORE_ACTIVATION, IN_FLIGHT, RETRY_BASE, TRANSIENT, Say
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.planning import Planned
from fleetfoot_agent.worker.probation import Look
from fleetfoot_agent.worker.proving import Proving
from fleetfoot_agent.worker.record import Record, Work
from fleetfoot_agent.worker.staging import Blobs, Staging, Wants
from fleetfoot_protocol.allow import Permission
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Release
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import Answer
from fleetfoot_protocol.resolve import Act, Plan
from fleetfoot_protocol.states import Lifecycle

log = logging.getLogger(__name__)

_L = Lifecycle


class Driver:
    """Drives one component. One worker run uses it from one thread."""

    def __init__(
        self,
        config: AgentConfig,
        component: Component,
        memory: Memory,
        blobs: Blobs,
        seam: Seam,
        say: Callable[[str, Say, str | None], None],
        *,
        changed: Callable[[], None] = lambda: None,
        by_hand: bool = False,
    ) -> None:
        self.component = component
        self.layout = Layout(config.install_root, component.name)
        self.plan: Plan | None = None
        self.broken: UpgradeError | None = None
        self.watched: Look | None = None
        self._config = config
        self._by_hand = by_hand
        self._journal = Journal(component.name, self.layout, memory, say, changed)
        self._staging = Staging(
            config, component.name, self.layout, self._journal, memory, blobs, by_hand=by_hand
        )
        self._proving = Proving(config, component, self.layout, self._journal, seam)
        try:
            self.layout.create()
            self.layout.clean()
            self._journal.open()
            if self.record.state not in IN_FLIGHT:
                self._proving.forget_saved()
                self._proving.end_trial()
        except UpgradeError as error:
            self.broken = error
        except OSError as error:
            self.broken = disk_error(error, "reading the install folder")

    @property
    def record(self) -> Record:
        """The record of the component, as it is journaled."""
        return self._journal.record

    @property
    def floor(self) -> int:
        """The lowest release counter that this component takes."""
        return planning.floor_of(self._config, self.component.name, self.record)

    @property
    def rebuilt(self) -> bool:
        """Whether the journal had to be made anew from what lies on the disk."""
        return self._journal.rebuilt

    @property
    def wants(self) -> Wants:
        """What is waited for since the last plan."""
        return self._staging.wants

    @property
    def answer(self) -> Answer | None:
        """The answer to the decisive document; None if there is none."""
        return self._staging.answer

    @property
    def refusal(self) -> Permission | None:
        """What local policy said to the last plan, unless it let it proceed."""
        return self._staging.refusal

    def look(self) -> Look:
        """How what is committed is now; remembered in `watched`, for the status."""
        self.watched = self._proving.look()
        return self.watched

    def complain(self, code: Code, message: str) -> None:
        """Remember an error that is not about the work in hand. Raises `OSError`."""
        if self.broken is None:  # else the record in hand is not what the journal says
            self._journal.complain(code, message)

    def refuse(self, digest: str, attempt: int) -> None:
        """Refuse this release up to this attempt, as if it had failed here. Raises `OSError`."""
        self._journal.refuse(digest, attempt)

    def give_up(self, error: OSError) -> None:
        """Do nothing more in this run: the disk refused what had to be written."""
        self.broken = disk_error(error, "keeping the journal")
        log.error("component=%s cause=%a", self.component.name, self.broken)
        self.wants.at = int(time.time()) + RETRY_BASE

    def release_of(self, work: Work) -> tuple[Release, bytes] | None:
        """The verified manifest of the work and its envelope, if it is here."""
        return self._staging.release_of(work)

    def resting(self) -> tuple[str, ...]:
        """The blobs of what is ordered but not worked on now: what came of them is for the next try."""
        goal = planning.to_come(self.plan, self.record) if self.plan and not self.broken else None
        if goal is None or self._by_hand or not self._enabled():
            return ()
        return self._staging.blobs_of(goal)

    @property
    def may_go_on(self) -> bool:
        """Whether it only waits for the leave to activate."""
        work = self.record.work
        staged = self.record.state is _L.STAGED and self.broken is None
        return staged and work is not None and work.act is not Act.STAGE and not self._staging.held

    def wait_for(self, other: str, planned: Planned) -> None:
        """Answer that what is staged waits until another component has been activated or has gone back."""
        locked = Permission("defer", Code.UPGRADE_LOCKED, f"{other} is being worked on")
        self._staging.answer = planning.answer(self._config, planned, locked)

    # -- the plan

    def follow(self, planned: Planned, now: int) -> None:
        """Take a fresh plan: begin, abandon, or go back from what was withdrawn. `now`: unix seconds."""
        self._staging.wants, self._staging.refusal, self._staging.held = Wants(), None, False
        self.plan = planned.plan
        self._staging.answer = planning.answer(self._config, planned, None)
        if self.broken:
            if self.broken.upgrade_code in TRANSIENT:
                self.wants.at = now + RETRY_BASE
            return
        turn = planning.change_of(self.record, planned, enabled=self._enabled())
        if isinstance(turn, steps.Recalled):
            self._proving.look_away()
        if turn is not None:
            self._journal.step(turn)
        work, state = self.record.work, self.record.state
        fetching = state in BEFORE_ACTIVATION and state is not _L.WAITING
        if work is not None and fetching and self._staging.must_stop(work, planned):
            self._journal.step(steps.Abandon())
            return
        goal = planning.ordered(planned.plan)
        if self.record.state is _L.IDLE and goal is not None and self._enabled():
            self._begin(planned, goal, now)

    def _enabled(self) -> bool:
        return self._by_hand or self._config.policy.enabled

    def _begin(self, planned: Planned, goal: Goal, now: int) -> None:
        retry, plan = self.record.retry, planned.plan
        # By hand: a person who tries again has removed the cause, or wants to see the error anew.
        if retry and not self._by_hand and not planning.may_begin(self.record, goal, now):
            self.wants.at = retry.at
            return
        run = self.record.run
        begin = steps.Begin(
            act=plan.act,
            goal=goal,
            rollout=plan.rollout,
            name=version_name(goal.version, goal.digest),
            old=version_name(run.version, run.digest) if run else None,
        )
        work = Work(act=begin.act, goal=goal, rollout=begin.rollout, name=begin.name, old=begin.old)
        if found := self.release_of(work):
            # What policy does not permit is answered without beginning: nothing is written for it.
            permitted = self._staging.permitted(work, found[0])
            if permitted.verdict != "proceed":
                self._staging.answer = planning.answer(self._config, planned, permitted)
                return
        self._journal.step(begin)

    # -- the work

    def advance(self, planned: Planned, *, may_activate: bool) -> bool:
        """Do the next thing. True if more can be done at once, False if something must come first."""
        if self.broken or self.record.work is None:
            return False
        state, work = self.record.state, self.record.work
        try:
            return self._act(state, work, planned, may_activate)
        except UpgradeError as error:
            problem = error
        except OSError as error:
            problem = disk_error(error, f"while {state}")
            if self.record.state is _L.ROLLING_BACK:
                # Going back always finishes, so it is tried again at the next look, not given up.
                self._proving.look_away()
                log.error("component=%s state=%s cause=%a", self.component.name, state, problem)
                return False
        name = self.component.name
        log.warning("component=%s state=%s code=%s cause=%a", name, state, problem.code, problem)
        self._failed(state, problem)
        return True

    def _act(self, state: Lifecycle, work: Work, planned: Planned, may_activate: bool) -> bool:
        if state is _L.WAITING:
            return self._staging.wait_for_manifest(work, planned)
        if state is _L.DOWNLOADING:
            return self._staging.download(work, planned)
        if state is _L.VERIFYING:
            return self._staging.verify(work)
        if state is _L.STAGING:
            return self._staging.unpack(work)
        if state is _L.STAGED:
            return self._proving.staged(work, may_activate and not self._staging.held)
        if state is _L.ACTIVATING:
            return self._proving.activate(work)
        if state is _L.PROBATION:
            return self._proving.watch(work)
        return self._proving.go_back(work)

    def _failed(self, state: Lifecycle, problem: UpgradeError) -> None:
        if state in BEFORE_ACTIVATION:
            with suppress(OSError):
                self.layout.empty_staging()
            failed = Event.UPGRADE_INSTALL_FAILED
            if state in (_L.WAITING, _L.VERIFYING):
                failed = Event.UPGRADE_VERIFY_FAILED
            elif state is _L.DOWNLOADING:
                failed = Event.UPGRADE_DOWNLOAD_FAILED
            self._journal.step(steps.Fail(failed, problem.upgrade_code, problem.message))
        elif state is _L.ROLLING_BACK:
            # The trial stays: should anything start what `current` still leads to, the guard is there.
            self._proving.look_away()
            self._journal.step(steps.WayBackFailed(problem.message))
        else:
            self._proving.look_away()
            self._journal.step(steps.Unwell(problem.upgrade_code, problem.message))

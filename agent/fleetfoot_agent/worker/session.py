"""One turn of a run after another: read what is new, carry each component as far as it goes, tell the result.

`run` decides how long there are turns; which component goes first, and what is told of it, is decided here.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from fleetfoot_agent import durable, selfupgrade
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.seam import Seam
from fleetfoot_agent.spool import WakeAt, Want, WorkerSide, reserve
from fleetfoot_agent.worker import freshness, lifecycle, planning, platform_facts
from fleetfoot_agent.worker.driver import Driver
from fleetfoot_agent.worker.intake import Intake, Reader, Refusal
from fleetfoot_agent.worker.lifecycle import Say
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.planning import Clock, Planned
from fleetfoot_agent.worker.preflight import Preflights
from fleetfoot_agent.worker.report import WATCHED, Reporter
from fleetfoot_agent.worker.watching import Watch
from fleetfoot_protocol.codes import Code, Family, info
from fleetfoot_protocol.documents import read
from fleetfoot_protocol.errors import FormError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import Answer, Status
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import Lifecycle, Verdict

log = logging.getLogger(__name__)

#: Seconds between two looks at what is committed, in one run.
WATCH_SECONDS = 60.0

_DISK = frozenset({Code.UPGRADE_DISK_FULL, Code.UPGRADE_READ_ONLY, Code.UPGRADE_IO_ERROR})


class SpoolBlobs:
    """Blobs that the courier brought."""

    def __init__(self, spool: WorkerSide) -> None:
        self._spool = spool

    def open(self, sha256: str, length: int) -> BinaryIO | None:
        """The blob, if the courier has brought all of it."""
        return self._spool.open_blob(sha256, length)

    def failure(self, sha256: str) -> tuple[Code, str] | None:
        """The code with which the courier gave the blob up."""
        state = self._spool.blob_state(sha256)
        if state.error is None:
            return None
        # The courier speaks for the transfer and for nothing else.
        known = {str(code): code for code in Code if info(code).family is Family.TRANSFER or code in _DISK}
        code = known.get(state.error, Code.UPGRADE_DOWNLOAD_FAILED)
        return code, f"{state.source or 'no source'} gave {state.have} bytes of {sha256[:16]}"


class Session:
    """The state of one run: drivers of all components, and what connects them."""

    def __init__(
        self,
        config: AgentConfig,
        memory: Memory,
        spool: WorkerSide,
        reporter: Reporter,
        seam: Callable[[Component], Seam],
    ) -> None:
        self._config = config
        self._memory = memory
        self._spool = spool
        self._reporter = reporter
        self._reader = Reader(config, memory, spool)
        self._time_floor = memory.time_floor()
        self._answers: dict[str, Answer | None] = {}
        self._settled_at: int | None = None
        self._watch = Watch(config, memory)
        self._preflights = Preflights(config, memory)
        self._watch_again = float("-inf")
        self.drivers = {
            name: Driver(
                config,
                component,
                memory,
                SpoolBlobs(spool),
                seam(component),
                reporter.event,
                changed=self._tell_meanwhile,
            )
            # The agent itself last: whatever else is to be done, this version does it.
            for name, component in sorted(
                config.components.items(), key=lambda c: c[0] == selfupgrade.COMPONENT
            )
        }
        for name, driver in self.drivers.items():
            if driver.rebuilt:
                reporter.alarm(Code.UPGRADE_JOURNAL_REBUILT, "the journal was rebuilt from disk", name)

    @property
    def in_flight(self) -> bool:
        """Whether a component is being activated, proves itself or goes back."""
        return any(d.record.state in lifecycle.IN_FLIGHT and not d.broken for d in self.drivers.values())

    @property
    def hands_over(self) -> bool:
        """Whether `current` of the agent itself leads to another version, which must judge or go back."""
        driver = self.drivers.get(selfupgrade.COMPONENT)
        if driver is None or driver.broken or driver.component.unit is None:
            return False
        if driver.record.state not in (Lifecycle.PROBATION, Lifecycle.ROLLING_BACK):
            return False
        return selfupgrade.is_another(driver.layout.read_current())

    def _clock(self) -> Clock:
        return Clock(int(time.time()), self._time_floor, platform_facts.clock_trusted())

    def turn(self) -> bool:
        """Read what is new, carry every component as far as it goes now, tell the result.

        Whether there was anything: a message, or a step of a component; in flight there always is.
        """
        before = [driver.record for driver in self.drivers.values()]
        self._spool.drop_acked_events()
        intake = self._reader.read()
        if intake.changed:
            self._time_floor = self._memory.time_floor()
        self._complain(intake)
        clock = self._clock()
        for name, driver in self.drivers.items():
            self._carry(name, driver, clock)
        for name, driver in self.drivers.items():
            if driver.may_go_on and self._may_activate(driver):
                # It had to wait for one that came later in this turn and is done now.
                self._carry(name, driver, clock)
        self._preflights.look(self.drivers, clock, intake.refusals)
        self._watch_over()
        self._freshness(clock)
        self._way_back()
        self._forget_manifests()
        self.tell()
        stepped = [driver.record for driver in self.drivers.values()] != before
        return bool(intake.taken) or stepped or self.in_flight

    def _carry(self, name: str, driver: Driver, clock: Clock) -> None:
        planned = self._plan(name, driver, clock)
        try:
            driver.follow(planned, clock.now)
            while driver.advance(planned, may_activate=self._may_activate(driver)):
                # Every step may have changed what the documents ask for: a commit, a refusal, a return.
                planned = self._plan(name, driver, clock)
                driver.follow(planned, clock.now)
        except OSError as error:
            driver.give_up(error)  # the other components' disk may be well
        if driver.may_go_on and (other := self._busy_with(driver)) is not None:
            driver.wait_for(other, planned)
        self._tell_answer(name, driver, planned)

    def _plan(self, name: str, driver: Driver, clock: Clock) -> Planned:
        return planning.make_plan(self._config, self._memory, name, driver.record, clock)

    def _may_activate(self, driver: Driver) -> bool:
        return self._busy_with(driver) is None

    def _busy_with(self, driver: Driver) -> str | None:
        """The component that goes first: one at a time, the agent itself last. None: nobody does."""
        last = driver.component.name == selfupgrade.COMPONENT
        for name, other in self.drivers.items():
            in_flight = other.record.state in lifecycle.IN_FLIGHT and not other.broken
            if other is not driver and (in_flight or (last and other.may_go_on)):
                return name
        return None

    # -- telling

    def _tell_meanwhile(self) -> None:
        """Tell before something that takes long. What the disk refuses now is told in the end."""
        try:
            self.tell()
        except OSError as error:
            log.warning("not told meanwhile cause=%a", str(error))

    def tell(self) -> None:
        """Write wants, next wake and status, as far as they changed; on a full disk from the reserve."""
        out = self._spool.root / "out"
        try:
            self._tell()
        except OSError as error:
            if not reserve.give(out, error):
                raise
            self._tell()
        else:
            reserve.keep(out)

    def _tell(self) -> None:
        manifests = {d.wants.manifest: None for d in self.drivers.values() if d.wants.manifest}
        manifests |= dict.fromkeys(self._preflights.wants)
        blobs = {b.sha256: b for d in self.drivers.values() for b in d.wants.blobs}
        kept = {b.sha256: b for b in self._spool.want().blobs if self._is_needed(b.sha256)}
        roots = self._memory.roots_wanted(int(time.time()))
        wanted = {**kept, **blobs}
        rests = {sha256 for d in self.drivers.values() for sha256 in d.resting()} - wanted.keys()
        want = Want(tuple(manifests), roots, tuple(wanted.values()), tuple(sorted(rests)))
        self._spool.write_want(want)
        self._spool.write_wake_at(self._next_wake())
        self._reporter.status(self.drivers, self._time_floor, self._preflights.answers)

    def _is_needed(self, sha256: str) -> bool:
        """Whether a blob that was asked for is still being verified or unpacked."""
        for driver in self.drivers.values():
            work = driver.record.work
            if work is None or driver.record.state not in lifecycle.NEEDS_BLOBS:
                continue
            found = driver.release_of(work)
            if found and any(sha256 in (a.sha256, a.index_sha256) for a in found[0].artifacts):
                return True
        return False

    def _next_wake(self) -> WakeAt:
        times = [d.wants.at for d in self.drivers.values() if d.wants.at is not None]
        now = int(time.time())
        times.append(self._settled_at or freshness.next_look(self._memory, self.drivers, now))
        if self._watch.next_look is not None:
            times.append(self._watch.next_look)
        if (more_roots := self._memory.go_ends(now)) is not None:
            times.append(more_roots)
        wall = min(times)
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME) + max(0.0, wall - time.time())
        return WakeAt(platform_facts.boot_id(), boottime, float(wall))

    def _tell_answer(self, name: str, driver: Driver, planned: Planned) -> None:
        """An event for a deferral or rejection, once for each change of it."""
        answer = driver.answer
        before = self._answers.get(name, _last_answer(self._spool, name))
        self._answers[name] = answer
        if answer is None or answer.verdict is Verdict.ACCEPTED:
            return
        if before is not None and (before.verdict, before.code) == (answer.verdict, answer.code):
            return
        deferred = answer.verdict is Verdict.DEFERRED
        goal = planned.plan.goal
        data = {"reason": answer.reason, "sequence": answer.sequence}
        if goal is not None:
            data |= {"version": goal.version, "digest": goal.digest, "attempt": goal.attempt}
        event = Event.UPGRADE_DEFERRED if deferred else Event.UPGRADE_REJECTED
        self._reporter.event(name, Say(event, Code(answer.code), data), planned.plan.rollout)

    def _complain(self, intake: Intake) -> None:
        for code, message in intake.alarms:
            self._reporter.alarm(code, message)
        for refusal in intake.refusals:
            component = self._component_of(refusal)
            say = Say(
                Event.UPGRADE_REJECTED, refusal.code, {"slot": refusal.slot, "message": refusal.message}
            )
            self._reporter.event(component, say, None)
            for name in self._touched(component, refusal):
                with suppress(OSError):  # it was told, and the journal says so itself
                    self.drivers[name].complain(refusal.code, refusal.message)

    def _touched(self, component: str | None, refusal: Refusal) -> list[str]:
        """The components whose status shows the refusal: a heartbeat is about the orders of them all."""
        if component is not None:
            return [component]
        return list(self.drivers) if refusal.slot == "heartbeat" else []

    def _component_of(self, refusal: Refusal) -> str | None:
        """The component that a refusal is about: the one its slot names, or whose work waits for it."""
        if refusal.component in self.drivers:
            return refusal.component
        for name, driver in self.drivers.items():
            work = driver.record.work
            if work is not None and refusal.slot == f"manifest.{work.goal.digest}":
                return name
        return None

    def _freshness(self, clock: Clock) -> None:
        stands = Code.UPGRADE_STALE in self._memory.alarms
        why = freshness.lost(self._memory, self.drivers, clock, stands=stands)
        left = 0.0 if stands else freshness.settles_in(self._spool.link(), platform_facts.boot_id())
        self._settled_at = clock.now + int(left) + 1 if why and left else None
        if why and not left:
            self._reporter.alarm(Code.UPGRADE_STALE, why)
        elif not why:
            self._memory.set_alarm(Code.UPGRADE_STALE, False)

    def _watch_over(self) -> None:
        """Alarm while what is committed is not well, or is not what was signed. Once in a run is enough."""
        if self.in_flight or time.monotonic() < self._watch_again:
            return
        self._watch_again = time.monotonic() + WATCH_SECONDS
        try:
            troubles = self._watch.look(self.drivers.items())
        except OSError as error:
            log.warning("not watched cause=%a", str(error))
            return
        if Code.UPGRADE_BOTH_BAD in self._memory.alarms:  # which says it already, and better
            troubles = [t for t in troubles if t.code is Code.UPGRADE_TREE_MISMATCH]
        for trouble in troubles:
            log.warning("component=%s code=%s cause=%a", trouble.component, trouble.code, trouble.message)
            self._reporter.alarm(trouble.code, trouble.message, trouble.component)
        found = {trouble.code for trouble in troubles}
        for code in WATCHED:
            if code not in found:
                self._memory.set_alarm(code, False)

    def _way_back(self) -> None:
        """Alarm while anything runs a withdrawn release and cannot leave it."""
        free = True
        for name, driver in self.drivers.items():
            plan, answer = driver.plan, driver.answer
            if plan is None or driver.broken or driver.record.state in lifecycle.IN_FLIGHT:
                free = False  # not known before it has ended
                continue
            rejected = answer is not None and answer.verdict is Verdict.REJECTED
            if plan.code is Code.UPGRADE_NO_WAY_BACK or (plan.act is Act.RETURN and rejected):
                free = False
                text = f"{name} runs a withdrawn release and cannot go back"
                self._reporter.alarm(Code.UPGRADE_NO_WAY_BACK, text, name)
        if free:
            self._memory.set_alarm(Code.UPGRADE_NO_WAY_BACK, False)

    def _forget_manifests(self) -> None:
        """Drop manifests that no work and no plan is about, once the courier has let them go.

        As long as one lies in the spool, read, the courier would not bring it again when it is wanted again.
        """
        here = set(self._spool.slots())
        needed = {d.record.work.goal.digest for d in self.drivers.values() if d.record.work}
        needed |= {want.digest for want in self._preflights.wants}
        needed |= {d.plan.goal.digest for d in self.drivers.values() if d.plan and d.plan.goal}
        for digest in self._memory.manifests():
            if digest not in needed and f"manifest.{digest}" not in here:
                self._memory.forget(f"manifest.{digest}")


def _last_answer(spool: WorkerSide, component: str) -> Answer | None:
    """The answer in the status that an earlier run wrote."""
    data = durable.read_regular(spool.root / "out", "status.json", 64 * 1024)
    try:
        status = read(Status, data or b"")
    except FormError:
        return None
    found = status.components.get(component)
    return found.answered if found else None

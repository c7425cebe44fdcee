"""A device: the worker's reader, planner and lifecycle, around which disk, processes and network are played.

What is journaled (the record) survives a crash; what a worker only holds (the look that it is having at a
version on probation, a transfer) does not. A version's behaviour on a device is a word: good, dies, unready.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from fleetfoot_agent import config as configuration
from fleetfoot_agent.worker import lifecycle, planning, report, steps
from fleetfoot_agent.worker.intake import Reader
from fleetfoot_agent.worker.planning import Clock, Planned
from fleetfoot_agent.worker.preflight import Judgement, Preflights
from fleetfoot_agent.worker.record import Record, Work
from fleetfoot_agent.worker.steps import StepEvent
from fleetfoot_protocol import dsse, keys, times, topics
from fleetfoot_protocol.allow import Environment, Permission, Rules, allow
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Release
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.reports import (
    Answer,
    ComponentStatus,
    Disk,
    Installed,
    PolicySummary,
    Preflight,
    Status,
)
from fleetfoot_protocol.reports import Clock as StatusClock
from fleetfoot_protocol.resolve import Act, Plan, Why
from fleetfoot_protocol.states import Lifecycle, Verdict
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.world.fleet import COMPONENT, FLEET, PLATFORM, Fleet, secret_of
from fleetfoot_sim.world.memory import RamMemory, RamSpool
from fleetfoot_sim.world.timeline import Timeline
from fleetfoot_sim.world.wire import Broker, Wire

if TYPE_CHECKING:
    from fleetfoot_agent.worker.driver import Driver

_L = Lifecycle
_AGENT = "0.1.0"
_WINDOW = 20.0
_FREE = 10**9
_TOML = """\
[agent]
device = "{device}"
group = "{group}"
labels = {{site = "{site}"}}
[broker]
url = "mqtt://127.0.0.1:1"
[upgrade]
enabled = true
[components.kiosk]
"""


class Watcher(Protocol):
    """Who is told what a device does."""

    def read(self, device: "Device") -> None:
        """The device has read what lay in its spool."""

    def stepped(self, device: "Device", before: Record, event: StepEvent) -> None:
        """The device's record has made a step."""

    def answered(self, device: "Device", goal: Goal, said: Preflight) -> None:
        """The device has answered a probe of that goal."""


class RamPreflights(Preflights):
    """The worker's own answers to probes, without a disk to keep them, and on the played machine."""

    def _load(self) -> dict[str, Preflight]:
        return {}

    def _save(self) -> None:
        """Nothing here can be lost."""

    def _permission(
        self, name: str, driver: "Driver", plan: Plan, release: Release, clock: Clock
    ) -> Judgement:
        environment = Environment(PLATFORM, _AGENT, driver.record.run, _FREE)
        found = allow(plan, release, planning.rules_of(self._config), environment)
        verdict = Verdict.ACCEPTED if found.verdict == "proceed" else Verdict.REJECTED
        return Judgement(verdict, found.code, found.reason)


@dataclass(eq=False)
class Device:
    """One device. `runs` is what its processes really run; the record is what it believes."""

    id: str
    group: str
    fleet: Fleet
    time: Timeline
    broker: Broker
    draw: random.Random
    watcher: Watcher
    first: str = "1.0.0"
    site: str = "north"
    behaviour: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.secret = secret_of(f"device {self.id}")
        self.memory = RamMemory(self.secret, self.fleet.root, "first")
        self.spool = RamSpool()
        one = self.fleet.releases[self.first]
        run = Installed(version=one.release.version, counter=one.release.counter, digest=one.digest)
        self.record = Record(run=run, floor=one.release.min_counter)
        self.runs: str | None = run.digest
        self.trees = {run.digest}
        self.plan: Plan | None = None
        self.answer: Answer | None = None
        self.broken = self.watched = None
        self.wire: Wire | None = None
        self.on = self.hung = self.lying = self.gone = self.dead = False
        self.crash_in: int | None = None
        self.outage = False
        self._said: tuple[bytes, bytes] | None = None
        self._essence: object = None
        self._busy_until = 0.0
        self._generation = 0
        self._configure()

    def _configure(self) -> None:
        text = _TOML.format(device=self.id, group=self.group, site=self.site)
        self.config = configuration.parse(text, Path("/nowhere/agent.toml"))
        self.reader = Reader(self.config, self.memory, self.spool)
        self.preflights = RamPreflights(self.config, self.memory)

    @property
    def floor(self) -> int:
        """The lowest counter it takes."""
        return planning.floor_of(self.config, COMPONENT, self.record)

    def reader_rules(self) -> Rules:
        """Its local policy."""
        return planning.rules_of(self.config)

    @property
    def enrolment(self) -> dict[str, object]:
        """As it is enrolled."""
        public = keys.public_of(self.secret).hex()
        return {"id": self.id, "group": self.group, "key": public, "labels": {"site": self.site}}

    # --- the courier ---------------------------------------------------------------------------------

    def switch_on(self) -> None:
        """Power, and a session with the broker."""
        if self.gone or self.dead:
            return
        self.on = True
        self._generation += 1
        self._busy_until = 0.0
        self.connect()
        self.time.after(0.5, self._woken(self._generation))

    def switch_off(self) -> None:
        """Asleep or dead: what was only held is lost, what is journaled stays."""
        self.on = False
        self._generation += 1
        if self.wire is not None:
            self.broker.cut(self.wire)

    def connect(self) -> None:
        """A new session: subscribe by exact names, and say again how things stand."""
        self.wire = self.broker.connect(self.id, self._arrived)
        ids = {"group": self.group, "device": self.id, "component": COMPONENT}
        names = [
            topics.build(kind, **{n: ids[n] for n in needed})
            for kind, needed in (
                (Kind.GROUP_DESIRED, ("group", "component")),
                (Kind.DEVICE_DESIRED, ("group", "device", "component")),
                (Kind.HEARTBEAT, ("group",)),
                (Kind.PROBE, ("group", "component")),
            )
        ]
        self.broker.subscribe(self.wire, names)
        self._publish_status()

    def move(self, group: str) -> None:
        """Its owner sets it up for another group."""
        was_on = self.on
        self.switch_off()
        self.group = group
        self.memory.forget_documents()
        self.spool.clear()
        self._configure()
        self._essence = self._said = None
        if was_on:
            self.switch_on()

    def _arrived(self, topic: str, payload: bytes, _kept: bool) -> None:
        parsed = topics.parse(topic)
        slot = topics.slot_of(parsed) if parsed else None
        if slot is None or not payload:
            return
        self.spool.put(slot, payload)
        self.time.after(0.1, self._woken(self._generation))

    def _woken(self, generation: int) -> Callable[[], None]:
        def act() -> None:
            if generation == self._generation:
                self.wake()

        return act

    # --- the worker ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """A run of the worker: read, decide, do, tell."""
        if not self.on or self.hung:
            return
        self.reader.read()
        self.watcher.read(self)
        clock = Clock(int(self.time.now), 0, True)
        generation = self._generation
        for _ in range(20):
            planned = planning.make_plan(self.config, self.memory, COMPONENT, self.record, clock)
            self._follow(planned)
            if generation != self._generation or not self._advance(planned) or generation != self._generation:
                break
        if generation == self._generation:
            self._look_at_probes(clock)
            self.tell()

    def _look_at_probes(self, clock: Clock) -> None:
        before = self.preflights.answers.get(COMPONENT)
        self.preflights.look({COMPONENT: cast("Driver", self)}, clock, ())
        for want in self.preflights.wants:
            self._ask_for(want.digest)
        said, probe = self.preflights.answers.get(COMPONENT), self.memory.probe(COMPONENT)
        if said is not None and said is not before and probe is not None:
            self.watcher.answered(self, probe.goal, said)

    def release_of(self, work: Work) -> tuple[Release, str] | None:
        """As the driver's: the manifest of a work's goal."""
        found = self._release(work.goal.digest)
        return None if found is None else (found, work.goal.digest)

    def _ask_for(self, digest: str) -> None:
        """A manifest, and look again soon."""
        if self.wire is not None and self.wire.up:
            name = topics.build(Kind.RELEASE, component=COMPONENT, digest=digest)
            self.broker.subscribe(self.wire, [name], keep=False)
        self.time.after(5.0, self._woken(self._generation))

    def _follow(self, planned: Planned) -> None:
        """As `Driver.follow`."""
        self.plan = planned.plan
        self.answer = planning.answer(self.config, planned, None)
        turn = planning.change_of(self.record, planned, enabled=True)
        if turn is not None:
            self._busy_until = 0.0
            self.step(turn)
        goal = planning.ordered(planned.plan)
        if self.record.state is not _L.IDLE or goal is None:
            return
        if not planning.may_begin(self.record, goal, int(self.time.now)):
            if self.record.retry is not None:
                self.time.at(self.record.retry.at + 1.0, self._woken(self._generation))
            return
        work = Work(act=planned.plan.act, goal=goal, rollout=planned.plan.rollout, name=goal.digest)
        if (release := self._release(goal.digest)) is not None:
            permitted = self._permitted(work, release)
            if permitted.verdict != "proceed":
                self.answer = planning.answer(self.config, planned, permitted)
                return
        old = self.record.run.digest if self.record.run else None
        self.step(steps.Begin(work.act, goal, work.rollout, goal.digest, old))

    def _release(self, digest: str) -> Release | None:
        found = self.memory.release(digest)
        return found[0] if found else None

    def _permitted(self, work: Work, release: Release) -> Permission:
        plan = Plan(work.act, Why.ORDERED, work.goal, work.rollout)
        environment = Environment(PLATFORM, _AGENT, self.record.run, _FREE)
        return allow(plan, release, planning.rules_of(self.config), environment)

    def _advance(self, planned: Planned) -> bool:
        """As `Driver.advance`: whether more can be done at once."""
        work, state = self.record.work, self.record.state
        if work is None:
            return False
        if state is _L.WAITING:
            return self._wait_for_manifest(work, planned)
        if state is _L.DOWNLOADING:
            return self._download()
        if state is _L.VERIFYING:
            self.step(steps.Checked())
        elif state is _L.STAGING:
            self.trees.add(work.goal.digest)
            self.step(steps.Unpacked())
        elif state is _L.STAGED:
            return self._staged(work)
        elif state is _L.ACTIVATING:
            self.runs = work.goal.digest
            self.step(steps.Swapped())
        elif state is _L.PROBATION:
            return self._watch(work)
        else:
            return self._go_back(work)
        return True

    def _wait_for_manifest(self, work: Work, planned: Planned) -> bool:
        release = self._release(work.goal.digest)
        if release is None:
            self._ask_for(work.goal.digest)
            return False
        permitted = self._permitted(work, release)
        self.answer = planning.answer(self.config, planned, permitted)
        if permitted.verdict != "proceed":
            self.step(steps.Abandon())
            return False
        self.step(steps.Permit(release.min_counter, work.goal.digest in self.trees))
        return True

    def _download(self) -> bool:
        if self.outage:
            failed = steps.Fail(Event.UPGRADE_DOWNLOAD_FAILED, Code.UPGRADE_DOWNLOAD_FAILED, "no mirror")
            self.step(failed)
            return True
        if self._passes(self.draw.uniform(0.5, 8.0)):
            return False
        self.step(steps.Fetched())
        return True

    def _passes(self, seconds: float) -> bool:
        """Whether `seconds`, counted from when this was asked first, still have to pass."""
        if self._busy_until == 0.0:
            self._busy_until = self.time.now + seconds
            self.time.at(self._busy_until, self._woken(self._generation))
        if self.time.now < self._busy_until:
            return True
        self._busy_until = 0.0
        return False

    def _staged(self, work: Work) -> bool:
        if work.act is Act.STAGE:
            if not work.told:
                self.step(steps.Told())
            return False
        self.step(steps.Activate(self.record.run.digest if self.record.run else None))
        return True

    def _behaves(self, digest: str) -> str:
        return self.behaviour.get(self.fleet.digests[digest].release.version, "good")

    def _watch(self, work: Work) -> bool:
        word = self._behaves(work.goal.digest)
        if word == "dies":  # the guard counts three starts, and puts `current` back
            if self._passes(3.0):
                return False
            self.runs = work.old
            self.step(steps.Unwell(Code.UPGRADE_BOOT_FAILED, "the guard went back"))
            return True
        if self._passes(_WINDOW):
            return False
        if word == "unready":
            self.step(steps.Unwell(Code.UPGRADE_HEALTH_FAILED, "never ready"))
        else:
            self.step(steps.Healthy())
        return True

    def _go_back(self, work: Work) -> bool:
        self.runs = work.old
        if self._passes(2.0):
            return False
        well = work.old is None or self._behaves(work.old) == "good"
        self.step(steps.WayBackProven() if well else steps.WayBackFailed("not well either"))
        return True

    def step(self, event: StepEvent) -> None:
        """One step of the lifecycle, journaled; perhaps the last thing before the power goes."""
        before = self.record
        self.record, _ = lifecycle.step(before, event, int(self.time.now))
        self.memory.raise_floor(COMPONENT, self.record.floor)
        self.watcher.stepped(self, before, event)
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.crash_in = None
                self.switch_off()
                self.time.after(self.draw.uniform(1, 30), self.switch_on)

    # --- telling -------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Say how things stand, if that has changed."""
        answer = self.preflights.answers.get(COMPONENT)
        component = report.component_status(cast("Driver", self), answer)
        essence = (component, self.group, self.lying, tuple(sorted(self.memory.alarms)))
        if essence == self._essence:
            return
        self._essence = essence
        if self.lying:
            component = self._lie(component)
        counter = self.memory.next_counter()
        status = Status(
            fleet=FLEET,
            group=self.group,
            device=self.id,
            incarnation=self.memory.incarnation,
            counter=counter,
            boot_id="boot",
            at=times.to_text(self.time.now),
            agent=_AGENT,
            root=1,
            platform=PLATFORM,
            labels={"site": self.site},
            capabilities=report.CAPABILITIES,
            policy=PolicySummary(enabled=True, channels=("stable",)),
            disk=Disk(free=_FREE),
            clock=StatusClock(trusted=True, floor=times.to_text(0)),
            components={COMPONENT: component},
        )
        payload = status.payload()
        attestation = dsse.attest(dsse.PayloadType.STATUS, payload, counter, self.secret)
        self._said = (payload, attestation)
        self._publish_status()

    def _lie(self, component: ComponentStatus) -> ComponentStatus:
        """What a device may say that is not so: that it failed, or that it runs what it was told to."""
        goal = self.plan.goal if self.plan else None
        if goal is None:
            return component
        run = Installed(version=goal.version, counter=goal.counter, digest=goal.digest)
        return component.model_copy(update={"running": run, "state": _L.IDLE})

    def _publish_status(self) -> None:
        if self._said is None or self.wire is None or not self.wire.up:
            return
        ids = {"group": self.group, "device": self.id}
        for kind, payload in zip((Kind.STATUS, Kind.STATUS_ATTESTATION), self._said, strict=True):
            self.broker.publish(self.wire, topics.build(kind, **ids), payload, retained=True)

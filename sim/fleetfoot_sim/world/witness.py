"""What must be true whatever happens, seen from outside: by what is signed, and by what devices really do.

Nothing in here asks the code that is on trial what would be right: admission is computed anew, orders are
compared as numbers, and what a device runs is what its processes run.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from fleetfoot_agent.worker import steps
from fleetfoot_agent.worker.record import Record
from fleetfoot_agent.worker.steps import StepEvent
from fleetfoot_manager.rollout import Rollout
from fleetfoot_protocol import dsse, topics, trust
from fleetfoot_protocol.documents import Desired, Goal, Target
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Preflight
from fleetfoot_protocol.resolve import Act
from fleetfoot_protocol.states import RolloutState, Terminal
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.world.fleet import Fleet

if TYPE_CHECKING:
    from fleetfoot_sim.world.device import Device

_S = RolloutState


class Broken(Exception):
    """Something that must never be is the case."""


def demand(fact: bool, what: str, *about: object) -> None:
    """Raise Broken unless it is so."""
    if not fact:
        raise Broken(f"{what}: {' '.join(str(one) for one in about)}")


def position(salt: str, device: str) -> int:
    """Where a device stands under a salt, computed without the protocol's code."""
    return int.from_bytes(hashlib.blake2b(salt.encode() + b"\0" + device.encode(), digest_size=8).digest())


def admits(target: Target, device: str, site: str, cut: str) -> bool:
    """Whether the target admits the device at a cut, computed without the protocol's code."""
    if any(key != "site" or value != site for key, value in target.selector.items()):
        return False
    if device in target.exclude:
        return False
    return device in target.include or cut == "all" or position(target.salt, device) < int(cut, 16)


@dataclass(slots=True)
class Course:
    """What is known of a rollout from its plan: who may be asked, in which steps."""

    waves: tuple[int, ...]
    original: frozenset[str]
    sites: dict[str, str]
    opened: int = 0
    begun: set[str] = field(default_factory=set)
    state: RolloutState = _S.PLANNED
    reason: str = ""
    staged: bool = False
    activated: set[str] = field(default_factory=set)


class Witness:
    """Sees every message that a client sends, every step of every device, every turn of the manager."""

    def __init__(self, fleet: Fleet, now: Callable[[], float]) -> None:
        self.courses: dict[str, Course] = {}
        self.claimed: dict[str, set[str]] = {}
        self.trace: list[str] = []
        self._fleet = fleet
        self._now = now
        self._orders: dict[str, tuple[int, int]] = {}
        self._payloads: dict[str, set[str]] = {}
        #: Digests of every order that a manager has published, and envelopes that were found to be of them.
        self._said: set[str] = set()
        self._genuine: set[bytes] = set()
        self._counters: dict[tuple[str, str | None], int] = {}
        self._read: dict[tuple[str, str], tuple[int, int]] = {}
        self._floors: dict[str, int] = {}
        self._failed: dict[tuple[str, str], int] = {}
        self._ran: dict[str, set[str]] = {}
        #: What the processes of each device ran behind its last step; whose work proved bad or was recalled.
        self._stood: dict[str, str | None] = {}
        self._leaving: set[str] = set()

    def note(self, text: str) -> None:
        """One line of the course of the run."""
        self.trace.append(f"{self._now() - 1.8e9:9.2f} {text}")

    # --- what clients send ---------------------------------------------------------------------------

    def seen(self, sender: str, topic: str, payload: bytes) -> None:
        """A message: what managers publish as desired states never goes back."""
        if not sender.startswith("manager") or not payload:
            return
        parsed = topics.parse(topic)
        if parsed is None or parsed.kind not in (Kind.GROUP_DESIRED, Kind.DEVICE_DESIRED):
            return
        digest = dsse.decode(payload).digest
        known = self._payloads.setdefault(topic, set())
        if digest in known:
            return
        known.add(digest)
        self._said.add(digest)
        document = trust.verify_desired(payload, self._fleet.root)
        before = self._orders.get(topic, (0, 0))
        demand(document.order > before, "the order goes back", topic, before, document.order)
        self._orders[topic] = document.order
        targets = [(t.rollout, t.hold, t.stage_cut[:6], t.activate_cut[:6]) for t in document.targets]
        self.note(f"desired {topic[6:]} {targets} withdrawn={[d[:4] for d in document.withdrawn]}")

    # --- turns of a manager --------------------------------------------------------------------------

    def planned(self, of: Rollout, sites: dict[str, str]) -> None:
        """A rollout has been planned."""
        ids = frozenset(member.device for member in of.cohort)
        self.courses[of.id] = Course(of.waves, ids, sites, staged=bool(of.stage))

    def heard(self, counters: Iterable[tuple[str, str | None, int | None]]) -> None:
        """What the manager takes for the newest of a device never goes back."""
        for device, incarnation, counter in counters:
            before = self._counters.get((device, incarnation), 0)
            demand((counter or 0) >= before, "an older status counts", device, before, counter)
            self._counters[device, incarnation] = counter or 0

    def turned(self, rollouts: Sequence[Rollout], stored: Callable[[str], Desired | None]) -> None:
        """What is stored agrees with what may be, for each rollout that has changed."""
        for of in rollouts:
            course = self.courses[of.id]
            if of.state is not course.state:
                self.note(f"{of.id} {course.state} -> {of.state} {of.devices.counts} {of.reason}")
                if of.state is _S.COMPLETED:
                    demand(
                        not any(r.awaited for r in of.devices.values()),
                        "completed while devices are awaited",
                        of.id,
                    )
            course.state = of.state
            self._check_counts(of)
            for group in of.groups:
                document = stored(group)
                if document is not None:
                    self._check_target(of, course, document)
            if of.wave > course.opened:
                self._check_widening(of, course)
            course.reason = of.reason

    def _check_counts(self, of: Rollout) -> None:
        going = of.state in (_S.RUNNING, _S.SETTLING)
        failures = sum(r.terminal in (Terminal.FAILED, Terminal.ROLLED_BACK) for r in of.devices.values())
        counted = of.streak if of.consecutive else failures - of.failures_before
        within = not of.breaker or counted < of.breaker
        demand(within or not going, "it goes on past its breaker", of.id, failures, of.breaker)

    def _check_target(self, of: Rollout, course: Course, document: Desired) -> None:
        target = next((t for t in document.targets if t.rollout == of.id), None)
        if of.state is _S.AWAITING_APPROVAL:
            demand(target is None, "published before it was approved", of.id)
        waits = of.state is _S.PAUSED and ("awaits approval" in of.reason or "staged" in of.reason)
        if of.state in (_S.TRIPPED, _S.PAUSED) and not waits:
            demand(target is not None and target.hold, "no hold stands", of.id, of.state)
        if of.state is _S.ROLLING_BACK:
            demand(of.goal.digest in document.withdrawn, "going back without a recall", of.id)
        if target is not None and not of.state.ended:
            active = course.waves[of.wave - 1] if of.wave else 0
            exposed = course.waves[-1] if course.staged else active
            # A canary by name may lie above every cut: then it stages when its wave opens, and not before.
            fewest = exposed - (0 if of.wave else len(of.include))
            steps = ((target.stage_cut, fewest, exposed), (target.activate_cut, active, active))
            for cut, least, most in steps:
                admitted = {d for d in course.original if admits(target, d, course.sites.get(d, ""), cut)}
                demand(least <= len(admitted) <= most, "exposes another number", of.id, len(admitted), most)
                demand(not of.listed or cut == "0" * 16, "a cut admits who was not named", of.id, cut)

    def _check_widening(self, of: Rollout, course: Course) -> None:
        """Behind each wave that is left: somebody is well, or nobody could have it; nobody is awaited."""
        if of.each_wave and course.opened:
            demand("awaits approval" in course.reason, "a wave opens unapproved", of.id, of.wave)
        if of.stage == "only" and not course.opened:
            demand("is staged" in course.reason, "it activates unbidden", of.id)
        if course.staged and not course.opened:
            # Who joins while a person's word is awaited may still stage when it comes.
            waited = course.original if of.stage == "only" else of.devices
            staging = [d for d in waited if (r := of.devices[d]).wave > of.wave and not r.terminal.ended]
            demand(not staging, "a wave opens while devices stage", of.id, staging)
        for wave in range(max(course.opened, 1), of.wave):
            members = {d: r for d, r in of.devices.items() if r.wave == wave}
            waiting = [d for d, r in members.items() if not r.terminal.ended]
            demand(not waiting, "a wave is left while devices are awaited", of.id, wave, waiting)
            well = {
                d for d in members if of.goal.digest in self._ran.get(d, set()) | self.claimed.get(d, set())
            }
            nobody = all(r.terminal is Terminal.SKIPPED for r in members.values())
            demand(bool(well) or nobody, "a wave is left without a success", of.id, wave)
        course.opened = of.wave

    # --- steps of a device ---------------------------------------------------------------------------

    def installed(self, device: "Device") -> None:
        """What a device came with."""
        self._floors[device.id] = device.record.floor
        self._ran[device.id] = {device.runs} if device.runs else set()
        self._stood[device.id] = device.runs

    def read(self, device: "Device") -> None:
        """What a device takes for the newest was said by a manager, and never goes back."""
        for scope in ("group", "own"):
            data = device.memory.envelope(f"{scope}.kiosk")
            if data is not None and data not in self._genuine:
                demand(dsse.decode(data).digest in self._said, "takes what no manager said", device.id, scope)
                self._genuine.add(data)
            found = device.memory.desired(scope, "kiosk")
            if found is None:
                continue
            where = f"{device.id} {device.group} {scope}"
            before = self._read.get((where, scope), (0, 0))
            demand(found[0].order >= before, "a device's order goes back", where, before, found[0].order)
            self._read[where, scope] = found[0].order

    def stepped(self, device: "Device", before: Record, event: StepEvent) -> None:
        """One step: may it be made?"""
        name = type(event).__name__
        self.note(f"{device.id} {name} {before.state}->{device.record.state}")
        self._check_stand(device, before, event)
        if isinstance(event, steps.Begin):
            self._check_begin(device, before, event)
        elif isinstance(event, steps.Activate):
            work = before.work
            demand(work is not None, "activates nothing", device.id)
            if work is not None:
                self._check_order(device, work.act, work.goal, work.rollout, activates=True)
                self._check_activated(device, work.rollout)
        elif isinstance(event, steps.Unwell) and before.work is not None:
            self._failed[device.id, before.work.goal.digest] = before.work.goal.attempt
        elif isinstance(event, steps.Healthy):
            self._check_commit(device, before)

    def answered(self, device: "Device", goal: Goal, said: Preflight) -> None:
        """An answer to a probe is what the device would do, by what it has and obeys; nothing comes of it."""
        wanted = self._would(device, goal)
        self.note(f"{device.id} answers {said.verdict} {said.code} to {goal.version}")
        demand(str(said.verdict) == wanted, "answers a probe wrongly", device.id, goal.version, said, wanted)

    def _would(self, device: "Device", goal: Goal) -> str:
        record = device.record
        run = record.run
        if run is not None and run.digest == goal.digest:
            return "accepted"
        group, own = device.memory.desired("group", "kiosk"), device.memory.desired("own", "kiosk")
        if own is not None and not own[0].released:
            return "rejected"
        if goal.mode == "at_least" and run is not None and run.counter > goal.counter:
            return "accepted"
        if goal.counter < self._floors[device.id] or record.refused.get(goal.digest, 0) >= goal.attempt:
            return "rejected"
        if group is not None and group[0].hold:
            return "deferred"
        release = self._fleet.digests[goal.digest].release
        majors = [int(version.split(".")[0]) for version in (run.version if run else "1", goal.version)]
        return "rejected" if release.channel != "stable" or majors[1] - majors[0] > 1 else "accepted"

    def _check_stand(self, device: "Device", before: Record, event: StepEvent) -> None:
        """What runs changes by a switch, or goes back once the new one proved bad or was recalled."""
        if isinstance(event, steps.Begin):
            self._leaving.discard(device.id)
        elif isinstance(event, (steps.Unwell, steps.Recalled)):
            self._leaving.add(device.id)
        stood, self._stood[device.id] = self._stood.get(device.id), device.runs
        if device.runs == stood:
            return
        work = before.work
        demand(work is not None, "runs something else without any work", device.id, device.runs)
        if work is not None and device.runs != work.goal.digest:
            back = device.runs == work.old and device.id in self._leaving
            demand(back, "goes back for nothing", device.id, work.goal.version)

    def _documents(self, device: "Device") -> tuple[Desired | None, set[str]]:
        group = device.memory.desired("group", "kiosk")
        own = device.memory.desired("own", "kiosk")
        live = own is not None and not own[0].released
        withdrawn = set(group[0].withdrawn if group else ())
        if live and own is not None:
            return own[0], withdrawn | set(own[0].withdrawn)
        return (group[0] if group else None), withdrawn

    def _check_begin(self, device: "Device", before: Record, event: steps.Begin) -> None:
        goal = event.goal
        running = before.run.digest if before.run else None
        demand(goal.digest != running, "installs what runs", device.id, goal.version)
        if event.act is not Act.RETURN:
            refused = self._failed.get((device.id, goal.digest), 0)
            demand(refused < goal.attempt, "installs what was refused", device.id, goal.version)
        self._check_order(device, event.act, goal, event.rollout, activates=False)
        course = self.courses.get(event.rollout or "")
        if course is not None and device.id in course.original:
            course.begun.add(device.id)
            allowed = course.waves[course.opened - 1] if course.opened else 0
            allowed = course.waves[-1] if course.staged else allowed
            demand(len(course.begun) <= allowed, "more begin than were approved", event.rollout, course.begun)

    def _check_activated(self, device: "Device", rollout: str | None) -> None:
        course = self.courses.get(rollout or "")
        if course is not None and device.id in course.original:
            course.activated.add(device.id)
            allowed = course.waves[course.opened - 1] if course.opened else 0
            demand(len(course.activated) <= allowed, "more activate than were approved", rollout)

    def _check_order(
        self, device: "Device", act: Act, goal: Goal, rollout: str | None, *, activates: bool
    ) -> None:
        document, withdrawn = self._documents(device)
        demand(goal.digest in self._fleet.digests, "an unsigned release", device.id, goal.version)
        demand(goal.digest not in withdrawn, "works on what is withdrawn", device.id, goal.version)
        if act is Act.RETURN:
            running = device.record.run
            demand(
                running is not None and running.digest in withdrawn, "goes back without a recall", device.id
            )
            return
        demand(document is not None, "works without an order", device.id)
        if document is None:
            return
        demand(not document.hold, "works under a hold", device.id)
        floor = self._floors[device.id]
        demand(goal.counter >= floor, "works on what is below its floor", device.id, goal.version, floor)
        target = next((t for t in document.targets if t.rollout == rollout), None)
        signed = target.goal if target else document.baseline
        down = device.record.run is not None and goal.counter < device.record.run.counter
        permitted = signed is not None and signed.mode == "exactly"
        demand(not down or permitted, "goes down without a signed permission", device.id, goal.version)
        if rollout is None:
            named = document.baseline is not None and document.baseline.digest == goal.digest
            demand(named, "works on what nobody ordered", device.id, goal.version)
            return
        demand(target is not None, "works on an order that does not stand", device.id, rollout)
        if target is not None:
            demand(not target.hold, "begins under a hold", device.id, rollout)
            cut = target.activate_cut if activates else target.stage_cut
            own = document.device is not None
            demand(own or admits(target, device.id, device.site, cut), "not admitted", device.id, rollout)
            admitting = (t for t in document.targets if admits(t, device.id, device.site, t.stage_cut))
            demand(own or next(admitting) == target, "another order stands before it", device.id, rollout)
            demand(target.goal.digest == goal.digest, "works on another release", device.id, rollout)

    def _check_commit(self, device: "Device", before: Record) -> None:
        work = before.work
        if work is None:
            raise Broken(f"commits nothing: {device.id}")
        published = self._fleet.digests.get(work.goal.digest)
        demand(published is not None, "an unsigned release runs", device.id)
        demand(device.runs == work.goal.digest, "commits what does not run", device.id)
        _, withdrawn = self._documents(device)
        demand(work.goal.digest not in withdrawn, "commits what is withdrawn", device.id, work.goal.version)
        floor = self._floors[device.id]
        demand(work.goal.counter >= floor, "runs what is below its floor", device.id, work.goal.version)
        if published is not None:
            self._floors[device.id] = max(floor, published.release.min_counter)
        demand(device.record.floor >= self._floors[device.id], "its floor did not rise", device.id)
        self._failed.pop((device.id, work.goal.digest), None)
        self._ran.setdefault(device.id, set()).add(work.goal.digest)

    def ran(self, device: str) -> set[str]:
        """Digests that the device has committed."""
        return self._ran.get(device, set())


@lru_cache(256)
def verified(payload: bytes, fleet: Fleet) -> Desired | None:
    """A stored document, or None."""
    try:
        return trust.verify_desired(payload, fleet.root)
    except FleetfootError:
        return None

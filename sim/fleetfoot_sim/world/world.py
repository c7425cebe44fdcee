"""A run: a fleet, its manager, its people, and a story. What happens first is storm; then there is calm.

In the calm the network is good, everybody is awake and honest, people answer every question, and enough time
passes: every rollout ends, and every device is where `resolve` says that it should be.
"""

import random
from pathlib import Path
from typing import Any

from fleetfoot_manager import audit, documents, inventory, policies, rollout_rows, standstill
from fleetfoot_manager.faults import Stage
from fleetfoot_manager.requests.rollout_arguments import RolloutPlan
from fleetfoot_manager.rollout import Rollout
from fleetfoot_protocol import dsse, times, topics, trust
from fleetfoot_protocol.allow import Environment, allow
from fleetfoot_protocol.documents import Desired, Goal
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import Installed, Request
from fleetfoot_protocol.resolve import Act, resolve
from fleetfoot_protocol.resolve import Device as Facts
from fleetfoot_protocol.states import Lifecycle, RolloutState, Terminal
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.world.bounds import Bounds
from fleetfoot_sim.world.device import Device
from fleetfoot_sim.world.fleet import COMPONENT, FLEET, GROUPS, PLATFORM, Fleet, secret_of, the_fleet
from fleetfoot_sim.world.manager import Manager
from fleetfoot_sim.world.story import SECONDS, Happening
from fleetfoot_sim.world.timeline import Timeline
from fleetfoot_sim.world.wire import Broker, Weather
from fleetfoot_sim.world.witness import Broken, Witness, demand, verified

_S = RolloutState
_WAITING = (_S.AWAITING_APPROVAL, _S.PLANNED)
#: The verdict of an answer to a probe -> as what it counts.
_COUNTS_AS = {"accepted": "ok", "deferred": "deferred", "rejected": "refused"}
_CALM_ROUNDS = 40
_ROUND_SECONDS = 60.0


class World:
    """One run in `folder`, which is empty before. `seed` draws what the story leaves open."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.fleet: Fleet = the_fleet()
        self.folder = folder
        self.fleet.copy_store(folder)
        self.draw = random.Random(f"world {seed}")  # noqa: S311 - a run that can be had again, no secret
        self.time = Timeline()
        self.witness = Witness(self.fleet, lambda: self.time.now)
        self.bounds = Bounds(self.witness)
        self.broker = Broker(self.time, self.draw, self._seen)
        self.devices: dict[str, Device] = {}
        self.managers: list[Manager] = []
        self._replies: dict[str, bool] = {}
        #: Requests about probes -> what came of them.
        self._results: dict[str, dict[str, Any] | None] = {}
        self._requests = 0
        self._twins = 0
        self._asked: set[str] = set()
        self._heard: dict[str, list[bytes]] = {}
        self._known: dict[str, int] = {}
        #: What each group demanded at the end of the turn before.
        self._policies: dict[str, policies.Policy] = {}
        self._hand = self.broker.connect("people", self._reply)
        self.broker.subscribe(self._hand, [topics.build(Kind.REPLIES, operator="alice")])
        self._boot()
        for number in range(self.draw.randint(4, 8)):
            self._add_device(f"dev-{number:02}", GROUPS[number % 2])
        self.time.run(0.5)
        self._enroll(list(self.devices.values()))
        self.time.run(2.0)

    def close(self) -> None:
        """Give the store back."""
        for manager in self.managers:
            manager.kill()

    # --- the parts -----------------------------------------------------------------------------------

    @property
    def manager(self) -> Manager | None:
        """The manager that lives and holds the lease."""
        return next((one for one in reversed(self.managers) if one.alive), None)

    def _boot(self) -> None:
        self._twins += 1
        args = (self.folder, self.fleet, self.time, self.broker, self.draw, self._turned)
        self.managers.append(Manager(f"manager-{self._twins}", *args))
        self.managers = [one for one in self.managers if one.alive]

    def _add_device(self, name: str, group: str) -> Device:
        first = self.draw.choice(["1.0.0", "1.0.0", "1.0.0", "1.1.0", "1.2.0"])
        site = self.draw.choice(["north", "south"])
        device = Device(name, group, self.fleet, self.time, self.broker, self.draw, self.witness, first, site)
        self.devices[name] = device
        self.witness.installed(device)
        device.switch_on()
        return device

    def _seen(self, sender: str, topic: str, payload: bytes) -> None:
        self.witness.seen(sender, topic, payload)
        parsed = topics.parse(topic)
        if parsed is not None and parsed.kind is Kind.GROUP_DESIRED and sender.startswith("manager"):
            self._heard.setdefault(topic, []).append(payload)

    def _turned(self, manager: Manager) -> None:
        """After each turn: what the store holds now."""
        with manager.store.read() as tx:
            changed = [of for of in manager.engine.live if self._known.get(of.id) != of.revision]
            ended = [
                name
                for name, course in self.witness.courses.items()
                if not course.state.ended and name not in {of.id for of in manager.engine.live}
            ]
            changed += [of for name in ended if (of := rollout_rows.load_one(tx, name)) is not None]
            for of in changed:
                self._known[of.id] = of.revision
                course = self.witness.courses.get(of.id)
                # What waited, for approval or for the hop before it, is planned anew when it begins, over
                # the inventory of then.
                if course is None or course.state in _WAITING:
                    sites = {name: device.site for name, device in self.devices.items()}
                    self.witness.planned(of, sites)
                    self._check_approval(tx, of)
            self._policies = {group: policies.of_group(tx, group) for group in GROUPS}
            self.witness.heard(inventory.counters(tx))
            self.witness.turned(changed, lambda group: self._stored(tx, group))
            self.bounds.turned(
                list(manager.engine.live),
                changed,
                lambda name: self._asked_for(tx, name),
                lambda group: self._stored(tx, group),
                self.time.now,
            )
            halted = standstill.of(tx) is not None
            self.bounds.halted(halted, manager.engine.live, lambda group: self._stored(tx, group))

    def _asked_for(self, tx: Any, name: str) -> RolloutPlan | None:
        order = policies.order_of(tx, name)
        return (order.edited or order.asked) if order else None

    def _check_approval(self, tx: Any, of: Rollout) -> None:
        if of.started is None:
            return
        order = policies.order_of(tx, of.id)
        # A start and a policy may come in one turn, in either order: what stood before had to be known.
        stood = any(policy.demands(of.total) for group in of.groups if (policy := self._policies.get(group)))
        needed = stood and policies.demand_approval(tx, of.groups, of.total)
        # A way back in steps is a decision about the rollout that it takes the place of.
        needed = needed and not of.withdraws
        demand(not needed or bool(order and order.decision), "started without approval", of.id)

    def _stored(self, tx: Any, group: str, device: str = "") -> Desired | None:
        kind = Kind.DEVICE_DESIRED if device else Kind.GROUP_DESIRED
        ids = {"group": group, "component": COMPONENT} | ({"device": device} if device else {})
        found = documents.get(tx, documents.place(kind, **ids))
        return verified(found.payload, self.fleet) if found else None

    # --- people --------------------------------------------------------------------------------------

    def _ask(self, verb: str, arguments: dict[str, Any], revision: int | None = None) -> str:
        self._requests += 1
        name = f"request-{self._requests:04}"
        request = Request(
            fleet=FLEET,
            operator="alice",
            id=name,
            group="*",
            verb=verb,
            arguments=arguments,
            revision=revision,
            issued=times.to_text(self.time.now),
            expires=times.to_text(self.time.now + 300),
        )
        envelope = dsse.encode(dsse.sign(PayloadType.REQUEST, request.payload(), secret_of("alice")))
        topic = topics.build(Kind.REQUESTS, operator="alice")
        self.broker.publish(self._hand, topic, envelope, retained=False)
        return name

    def _reply(self, topic: str, payload: bytes, _kept: bool) -> None:
        reply = trust.verify_reply(payload, self.fleet.root)
        known = self._replies.get(reply.id)
        demand(known is None or known == reply.ok, "two replies to one request", reply.id)
        demand(reply.code != "upgrade_internal", "the manager met what it did not expect", reply.message)
        self._replies[reply.id] = reply.ok
        if reply.id in self._results and reply.ok:
            self._results[reply.id] = reply.result
        if not reply.ok:
            self.witness.note(f"refused {reply.id} {reply.code}: {reply.message[:80]}")

    def _enroll(self, devices: list[Device]) -> None:
        self._ask("device.enroll", {"devices": [one.enrolment for one in devices]})

    def _rollouts(self) -> list[Rollout]:
        manager = self.manager
        return sorted(manager.engine.live, key=lambda of: of.id) if manager else []

    def _one(self, *states: RolloutState) -> Rollout | None:
        found = [of for of in self._rollouts() if not states or of.state in states]
        return self.draw.choice(found) if found else None

    def _on_rollout(self, verb: str, *states: RolloutState, **more: Any) -> None:
        of = self._one(*states)
        if of is not None:
            self._ask(f"rollout.{verb}", {"rollout": of.id, **more}, of.revision)

    def _device(self, number: int) -> Device | None:
        known = [device for device in self.devices.values() if not device.gone]
        return known[number % len(known)] if known else None

    # --- what happens --------------------------------------------------------------------------------

    def happen(self, happening: Happening) -> None:
        """Let one thing happen."""
        self.witness.note(f"** {happening.what} {happening.arguments}")
        arguments = dict(happening.arguments)
        if "device" in arguments:
            arguments["device"] = self._device(arguments["device"])
            if arguments["device"] is None:
                return
        getattr(self, f"_do_{happening.what}")(**arguments)

    def _do_start(self, named: tuple[int, ...] = (), canaries: tuple[int, ...] = (), **asked: Any) -> None:
        """`named`, `canaries`: numbers of devices, whoever that is by then."""
        for what, numbers in (("devices", named), ("canaries", canaries)):
            found = {device.id for number in numbers if (device := self._device(number)) is not None}
            if found:
                asked[what] = sorted(found)
        self._ask("rollout.start", {"component": COMPONENT, **asked})

    def _do_retry(self) -> None:
        self._on_rollout("retry")

    def _do_pause(self) -> None:
        self._on_rollout("pause", _S.RUNNING, _S.SETTLING)

    def _do_resume(self) -> None:
        self._on_rollout("resume", _S.PAUSED)

    def _do_activate(self) -> None:
        self._on_rollout("activate", _S.PAUSED)

    def _do_cancel(self) -> None:
        self._on_rollout("cancel")

    def _do_approve(self) -> None:
        self._on_rollout("approve", _S.AWAITING_APPROVAL, _S.PAUSED)

    def _do_decide(self, decision: str, **steps: Any) -> None:
        self._on_rollout("decide", decision=decision, **steps)

    def _do_policy(self, group: str) -> None:
        self._ask("group.policy", {"group": group, "approval": "always"})

    def _do_halt(self) -> None:
        self._ask("engine.pause", {"reason": "story"})

    def _do_go_on(self) -> None:
        self._ask("engine.resume", {})

    def _do_probe(self, **asked: Any) -> None:
        self._results[self._ask("rollout.probe", {"component": COMPONENT, **asked})] = None

    def _do_recall(self, version: str) -> None:
        self._ask("release.recall", {"component": COMPONENT, "version": version, "reason": "story"})

    def _do_lift(self, version: str) -> None:
        self._ask("release.lift", {"component": COMPONENT, "version": version})

    def _do_own(self, device: Device, version: str, pin: bool) -> None:
        facts = {"device": device.id, "component": COMPONENT, "version": version, "pin": pin}
        self._ask("device.upgrade", facts)

    def _do_release(self, device: Device) -> None:
        self._ask("device.unpin", {"device": device.id, "component": COMPONENT})

    def _do_behave(self, device: Device, version: str, word: str) -> None:
        device.behaviour[version] = word

    def _do_crash(self, device: Device, steps: int) -> None:
        device.crash_in = steps

    def _do_sleep(self, device: Device, seconds: float) -> None:
        device.switch_off()
        self.time.after(seconds, device.switch_on)

    def _do_die(self, device: Device) -> None:
        device.switch_off()
        device.dead = True

    def _do_hang(self, device: Device, seconds: float) -> None:
        device.hung = True
        self.time.after(seconds, lambda: self._unhang(device))

    def _unhang(self, device: Device) -> None:
        device.hung = False
        device.wake()

    def _do_outage(self, device: Device, seconds: float) -> None:
        device.outage = True
        self.time.after(seconds, lambda: setattr(device, "outage", False))

    def _do_lie(self, device: Device) -> None:
        device.lying = True
        self.witness.claimed[device.id] = set(self.fleet.digests)
        device.wake()

    def _do_join(self, group: str) -> None:
        device = self._add_device(f"dev-{len(self.devices):02}", group)
        self.time.after(1.0, lambda: self._enroll([device]))

    def _do_move(self, device: Device, group: str) -> None:
        if device.group != group:
            asked = self._ask("device.move", {"device": device.id, "group": group})
            # Who is refused leaves the device where it is; who hears nothing goes on with it.
            self.time.after(3.0, lambda: device.move(group) if self._replies.get(asked, True) else None)

    def _do_forget(self, device: Device) -> None:
        self._ask("device.forget", {"device": device.id})
        device.switch_off()
        device.gone = True

    def _do_weather(self, lost: float, doubled: float, late: float, seconds: float) -> None:
        self.broker.weather = Weather(lost, doubled, late)
        self.time.after(seconds, lambda: setattr(self.broker, "weather", Weather()))

    def _do_empty(self) -> None:
        self.broker.retained.clear()
        self._do_cut("manager")
        self._do_cut("devices")

    def _do_cut(self, who: str) -> None:
        if who == "manager":
            if self.manager is not None:
                self.manager.connect()
        else:
            for device in self.devices.values():
                if device.on:
                    device.connect()

    def _do_replay(self, group: str, version: str) -> None:
        topic = topics.build(Kind.GROUP_DESIRED, group=group, component=COMPONENT)
        if old := self._heard.get(topic):
            self.broker.take(topic, self.draw.choice(old), retained=True)

    def _do_forge(self, group: str, version: str) -> None:
        release = self.fleet.releases[version]
        goal = Goal(
            version=version, counter=release.release.counter, digest=release.digest, length=1, mode="exactly"
        )
        now = self.time.now
        document = Desired(
            fleet=FLEET, group=group, component=COMPONENT, epoch=1, sequence=int(now * 1000) + 10**6,
            issued=times.to_text(now), expires=times.to_text(now + 10**6), baseline=goal,
        )  # fmt: skip
        envelope = dsse.encode(dsse.sign(PayloadType.DESIRED, document.payload(), secret_of("stranger")))
        topic = topics.build(Kind.GROUP_DESIRED, group=group, component=COMPONENT)
        self.broker.take(topic, envelope, retained=True)

    def _do_kill(self, stage: str, effects: int, away: float) -> None:
        manager = self.manager
        if manager is None:
            return
        manager.death.at, manager.death.left = Stage(stage), effects
        self.time.after(away + 30, self._revive)

    def _revive(self) -> None:
        if self.manager is None:
            self._boot()

    def _do_twin(self) -> None:
        self._boot()

    # --- the calm ------------------------------------------------------------------------------------

    def storm(self, story: list[Happening]) -> None:
        """Everything that the story tells."""
        for happening in story:
            self.time.at(self.time.now + happening.at, lambda one=happening: self.happen(one))  # type: ignore[misc]
        self.time.run(SECONDS + 30)

    def calm(self) -> None:
        """Let everything come to rest, and look whether it is as it must be."""
        self.broker.weather = Weather()
        for device in self.devices.values():
            device.hung = device.lying = device.outage = False
            device.crash_in = None
            device.behaviour = {}
            if not device.on:
                device.switch_on()
        if self.manager is None:
            self._boot()
        for manager in self.managers:
            manager.death.at = None
        unknown = [one for one in self.devices.values() if not one.gone]
        self._do_empty()
        self.time.run(5)
        self._enroll_missing(unknown)
        for _ in range(_CALM_ROUNDS):
            for device in self.devices.values():
                device.wake()
            self.time.run(_ROUND_SECONDS)
            live = self._rollouts()
            if not live and self._rested():
                break
            if self.bounds.stands:
                self._do_go_on()
                continue
            for of in live:
                self._answer(of)
        self.time.run(5)  # what the last rollout said when it ended is on its way
        self._check_probes()
        self._check_end()

    def _check_probes(self) -> None:
        """Of each probe the manager counts what the devices have answered; who has not is unknown."""
        for probe in [found for found in self._results.values() if found is not None]:
            wanted = {name: probe[name] for name in ("id", "component", "digest", "groups")}
            request = self._ask("rollout.answers", wanted)
            self._results[request] = None
            self.time.run(5)
            counted = self._results[request]
            demand(counted is not None, "nobody counts the answers", probe["id"])
            for row in counted["devices"] if counted else ():
                self._check_counted(probe["id"], row)

    def _check_counted(self, probe: str, row: dict[str, Any]) -> None:
        device = self.devices[row["device"]]
        said = device.preflights.answers.get(COMPONENT)
        truth = _COUNTS_AS[str(said.verdict)] if said is not None and said.id == probe else "unknown"
        # Of who is gone the last word may never have come.
        may = {truth} if device.on else {truth, "unknown"}
        demand(row["counts_as"] in may, "counts what nobody answered", device.id, row["counts_as"], truth)

    def _enroll_missing(self, devices: list[Device]) -> None:
        """Whose enrolment or move was lost is enrolled now, as it stands on the device."""
        manager = self.manager
        if manager is None:
            raise Broken("no manager lives in the calm")
        with manager.store.read() as tx:
            missing = [
                one
                for one in devices
                if (entry := inventory.find(tx, one.id)) is None or entry.group != one.group
            ]
        if missing:
            facts = [{**one.enrolment, "replace": True} for one in missing]
            asked = self._ask("device.enroll", {"devices": facts})
            self.time.run(5)
            if self._replies.get(asked) is False:
                # Out of support: it is not moved, but may be taken away and come anew.
                for one in missing:
                    self._ask("device.revoke", {"device": one.id})
                self._ask("device.enroll", {"devices": facts})
                self.time.run(5)

    def _answer(self, of: Rollout) -> None:
        match of.state:
            case _S.AWAITING_APPROVAL:
                # Who cannot be approved any more, since its release was recalled for one, is rejected.
                verb, more = ("reject", {"reason": "story"}) if of.id in self._asked else ("approve", {})
                self._asked.add(of.id)
                self._ask(f"rollout.{verb}", {"rollout": of.id, **more}, of.revision)
            case _S.PAUSED:
                verb = "activate" if "staged" in of.reason else "resume"
                verb = "approve" if "awaits approval" in of.reason else verb
                self._ask(f"rollout.{verb}", {"rollout": of.id}, of.revision)
            case _S.TRIPPED:
                decision = self.draw.choice(["rollback", "abort"])
                self._ask("rollout.decide", {"rollout": of.id, "decision": decision}, of.revision)

    def _rested(self) -> bool:
        return all(
            device.record.state in (Lifecycle.IDLE, Lifecycle.STAGED)
            for device in self.devices.values()
            if device.on
        )

    def _check_end(self) -> None:
        manager = self.manager
        if manager is None:
            raise Broken("no manager lives in the end")
        unexpected = {what: n for what, n in manager.engine.dropped.items() if what[0].isupper()}
        demand(not unexpected, "the engine met what it did not expect", unexpected)
        with manager.store.read() as tx:
            still = [(of.id, str(of.state)) for of in rollout_rows.load(tx, live=True)]
            demand(not still, "a rollout does not end", still)
            broken = audit.first_broken(audit.entries(tx))
            demand(broken is None, "the audit chain does not verify", broken)
            for device in self.devices.values():
                if device.on and inventory.find(tx, device.id) is not None:
                    self._check_rest(tx, device)
            for name in self.witness.courses:
                of = rollout_rows.load_one(tx, name)
                if of is not None:
                    self._check_record(of)

    def _check_rest(self, tx: Any, device: Device) -> None:
        """The device obeys the newest documents of the manager, and the manager knows how it stands."""
        group, own = self._stored(tx, device.group), self._stored(tx, device.group, device.id)
        for document, scope in ((group, "group"), (own, "own")):
            have = device.memory.desired(scope, COMPONENT)
            if document is not None:
                known = have[0].order if have else None
                demand(known == document.order, "has not the newest order", device.id, scope, known)
        record = device.record
        running = record.run.digest if record.run else None
        demand(device.runs == running, "runs another version than it says", device.id)
        facts = Facts(device.id, {"site": device.site}, record.run, record.prev, record.refused, device.floor)
        plan = resolve(group, own, facts)
        staged = plan.act is Act.STAGE and record.state is Lifecycle.STAGED
        at_rest = plan.act in (Act.STAY, Act.REJECT, Act.DEFER) or staged
        if not at_rest and plan.goal is not None:
            release = self.fleet.digests[plan.goal.digest].release
            rules = device.reader_rules()
            answer = allow(plan, release, rules, Environment(PLATFORM, "0.1.0", record.run, 10**9))
            at_rest = answer.verdict != "proceed"
        waits = record.retry is not None and record.retry.at > self.time.now
        demand(at_rest or waits, "does not do what resolve says", device.id, plan.act, record.state)
        entry = inventory.find(tx, device.id)
        status = entry.status if entry else None
        demand(status is not None, "the manager has never heard of", device.id)
        if status is not None:
            told = status.components[COMPONENT].running
            said: Installed | None = record.run
            demand(told == said, "the manager believes another version", device.id, told, said)

    def _check_record(self, of: Rollout) -> None:
        """Whom the manager calls healthy has committed the goal, or has claimed so."""
        for name, record in of.devices.items():
            if record.terminal is Terminal.HEALTHY:
                true = of.goal.digest in self.witness.ran(name) | self.witness.claimed.get(name, set())
                demand(true, "called healthy, and never was", of.id, name)


def run(folder: Path, seed: int, story: list[Happening]) -> list[str]:
    """One run; its trace. Raises Broken, with the trace as `trace`, or whatever a defect raises."""
    world = None
    try:
        world = World(folder, seed)
        world.storm(story)
        world.calm()
    except Exception as error:
        error.trace = world.witness.trace if world else []  # type: ignore[attr-defined]
        raise
    finally:
        if world is not None:
            world.close()
    return world.witness.trace

"""The manager, killed by SIGKILL at every effect of a rollout and started again, goes on where it was.

A story is a rollout in steps. In each case one step runs with a fault armed: the manager dies there at the
named effect and stage, is started again without the fault, and the story has to end as it ends without it.
`MOMENTS` names for each effect of the closed union the steps in which it occurs; an effect without one fails.
"""

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.end_to_end.quick import BrokerProcess, QuickDevice, QuickFleet, target_of
from tests.end_to_end.zygote import Managers
from tests.manager.process import DeviceParty, OperatorParty, closing
from tests.manager.realm import COMPONENT, Bundle, Device, Realm

from fleetfoot_manager import audit, faults, rollout_rows
from fleetfoot_manager.faults import Stage
from fleetfoot_manager.rollout import Rollout
from fleetfoot_manager.store import Store
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.reports import Reply
from fleetfoot_protocol.states import RolloutState

T = TypeVar("T")
GROUPS = ("hall", "yard")
DEVICES = 6


@dataclass
class World:
    """What all cases share: keys, releases, a broker, and a state folder to begin with.

    In it `OLD` runs everywhere, and `GOOD` has been withdrawn before anybody began it: to start it means to
    lift it.
    """

    realm: Realm
    broker: BrokerProcess
    managers: Managers
    devices: list[Device]
    old: Bundle
    good: Bundle
    bad: Bundle

    @property
    def bundles(self) -> dict[str, Bundle]:
        return {bundle.digest: bundle for bundle in (self.old, self.good, self.bad)}

    def argv(self, state: Path, root: str) -> list[str]:
        """How a manager is started. The mirror stays the same, or every restart would make new documents."""
        argv = ["manager", "run", "--dir", str(state), "--json", "--topic-root", root]
        argv += ["--artifacts", "127.0.0.1:0", "--mirror", "http://127.0.0.1:9"]
        return [*argv, "--broker", f"mqtt://{self.broker.address}"]

    def prepare(self) -> None:
        """Enrol, publish, and withdraw the good release."""
        argv = [*self.argv(self.realm.state, "ff"), "--root", str(self.realm.root_path)]
        assert self.managers.start(argv, self.managers.log)
        alice, sim = OperatorParty(self.realm, self.broker.address), DeviceParty(self.broker.address)
        with closing(alice, sim):
            alice.do("device.enroll", {"devices": [device.enrolment for device in self.devices]})
            for bundle in self.bundles.values():
                alice.release(bundle)
            for device in self.devices:
                sim.say(device, QuickDevice(device, self.old).status())
            started = alice.do("rollout.start", order(self.good, waves=[1]))
            alice.do("rollout.decide", {"rollout": started["rollout"], "decision": "rollback"})
        assert self.managers.end(signal.SIGTERM) == 0


def order(bundle: Bundle, **more: Any) -> dict[str, Any]:
    """The arguments of a rollout over both groups."""
    facts: dict[str, Any] = {"component": COMPONENT, "version": bundle.release.version, "settle": 0}
    return {**facts, "groups": list(GROUPS), **more}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    realm = Realm(folder)
    broker, managers = BrokerProcess(folder / "broker.log"), Managers(folder / "managers.log")
    try:
        broker.start()
        sites = ("north", "south", "north")
        devices = [
            Device(f"dev-{n:02}", GROUPS[n % 2], labels={"site": sites[n % 3]}) for n in range(DEVICES)
        ]
        releases = [realm.release(version, n) for n, version in enumerate(("1.0.0", "1.1.0", "1.2.0"), 1)]
        world = World(realm, broker, managers, devices, *releases)
        world.prepare()
        yield world
    finally:
        broker.kill()  # first: it cannot fail
        managers.close()


@dataclass
class Case:
    """One story: a manager that may die, and a fleet that lives through it."""

    world: World
    folder: Path
    root: str
    fleet: QuickFleet
    rollout: str = ""
    killed: int = 0
    requests: dict[str, bytes] = field(default_factory=dict)
    _outstanding: bytes = b""

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self, fault: str = "") -> None:
        """Start the manager. One whose fault strikes at once is seen by `_revive`."""
        argv = self.world.argv(self.state, self.root)
        ready = self.world.managers.start(argv, self.folder / "manager.log", fault)
        assert ready or fault, (self.folder / "manager.log").read_text()

    def stop(self) -> None:
        assert self.world.managers.end(signal.SIGTERM) == 0

    def _revive(self) -> None:
        status = self.world.managers.status
        if status is None:
            return
        assert status == -signal.SIGKILL, (self.folder / "manager.log").read_text()
        self.killed += 1
        self.start()
        if self._outstanding:
            self.fleet.send(self._outstanding)

    def until(self, look: Callable[[], T], what: str) -> T:
        return self.fleet.until(look, what, meanwhile=self._revive)

    def ask(self, verb: str, arguments: dict[str, Any]) -> Reply:
        """Ask; and with the very same bytes again, should the manager die before it has answered."""
        request, payload = self.world.realm.request(verb, arguments)
        self.requests[request.id] = self._outstanding = payload
        self.fleet.send(payload)
        reply = self.until(lambda: self.fleet.reply(request.id), f"a reply to {verb}")
        self._outstanding = b""
        assert reply is not None
        assert reply.ok, f"{verb}: {reply.code}: {reply.message}"
        return reply

    # -- what happens in stories

    def begin(self, bundle: Bundle, waves: list[int], **more: Any) -> None:
        """Start a rollout, and wait until its first wave is called."""
        self.fleet.witness.waves[bundle.digest] = waves
        self.fleet.witness.lifted.add(bundle.digest)
        reply = self.ask("rollout.start", order(bundle, waves=waves, **more))
        self.rollout = reply.result["rollout"]
        self.await_called(waves[0])

    def await_called(self, count: int) -> list[QuickDevice]:
        """Wait until so many devices have something to do; never more."""

        def called() -> list[QuickDevice]:
            found = self.fleet.called()
            assert len(found) <= count, f"{len(found)} devices called, not {count}"
            return found if len(found) == count else []

        return self.until(called, f"{count} devices are called")

    def work(self, *, dies: QuickDevice | None = None, but: QuickDevice | None = None) -> None:
        """Every device that is called, `but` one, acts and says how it went; with one of them it dies."""
        for one in self.fleet.called():
            if one is not but:
                self.fleet.say(one, one.act(self.world.bundles, dies=one is dies))

    def await_state(self, state: str) -> None:
        """Wait until the progress in both groups shows the state."""
        progress = self.fleet.witness.progress

        def there() -> bool:
            seen = [progress.get((self.rollout, group)) for group in GROUPS]
            return all(one is not None and one.state == state for one in seen)

        self.until(there, f"the rollout is {state}")

    def await_documents(self, look: Callable[[Desired], object], what: str) -> None:
        """Wait until both groups' newest documents are as they should be."""
        newest = self.fleet.witness.newest
        self.until(lambda: all(g in newest and look(newest[g]) for g in GROUPS), what)

    # -- what it came to

    def rollouts(self) -> dict[str, Rollout]:
        """What the store knows of all rollouts."""
        with Store(self.state, read_only=True) as store, store.read() as tx:
            return {of.id: of for of in rollout_rows.load(tx)}

    def actions(self, action: str) -> int:
        """How often the audit log, whose chain must be whole, tells of an action."""
        with Store(self.state, read_only=True) as store, store.read() as tx:
            rows = list(audit.entries(tx))
        assert audit.first_broken(iter(rows)) is None
        return sum(row.action == action for row in rows)

    def bundle_runs(self) -> dict[str, int]:
        """version -> how many devices run it."""
        found: dict[str, int] = {}
        for one in self.fleet.devices:
            version = one.run.release.version
            found[version] = found.get(version, 0) + 1
        return found


Act = Callable[[Case], None]


# -- a good release, in three waves


def good_starts(case: Case) -> None:
    case.begin(case.world.good, [1, 3, 6])


def good_first_wave(case: Case) -> None:
    case.work()
    case.await_called(2)


def good_second_wave(case: Case) -> None:
    case.work()
    case.await_called(3)


def good_completes(case: Case) -> None:
    case.work()
    case.await_state("completed")
    digest = case.world.good.digest
    case.await_documents(lambda d: d.baseline and d.baseline.digest == digest, "the baseline is the release")


def good_ends(case: Case) -> None:
    assert case.bundle_runs() == {"1.1.0": DEVICES}
    for document in case.fleet.witness.newest.values():
        assert document.targets == ()
        assert document.withdrawn == ()
    assert case.actions("group.upgrade.complete") == 1


# -- a bad one: of two canaries one stays well, one comes back; a person decides


def bad_starts(case: Case) -> None:
    case.begin(case.world.bad, [2, 6])


def bad_trips(case: Case) -> None:
    _, second = case.fleet.called()
    case.work(dies=second)
    case.await_state("tripped")
    case.await_documents(
        lambda d: (target := target_of(d, case.rollout)) is not None and target.hold, "it is held"
    )
    assert case.fleet.called() == []


def bad_is_decided(case: Case) -> None:
    case.ask("rollout.decide", {"rollout": case.rollout, "decision": "rollback"})
    case.await_documents(lambda d: case.world.bad.digest in d.withdrawn, "it is withdrawn")
    assert [one.run.release.version for one in case.await_called(1)] == ["1.2.0"]


def bad_is_back(case: Case) -> None:
    case.work()
    case.await_state("rolled_back")


def bad_ends(case: Case) -> None:
    assert case.bundle_runs() == {"1.0.0": DEVICES}
    for document in case.fleet.witness.newest.values():
        assert document.targets == ()
        assert document.baseline is None
        assert set(document.withdrawn) == {case.world.good.digest, case.world.bad.digest}
    assert sum(one.begun[case.world.bad.digest] for one in case.fleet.devices) == 2
    assert case.actions("group.upgrade.decide") == 2
    assert case.actions("group.upgrade.paused") == 1


# -- a restricted one: it completes to a standing target


def some_start(case: Case) -> None:
    case.begin(case.world.good, [4], selector={"site": "north"})


def some_complete(case: Case) -> None:
    case.work()
    case.await_state("completed")
    case.await_documents(lambda d: target_of(d, case.rollout) is not None, "its target stands")


def some_end(case: Case) -> None:
    assert case.bundle_runs() == {"1.1.0": 4, "1.0.0": 2}
    for document in case.fleet.witness.newest.values():
        assert [target.selector for target in document.targets] == [{"site": "north"}]
        assert document.baseline is None
    assert case.actions("group.upgrade.complete") == 1


# -- one device stays away: the rollout completes because time passes, not because anybody says anything


def slow_starts(case: Case) -> None:
    case.begin(case.world.good, [DEVICES], device_timeout=4)


def slow_works(case: Case) -> None:
    case.work(but=case.fleet.devices[0])
    progress = case.fleet.witness.progress

    def counted() -> bool:
        seen = progress.get((case.rollout, GROUPS[0]))
        return seen is not None and seen.counts.get("healthy") == DEVICES - 1

    case.until(counted, "all others are healthy")


def slow_completes(case: Case) -> None:
    case.await_state("completed")
    digest = case.world.good.digest
    case.await_documents(lambda d: d.baseline and d.baseline.digest == digest, "the baseline is the release")


def slow_ends(case: Case) -> None:
    assert case.bundle_runs() == {"1.1.0": DEVICES - 1, "1.0.0": 1}
    assert case.rollouts()[case.rollout].devices.counts == {"healthy": DEVICES - 1, "silent": 1}
    assert case.actions("group.upgrade.complete") == 1


@dataclass(frozen=True)
class Story:
    """Steps in their order, and what must be true at the end. `ends`: the rollout's last state."""

    steps: tuple[Act, ...]
    check: Act
    ends: RolloutState


STORIES = (
    Story(
        (good_starts, good_first_wave, good_second_wave, good_completes), good_ends, RolloutState.COMPLETED
    ),
    Story((bad_starts, bad_trips, bad_is_decided, bad_is_back), bad_ends, RolloutState.ROLLED_BACK),
    Story((some_start, some_complete), some_end, RolloutState.COMPLETED),
    Story((slow_starts, slow_works, slow_completes), slow_ends, RolloutState.COMPLETED),
)

#: effect -> the steps in which it is met, and the how-manieth time in that step.
MOMENTS: dict[str, tuple[tuple[Act, int], ...]] = {
    "Lift": ((good_starts, 1),),
    "Withdraw": ((bad_is_decided, 1),),
    "SetBaseline": ((good_completes, 1), (slow_completes, 1)),
    "Stand": ((some_complete, 1),),
    "PublishDesired": (
        (good_starts, 1),
        (good_first_wave, 1),
        (bad_trips, 1),
        (bad_is_decided, 1),
        (good_completes, 1),
    ),
    "PublishProgress": ((good_second_wave, 2), (bad_is_back, 1)),
    # The batch that starts, the breaker that trips, the rollout that is complete.
    "Emit": ((good_starts, 2), (bad_trips, 3), (good_completes, 5)),
}


#: Events that a rollout sends once, or once for each batch.
ONCE = (
    "rollout_started",
    "batch_started",
    "batch_completed",
    "circuit_breaker_tripped",
    "rollout_decided",
    "rollout_completed",
)


def nothing_happened_twice(case: Case, story: Story) -> None:
    """One rollout, each device once, each event once, each request answered once."""
    begun = [count for one in case.fleet.devices for count in one.begun.values()]
    assert set(begun) == {1}, begun
    rollouts = case.rollouts()
    assert len(rollouts) == 2, "the one of the story, and the one that was there before"
    assert rollouts[case.rollout].state is story.ends
    told = case.fleet.witness.events.get(case.rollout, {})
    assert told
    assert {what: len(ids) for what, ids in told.items() if what[0] in ONCE and len(ids) > 1} == {}
    for name, payload in case.requests.items():
        replies = case.fleet.replies[name]
        before = len(replies)
        case.fleet.send(payload)
        case.until(lambda: len(replies) > before, "the reply again")  # noqa: B023 - called in this round
        assert case.fleet.reply(name) is not None
    assert case.rollouts() == rollouts


def the_broker_holds_what_is_stored(case: Case) -> None:
    """Whoever comes now reads the newest documents."""
    newest = dict(case.fleet.witness.newest)
    late = QuickFleet(case.world.realm, case.world.broker.address, case.root, case.fleet.devices)
    late.witness.waves = case.fleet.witness.waves
    try:
        late.until(lambda: late.witness.newest == newest, "the newest documents", meanwhile=lambda: None)
    finally:
        late.close()


def cases() -> Iterator[Any]:
    for effect in faults.EFFECTS:
        for step, nth in MOMENTS.get(effect, ()):
            for stage in Stage:
                fault = f"{stage}:{effect}:{nth}"
                yield pytest.param(step, fault, id=f"{step.__name__}-{fault}")


@pytest.fixture
def case(world: World, tmp_path: Path) -> Iterator[Case]:
    shutil.copytree(world.realm.state, tmp_path / "state")
    root = f"ff-{tmp_path.name}"[:60]
    fleet = QuickFleet(
        world.realm, world.broker.address, root, [QuickDevice(one, world.old) for one in world.devices]
    )
    case = Case(world, tmp_path, root, fleet)
    try:
        yield case
    finally:
        fleet.close()
        if world.managers.status is None:
            world.managers.end(signal.SIGTERM)


def test_every_effect_and_every_stage_has_its_cases() -> None:
    assert set(MOMENTS) == set(faults.EFFECTS)
    assert all(MOMENTS.values())
    steps = {step for story in STORIES for step in story.steps}
    assert {step for moments in MOMENTS.values() for step, _ in moments} <= steps


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.check.__name__)
def test_the_stories_end_so_without_a_fault(case: Case, story: Story) -> None:
    case.start()
    for step in story.steps:
        step(case)
    assert case.killed == 0
    story.check(case)
    nothing_happened_twice(case, story)


@pytest.mark.parametrize(("struck", "fault"), list(cases()))
def test_killed_at_an_effect_the_manager_goes_on_where_it_was(case: Case, struck: Act, fault: str) -> None:
    story = next(story for story in STORIES if struck in story.steps)
    case.start(fault if struck is story.steps[0] else "")
    for step in story.steps:
        if step is struck and step is not story.steps[0]:
            case.stop()
            case.start(fault)
        step(case)
        if step is struck:
            case.until(lambda: case.killed, f"killed at {fault}")
    assert case.killed == 1
    story.check(case)
    nothing_happened_twice(case, story)
    the_broker_holds_what_is_stored(case)

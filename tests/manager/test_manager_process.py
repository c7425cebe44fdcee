"""The manager as people run it: a real process, a real broker, signed requests, attested statuses."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.manager.process import FLEETFOOT, DeviceParty, ManagerProcess, OperatorParty, Party, closing
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.stores import tamper
from tests.support.waiting import until

from fleetfoot_manager import audit
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_manager.store import Store
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.reports import Reply
from fleetfoot_protocol.topics import Kind

GROUPS = ("hall", "yard")
DEVICES = 10
UNIT = Path(__file__).parents[2] / "systemd" / "manager" / "fleetfoot-manager.service"
PRESENCE = topics.build(Kind.MANAGER_PRESENCE)


class Fleet:
    """A manager with ten enrolled devices that run 1.0.0, and two published releases.

    A manager that a fault point kills is started again, without the fault, by whoever waits for a reply.
    """

    def __init__(self, realm: Realm, manager: ManagerProcess, address: str) -> None:
        self.realm = realm
        self.manager = manager
        self.address = address
        self.killed = 0
        self.alice = OperatorParty(realm, address)
        self.sim = DeviceParty(address)
        self.devices = [Device(f"dev-{n:02}", GROUPS[n % 2]) for n in range(DEVICES)]
        self.old, self.new = realm.release("1.0.0", 1), realm.release("1.1.0", 2)

    def prepare(self) -> None:
        self.alice.do("device.enroll", {"devices": [device.enrolment for device in self.devices]})
        for bundle in (self.old, self.new):
            self.alice.release(bundle)
        for device in self.devices:
            self.sim.say(device, device.status(runs(self.old)))
        until(lambda: len(self.on_old()) == DEVICES, "all devices are known on 1.0.0")

    def on_old(self) -> list[dict[str, Any]]:
        rows = self.alice.do("device.list")["devices"]
        return [row for row in rows if row["components"].get(COMPONENT, {}).get("version") == "1.0.0"]

    def ask(self, verb: str, arguments: dict[str, Any], **changes: Any) -> Reply:
        """Ask, and ask with the very same bytes again when the manager was killed meanwhile."""
        request, payload = self.realm.request(verb, arguments, **changes)
        self.alice.send(payload)

        def answered() -> list[Reply]:
            if self.manager.process is not None and self.manager.process.poll() is not None:
                assert self.manager.wait() == -signal.SIGKILL, self.manager.log.read_text()
                self.killed += 1
                self.manager.start()
                self.alice.send(payload)
            return self.alice.replies(request.id)

        return until(answered, f"a reply to {verb}")[0]

    def do(self, verb: str, arguments: dict[str, Any], **changes: Any) -> dict[str, Any]:
        reply = self.ask(verb, arguments, **changes)
        assert reply.ok, f"{verb}: {reply.code}: {reply.message}"
        return reply.result

    def start(self, bundle: Bundle, **more: Any) -> dict[str, Any]:
        arguments = {"component": COMPONENT, "version": bundle.release.version, "groups": list(GROUPS)}
        return self.do("rollout.start", {**arguments, "waves": [2, "50%", "100%"], "settle": 0, **more})

    def show(self, name: str) -> dict[str, Any]:
        return self.do("rollout.show", {"rollout": name})

    def await_state(self, name: str, state: str) -> dict[str, Any]:
        return until(lambda: row if (row := self.show(name))["state"] == state else {}, f"it is {state}")

    def await_wave(self, name: str, wave: int) -> list[Device]:
        """The devices that the wave has exposed and that have not ended, once it is open."""
        row = until(lambda: row if (row := self.show(name))["wave"] >= wave else {}, f"wave {wave} opens")
        waiting = {one["id"] for one in row["devices"] if "since" in one and one["terminal"] == "pending"}
        return [device for device in self.devices if device.id in waiting]

    def complete(self, name: str, bundle: Bundle, waves: int = 3) -> dict[str, Any]:
        """Every exposed device completes, wave by wave."""
        for wave in range(1, waves + 1):
            for device in self.await_wave(name, wave):
                self.sim.say(device, device.status(ended(bundle, name, "completed", bundle)))
        return self.await_state(name, "completed")

    def desired(self, group: str) -> Desired:
        """The document that the broker holds for a group, as somebody reads it who comes now."""
        topic = topics.build(Kind.GROUP_DESIRED, group=group, component=COMPONENT)
        return trust.verify_desired(retained(self.address, topic), self.realm.root)

    def actions(self) -> list[str]:
        """All actions of the audit log, whose chain is whole."""
        with Store(self.realm.state, read_only=True) as store, store.read() as tx:
            rows = list(audit.entries(tx))
        assert audit.first_broken(iter(rows)) is None
        return [row.action for row in rows]

    def close(self) -> None:
        for party in (self.alice, self.sim):
            party.close()


def retained(address: str, topic: str) -> bytes:
    """What the broker holds on a topic, waiting until it holds something."""
    with closing(reader := Party(address, topic)):
        return until(lambda: reader.on(topic), f"a retained message on {topic}")[0]


@pytest.fixture
def manager(realm: Realm) -> Iterator[ManagerProcess]:
    """With its own embedded broker; not started."""
    with closing(manager := ManagerProcess(realm)):
        yield manager


@pytest.fixture
def fleet(realm: Realm) -> Iterator[Fleet]:
    """With a broker that outlives the manager."""
    with EmbeddedBroker() as broker:
        address = "{}:{}".format(*broker.address)
        manager = ManagerProcess(realm, broker=address)
        with closing(manager):
            manager.first_start()
            fleet = Fleet(realm, manager, address)
            try:
                fleet.prepare()
                yield fleet
            finally:
                fleet.close()


def test_a_release_goes_through_the_fleet_wave_by_wave(fleet: Fleet) -> None:
    started = fleet.start(fleet.new)
    name = started["rollout"]
    assert started["plan"]["waves"] == [2, 5, 10]
    assert [batch["count"] for batch in started["plan"]["batches"]] == [2, 3, 5]
    assert len(fleet.await_wave(name, 1)) == 2
    target = fleet.desired("hall").targets[0]
    assert (target.rollout, target.goal.digest, target.hold) == (name, fleet.new.digest, False)
    row = fleet.complete(name, fleet.new)
    assert row["counts"] == {"healthy": DEVICES}
    for group in GROUPS:
        document = fleet.desired(group)
        assert document.targets == ()
        assert document.baseline is not None
        assert document.baseline.digest == fleet.new.digest
        heartbeat = retained(fleet.address, topics.build(Kind.HEARTBEAT, group=group))
        order = trust.verify_heartbeat(heartbeat, fleet.realm.root).components[COMPONENT]
        assert (order.epoch, order.sequence) == document.order
    actions = fleet.actions()
    assert actions.count("group.upgrade.schedule") == actions.count("group.upgrade.complete") == 1


def test_a_failure_trips_the_rollout_and_a_rollback_withdraws_the_release(fleet: Fleet) -> None:
    name = fleet.start(fleet.new)["rollout"]
    first, second = fleet.await_wave(name, 1)
    fleet.sim.say(first, first.status(ended(fleet.new, name, "completed", fleet.new)))
    bad = ended(fleet.new, name, "rolled_back", fleet.old, code="upgrade_health_failed")
    fleet.sim.say(second, second.status(bad))
    row = fleet.await_state(name, "tripped")
    assert row["counts"] == {"pending": 8, "healthy": 1, "rolled_back": 1}
    assert fleet.desired("hall").targets[0].hold
    stale = fleet.ask("rollout.decide", {"rollout": name, "decision": "continue"}, revision=1)
    assert stale.code == "conflict"
    decided = fleet.do("rollout.decide", {"rollout": name, "decision": "rollback"}, revision=row["revision"])
    assert decided["state"] == "rolling_back"
    document = fleet.desired("hall")
    assert document.withdrawn == (fleet.new.digest,)
    assert document.targets == ()
    fleet.sim.say(first, first.status(runs(fleet.old)))
    assert fleet.await_state(name, "rolled_back")["counts"]["rolled_back"] == 1


@pytest.mark.parametrize(
    "fault",
    [
        "before-apply:Lift:1",
        "after-apply:PublishDesired:2",
        "after-commit:PublishDesired:1",
        "after-publish:PublishProgress:3",
        "before-apply:SetBaseline:1",
        "after-commit:SetBaseline:1",
    ],
)
def test_killed_at_any_moment_the_manager_goes_on_where_it_was(fleet: Fleet, fault: str) -> None:
    assert fleet.manager.stop() == 0
    fleet.manager.start(fault=fault)
    started = fleet.start(fleet.new)
    row = fleet.complete(started["rollout"], fleet.new)
    assert fleet.killed == 1
    assert row["counts"] == {"healthy": DEVICES}
    assert [one["rollout"] for one in fleet.do("rollout.list", {"state": "all"})["rollouts"]] == [
        started["rollout"]
    ]
    document = fleet.desired("hall")
    assert document.baseline is not None
    assert document.baseline.digest == fleet.new.digest
    actions = fleet.actions()
    assert actions.count("group.upgrade.schedule") == actions.count("group.upgrade.complete") == 1


def test_killed_while_rolling_back_the_manager_goes_on(fleet: Fleet) -> None:
    name = fleet.start(fleet.new)["rollout"]
    assert fleet.manager.stop() == 0
    fleet.manager.start(fault="after-commit:Withdraw:1")
    assert fleet.do("rollout.decide", {"rollout": name, "decision": "rollback"})["state"] == "rolled_back"
    assert fleet.killed == 1
    assert fleet.desired("hall").withdrawn == (fleet.new.digest,)
    assert fleet.actions().count("group.upgrade.decide") == 1


def test_a_repeated_request_gets_the_same_reply_and_acts_once(fleet: Fleet) -> None:
    arguments = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"]}
    request, payload = fleet.realm.request("rollout.start", arguments)
    fleet.alice.send(payload)
    until(lambda: fleet.alice.replies(request.id), "a first reply")
    fleet.manager.kill()
    fleet.manager.start()
    fleet.alice.send(payload)
    first, second = until(
        lambda: both if len(both := fleet.alice.replies(request.id)) > 1 else [], "a second reply"
    )[:2]
    assert first == second
    assert len(fleet.do("rollout.list", {})["rollouts"]) == 1


def broker(port: str) -> tuple[subprocess.Popen[str], str]:
    """An embedded broker as a process of its own, and its address."""
    command = [sys.executable, "-m", "fleetfoot_manager.broker", "--port", port]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    with process.stdout:
        return process, process.stdout.readline().split()[-1]


def test_a_broker_that_comes_back_empty_is_told_everything_again(realm: Realm) -> None:
    first, address = broker("0")
    processes = [first]
    manager = ManagerProcess(realm, broker=address)
    try:
        manager.first_start()
        fleet = Fleet(realm, manager, address)
        fleet.prepare()
        name = fleet.start(fleet.new)["rollout"]
        before = fleet.desired("hall")
        first.kill()
        first.wait()
        fleet.close()
        second, address = broker(address.rpartition(":")[2])
        processes.append(second)
        wanted = [
            PRESENCE,
            topics.build(Kind.TRUST_ROOT, step="1"),
            topics.build(Kind.RELEASE, component=COMPONENT, digest=fleet.new.digest),
            topics.build(Kind.HEARTBEAT, group="yard"),
            topics.build(Kind.ROLLOUT, group="hall", rollout=name),
            topics.build(Kind.ROLLOUT_ATTESTATION, group="hall", rollout=name),
        ]
        for topic in wanted:
            assert retained(address, topic)
        assert fleet.desired("hall") == before
        progress = [retained(address, topic) for topic in wanted[-2:]]
        assert trust.verify_progress(progress[0], progress[1], realm.root).rollout == name
    finally:
        manager.close()
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("payload", [b"forged", b""])
def test_what_others_write_on_a_topic_of_the_manager_is_put_right(fleet: Fleet, payload: bytes) -> None:
    fleet.start(fleet.new)
    topic = topics.build(Kind.GROUP_DESIRED, group="hall", component=COMPONENT)
    before = retained(fleet.address, topic)
    events = topics.build(Kind.GROUP_EVENTS, group="hall")
    with closing(mallory := Party(fleet.address, topic, events)):
        mallory.publish(topic, payload, retain=True)
        until(lambda: mallory.on(topic)[-2:] == [payload, before], "the stored bytes follow")
        if payload:
            alarm = until(
                lambda: [e for e in map(json.loads, mallory.on(events)) if "alarm" in e["type"]], "alarm"
            )
            assert alarm[0]["errorcode"] == "upgrade_malformed"
    assert retained(fleet.address, topic) == before


def test_the_manager_says_when_it_leaves_and_when_it_dies(fleet: Fleet) -> None:
    with closing(watcher := Party(fleet.address, PRESENCE)):
        until(lambda: watcher.on(PRESENCE) == [b"online"], "online")
        assert fleet.manager.stop() == 0
        until(lambda: watcher.on(PRESENCE)[-1] == b"offline", "offline after SIGTERM")
        fleet.manager.start()
        until(lambda: watcher.on(PRESENCE)[-1] == b"online", "online again")
        fleet.manager.kill()
        until(lambda: watcher.on(PRESENCE)[-1] == b"offline", "offline by its Last Will")


def test_without_a_trust_root_the_manager_does_not_run(manager: ManagerProcess) -> None:
    said = manager.spawn().communicate(timeout=20)[0]
    assert manager.wait() == 2
    error = json.loads(said)["error"]
    assert "has no trust root" in error["message"]
    assert "fleetfoot trust init --request" in error["remedy"]


def test_a_root_that_its_own_keys_did_not_sign_is_refused(manager: ManagerProcess) -> None:
    realm = manager.realm
    realm.root_path.write_bytes(realm.sign_root(realm.root, "release"))
    manager.spawn("--root", str(realm.root_path))
    assert manager.wait() == 5


def test_a_root_is_replaced_by_its_successor_only(manager: ManagerProcess) -> None:
    realm = manager.realm
    manager.first_start()
    assert manager.stop() == 0
    later = realm.folder / "later.json"
    for version, code in ((3, 5), (2, 0)):
        root = realm.root.model_copy(update={"version": version})
        later.write_bytes(realm.sign_root(root))
        if code:
            manager.spawn("--root", str(later))
            assert manager.wait() == code
    manager.start("--root", str(later))
    assert (
        trust.first_root(retained(manager.ready["broker"], topics.build(Kind.TRUST_ROOT, step="2"))).version
        == 2
    )
    assert manager.stop() == 0
    manager.start()


def test_a_second_manager_on_the_same_folder_is_refused(manager: ManagerProcess) -> None:
    manager.first_start()
    with closing(other := ManagerProcess(manager.realm)):
        said = other.spawn().communicate(timeout=20)[0]
        assert other.wait() == 1
        holder = manager.process.pid if manager.process else 0
        assert f"another manager (process {holder})" in json.loads(said)["error"]["message"]


def test_status_tells_what_the_store_knows_while_the_manager_runs_and_after(fleet: Fleet) -> None:
    command = [FLEETFOOT, "manager", "status", "--dir", str(fleet.realm.state), "--json"]

    def look() -> dict[str, Any]:
        result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return result

    name = fleet.start(fleet.new)["rollout"]
    seen = look()
    assert seen["running"]
    assert (seen["devices"], seen["groups"], seen["releases"]) == (DEVICES, list(GROUPS), 2)
    assert [(row["rollout"], row["state"]) for row in seen["rollouts"]] == [(name, "running")]
    assert fleet.manager.stop() == 0
    assert not look()["running"]


def test_a_manager_whose_store_was_taken_over_stays_down(tmp_path: Path) -> None:
    realm = Realm(tmp_path)
    with closing(manager := ManagerProcess(realm)):
        manager.first_start()
        tamper(realm.state, "UPDATE meta SET value = 'somebody else' WHERE name = 'lease'")
        with closing(alice := OperatorParty(realm, manager.ready["broker"])):
            alice.send(realm.request("manager.status", {})[1])
            code = manager.wait()
    unit = UNIT.read_text()
    (never,) = [line for line in unit.splitlines() if line.startswith("RestartPreventExitStatus=")]
    assert str(code) in never.partition("=")[2].split()
    assert "has taken over" in manager.log.read_text()

"""The store is gone and the keys are kept: what a manager knows again from signed messages alone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.enginerig import Rig
from tests.manager.process import ManagerProcess, OperatorParty, closing
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.stores import database_url
from tests.support.waiting import until

from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_manager import keyring, recover
from fleetfoot_manager.database import STORE_NAME, URL_NAME
from fleetfoot_manager.store import Store
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind

PREFIX = "ff/v1/"


class Town:
    """Four devices in the hall whose baseline is 1.0.0, one in the yard with a pin, 1.1.0 on its way."""

    def __init__(self, realm: Realm) -> None:
        self.realm = realm
        self.rig = Rig(realm)
        self.rig.connect()
        self.old, self.new = realm.release("1.0.0", 1), realm.release("1.1.0", 2)
        self.devices = [Device(f"dev-{n}", "hall") for n in range(4)] + [Device("dev-9", "yard")]
        self.statuses: dict[str, bytes] = {}
        self.rig.enroll(*self.devices)
        self.rig.publish(self.old)
        self.rig.publish(self.new)
        for device in self.devices:
            self.say(device, self.old)
        first = self.rig.start(self.old, "hall", immediate=True)
        until(lambda: self.rig.show(first)["state"] == "completed", "1.0.0 is the baseline")
        self.rig.do("device.pin", {"device": "dev-9", "component": COMPONENT})
        self.rollout = self.rig.start(self.new, "hall", waves=[1, 4])
        shown = self.rig.show(self.rollout)["devices"]
        self.canary = next(one["id"] for one in shown if one.get("since"))
        self.said_by_canary()

    def said_by_canary(self) -> None:
        device = next(one for one in self.devices if one.id == self.canary)
        status = device.status(
            runs(self.new, outcomes=ended(self.new, self.rollout, "completed", self.new).outcomes)
        )
        self.keep(device, status)
        self.rig.say(device, status)
        until(lambda: self.rig.show(self.rollout)["wave"] == 2, "the second wave opens")

    def say(self, device: Device, bundle: Bundle) -> None:
        status = device.status(runs(bundle))
        self.keep(device, status)
        self.rig.say(device, status)

    def keep(self, device: Device, status: tuple[bytes, bytes]) -> None:
        topic = f"groups/{device.group}/devices/{device.id}/status"
        self.statuses |= {topic: status[0], f"{topic}/attestation": status[1]}

    def retained(self) -> dict[str, bytes]:
        """What a broker would hold by now."""
        found = dict(self.statuses)
        for sent in self.rig.broker.sent:
            if sent.retained:
                found[sent.topic.removeprefix(PREFIX)] = sent.payload
        return {topic: payload for topic, payload in found.items() if payload}

    def lose(self) -> None:
        self.rig.close()
        for path in self.realm.state.glob(f"{STORE_NAME}*"):
            path.unlink()
        (self.realm.state / URL_NAME).unlink(missing_ok=True)

    def recover(self, heard: dict[str, bytes]) -> recover.Report:
        return recover.run(self.realm.state, [self.realm.root_path], heard, database_url())


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(Realm(tmp_path))


@pytest.fixture
def again(town: Town) -> Iterator[tuple[recover.Report, Rig]]:
    heard = town.retained()
    keyring.append(town.realm.state, [])
    town.lose()
    report = town.recover(heard)
    rig = Rig(town.realm)
    rig.connect()
    yield report, rig
    rig.close()


def said(report: recover.Report, *words: str) -> bool:
    return any(all(word in line for word in words) for line in report.lost)


def test_inventory_and_intent_are_back_and_what_is_not_is_said(
    town: Town, again: tuple[recover.Report, Rig]
) -> None:
    report, rig = again
    assert report.recovered == {
        "releases": 2,
        "devices": 5,
        "group documents": 1,
        "orders to single devices": 1,
        "attested reports": 5,
    }
    assert [row["id"] for row in rig.do("device.list")["devices"]] == [one.id for one in town.devices]
    lives = {row["version"]: row["life"] for row in rig.do("release.list")["releases"]}
    assert lives == {"1.0.0": "live", "1.1.0": "blessed"}
    assert said(report, town.rollout, "was running, wave 2 of 2", "start it again")
    assert said(report, "audit log", "entries")
    assert said(report, "policies")
    assert not said(report, "lives")


def test_what_is_signed_next_says_the_same_on_hold_and_is_newer(
    town: Town, again: tuple[recover.Report, Rig]
) -> None:
    _, rig = again
    topic = topics.build(Kind.GROUP_DESIRED, group="hall", component=COMPONENT)
    before = town.rig.desired("hall")
    until(lambda: rig.desired("hall").order > before.order, "a newer document")
    after = rig.desired("hall")
    assert rig.broker.on(topic)
    assert (after.baseline, after.withdrawn) == (before.baseline, before.withdrawn)
    (target,), (was,) = after.targets, before.targets
    assert target == was.model_copy(update={"hold": True})
    own = topics.build(Kind.DEVICE_DESIRED, group="yard", device="dev-9", component=COMPONENT)
    (pin,) = [trust.verify_desired(data, town.realm.root) for data in rig.broker.on(own)][-1:]
    assert not pin.released


def test_a_blessing_that_no_document_shows_is_told_as_lost(town: Town) -> None:
    town.rig.publish(town.realm.release("1.2.0", 3))
    heard = town.retained()
    town.lose()
    assert said(town.recover(heard), "the lives of 1 release", "promote")


def test_a_preflight_that_nobody_knows_any_more_is_cleared_and_can_be_asked_again(town: Town) -> None:
    wish = {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"]}
    town.rig.do("rollout.probe", wish)
    topic = topics.build(Kind.PROBE, group="hall", component=COMPONENT)
    until(lambda: town.rig.broker.on(topic), "the question is out")
    heard = town.retained()
    town.lose()
    report = town.recover({**heard, f"groups/attic/probe/{COMPONENT}": b"forged"})
    assert said(report, "preflight of kiosk in hall", "ask again")
    rig = Rig(town.realm)
    rig.connect()
    try:
        attic = topics.build(Kind.PROBE, group="attic", component=COMPONENT)
        until(lambda: rig.broker.on(topic) == rig.broker.on(attic) == [b""], "the topics are cleared")
        rig.do("rollout.probe", wish)
        until(lambda: len(rig.broker.on(topic)) == 2, "another question")
        trust.verify_probe(rig.broker.on(topic)[-1], town.realm.root)
    finally:
        rig.close()


def test_the_release_is_started_again_and_completes(town: Town, again: tuple[recover.Report, Rig]) -> None:
    _, rig = again
    for topic, payload in town.statuses.items():
        rig.arrive(PREFIX + topic, payload, retained=True)
    until(lambda: "components" in rig.device(town.canary), "the canary is heard")
    name = rig.start(town.new, "hall", immediate=True)
    for device in town.devices[:4]:
        if device.id != town.canary:
            rig.say(device, device.status(ended(town.new, name, "completed", town.new)))
    until(lambda: rig.show(name)["state"] == "completed", "it completes")
    until(lambda: not rig.desired("hall").targets, "no target is left")
    baseline = rig.desired("hall").baseline
    assert baseline is not None
    assert baseline.digest == town.new.digest


def test_the_head_of_the_log_that_was_lost_is_no_alarm_and_any_other_longer_one_is(town: Town) -> None:
    heard, head = town.retained(), topics.build(Kind.AUDIT_HEAD)
    town.lose()
    town.recover(heard)
    rig = Rig(town.realm)
    rig.connect()
    try:
        before = heard[head.removeprefix(PREFIX)]
        rig.arrive(head, before, retained=True)
        rig.do("manager.status")
        assert rig.engine.reassertion.counts["healed"] == 1
        events = topics.build(Kind.GROUP_EVENTS, group="hall")
        assert not [data for data in rig.broker.on(events) if b"upgrade_equivocation" in data]
        lost = trust.verify_audit_head(before, town.realm.root)
        twin = lost.model_copy(update={"count": lost.count + 1})
        rig.arrive(head, rig.house.director.envelope(PayloadType.AUDIT, twin), retained=True)
        until(lambda: any(b"upgrade_equivocation" in data for data in rig.broker.on(events)), "an alarm")
    finally:
        rig.close()


def test_nothing_is_believed_that_is_not_signed(town: Town) -> None:
    heard = town.retained()
    topic = f"groups/hall/desired/{COMPONENT}"
    forged = heard[topic].replace(b'"payload":"e', b'"payload":"f')
    assert forged != heard[topic]
    heard[topic] = forged
    heard[f"groups/attic/desired/{COMPONENT}"] = town.retained()[topic]
    stranger = Device("dev-77", "hall")
    heard["groups/hall/devices/dev-77/status"] = stranger.status(runs(town.old))[0]
    heard["groups/hall/devices/dev-0/status/attestation"] = stranger.status(runs(town.old))[1]
    town.lose()
    report = town.recover(heard)
    assert report.recovered["group documents"] == 0
    assert said(report, topic, "not believed")
    assert said(report, "groups/attic", "document of another topic")
    assert said(report, "dev-77", "enrol it again")
    assert said(report, "dev-0/status", "not believed")
    assert said(report, "what hall should run of kiosk", "1.0.0 on 2, 1.1.0 on 1") or said(
        report, "what hall should run of kiosk", "1.0.0 on 3"
    )


def test_a_store_that_is_there_is_not_recovered_over(town: Town) -> None:
    town.rig.close()
    with pytest.raises(FleetfootError) as caught:
        town.recover({})
    assert caught.value.code == "exists_already"


def test_keys_stay_beside_the_store_through_every_change(town: Town) -> None:
    rig, state = town.rig, town.realm.state
    assert set(keyring.read(state)) == {one.id for one in town.devices}
    rig.do("device.forget", {"device": "dev-3"})
    rig.do("device.move", {"device": "dev-2", "group": "yard"})
    rig.do("device.relabel", {"device": "dev-1", "labels": {"site": "north"}})
    known = until(lambda: found if "dev-3" not in (found := keyring.read(state)) else {}, "dev-3 is gone")
    assert (known["dev-2"]["group"], known["dev-1"]["labels"]) == ("yard", {"site": "north"})
    (state / keyring.NAME).write_text('{"id": "dev-0", "gro')
    assert keyring.read(state) == {}
    rig.close()
    with Store(state) as store, store.read() as tx:
        keyring.write(state, tx)
    assert keyring.read(state) == known


def test_recovered_from_a_broker_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another manager's embedded broker stands in for one that outlived the first manager."""
    realm = Realm(tmp_path)
    manager = ManagerProcess(realm)
    with closing(manager):
        manager.first_start()
        alice = OperatorParty(realm, manager.ready["broker"])
        with closing(alice):
            alice.release(realm.release("1.0.0", 1))
            alice.do("device.enroll", {"devices": [Device("dev-1", "hall").enrolment]})
            alice.do("rollout.probe", {"component": COMPONENT, "version": "1.0.0", "groups": ["hall"]})
            lost = tmp_path / "lost"
            lost.mkdir(mode=0o700)
            for name in ("director.key", keyring.NAME):
                shutil.copy(realm.state / name, lost / name)
            command = ["manager", "recover", "--dir", str(lost), "--root", str(realm.root_path), "--json"]
            assert (
                fleetfoot([*command, "--broker", f"mqtt://{manager.ready['broker']}", "--quiet-seconds", "1"])
                == 0
            )
    told = json.loads(capsys.readouterr().out)
    assert told["recovered"] == {"releases": 1, "devices": 1}
    assert any("artifacts of kiosk 1.0.0" in line for line in told["not_recovered"])
    assert any("preflight of kiosk in hall" in line for line in told["not_recovered"])


def test_an_engine_that_was_paused_is_paused_still(town: Town) -> None:
    town.rig.do("engine.pause", {"reason": "a bad batch"})
    until(lambda: town.rig.desired("hall").hold, "the order is held")
    heard = town.retained()
    town.lose()
    report = town.recover(heard)
    assert said(report, "who paused the engine", "resume --all")
    rig = Rig(town.realm)
    try:
        rig.connect()
        assert rig.do("manager.status")["engine"] == "paused"
        rig.do("engine.resume")
        until(lambda: not rig.desired("hall").hold, "the order is let go")
    finally:
        rig.close()

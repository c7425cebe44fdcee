"""Backups that are taken while the manager runs, what is restored from them, and that it moves forward."""

import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.attack.rows import row
from tests.manager.enginerig import Rig
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, ended, runs
from tests.support.stores import database_url, tamper
from tests.support.waiting import until

from fleetfoot_manager import audit, backup, database, migrate, pruning, schema
from fleetfoot_manager.store import Store
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind


@dataclass(frozen=True)
class Hall:
    devices: list[Device]
    old: Bundle
    new: Bundle


@pytest.fixture
def hall(rig: Rig) -> Hall:
    """Four devices on 1.0.0; 1.1.0 is published."""
    old, new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
    devices = [Device(f"dev-{n}", "hall") for n in range(4)]
    rig.enroll(*devices)
    rig.publish(old)
    rig.publish(new)
    for device in devices:
        rig.say(device, device.status(runs(old)))
    return Hall(devices, old, new)


def facts(folder: Path) -> dict[str, list[Any]]:
    """Every row of every table, apart from what belongs to a process."""
    with Store(folder, read_only=True) as store, store.read() as tx:
        tables = schema.metadata.sorted_tables
        rows = {table.name: sorted(map(repr, tx.execute(table.select()))) for table in tables}
    rows["meta"] = [row for row in rows["meta"] if "lease" not in row and "requests_since" not in row]
    return rows


class Restored:
    """The rig's realm, whose folder is the restored one from now on."""

    def __init__(self, realm: Realm, file: Path) -> None:
        realm.state = realm.folder / f"restored-{file.name}"
        backup.restore(file, realm.state, database_url())
        self.rig = Rig(realm)
        self.rig.connect()


def test_what_is_restored_is_what_was_and_says_so(rig: Rig, hall: Hall, tmp_path: Path) -> None:
    file = tmp_path / "copy"
    rig.start(hall.new, "hall", waves=[1, 4])
    about = backup.write(rig.realm.state, file)
    before = facts(rig.realm.state)
    assert (file.stat().st_mode & 0o777, about["tables"]["devices"]) == (0o600, 4)
    backup.restore(file, tmp_path / "new", database_url())
    after = facts(tmp_path / "new")
    (told,) = set(after["audit"]) - set(before["audit"])
    assert "store.restore" in told
    after["audit"].remove(told)
    assert after == before
    key = tmp_path / "new" / "director.key"
    assert (key.read_bytes(), key.stat().st_mode & 0o777) == (
        (rig.realm.state / "director.key").read_bytes(),
        0o600,
    )
    blobs = sorted(path.name for path in (rig.realm.state / "blobs").iterdir())
    assert sorted(path.name for path in (tmp_path / "new" / "blobs").iterdir()) == blobs


def test_a_restored_manager_goes_on_with_its_rollouts(rig: Rig, hall: Hall, tmp_path: Path) -> None:
    new = hall.new
    name = rig.start(new, "hall", waves=[4])
    backup.write(rig.realm.state, tmp_path / "copy")
    rig.close()
    again = Restored(rig.realm, tmp_path / "copy").rig
    try:
        for device in hall.devices:
            again.say(device, device.status(ended(new, name, "completed", new)))
        until(lambda: again.show(name)["state"] == "completed", "the rollout completes")
        with again.store.read() as tx:
            assert audit.first_broken(audit.entries(tx)) is None
    finally:
        again.close()


def test_what_was_signed_before_the_restoration_is_not_decided_again(rig: Rig, tmp_path: Path) -> None:
    backup.write(rig.realm.state, tmp_path / "copy")
    rig.enroll(Device("dev-1", "hall"))
    request, payload = rig.realm.request("device.forget", {"device": "dev-1"}, now=rig.now() - 2)
    rig.close()
    again = Restored(rig.realm, tmp_path / "copy").rig
    try:
        again.enroll(Device("dev-1", "hall"))
        again.arrive(topics.build(Kind.REQUESTS, operator="alice"), payload)
        (reply,) = until(lambda: again.replies(request.id), "a reply")
        assert (reply.ok, reply.code) == (False, "request_expired")
        assert "restored" in reply.message
        assert again.device("dev-1")["id"] == "dev-1"
    finally:
        again.close()


def test_a_backup_of_an_older_version_is_restored_and_migrated(tmp_path: Path) -> None:
    realm = Realm(tmp_path)
    file = tmp_path / "copy"
    backup.write(realm.state, file)
    rewritten = tmp_path / "older"
    with tarfile.open(file) as tar, tarfile.open(rewritten, "w") as out:
        for info in tar:
            content = tar.extractfile(info)
            assert content is not None
            data = content.read()
            if info.name == "backup.json":
                data = json.dumps({**json.loads(data), "version": "1"}).encode()
                info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    backup.restore(rewritten, tmp_path / "new", database_url())
    with Store(tmp_path / "new") as store, store.read() as tx:
        assert (store.fleet, migrate.version(tx)) == ("testfleet", migrate.CURRENT)


@pytest.mark.parametrize("what", ["cut", "bent", "text", "newer"])
def test_a_file_that_is_no_whole_backup_is_refused_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    realm = Realm(tmp_path)
    file = tmp_path / "copy"
    backup.write(realm.state, file)
    data = file.read_bytes()
    assert data.count(b"testfleet") > 2
    file.write_bytes(
        {
            "cut": data[: data.index(b"director.key")],
            "bent": data.replace(b'"fleet", "value": "testfleet"', b'"fleet", "value": "bestfleet"'),
            "text": b"not a backup",
            "newer": data.replace(b'"version": "', b'"version": "9', 1),
        }[what]
    )
    with pytest.raises(FleetfootError) as caught:
        backup.restore(file, tmp_path / "new", database_url())
    assert caught.value.code == ("store_refused" if what == "newer" else "usage")
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "copy"
    backup.write(rig.realm.state, file)
    with pytest.raises(FleetfootError, match="is there already"):
        backup.write(rig.realm.state, file)
    with pytest.raises(FleetfootError, match="is not empty"):
        backup.restore(file, rig.realm.state)
    url = database.of_folder(rig.realm.state)
    if url is not None:
        with pytest.raises(FleetfootError, match="holds the store of a fleet already"):
            backup.restore(file, tmp_path / "new", url)


# --- rows of the catalogue ---------------------------------------------------------------------------------


@row(
    82,
    "the canary fails, and the manager is killed while it writes down that the rollout has tripped",
    "no later wave is ever published; tripped before and after, for a manager that comes back",
)
def test_row_82_a_trip_outlives_its_manager(rig: Rig, hall: Hall) -> None:
    old, new = hall.old, hall.new
    name = rig.start(new, "hall", waves=[1, 4])
    (canary,) = [one["id"] for one in rig.show(name)["devices"] if one.get("since")]
    cut = rig.desired("hall").targets[0].activate_cut
    device = next(one for one in hall.devices if one.id == canary)
    rig.say(device, device.status(ended(new, name, "rolled_back", old, code="upgrade_boot_failed")))
    until(lambda: rig.show(name)["state"] == "tripped", "the rollout trips")
    sent = len(rig.broker.sent)
    # As after kill -9: nothing is said or closed in order, and the next manager has the store alone.
    rig.broker.up = False
    rig.engine.stop()
    rig.store.close()
    again = Rig(rig.realm)
    again.connect()
    try:
        assert again.show(name)["state"] == "tripped"
        again.shift = 7 * 24 * 3600.0
        again.arrive(topics.build(Kind.PRESENCE, group="hall", device=canary), b"online")
        until(lambda: again.device(canary)["online"], "time has been looked at")
        topic = topics.build(Kind.GROUP_DESIRED, group="hall", component=COMPONENT)
        payloads = [one.payload for one in rig.broker.sent[sent:] if one.topic == topic]
        payloads += again.broker.on(topic)
        targets = [trust.verify_desired(payload, again.realm.root).targets[0] for payload in payloads]
        assert targets
        assert {(target.activate_cut, target.hold) for target in targets} == {(cut, True)}
    finally:
        again.close()


def orders(rig: Rig) -> dict[str, list[tuple[int, int]]]:
    """(epoch, sequence) of every document of a group that was published, by topic, in their order."""
    found: dict[str, list[tuple[int, int]]] = {}
    for sent in rig.broker.sent:
        topic = topics.parse(sent.topic)
        if topic is not None and topic.kind is Kind.GROUP_DESIRED and sent.payload:
            order = trust.verify_desired(sent.payload, rig.realm.root).order
            found.setdefault(sent.topic, []).append((order[0], order[1]))
    return found


@row(
    83,
    "the store is restored from a backup that is older than what was published since",
    "every document that is signed afterwards is newer than all before: no sequence is used again",
)
def test_row_83_a_restored_store_uses_no_sequence_again(rig: Rig, hall: Hall, tmp_path: Path) -> None:
    new = hall.new
    rig.do("rollout.cancel", {"rollout": rig.start(new, "hall", waves=[1, 4])})
    backup.write(rig.realm.state, tmp_path / "copy")
    name = rig.start(new, "hall", waves=[1, 4])
    for verb in ("pause", "resume", "pause", "cancel"):
        rig.do(f"rollout.{verb}", {"rollout": name})
    rig.close()
    before = orders(rig)
    again = Restored(rig.realm, tmp_path / "copy").rig
    try:
        # The broker is another one: nothing but the store says what the devices have heard.
        topic = topics.build(Kind.GROUP_DESIRED, group="hall", component=COMPONENT)
        at_once = until(lambda: orders(again).get(topic, []), "what the backup knew is told anew")
        assert min(at_once) > max(before[topic])
        name = again.start(new, "hall", waves=[1, 4])
        again.do("rollout.pause", {"rollout": name})
        after = until(lambda: orders(again).get(topic, []), "a document")
        assert min(after) > max(before[topic])
        assert len(set(after)) == len({sent.payload for sent in again.broker.sent if sent.topic == topic})
    finally:
        again.close()


@row(
    83,
    "two managers on one store: a second one starts, and then one that has taken the lease away",
    "the second is refused and told who is first; the first stops at its next write and publishes no more",
)
def test_row_83_one_store_has_one_writer(rig: Rig, hall: Hall, tmp_path: Path, backend: str) -> None:
    folder = rig.realm.state
    if backend == "postgresql":
        # Another machine: a folder of its own, the same database.
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        url = database.of_folder(rig.realm.state)
        assert url is not None
        database.remember(folder, url)
    with Store(folder) as second, pytest.raises(FleetfootError, match=str(os.getpid())) as caught:
        second.acquire()
    assert caught.value.code == "conflict"
    tamper(rig.realm.state, "UPDATE meta SET value = 'somebody else' WHERE name = 'lease'")
    request, payload = rig.realm.request(
        "rollout.start", {"component": COMPONENT, "version": "1.1.0", "groups": ["hall"]}
    )
    sent = len(rig.broker.sent)
    rig.arrive(topics.build(Kind.REQUESTS, operator="alice"), payload)
    assert rig.ended.wait(20)
    assert "taken over" in str(rig.engine.failure)
    assert [one.payload for one in rig.broker.sent[sent:]] in ([], [b"offline"])
    assert rig.replies(request.id) == []


# --- pruning -----------------------------------------------------------------------------------------------


def test_blobs_of_nobody_go_after_a_day(rig: Rig, tmp_path: Path) -> None:
    one, two = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
    for bundle in (one, two):
        rig.publish(bundle)
    stray = rig.realm.release("1.2.0", 3)
    rig.place(stray)
    rig.do("release.archive", {"component": COMPONENT, "version": "1.0.0"})
    folder, tomorrow = rig.realm.state, rig.now() + pruning.KEPT_SECONDS + 5

    def names(*bundles: Bundle) -> set[str]:
        return {name for bundle in bundles for name in bundle.uploads()}

    assert pruning.blobs(folder) == []
    would = pruning.blobs(folder, delete=False, now=tomorrow)
    assert {found["sha256"] for found in would} == names(one, stray)
    assert pruning.blobs(folder, now=tomorrow) == would
    assert {path.name for path in (folder / "blobs").iterdir()} == names(two)

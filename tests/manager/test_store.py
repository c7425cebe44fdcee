"""The store: one writer, all or nothing, an outbox in order, an audit log that cannot be bent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from tests.support.stores import tamper

from fleetfoot_manager import audit, documents, inventory, registry, schema
from fleetfoot_manager.database import FATAL, STORE_NAME, URL_NAME, translated
from fleetfoot_manager.init import make_state
from fleetfoot_manager.locks import holder_of
from fleetfoot_manager.registry import Registry
from fleetfoot_manager.store import Store, get_meta, set_meta
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind

NOW = 1_800_000_000.0
HALL = {"group": "hall"}


def test_the_state_folder_is_its_owners_alone(folder: Path, backend: str) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "director.key").stat().st_mode & 0o777 == 0o600
    store = folder / (STORE_NAME if backend == "sqlite" else URL_NAME)
    assert store.stat().st_mode & 0o777 == 0o600


def test_a_folder_with_contents_is_not_made_a_state_folder(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(FleetfootError) as caught:
        make_state(tmp_path, "testfleet", {})
    assert caught.value.code == "exists_already"


def test_every_commit_is_synced_to_the_disk(store: Store, backend: str) -> None:
    with store.read() as tx:
        if backend == "postgresql":
            assert tx.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
            return
        assert tx.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert tx.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert tx.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.write() as tx:
            set_meta(tx, "colour", "red")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    with store.read() as tx:
        assert get_meta(tx, "colour") is None


def test_a_step_that_raises_is_undone_alone(store: Store) -> None:
    def fail(tx: sa.Connection) -> None:
        with store.step(tx):
            set_meta(tx, "colour", "green")
            raise ValueError("on purpose")

    with store.write() as tx:
        set_meta(tx, "colour", "red")
        with pytest.raises(ValueError, match="on purpose"):
            fail(tx)
        with store.step(tx):
            set_meta(tx, "shape", "round")
    with store.read() as tx:
        assert (get_meta(tx, "colour"), get_meta(tx, "shape")) == ("red", "round")


def test_only_who_holds_the_lease_writes(folder: Path) -> None:
    with Store(folder) as store, pytest.raises(FleetfootError, match="lease"), store.write():
        pass


def test_a_second_writer_is_refused_and_told_who_is_first(folder: Path, store: Store) -> None:
    with Store(folder) as second, pytest.raises(FleetfootError, match=str(os.getpid())) as caught:
        second.acquire()
    assert caught.value.code == "conflict"
    assert holder_of(folder) == os.getpid()
    store.close()
    assert holder_of(folder) is None


def test_a_killed_writer_leaves_no_lock(folder: Path) -> None:
    code = (
        "import sys, os, pathlib; from fleetfoot_manager.store import Store\n"
        f"store = Store(pathlib.Path({str(folder)!r})); store.acquire(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with Store(folder) as store:
        store.acquire()


def test_a_writer_whose_lease_was_taken_writes_no_more(store: Store) -> None:
    tamper(store.folder, "UPDATE meta SET value = 'somebody else' WHERE name = 'lease'")
    with pytest.raises(FleetfootError, match="taken over") as caught, store.write():
        pass
    assert (caught.value.code, "disable" in caught.value.remedy) == ("store_taken", True)


@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        ("UPDATE alembic_version SET version_num = '99'", "the program that wrote it"),
        ("UPDATE alembic_version SET version_num = '2'", "fleetfoot manager migrate --dir"),
        ("DROP TABLE alembic_version", "restore it from a backup"),
    ],
)
def test_a_store_of_another_version_is_refused_with_what_to_do(
    folder: Path, statement: str, remedy: str
) -> None:
    tamper(folder, statement)
    with pytest.raises(FleetfootError) as caught:
        Store(folder)
    assert (caught.value.code, remedy in caught.value.remedy) == ("store_refused", True)


def test_a_damaged_file_is_refused_wherever_it_is_met(tmp_path: Path) -> None:
    make_state(tmp_path / "state", "testfleet", {})
    file = tmp_path / "state" / STORE_NAME
    with Store(tmp_path / "state") as store:
        store.acquire()
        file.write_bytes(b"no database" * 1000)
        with pytest.raises(FleetfootError) as caught, store.read() as tx:
            tx.execute(sa.text("SELECT * FROM audit"))
    assert caught.value.code in FATAL
    with pytest.raises(FleetfootError, match="not a database") as caught:
        Store(tmp_path / "state")
    assert (caught.value.code, "newest backup" in caught.value.remedy) == ("store_refused", True)


def test_a_database_that_does_not_answer_is_worth_another_try() -> None:
    gone = translated(OperationalError("SELECT 1", {}, Exception("connection refused")))
    assert gone.code == "store_unusable"


def test_a_folder_without_a_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FleetfootError) as caught:
        Store(tmp_path)
    assert "fleetfoot manager init" in caught.value.remedy


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [(0, 2.0, 2000), (2000, 2.0, 2001), (5000, 2.0, 5001), (1999, 2.0, 2000)],
)
def test_a_sequence_follows_the_clock_and_never_falls(last: int, now: float, expected: int) -> None:
    assert documents.next_sequence(last, now) == expected


def test_of_a_retained_topic_only_the_newest_waits(store: Store) -> None:
    with store.write() as tx:
        for payload in (b"one", b"two"):
            documents.put(tx, Kind.HEARTBEAT, HALL, payload, NOW)
            documents.enqueue(tx, "groups/hall/events", payload, retained=False)
        rows = documents.waiting(tx, 0, 10)
        stored = documents.get(tx, "groups/hall/heartbeat")
    assert [(row.topic, row.payload, row.retained) for row in rows] == [
        ("groups/hall/events", b"one", False),
        ("groups/hall/heartbeat", b"two", True),
        ("groups/hall/events", b"two", False),
    ]
    assert stored is not None
    assert stored.payload == b"two"


def test_what_was_acknowledged_waits_no_more_and_numbers_are_not_used_again(store: Store) -> None:
    with store.write() as tx:
        for payload in (b"one", b"two"):
            documents.enqueue(tx, "groups/hall/events", payload, retained=False)
        ids = [row.id for row in documents.waiting(tx, 0, 10)]
        documents.acknowledged(tx, ids)
        documents.enqueue(tx, "groups/hall/events", b"three", retained=False)
        (left,) = documents.waiting(tx, 0, 10)
    assert left.payload == b"three"
    assert left.id > max(ids)


def test_events_that_wait_too_long_make_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_WAITING_EVENTS", 2)
    with store.write() as tx:
        documents.put(tx, Kind.HEARTBEAT, HALL, b"kept", NOW)
        for payload in (b"one", b"two", b"three"):
            documents.enqueue(tx, "groups/hall/events", payload, retained=False)
        assert documents.trim_events(tx) == 1
        assert [row.payload for row in documents.waiting(tx, 0, 10)] == [b"kept", b"two", b"three"]


def test_a_dropped_document_clears_its_topic(store: Store) -> None:
    with store.write() as tx:
        documents.put(tx, Kind.HEARTBEAT, HALL, b"old", NOW)
        documents.drop(tx, "groups/hall/heartbeat")
        assert documents.get(tx, "groups/hall/heartbeat") is None
        assert [(row.topic, row.payload) for row in documents.waiting(tx, 0, 10)] == [
            ("groups/hall/heartbeat", b"")
        ]


def fill_audit(store: Store) -> None:
    with store.write() as tx:
        for n in range(1, 5):
            audit.append(tx, NOW + n, "alice", "device.enroll", {"device": f"dev-{n}"}, "d" * 64)


def test_a_whole_audit_chain_verifies(store: Store) -> None:
    fill_audit(store)
    with store.read() as tx:
        rows = list(audit.entries(tx))
    assert [row.n for row in rows] == [1, 2, 3, 4]
    assert audit.first_broken(iter(rows)) is None


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit SET data = '{}' WHERE n = 2", 2),
        ("UPDATE audit SET actor = 'mallory' WHERE n = 3", 3),
        ("DELETE FROM audit WHERE n = 3", 3),
        ("UPDATE audit SET n = 9 WHERE n = 4", 4),
        ("DELETE FROM audit WHERE n = 1", 1),
    ],
)
def test_a_bent_audit_chain_is_found(store: Store, statement: str, broken: int) -> None:
    fill_audit(store)
    tamper(store.folder, statement)
    with store.read() as tx:
        assert audit.first_broken(audit.entries(tx)) == broken


def test_devices_of_one_id_are_not_replaced_unasked(store: Store) -> None:
    first, second = "1" * 64, "2" * 64
    with store.write() as tx:
        assert inventory.enroll(tx, "dev-1", "hall", first, {}, NOW) is inventory.Enrolled.ADDED
        assert inventory.enroll(tx, "dev-1", "hall", first, {}, NOW) is inventory.Enrolled.UNCHANGED
        for group, key in (("hall", second), ("yard", first)):
            with pytest.raises(FleetfootError) as caught:
                inventory.enroll(tx, "dev-1", group, key, {}, NOW)
            assert caught.value.code == "conflict"
        did = inventory.enroll(tx, "dev-1", "yard", second, {}, NOW, replace=True)
        assert did is inventory.Enrolled.MOVED
        entry = inventory.demand(tx, "dev-1")
    assert (entry.group, entry.key.hex()) == ("yard", second)


def test_a_new_key_makes_the_manager_forget_what_the_old_one_said(store: Store) -> None:
    with store.write() as tx:
        inventory.enroll(tx, "dev-1", "hall", "1" * 64, {}, NOW)
        tx.execute(sa.update(schema.devices).values(status=b"{}", incarnation="a", counter=7))
        inventory.enroll(tx, "dev-1", "hall", "2" * 64, {}, NOW, replace=True)
        entry = inventory.demand(tx, "dev-1")
    assert (entry.status_bytes, entry.incarnation, entry.counter) == (None, None, 0)


def test_who_was_heard_in_a_flood_is_written_once_there_is_time(store: Store) -> None:
    devices = Registry()
    with store.write() as tx:
        inventory.enroll(tx, "dev-1", "hall", "1" * 64, {}, NOW)
        entry = devices.find(tx, "dev-1")
        assert entry is not None
        devices.presence(entry, True)
        devices.flush(tx, hurried=True)
        behind = [devices.behind]
        assert not inventory.demand(tx, "dev-1").online
        devices.flush(tx)
        behind.append(devices.behind)
        assert inventory.demand(tx, "dev-1").online
    assert behind == [True, False]


def test_of_a_large_group_no_parsed_status_stays_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_PARSED", 1)
    devices = Registry()
    with store.write() as tx:
        for name in ("dev-1", "dev-2"):
            inventory.enroll(tx, name, "hall", "1" * 64, {}, NOW)
        lent = devices.members(tx, ["hall"])
        assert [entry.status for entry in lent] == [None, None]
        assert all("status" in vars(entry) for entry in lent)
        devices.flush(tx)
    assert not any("status" in vars(entry) for entry in lent)

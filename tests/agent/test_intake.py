"""What arrives is verified, ordered and kept, or refused with a code; a courier may lie about all of it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.agent.stock import DEVICE, Stock
from tests.agent.workerrig import Crash, Rig, make_rig
from tests.support.fleet import everybody

from fleetfoot_agent import durable
from fleetfoot_agent.spool import WorkerSide
from fleetfoot_agent.worker.intake import Intake, Reader
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_protocol import strictjson, times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import PayloadType

DIRECTOR_2 = bytes(range(32))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    found = Stock(tmp_path_factory.mktemp("house"))
    found.house.keys["director-2"] = DIRECTOR_2
    return found


@dataclass
class Desk:
    """A reader at a device's spool, started anew for every reading."""

    rig: Rig

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.memory = Memory(self.rig.config.worker_dir)
        self.spool = WorkerSide(self.rig.config.spool)

    def read(self) -> Intake:
        return Reader(self.rig.config, self.memory, self.spool).read()

    def take(self, payload: bytes, slot: str = "group.kiosk") -> Intake:
        self.rig.send(payload, slot)
        self.open()
        return self.read()

    def refused(self, payload: bytes, slot: str = "group.kiosk") -> list[Code]:
        intake = self.take(payload, slot)
        assert not intake.changed
        return [refusal.code for refusal in intake.refusals]

    def sequence(self, scope: str = "group") -> int | None:
        found = self.memory.desired(scope, "kiosk")
        return found[0].sequence if found else None


@pytest.fixture
def desk(stock: Stock, tmp_path: Path) -> Desk:
    return Desk(make_rig(tmp_path, stock))


# -- order


def test_a_newer_document_takes_the_place_of_the_older(desk: Desk, stock: Stock) -> None:
    for sequence in (5, 6, 2**53 - 1):
        intake = desk.take(stock.order(sequence))
        assert intake.changed
        assert intake.refusals == []
        assert desk.sequence() == sequence


def test_the_same_document_again_is_nothing_new(desk: Desk, stock: Stock) -> None:
    order = stock.order(5)
    desk.take(order)
    desk.rig.send(stock.order(4))
    desk.rig.send(order)
    desk.open()
    intake = desk.read()
    assert [r.code for r in intake.refusals] == [Code.UPGRADE_SEQUENCE_REPLAYED]
    assert [code for code, _ in intake.alarms] == [Code.UPGRADE_SEQUENCE_REPLAYED]
    assert (intake.changed, desk.sequence()) == (False, 5)


def test_a_replayed_document_is_refused_also_after_a_restart(desk: Desk, stock: Stock) -> None:
    old, new = stock.order(4, hold=True), stock.order(5)
    desk.take(old)
    desk.take(new)
    # A hostile courier empties the slot and gives the old bytes again.
    for file in (desk.rig.config.spool / "in" / "msg" / "group.kiosk").iterdir():
        file.unlink()
    assert desk.refused(old) == [Code.UPGRADE_SEQUENCE_REPLAYED]
    assert desk.sequence() == 5


def test_all_unread_messages_of_a_slot_are_judged_and_the_newest_kept(desk: Desk, stock: Stock) -> None:
    for sequence in (7, 9, 8):
        desk.rig.send(stock.order(sequence))
    intake = desk.read()
    assert [r.code for r in intake.refusals] == [Code.UPGRADE_SEQUENCE_REPLAYED]
    assert desk.sequence() == 9
    assert desk.read() == Intake()


def test_of_two_documents_with_one_sequence_the_first_is_kept_until_a_higher_one(
    desk: Desk, stock: Stock
) -> None:
    desk.take(stock.order(5))
    intake = desk.take(stock.order(5, hold=True))
    assert [r.code for r in intake.refusals] == [Code.UPGRADE_EQUIVOCATION]
    assert [code for code, _ in intake.alarms] == [Code.UPGRADE_EQUIVOCATION]
    found = desk.memory.desired("group", "kiosk")
    assert found is not None
    assert not found[0].hold
    desk.memory.set_alarm(Code.UPGRADE_EQUIVOCATION, True)  # as the reporter does
    desk.refused(stock.order(4))
    assert desk.memory.alarms == {Code.UPGRADE_EQUIVOCATION}
    desk.take(stock.order(6))
    assert desk.memory.alarms == set()


def test_the_same_payload_in_another_envelope_is_the_same_document(desk: Desk, stock: Stock) -> None:
    order = stock.order(5)
    desk.take(order)
    assert desk.refused(order + b"\n") == []
    assert desk.memory.envelope("group.kiosk") == order


def test_own_and_group_documents_have_an_order_of_their_own(desk: Desk, stock: Stock) -> None:
    desk.take(stock.order(9))
    desk.take(stock.order(3, device=DEVICE), "own.kiosk")
    assert (desk.sequence("group"), desk.sequence("own")) == (9, 3)


def test_the_signed_scope_decides_and_not_the_slot(desk: Desk, stock: Stock) -> None:
    desk.take(stock.order(3, device=DEVICE), "group.kiosk")
    assert (desk.sequence("group"), desk.sequence("own")) == (None, 3)
    desk.take(stock.order(4), "own.kiosk")
    assert (desk.sequence("group"), desk.sequence("own")) == (4, 3)


# -- scope, signer, form


@pytest.mark.parametrize(
    "changes",
    [{"group": "g-two"}, {"device": "dev-002"}, {"component": "other"}, {"fleet": "otherfleet"}],
    ids=str,
)
def test_what_is_signed_for_somebody_else_is_refused(
    desk: Desk, stock: Stock, changes: dict[str, Any]
) -> None:
    assert desk.refused(stock.order(5, **changes)) == [Code.UPGRADE_SCOPE_MISMATCH]
    assert list(desk.memory.docs.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("alice", Code.UPGRADE_IDENTITY_NOT_ALLOWED),
        ("release", Code.UPGRADE_IDENTITY_NOT_ALLOWED),
        ("director-2", Code.UPGRADE_SIGNATURE_INVALID),
    ],
)
def test_who_may_not_direct_is_refused(desk: Desk, stock: Stock, key: str, code: Code) -> None:
    payload = stock.desired(5).payload()
    assert desk.refused(stock.signed(PayloadType.DESIRED, payload, key=key)) == [code]
    assert desk.sequence() is None


def test_a_document_of_another_type_is_refused(desk: Desk, stock: Stock) -> None:
    for slot in ("group.kiosk", "probe.kiosk", f"manifest.{'0' * 64}"):
        assert desk.refused(stock.heartbeat(time.time(), time.time() + 9), slot) == [
            Code.UPGRADE_TYPE_MISMATCH
        ]


def test_a_higher_specification_is_told_as_such_and_the_device_goes_on_listening(
    desk: Desk, stock: Stock
) -> None:
    newer = strictjson.dumps(strictjson.loads(stock.desired(6).payload()) | {"spec": 2, "novelty": 1})
    assert desk.refused(stock.signed(PayloadType.DESIRED, newer)) == [Code.UPGRADE_SPEC_UNSUPPORTED]
    desk.take(stock.order(7))
    assert desk.sequence() == 7


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payload=st.binary(min_size=1, max_size=200)
    | st.sampled_from([b"[" * 60000, b'{"a":' * 9000, b"\xef\xbb\xbf{}", b"1" * 65536]),
    slot=st.sampled_from(
        ["group.kiosk", "own.kiosk", "heartbeat", "probe.kiosk", "root.2", f"manifest.{'0' * 64}"]
    ),
)
def test_whatever_comes_is_refused_with_a_code_and_read_once(desk: Desk, payload: bytes, slot: str) -> None:
    if not desk.rig.courier.store_message(slot, payload):
        return  # these bytes lie there already
    intake = desk.read()
    assert len(intake.refusals) == 1
    assert not intake.changed
    assert desk.read().refusals == []


# -- manifests


def test_a_manifest_is_kept_under_the_digest_that_names_it(desk: Desk, stock: Stock) -> None:
    bundle, other = stock["1.0.0"], stock["1.1.0"]
    assert desk.refused(bundle.envelope, f"manifest.{other.digest}") == [Code.UPGRADE_RELEASE_MISMATCH]
    assert desk.memory.manifests() == []
    assert desk.take(bundle.envelope, f"manifest.{bundle.digest}").changed
    assert desk.memory.release(bundle.digest) == (bundle.release, bundle.envelope)


def test_a_manifest_that_the_director_signed_is_refused(desk: Desk, stock: Stock) -> None:
    forged = stock.changed(stock["1.0.0"], key="director", notes="trust me")
    slot = f"manifest.{forged.digest}"
    assert desk.refused(forged.envelope, slot) == [Code.UPGRADE_IDENTITY_NOT_ALLOWED]
    assert desk.memory.manifests() == []


# -- heartbeats and probes


def test_the_newest_heartbeat_is_kept(desk: Desk, stock: Stock) -> None:
    now = int(time.time())
    for issued in (now - 50, now - 10, now - 30):
        desk.take(stock.heartbeat(issued, now + 100), "heartbeat")
    kept = desk.memory.heartbeat()
    assert kept is not None
    assert kept.issued == times.to_text(now - 10)


def test_a_probe_is_verified_and_only_the_newest_is_kept(desk: Desk, stock: Stock) -> None:
    goal = stock["1.0.0"].goal()
    assert desk.refused(stock.probe(goal, name="p-2"), "probe.kiosk") == []
    assert desk.refused(stock.probe(goal, name="p-1", issued=-30), "probe.kiosk") == []
    for changes in ({"group": "g-two"}, {"component": "other"}, {"fleet": "f-two"}):
        payload = stock.probe(goal, name="p-3", **changes)  # type: ignore[arg-type]
        assert desk.refused(payload, "probe.kiosk") == [Code.UPGRADE_SCOPE_MISMATCH]
    forged = stock.probe(goal, name="p-3", key="director-2")
    assert desk.refused(forged, "probe.kiosk") == [Code.UPGRADE_SIGNATURE_INVALID]
    kept = desk.memory.probe("kiosk")
    assert kept is not None
    assert kept.id == "p-2"
    assert [path.name for path in desk.memory.docs.iterdir()] == ["probe.kiosk"]


# -- the chain of roots


def test_a_chain_of_roots_is_followed_in_one_reading(desk: Desk, stock: Stock) -> None:
    second, envelope_2 = stock.root_after(stock.house.root)
    _, envelope_3 = stock.root_after(second)
    desk.rig.send(envelope_3, "root.3")
    desk.rig.send(envelope_2, "root.2")
    intake = desk.read()
    assert (intake.changed, intake.refusals) == (True, [])
    assert desk.memory.root.version == 3
    desk.open()
    assert desk.memory.root.version == 3


def test_a_root_that_skips_one_or_is_signed_by_others_is_refused(desk: Desk, stock: Stock) -> None:
    second, _ = stock.root_after(stock.house.root)
    third, envelope_3 = stock.root_after(second)
    _, forged = stock.root_after(stock.house.root, signed_by="release")
    assert third.version == 3
    assert desk.refused(envelope_3, "root.3") == [Code.UPGRADE_ROOT_REFUSED]
    assert desk.refused(forged, "root.2") == [Code.UPGRADE_ROOT_REFUSED]
    assert desk.memory.root == stock.house.root


def test_a_root_that_we_have_already_is_nothing_new(desk: Desk, stock: Stock) -> None:
    assert desk.refused(stock.house.root_envelope, "root.1") == []


def new_epoch(stock: Stock) -> tuple[bytes, bytes]:
    """A root with another director key, and an order of that director."""
    root, envelope = stock.root_after(stock.house.root, director=DIRECTOR_2)
    assert root.epoch == 2
    order = stock.desired(3, epoch=2)
    return envelope, stock.signed(PayloadType.DESIRED, order.payload(), key="director-2")


def test_what_came_before_its_root_is_read_again_after_it(desk: Desk, stock: Stock) -> None:
    root, order = new_epoch(stock)
    desk.take(stock.order(900))
    assert desk.refused(order) == [Code.UPGRADE_SIGNATURE_INVALID]
    intake = desk.take(root, "root.2")
    assert (intake.changed, intake.refusals) == (True, [])
    assert desk.sequence() == 3  # the order of sequences began anew with the epoch
    assert desk.read() == Intake()


def test_an_order_of_the_old_director_is_worth_nothing_after_the_new_root(desk: Desk, stock: Stock) -> None:
    root, _ = new_epoch(stock)
    desk.take(stock.order(5))
    desk.rig.send(root, "root.2")
    desk.read()
    assert desk.sequence() is None
    assert desk.refused(stock.order(6)) == [Code.UPGRADE_IDENTITY_NOT_ALLOWED]


def test_a_crash_right_after_the_new_root_loses_nothing(
    desk: Desk, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, order = new_epoch(stock)
    desk.refused(order)
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_desired", raiser(Crash()))
        with pytest.raises(Crash):
            desk.take(root, "root.2")
    desk.open()
    assert desk.memory.root.version == 2
    desk.read()
    assert desk.sequence() == 3


# -- inputs that crash


def raiser(error: BaseException) -> Any:
    def crash(*_: object) -> None:
        raise error

    return crash


def test_an_input_that_crashes_the_worker_is_skipped_the_fourth_time(
    desk: Desk, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "_heartbeat", raiser(RuntimeError("a defect")))
    desk.rig.send(stock.order(5))
    desk.rig.send(stock.heartbeat(time.time(), time.time() + 9), "heartbeat")
    for _ in range(3):
        desk.open()
        with pytest.raises(RuntimeError, match="a defect"):
            desk.read()
        assert desk.sequence() == 5  # what comes before it is taken nevertheless
    desk.open()
    intake = desk.read()
    assert [code for code, _ in intake.alarms] == [Code.UPGRADE_INTERNAL]
    assert desk.read() == Intake()  # it counts as read
    desk.take(stock.order(6))
    assert desk.sequence() == 6


def test_a_disk_that_refuses_is_not_the_fault_of_the_input(
    desk: Desk, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.rig.send(stock.order(5))
    for _ in range(5):
        desk.open()
        with monkeypatch.context() as patch:
            patch.setattr(Memory, "store", raiser(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                desk.read()
    desk.open()
    assert desk.read().alarms == []
    assert desk.sequence() == 5


def test_a_kill_while_writing_down_the_input_is_no_harm(
    desk: Desk, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.rig.send(stock.order(5))
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", raiser(Crash()))
        with pytest.raises(Crash):
            desk.read()
    desk.open()
    assert desk.read().changed


# -- how it is told


def test_a_refusal_is_told_in_status_and_event_and_changes_nothing(desk: Desk, stock: Stock) -> None:
    rig = desk.rig
    rig.install_first(stock["1.0.0"])
    rig.offer(stock["1.1.0"])
    order = stock.desired(2, everybody("r-1", stock["1.1.0"].goal()), group="g-two")
    rig.send(stock.signed(PayloadType.DESIRED, order.payload()))
    before = rig.record()
    rig.run()
    found = rig.component()
    assert found.last_error is not None
    assert found.last_error.code == Code.UPGRADE_SCOPE_MISMATCH
    assert rig.told()[-1] == "upgrade_rejected upgrade_scope_mismatch"
    assert rig.record() == before.model_copy(update={"last_error": found.last_error})
    assert rig.runs(stock["1.0.0"])


def test_a_manifest_that_is_refused_is_told_of_the_work_that_waits_for_it(desk: Desk, stock: Stock) -> None:
    rig, bundle = desk.rig, stock["1.0.0"]
    rig.send(stock.order(1, baseline=bundle.goal()))
    rig.run()
    forged = stock.changed(bundle, key="director", notes="trust me")
    rig.send(forged.envelope, f"manifest.{bundle.digest}")
    rig.run()
    found = rig.component()
    assert found.last_error is not None
    assert found.last_error.code == Code.UPGRADE_IDENTITY_NOT_ALLOWED
    assert found.state == "waiting"


def test_equivocation_stands_in_the_status_until_it_is_healed(desk: Desk, stock: Stock) -> None:
    rig = desk.rig
    rig.send(stock.order(5))
    rig.run()
    rig.send(stock.order(5, hold=True))
    rig.run()
    assert rig.status().alarms == (Code.UPGRADE_EQUIVOCATION,)
    rig.run()
    assert rig.status().alarms == (Code.UPGRADE_EQUIVOCATION,)
    assert rig.told().count("alarm upgrade_equivocation") == 1
    rig.send(stock.order(6))
    rig.run()
    assert rig.status().alarms == ()


def test_a_skipped_input_stands_in_the_status_until_the_next_good_one(
    desk: Desk, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = desk.rig
    rig.send(stock.order(5))
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_desired", raiser(RuntimeError("a defect")))
        for _ in range(3):
            with pytest.raises(RuntimeError, match="a defect"):
                rig.run()
        rig.run()
    assert rig.status().alarms == (Code.UPGRADE_INTERNAL,)
    rig.send(stock.order(6))
    rig.run()
    assert rig.status().alarms == ()

"""Orders and manifests that are not what they claim to be, against a running device (rows 1-9, 17-19, 79)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attack.rows import row
from tests.attack.target import GROUP, ORDERS, OWN, RELEASE_KEYS, Target, target
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_protocol import dsse
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import PayloadType, Signature

INVALID = Code.UPGRADE_SIGNATURE_INVALID
NOT_ALLOWED = Code.UPGRADE_IDENTITY_NOT_ALLOWED


@pytest.fixture(scope="module")
def aim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("target")) as made:
        yield made


def flipped(data: bytes, at: int) -> bytes:
    """The envelope with one bit of its payload turned."""
    envelope = dsse.decode(data)
    payload = bytearray(envelope.payload)
    payload[at] ^= 1
    return dsse.encode(dsse.Envelope(envelope.payload_type, bytes(payload), envelope.signatures))


def refuse_manifest(aim: Target, bundle: Bundle, forged: bytes, code: str, what: object = "") -> None:
    """The release is ordered, and its manifest forged: refused, told once, not fetched, not installed."""
    before, told = aim.untouched(), aim.told(code)
    document = aim.document(bundle)
    aim.send(aim.signed(document))
    until(lambda: aim.answered(document) == "", "the order is accepted, and its manifest awaited")
    aim.manifest(bundle.digest, forged)
    until(lambda: aim.told(code) > told, f"the device tells {code} of {what}")
    until(lambda: (e := aim.component().last_error) is not None and e.code == code, "the status shows it")
    after = aim.untouched()
    assert (after.current, after.pid, after.installed) == (before.current, before.pid, before.installed), what
    assert (after.floor, after.refused, after.blobs) == (before.floor, before.refused, before.blobs), what
    assert after.staging == before.staging == (), what
    assert aim.told(code) == told + 1, what
    assert aim.device.connected, what


@row(1, "one bit of an order's payload turned", "refused, told once, the next order obeyed",
     holds=[("broker", "unsigned")])  # fmt: skip
def test_row_01_an_order_with_one_bit_turned_is_refused(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    for at in (0, 40, -2):
        order = aim.signed(aim.document(bundle))
        aim.refuse_order(flipped(order, at), INVALID, what=at)
    aim.obey(bundle)


@row(1, "one bit of a manifest's payload turned", "refused; the genuine one on the same topic is installed",
     holds=[("broker", "unsigned")])  # fmt: skip
def test_row_01_a_manifest_with_one_bit_turned_is_refused(aim: Target) -> None:
    bundle = aim.release()
    refuse_manifest(aim, bundle, flipped(bundle.envelope, 50), INVALID)
    aim.serve(bundle)  # the very same order goes on with the genuine manifest
    until(lambda: aim.runs(bundle), "the genuine release runs")


@row(2, "an order signed by an unknown, a test, a device's, an operator's, a release and a root key",
     "refused, told once each, the next order obeyed",
     holds=[("broker", "unsigned"), ("device", "unsigned"), ("device", "old"),
            ("release key", "old")])  # fmt: skip
def test_row_02_an_order_of_any_other_key_is_refused(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    golden = json.loads((Path(__file__).parents[1] / "protocol" / "vectors" / "keys.json").read_text())
    worker = json.loads((aim.config.worker_dir / "device.key").read_text())
    found = {"test": _first_secret(golden), "device": bytes.fromhex(worker["secret"])}
    aim.house.keys.update(found)
    cases = [("stranger", INVALID), ("test", INVALID), ("device", INVALID), ("alice", NOT_ALLOWED)]
    for name, code in [*cases, ("release", NOT_ALLOWED), ("root", NOT_ALLOWED)]:
        aim.refuse_order(aim.signed(aim.document(bundle), name), code, what=name)
    aim.obey(bundle)


def _first_secret(value: Any) -> bytes:
    """A secret key out of the golden vectors, which everybody has."""
    text = json.dumps(value)
    return bytes.fromhex(next(word for word in text.split('"') if len(word) == 64 and word.isalnum()))


@row(2, "a manifest signed by the director, an operator, an unknown key",
     "refused, told, not fetched", holds=[("manager", "unsigned"), ("broker", "unsigned")])  # fmt: skip
def test_row_02_a_manifest_that_release_keys_did_not_sign_is_refused(aim: Target) -> None:
    cases = [("director", NOT_ALLOWED), ("alice", NOT_ALLOWED), ("stranger", INVALID)]
    for name, code in cases:
        bundle = aim.release()
        forged = aim.house.sign(PayloadType.RELEASE, bundle.release.payload(), name)
        refuse_manifest(aim, bundle, forged, code, name)
    aim.obey()


@row(3, "a release signed by one of the two keys that must", "refused; installed once the second has signed",
     holds=[("release key", "unsigned")])  # fmt: skip
def test_row_03_one_of_two_signatures_is_nothing(aim: Target) -> None:
    bundle = aim.release(signers=("release",))
    refuse_manifest(aim, bundle, bundle.envelope, Code.UPGRADE_THRESHOLD_NOT_MET)
    whole = dsse.encode(dsse.add_signature(dsse.decode(bundle.envelope), aim.house.keys["release-b"]))
    aim.serve(bundle, manifest=whole)
    until(lambda: aim.runs(bundle), "the release runs once both keys have signed")


@row(3, "the one key signs twice, under the other's name too", "one key counts once",
     holds=[("release key", "unsigned")])  # fmt: skip
def test_row_03_one_key_counts_once_under_whatever_name(aim: Target) -> None:
    bundle = aim.release(signers=("release",))
    (one,) = dsse.decode(bundle.envelope).signatures
    other = dsse.sign("", b"", aim.house.keys["release-b"]).signatures[0].keyid
    twice = dsse.Envelope(
        PayloadType.RELEASE, bundle.release.payload(), (one, one, Signature(other, one.sig))
    )
    refuse_manifest(aim, bundle, dsse.encode(twice), Code.UPGRADE_THRESHOLD_NOT_MET)
    aim.obey()


@row(5, "two valid signatures and one of garbage", "accepted and installed")
def test_row_05_garbage_beside_enough_signatures_does_no_harm(aim: Target) -> None:
    bundle = aim.release()
    envelope = dsse.decode(bundle.envelope)
    garbage = (Signature("f" * 16, b"\x07" * 64), Signature(envelope.signatures[0].keyid, b"short"))
    signatures = (*garbage, *envelope.signatures)
    mixed = dsse.encode(dsse.Envelope(envelope.payload_type, envelope.payload, signatures))
    aim.serve(bundle, manifest=mixed)
    aim.obey(bundle)


@row(6, "order 6 again after 7, also after a restart with an emptied spool", "ignored, an alarm; 7 stands",
     holds=[("broker", "old"), ("courier", "old")])  # fmt: skip
def test_row_06_an_older_order_is_ignored_and_told(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    older = aim.signed(aim.document(bundle))  # would install something, if it were obeyed
    newer = aim.settle()
    before = aim.untouched()
    replayed = aim.told(Code.UPGRADE_SEQUENCE_REPLAYED)
    aim.send(older)
    # By an event and an alarm, once while it stands.
    until(lambda: aim.told(Code.UPGRADE_SEQUENCE_REPLAYED) == replayed + 2, "the replay is told")
    assert aim.untouched() == before
    aim.device.disconnect()
    for file in (aim.config.spool / "in" / "msg").rglob("*"):
        if file.is_file():
            file.unlink()
    aim.device.connect()
    until(lambda: aim.told(Code.UPGRADE_SEQUENCE_REPLAYED) == replayed + 3, "and again after the restart")
    assert aim.untouched() == before
    assert aim.answered(newer) == ""
    assert aim.alarmed(Code.UPGRADE_SEQUENCE_REPLAYED)
    aim.obey(bundle)
    until(lambda: not aim.alarmed(Code.UPGRADE_SEQUENCE_REPLAYED), "a newer order ends the alarm")


@row(9, "the manifest of one release under the digest of another", "refused, told, not fetched",
     holds=[("broker", "unsigned"), ("courier", "unsigned")])  # fmt: skip
def test_row_09_a_manifest_under_anothers_digest_is_refused(aim: Target) -> None:
    one, two = aim.release(), aim.release()
    refuse_manifest(aim, two, one.envelope, Code.UPGRADE_RELEASE_MISMATCH)
    aim.serve(two)
    until(lambda: aim.runs(two), "the release that was ordered runs")


@row(9, "an order with the digest of one release, version and counter of another",
     "answered as a mismatch; nothing is held against the release",
     holds=[("manager", "unsigned")])  # fmt: skip
def test_row_09_an_order_that_mixes_two_releases_is_refused(aim: Target) -> None:
    one, two = aim.serve(aim.release()), aim.serve(aim.release())
    for wrong in ({"version": one.release.version}, {"counter": one.release.counter}, {"counter": 10**9}):
        document = aim.document(two, goal=wrong)
        aim.answer(document, Code.UPGRADE_RELEASE_MISMATCH)
    aim.obey(two)


@row(17, "genuine orders for another group, fleet, device and component on this device's topics",
     "refused, told once each", holds=[("broker", "old"), ("courier", "harm")])  # fmt: skip
def test_row_17_an_order_for_somebody_else_is_refused(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    elsewhere = ({"group": "g-two"}, {"fleet": "otherfleet"}, {"device": "dev-002"}, {"component": "other"})
    for changes in elsewhere:
        for topic in (ORDERS, OWN):
            order = aim.signed(aim.document(bundle, **changes))
            aim.refuse_order(order, Code.UPGRADE_SCOPE_MISMATCH, topic=topic, what=(changes, topic))
    aim.obey(bundle)


@row(17, "a heartbeat, a probe and a release in the place of an order", "refused, told once each")
def test_row_17_a_document_of_another_type_is_refused(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    payload = aim.document(bundle).payload()
    for kind in (PayloadType.HEARTBEAT, PayloadType.PROBE, PayloadType.RELEASE, PayloadType.STATUS):
        order = aim.signed(payload, kind=kind)
        aim.refuse_order(order, Code.UPGRADE_TYPE_MISMATCH, what=kind)
    aim.obey(bundle)


@row(19, "a release for another machine, other hardware, a newer agent", "answered as unfit; no byte fetched")
def test_row_19_a_release_that_does_not_fit_is_not_fetched(aim: Target) -> None:
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--platform", "linux/riscv64"), Code.UPGRADE_NO_MATCHING_ARTIFACT),
        (("--hw", "toaster"), Code.UPGRADE_INCOMPATIBLE),
        (("--min-agent", "99.0.0"), Code.UPGRADE_AGENT_TOO_OLD),
    ]
    for words, code in cases:
        bundle = aim.serve(aim.release(*words))
        aim.answer(aim.document(bundle), code)
        assert not (aim.config.spool / "in" / "blob" / bundle.release.artifacts[0].sha256).exists()
    aim.obey()


@row(79, "orders 5, 7 and 6, each a hundred times", "7 is carried out once, by one restart",
     holds=[("broker", "old")])  # fmt: skip
def test_row_79_repeated_and_reordered_orders_end_in_one_install(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    five, six = aim.document(hold=True), aim.document()
    seven = aim.document(bundle)
    before = aim.untouched()
    for document in (five, seven, six):
        data = aim.signed(document)
        for _ in range(100):
            aim.send(data)
    until(lambda: aim.runs(bundle), "7 is carried out")
    until(lambda: aim.answered(seven) == "", "7 is what is answered")
    activated = [e for e in aim.events("upgrade_activated") if e["data"].get("digest") == bundle.digest]
    assert len(activated) == 1
    # The supervisor was told to restart once; it counts only restarts that nobody asked for.
    assert aim.untouched().restarts in (before.restarts, before.restarts + 1)
    assert aim.untouched().pid != before.pid
    aim.settle()
    assert aim.runs(bundle)


def test_every_release_of_this_fleet_needs_both_keys(aim: Target) -> None:
    assert aim.house.root.roles.release.threshold == len(RELEASE_KEYS) == 2
    assert GROUP in ORDERS

"""Bytes that are not of the form: at the parser, in bounded time, and at the broker of a running device."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.attack.rows import row
from tests.attack.target import HEARTBEATS, ORDERS, Target, target
from tests.protocol.samples import GROUP, RELEASE, public, secret, trust_root
from tests.support.waiting import until

from fleetfoot_protocol import dsse, keys, strictjson, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Release, read
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FormError, UpgradeError

INVALID = Code.UPGRADE_SIGNATURE_INVALID
MALFORMED = Code.UPGRADE_MALFORMED
#: The order of edwards25519's base point: S and S + L would both verify, if nobody looked.
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
#: Points of small order, under which some signatures verify whatever was signed (little endian, hex).
SMALL_ORDER = (
    "00" * 32,
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)


@pytest.fixture(scope="module")
def aim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("target")) as made:
        yield made


def shifted(signature: bytes) -> bytes:
    """The signature with S + L in the place of S."""
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


def with_signature(data: bytes, sig: str) -> bytes:
    """The envelope with this text in the place of its signature."""
    value = json.loads(data)
    value["signatures"][0]["sig"] = sig
    return json.dumps(value).encode()


def bad_signatures(data: bytes) -> dict[str, bytes]:
    good = base64.b64decode(json.loads(data)["signatures"][0]["sig"])
    coded = {
        "0 bytes": b"",
        "63 bytes": good[:63],
        "65 bytes": good + b"\0",
        "S + L": shifted(good),
        "of zeros": b"\0" * 64,
        "of small order": bytes.fromhex(SMALL_ORDER[1]) + b"\0" * 32,
    }
    texts = {what: base64.b64encode(sig).decode() for what, sig in coded.items()}
    texts |= {"no base64": "%%%%", "unpadded": texts["S + L"].rstrip("="), "of letters": "é" * 88}
    return {what: with_signature(data, text) for what, text in texts.items()}


def refused(data: bytes, code: Code) -> float:
    """Seconds until the envelope was refused with this code, and nothing but a refusal was raised."""
    began = time.perf_counter()
    with pytest.raises(UpgradeError) as caught:
        trust.verify_desired(data, trust_root())
    assert caught.value.upgrade_code is code
    return time.perf_counter() - began


# -- signatures


@row(22, "signatures of 0, 63, 65 bytes, S + L, zeros, no base64; keys of small order (parser)",
     "no valid signature, never a traceback")  # fmt: skip
def test_row_22_no_shape_of_a_signature_is_more_than_invalid_to_the_parser() -> None:
    data = dsse.encode(dsse.sign(PayloadType.DESIRED, b'{"spec":1}', secret("director-1")))
    good = dsse.decode(data).signatures[0].sig
    assert keys.verify(public("director-1"), dsse.pae(PayloadType.DESIRED, b'{"spec":1}'), good)
    for forged in bad_signatures(data).values():
        refused(forged, INVALID)
    for text in SMALL_ORDER:
        weak = bytes.fromhex(text)
        for message in (b"", b"x", b"anything"):
            assert not keys.verify(weak, message, weak + b"\0" * 32)
            assert not keys.verify(weak, message, bytes.fromhex(SMALL_ORDER[1]) + b"\0" * 32)


@row(22, "the same signatures at the broker", "refused, told once each, the next order obeyed")
def test_row_22_no_shape_of_a_signature_is_more_than_invalid(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    for what in bad_signatures(aim.signed(aim.document(bundle))):
        forged = bad_signatures(aim.signed(aim.document(bundle)))[what]
        aim.refuse_order(forged, INVALID, what=what)
    aim.obey(bundle)


# -- values


STRANGE: dict[str, dict[str, Any]] = {
    "an unknown field": {"extra": 1},
    "a number as text": {"sequence": "7"},
    "a fraction": {"sequence": 7.0},
    "a truth value": {"sequence": True},
    "a negative number": {"sequence": -1},
    "10^30": {"sequence": 10**30},
    "2^53": {"sequence": 2**53},
    "null": {"sequence": None},
}
VERSIONS = (
    "1.0.0-" + "a" * 300,
    "../x",
    "1.0.0\n",
    "1" * 300,
    "1.0.0-\u202e",
    "1.0.0+build",
    "",
    "v1.0.0",
    "1.0",
    "../../etc/passwd",
)


def strange_payload(change: dict[str, Any]) -> bytes:
    return json.dumps({**strictjson.loads(GROUP.payload()), **change}).encode()


@row(24, 'an unknown field; "7", 7.0, true, -1, 10^30 where a number stands (parser)', "malformed")
@pytest.mark.parametrize("what", STRANGE)
def test_row_24_a_strange_value_is_malformed_to_the_parser(what: str) -> None:
    payload = strange_payload(STRANGE[what])
    refused(dsse.encode(dsse.sign(PayloadType.DESIRED, payload, secret("director-1"))), MALFORMED)


@row(24, "a genuine document in which a key stands twice with one value, plainly and by escapes (parser)",
     "malformed")  # fmt: skip
@pytest.mark.parametrize("again", ["hold", "\\u0068old", "\\u0068\\u006F\\u006c\\u0064"])
def test_row_24_a_key_that_stands_twice_is_malformed_to_the_parser(again: str) -> None:
    doubled = GROUP.payload()[:-1] + b',"%s":false}' % again.encode()
    assert json.loads(doubled) == json.loads(GROUP.payload())  # other parsers take it for the original
    refused(wrapped(doubled), MALFORMED)
    once = GROUP.payload().replace(b'"hold"', b'"\\u0068old"', 1)
    assert trust.verify_desired(wrapped(once), trust_root()) == GROUP


@row(24, "the same, signed by the director, at the broker", "refused, told once each, the next order obeyed")
def test_row_24_a_strange_value_is_malformed(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    for what, change in STRANGE.items():
        aim.refuse_order(aim.altered(aim.document(bundle), **change), MALFORMED, what=what)
    aim.obey(bundle)


# -- bytes


def wrapped(payload: bytes) -> bytes:
    return dsse.encode(dsse.sign(PayloadType.DESIRED, payload, secret("director-1")))


RAW = {
    "100 000 levels": b"[" * 100_000,
    "levels within the size": b"[" * 60_000,
    "closed levels": b"[" * 30_000 + b"]" * 30_000,
    "5000 digits": b'{"payload":' + b"7" * 5000 + b"}",
    "NaN": b'{"payload":NaN}',
    "infinity": b'{"payload":-Infinity}',
    "a lone surrogate": b'{"payload":"\\ud800"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b"\0" * 100,
    "a NUL in text": b'{"payload":"\0"}',
    "no UTF-8": b'{"payload":"\xff"}',
    "the same key twice": b'{"payload":"","payload":""}',
    "quotes": b'"' + b'\\"' * 30_000,
    "nothing but a number": b"7",
}
#: Refused by size before anything is looked at.
TOO_LARGE = frozenset({"100 000 levels"})


@row(25, "100 000 levels, 5000 digits, NaN, a lone surrogate, a byte order mark, NUL (parser)",
     "malformed within 50 ms, as an envelope and as a signed payload")  # fmt: skip
@pytest.mark.parametrize("what", RAW)
def test_row_25_bytes_that_are_no_document_cost_nothing(what: str) -> None:
    raw = RAW[what]
    code = Code.UPGRADE_TOO_LARGE if what in TOO_LARGE else MALFORMED
    assert min(refused(raw, code) for _ in range(3)) < 0.05
    if len(raw) < 45_000:
        assert min(refused(wrapped(raw), MALFORMED) for _ in range(3)) < 0.05


@row(25, "the same at the broker, bare and signed", "refused, told once each, the next order obeyed")
def test_row_25_bytes_that_are_no_document_are_refused(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    for what, raw in RAW.items():
        code = Code.UPGRADE_TOO_LARGE if what in TOO_LARGE else MALFORMED
        aim.refuse_order(raw, code, what=what)
        if len(raw) < 45_000:
            aim.refuse_order(aim.signed(raw), MALFORMED, what=f"signed: {what}")
    aim.obey(bundle)


@row(26, "an envelope of 1 MiB (parser)", "too large, before anything is decoded")
def test_row_26_size_is_looked_at_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    data = wrapped(b'{"spec":1}') + b" " * 2**20
    monkeypatch.setattr(json, "loads", never)
    monkeypatch.setattr(base64, "b64decode", never)
    assert refused(data, Code.UPGRADE_TOO_LARGE) < 0.05


@row(26, "a genuine order blown up to 1 MiB at the broker", "refused as too large, the next order obeyed")
def test_row_26_a_large_envelope_is_refused(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    for size in (2**16 + 1, 2**20):
        order = aim.signed(aim.document(bundle))
        aim.refuse_order(order + b" " * (size - len(order)), Code.UPGRADE_TOO_LARGE, what=size)
    aim.obey(bundle)


def reserialised(data: bytes) -> bytes:
    """The same document with other spaces, under the same signature."""
    envelope = dsse.decode(data)
    payload = json.dumps(json.loads(envelope.payload)).encode()
    assert payload != envelope.payload
    return dsse.encode(dsse.Envelope(envelope.payload_type, payload, envelope.signatures))


def url_safe(data: bytes) -> bytes:
    """The same envelope in the other alphabet of base64."""
    value = json.loads(data)
    for holder, name in ((value, "payload"), *((s, "sig") for s in value["signatures"])):
        holder[name] = holder[name].replace("+", "-").replace("/", "_")
    return json.dumps(value).encode()


@row(27, "the payload written anew under the old signature; URL-safe base64 (parser)", "invalid; accepted")
def test_row_27_the_exact_bytes_are_what_is_signed() -> None:
    data = wrapped(GROUP.payload())
    refused(reserialised(data), INVALID)
    assert trust.verify_desired(url_safe(data), trust_root()) == GROUP


@row(27, "the same at the broker", "refused and told; the URL-safe order is obeyed")
def test_row_27_a_payload_written_anew_is_refused_and_url_safe_base64_obeyed(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    aim.refuse_order(reserialised(aim.signed(aim.document(bundle))), INVALID)
    aim.send(url_safe(aim.signed(aim.document(bundle))))
    until(lambda: aim.runs(bundle), "the order in the other alphabet is obeyed")


@row(28, "versions ../x, with a newline, 300 characters, U+202E (parser)", "malformed")
@pytest.mark.parametrize("version", VERSIONS)
def test_row_28_a_version_is_a_version_to_the_parser(version: str) -> None:
    value = {**strictjson.loads(RELEASE.payload()), "version": version}
    with pytest.raises(FormError) as caught:
        read(Release, json.dumps(value).encode())
    assert caught.value.upgrade_code is MALFORMED
    goal = {"version": version, "counter": 1, "digest": "0" * 64, "length": 1}
    with pytest.raises(FormError):
        read(Desired, strange_payload({"baseline": goal, "targets": [], "withdrawn": []}))


@row(
    28, "the same in orders and in signed manifests at the broker", "refused, told once each; no such folder"
)
def test_row_28_a_strange_version_is_refused(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    for version in VERSIONS:
        goal = {**json.loads(bundle.goal().model_dump_json()), "version": version}
        aim.refuse_order(aim.altered(aim.document(), baseline=goal), MALFORMED, what=version)
    aim.obey(bundle)
    other = aim.release()
    payload = json.dumps({**strictjson.loads(other.release.payload()), "version": "../x"}).encode()
    forged = aim.house.sign(PayloadType.RELEASE, payload, "release", "release-b")
    digest = dsse.decode(forged).digest
    told = aim.told(MALFORMED)
    document = aim.document(other, goal={"digest": digest})
    aim.send(aim.signed(document))
    until(lambda: aim.answered(document) == "", "the order is accepted, and its manifest awaited")
    aim.manifest(digest, forged)
    until(lambda: aim.told(MALFORMED) == told + 1, "the manifest is refused")
    assert not (aim.layout.folder / "x").exists()
    aim.obey()


@row(29, "empty retained messages on the topics of orders and heartbeats", "no information: nothing happens",
     holds=[("broker", "harm")])  # fmt: skip
def test_row_29_an_empty_message_is_no_information(aim: Target) -> None:
    order = aim.settle()
    before, told = aim.untouched(), len(aim.director.events("g-one", "dev-001"))
    for topic in (ORDERS, HEARTBEATS):
        aim.send(b"", topic)
    aim.device.disconnect()
    aim.device.connect()
    until(lambda: aim.device.connected, "the device is back at a broker that holds nothing")
    assert aim.answered(order) == ""
    aim.settle()
    after = aim.untouched()
    assert (after.current, after.pid, after.installed) == (before.current, before.pid, before.installed)
    assert len(aim.director.events("g-one", "dev-001")) == told
    aim.obey()


@row(
    22, "32 signatures of garbage in a fleet of 500 keys (parser)", "refused without trying every key on each"
)
def test_row_22_garbage_is_not_tried_on_every_key_of_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    publics = {keys.key_id(key): key.hex() for key in (bytes([n % 256, n // 256]) * 16 for n in range(500))}
    root = trust_root()
    root = root.model_copy(update={"keys": {**root.keys, **publics}})
    tried = []

    def never(*arguments: bytes) -> bool:
        tried.append(arguments)
        return False

    monkeypatch.setattr(keys, "verify", never)
    garbage = tuple(dsse.Signature(name, b"\7" * 64) for name in list(publics)[: dsse.MAX_SIGNATURES])
    data = dsse.encode(dsse.Envelope(PayloadType.DESIRED, GROUP.payload(), garbage))
    refused_by(root, data)
    assert len(tried) == dsse.MAX_SIGNATURES * (len(root.roles.director.keys) + 1)


def refused_by(root: trust.TrustRoot, data: bytes) -> None:
    with pytest.raises(UpgradeError) as caught:
        trust.verify_desired(data, root)
    assert caught.value.upgrade_code is INVALID

"""Envelopes, signatures, attestations (contract section 2): every failure is one error, no traceback."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol import samples
from tests.protocol.altering import code_of
from tests.protocol.samples import DOCUMENTS, ROOT, envelope, public, secret

from fleetfoot_protocol import dsse, keys, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import Envelope, PayloadType, Signature
from fleetfoot_protocol.errors import FormError, TrustError, UpgradeError

# The order of the group that Ed25519 signatures are reduced by (RFC 8032, section 5.1).
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
SIGNED = envelope(*DOCUMENTS["release"][:2], "release-1", "release-2")


def altered(change: Callable[[Any], object], data: bytes = SIGNED) -> bytes:
    """The envelope with its JSON changed in place."""
    obj = json.loads(data)
    change(obj)
    return json.dumps(obj).encode()


def verdict(data: bytes) -> Code | None:
    """What verification as a release says: None for accepted."""
    return code_of(lambda: trust.verify_release(data, ROOT))


def urlsafe(text: str) -> str:
    return text.replace("+", "-").replace("/", "_")


def test_an_envelope_is_decoded_to_what_was_signed() -> None:
    decoded = dsse.decode(SIGNED)
    assert decoded.payload_type == PayloadType.RELEASE
    assert decoded.payload == samples.RELEASE.payload()
    assert decoded.digest == samples.RELEASE_DIGEST
    assert [s.keyid for s in decoded.signatures] == [samples.key_id(n) for n in ("release-1", "release-2")]
    assert dsse.encode(decoded) == SIGNED


def test_both_base64_alphabets_are_accepted() -> None:
    # Bytes whose encoding uses both of the letters in which the alphabets differ.
    notes = samples.RELEASE.model_copy(update={"notes": "ÿ~?>\u00bf\u00be\u00ff" * 8})
    data = envelope(PayloadType.RELEASE, notes, "release-1", "release-2")
    obj = json.loads(data)
    parts = [obj["payload"], *(s["sig"] for s in obj["signatures"])]
    assert any("+" in part or "/" in part for part in parts[1:])
    assert set("+/") & set(parts[0])
    obj["payload"] = urlsafe(obj["payload"])
    for signature in obj["signatures"]:
        signature["sig"] = urlsafe(signature["sig"])
    rewritten = json.dumps(obj).encode()
    assert rewritten != data
    assert trust.verify_release(rewritten, ROOT) == trust.verify_release(data, ROOT)


NOT_ENVELOPES: dict[str, Callable[[Any], object]] = {
    "no payload": lambda e: e.pop("payload"),
    "no type": lambda e: e.pop("payloadType"),
    "no signatures": lambda e: e.pop("signatures"),
    "one field more": lambda e: e.update(extra=1),
    "a payload that is no string": lambda e: e.update(payload=1),
    "a type that is no string": lambda e: e.update(payloadType=None),
    "signatures that are no list": lambda e: e.update(signatures={}),
    "a signature that is no object": lambda e: e.update(signatures=["x"]),
    "a signature without sig": lambda e: e.update(signatures=[{"keyid": "x"}]),
    "a sig that is no string": lambda e: e.update(signatures=[{"keyid": "x", "sig": 1}]),
    "a key id that is no string": lambda e: e.update(signatures=[{"keyid": 1, "sig": "AA=="}]),
    "a signature with one field more": lambda e: e["signatures"][0].update(cert="x"),
    "more than 32 signatures": lambda e: e.update(signatures=e["signatures"] * 17),
}


@pytest.mark.parametrize("name", NOT_ENVELOPES)
def test_what_is_no_envelope_is_malformed(name: str) -> None:
    data = altered(NOT_ENVELOPES[name])
    assert code_of(lambda: dsse.decode(data)) is Code.UPGRADE_MALFORMED


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"null", b'"x"', b"\xff", b"{}"])
def test_other_bytes_are_malformed(data: bytes) -> None:
    assert code_of(lambda: dsse.decode(data)) is Code.UPGRADE_MALFORMED


def test_32_signatures_are_accepted() -> None:
    def pad(e: Any) -> None:
        e["signatures"] += [{"keyid": "x", "sig": ""}] * 30

    assert verdict(altered(pad)) is None


def test_an_envelope_beyond_64_kib_is_refused_undecoded_and_never_written() -> None:
    assert code_of(lambda: dsse.decode(b"\xff" * (dsse.MAX_ENVELOPE + 1))) is Code.UPGRADE_TOO_LARGE
    assert code_of(lambda: dsse.decode(b"{" * 2**20)) is Code.UPGRADE_TOO_LARGE
    large = Envelope("t", b"x" * dsse.MAX_ENVELOPE, ())
    assert code_of(lambda: dsse.encode(large)) is Code.UPGRADE_TOO_LARGE


# The last two some decoders take: padding where none belongs, and bits that stand for nothing.
@pytest.mark.parametrize(
    "payload", ["%%%", "abc", "YQ==YQ==", "YQ", "Y Q=", "YQ==\n", "ÄÖ==", "=" * 4, "YWJj====", "YR=="]
)
def test_a_payload_that_is_no_base64_is_one_signature_failure(payload: str) -> None:
    assert verdict(altered(lambda e: e.update(payload=payload))) is Code.UPGRADE_SIGNATURE_INVALID


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _first_signature() -> bytes:
    return dsse.decode(SIGNED).signatures[0].sig


def _plus_group_order(signature: bytes) -> bytes:
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


BAD_SIGNATURES: dict[str, Callable[[], str]] = {
    "no bytes": lambda: "",
    "63 bytes": lambda: _b64(_first_signature()[:63]),
    "65 bytes": lambda: _b64(_first_signature() + b"\0"),
    "64 zeros": lambda: _b64(bytes(64)),
    "128 bytes": lambda: _b64(_first_signature() * 2),
    "no base64": lambda: "%%%",
    "no ASCII": lambda: "ÄÖÜ",
    "half base64": lambda: _b64(_first_signature())[:-1],
    "space in it": lambda: _b64(_first_signature())[:40] + " " + _b64(_first_signature())[40:],
    "one bit flipped in R": lambda: _b64(bytes([_first_signature()[0] ^ 1]) + _first_signature()[1:]),
    "S mostly zeros": lambda: _b64(_first_signature()[:32] + bytes(31) + _first_signature()[63:]),
    "S plus the group order": lambda: _b64(_plus_group_order(_first_signature())),
    "the signature of another type": lambda: _b64(
        keys.sign(secret("release-1"), dsse.pae(PayloadType.ROOT, samples.RELEASE.payload()))
    ),
    "the signature of the bare payload": lambda: _b64(
        keys.sign(secret("release-1"), samples.RELEASE.payload())
    ),
}


@pytest.mark.parametrize("name", BAD_SIGNATURES)
def test_a_bad_signature_is_no_signature(name: str) -> None:
    bad = BAD_SIGNATURES[name]()
    alone = altered(lambda e: e.update(signatures=[{"keyid": samples.key_id("release-1"), "sig": bad}]))
    assert verdict(alone) is Code.UPGRADE_SIGNATURE_INVALID
    beside = altered(lambda e: e["signatures"][0].update(sig=bad))
    assert verdict(beside) is Code.UPGRADE_THRESHOLD_NOT_MET


@pytest.mark.parametrize("name", BAD_SIGNATURES)
def test_a_bad_signature_beside_enough_good_ones_harms_nothing(name: str) -> None:
    garbage = {"keyid": samples.key_id("release-1"), "sig": BAD_SIGNATURES[name]()}
    assert verdict(altered(lambda e: e["signatures"].insert(0, garbage))) is None
    assert verdict(altered(lambda e: e["signatures"].append(garbage))) is None


# Points of small order (every encoding that libsodium knows): with one of these as key, a signature could
# be made that holds for many messages.
SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_of_small_order_verifies_nothing(point: str) -> None:
    key = bytes.fromhex(point)
    for r in SMALL_ORDER:
        assert not keys.verify(key, b"any message", bytes.fromhex(r) + bytes(32))
    identity = bytes.fromhex(SMALL_ORDER[0]) + bytes(32)
    assert not keys.verify(key, dsse.pae("t", b""), identity)


def test_s_plus_the_group_order_is_another_signature_and_not_valid() -> None:
    good = keys.sign(secret("device-1"), b"message")
    assert keys.verify(public("device-1"), b"message", good)
    assert not keys.verify(public("device-1"), b"message", _plus_group_order(good))


@given(st.binary(max_size=70), st.binary(max_size=40))
@settings(max_examples=200)
def test_keys_and_signatures_of_any_shape_are_valid_or_not_and_nothing_else(sig: bytes, key: bytes) -> None:
    assert keys.verify(key, b"message", sig) is False
    assert keys.verify(public("device-1"), b"message", sig) is False
    assert keys.verify(key, b"message", keys.sign(secret("device-1"), b"message")) is False


@pytest.mark.parametrize("hint", ["", "release-2", "0" * 16, "x" * 1000, "\u202e", "director-1"])
def test_a_key_id_is_only_a_hint(hint: str) -> None:
    def rename(e: Any) -> None:
        for signature in e["signatures"]:
            signature["keyid"] = hint

    assert verdict(altered(rename)) is None


def test_swapped_key_ids_change_nothing() -> None:
    def swap(e: Any) -> None:
        one, two = e["signatures"]
        one["keyid"], two["keyid"] = two["keyid"], one["keyid"]

    assert verdict(altered(swap)) is None


def test_a_signature_without_a_key_id_is_accepted() -> None:
    assert verdict(altered(lambda e: [s.pop("keyid") for s in e["signatures"]])) is None


def test_the_same_key_signing_twice_counts_once() -> None:
    twice = altered(lambda e: e.update(signatures=[e["signatures"][0]] * 2))
    assert verdict(twice) is Code.UPGRADE_THRESHOLD_NOT_MET

    def under_two_names(e: Any) -> None:
        e["signatures"] = [e["signatures"][0], {**e["signatures"][0], "keyid": samples.key_id("release-2")}]

    assert verdict(altered(under_two_names)) is Code.UPGRADE_THRESHOLD_NOT_MET


def test_a_payload_written_anew_is_no_longer_signed() -> None:
    payload = json.dumps(json.loads(samples.RELEASE.payload())).encode()
    assert verdict(altered(lambda e: e.update(payload=_b64(payload)))) is Code.UPGRADE_SIGNATURE_INVALID


@given(st.integers(0, len(samples.RELEASE.payload()) * 8 - 1))
@settings(max_examples=100)
def test_no_bit_of_the_payload_can_be_flipped(bit: int) -> None:
    payload = bytearray(samples.RELEASE.payload())
    payload[bit // 8] ^= 1 << bit % 8
    assert (
        verdict(altered(lambda e: e.update(payload=_b64(bytes(payload))))) is Code.UPGRADE_SIGNATURE_INVALID
    )


@given(st.data())
@settings(max_examples=300)
def test_a_mutated_envelope_is_refused_or_says_the_same(data: st.DataObject) -> None:
    mutated = bytearray(SIGNED)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        cut = data.draw(st.integers(0, 2))
        mutated[at : at + cut] = data.draw(st.binary(max_size=2))
    try:
        release, digest = trust.verify_release(bytes(mutated), ROOT)
    except UpgradeError:
        return
    assert (release, digest) == (samples.RELEASE, samples.RELEASE_DIGEST)


def test_signing_adds_a_key_and_replaces_its_older_signature() -> None:
    one = dsse.sign(PayloadType.RELEASE, b"{}", secret("release-1"))
    both = dsse.add_signature(one, secret("release-2"))
    assert [s.keyid for s in both.signatures] == [samples.key_id("release-1"), samples.key_id("release-2")]
    again = dsse.add_signature(both, secret("release-1"))
    assert {s.keyid: s.sig for s in again.signatures} == {s.keyid: s.sig for s in both.signatures}
    assert len(again.signatures) == 2
    stale = Envelope(one.payload_type, b"other", one.signatures)
    (mended,) = dsse.add_signature(stale, secret("release-1")).signatures
    assert keys.verify(public("release-1"), dsse.pae(PayloadType.RELEASE, b"other"), mended.sig)


def test_the_encoding_cannot_be_shifted_between_type_and_payload() -> None:
    assert dsse.pae("a", b"1 b") != dsse.pae("a 3", b"b")
    assert dsse.pae("type", b"x") != dsse.pae("type x", b"")


STATUS = samples.STATUS.payload()
ATTESTATION = dsse.attest(PayloadType.STATUS, STATUS, samples.STATUS.counter, secret("device-1"))


def test_an_attestation_is_joined_with_the_bytes_it_is_of() -> None:
    joined, counter = dsse.join_attestation(STATUS, ATTESTATION)
    assert joined.payload == STATUS
    assert joined.payload_type == PayloadType.STATUS
    assert counter == samples.STATUS.counter
    assert joined.signatures == (
        Signature(
            samples.key_id("device-1"), keys.sign(secret("device-1"), dsse.pae(PayloadType.STATUS, STATUS))
        ),
    )


NOT_ATTESTATIONS: dict[str, Callable[[Any], object]] = {
    "a field missing": lambda a: a.pop("sha256"),
    "one field more": lambda a: a.update(extra=1),
    "a counter in words": lambda a: a.update(counter="17"),
    "a counter that is true": lambda a: a.update(counter=True),
    "a type that is no string": lambda a: a.update(payload_type=7),
    "signatures that are no list": lambda a: a.update(signatures="x"),
    "more than 32 signatures": lambda a: a.update(signatures=a["signatures"] * 33),
}


@pytest.mark.parametrize("name", NOT_ATTESTATIONS)
def test_what_is_no_attestation_is_malformed(name: str) -> None:
    data = altered(NOT_ATTESTATIONS[name], ATTESTATION)
    assert code_of(lambda: dsse.join_attestation(STATUS, data)) is Code.UPGRADE_MALFORMED


@pytest.mark.parametrize("sha256", [samples.digest("other"), "", 7, None])
def test_an_attestation_of_other_bytes_is_one_signature_failure(sha256: object) -> None:
    data = altered(lambda a: a.update(sha256=sha256), ATTESTATION)
    assert code_of(lambda: dsse.join_attestation(STATUS, data)) is Code.UPGRADE_SIGNATURE_INVALID
    assert (
        code_of(lambda: dsse.join_attestation(STATUS + b" ", ATTESTATION)) is Code.UPGRADE_SIGNATURE_INVALID
    )


def test_refusals_are_of_the_one_tree() -> None:
    with pytest.raises(FormError):
        dsse.decode(b"{}")
    with pytest.raises(TrustError):
        trust.verify_release(altered(lambda e: e.update(signatures=[])), ROOT)


def test_a_valid_signature_over_a_malformed_payload_is_malformed() -> None:
    signed = dsse.encode(
        dsse.sign(PayloadType.RELEASE, b'{"spec":1}', secret("release-1"), secret("release-2"))
    )
    assert verdict(signed) is Code.UPGRADE_MALFORMED

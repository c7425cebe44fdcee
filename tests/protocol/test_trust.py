"""Who may sign what (contract section 3): verification of every signed document against the trust root."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError
from tests.protocol import samples
from tests.protocol.altering import code_of
from tests.protocol.samples import DOCUMENTS, ROOT, envelope, key_id, public, secret, trust_root

from fleetfoot_protocol import dsse, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Document
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.states import Right, Role
from fleetfoot_protocol.trust import RoleKeys, TrustRoot

Verify = Callable[[bytes, TrustRoot], object]


#: name -> (verification, names of keys that suffice)
VERIFIERS: dict[str, tuple[Verify, tuple[str, ...]]] = {
    "root": (lambda data, root: trust.first_root(data), ("root-1", "root-2")),
    "release": (trust.verify_release, ("release-1", "release-2")),
    "desired_group": (trust.verify_desired, ("director-1",)),
    "desired_device": (trust.verify_desired, ("director-1",)),
    "heartbeat": (trust.verify_heartbeat, ("director-1",)),
    "probe": (trust.verify_probe, ("director-1",)),
    "request": (trust.verify_request, ("operator-1",)),
    "reply": (trust.verify_reply, ("director-1",)),
    "audit": (trust.verify_audit_head, ("director-1",)),
}
ALL_KEYS = ("root-1", "root-2", "root-3", "release-1", "release-2", "director-1", "operator-1")


def signed(name: str, *signers: str) -> bytes:
    kind, document, _ = DOCUMENTS[name]
    return envelope(kind, document, *signers)


@pytest.mark.parametrize("name", VERIFIERS)
def test_the_right_keys_suffice(name: str) -> None:
    verify, signers = VERIFIERS[name]
    assert code_of(lambda: verify(signed(name, *signers), ROOT)) is None
    assert code_of(lambda: verify(signed(name, *reversed(signers)), ROOT)) is None


@pytest.mark.parametrize("name", VERIFIERS)
def test_superfluous_keys_harm_nothing(name: str) -> None:
    verify, _ = VERIFIERS[name]
    assert code_of(lambda: verify(signed(name, "stranger", *ALL_KEYS), ROOT)) is None


@pytest.mark.parametrize("name", VERIFIERS)
def test_an_unknown_key_is_an_invalid_signature(name: str) -> None:
    verify, _ = VERIFIERS[name]
    assert code_of(lambda: verify(signed(name, "stranger"), ROOT)) is Code.UPGRADE_SIGNATURE_INVALID
    assert code_of(lambda: verify(signed(name, "device-1"), ROOT)) is Code.UPGRADE_SIGNATURE_INVALID
    assert code_of(lambda: verify(signed(name), ROOT)) is Code.UPGRADE_SIGNATURE_INVALID


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_known_key_without_the_right_is_an_identity_that_is_not_allowed(name: str) -> None:
    verify, right = VERIFIERS[name]
    prefix = right[0].rstrip("0123456789")
    wrong = [key for key in ALL_KEYS if not key.startswith(prefix)]
    found = {key: code_of(partial(verify, signed(name, key), ROOT)) for key in wrong}
    assert found == dict.fromkeys(wrong, Code.UPGRADE_IDENTITY_NOT_ALLOWED)
    everyone = signed(name, *wrong)
    assert code_of(lambda: verify(everyone, ROOT)) is Code.UPGRADE_IDENTITY_NOT_ALLOWED


@pytest.mark.parametrize("name", ["root", "release"])
def test_fewer_keys_than_the_threshold_are_too_few(name: str) -> None:
    verify, (one, _) = VERIFIERS[name]
    assert code_of(lambda: verify(signed(name, one), ROOT)) is Code.UPGRADE_THRESHOLD_NOT_MET
    assert code_of(lambda: verify(signed(name, one, one), ROOT)) is Code.UPGRADE_THRESHOLD_NOT_MET
    assert code_of(lambda: verify(signed(name, one, "director-1"), ROOT)) is Code.UPGRADE_THRESHOLD_NOT_MET


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("kind", PayloadType)
def test_a_document_signed_as_another_type_is_a_type_mismatch(name: str, kind: PayloadType) -> None:
    verify, signers = VERIFIERS[name]
    right, document, _ = DOCUMENTS[name]
    found = code_of(lambda: verify(envelope(kind, document, *signers), ROOT))
    assert found is (None if kind is right else Code.UPGRADE_TYPE_MISMATCH)


@pytest.mark.parametrize("name", VERIFIERS)
def test_another_document_under_the_right_type_is_malformed(name: str) -> None:
    verify, signers = VERIFIERS[name]
    kind, document, _ = DOCUMENTS[name]
    other = next(d for _, d, _ in DOCUMENTS.values() if type(d) is not type(document))
    assert code_of(lambda: verify(envelope(kind, other, *signers), ROOT)) is Code.UPGRADE_MALFORMED


# A first root brings the keys that it is verified with, so it is read before.
@pytest.mark.parametrize("name", sorted(VERIFIERS.keys() - {"root"}))
def test_nothing_unsigned_is_parsed(name: str) -> None:
    verify, _ = VERIFIERS[name]
    garbage = dsse.encode(dsse.sign(DOCUMENTS[name][0], b"[" * 1000, secret("stranger")))
    assert code_of(lambda: verify(garbage, ROOT)) is Code.UPGRADE_SIGNATURE_INVALID


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_signed_document_of_a_higher_specification_is_told_apart(name: str) -> None:
    verify, signers = VERIFIERS[name]
    payload = DOCUMENTS[name][1].payload().replace(b'"spec":1', b'"spec":2,"unheard":true')
    data = dsse.encode(dsse.sign(DOCUMENTS[name][0], payload, *map(secret, signers)))
    assert code_of(lambda: verify(data, ROOT)) is Code.UPGRADE_SPEC_UNSUPPORTED


FLEETED = sorted(VERIFIERS.keys() - {"root", "release"})


@pytest.mark.parametrize("name", FLEETED)
def test_a_document_for_another_fleet_is_out_of_scope(name: str) -> None:
    verify, signers = VERIFIERS[name]
    foreign = trust_root(fleet="inland")
    assert code_of(lambda: verify(signed(name, *signers), foreign)) is Code.UPGRADE_SCOPE_MISMATCH


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_desired_state_of_another_epoch_is_a_replay(epoch: int) -> None:
    document = samples.GROUP.model_copy(update={"epoch": epoch})
    data = envelope(PayloadType.DESIRED, document, "director-1")
    assert code_of(lambda: trust.verify_desired(data, trust_root(epoch=2))) is Code.UPGRADE_SEQUENCE_REPLAYED
    assert code_of(lambda: trust.verify_desired(data, trust_root(epoch=epoch))) is None


def test_a_revoked_key_signs_nothing_any_more() -> None:
    later = trust_root(version=2, release=("release-2",), release_threshold=1)
    both = signed("release", "release-1", "release-2")
    assert code_of(lambda: trust.verify_release(both, later)) is None
    revoked = signed("release", "release-1")
    assert code_of(lambda: trust.verify_release(revoked, later)) is Code.UPGRADE_SIGNATURE_INVALID


def test_a_request_needs_the_key_of_the_very_operator_it_names() -> None:
    other = samples.REQUEST.model_copy(update={"operator": "operator-2"})
    data = envelope(PayloadType.REQUEST, other, "operator-1")
    assert code_of(lambda: trust.verify_request(data, ROOT)) is Code.UPGRADE_IDENTITY_NOT_ALLOWED
    request, digest = trust.verify_request(signed("request", "operator-1"), ROOT)
    assert request == samples.REQUEST
    assert digest == dsse.decode(signed("request", "operator-1")).digest


STATUS = samples.STATUS.payload()


def attested(kind: PayloadType, document: Document, counter: int, *signers: str) -> tuple[bytes, bytes]:
    payload = document.payload()
    return payload, dsse.attest(kind, payload, counter, *map(secret, signers))


def test_a_status_is_the_devices_own_word_only() -> None:
    def verdict(payload: bytes, attestation: bytes) -> Code | None:
        return code_of(lambda: trust.verify_status(payload, attestation, public("device-1")))

    good = attested(PayloadType.STATUS, samples.STATUS, 17, "device-1")
    assert verdict(*good) is None
    by_director = attested(PayloadType.STATUS, samples.STATUS, 17, "director-1")
    assert verdict(*by_director) is Code.UPGRADE_SIGNATURE_INVALID
    other_counter = attested(PayloadType.STATUS, samples.STATUS, 18, "device-1")
    assert verdict(*other_counter) is Code.UPGRADE_SIGNATURE_INVALID
    as_rollout = attested(PayloadType.ROLLOUT, samples.STATUS, 17, "device-1")
    assert verdict(*as_rollout) is Code.UPGRADE_TYPE_MISMATCH
    assert verdict(good[0].replace(b"dev-001", b"dev-002"), good[1]) is Code.UPGRADE_SIGNATURE_INVALID
    assert verdict(good[0], b"{}") is Code.UPGRADE_MALFORMED
    no_status = attested(PayloadType.STATUS, samples.HEARTBEAT, 17, "device-1")
    assert verdict(*no_status) is Code.UPGRADE_MALFORMED


def test_progress_of_a_rollout_is_the_directors_word_for_this_fleet() -> None:
    def verdict(pair: tuple[bytes, bytes], root: TrustRoot = ROOT) -> Code | None:
        return code_of(lambda: trust.verify_progress(*pair, root))

    good = attested(PayloadType.ROLLOUT, samples.PROGRESS, 1, "director-1")
    assert verdict(good) is None
    assert verdict(good, trust_root(fleet="inland")) is Code.UPGRADE_SCOPE_MISMATCH
    by_device = attested(PayloadType.ROLLOUT, samples.PROGRESS, 1, "device-1")
    assert verdict(by_device) is Code.UPGRADE_SIGNATURE_INVALID
    by_operator = attested(PayloadType.ROLLOUT, samples.PROGRESS, 1, "operator-1")
    assert verdict(by_operator) is Code.UPGRADE_IDENTITY_NOT_ALLOWED
    as_status = attested(PayloadType.STATUS, samples.PROGRESS, 1, "director-1")
    assert verdict(as_status) is Code.UPGRADE_TYPE_MISMATCH
    assert verdict((good[0].replace(b"tripped", b"running"), good[1])) is Code.UPGRADE_SIGNATURE_INVALID


def changed_root(**update: Any) -> dict[str, Any]:
    return {**samples.ROOT.model_dump(), **update}


def with_role(role: str, **update: Any) -> dict[str, Any]:
    roles = samples.ROOT.roles.model_dump()
    return changed_root(roles={**roles, role: {**roles[role], **update}})


INCONSISTENT: dict[str, dict[str, Any]] = {
    "the same key under two ids": changed_root(
        keys={**samples.ROOT.keys, "again": public("release-1").hex()}
    ),
    "a role with a key that is not there": with_role("director", keys=("unknown",)),
    "an operator with a key that is not there": changed_root(
        roles={**samples.ROOT.roles.model_dump(), "operators": {"o": {"key": "unknown", "roles": {}}}}
    ),
    "a key twice in a role": with_role("release", keys=(key_id("release-1"),) * 2),
    "a threshold beyond the keys": with_role("release", threshold=3),
    "a threshold of zero": with_role("root", threshold=0),
    "a role without keys": with_role("root", keys=()),
    "a key that is too short": changed_root(keys={**samples.ROOT.keys, "short": "00" * 31}),
    "a key in capitals": changed_root(keys={**samples.ROOT.keys, "loud": "AB" * 32}),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_a_root_that_contradicts_itself_is_none(name: str) -> None:
    with pytest.raises(ValidationError):
        TrustRoot(**INCONSISTENT[name])


def test_the_keys_of_each_role_are_found_by_its_name() -> None:
    assert ROOT.role("root") == RoleKeys(keys=tuple(map(key_id, ("root-1", "root-2", "root-3"))), threshold=2)
    assert ROOT.role("release").threshold == 2
    assert ROOT.role("director").keys == (key_id("director-1"),)


def test_operators_have_their_rights_by_group() -> None:
    # operator-1 is viewer and operator everywhere, and admin of `north`.
    assert ROOT.may("operator-1", Right.PLAN, "south")
    assert not ROOT.may("operator-1", Right.STEER, "south")
    assert ROOT.may("operator-1", Right.STEER, "north")
    assert not ROOT.may("operator-1", Right.ADMINISTER, "*")
    assert ROOT.may("operator-1", Right.READ, "*")
    assert not ROOT.may("nobody", Right.READ, "north")
    assert ROOT.roles.operators["operator-1"].roles["north"] == (Role.ADMIN,)

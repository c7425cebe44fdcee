"""The chain of trust roots (contract section 3): nothing but a proper successor replaces a root."""

import pytest
from tests.protocol.altering import code_of
from tests.protocol.samples import envelope, public, secret, trust_root

from fleetfoot_protocol import dsse, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FormError, TrustError
from fleetfoot_protocol.trust import TrustRoot

HAVE = trust_root()
OLD = ("root-1", "root-2")


def signed(root: TrustRoot, *signers: str) -> bytes:
    return envelope(PayloadType.ROOT, root, *signers)


def refusal(data: bytes, have: TrustRoot = HAVE) -> str:
    """The cause for which `data` does not follow `have`."""
    with pytest.raises(TrustError) as caught:
        trust.advance_root(have, data)
    assert caught.value.upgrade_code is Code.UPGRADE_ROOT_REFUSED
    return caught.value.message


def test_the_next_version_signed_by_the_old_keys_follows() -> None:
    following = trust_root(version=2)
    assert trust.advance_root(HAVE, signed(following, *OLD)) == following


def test_root_keys_are_replaced_by_a_root_that_both_thresholds_signed() -> None:
    following = trust_root(version=2, root=("root-3", "stranger"))
    assert trust.advance_root(HAVE, signed(following, *OLD, "root-3", "stranger")) == following
    # root-3 counts for both thresholds.
    assert trust.advance_root(HAVE, signed(following, "root-1", "root-3", "stranger")) == following


def test_a_chain_is_walked_step_by_step() -> None:
    second = trust_root(version=2, root=("root-2", "root-3"))
    third = trust_root(version=3, root=("root-3", "stranger"), root_threshold=1)
    have = trust.advance_root(HAVE, signed(second, "root-1", "root-2", "root-3"))
    assert trust.advance_root(have, signed(third, "root-2", "root-3")) == third


@pytest.mark.parametrize("version", [1, 3, 4, 300])
def test_only_the_very_next_version_follows(version: int) -> None:
    assert "does not follow" in refusal(signed(trust_root(version=version), *OLD))


def test_a_root_before_the_present_one_does_not_follow() -> None:
    assert "does not follow" in refusal(signed(trust_root(version=1), *OLD), trust_root(version=2))


def test_new_keys_alone_do_not_suffice() -> None:
    following = trust_root(version=2, root=("stranger", "device-1"))
    assert "no valid signature" in refusal(signed(following, "stranger", "device-1"))


def test_too_few_old_keys_do_not_suffice() -> None:
    following = trust_root(version=2)
    assert refusal(signed(following, "root-1")) == "1 of 2 keys signed"
    assert refusal(signed(following, "root-1", "root-1")) == "1 of 2 keys signed"


def test_old_keys_alone_do_not_suffice_for_other_new_ones() -> None:
    following = trust_root(version=2, root=("stranger", "device-1"))
    assert "no valid signature" in refusal(signed(following, *OLD))
    assert refusal(signed(following, *OLD, "stranger")) == "1 of 2 keys signed"


def test_keys_of_other_roles_do_not_suffice() -> None:
    following = trust_root(version=2)
    assert "without the right" in refusal(signed(following, "director-1", "release-1", "release-2"))


def test_a_new_threshold_binds_the_new_root_itself() -> None:
    following = trust_root(version=2, root_threshold=3)
    assert refusal(signed(following, *OLD)) == "2 of 3 keys signed"
    assert trust.advance_root(HAVE, signed(following, *OLD, "root-3")) == following


def test_a_root_of_another_fleet_does_not_follow() -> None:
    assert "does not follow" in refusal(signed(trust_root(version=2, fleet="inland"), *OLD))


def test_the_epoch_never_falls() -> None:
    have = trust_root(version=2, epoch=3)
    assert "does not follow" in refusal(signed(trust_root(version=3, epoch=2), *OLD), have)


@pytest.mark.parametrize("director", [("director-2",), ("director-1", "director-2")])
def test_other_director_keys_need_a_higher_epoch(director: tuple[str, ...]) -> None:
    same_epoch = trust_root(version=2, director=director)
    assert "epoch did not rise" in refusal(signed(same_epoch, *OLD))
    higher = trust_root(version=2, epoch=2, director=director)
    assert trust.advance_root(HAVE, signed(higher, *OLD)) == higher


def test_a_director_key_removed_needs_a_higher_epoch() -> None:
    have = trust_root(director=("director-1", "director-2"))
    assert "epoch did not rise" in refusal(signed(trust_root(version=2), *OLD), have)


def test_the_epoch_may_rise_though_the_director_stays() -> None:
    higher = trust_root(version=2, epoch=7)
    assert trust.advance_root(HAVE, signed(higher, *OLD)) == higher


def test_other_release_keys_need_no_higher_epoch() -> None:
    following = trust_root(version=2, release=("release-2",), release_threshold=1)
    assert trust.advance_root(HAVE, signed(following, *OLD)) == following


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"x" * 70_000])
def test_bytes_that_are_no_envelope_are_refused(data: bytes) -> None:
    refusal(data)


def test_a_signed_payload_that_is_no_root_is_refused() -> None:
    data = dsse.encode(dsse.sign(PayloadType.ROOT, b'{"spec":1}', *map(secret, OLD)))
    refusal(data)


def test_a_root_signed_as_another_type_is_refused() -> None:
    assert "signed as" in refusal(envelope(PayloadType.RELEASE, trust_root(version=2), *OLD))


def test_nothing_unsigned_is_parsed() -> None:
    garbage = dsse.encode(dsse.sign(PayloadType.ROOT, b"[" * 1000, secret("stranger")))
    assert "no valid signature" in refusal(garbage)


def test_a_root_of_a_higher_specification_is_told_apart_once_it_is_signed() -> None:
    payload = trust_root(version=2).payload().replace(b'"spec":1', b'"spec":2,"more":[]')
    with pytest.raises(FormError) as caught:
        trust.advance_root(HAVE, dsse.encode(dsse.sign(PayloadType.ROOT, payload, *map(secret, OLD))))
    assert caught.value.upgrade_code is Code.UPGRADE_SPEC_UNSUPPORTED
    unsigned = dsse.encode(dsse.sign(PayloadType.ROOT, payload, secret("stranger")))
    assert "no valid signature" in refusal(unsigned)


def test_a_first_root_meets_its_own_threshold() -> None:
    assert trust.first_root(signed(HAVE, *OLD)) == HAVE
    assert code_of(lambda: trust.first_root(signed(HAVE, "root-1"))) is Code.UPGRADE_THRESHOLD_NOT_MET
    assert code_of(lambda: trust.first_root(signed(HAVE, "stranger"))) is Code.UPGRADE_SIGNATURE_INVALID
    release = dsse.encode(dsse.sign(PayloadType.RELEASE, b"{}", secret("root-1")))
    assert code_of(lambda: trust.first_root(release)) is Code.UPGRADE_TYPE_MISMATCH


def test_advancing_changes_nothing_of_the_root_one_has() -> None:
    before = HAVE.payload()
    trust.advance_root(
        HAVE, signed(trust_root(version=2, root=("root-3",), root_threshold=1), *OLD, "root-3")
    )
    assert HAVE.payload() == before
    assert public("root-1").hex() in HAVE.keys.values()

"""The release catalogue: what may be uploaded, what may be published, and that it never changes."""

import hashlib
from pathlib import Path

import pytest
from tests.attack.rows import row
from tests.manager.enginerig import Rig
from tests.manager.realm import CHUNK, COMPONENT, Bundle, Realm, sha256

from fleetfoot_manager import catalogue
from fleetfoot_protocol import dsse, keys, topics
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.states import Role
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import RoleKeys


def listed(rig: Rig) -> list[tuple[str, int]]:
    return [(row["version"], row["counter"]) for row in rig.do("release.list")["releases"]]


def test_a_published_release_is_retained_under_its_digest_and_listed(rig: Rig) -> None:
    bundle = rig.realm.release("1.0.0", 7, notes="first light")
    assert rig.publish(bundle) == {**bundle.names(), "counter": 7, "life": "blessed"}
    topic = topics.build(Kind.RELEASE, component=COMPONENT, digest=bundle.digest)
    assert rig.broker.on(topic)[0] == bundle.envelope
    (row,) = rig.do("release.list")["releases"]
    assert (row["version"], row["channel"], row["notes"], row["platforms"]) == (
        "1.0.0",
        "stable",
        "first light",
        ["linux/amd64"],
    )
    shown = rig.do("release.show", {"component": COMPONENT, "version": "1.0.0"})
    assert shown["artifacts"][0]["sha256"] in bundle.blobs
    assert shown["signers"] == list(rig.realm.root.roles.release.keys)
    assert rig.do("release.list", {"component": "other"})["releases"] == []


def test_the_same_bytes_again_are_fine(rig: Rig) -> None:
    bundle = rig.realm.release("1.0.0", 1)
    assert rig.publish(bundle) == rig.publish(bundle)
    assert listed(rig) == [("1.0.0", 1)]


def test_a_published_version_never_changes(rig: Rig) -> None:
    rig.publish(rig.realm.release("1.0.0", 1))
    other = rig.realm.release("1.0.0", 2, content=b"something else")
    rig.place(other)
    reply = rig.ask("release.publish", other.publish_arguments())
    assert reply.code == "conflict"
    assert listed(rig) == [("1.0.0", 1)]
    # Whoever asks before sending is told before sending.
    named = {"component": "kiosk", "version": "1.0.0", "digest": other.digest}
    reply = rig.ask("release.upload", {**named, "blobs": [{"sha256": "a" * 64, "length": 1}]})
    assert reply.code == "conflict"


@pytest.mark.parametrize("counter", [4, 5])
def test_the_counter_of_a_component_rises(rig: Rig, counter: int) -> None:
    rig.publish(rig.realm.release("1.0.0", 5))
    late = rig.realm.release("1.0.1", counter)
    rig.place(late)
    assert rig.ask("release.publish", late.publish_arguments()).code == "conflict"
    assert rig.publish(rig.realm.release("1.0.2", 6))["counter"] == 6


def half_signed(tmp_path: Path) -> tuple[Rig, Bundle]:
    """A fleet whose releases need two keys, and a release with one signature, twice."""
    realm = Realm(tmp_path, {"alice": {"*": (Role.ADMIN,)}, "second": {"*": (Role.ADMIN,)}})
    ids = [realm.root.roles.release.keys[0], realm.root.roles.operators["second"].key]
    roles = realm.root.roles.model_copy(update={"release": RoleKeys(keys=tuple(ids), threshold=2)})
    realm.root = realm.root.model_copy(update={"roles": roles})
    realm.root_path.write_bytes(realm.sign_root(realm.root))
    once = realm.release("1.0.0", 1)
    envelope = dsse.decode(once.envelope)
    twice = dsse.Envelope(envelope.payload_type, envelope.payload, envelope.signatures * 2)
    bundle = Bundle(once.release, once.digest, dsse.encode(twice), once.blobs)
    rig = Rig(realm)
    rig.connect()
    return rig, bundle


@row(3, "a release that one of two keys signed, sent to the manager", "refused, not published",
     holds=[("release key", "unsigned")])  # fmt: skip
def test_row_03_a_half_signed_release_is_not_published(tmp_path: Path) -> None:
    rig, half = half_signed(tmp_path)
    try:
        rig.place(half)
        assert rig.ask("release.publish", half.publish_arguments()).code == "upgrade_threshold_not_met"
        whole = dsse.add_signature(dsse.decode(half.envelope), rig.realm.secrets["second"])
        both = Bundle(half.release, half.digest, dsse.encode(whole), half.blobs)
        assert rig.publish(both)["life"] == "blessed"
    finally:
        rig.close()


@pytest.mark.parametrize(
    ("signer", "code"), [("alice", "upgrade_identity_not_allowed"), ("stranger", "upgrade_signature_invalid")]
)
def test_only_release_keys_sign_releases(rig: Rig, signer: str, code: str) -> None:
    rig.realm.secrets["stranger"] = keys.generate()
    bundle = rig.realm.release("1.0.0", 1, signer=signer)
    rig.place(bundle)
    assert rig.ask("release.publish", bundle.publish_arguments()).code == code


def test_an_envelope_of_another_type_is_no_release(rig: Rig) -> None:
    bundle = rig.realm.release("1.0.0", 1)
    other = dsse.sign(PayloadType.DESIRED, bundle.release.payload(), rig.realm.secrets["release"])
    fake = Bundle(bundle.release, bundle.digest, dsse.encode(other), bundle.blobs)
    rig.place(fake)
    assert rig.ask("release.publish", fake.publish_arguments()).code == "upgrade_type_mismatch"


def test_a_release_is_published_under_its_own_names_only(rig: Rig) -> None:
    bundle = rig.realm.release("1.0.0", 1)
    rig.place(bundle)
    for name, value in (("version", "2.0.0"), ("component", "other"), ("digest", "0" * 64)):
        reply = rig.ask("release.publish", {**bundle.publish_arguments(), name: value})
        assert reply.code == "request_invalid"
    assert listed(rig) == []


def damaged(bundle: Bundle, which: str, blobs: Path) -> None:
    """Break one blob on the manager's disk."""
    (artifact,) = bundle.release.artifacts
    if which == "missing artifact":
        (blobs / artifact.sha256).unlink()
    elif which == "missing index":
        (blobs / artifact.index_sha256).unlink()
    elif which == "missing envelope":
        (blobs / sha256(bundle.envelope)).unlink()
    elif which == "short artifact":
        (blobs / artifact.sha256).write_bytes(bundle.blobs[artifact.sha256][:-1])
    else:
        (blobs / artifact.sha256).write_bytes(bytes(artifact.length))


@pytest.mark.parametrize(
    ("which", "code"),
    [
        ("missing artifact", "not_found"),
        ("missing index", "not_found"),
        ("missing envelope", "not_found"),
        ("short artifact", "upgrade_length_mismatch"),
        ("other chunks", "upgrade_checksum_mismatch"),
    ],
)
def test_a_release_whose_blobs_are_not_whole_is_not_published(rig: Rig, which: str, code: str) -> None:
    bundle = rig.realm.release("1.0.0", 1, content=bytes(range(256)) * 200)
    rig.place(bundle)
    damaged(bundle, which, rig.realm.state / "blobs")
    assert rig.ask("release.publish", bundle.publish_arguments()).code == code
    assert listed(rig) == []


def test_an_index_that_names_other_chunks_is_refused_although_it_is_signed(rig: Rig) -> None:
    good = rig.realm.release("1.0.0", 1)
    (artifact,) = good.release.artifacts
    index = hashlib.sha256(b"another chunk").digest() * artifact.chunks
    bad = rig.realm.release(
        "1.0.0", 1, artifacts=(artifact.model_copy(update={"index_sha256": sha256(index)}),)
    )
    rig.place(Bundle(bad.release, bad.digest, bad.envelope, {**bad.blobs, sha256(index): index}))
    assert rig.ask("release.publish", bad.publish_arguments()).code == "upgrade_checksum_mismatch"
    assert artifact.chunk_size == CHUNK


def test_a_token_admits_the_named_blobs_with_their_lengths_for_an_hour(rig: Rig) -> None:
    bundle = rig.realm.release("1.0.0", 1)
    opened = rig.do("release.upload", bundle.upload_arguments())
    assert sorted(opened["missing"]) == sorted(bundle.uploads())
    name, data = next(iter(bundle.uploads().items()))
    with rig.store.read() as tx:
        for token, blob, later, allowed in (
            (opened["token"], name, 0, len(data)),
            (opened["token"], name, 3599, len(data)),
            (opened["token"], name, 3601, None),
            (opened["token"], "0" * 64, 0, None),
            ("another token", name, 0, None),
            ("\udcff", name, 0, None),
        ):
            assert catalogue.allowed_length(tx, token, blob, rig.now() + later) == allowed


def test_what_is_there_already_is_not_asked_for(rig: Rig) -> None:
    bundle = rig.realm.release("1.0.0", 1)
    rig.place(bundle)
    assert rig.do("release.upload", bundle.upload_arguments())["missing"] == []


def test_more_than_the_disk_holds_is_refused_before_it_comes(rig: Rig) -> None:
    bundle = rig.realm.release("1.0.0", 1)
    blobs = [{"sha256": f"{n:064x}", "length": 64 * 1024**3} for n in range(130)]
    reply = rig.ask("release.upload", {**bundle.names(), "blobs": blobs})
    assert reply.code == "upgrade_disk_full"

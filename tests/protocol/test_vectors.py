"""The contract's golden vectors, each recomputed from the inputs that stand beside it."""

import base64
import hashlib
from typing import Any

import pytest
from tests.protocol import golden, samples
from tests.protocol.golden import hold, load
from tests.protocol.resolve_cases import CASES
from tests.protocol.vectors import generate

from fleetfoot_protocol import admission, documents, dsse, enrolment, keys, strictjson, topics, tree, trust
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.resolve import Act, Device, Why, resolve


@pytest.mark.parametrize("name", generate.FILES)
def test_the_code_still_makes_every_vector_file_to_the_byte(name: str) -> None:
    stored = (golden.VECTORS / f"{name}.json").read_text(encoding="utf-8")
    assert generate.text_of(name) == stored, f"vectors/{name}.json {golden.CHANGED}"


def test_no_vector_file_is_without_its_maker() -> None:
    assert {path.stem for path in golden.VECTORS.glob("*.json")} == set(generate.FILES)


@pytest.mark.parametrize("vector", load("topics")["built"], ids=lambda v: str(v["kind"]))
def test_topics_are_built_and_parsed_as_ever(vector: dict[str, Any]) -> None:
    kind = topics.Kind(vector["kind"])
    hold(f"the topic of {kind}", topics.build(kind, **vector["ids"]), vector["topic"])
    parsed = topics.parse(vector["topic"])
    hold(f"the parsed topic of {kind}", parsed, topics.Topic(kind, **vector["ids"]))
    assert parsed is not None
    hold(f"the flags of {kind}", (parsed.retained, parsed.qos), (vector["retained"], vector["qos"]))
    hold(f"the subscription of {kind}", topics.subscription(kind), vector["subscription"])
    hold(f"the spool slot of {kind}", topics.slot_of(parsed), vector["slot"])


def test_every_kind_of_topic_has_a_vector() -> None:
    hold("the list of topics", [v["kind"] for v in load("topics")["built"]], [str(k) for k in topics.Kind])


@pytest.mark.parametrize("text", load("topics")["refused"])
def test_topics_that_are_none_stay_none(text: str) -> None:
    hold(f"the refusal of {text!a}", topics.parse(text), None)


@pytest.mark.parametrize("vector", load("pae"), ids=lambda v: v["payload_type"] or "empty")
def test_the_signed_bytes_are_encoded_as_ever(vector: dict[str, str]) -> None:
    found = dsse.pae(vector["payload_type"], bytes.fromhex(vector["payload_hex"]))
    hold("the pre-authentication encoding", found.hex(), vector["pae_hex"])


def test_the_encoding_is_that_of_the_contract_and_of_the_dsse_specification() -> None:
    found = dsse.pae("application/vnd.fleetfoot.desired+json", b'{"spec":1}')
    assert found == b'DSSEv1 38 application/vnd.fleetfoot.desired+json 10 {"spec":1}'
    found = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize(("name", "vector"), load("keys")["keys"].items())
def test_keys_and_their_ids_are_derived_as_ever(name: str, vector: dict[str, str]) -> None:
    seed = hashlib.sha256(f"fleetfoot golden vectors: {name}".encode()).digest()
    hold(f"the public key {name}", keys.public_of(seed).hex(), vector["public"])
    hold(f"the id of {name}", keys.key_id(bytes.fromhex(vector["public"])), vector["id"])


@pytest.mark.parametrize(("name", "vector"), load("documents").items())
def test_documents_are_read_and_written_to_the_same_bytes(name: str, vector: dict[str, str]) -> None:
    payload = vector["payload"].encode()
    kind, sample, _ = samples.DOCUMENTS[name]
    document = documents.read(type(sample), payload)
    hold(f"the payload of {name}, read and written again,", document.payload(), payload)
    hold(f"the meaning of {name}", document, sample)
    hold(f"the digest of {name}", hashlib.sha256(payload).hexdigest(), vector["sha256"])
    hold(f"the payload type of {name}", str(kind), vector["payload_type"])


@pytest.mark.parametrize(("name", "vector"), load("envelopes")["envelopes"].items())
def test_documents_are_signed_to_the_same_bytes(name: str, vector: dict[str, Any]) -> None:
    stored = load("documents")[name]
    secrets = [samples.secret(signer) for signer in vector["signers"]]
    envelope = dsse.sign(stored["payload_type"], stored["payload"].encode(), *secrets)
    hold(f"the envelope of {name}", dsse.encode(envelope).decode(), vector["envelope"])
    decoded = dsse.decode(vector["envelope"].encode())
    hold(f"the decoded envelope of {name}", decoded, envelope)
    hold(f"the identity of {name}", decoded.digest, stored["sha256"])


def test_the_signed_vectors_verify_against_the_root_vector() -> None:
    signed = {name: v["envelope"].encode() for name, v in load("envelopes")["envelopes"].items()}
    root = trust.first_root(signed["root"])
    assert root == samples.ROOT
    assert trust.verify_release(signed["release"], root) == (samples.RELEASE, samples.RELEASE_DIGEST)
    assert trust.verify_desired(signed["desired_group"], root) == samples.GROUP
    assert trust.verify_desired(signed["desired_device"], root) == samples.OWN
    assert trust.verify_heartbeat(signed["heartbeat"], root) == samples.HEARTBEAT
    assert trust.verify_probe(signed["probe"], root) == samples.PROBE
    assert trust.verify_request(signed["request"], root)[0] == samples.REQUEST
    assert trust.verify_reply(signed["reply"], root) == samples.REPLY
    assert trust.verify_audit_head(signed["audit"], root) == samples.AUDIT_HEAD


def test_the_attestation_vectors_are_made_to_the_same_bytes_and_verify() -> None:
    stored = load("documents")
    for name, vector in load("envelopes")["attestations"].items():
        payload = stored[name]["payload"].encode()
        secrets = [samples.secret(signer) for signer in vector["signers"]]
        found = dsse.attest(stored[name]["payload_type"], payload, vector["counter"], *secrets)
        hold(f"the attestation of {name}", found.decode(), vector["attestation"])
        if name == "status":
            status = trust.verify_status(payload, found, samples.public("device-1"))
            assert status == samples.STATUS
        else:
            assert trust.verify_progress(payload, found, samples.ROOT) == samples.PROGRESS


def _desired(value: Any) -> Desired | None:
    return documents.read(Desired, strictjson.dumps(value)) if value is not None else None


def _installed(value: Any) -> Installed | None:
    return Installed.model_validate(value) if value is not None else None


@pytest.mark.parametrize("vector", load("resolve"), ids=lambda v: str(v["name"]))
def test_resolve_answers_as_ever(vector: dict[str, Any]) -> None:
    told = vector["device"]
    device = Device(
        id=told["id"],
        labels=told["labels"],
        run=_installed(told["run"]),
        prev=_installed(told["prev"]),
        refused=told["refused"],
        floor=told["floor"],
    )
    plan = resolve(_desired(vector["group"]), _desired(vector["own"]), device)
    hold(f"the plan where {vector['name']}", generate.plan_vector(plan), vector["plan"])


def test_the_cases_of_resolve_reach_every_answer_there_is() -> None:
    reached = {(v["plan"]["act"], v["plan"]["why"]) for v in load("resolve")}
    stays = (Why.NO_GOAL, Why.PINNED, Why.CURRENT, Why.AHEAD, Why.WITHDRAWN, Why.NO_WAY_BACK)
    assert reached == {
        *((Act.STAY, why) for why in stays),
        (Act.RETURN, Why.RECALLED),
        (Act.REJECT, Why.BELOW_FLOOR),
        (Act.REJECT, Why.REFUSED),
        (Act.DEFER, Why.HOLD),
        (Act.INSTALL, Why.ORDERED),
        (Act.STAGE, Why.ORDERED),
    }
    assert {why for _, why in reached} == set(Why)
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("vector", load("admission")["positions"], ids=lambda v: f"{v['salt']}-{v['device']}")
def test_devices_stand_where_they_stood(vector: dict[str, str]) -> None:
    found = admission.position(vector["salt"], vector["device"])
    hold("a position", found, vector["position"])


@pytest.mark.parametrize(
    ("salt", "device", "position"),
    [
        ("r-0001", "dev-001", "0e1fd1929836e7a6"),
        ("r-0001", "dev-002", "b0dc5ccc1cfc57f6"),
        ("r-0002", "dev-001", "fbdcb9a67d379cfe"),
    ],
)
def test_positions_are_those_of_the_contract(salt: str, device: str, position: str) -> None:
    assert admission.position(salt, device) == position


@pytest.mark.parametrize("vector", load("admission")["cuts"])
def test_cuts_admit_whom_they_admitted(vector: dict[str, Any]) -> None:
    asked = {name: value for name, value in vector.items() if name != "waves"}
    for wave in vector["waves"]:
        hold(f"the cut for {wave['k']}", generate.cut_vector(wave["k"], asked), wave)


@pytest.mark.parametrize("vector", load("admission")["wave_sizes"])
def test_waves_are_as_large_as_ever(vector: dict[str, Any]) -> None:
    found = admission.wave_sizes(vector["shares"], vector["total"])
    hold("the sizes of waves", list(found), vector["sizes"])


def test_the_tree_digest_is_over_its_lines() -> None:
    vector = load("tree")
    members = [_member(line) for line in vector["lines"]]
    hold("a tree's lines", [member.line() for member in members], vector["lines"])
    hold("a tree's digest", tree.tree_sha256(members), vector["sha256"])
    joined = "".join(line + "\n" for line in vector["lines"]).encode()
    hold("a tree's digest", hashlib.sha256(joined).hexdigest(), vector["sha256"])
    assert vector["sha256"] == "8fe331395b117de9d6782fc7a70cf9368bbc4ab7bf82e820affe1af3df772db3"


def _member(line: str) -> tree.Member:
    kind, mode, size, third, path = line.split("\t")
    if kind == "f":
        return tree.Member("f", path, int(mode, 8), int(size), third)
    if kind == "d":
        return tree.Member("d", path, int(mode, 8))
    return tree.Member("l", path, target=third)


def test_every_word_of_the_contract_stands_as_it_stood() -> None:
    stored, found = load("words"), generate.word_vectors()
    assert stored.keys() == found.keys()
    for what, words in stored.items():
        hold(f"the list of {what}", found[what], words)


def test_the_vectors_hold_no_secret_key() -> None:
    texts = [path.read_text(encoding="utf-8") for path in golden.VECTORS.glob("*.json")]
    assert texts
    for name in samples.KEYS:
        forms = (samples.secret(name).hex(), base64.b64encode(samples.secret(name)).decode())
        assert not [form for form in forms for text in texts if form in text]


def test_a_token_is_read_from_its_line_and_both_keys_have_signed_the_application() -> None:
    vectors = load("enrolment")
    token = enrolment.decode(vectors["line"])
    hold("the token in its line", generate.plain(token), {**vectors["token"], "secret": "5e" * 32})
    digest = hashlib.sha256(b"\x5e" * 32).hexdigest()
    hold("the digest of a token's secret", digest, vectors["secret_sha256"])
    asked = {**vectors["application"], "secret": "5e" * 32}
    parts = ["fleetfoot-enrolment-1", digest, asked["device"], asked["key"], asked["tls_key"]]
    hold("what both keys sign", "\0".join(parts).encode().hex(), vectors["signed_hex"])
    for key, signature in (("key", "key_signature"), ("tls_key", "tls_signature")):
        public, signed = bytes.fromhex(asked[key]), bytes.fromhex(vectors["signed_hex"])
        assert keys.verify(public, signed, bytes.fromhex(asked[signature]))
    enrolment.demand_possession(enrolment.Application.model_validate(asked))

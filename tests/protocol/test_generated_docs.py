"""The generated documentation: in step with the code, and true."""

import hashlib
import json
import re
from typing import Any

import pytest
from docs import generate, generate_codes, generate_topics
from jsonschema import Draft202012Validator, FormatChecker
from tests.protocol import samples
from tests.protocol.golden import load

from fleetfoot_protocol import codes, errors, topics
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.topics import Kind

FILES = generate.files()
SCHEMAS = (*generate.MODELS, *generate.ENROLMENT, *generate.WRAPPINGS)
#: golden document -> its schema
SCHEMA_OF = {name: name for name in samples.DOCUMENTS} | {
    "desired_group": "desired",
    "desired_device": "desired",
    "status_preflight": "status",
}


@pytest.mark.parametrize("name", FILES)
def test_generated_documentation_is_in_step_with_the_code(name: str) -> None:
    path = generate.HERE / name
    assert path.is_file(), f"docs/{name} is missing: run `make docs`"
    assert path.read_text(encoding="utf-8") == FILES[name], f"docs/{name} is out of date: run `make docs`"


def test_no_schema_is_left_over_from_a_document_that_is_gone() -> None:
    found = {f"schemas/{path.name}" for path in (generate.HERE / "schemas").iterdir()}
    assert found == {name for name in FILES if name.startswith("schemas/")}


def validator(name: str) -> Draft202012Validator:
    """Of the schema as it stands in docs/schemas/."""
    text = (generate.HERE / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text), format_checker=FormatChecker())


def test_the_golden_documents_of_enrolment_fit_their_schemas() -> None:
    vectors = load("enrolment")
    for name in generate.ENROLMENT:
        document = {**vectors[name.removeprefix("enrolment-")]}
        if name != "enrolment-admission":
            document["secret"] = "5e" * 32
        assert validator(name).is_valid(document), name
        assert not validator(name).is_valid({**document, "more": 1})


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_says_what_it_is_of(name: str) -> None:
    schema = validator(name).schema
    assert isinstance(schema, dict)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"{name}.schema.json"
    assert schema["title"]
    assert schema["description"]
    assert schema["additionalProperties"] is False


def test_every_signed_type_has_its_schema() -> None:
    assert {kind for _, _, kind in generate.MODELS.values()} == set(PayloadType)
    assert set(SCHEMA_OF.values()) == set(generate.MODELS)


@pytest.mark.parametrize("name", SCHEMA_OF)
def test_golden_documents_follow_their_schema_and_no_other(name: str) -> None:
    document = json.loads(load("documents")[name]["payload"])
    fitting = {schema for schema in generate.MODELS if validator(schema).is_valid(document)}
    assert fitting == {SCHEMA_OF[name]}


def test_golden_envelopes_and_attestations_follow_their_schema() -> None:
    vectors = load("envelopes")
    for vector in vectors["envelopes"].values():
        validator("envelope").validate(json.loads(vector["envelope"]))
    for vector in vectors["attestations"].values():
        validator("attestation").validate(json.loads(vector["attestation"]))


def golden_document(name: str) -> Any:
    return json.loads(load("documents")[name]["payload"])


@pytest.mark.parametrize("name", SCHEMA_OF)
def test_a_schema_refuses_what_the_model_refuses_by_form(name: str) -> None:
    schema = validator(SCHEMA_OF[name])
    assert not schema.is_valid({**golden_document(name), "newfangled": 1})
    for spec in ("1", 0, 2, True, None):
        assert not schema.is_valid({**golden_document(name), "spec": spec})
    for field in golden_document(name):
        model = generate.MODELS[SCHEMA_OF[name]][0]
        without = {key: value for key, value in golden_document(name).items() if key != field}
        needed = field == "spec" or model.model_fields[field].is_required()
        assert schema.is_valid(without) is not needed


def test_schemas_know_ids_versions_times_cuts_and_labels() -> None:
    desired = validator("desired")
    for change in (
        {"group": "North"},
        {"expires": "2026-01-31"},
        {"sequence": 2**53},
        {"sequence": 1.5},
        {"mirror": "ftp://x"},
        {"withdrawn": ["ab"]},
        {"hold": 1},
    ):
        assert not desired.is_valid({**golden_document("desired_group"), **change})
    for field, value in (("stage_cut", "most"), ("selector", {"": "x"}), ("salt", ""), ("goal", {})):
        document = golden_document("desired_group")
        document["targets"][0][field] = value
        assert not desired.is_valid(document)
    release = golden_document("release")
    assert not validator("release").is_valid({**release, "version": "1.0.0+build"})


# -- topics


PAGE = FILES["topics.md"]


def test_every_topic_stands_on_the_page_with_writer_and_content() -> None:
    assert set(generate_topics.ROWS) == set(Kind)
    for kind, shape, retained, qos in topics.rows():
        row = generate_topics.ROWS[kind]
        assert row.writer
        line = f"| `{shape}` | {'yes' if retained else 'no'} | {qos} | {row.writer} | {row.content} |"
        assert line in PAGE


def test_the_writers_are_those_of_the_contract() -> None:
    first = {kind: row.writer.partition(",")[0] for kind, row in generate_topics.ROWS.items()}
    device = {Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE, Kind.PROGRESS, Kind.DEVICE_EVENTS}
    assert {kind for kind, writer in first.items() if writer == "device"} == device
    assert {kind for kind, writer in first.items() if writer == "operator"} == {Kind.REQUESTS}
    assert set(first.values()) == {"device", "operator", "manager"}


def test_every_line_to_paste_subscribes_to_topics_that_there_are() -> None:
    filters = re.findall(r"-t '([^']*)'", PAGE)
    assert len(filters) >= len(generate_topics.PASTE)
    assert set(filters) <= {topics.subscription(kind) for kind in Kind}
    assert f"mosquitto_sub -h 127.0.0.1 -p 1883 -t '{topics.subscription(Kind.STATUS)}' -v" in PAGE


def test_the_topic_named_as_an_example_is_one() -> None:
    named = set(re.findall(r"`(ff/v1/[a-z0-9/-]+[a-z0-9])`", PAGE))
    assert named
    assert all(topics.parse(text) for text in named)


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for name in ("topics.md", "codes.md"):
        for link in re.findall(r"\]\(([^)]+)\)", FILES[name]):
            assert link.startswith("https://") or (generate.HERE / link).exists(), f"{name}: {link}"


def _attested() -> Any:
    """The function on the page, run as an integrator would run it."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(code, "docs/topics.md", "exec"), space)  # noqa: S102 -- our own page
    return space["attested"]


@pytest.mark.needs("pynacl")
@pytest.mark.parametrize(("name", "signer"), [("status", "device-1"), ("rollout", "director-1")])
def test_the_check_on_the_page_accepts_golden_attestations_and_nothing_else(name: str, signer: str) -> None:
    attested = _attested()
    payload = load("documents")[name]["payload"].encode()
    kind = load("documents")[name]["payload_type"]
    attestation = load("envelopes")["attestations"][name]["attestation"].encode()
    key = samples.public(signer)
    assert attested(payload, attestation, kind, key)
    assert not attested(payload, attestation, kind, samples.public("stranger"))
    assert not attested(payload, attestation, str(PayloadType.REPLY), key)
    assert not attested(payload + b" ", attestation, kind, key)
    for changed in (
        {**json.loads(attestation), "signatures": []},
        {**json.loads(attestation), "signatures": [{"sig": "AAAA"}]},
        {**json.loads(attestation), "signatures": [{"sig": "%"}]},
    ):
        assert not attested(payload, json.dumps(changed).encode(), kind, key)
    # Bytes and digest exchanged together: only the signature can tell.
    other = payload.replace(b'"spec":1', b'"spec":2')
    digest = {"sha256": hashlib.sha256(other).hexdigest()}
    assert not attested(other, json.dumps({**json.loads(attestation), **digest}).encode(), kind, key)


def test_the_event_on_the_page_is_made_by_the_code() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert text.strip() == generate_topics.example()
    assert json.loads(text)["specversion"] == "1.0"


@pytest.mark.parametrize("event", Event)
def test_every_event_stands_on_the_page(event: Event) -> None:
    of_device = event in set(Event) and (event.startswith("upgrade_") or event is Event.ALARM)
    assert f"| `dev.fleetfoot.{event}` | {'device' if of_device else 'manager'} |" in PAGE


# -- codes


@pytest.mark.parametrize("code", Code)
def test_every_code_stands_on_the_page_with_its_remedy(code: Code) -> None:
    info = codes.info(code)
    assert f"| `{code}` | {info.severity} | {info.meaning} | {info.remedy} |" in FILES["codes.md"]


@pytest.mark.parametrize("code", errors.GENERAL_REMEDIES)
def test_every_code_of_commands_stands_on_the_page(code: str) -> None:
    assert f"| `{code}` | {errors.GENERAL_REMEDIES[code]} |" in FILES["codes.md"]


def test_every_failure_of_a_device_answers_something() -> None:
    rows = (*generate_codes.REJECTED, *generate_codes.ALARMS)
    named = {code for _, _, answers in rows for code in answers}
    loud = {code for code, info in codes.TABLE.items() if info.severity in ("error", "critical")}
    # A hook is the owner's own program: its failure is no attack and no fault of ours.
    assert loud - named == {Code.UPGRADE_HOOK_FAILED}
    assert all(short and what and answers for short, what, answers in rows)

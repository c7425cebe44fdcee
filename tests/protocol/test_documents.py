"""The form of documents (contract sections 2 and 3): strict, frozen, complete, and refused with a code."""

import json
from typing import Any

import pytest
from pydantic import ValidationError
from tests.protocol import samples
from tests.protocol.altering import Change, accept, altered, malformed, refusal
from tests.protocol.samples import DOCUMENTS, digest

from fleetfoot_protocol import documents, strictjson
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Release, Target
from fleetfoot_protocol.reports import Request


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_unknown_field_is_refused_by_name(name: str) -> None:
    assert "newfangled" in malformed(name, lambda d: d.update(newfangled=1))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_without_spec_is_malformed(name: str) -> None:
    assert malformed(name, lambda d: d.pop("spec")) == "spec is missing"


@pytest.mark.parametrize("spec", [0, "1", True, None, [], {}])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_spec_that_is_no_number_from_one_is_malformed(name: str, spec: object) -> None:
    malformed(name, lambda d: d.update(spec=spec))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_higher_spec_is_told_apart_whatever_else_stands_there(name: str) -> None:
    kind, payload = altered(name, lambda d: (d.clear(), d.update(spec=2, shape="unheard of")))
    assert refusal(kind, payload).upgrade_code is Code.UPGRADE_SPEC_UNSUPPORTED


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_that_is_needed_is_missed(name: str) -> None:
    kind = type(DOCUMENTS[name][1])
    needed = [field for field, info in kind.model_fields.items() if info.is_required()]
    assert needed
    for field in needed:
        assert field in malformed(name, lambda d, field=field: d.pop(field))  # type: ignore[misc]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_frozen(name: str) -> None:
    document = DOCUMENTS[name][1]
    with pytest.raises(ValidationError, match="frozen"):
        document.__setattr__("spec", 1)


def test_documents_made_in_code_are_as_strict_as_those_that_are_read() -> None:
    fields = samples.GOAL.model_dump()
    for name, value in (("counter", "11"), ("counter", True), ("version", b"1.1.0"), ("attempt", 1.0)):
        with pytest.raises(ValidationError):
            documents.Goal(**{**fields, name: value})


@pytest.mark.parametrize("payload", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_a_document_is_an_object(payload: bytes) -> None:
    assert refusal(Release, payload).message == "not an object"


def test_a_document_beyond_64_kib_is_too_large() -> None:
    assert refusal(Release, b" " * (strictjson.MAX_BYTES + 1)).upgrade_code is Code.UPGRADE_TOO_LARGE


@pytest.mark.parametrize("value", ["7", 7.0, True, -1, 10**30, 2**53, None, [7], {"n": 7}])
def test_where_a_number_stands_nothing_else_passes(value: object) -> None:
    malformed("release", lambda d: d.update(counter=value))
    malformed("release", lambda d: d["artifacts"][0].update(length=value))
    malformed("desired_group", lambda d: d.update(sequence=value))
    malformed("status", lambda d: d["disk"].update(free=value))


@pytest.mark.parametrize("value", [1, 0, "true", None, "false", []])
def test_where_a_flag_stands_nothing_else_passes(value: object) -> None:
    malformed("desired_group", lambda d: d.update(hold=value))
    malformed("reply", lambda d: d.update(ok=value))


@pytest.mark.parametrize("value", [1, True, None, ["north"], {}])
def test_where_text_stands_nothing_else_passes(value: object) -> None:
    malformed("desired_group", lambda d: d.update(group=value))


def test_where_a_list_stands_nothing_else_passes() -> None:
    for value in ("ab", {"0": "a"}, None, 1):
        malformed("desired_group", lambda d, value=value: d.update(withdrawn=value))  # type: ignore[misc]


@pytest.mark.parametrize("key", ["evil\x1b[31m", "evil\n", "evil\u202e"])
def test_what_a_refusal_repeats_of_a_document_is_printable(key: str) -> None:
    assert "evil\\" in malformed("release", lambda d: d.update({key: 1}))


def test_a_withdrawn_goal_is_malformed() -> None:
    withdrawn = [samples.GOAL.digest]
    assert "a goal is withdrawn" in malformed("desired_group", lambda d: d.update(withdrawn=withdrawn))
    baseline = [samples.BASELINE.digest]
    assert "a goal is withdrawn" in malformed("desired_group", lambda d: d.update(withdrawn=baseline))


HEX = ("0" * 16, "5" * 16, "9" * 16, "a" * 16, "b" * 16, "f" * 16)
CUTS = [
    *((low, high, True) for i, low in enumerate(HEX) for high in HEX[i:]),
    *((high, low, False) for i, low in enumerate(HEX) for high in HEX[i + 1 :]),
    *((cut, "all", True) for cut in (*HEX, "all")),
    *(("all", cut, False) for cut in HEX),
]


@pytest.mark.parametrize(("activate", "stage", "good"), CUTS)
def test_nobody_activates_who_may_not_stage(activate: str, stage: str, good: bool) -> None:
    def change(d: Any) -> None:
        d["targets"][0].update(activate_cut=activate, stage_cut=stage)

    if good:
        accept("desired_group", change)
    else:
        assert "activate_cut beyond stage_cut" in malformed("desired_group", change)


@pytest.mark.parametrize(
    "cut", ["", "ALL", "none", "F" * 16, "0" * 15, "0" * 17, "0x" + "0" * 14, 0, "all\n"]
)
def test_a_cut_is_16_hex_digits_or_all(cut: object) -> None:
    malformed("desired_group", lambda d: d["targets"][0].update(stage_cut=cut, activate_cut=cut))


def test_a_target_lists_at_most_500_ids() -> None:
    ids = [f"d-{number}" for number in range(500)]

    def listing(include: list[str], exclude: list[str]) -> Change:
        return lambda d: d["targets"][0].update(include=include, exclude=exclude)

    accept("desired_group", listing(ids[:300], ids[300:]))
    assert "more than 500" in malformed("desired_group", listing([*ids, "one-more"], []))
    assert "more than 500" in malformed("desired_group", listing(ids, ["one-more"]))


def _targets(count: int) -> list[dict[str, Any]]:
    target: Target = samples.GROUP.targets[0]
    return [{**target.model_dump(mode="json"), "rollout": f"r-{number}"} for number in range(count)]


def test_a_document_has_at_most_eight_targets_each_of_its_own_rollout() -> None:
    accept("desired_group", lambda d: d.update(targets=_targets(8)))
    malformed("desired_group", lambda d: d.update(targets=_targets(9)))
    twice = _targets(1) * 2
    assert "same rollout" in malformed("desired_group", lambda d: d.update(targets=twice))


def test_at_most_64_digests_are_withdrawn() -> None:
    digests = [digest(str(number)) for number in range(65)]
    accept("desired_group", lambda d: d.update(withdrawn=digests[:64]))
    malformed("desired_group", lambda d: d.update(withdrawn=digests))


@pytest.mark.parametrize("mode", ["", "At_least", "at least", "exact", None, 1])
def test_a_mode_is_one_of_two(mode: object) -> None:
    malformed("desired_group", lambda d: d["baseline"].update(mode=mode))


def test_a_release_is_not_below_its_own_floor() -> None:
    accept("release", lambda d: d.update(min_counter=d["counter"]))
    assert "below its own floor" in malformed("release", lambda d: d.update(min_counter=d["counter"] + 1))


def test_a_release_has_one_artifact_for_each_platform() -> None:
    twice = malformed("release", lambda d: d["artifacts"].append(d["artifacts"][0]))
    assert "same platform" in twice
    malformed("release", lambda d: d.update(artifacts=[]))


def test_an_index_has_at_most_2048_entries() -> None:
    def sized(length: int) -> Change:
        return lambda d: d["artifacts"][0].update(length=length, chunk_size=4096)

    release = accept("release", sized(2048 * 4096))
    assert isinstance(release, Release)
    assert (release.artifacts[0].chunks, release.artifacts[0].index_length) == (2048, 65536)
    assert "2048 chunks" in malformed("release", sized(2048 * 4096 + 1))


@pytest.mark.parametrize(
    "path", ["", "/bin/app", "../app", "bin/../../app", "bin//app", "bin/", "a b", "./app", "ä"]
)
def test_an_entrypoint_stays_inside(path: str) -> None:
    malformed("release", lambda d: d["artifacts"][0].update(entrypoint=path))


@pytest.mark.parametrize("text", ["", "AB" * 32, "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\n"])
def test_a_digest_is_64_small_hex_digits(text: str) -> None:
    malformed("release", lambda d: d["artifacts"][0].update(sha256=text))


def test_deltas_are_reserved() -> None:
    accept("release", lambda d: d["artifacts"][0].update(deltas=[]))
    malformed("release", lambda d: d["artifacts"][0].update(deltas=[{}]))


def test_absent_options_are_left_out_of_the_payload() -> None:
    payload = json.loads(samples.GROUP.payload())
    assert "device" not in payload
    assert payload["hold"] is False


def test_none_inside_arguments_is_kept() -> None:
    request = samples.REQUEST.model_copy(update={"arguments": {"device": None, "list": [None]}})
    assert documents.read(Request, request.payload()) == request


def test_the_newer_document_has_the_greater_order() -> None:
    def order(epoch: int, sequence: int) -> tuple[int, int]:
        return samples.GROUP.model_copy(update={"epoch": epoch, "sequence": sequence}).order

    assert order(1, 9) < order(2, 1) < order(2, 2)


@pytest.mark.parametrize(
    "verb", ["", "rollout", "Rollout.start", "rollout.start.", "a.b.c.d", "rollout start", "rollout.start\n"]
)
def test_a_verb_has_two_or_three_words(verb: str) -> None:
    malformed("request", lambda d: d.update(verb=verb))

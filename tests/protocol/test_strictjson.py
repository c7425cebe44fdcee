"""Strict parsing (contract section 2): what gets through, what does not, and that nothing is slow."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot_protocol import strictjson
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FormError

LIMIT = strictjson.MAX_BYTES
LARGEST = 2**53 - 1


def refusal(data: bytes) -> Code:
    with pytest.raises(FormError) as caught:
        strictjson.loads(data)
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()
    return caught.value.upgrade_code


GOOD: dict[str, tuple[bytes, Any]] = {
    "an object": (b'{"a": [1, true, null, "x"]}', {"a": [1, True, None, "x"]}),
    "zero": (b"0", 0),
    "the largest integer": (b"9007199254740991", LARGEST),
    "space around": (b' \t\r\n{"a":1}\n', {"a": 1}),
    "text in UTF-8": ('"Größe 文 😀"'.encode(), "Größe 文 😀"),
    "an escaped pair of surrogates": (rb'"\ud83d\ude00"', "😀"),
    "an escaped NUL": (rb'"\u0000"', "\0"),
    "the depth allowed": (b"[" * 16 + b"]" * 16, json.loads("[" * 16 + "]" * 16)),
    "brackets in strings are no depth": (b'["' + b"[{" * 50 + b'"]', ["[{" * 50]),
    "escaped quotes beside brackets": (rb'["\"[[[[[[[[[[[[[[[[[["]', ['"[[[[[[[[[[[[[[[[[[']),
    "a backslash at the end of a string": (rb'["\\", [[1]]]', ["\\", [[1]]]),
    "many shallow lists": (b"[" + b"[]," * 100 + b"[]]", [[]] * 101),
    "the same key in different objects": (b'{"a":{"a":1}}', {"a": {"a": 1}}),
    "the size allowed": (b'"' + b"x" * (LIMIT - 2) + b'"', "x" * (LIMIT - 2)),
}


@pytest.mark.parametrize("name", GOOD)
def test_json_of_the_contract_is_parsed(name: str) -> None:
    data, value = GOOD[name]
    assert strictjson.loads(data) == value


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "only space": b"  \n",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "bytes that are no UTF-8": b'"\xff\xfe"',
    "an overlong encoding": b'"\xc0\xaf"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "a truncated character": b'"\xe2\x82',
    "a lone high surrogate": rb'"\ud800"',
    "a lone low surrogate": rb'"x\udc00"',
    "surrogates the wrong way round": rb'"\ude00\ud83d"',
    "a lone surrogate in a key": rb'{"\ud800": 1}',
    "a lone surrogate deep inside": rb'{"a": [{"b": "\uDBFF"}]}',
    "two keys alike": b'{"a":1,"a":1}',
    "two keys alike, one escaped": rb'{"a":1,"\u0061":2}',
    "two keys alike deep inside": b'[{"a":{"b":1,"b":2}}]',
    "NaN": b'{"a":NaN}',
    "Infinity": b"[Infinity]",
    "minus Infinity": b"[-Infinity]",
    "a fraction": b"7.0",
    "an exponent": b"1e3",
    "a fraction that is no number": b"1.",
    "minus zero": b"-0",
    "minus zero in a list": b"[-0]",
    "minus zero as a fraction": b"-0.0",
    "a negative number": b"-1",
    "beyond the largest integer": b"9007199254740992",
    "ten to the thirty": b"1" + b"0" * 30,
    "very many digits": b"9" * 5000,
    "as many digits as fit": b"9" * LIMIT,
    "a leading zero": b"01",
    "a plus": b"+1",
    "a hexadecimal number": b"0x10",
    "a number with an underscore": b"1_0",
    "deeper than allowed": b"[" * 17 + b"]" * 17,
    "objects deeper than allowed": b'{"a":' * 17 + b"1" + b"}" * 17,
    "as deep as fits": b"[" * LIMIT,
    "objects as deep as fit": (b'{"a":' * LIMIT)[:LIMIT],
    "depth behind an escaped quote": rb'["\"",' + b"[" * 16 + b"]" * 17,
    "depth behind an escaped backslash": rb'["\\",' + b"[" * 16 + b"]" * 17,
    "a string that nothing closes": b'"abc',
    "a raw line break in a string": b'"a\nb"',
    "a raw NUL in a string": b'"a\x00b"',
    "a NUL behind the value": b"{}\x00",
    "an unknown escape": rb'"\x41"',
    "a half escape": rb'"\u12"',
    "single quotes": b"{'a':1}",
    "a comma too many": b"[1,]",
    "a comment": b"[1] // one",
    "two values": b"{}{}",
    "Python's words": b"[True, None]",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bytes_are_refused(name: str) -> None:
    assert refusal(MALFORMED[name]) is Code.UPGRADE_MALFORMED


def test_too_large_is_refused_before_anything_is_decoded() -> None:
    # Were it decoded first, these bytes would be malformed instead.
    assert refusal(b"\xff" * (LIMIT + 1)) is Code.UPGRADE_TOO_LARGE
    assert refusal(b"[" * 1024 * 1024) is Code.UPGRADE_TOO_LARGE
    assert refusal(b'"' + b"x" * (LIMIT - 1) + b'"') is Code.UPGRADE_TOO_LARGE


def test_a_caller_may_demand_less() -> None:
    assert strictjson.loads(b"[1]", limit=3) == [1]
    with pytest.raises(FormError) as caught:
        strictjson.loads(b"[12]", limit=3)
    assert caught.value.upgrade_code is Code.UPGRADE_TOO_LARGE


# Each of these took many seconds in a parser that looks twice; all of them together take none here.
HOSTILE: dict[str, bytes] = {
    "escaped quotes in an unclosed string": b'"' + b'\\"' * ((LIMIT - 1) // 2),
    "escaped quotes outside a string": b'\\"' * (LIMIT // 2),
    "backslashes": b'"' + b"\\" * (LIMIT - 1),
    "quotes": b'"' * (LIMIT - 1),
    "brackets": b"[" * LIMIT,
    "closing brackets": b"]" * LIMIT,
    "space": b" " * LIMIT,
    "digits": b"1" * LIMIT,
    "digits before a point": b"1" * (LIMIT - 2) + b".0",
    "minus signs": b"-" * LIMIT,
    "escaped surrogates": b'"' + b"\\ud800" * ((LIMIT - 2) // 6) + b'"',
}


@pytest.mark.timeout(10)
def test_hostile_bytes_of_the_full_size_are_refused_in_linear_time() -> None:
    for _ in range(5):
        assert {refusal(data) for data in HOSTILE.values()} == {Code.UPGRADE_MALFORMED}
    many = b"[" + b"[]," * (LIMIT // 3 - 2) + b"[]]"
    assert len(strictjson.loads(many)) == LIMIT // 3 - 1
    keys = b"{" + b",".join(b'"%d":1' % number for number in range(6000)) + b"}"
    assert len(strictjson.loads(keys)) == 6000


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        value = strictjson.loads(data)
    except FormError as error:
        code = error.upgrade_code
    else:
        code, data = Code.UPGRADE_MALFORMED, strictjson.dumps(value)
        assert strictjson.loads(data) == value
    assert code is Code.UPGRADE_MALFORMED


@given(st.text(alphabet='[]{}",:\\ud8019.-0eE+ntrfalsN', max_size=60))
def test_what_gets_through_every_parser_reads_alike(text: str) -> None:
    try:
        value = strictjson.loads(text.encode())
    except FormError:
        return
    assert json.loads(text) == value
    assert strictjson.loads(strictjson.dumps(value)) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, LARGEST) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_back_and_written_alike(value: Any) -> None:
    data = strictjson.dumps(value)
    assert strictjson.loads(data) == value
    assert strictjson.dumps(strictjson.loads(data)) == data


def test_writing_sorts_keys_and_adds_no_space() -> None:
    assert strictjson.dumps({"b": [1, 2], "a": "ä", "B": None}) == '{"B":null,"a":"ä","b":[1,2]}'.encode()


def test_writing_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        strictjson.dumps(float("nan"))

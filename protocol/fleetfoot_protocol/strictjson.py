"""Strict JSON: what the contract lets through (section 2), and nothing that parsers disagree about.

UTF-8 without a byte order mark, depth at most 16, no duplicate keys, no NaN or infinity, numbers only as
integers 0..2^53-1, no lone surrogates. Every refusal is a `FormError` with `upgrade_malformed`, or
`upgrade_too_large` before anything is decoded. Time is linear in the size, which is capped.
"""

import json
import re
from typing import Any, NoReturn

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FormError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_INTEGER = 2**53 - 1

# The closing quote is optional, so that an unclosed string is taken to the end and nothing ever backtracks:
# with a demanded quote, escaped quotes in an unclosed string cost quadratic time.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def _malformed(why: str) -> NoReturn:
    raise FormError(Code.UPGRADE_MALFORMED, why)


def _check_depth(data: bytes) -> None:
    """Refuse deep nesting before the recursive parser sees it."""
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return  # as for most statuses
    depth = 0
    for byte in _STRING.sub(b"", data):
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                _malformed(f"nested deeper than {MAX_DEPTH} levels")
        elif byte in b"]}":
            depth -= 1


def _integer(text: str) -> int:
    # The length is looked at first: int() of very many digits is slow or raises by itself.
    if len(text) > 16 or not 0 <= (value := int(text)) <= MAX_INTEGER:
        _malformed("a number is outside 0..2^53-1")
    if text == "-0":
        _malformed("a number is written as -0")
    return value


def _no_float(text: str) -> NoReturn:
    _malformed(f"{text[:20]!a} is not an integer")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        _malformed("an object has the same key twice")
    return result


# Made once: `json.loads` makes one for each document that has hooks.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_no_float,
    parse_constant=_no_float,
)


def loads(data: bytes, *, limit: int = MAX_BYTES) -> Any:
    """Parse `data` (at most `limit` bytes). Raises `FormError`, and nothing else, for any bytes at all."""
    if len(data) > limit:
        raise FormError(Code.UPGRADE_TOO_LARGE, f"{len(data)} bytes, more than {limit}")
    if data.startswith(b"\xef\xbb\xbf"):
        _malformed("starts with a byte order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormError(Code.UPGRADE_MALFORMED, "not UTF-8") from error
    _check_depth(data)
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise FormError(Code.UPGRADE_MALFORMED, f"not JSON: {str(error)[:100]}") from error
    # An escaped lone surrogate survives parsing but is no character: it could be neither shown nor stored.
    if "\\u" in text and re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        _malformed("a string has a lone surrogate")
    return value


def dumps(value: Any) -> bytes:
    """The bytes that Fleetfoot itself writes: sorted keys, no spaces, UTF-8. Same value, same bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()

"""Mutations of bytes and of JSON values, drawn from a `random.Random`: the same seed, the same mutations."""

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

_PAIR = re.compile(rb'("[a-z_]+"):("[^"]*"|[0-9]+)')

#: What parsers have stumbled over, as JSON text.
SPLINTERS: tuple[bytes, ...] = (
    b"NaN",
    b"-Infinity",
    b"-1",
    b"-0",
    b"7.0",
    b"1e3",
    b"1e999",
    b"9" * 400,
    b"9007199254740992",
    b"true",
    b"null",
    b'"7"',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xe2\x80\xae"',
    b'"../../etc"',
    b"[" * 40 + b"]" * 40,
    b"[" * 5000,
    b'{"a":' * 40 + b"1" + b"}" * 40,
    b'{"spec":1,"spec":1}',
    b'"\\',
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00",
    b" " * 3000,
    b'"' + b"x" * 70000 + b'"',
)

#: Characters beyond which a value is changed no further: it would not fit into an envelope any more.
ENOUGH = 100_000
#: Values put in the place of others.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**53 - 1,
    2**53,
    2**63,
    10**30,
    1.5,
    "",
    "all",
    "7",
    "0" * 64,
    "f" * 64,
    "F" * 64,
    "x" * 300,
    "../x",
    "1.0.0",
    "1.0.0+build",
    "01.0.0",
    "1.0.0\n",
    "2026-02-30T00:00:00Z",
    "2026-01-31T12:00:00+00:00",
    "http://a@b/",
    "file:///etc/passwd",
    "\u202e",
    "\u0000",
    "é",
    "e\u0301",
    [],
    {},
    [[]],
    {"": ""},
    list(range(600)),
)


def mutated_bytes(rng: Random, data: bytes) -> bytes:
    """`data` with one to four changes of its bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTE_CHANGES)(rng, data)
    return data


def _flip(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes([(data[at] if data else 0) ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randrange(1, 40) :]


def _repeat(rng: Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data) + 1), rng.randrange(1, 200)
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def _splinter(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(SPLINTERS) + data[at + rng.choice((0, 0, 1, 5)) :]


def _swap_value(rng: Random, data: bytes) -> bytes:
    """A splinter where a value of the text stands."""
    colon = data.find(b":", rng.randrange(len(data) + 1))
    if colon < 0:
        return _splinter(rng, data)
    ends = [end for end in (data.find(mark, colon) for mark in (b",", b"}", b"]")) if end >= 0]
    return data[: colon + 1] + rng.choice(SPLINTERS) + data[min(ends, default=len(data)) :]


def _twice(rng: Random, data: bytes) -> bytes:
    """A key that stands twice, with the same value or another."""
    pairs = list(_PAIR.finditer(data))
    if not pairs:
        return _repeat(rng, data)
    pair = rng.choice(pairs)
    value = rng.choice((pair[2], b"1", b'"other"'))
    return data[: pair.end()] + b"," + pair[1] + b":" + value + data[pair.end() :]


_BYTE_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flip,
    _cut,
    _drop,
    _repeat,
    _splinter,
    _swap_value,
    _swap_value,
    _twice,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        inner = [place for key, item in value.items() for place in _places(item, (*path, key))]
    elif isinstance(value, list):
        inner = [place for key, item in enumerate(value) for place in _places(item, (*path, key))]
    return [path, *inner]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutated_value(rng: Random, value: Any) -> Any:
    """A JSON value with one to three changes of its structure; the one given is not touched."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        if len(json.dumps(value)) > ENOUGH:
            break
        paths = [path for path in _places(value) if path]
        if not paths:
            return rng.choice(VALUES)
        path = rng.choice(paths)
        _change(rng, _at(value, path[:-1]), path[-1], value, paths)
    return value


def _change(rng: Random, parent: Any, key: Any, whole: Any, paths: list[tuple[Any, ...]]) -> None:
    act = rng.randrange(7)
    if act == 0:
        del parent[key]
    elif act == 1:
        parent[key] = json.loads(json.dumps(rng.choice(VALUES)))  # a copy: it may be changed in turn
    elif act == 2:  # what stands elsewhere in the document
        parent[key] = json.loads(json.dumps(_at(whole, rng.choice(paths))))
    elif act == 3 and isinstance(parent, dict):
        parent[rng.choice(("extra", "", "spec ", "Spec", "\u0000", "x" * 100, "__proto__"))] = 1
    elif act == 4 and isinstance(parent, dict):  # another name for the same value
        parent[f"{key}{rng.choice(('', '_', ' '))}x"] = parent.pop(key)
    elif act == 5 and isinstance(parent, list):
        parent.extend([parent[key]] * rng.choice((1, 10, 600)))
    elif isinstance(parent[key], int) and not isinstance(parent[key], bool):
        parent[key] += rng.choice((-1, 1, 2**31, -(2**31)))
    elif isinstance(parent[key], str):
        parent[key] = mutated_text(rng, parent[key])


def mutated_text(rng: Random, text: str) -> str:
    """A text with one change."""
    at = rng.randrange(len(text) + 1)
    piece = rng.choice(("", "a", "0", "-", ".", "/", " ", "\n", "\u200b", "\U000e0041", "A", "é"))
    return text[:at] + piece + text[at + rng.choice((0, 1)) :]


def dumped(rng: Random, value: Any) -> bytes:
    """The value as JSON bytes, in one of the ways in which JSON may be written."""
    style = rng.randrange(4)
    if style == 0:
        return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )
    if style == 1:
        return json.dumps(value, indent=rng.choice((0, 1, 7))).encode()
    if style == 2:
        return json.dumps(value, sort_keys=True).encode()
    return b" \n\t" + json.dumps(value).encode() + b"\r\n"

"""A recording of what a broker says: JSON lines, the first one a head, then a message each.

    {"fleetfoot": "recording", "version": 1, "root": base64, "topic_root": "ff", "at": "2026-11-20T12:00:00Z"}
    {"t": 1.25, "topic": "ff/v1/...", "payload": base64, "retained": true}

`t` is in seconds since the start. The trust root is in the head, so that a recording is verified as the fleet
was; it proves nothing about who made the recording. No secret is in it, and nothing of requests and replies.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fleetfoot_protocol import times, topics, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError, FormError
from fleetfoot_protocol.trust import TrustRoot

VERSION = 1
#: Longest line that is read: a message of the largest size, in base64, and its names.
_MAX_LINE = 2 << 20
#: Seconds from the first message to any other: four months.
_MAX_SECONDS = 1e7


@dataclass(frozen=True, slots=True)
class Head:
    """The first line. `at`: when it was begun, wire time."""

    root: TrustRoot
    topic_root: str
    at: str


@dataclass(frozen=True, slots=True)
class Heard:
    """One message, `t` seconds after the start."""

    t: float
    topic: str
    payload: bytes
    retained: bool


class Recorder:
    """Writes messages as they come; `put` may be called from paho's thread."""

    def __init__(self, file: IO[str], root: bytes, topic_root: str) -> None:
        self.count = 0
        self._file = file
        self._start = time.monotonic()
        head = {
            "fleetfoot": "recording",
            "version": VERSION,
            "root": base64.b64encode(root).decode(),
            "topic_root": topic_root,
            "at": times.to_text(time.time()),
        }
        file.write(json.dumps(head) + "\n")

    def put(self, topic: str, payload: bytes, retained: bool) -> None:
        """One message."""
        line = {
            "t": round(time.monotonic() - self._start, 3),
            "topic": topic,
            "payload": base64.b64encode(payload).decode(),
            "retained": retained,
        }
        self._file.write(json.dumps(line) + "\n")
        self.count += 1


def read_head(file: IO[str]) -> Head:
    """The head of an open recording. FormError `upgrade_malformed`, trust errors for its root."""
    value = _line(file.readline(_MAX_LINE), 1)
    if value.get("fleetfoot") != "recording" or value.get("version") != VERSION:
        raise FormError(Code.UPGRADE_MALFORMED, f"not a recording of version {VERSION}")
    root, topic_root = value.get("root"), value.get("topic_root")
    try:
        return Head(
            trust.first_root(base64.b64decode(str(root), validate=True)),
            topics.check_root(str(topic_root)),
            str(value.get("at"))[:40],
        )
    except (binascii.Error, topics.TopicError) as error:
        raise FormError(Code.UPGRADE_MALFORMED, f"line 1: {error}") from None


def messages(file: IO[str]) -> Iterator[Heard]:
    """The messages behind the head. FormError `upgrade_malformed` naming the line.

    The last line may be cut, as it is when the recorder was killed or its disk was full: it is left out.
    """
    number = 1
    while text := file.readline(_MAX_LINE):
        number += 1
        at_end = len(text) < _MAX_LINE and not text.endswith("\n")
        try:
            value = _line(text, number)
        except FormError:
            if at_end:
                return
            raise
        t, topic, payload = value.get("t"), value.get("topic"), value.get("payload")
        if (
            not isinstance(t, int | float)
            or not 0 <= t <= _MAX_SECONDS
            or not isinstance(topic, str)
            or not isinstance(payload, str)
        ):
            raise FormError(Code.UPGRADE_MALFORMED, f"line {number} has no time, topic or payload")
        try:
            yield Heard(
                float(t), topic, base64.b64decode(payload, validate=True), value.get("retained") is True
            )
        except (binascii.Error, OverflowError) as error:
            raise FormError(Code.UPGRADE_MALFORMED, f"line {number}: {error}") from None


def play(
    heard: Iterator[Heard],
    put: Callable[[str, bytes, bool], None],
    *,
    speed: float,
    wait: Callable[[float], object],
) -> int:
    """Hand messages over when they are due, `speed` times as fast; returns how many. `wait` sleeps."""
    start, count = time.monotonic(), 0
    for one in heard:
        early = one.t / speed - (time.monotonic() - start)
        if early > 0:
            wait(early)
        put(one.topic, one.payload, one.retained)
        count += 1
    return count


def opened(path: Path) -> IO[str]:
    """A recording, open to be read. FleetfootError `io_error`."""
    try:
        return path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FleetfootError("io_error", f"cannot read {path}: {error.strerror}") from error


def _line(text: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FormError(Code.UPGRADE_MALFORMED, f"line {number} is no JSON object")
    return value

"""Events as they are shown: one CloudEvent, read tolerantly and bounded."""

import json
from dataclasses import dataclass
from typing import Any

from fleetfoot_protocol.events import PREFIX
from fleetfoot_protocol.topics import Topic

MAX_BYTES = 256 << 10
_TEXT = 256
#: Not repeated among the details: said elsewhere in the line, or only for programs.
_KNOWN = frozenset({"error_code", "remedy", "device", "group"})


@dataclass(frozen=True, slots=True)
class Happening:
    """One event. `who` is a device or a rollout; `number` counts what this console has seen."""

    number: int
    key: tuple[str, str]
    time: str
    severity: str
    kind: str
    group: str
    who: str
    component: str
    code: str
    details: str
    remedy: str
    raw: bytes

    @property
    def told(self) -> str:
        """Of which component, and the details."""
        return f"{self.component} {self.details}".strip()

    @property
    def text(self) -> str:
        """Everything of it that a filter looks at."""
        return " ".join(
            (self.severity, self.kind, self.group, self.who, self.component, self.code, self.details)
        )


def read_event(topic: Topic, payload: bytes, number: int) -> Happening | None:
    """The event in a message, None if it is none."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return None
    data = event.get("data")
    body = data if isinstance(data, dict) else {}
    return Happening(
        number=number,
        key=(_text(event, "source"), _text(event, "id")),
        time=_text(event, "time"),
        severity=_text(event, "severity"),
        kind=event["type"].removeprefix(PREFIX)[:_TEXT],
        group=topic.group,
        who=topic.device or _text(event, "rollout"),
        component=_text(event, "component"),
        code=_text(event, "errorcode"),
        details=_details(body),
        remedy=_text(body, "remedy"),
        raw=payload,
    )


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    return found[:_TEXT] if isinstance(found, str) else ""


def _details(data: dict[str, Any]) -> str:
    """The simple values of an event, `key=value`; digests shortened."""
    parts = []
    for key, value in list(data.items())[:20]:
        if key in _KNOWN or not isinstance(value, str | int):
            continue
        shown = str(value).lower() if isinstance(value, bool) else str(value)[:_TEXT]
        parts.append(f"{key[:60]}={shown[:12] if key == 'digest' else shown}")
    return " ".join(parts)

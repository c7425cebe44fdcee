"""What a status says, read tolerantly and bounded, for showing it.

Thousands of statuses arrive in a second, and most are never looked at: strict parsing and the check of the
attestation are for what is on the screen (`Fleet.attested`). So nothing here may raise, whatever came.
"""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fleetfoot_protocol.states import BADGES, shown_outcome

MAX_BYTES = 64 << 10
_TEXT = 256
_MANY = 64


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """A component of a device. `state` is what the badge shows: work in hand, else how the last ended."""

    name: str
    version: str = ""
    digest: str = ""
    counter: int = 0
    previous: tuple[str, int, str] | None = None
    floor: int = 0
    lifecycle: str = "idle"
    state: str = "idle"
    reason: str = ""
    code: str = ""
    target: str = ""
    rollout: str = ""
    error: str = ""
    message: str = ""
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def faulty(self) -> bool:
        """Whether a person should look at it."""
        return self.state in _FAULTS


#: States that hurt, the worst first; what is shown of a device with several components is the worst.
_FAULTS = ("failed", "rejected", "rolling_back", "rolled_back", "silent")
BADNESS = {state: place for place, state in enumerate((*_FAULTS, *(s for s in BADGES if s not in _FAULTS)))}


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a status says of its device. `at` is the device's own clock."""

    at: str = ""
    agent: str = ""
    platform: str = ""
    incarnation: str = ""
    counter: int = 0
    enabled: bool = True
    channels: tuple[str, ...] = ()
    free: int | None = None
    clock_trusted: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    components: tuple[ComponentFacts, ...] = ()

    @property
    def hurts(self) -> bool:
        """Whether a person should look at one of its components: they stand with the worst first."""
        return bool(self.components) and self.components[0].faulty


def read_status(payload: bytes) -> DeviceFacts | None:
    """The facts of a status, None if it is no JSON object of reasonable size."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    platform, policy = _table(value, "platform"), _table(value, "policy")
    free = _table(value, "disk").get("free")
    components = _table(value, "components")
    return DeviceFacts(
        at=_text(value, "at"),
        agent=_text(value, "agent"),
        platform="/".join(part for part in (_text(platform, "os"), _text(platform, "arch")) if part),
        incarnation=_text(value, "incarnation"),
        counter=_number(value, "counter"),
        enabled=policy.get("enabled") is not False,
        channels=_texts(policy, "channels"),
        free=free if type(free) is int else None,
        clock_trusted=_table(value, "clock").get("trusted") is not False,
        labels={k[:_TEXT]: v[:_TEXT] for k, v in _first(_table(value, "labels")) if isinstance(v, str)},
        capabilities=_texts(value, "capabilities"),
        alarms=_texts(value, "alarms"),
        components=tuple(
            sorted(
                (_component(k[:_TEXT], v) for k, v in _first(components) if isinstance(v, dict)),
                key=lambda one: (BADNESS.get(one.state, 99), one.name),
            )
        ),
    )


class Outcome(NamedTuple):
    """How one piece of work on a component ended."""

    at: str
    component: str
    version: str
    outcome: str
    code: str
    rollout: str


def read_outcomes(payload: bytes) -> list[Outcome]:
    """The recent work that a status tells of, the newest first: for the one device that is looked at."""
    if len(payload) > MAX_BYTES:
        return []
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return []
    found: list[Outcome] = []
    for name, one in _first(_table(value, "components")) if isinstance(value, dict) else ():
        told = one.get("outcomes") if isinstance(one, dict) else None
        for row in told[:_MANY] if isinstance(told, list) else ():
            if isinstance(row, dict):
                words = (_text(row, key) for key in ("version", "outcome", "code", "rollout"))
                found.append(Outcome(_text(row, "at"), name[:_TEXT], *words))
    return sorted(found, reverse=True)


def read_percent(payload: bytes) -> int | None:
    """How much of a download is there, in percent, from a progress message."""
    if len(payload) > 1024:
        return None
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    have, length = _number(value, "have"), _number(value, "length")
    return min(100, 100 * have // length) if length else None


def _component(name: str, value: dict[str, Any]) -> ComponentFacts:
    running, answered = _table(value, "running"), _table(value, "answered")
    error, before = _table(value, "last_error"), _table(value, "previous")
    lifecycle = _text(value, "state") or "idle"
    state, code, reason = _shown(lifecycle, value, answered)
    return ComponentFacts(
        name=name,
        version=_text(running, "version"),
        digest=_text(running, "digest"),
        counter=_number(running, "counter"),
        previous=(_text(before, "version"), _number(before, "counter"), _text(before, "digest"))
        if before
        else None,
        floor=_number(value, "floor"),
        lifecycle=lifecycle,
        state=state,
        reason=reason,
        code=code,
        target=_text(value, "target") if lifecycle != "idle" else "",
        rollout=_text(value, "rollout"),
        error=_text(error, "code"),
        message=_text(error, "message"),
        refused={k: v for k, v in _first(_table(value, "refused")) if type(v) is int},
    )


def _shown(lifecycle: str, value: dict[str, Any], answered: dict[str, Any]) -> tuple[str, str, str]:
    """(state, code, reason): what is in hand, else a standing rejection, else how the last work ended.

    The rule is the manager's, so that console and command line show the same badge.
    """
    verdict, code = _text(answered, "verdict"), _text(answered, "code")
    reason = _text(value, "reason") or _text(answered, "reason")
    if lifecycle != "idle":
        return lifecycle, code if verdict == "deferred" else "", reason
    if verdict == "rejected" and code != "upgrade_refused_before":
        return "rejected", code, reason
    outcomes = value.get("outcomes")
    found = [one for one in outcomes[:_MANY] if isinstance(one, dict)] if isinstance(outcomes, list) else []
    if found:
        last = max(enumerate(found), key=lambda item: (_text(item[1], "at"), item[0]))[1]
        return _ended(last, value, found) or "idle", _text(last, "code"), reason
    return "idle", "", reason


def _ended(last: dict[str, Any], value: dict[str, Any], outcomes: list[dict[str, Any]]) -> str:
    running, before = _table(value, "running"), _table(value, "previous")
    return shown_outcome(
        _text(last, "outcome"),
        _text(last, "digest"),
        (_text(running, "digest"), _number(running, "counter")),
        _number(before, "counter") if before else None,
        [_text(one, "digest") for one in outcomes if _text(one, "outcome") == "completed"],
    )


def _table(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _first(table: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(table.items())[:_MANY]


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    return found[:_TEXT] if isinstance(found, str) else ""


def _texts(value: dict[str, Any], name: str) -> tuple[str, ...]:
    found = value.get(name)
    return tuple(x[:_TEXT] for x in found[:_MANY] if isinstance(x, str)) if isinstance(found, list) else ()


def _number(value: dict[str, Any], name: str) -> int:
    found = value.get(name)
    return found if type(found) is int and 0 <= found < 1 << 53 else 0

"""What `fleetfoot broker check` looks at, what follows where it does not hold, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEMO, PRODUCTION = "demo", "production"


@dataclass(frozen=True, slots=True)
class Row:
    """consequence: what follows where the row does not hold. needed_for: `demo` implies `production`."""

    consequence: str
    needed_for: str = ""


ROWS: Mapping[str, Row] = {
    "retained_exact": Row("devices that were away never learn of an order: Fleetfoot cannot work", DEMO),
    "retained_wildcard": Row(
        "the manager learns a status only when it changes or its device reconnects; consoles ask the manager"
    ),
    "retained_reconnect": Row("a device that reconnects does not learn of its order", DEMO),
    "packet_size": Row("large statuses and manifests do not pass: Fleetfoot cannot work", DEMO),
    "acknowledged_kept": Row(
        "what is published right before leaving is lost although it was acknowledged; it is sent again later",
        PRODUCTION,
    ),
    "ordering": Row("older documents come after newer ones; their sequence tells, so they are refused"),
    "duplicates": Row("traffic that nobody needs; every message may come twice"),
    "slow_consumer": Row(
        "one reader that stands still holds up the others, or loses messages that it was told it would get",
        PRODUCTION,
    ),
    "will": Row("a device that loses its power is shown online", DEMO),
    "will_retained": Row("whoever connects later sees a device as online that is gone", PRODUCTION),
    "takeover": Row(
        "the old connection of a device stays beside the new one, and its Will comes late (the device"
        " corrects it)",
        PRODUCTION,
    ),
    "redelivery": Row("none for Fleetfoot: its sessions are clean, and it sends again by itself"),
    "keepalive": Row("a device that falls silent is shown online until its connection breaks", PRODUCTION),
    "tls": Row("whoever is on the way reads everything, and learns passwords", PRODUCTION),
    "anonymous_refused": Row(
        "whoever reaches the port reads everything, fills the broker's memory and speaks in devices' names;"
        " what devices run is signed all the same",
        PRODUCTION,
    ),
    "denied_write": Row("one stolen identity speaks in the name of every other", PRODUCTION),
    "denied_will": Row("one stolen identity shows others as offline by its Will", PRODUCTION),
    "denied_read": Row("one stolen identity reads orders and requests of others", PRODUCTION),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """How a row was found. holds: None if that could not be seen from here; `detail` says why."""

    name: str
    holds: bool | None
    detail: str


def needed(name: str, purpose: str) -> bool:
    """Whether a row must hold for `demo` or `production`."""
    return ROWS[name].needed_for in ((DEMO,) if purpose == DEMO else (DEMO, PRODUCTION))


def safe_for(findings: list[Finding], purpose: str) -> bool | None:
    """Whether what was looked at suffices for `purpose`; None if a needed row could not be seen."""
    holds = [finding.holds for finding in findings if needed(finding.name, purpose)]
    if False in holds:
        return False
    return None if None in holds or not holds else True


def as_json(broker: str, findings: list[Finding]) -> dict[str, Any]:
    """The report for programs; `holds` and `safe_for` are null where it cannot be told."""
    return {
        "broker": broker,
        "checks": [
            {"name": f.name, "holds": f.holds, "detail": f.detail, "consequence": ROWS[f.name].consequence}
            for f in findings
        ],
        "safe_for": {purpose: safe_for(findings, purpose) for purpose in (DEMO, PRODUCTION)},
    }

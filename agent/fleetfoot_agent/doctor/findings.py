"""What the doctor finds: one line for each thing looked at, and what all of them amount to."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    ADVICE = "advice"  # works, but something that would protect this device is missing or could not be tried
    PROBLEM = "problem"  # an upgrade, or the way back from one, would fail, or a wall is not there


class Area:
    """What is looked at, in the order of the report."""

    PACKAGE, PERMISSIONS, TRUST, CLOCK = "package", "permissions", "trust", "clock"
    BROKER, DISK, QUOTA, UNIT = "broker", "disk", "quota", "unit"
    GUARD, ISOLATION = "guard", "isolation"


AREAS = (
    Area.PACKAGE,
    Area.PERMISSIONS,
    Area.TRUST,
    Area.CLOCK,
    Area.BROKER,
    Area.DISK,
    Area.QUOTA,
    Area.UNIT,
    Area.GUARD,
    Area.ISOLATION,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `remedy`: what to do, empty where nothing is."""

    area: str
    level: Level
    text: str
    remedy: str = ""


def ok(area: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(area, Level.OK, text)


def advice(area: str, text: str, remedy: str) -> Finding:
    """It works; it could be safer, or nobody could look."""
    return Finding(area, Level.ADVICE, text, remedy)


def problem(area: str, text: str, remedy: str) -> Finding:
    """Something must be done."""
    return Finding(area, Level.PROBLEM, text, remedy)


def status_of(findings: Iterable[Finding]) -> int:
    """The exit status: 1 if there is a problem, else 0."""
    return int(any(finding.level is Level.PROBLEM for finding in findings))


def as_json(findings: list[Finding]) -> str:
    """One object for programs."""
    return json.dumps({"healthy": status_of(findings) == 0, "findings": [asdict(f) for f in findings]})


def as_text(findings: list[Finding]) -> str:
    """Lines for people; all that was found is shown literally."""
    lines = []
    for found in findings:
        lines.append(f"{found.level:8}{found.area:12} {_literal(found.text)}")
        if found.remedy:
            lines.append(f"{'':21}what to do: {_literal(found.remedy)}")
    count = {level: sum(f.level is level for f in findings) for level in Level}
    lines.append(
        f"{count[Level.OK]} ok, {count[Level.ADVICE]} to consider, {count[Level.PROBLEM]} to be mended"
    )
    return "\n".join(lines)


def _literal(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

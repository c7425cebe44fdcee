"""The judgements of survivors: the rows of the tables in docs/mutation.md, read from the page itself."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "mutation.md"
_ROW = re.compile(r"^\| `(?P<where>[^`]+)` \| `(?P<change>[^`]+)` \| (?P<reason>.+) \|$")


def judgements() -> dict[tuple[str, str], str]:
    """(where, change) -> why a mutant may live."""
    rows = (_ROW.match(line) for line in PAGE.read_text().splitlines())
    return {(row["where"], row["change"]): row["reason"] for row in rows if row is not None}


def row(where: str, change: str, reason: str) -> str:
    """A row of the page."""
    return f"| `{where}` | `{change}` | {reason} |"

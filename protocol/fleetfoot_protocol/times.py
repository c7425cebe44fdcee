"""Times on the wire: UTC, RFC 3339, whole seconds, written `2026-01-31T12:00:00Z` (contract section 2)."""

import re
from datetime import UTC, datetime

_FORM = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def to_text(seconds: float) -> str:
    """Unix seconds as wire time; fractions are dropped."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: str) -> int:
    """Wire time as unix seconds. Raises ValueError for any other form, and for years before 1970."""
    if not _FORM.fullmatch(text) or not text.isascii():
        raise ValueError("not a time of the form 2026-01-31T12:00:00Z")
    seconds = int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    if seconds < 0:
        raise ValueError("a time before 1970")
    return seconds

"""Times on the wire: UTC, RFC 3339, whole seconds, written `2026-01-31T12:00:00Z` (contract section 2)."""

import re
from datetime import UTC, datetime
from functools import lru_cache

#: The form alone, as schemas tell it; `from_text` knows the calendar too.
PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"
_FORM = re.compile(PATTERN)


def to_text(seconds: float) -> str:
    """Unix seconds as wire time; fractions are dropped."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Remembered: what a fleet says within a minute names the same few moments by the thousand.
@lru_cache(maxsize=4096)
def from_text(text: str) -> int:
    """Wire time as unix seconds. Raises ValueError for any other form, and for years before 1970."""
    if not _FORM.fullmatch(text):
        raise ValueError("not a time of the form 2026-01-31T12:00:00Z")
    # By its places: strptime would be a tenth of what a manager spends on a status.
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
    seconds = int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
    if seconds < 0:
        raise ValueError("a time before 1970")
    return seconds

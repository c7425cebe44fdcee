"""What every answer obeys: it has to fit into an envelope, and it tells only what there is."""

from collections.abc import Sequence
from typing import Any, TypeVar

from fleetfoot_protocol import strictjson, times

#: Bytes that the rows of an answer may take: an envelope has 64 KiB, base64 takes a third more.
BUDGET = 44 * 1024

T = TypeVar("T")


def fitted(rows: Sequence[T], budget: int = BUDGET) -> tuple[list[T], int]:
    """As many of the first rows as fit, and how many were left out."""
    kept: list[T] = []
    for row in rows:
        budget -= len(strictjson.dumps(row)) + 1
        if budget < 0:
            break
        kept.append(row)
    return kept, len(rows) - len(kept)


def some(**fields: Any) -> dict[str, Any]:
    """The fields that say something: None and empty strings are left out."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def moment(seconds: float | None) -> str | None:
    """Unix seconds as wire time, None stays None."""
    return None if seconds is None else times.to_text(seconds)

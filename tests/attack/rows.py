"""How a test says which attack of the catalogue it carries out, so that the documentation tells the outcome.

Use, on a test whose name starts with `test_row_NN_` (two digits), anywhere below `tests/`:

    @row(6, "replay sequence 6 after 7", "no download, no restart; alarm", holds=[("broker", "old")])
    def test_row_06_an_older_order_is_ignored(...) -> None: ...

tried, survived: what is injected and what is asserted, each one plain line for a table that people read.
holds: cells of the compromise table that this test proves, (who is compromised, what they want): the keys of
`WHO` and `WANTS`. A row may have several tests; a parametrised test counts as one, and has held only if each
of its parameters passed.

The mark travels as the property `row` of the JUnit report (`pytest --junitxml=FILE`), which tests/conftest.py
adds. `docs/security_table.py FILE` writes the tables of docs/security.md from it: a row whose test was not
run, was left out or failed is shown as such, never as survived.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

#: Who may have been taken over.
WHO: dict[str, str] = {
    "broker": "the broker, or whoever can write to it",
    "manager": "the manager and its director key",
    "device": "one device and its key",
    "release key": "one release key of two",
    "courier": "the courier of a device",
}
#: What they would like to do.
WANTS: dict[str, str] = {
    "unsigned": "run code that the release keys did not sign",
    "old": "bring back a release below the floor, or an old order",
    "harm": "leave a device without a working version, or speak for another, unnoticed",
}

Test = TypeVar("Test", bound=Callable[..., Any])


def row(
    number: int, tried: str, survived: str, *, holds: Sequence[tuple[str, str]] = ()
) -> Callable[[Test], Test]:
    """Mark a test as one of row `number` of the catalogue. ValueError for what the table cannot show."""
    for who, wants in holds:
        if who not in WHO or wants not in WANTS:
            raise ValueError(f"no such cell: {who}, {wants}")
    if not tried or not survived or "\n" in tried + survived:
        raise ValueError("tried and survived are one line each")

    def mark(test: Test) -> Test:
        if not test.__name__.startswith(f"test_row_{number:02}_"):
            raise ValueError(f"{test.__name__} must start with test_row_{number:02}_")
        about = {"number": number, "tried": tried, "survived": survived, "holds": [list(c) for c in holds]}
        marked: Test = pytest.mark.row(about)(test)
        return marked

    return mark

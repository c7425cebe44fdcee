"""What tests of the rows share: the word of what a broker stopped."""

import json
from collections.abc import Callable

import pytest
from tests.conformance.expectations import STOPPED

#: (row, broker, whether the broker stopped it)
Split = Callable[[int, str, bool], None]


@pytest.fixture
def split(record_property: Callable[[str, object], None]) -> Split:
    """Assert that the broker did as expected, and put it into the report for the table."""

    def tell(number: int, broker: str, stopped: bool) -> None:
        expectation = STOPPED[number][broker]
        assert stopped is expectation.value, expectation.reason
        facts = {"number": number, "broker": broker, "stopped": stopped, "why": expectation.reason}
        record_property("split", json.dumps(facts))

    return tell

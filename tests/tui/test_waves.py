"""A rollout in pictures made of characters: what they count."""

import pytest

from fleetfoot_client.rows import RolloutDevice, RolloutRow
from fleetfoot_tui import waves


def counted(devices: list[RolloutDevice], states: dict[str, str]) -> dict[str, int]:
    """The funnel, as numbers."""
    return {name.text.strip(): int(count.text) for name, _, count in waves.funnel(devices, states, 20)}


def of(*terminals: str) -> list[RolloutDevice]:
    return [RolloutDevice(id=f"d{n}", wave=1, terminal=terminal) for n, terminal in enumerate(terminals)]


def test_whoever_has_staged_got_as_far_as_unpacking_and_no_further() -> None:
    found = counted(of("staged", "staged", "healthy", "pending"), {})
    assert found == {
        "offered": 3, "download": 3, "verify": 3, "unpacked": 3, "switched": 1, "probation": 1, "healthy": 1,
    }  # fmt: skip


def test_whoever_went_back_had_switched_and_who_is_at_work_is_where_its_status_says() -> None:
    devices = of("rolled_back", "active", "active", "failed", "skipped", "canceled")
    found = counted(devices, {"d1": "downloading", "d2": "probation"})
    assert found == {
        "offered": 4, "download": 3, "verify": 2, "unpacked": 2, "switched": 2, "probation": 1, "healthy": 0,
    }  # fmt: skip


def test_nobody_reached_is_no_funnel() -> None:
    assert waves.funnel(of("pending", "skipped"), {}, 20) == []


@pytest.mark.parametrize(
    ("counts", "text", "colour"),
    [
        ({"healthy": 2, "pending": 3}, "✓2 ·3", ""),
        ({"healthy": 2, "failed": 1, "rolled_back": 1}, "✓2 ✗1 ↩1", "red"),
        ({"rolled_back": 1, "pending": 0}, "↩1", "orange"),
    ],
)
def test_a_tally_has_the_colour_of_the_worst(counts: dict[str, int], text: str, colour: str) -> None:
    row = RolloutRow(rollout="r", component="k", version="1", state="running", revision=1, counts=counts)
    assert waves.tally(row) == (text, colour)

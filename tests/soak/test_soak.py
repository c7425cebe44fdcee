"""The short form of `make soak`, and that it can tell a leak."""

import random
from pathlib import Path

import pytest
from bench.common import more_files
from tests.soak.soaking import LEAST_ROUNDS, Sample, grown, soak


def test_what_grows_is_told_and_what_only_sways_is_not() -> None:
    sway = random.Random(1)  # noqa: S311
    flat = [Sample(n, 100.0 + sway.uniform(-8, 8), 30 + n % 3) for n in range(1, 60)]
    assert grown(flat) == []
    # Warm-up, and peaks wherever they are.
    warm = [Sample(one.round, one.memory - 60 / one.round, one.files) for one in flat]
    assert grown(warm) == []
    assert grown([*flat[:-1], Sample(60, 190.0, 90)]) == []
    leak = [Sample(one.round, one.memory + 0.7 * one.round, one.files) for one in flat]
    assert "memory: it gains" in grown(leak)[0]
    assert "open files: they gain" in grown([Sample(n, 100.0, 30 + n // 6) for n in range(1, 60)])[0]
    assert "too few rounds" in grown(flat[: LEAST_ROUNDS - 1])[0]


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(900)
def test_two_minutes_of_rounds_over_a_thousand_devices_leave_nothing_behind(tmp_path: Path) -> None:
    more_files()
    samples = soak(tmp_path, 1000, 120, print)
    assert grown(samples) == []

"""The short form of `make soak`, and that it can tell a leak."""

from pathlib import Path

import pytest
from tests.soak.soaking import Sample, grown, soak


def test_what_grows_is_told() -> None:
    flat = [Sample(n, 100.0, 30) for n in range(1, 10)]
    assert grown(flat) == []
    assert "memory" in grown([Sample(n, 100.0 + 9 * n, 30) for n in range(1, 10)])[0]
    assert "open files" in grown([Sample(n, 100.0, 30 + 3 * n) for n in range(1, 10)])[0]
    assert grown(flat[:1]) == ["too few rounds to tell"]


@pytest.mark.needs("mosquitto")
def test_rounds_over_a_fleet_with_faults_leave_nothing_behind(tmp_path: Path) -> None:
    samples = soak(tmp_path, 60, 20, lambda _: None)
    assert grown(samples) == []

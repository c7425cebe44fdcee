"""The frame of the benchmarks: what a figure says, and that every benchmark is found."""

import bench.download
import bench.rollout
import pytest
from bench.__main__ import main, names, section
from bench.common import Figure, number


def test_a_figure_is_a_ratio_and_says_what_it_missed() -> None:
    slow = Figure("ingest", 50, "messages/s", 100, "mosquitto_sub", at_least=0.85, note="why")
    assert (slow.ratio, slow.met) == (0.5, False)
    assert "0.50 **missed** | ≥ 0.85 | why |" in slow.row()
    quick = Figure("a wave", 1.2, "s", 1.0, "raw", at_most=1.25)
    assert quick.met is True
    assert "missed" not in quick.row()
    assert Figure("memory", 80, "MiB").met is None
    page = section("ingest", "About.", [slow, quick], 3.0, quick=False)
    assert "Missed: ingest, 0.50. why" in page
    assert "Missed: a wave" not in page


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (12.345, "12.3"), (12345.6, "12 346")])
def test_a_number_has_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_every_benchmark_is_found_and_an_unknown_one_is_an_error() -> None:
    assert {"ingest", "wave", "staged", "restart", "multitude", "rollout", "download", "stored"} <= set(
        names()
    )
    assert not {"common", "house"} & set(names())
    with pytest.raises(SystemExit):
        main(["no-such"])


def test_the_core_of_a_rollout_is_measured() -> None:
    found = {one.what: one for one in bench.rollout.figures(quick=True)}
    report = found["a report among 5000"]
    assert report.ratio is not None
    assert report.ratio < 10, "it would be a hundred if a report looked at every device"
    assert all(one.value > 0 for what, one in found.items() if "memory" not in what)


def test_splay_and_a_limit_keep_the_downloads_few_that_are_open() -> None:
    found = bench.download.figures(quick=True)
    given, cpu, _, splayed, _, limited, *_ = found
    assert all(one.value > 0 for one in (given, splayed, limited))
    assert cpu.unit == "ms a download"
    assert (splayed.limit, limited.limit) == (200, 200), "all at once, they are all open"
    assert splayed.value < 200
    assert limited.value == 32

"""The frame of the benchmarks: what a figure says, and that every benchmark is found."""

import signal
import subprocess
import sys
from pathlib import Path

import bench.download
import bench.rollout
import pytest
from bench import __main__ as frame
from bench.__main__ import PAGE, main, merged, names, section, takes_setting
from bench.common import Figure, number
from bench.setting import Setting
from tests.support.waiting import until


def test_a_figure_is_a_ratio_and_says_what_it_missed() -> None:
    slow = Figure("ingest", 50, "messages/s", 100, "mosquitto_sub", at_least=0.85, note="why")
    assert (slow.ratio, slow.met) == (0.5, False)
    assert "0.50 **missed** | ≥ 0.85 | why |" in slow.row()
    quick = Figure("a wave", 1.2, "s", 1.0, "raw", at_most=1.25)
    assert quick.met is True
    assert "missed" not in quick.row()
    assert Figure("memory", 80, "MiB").met is None
    page = section("ingest", "About.", [slow, quick], 3.0, options=" --quick", where="Machine: this.")
    assert page.startswith(
        "## ingest --quick\n\nAbout.\n\n`python -m bench ingest --quick`, 3 s.\nMachine: this.\n"
    )
    assert "Missed: ingest, 0.50. why" in page
    assert "Missed: a wave" not in page


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (12.345, "12.3"), (12345.6, "12 346")])
def test_a_number_has_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_every_benchmark_is_found_and_an_unknown_one_is_an_error() -> None:
    expected = {
        "ingest",
        "wave",
        "staged",
        "restart",
        "multitude",
        "rollout",
        "download",
        "stored",
        "console",
    }
    assert expected <= set(names())
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


def test_what_runs_on_other_brokers_and_stores_is_said_and_the_rest_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert {name for name in names() if takes_setting(name)} >= {"ingest", "wave", "staged", "multitude"}
    assert Setting().options() == ""
    assert Setting("nats", "postgresql", 50).options() == " --broker nats --store postgresql --devices 50"
    with pytest.raises(SystemExit):
        main(["courier", "--broker", "nats"])
    assert "not courier" in capsys.readouterr().err


def test_a_section_takes_the_place_of_the_one_of_its_title_and_loses_no_other() -> None:
    page = merged("", "## wave\n\nold\n")
    page = merged(page, "## ingest --broker nats\n\nnats\n")
    page = merged(page, "## ingest\n\nbare\n")
    page = merged(page, "## wave\n\nnew\n")
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# Benchmarks",
        "## ingest",
        "## ingest --broker nats",
        "## wave",
    ]
    assert ("old" in page, "new" in page, "bare" in page) == (False, True, True)
    assert merged(page, "## wave\n\nnew\n") == page


def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    page = tmp_path / "benchmarks.md"
    monkeypatch.setattr(frame, "PAGE", page)
    monkeypatch.setattr(frame, "_version", lambda: "abc1234")
    monkeypatch.setattr(frame, "ROOT", PAGE.parent.parent)
    return page


def test_one_that_fails_or_hangs_stands_on_the_page_and_the_others_do_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = _alone(monkeypatch, tmp_path)
    page.write_text("## wave\n\nkept\n")
    monkeypatch.setattr(frame, "names", lambda: ["absent", "rollout"])
    assert main(["absent", "--write"]) == 1
    hangs = ["rollout", "--quick", "--write", "--limit", "0.2"]
    assert main(hangs) == 1
    text = page.read_text()
    assert "`python -m bench absent`: **failed**, it ended with 2." in text
    assert "`python -m bench rollout --quick`: **failed**, it had not ended after 0 s." in text
    assert "kept" in text


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_ends_the_benchmark_that_runs_too() -> None:
    command = [sys.executable, "-m", "bench", "rollout"]  # minutes
    with subprocess.Popen(
        command, cwd=PAGE.parent.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        child = until(lambda: _children(run.pid), "the benchmark runs", seconds=60)[0]
        run.terminate()
        assert run.wait(60) == 128 + signal.SIGTERM
    until(lambda: not _runs(child), "it has ended")


def test_to_resume_is_to_run_what_the_page_lacks_of_this_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = _alone(monkeypatch, tmp_path)
    page.write_text(
        "## wave\n\nVersion: abc1234.\n\n## stored\n\nVersion: 0000000.\n\n"
        "## ingest\n\n**failed** Version: abc1234.\n"
    )
    ran: list[str] = []

    def apart(name: str, options: str, limit: float) -> tuple[str, str]:
        ran.append(name)
        return f"## {name}\n\nVersion: abc1234.\n", ""

    monkeypatch.setattr(frame, "_apart", apart)
    assert main(["wave", "stored", "ingest", "--write", "--resume"]) == 0
    assert ran == ["stored", "ingest"]
    assert main(["wave", "stored", "ingest", "--write", "--resume"]) == 0
    assert ran == ["stored", "ingest"]
    assert "wave: the page has it" in capsys.readouterr().out

"""The demo as a newcomer runs it: its figures, with and without a safety, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.waiting import until

from fleetfoot_sim.demo import is_true

FLEETFOOT = str(Path(sys.executable).with_name("fleetfoot"))


@contextmanager
def demo(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """A demo whose temporary files and sockets lie in `folder`; ended at the latest when the block ends."""
    # Short, because the supervisors' sockets lie below it and their paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ff-", dir=folder) as place:
        process = subprocess.Popen(
            [FLEETFOOT, "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": place},
        )
        try:
            yield process
            assert process.poll() is not None
            assert os.listdir(place) == []
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        yield Path(folder)


def descendants(pid: int) -> set[int]:
    """Every process that this one has started, and those that they have started."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        parent = todo.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = {int(word) for word in task.read_text().split()}
            except OSError:
                continue
            todo += children - found
            found |= children
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie that nobody reaps does not."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.add(pid)
    return running


@pytest.mark.timeout(200)
def test_thirty_devices_upgrade_themselves_and_a_bad_release_comes_back(short: Path) -> None:
    with demo(short, "--json") as process:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    started = result["bad"]["started"]
    assert 1 <= started <= 3
    seconds = result.pop("seconds")
    assert seconds > 0
    assert result == {
        "devices": 30,
        "good": {"version": "1.1.0", "completed": 30, "waves": [3, 15, 30]},
        "bad": {
            "version": "1.2.0",
            "started": started,
            "rolled_back": started,
            "tripped": True,
            "untouched": 30 - started,
        },
        "final": {"1.1.0": 30},
    }


@pytest.mark.timeout(200)
@pytest.mark.parametrize("safety", ["probation", "breaker"])
def test_without_a_safety_the_figures_are_not_true_and_it_says_so(short: Path, safety: str) -> None:
    with demo(short, "--json", "--devices", "6", "--speed", "2", "--sabotage", safety) as process:
        _, err = process.communicate(timeout=180)
        assert process.returncode == 1, err
    assert "not true: the rollout tripped" in err


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("moment", "numbers"),
    [
        ("keys, trust root", [signal.SIGINT]),
        ("putting 1.0.0 on by hand", [signal.SIGTERM]),
        ("rollout of 1.1.0 started", [signal.SIGHUP, signal.SIGINT]),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(one.name for one in value),
)
def test_interrupted_it_leaves_no_process_and_no_file(
    short: Path, moment: str, numbers: list[signal.Signals]
) -> None:
    with demo(short, "--headless", "--devices", "6", "--speed", "2") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(moment in line for line in lines)
        pids = descendants(process.pid)
        process.send_signal(numbers[0])
        assert any("interrupted" in line for line in lines)
        for number in numbers[1:]:
            process.send_signal(number)
        process.stdout.read()
        process.wait(60)
        assert process.returncode == 130
        until(lambda: not alive(pids), f"all of {pids} have ended")


_GUIDED = (
    "import time; from fleetfoot_sim import guided;"
    "guided.run(['--devices', '6', '--speed', '2', '--asks'], lambda *_: time.sleep(200))"
)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "command",
    [[FLEETFOOT, "demo", "--headless", "--devices", "6", "--speed", "2"], [sys.executable, "-c", _GUIDED]],
    ids=["demo", "its console"],
)
def test_killed_outright_it_leaves_no_process(short: Path, command: list[str]) -> None:
    environment = {**os.environ, "TMPDIR": str(short)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert any("fleet is up" in line or "in 2 groups run" in line for line in process.stdout)
            pids = descendants(process.pid)
            assert len(pids) > 10
        finally:
            process.kill()
    until(lambda: not alive(pids), f"all of {pids} have ended", seconds=60)
    # Who played behind the console has ended in order; of a demo that was killed itself the folder stays.
    assert command[0] == FLEETFOOT or not list(short.glob("fleetfoot-demo-*"))


@pytest.mark.parametrize(
    "options",
    [["--devices", "2"], ["--devices", "many"], ["--speed", "0"], ["--speed", "nan"], ["--picture", "x.png"]],
)
def test_impossible_options_are_a_mistake_of_usage(short: Path, options: list[str]) -> None:
    with demo(short, *options) as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
    assert "--" in err


def test_a_folder_with_something_in_it_is_not_used(short: Path) -> None:
    (short / "precious").write_text("x")
    done = subprocess.run(
        [FLEETFOOT, "demo", "--headless", "--keep", str(short)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "exists_already" in done.stderr
    assert os.listdir(short) == ["precious"]


def test_a_picture_that_cannot_be_written_is_noticed_before_anything_is_started(short: Path) -> None:
    with demo(short, "--headless", "--picture", str(short / "missing" / "x.svg")) as process:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
    assert not out
    assert "cannot be written" in err


def test_every_figure_that_is_not_as_promised_is_named() -> None:
    good = {"version": "1.1.0", "completed": 30, "waves": [3, 15, 30]}
    bad = {"version": "1.2.0", "started": 2, "rolled_back": 2, "tripped": True, "untouched": 28}
    result = {"devices": 30, "good": good, "bad": bad, "final": {"1.1.0": 30}}
    assert is_true(result, 30) == []
    wrong = [
        {**result, "devices": 29},
        {**result, "good": {**good, "completed": 29}},
        {**result, "good": {**good, "waves": [4, 15, 30]}},
        {**result, "bad": {**bad, "started": 0, "rolled_back": 0, "untouched": 30}},
        {**result, "bad": {**bad, "started": 4, "rolled_back": 4, "untouched": 26}},
        {**result, "bad": {**bad, "rolled_back": 1}},
        {**result, "bad": {**bad, "tripped": False}},
        {**result, "bad": {**bad, "untouched": 27}},
        {**result, "final": {"1.1.0": 29, "1.2.0": 1}},
    ]
    for one in wrong:
        assert len(is_true(one, 30)) == 1, one

"""What a killed supervisor leaves behind, who hosts supervisors, and the log."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.superviserig import FAMILY, ONE, Begin, active, family, install, runs
from tests.support.waiting import until

from fleetfoot_agent.child import Record, boot_id, bound_log, end_left_over, process_facts
from fleetfoot_agent.layout import Layout, target_of
from fleetfoot_agent.seam import SocketSeam
from fleetfoot_protocol.errors import FleetfootError


def test_a_cut_log_keeps_its_end_and_its_writers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open(log, "ab", buffering=0) as writer:
        writer.write(b"0123456789")
        bound_log(log, cap=10)
        assert log.read_bytes() == b"0123456789"
        writer.write(b"abc")
        bound_log(log, cap=10)
        writer.write(b"d")
    assert log.read_bytes() == b"d"
    assert (tmp_path / "log.1").read_bytes() == b"3456789abc"


# -- a supervisor that was killed itself

HOST = """
import sys
from pathlib import Path
from fleetfoot_agent import config, supervise
sys.exit(supervise.run_forever(config.load(Path(sys.argv[1]))))
"""


@pytest.fixture
def host(tmp_path: Path, run_dir: Path) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Starts `run_forever` in a process of its own, on a device with the components kiosk and other."""
    path = tmp_path / "agent.toml"
    path.write_text(f"""
[agent]
device = "dev-001"
group = "lab"
state_dir = "{tmp_path}/state"
run_dir = "{run_dir}"
install_root = "{tmp_path}/root"
[broker]
url = "mqtt://127.0.0.1:1883"
[components.kiosk]
restart_delay = 0.05
[components.other]
restart_delay = 0.05
""")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", HOST, str(path)], env=environment)
        started.append(process)
        until(
            lambda: _listens(run_dir / "kiosk.sock") and _listens(run_dir / "other.sock"),
            "both supervisors listen",
        )
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def _listens(path: Path) -> bool:
    try:
        SocketSeam(path).state()
    except FleetfootError:
        return False
    return True


def test_a_host_ends_on_a_signal_with_everything_it_started(
    layout: Layout, run_dir: Path, host: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    install(layout, ONE, FAMILY)
    layout.swap_current(target_of(ONE))
    for number in (signal.SIGTERM, signal.SIGINT):
        (layout.tree(ONE) / "ready").unlink(missing_ok=True)
        process = host()
        pids = family(layout, SocketSeam(run_dir / "kiosk.sock"))
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not any(map(runs, pids))
        assert sorted(os.listdir(run_dir)) == ["kiosk.lock", "other.lock"]


def test_the_next_supervisor_ends_what_a_killed_one_left(
    layout: Layout, run_dir: Path, begin: Begin, host: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    install(layout, ONE, FAMILY)
    layout.swap_current(target_of(ONE))
    process = host()
    pids = family(layout, SocketSeam(run_dir / "kiosk.sock"))
    process.kill()
    process.wait(30)
    assert all(map(runs, pids))
    state = active(begin())
    assert not any(map(runs, pids))
    assert state.pid not in pids


@pytest.fixture
def bystander() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "1000"], env={"FLEETFOOT_INSTANCE": "m"}, start_new_session=True)
    try:
        until(
            lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n",
            "it is itself",
        )
        yield process
    finally:
        process.kill()
        process.wait(30)


def started_at(pid: int) -> int:
    facts = process_facts(pid)
    assert facts is not None
    return facts[2]


def test_a_recorded_group_is_ended_by_number_and_start_time_without_its_mark(
    bystander: "subprocess.Popen[bytes]",
) -> None:
    record = Record(boot_id(), "another", bystander.pid, started_at(bystander.pid))
    assert end_left_over(record) == [bystander.pid]
    assert bystander.wait(30) == -signal.SIGKILL


def test_a_process_that_was_not_recorded_yet_is_ended_by_its_mark(
    bystander: "subprocess.Popen[bytes]",
) -> None:
    assert end_left_over(Record(boot_id(), "m", 0, 0)) == [bystander.pid]


@pytest.mark.parametrize("what", ["boot", "start time", "mark"])
def test_who_only_has_the_same_number_is_left_alone(bystander: "subprocess.Popen[bytes]", what: str) -> None:
    pid, at = bystander.pid, started_at(bystander.pid)
    record = {
        "boot": Record("another boot", "m", pid, at),
        "start time": Record(boot_id(), "another", pid, at - 1),
        "mark": Record(boot_id(), "", pid, at + 1),
    }[what]
    assert end_left_over(record) == []
    assert bystander.poll() is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"boot_id": 1}',
        b'{"boot_id": "b", "mark": "", "pid": 1, "started": 1}',
        b'{"boot_id": "b", "mark": "m", "pid": "1", "started": 1}',
        b"[" * 4000,
    ],
)
def test_a_record_that_cannot_be_used_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pid").write_bytes(data)
    assert Record.read(tmp_path / "x.pid") is None


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record("boot", "mark", 7, 8)
    record.write(tmp_path / "x.pid")
    assert Record.read(tmp_path / "x.pid") == record


def test_a_process_with_a_strange_name_is_read_rightly(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    program = shutil.copy(sleep, tmp_path / ") R 1 (x")
    process = subprocess.Popen([program, "1000"], start_new_session=True)
    try:
        until(lambda: ") R 1 (x" in Path(f"/proc/{process.pid}/comm").read_text(), "the program runs")
        facts = process_facts(process.pid)
        assert facts is not None
        assert facts[1] == process.pid
    finally:
        process.kill()
        process.wait(30)

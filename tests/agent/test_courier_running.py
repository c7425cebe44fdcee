"""Waking and running the worker: none lost, none twice at a time; and the courier as a process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.courierrig import BASE, OWN, QUICK, SECONDS, Observer, carrying, device, free_port, until

from fleetfoot_agent.courier.main import main
from fleetfoot_agent.courier.running import ChildWorker, Waker, WorkerFailed, WorkerRunner
from fleetfoot_agent.spool import WorkerSide, take_wake, wake, wake_pending
from fleetfoot_manager.broker import EmbeddedBroker

Address = tuple[str, int]
FOREVER = float("inf")


@pytest.fixture
def broker() -> Iterator[Address]:
    with EmbeddedBroker() as running:
        yield running.address


# The waker


def test_a_second_wake_waits_for_its_time_and_is_not_lost(tmp_path: Path) -> None:
    waker = Waker(tmp_path, 1.0)
    assert waker.step(0.0) == FOREVER
    waker.request("first")
    assert waker.step(10.0) == FOREVER
    assert take_wake(tmp_path)
    waker.request("second")
    assert waker.step(10.5) == 11.0
    assert not wake_pending(tmp_path)
    assert waker.step(11.0) == FOREVER
    assert take_wake(tmp_path)
    assert waker.step(12.0) == FOREVER
    assert not wake_pending(tmp_path)


def test_a_wake_that_nobody_has_taken_covers_the_next_wish(tmp_path: Path) -> None:
    waker = Waker(tmp_path, 1.0)
    wake(tmp_path)
    waker.request("first")
    assert waker.step(10.0) == FOREVER
    take_wake(tmp_path)
    assert waker.step(10.1) == FOREVER
    assert not wake_pending(tmp_path)
    waker.request("after a wake that was not ours")
    assert waker.step(10.2) == FOREVER
    assert wake_pending(tmp_path)


def test_a_wake_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "wake").write_bytes(b"in the way")
    waker = Waker(tmp_path / "wake", 1.0)
    waker.request("first")
    assert waker.step(10.0) == 11.0
    (tmp_path / "wake").unlink()
    assert waker.step(11.0) == FOREVER
    assert wake_pending(tmp_path / "wake")


# The runner


class Bench:
    """A runner whose worker is a function, and a clock that a test moves."""

    def __init__(
        self, wake_dir: Path, run: Callable[[], None], stop: Callable[[], None] | None = None
    ) -> None:
        self.wake_dir = wake_dir
        self.ended = threading.Event()
        self.runner = WorkerRunner(run, stop, wake_dir, pause=10.0, interval=1.0, ended=self.ended.set)

    def run_at(self, now: float) -> None:
        """Step at `now`, where a run must start, and wait for its end."""
        self.ended.clear()
        self.runner.step(now)
        assert self.ended.wait(SECONDS)


def test_a_run_starts_when_somebody_wakes_and_not_else(tmp_path: Path) -> None:
    runs: list[bool] = []
    bench = Bench(tmp_path, lambda: runs.append(take_wake(tmp_path)))
    assert bench.runner.step(0.0) == FOREVER
    wake(tmp_path)
    bench.run_at(1.0)
    assert bench.runner.step(1.5) == FOREVER
    assert not bench.runner.running
    assert runs == [True]


def test_runs_that_leave_the_wake_do_not_chase_each_other(tmp_path: Path) -> None:
    runs: list[int] = []
    bench = Bench(tmp_path, lambda: runs.append(1))
    wake(tmp_path)
    bench.run_at(1.0)
    assert bench.runner.step(1.1) == 2.0
    bench.run_at(2.0)
    assert len(runs) == 2


def test_a_failed_run_is_repeated_after_its_pause_without_another_wake(tmp_path: Path) -> None:
    runs: list[int] = []

    def run() -> None:
        take_wake(tmp_path)
        runs.append(1)
        if len(runs) < 3:
            raise WorkerFailed(1)

    bench = Bench(tmp_path, run)
    wake(tmp_path)
    bench.run_at(1.0)
    assert bench.runner.step(1.1) == pytest.approx(11.1)
    bench.run_at(11.1)
    wake(tmp_path)
    assert bench.runner.step(11.2) == pytest.approx(21.2)
    bench.run_at(21.2)
    assert bench.runner.step(21.3) == FOREVER
    assert len(runs) == 3


def test_a_wake_during_a_run_is_answered_after_it(tmp_path: Path) -> None:
    gate = threading.Event()
    runs: list[bool] = []

    def run() -> None:
        runs.append(take_wake(tmp_path))
        gate.wait(SECONDS)

    bench = Bench(tmp_path, run)
    wake(tmp_path)
    bench.runner.step(1.0)
    until(lambda: runs == [True], "the first run")
    wake(tmp_path)
    assert bench.runner.step(5.0) == FOREVER
    gate.set()
    assert bench.ended.wait(SECONDS)
    bench.run_at(5.0)
    assert runs == [True, True]


def test_finishing_makes_a_run_end(tmp_path: Path) -> None:
    gate = threading.Event()

    def run() -> None:
        take_wake(tmp_path)
        gate.wait(SECONDS)

    bench = Bench(tmp_path, run, gate.set)
    wake(tmp_path)
    bench.runner.step(1.0)
    assert bench.runner.running
    bench.runner.finish(SECONDS)
    assert not bench.runner.running


# Hosted in the courier


def test_a_wake_is_never_lost_when_the_worker_ends_while_a_message_arrives(
    tmp_path: Path, broker: Address
) -> None:
    config = device(tmp_path, broker[1])
    seen: list[set[bytes]] = []
    leave = threading.Semaphore(0)

    def run() -> None:
        """A worker that has read everything and lingers before its end."""
        take_wake(config.wake_dir)
        worker = WorkerSide(config.spool)
        messages = [m for slot in worker.slots() for m in worker.messages(slot) if m.unread]
        worker.mark_seen({m.slot: m.arrival for m in messages})
        seen.append({m.payload for m in messages})
        leave.acquire(timeout=SECONDS)

    def all_seen() -> set[bytes]:
        return set().union(*seen)

    with (
        Observer(broker) as manager,
        carrying(config, start_worker=run, stop_worker=leave.release) as courier,
    ):
        until(lambda: courier.connected and len(seen) == 1, "the run at the start")
        for n in range(5):
            manager.publish(f"{BASE}/desired/kiosk", b"%d" % n)
            until(lambda: wake_pending(config.wake_dir), "the wake")
            leave.release()
            until(lambda: b"%d" % n in all_seen(), f"message {n} to be read")  # noqa: B023
        for _ in range(20):
            leave.release()


def test_a_message_reaches_a_hosted_worker_at_once_and_its_answer_the_broker(
    tmp_path: Path, broker: Address
) -> None:
    config = device(tmp_path, broker[1])
    latencies: list[float] = []

    def run() -> None:
        take_wake(config.wake_dir)
        worker = WorkerSide(config.spool)
        for slot in worker.slots():
            for message in worker.messages(slot):
                if message.unread:
                    latencies.append(time.monotonic() - float(message.payload))
                    worker.mark_seen({slot: message.arrival})
                    worker.append_event(b"answer")

    tuning = replace(QUICK, poll_idle=1.0, poll_busy=0.1)
    with Observer(broker) as manager, carrying(config, tuning, start_worker=run) as courier:
        until(lambda: courier.connected, "the connection")
        for n in range(1, 4):
            begun = time.monotonic()
            manager.publish(f"{BASE}/desired/kiosk", b"%f" % begun)
            until(lambda: len(manager.on(f"{OWN}/events")) == n, "the answer")  # noqa: B023
    assert min(latencies) < 0.2


# As child and as process


def test_a_child_is_one_run_and_its_exit_code_counts(tmp_path: Path) -> None:
    ChildWorker(tmp_path, grace=1.0, command=[sys.executable, "-c", "pass"])()
    with pytest.raises(WorkerFailed) as caught:
        ChildWorker(tmp_path, grace=1.0, command=[sys.executable, "-c", "raise SystemExit(3)"])()
    assert caught.value.code == 3
    with pytest.raises(FileNotFoundError):
        ChildWorker(tmp_path, grace=1.0, command=[str(tmp_path / "nowhere")])()


def test_a_stopped_child_has_not_failed_and_a_stubborn_one_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(60)"
    )
    ready = tmp_path / "ready"
    child = ChildWorker(tmp_path, grace=0.2, command=[sys.executable, "-c", code, str(ready)])
    thread = threading.Thread(target=child)
    thread.start()
    until(ready.exists, "the child")
    begun = time.monotonic()
    child.stop()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 10
    child()  # starts nothing any more


@contextmanager
def courier_process(config: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "fleetfoot_agent.courier", "--config", str(config), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def written(folder: Path, port: int) -> Path:
    path = folder / "agent.toml"
    path.write_text(
        f'[agent]\ndevice = "dev-1"\ngroup = "lab"\nstate_dir = "state"\nrun_dir = "run"\n'
        f'[broker]\nurl = "mqtt://127.0.0.1:{port}"\n[components.kiosk]\n'
    )
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_order(tmp_path: Path, broker: Address, number: signal.Signals) -> None:
    with Observer(broker) as observer, courier_process(written(tmp_path, broker[1])) as process:
        observer.await_last(f"{OWN}/presence", b"online")
        assert (tmp_path / "run/wake/now").exists()
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
        observer.await_last(f"{OWN}/presence", b"offline")


def test_a_signal_ends_it_without_a_broker_too(tmp_path: Path) -> None:
    with courier_process(written(tmp_path, free_port())) as process:
        until((tmp_path / "run/wake/now").exists, "the start")
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_a_killed_courier_is_offline_by_its_will_and_comes_back(tmp_path: Path, broker: Address) -> None:
    path = written(tmp_path, broker[1])
    with Observer(broker) as observer:
        with courier_process(path) as process:
            observer.await_last(f"{OWN}/presence", b"online")
            process.kill()
            observer.await_last(f"{OWN}/presence", b"offline")
        with courier_process(path):
            observer.await_last(f"{OWN}/presence", b"online")


def test_a_wrong_configuration_is_told_and_is_an_error_of_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


def bare(code: str) -> set[str]:
    """The words that a fresh interpreter prints; without coverage, which loads modules of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_an_idle_courier_has_not_loaded_what_only_downloads_and_proxies_need() -> None:
    loaded = bare("import sys, fleetfoot_agent.courier.main; print(*sorted(sys.modules))")
    assert "paho.mqtt.client" in loaded
    assert not loaded & {"asyncio", "email", "http.client", "multiprocessing", "random", "tempfile"}
    assert not loaded & {"urllib.request", "nacl", "pydantic", "argparse", "_ssl"}


def test_the_command_measures_no_terminal_before_it_shows_something() -> None:
    code = """
import sys
from fleetfoot_agent import arguments
arguments.parser().parse_args(["courier", "--config", "agent.toml"])
print(*sys.modules)
"""
    loaded = bare(code)
    assert "argparse" in loaded
    assert "shutil" not in loaded


def test_tls_is_loaded_by_whoever_uses_it_and_paho_knows_its_exceptions() -> None:
    code = """
import sys, fleetfoot_agent.courier.main
from paho.mqtt import client
for error in (client.ssl.SSLWantReadError, client.ssl.SSLWantWriteError):
    assert not issubclass(BlockingIOError, error)
assert not {"ssl", "_ssl"} & set(sys.modules), "loaded by looking"
import ssl, _ssl
assert ssl.SSLWantReadError is _ssl.SSLWantReadError, "not the real one"
assert client.ssl.SSLWantReadError is ssl.SSLWantReadError
assert client.ssl.SSLWantWriteError is ssl.SSLWantWriteError
assert client.ssl.SSLContext is ssl.SSLContext
print("agreed")
"""
    assert bare(code) == {"agreed"}

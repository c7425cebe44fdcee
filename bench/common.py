"""What the benchmarks share: a figure, the machine, processes and what they cost."""

import os
import platform
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table. `value` and `limit` in `unit`; aim: what the ratio should be at least, or at most.

    against: what the limit is. A figure without a limit is a plain fact (messages, bytes), and has no ratio.
    """

    what: str
    value: float
    unit: str
    limit: float | None = None
    against: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """value / limit."""
        return None if self.limit is None or self.limit == 0 else self.value / self.limit

    @property
    def met(self) -> bool | None:
        """Whether the aim is met, None without one."""
        if self.ratio is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    def row(self) -> str:
        """A row of the table in docs/benchmarks.md."""
        aim = f"≥ {self.at_least:g}" if self.at_least is not None else ""
        aim = f"≤ {self.at_most:g}" if self.at_most is not None else aim
        missed = "" if self.met is not False else " **missed**"
        limit = "" if self.limit is None else f"{number(self.limit)} {self.unit}: {self.against}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        value = f"{number(self.value)} {self.unit}"
        return f"| {self.what} | {value} | {limit} | {ratio}{missed} | {aim} | {self.note} |"


HEADER = (
    "| what | measured | against | ratio | aim | note |",
    "|---|---|---|---|---|---|",
)


def number(value: float) -> str:
    """A number as people read it: three digits that count."""
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def machine() -> str:
    """The machine in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} processors, {model}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}; load before the run {os.getloadavg()[0]:.1f}"
    )


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(look: Callable[[], object], what: str, seconds: float = 60.0, *, every: float = 0.005) -> None:
    """Wait until `look`, asked every so many seconds, gives something true. RuntimeError naming `what` if it
    does not in time."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(every)


def more_files() -> int:
    """Let this process open as many files as it may; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used: seconds of processor, MiB resident now."""

    cpu: float
    rss: float


def cost_of(pid: int) -> Cost:
    """What a running process has cost so far."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Cost((int(stat[11]) + int(stat[12])) / ticks, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


@contextmanager
def mosquitto(folder: Path, port: int | None = None) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A Mosquitto that asks nobody who they are, with the limits that we ship: (port, process)."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = port or free_port()
    user = "user root\n" if os.geteuid() == 0 else ""
    text = f"{user}listener {chosen} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type error\n"
    text += "max_queued_messages 1000000\nmax_queued_bytes 0\nmax_inflight_messages 100\nsys_interval 1\n"
    (folder / "mosquitto.conf").write_text(text)
    with (folder / "mosquitto.log").open("ab") as log:
        process = subprocess.Popen(
            ["mosquitto", "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log
        )
    try:
        until(lambda: listens(chosen), "mosquitto listens")
        yield chosen, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

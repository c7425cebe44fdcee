"""The processes of one supervised component: one process group, its record, its log.

`Child` is the group that a supervisor started; `Record` is what lets the next supervisor find the group of
one that was killed. Standard library only, no signals, no global state: one process can host many.
"""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fleetfoot_agent import durable

#: Bytes of a log before it is cut; as many are kept in `<log>.1`.
LOG_CAP = 1 << 20

#: The variable that carries a supervisor's mark to all processes of its component.
MARK_VARIABLE = "FLEETFOOT_INSTANCE"


class Child:
    """A running command: the first process, which leads a group of its own, and that group.

    The end of the first process is seen without reaping it, so that the number of the group cannot be given
    to somebody else before the group has been ended. Raises `OSError` if the command cannot be executed.
    """

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], output: int) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.started = time.monotonic()
        #: Readable when the process has ended; None on kernels without it.
        self.pidfd: int | None = None
        with suppress(OSError):
            self.pidfd = os.pidfd_open(self.pid)

    def has_ended(self) -> bool:
        """Whether the first process has ended (it is not reaped yet)."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # somebody else in this process has reaped it
            return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def finish(self) -> int:
        """End what is left of the group and reap. Returns the status as `subprocess` has it."""
        self.signal(signal.SIGKILL)
        status = self._process.wait()
        if self.pidfd is not None:
            os.close(self.pidfd)
        return status


@dataclass(frozen=True, slots=True)
class Record:
    """What a killed supervisor leaves behind: a mark that all its processes carry in their environment,
    and the process group that it started last. `started` in clock ticks since boot."""

    boot_id: str
    mark: str
    pid: int
    started: int

    def write(self, path: Path) -> None:
        """Replace the record at `path`."""
        durable.write_file(path, json.dumps(asdict(self)).encode(), 0o600)

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """The record at `path`, None if there is none that can be used."""
        data = durable.read_regular(path.parent, path.name, 4096)
        try:
            fields = json.loads(data or b"")
            record = cls(**fields)
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = [type(value) for value in (record.boot_id, record.mark, record.pid, record.started)]
        return record if kinds == [str, str, int, int] and record.mark else None


def boot_id() -> str:
    """The kernel's name for the time since the last boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_facts(pid: int) -> tuple[str, int, int] | None:
    """(state letter, process group, start in clock ticks since boot) of a process; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[2]), int(fields[19])


def left_over(record: Record) -> list[int]:
    """Pids of running processes that belong to `record`: by their mark, or by the recorded group.

    The group counts only while the recorded process leads it: the same number, started at the same time.
    """
    leader = process_facts(record.pid)
    led = leader is not None and leader[1:] == (record.pid, record.started)
    mark = f"{MARK_VARIABLE}={record.mark}".encode()
    found = []
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        facts = process_facts(pid)
        if facts is None or facts[0] in "ZX" or pid == os.getpid():
            continue
        marked = False
        with suppress(OSError):
            marked = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if marked or (led and facts[1] == record.pid):
            found.append(pid)
    return found


def end_left_over(record: Record, seconds: float = 5.0) -> list[int]:
    """Kill what a killed supervisor of this boot left running; waits until it is gone. Returns the pids."""
    if record.boot_id != boot_id():
        return []
    ended: list[int] = []
    deadline = time.monotonic() + seconds
    while (pids := left_over(record)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended = sorted({*ended, *pids})
        time.sleep(0.02)
    return ended


def bound_log(path: Path, cap: int = LOG_CAP) -> None:
    """Cut the log at `path` when it has more than `cap` bytes; the last `cap` of them go to ``<log>.1``.

    It is emptied in place, because running processes append to it; what they write meanwhile is lost.
    """
    with suppress(OSError):
        if path.stat().st_size <= cap:
            return
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # no room for the copy: then all the more the room of the log
                tail = os.pread(fd, cap, max(0, os.fstat(fd).st_size - cap))
                durable.write_file(path.with_name(path.name + ".1"), tail, 0o640)
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

"""Faults in real processes: SIGKILL at a time or a system call, errors of system calls (`strace -e inject`).

Never with ``--seccomp-bpf``: under it strace counts and injects unreliably.
"""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: System calls that change the disk or bring it up to date. A kill at another is one at the next of these.
CHANGES = (
    "openat",
    "write",
    "fsync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "chmod",
    "fchmod",
)
#: Those that can fail because a disk is broken, and because it is full.
FAILING = {"EIO": (*CHANGES, "read", "getdents64", "newfstatat", "readlink"), "ENOSPC": CHANGES[:-4]}

_SECONDS = 60.0
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(")


@dataclass(frozen=True, slots=True)
class Fault:
    """The `when`-th call of `call` gets `what`: KILL, EIO or ENOSPC."""

    what: str
    call: str
    when: int

    def option(self) -> str:
        effect = "signal=KILL" if self.what == "KILL" else f"error={self.what}"
        return f"inject={self.call}:{effect}:when={self.when}"

    def __str__(self) -> str:
        return f"{self.what} at {self.call} {self.when}"


def _await(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.001)


def forked(act: Callable[[], object], log: Path) -> tuple[int, int]:
    """A child that does `act` once it is told to; (pid, the descriptor that tells it when it is closed).

    It ends with 0, or with 3 after an exception, which is in the log. Only for a process without threads.
    """
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            os.close(go)
            err = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(err, 1)
            os.dup2(err, 2)
            os.read(ready, 1)
            act()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__mro__}: {error}".encode())
        finally:
            os._exit(status)
    os.close(ready)
    return pid, go


def _traced(pid: int) -> bool:
    text = Path(f"/proc/{pid}/status").read_text()
    return not re.search(r"^TracerPid:\t0$", text, re.MULTILINE)


def traced(act: Callable[[], object], options: Sequence[str], folder: Path) -> tuple[int, str]:
    """Do `act` in a child under strace. Its status (negative: the signal that ended it) and the trace."""
    pid, go = forked(act, folder / "child.log")
    out = folder / "trace"
    strace = subprocess.Popen(["strace", "-qq", "-o", str(out), "-p", str(pid), *options])
    try:
        _await(lambda: _traced(pid), "strace attaches")
        os.close(go)
        _, status = os.waitpid(pid, 0)
        strace.wait(_SECONDS)
    finally:
        if strace.poll() is None:
            strace.kill()
            strace.wait()
    return os.waitstatus_to_exitcode(status), out.read_text()


def faults(trace: str) -> list[Fault]:
    """Every fault that can be injected into a run that left this trace."""
    seen: Counter[str] = Counter()
    found = []
    for line in trace.splitlines():
        if not (match := _CALL.match(line)):
            continue
        call = match[1]
        seen[call] += 1
        if call in CHANGES:
            found.append(Fault("KILL", call, seen[call]))
        if call in FAILING["EIO"]:
            found.append(Fault("EIO", call, seen[call]))
        # A full disk lets everything be opened that is there.
        if call in FAILING["ENOSPC"] and (call != "openat" or "O_CREAT" in line):
            found.append(Fault("ENOSPC", call, seen[call]))
    return found


def trace_option() -> list[str]:
    """The option that makes strace tell every call that a fault may be injected into."""
    return ["-e", "trace=" + ",".join(sorted({*CHANGES, *FAILING["EIO"]}))]


def kill_when(act: Callable[[], object], seen: Callable[[], bool], delay: float, log: Path) -> int | None:
    """Do `act` in a child and SIGKILL it `delay` seconds after `seen` became true.

    Its status, or None if it had ended before.
    """
    pid, go = forked(act, log)
    os.close(go)
    ended = (0, 0)
    while not seen():
        ended = os.waitpid(pid, os.WNOHANG)
        if ended != (0, 0):
            return None
    until = time.monotonic() + delay
    while time.monotonic() < until:
        pass
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

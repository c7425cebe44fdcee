"""Managers without the second that importing one takes: each is a fork of a process that has done it.

``python -m tests.end_to_end.zygote`` takes a JSON object a line, `argv`, `fault` and `log`, and runs
``fleetfoot ARGV`` as a process of its own, one at a time. On standard output it says ``{"pid": n}``; what
the command prints comes in between; when it has ended, ``{"ended": n}``, negative for a signal. `Managers`
is the other side of it.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.waiting import until

from fleetfoot_manager.faults import VARIABLE


def _run(order: dict[str, Any]) -> None:
    """The child: becomes the command and never returns."""
    status = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(log, sys.stderr.fileno())
        os.dup2(nothing, sys.stdin.fileno())
        os.environ[VARIABLE] = order["fault"]
        from fleetfoot_client.cli import main

        status = main(order["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    import fleetfoot_manager.run  # noqa: F401 - that is what it is here for

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(order)
        print(json.dumps({"pid": pid}), flush=True)
        _, waited = os.waitpid(pid, 0)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(waited)}), flush=True)


class Managers:
    """Starts managers, one at a time, and knows how each ended."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self._zygote = subprocess.Popen(
                [sys.executable, "-m", "tests.end_to_end.zygote"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._pid = 0
        self._status: int | None = None
        self._reader = threading.Thread(target=self._read, name="managers", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if isinstance(said, dict):
                self._said.put(said)
                continue
            # An error is told over many lines; whoever looks for why a manager ended finds it in the log.
            with self.log.open("a") as log:
                log.write(line)
        self._said.put({"ended": -1})

    def start(self, argv: list[str], log: Path, fault: str = "") -> bool:
        """Start `fleetfoot ARGV`; whether it got ready before it ended."""
        assert self._zygote.stdin is not None
        self._status, self._pid = None, 0
        order = {"argv": argv, "fault": fault, "log": str(log)}
        self._zygote.stdin.write(json.dumps(order) + "\n")
        self._zygote.stdin.flush()
        while True:
            said = self._said.get(timeout=60)
            self._note(said)
            if "ended" in said:
                return False
            if "broker" in said:
                return True

    def _note(self, said: dict[str, Any]) -> None:
        self._pid = said.get("pid", self._pid)
        self._status = said.get("ended", self._status)

    @property
    def status(self) -> int | None:
        """How the newest one ended, negative for a signal; None while it runs."""
        while self._status is None and not self._said.empty():
            self._note(self._said.get())
        return self._status

    def end(self, number: signal.Signals) -> int:
        """Send the newest one a signal, if it still runs; returns how it ended."""
        if self._pid and self.status is None:
            os.kill(self._pid, number)
        until(lambda: self.status is not None, "the manager ends", seconds=30)
        assert self._status is not None
        return self._status

    def close(self) -> None:
        """End the newest manager and the zygote."""
        if self._pid and self.status is None:
            self.end(signal.SIGKILL)
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(30)
        self._reader.join(10)
        self._zygote.stdout.close()


if __name__ == "__main__":
    _serve()

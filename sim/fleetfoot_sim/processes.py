"""The demo's own processes: started in sessions of their own, spoken to in lines, ended by their number."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim import tied


class LineProcess:
    """A child of this Python that prints lines and may read commands; its stderr goes to a log file.

    `argv` are the arguments after the interpreter. A session of its own keeps the terminal's Ctrl-C away
    from it: the demo ends its children in order. Where the demo is killed outright, they are told to end.
    """

    def __init__(
        self, name: str, argv: list[str], log: Path, *, on_line: Callable[[str], None] | None = None
    ) -> None:
        self.name = name
        self._log = log.open("ab")
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._on_line = on_line or self._lines.put
        self.process = subprocess.Popen(
            [sys.executable, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            start_new_session=True,
            preexec_fn=tied.to_me(),
        )
        self._reader = threading.Thread(target=self._read, name=f"read-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self._on_line(line.rstrip("\n"))
        self._lines.put(None)

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next line, as a JSON object. FleetfootError if none comes."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise FleetfootError("timeout", f"{self.name} did not answer within {seconds:g} s") from None
        if line is None:
            raise FleetfootError("io_error", f"{self.name} ended", remedy=f"read {self._log.name}")
        value = json.loads(line)
        if not isinstance(value, dict):
            raise FleetfootError("io_error", f"{self.name} says {line[:100]!a}")
        return value

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        """Send a command and wait for its answer; FleetfootError if it was not done."""
        self.send(line)
        return self.done(seconds)

    def send(self, line: str) -> None:
        """Send a command; its answer comes by `done`."""
        if self.process.stdin is not None:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def done(self, seconds: float) -> dict[str, Any]:
        """The answer to a command; FleetfootError if it was not done."""
        answer = self.answer(seconds)
        if not answer.get("done"):
            raise FleetfootError(
                "io_error", f"{self.name}: {answer.get('failed')}", remedy=f"read {self._log.name}"
            )
        return answer

    def close(self, seconds: float = 30.0) -> None:
        """End it: its input ends, then SIGTERM, then SIGKILL for it and what it started."""
        if self.process.poll() is None:
            if self.process.stdin is not None:
                self.process.stdin.close()
            self._end(seconds)
        self._reader.join(5)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self._log.close()

    def _end(self, seconds: float) -> None:
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

"""A supervisor's claim on its component: that it is the only one, and what the next one must know if it is
killed.

In the run folder, `<component>.lock` is held as long as the supervisor lives; the record `<component>.pid`
lets the next one find and end what a killed one left. Who leaves the process group and drops the mark in the
environment as well is not found.
"""

import fcntl
import logging
import os
from pathlib import Path

from fleetfoot_agent.child import Child, Record, boot_id, end_left_over, process_facts
from fleetfoot_agent.components import Component
from fleetfoot_protocol.errors import FleetfootError

_log = logging.getLogger(__name__)


class Claim:
    """`take` it, `clear_left_over`, `remember` each process, `close` it. `mark` is in their environment."""

    def __init__(self, component: Component, run_dir: Path) -> None:
        self.mark = os.urandom(16).hex()
        self._component = component
        self._lock_path = run_dir / f"{component.name}.lock"
        self._record_path = run_dir / f"{component.name}.pid"
        self._lock = -1

    def take(self) -> None:
        """Take the lock; `FleetfootError` if another supervisor has it."""
        fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise FleetfootError(
                "supervisor_failed",
                f"{self._component.name} has a supervisor already, which holds {self._lock_path}",
                remedy="stop the other supervisor of this component first",
            ) from error
        self._lock = fd

    def clear_left_over(self) -> None:
        """What a killed supervisor has left: its processes and its socket. Both are nobody's: we hold the
        lock. From here on the record names us, also for a process that we had no time to record."""
        if record := Record.read(self._record_path):
            for pid in end_left_over(record):
                _log.warning("%s: ended process %d of a killed supervisor", self._component.name, pid)
        Record(boot_id(), self.mark, 0, 0).write(self._record_path)
        if self._component.socket.is_socket():
            self._component.socket.unlink()

    def remember(self, child: Child) -> None:
        """Record the component's process."""
        facts = process_facts(child.pid)
        try:
            started = facts[2] if facts else 0
            Record(boot_id(), self.mark, child.pid, started).write(self._record_path)
        except OSError as error:
            # The mark stands in the record since the beginning: it still finds the process.
            _log.warning("%s: cannot record process %d: %s", self._component.name, child.pid, error)

    def end_marked(self) -> None:
        """End whoever carries our mark."""
        end_left_over(Record(boot_id(), self.mark, 0, 0))

    def give_back(self) -> None:
        """Let go of the lock; the record stays for the next one."""
        os.close(self._lock)

    def close(self) -> None:
        """Nothing was left: no record is needed."""
        self._record_path.unlink(missing_ok=True)
        self.give_back()

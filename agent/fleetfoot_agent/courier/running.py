"""Waking the worker, and in child mode running it (contract section 6, rules 12 to 15)."""

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fleetfoot_agent.spool import wake, wake_pending

if TYPE_CHECKING:
    from subprocess import Popen

log = logging.getLogger(__name__)


class Waker:
    """Creates wake/now, at most once in `interval` seconds. A wake that must wait is not lost."""

    def __init__(self, wake_dir: Path, interval: float) -> None:
        self._wake_dir = wake_dir
        self._interval = interval
        self._wanted = ""
        self._not_before = float("-inf")

    def request(self, reason: str) -> None:
        """Something happened that the worker should see; `step` does the rest."""
        self._wanted = self._wanted or reason

    def step(self, now: float) -> float:
        """Create the wake if one is wanted and allowed. Returns when to be called again."""
        if not self._wanted:
            return float("inf")
        # A run takes the wake away before it reads: one that nobody has taken covers this wish too.
        if not wake_pending(self._wake_dir):
            if now < self._not_before:
                return self._not_before
            self._not_before = now + self._interval
            try:
                wake(self._wake_dir)
            except OSError as error:
                log.error("event=wake_failed folder=%s error=%a", self._wake_dir, error)
                return self._not_before
            log.debug("event=wake reason=%s", self._wanted)
        self._wanted = ""
        return float("inf")


class WorkerFailed(Exception):
    """The worker ended with an exit code other than 0, or by a signal (negative)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the worker ended with {code}")
        self.code = code


class ChildWorker:
    """The worker as a child process: calling it is one run. No privilege split, as it says when made."""

    def __init__(
        self, config: Path, *, grace: float, command: Sequence[str] | None = None, options: Sequence[str] = ()
    ) -> None:
        given = [word for option in options for word in ("--set", option)]
        default = (sys.executable, "-m", "fleetfoot_agent", "worker", "--config", str(config), *given)
        self._command = tuple(command or default)
        self._grace = grace
        self._lock = threading.Lock()
        self._process: Popen[bytes] | None = None
        self._stopped = False
        log.info("event=child_mode note='the worker runs as a child: there is no privilege split'")

    def __call__(self) -> None:
        """Run the worker to its end. WorkerFailed if it does not end with 0; OSError if it cannot start."""
        from subprocess import DEVNULL, Popen  # under systemd nobody pays for it

        with self._lock:
            if self._stopped:
                return
            self._process = process = Popen(self._command, stdin=DEVNULL)
        code = process.wait()
        with self._lock:
            self._process = None
            if code != 0 and not self._stopped:
                raise WorkerFailed(code)

    def stop(self) -> None:
        """End the running worker, if any, and start none any more: SIGTERM, after the grace SIGKILL.

        It may be killed: it goes on from its journal.
        """
        from subprocess import TimeoutExpired

        with self._lock:
            self._stopped = True
            process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._grace)
        except TimeoutExpired:
            process.kill()


class WorkerRunner:
    """Runs the worker, one run at a time, each on a thread, whenever wake/now is there.

    run: one blocking run, an exception is a failure; stop: makes a running one end; pause: seconds after a
    failure; interval: least seconds between two starts; ended: called on the run's thread at its end.
    """

    def __init__(
        self,
        run: Callable[[], None],
        stop: Callable[[], None] | None,
        wake_dir: Path,
        *,
        pause: float,
        interval: float,
        ended: Callable[[], None],
    ) -> None:
        self._run = run
        self._stop = stop
        self._wake_dir = wake_dir
        self._pause = pause
        self._interval = interval
        self._ended = ended
        self._thread: threading.Thread | None = None
        self._done = False
        self._failed = False
        self._not_before = float("-inf")

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._thread is not None

    def step(self, now: float) -> float:
        """Start a run if one is due, take notice of one that ended. Returns when to be called again.

        The wake is looked at after each end, so one that came during a run is never lost.
        """
        if self._thread is not None:
            if not self._done:
                return float("inf")
            self._thread.join()
            self._thread = None
            if self._failed:
                self._not_before = max(self._not_before, now + self._pause)
        if not (self._failed or wake_pending(self._wake_dir)):
            return float("inf")
        if now < self._not_before:
            return self._not_before
        self._not_before = now + self._interval
        self._done = self._failed = False
        self._thread = threading.Thread(target=self._one_run, name="courier-worker", daemon=True)
        self._thread.start()
        return float("inf")

    def finish(self, timeout: float) -> None:
        """Make a running worker end and wait for it."""
        if self._thread is None:
            return
        if self._stop is not None:
            self._stop()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.error("event=worker_does_not_end waited=%.0f", timeout)
        else:
            self._thread = None

    def _one_run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._failed = True
            log.error("event=worker_failed error=%a", error)
        finally:
            self._done = True
            self._ended()

"""Stands in for systemd where there is none: containers, laptops, the demo.

One `Supervisor` keeps one component running, in one thread of its own, without signals or global state, so
that one process can host many. Before every start it runs the very guard script that systemd runs, and
only then resolves `current`. A process that ends unasked, with whatever status, is started again.

What belongs to a component is its process group, and whoever carries its mark in the environment: stopping
sends SIGTERM to the group, and SIGKILL to all that is left when the first process has ended or the grace is
over. A supervisor that was killed itself cannot do that; its claim on the component lets the next one find
and end what was left.
"""

import atexit
import logging
import os
import selectors
import signal
import threading
import time
from collections import deque
from pathlib import Path

from fleetfoot_agent import durable, launching, saved
from fleetfoot_agent.child import Child, bound_log
from fleetfoot_agent.claim import Claim
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import SOCKET_NAME_MAX, Client, ControlSocket, ReadySocket, UnitState, guard_path
from fleetfoot_agent.settings import ConfigError
from fleetfoot_protocol.errors import FleetfootError

#: Seconds for the guard, whose time is that of the disk.
GUARD_SECONDS = 60.0
#: Seconds: the longest pause between starts, and the time up after which pauses begin small again.
BACKOFF_MAX = 60.0
#: Seconds: how often the log is looked at; how often a child on kernels that cannot tell of its end.
_LOG_TICK = 2.0
_CHILD_TICK = 0.05

_log = logging.getLogger(__name__)


def pause_before(delay: float, failures: int) -> float:
    """Seconds before the next start after so many failures in a row: `delay`, doubling up to a minute."""
    return min(delay * 2.0 ** min(failures, 16), max(delay, BACKOFF_MAX))


class Supervisor:
    """Keeps the component in `folder` running from `start` to `stop`.

    guard: the guard script. log: where the output of component and guard goes, by default `<folder>/log`.
    grace: seconds between SIGTERM and SIGKILL, by default the component's. run_dir: for lock and record, by
    default the folder of the socket. wake_dir: if given, the worker is woken when the component dies.
    """

    def __init__(
        self,
        folder: Path,
        component: Component,
        guard: Path,
        *,
        log: Path | None = None,
        grace: float | None = None,
        run_dir: Path | None = None,
        wake_dir: Path | None = None,
    ) -> None:
        folder = folder.absolute()
        self._layout = Layout(folder.parent, folder.name)
        self._component = component
        self._guard = guard
        self._log_path = log or folder / "log"
        self._grace = component.stop_timeout if grace is None else grace
        self._run_dir = run_dir or component.socket.parent
        self._wake_dir = wake_dir
        self._claim = Claim(component, self._run_dir)
        self._thread: threading.Thread | None = None
        self._quit = False
        self._queue: deque[tuple[str, Client]] = deque()
        self._child: Child | None = None
        self._target: str | None = None
        self._since = time.time()
        self._starts = 0  # since the last restart that was asked for
        self._failures = 0  # deaths in a row, which lengthen the pause
        self._wanted = True  # until somebody asks to stop
        self._start_at: float | None = None
        self._ready: ReadySocket | None = None

    # -- for the host

    def start(self) -> None:
        """Begin: end what a killed supervisor left, open the socket, start the component.

        Raises `ConfigError` for a socket that cannot be, `FleetfootError` if the component is
        supervised already, `OSError` where the run folder fails.
        """
        path = self._component.socket
        if len(os.fsencode(path.name)) > SOCKET_NAME_MAX:
            raise ConfigError(
                f"components.{self._component.name}.socket: its file name has {len(os.fsencode(path.name))} "
                f"bytes, at most {SOCKET_NAME_MAX} are possible: {path}"
            )
        for needed in (self._run_dir, path.parent):
            durable.make_folder(needed)
        self._quit, self._wanted = False, True
        self._claim.take()
        self._selector = selectors.DefaultSelector()
        try:
            self._claim.clear_left_over()
            self._control = ControlSocket(path, self._selector, self._request)
            self._ready = ReadySocket(self._selector) if self._component.notify else None
        except BaseException:
            self._selector.close()
            self._claim.give_back()
            raise
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._bell, selectors.EVENT_READ, lambda: os.eventfd_read(self._bell))
        self._start_at = time.monotonic()
        # Daemon and atexit: a host that ends in an error does not hang, and still leaves no process.
        self._thread = threading.Thread(target=self._run, name=f"supervise-{path.name}", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def begin_stop(self) -> None:
        """Ask it to stop, without waiting; for hosts of many."""
        if self._thread is not None:
            self._quit = True
            os.eventfd_write(self._bell, 1)

    def stop(self) -> None:
        """Stop the component and everything else of this supervisor; returns when it is gone."""
        if self._thread is None:
            return
        self.begin_stop()
        self._thread.join()
        self._thread = None
        os.close(self._bell)
        atexit.unregister(self.stop)

    # -- the thread

    def _run(self) -> None:
        while not self._quit:
            try:
                self._step()
            except Exception:  # whatever it is, the component must stay supervised; and this must not spin
                _log.exception("%s: the supervisor met an error", self._component.name)
                time.sleep(1.0)
                if self._wanted and self._child is None and self._start_at is None:
                    self._start_at = time.monotonic()
        self._stop_child()
        for _, client in self._queue:
            client.refuse("the supervisor is stopping")
        self._queue.clear()
        self._control.close()
        if self._ready is not None:
            self._ready.close()
        self._selector.close()
        self._claim.close()

    def _step(self) -> None:
        self._wait(self._pause())
        if self._child is not None and self._child.has_ended():
            self._died(self._child)
        while self._queue and not self._quit:
            self._act(*self._queue.popleft())
        if self._start_at is not None and time.monotonic() >= self._start_at and not self._quit:
            self._start_child()
        bound_log(self._log_path)

    def _pause(self) -> float | None:
        """Seconds until something is due; None if nothing is."""
        due = [] if self._start_at is None else [max(0.0, self._start_at - time.monotonic())]
        if self._child is not None:
            due.append(_LOG_TICK if self._child.pidfd is not None else _CHILD_TICK)
        return min(due, default=None)

    def _wait(self, seconds: float | None) -> None:
        """Serve the socket for so long, or until something happens. Questions are answered at once, also
        while a process is being stopped; what is to be done is queued."""
        due = [limit for limit in (seconds, self._control.expire()) if limit is not None]
        for key, _ in self._selector.select(min(due, default=None)):
            key.data()

    def _request(self, verb: str, client: Client) -> None:
        if verb == "state":
            client.answer(self._state())
        else:
            self._queue.append((verb, client))

    def _state(self) -> UnitState:
        active = self._child is not None
        pid = self._child.pid if self._child else None
        ready = active and (self._ready is None or self._ready.said)
        return UnitState(active, ready, pid, max(0, self._starts - 1), self._since, self._target)

    def _act(self, verb: str, client: Client) -> None:
        self._wanted = verb != "stop"
        try:
            if verb in ("stop", "restart"):
                self._stop_child()
                self._start_at = None
            if verb == "restart" or (verb == "start" and self._child is None):
                self._starts = 0
                self._failures = 0
                self._start_child()
        except BaseException:
            client.refuse("the supervisor met an error")
            raise
        client.answer(self._state())

    # -- one life of the component

    def _start_child(self) -> None:
        self._start_at = None
        output = launching.open_log(self._log_path, self._component.name)
        try:
            self._run_guard(output)
            if not os.path.lexists(self._layout.current):
                if self._failures == 0:
                    _log.info("%s: nothing is installed yet, waiting", self._component.name)
                self._target = None
                self._start_later()  # nothing is installed yet: no start, so none is counted
                return
            self._starts += 1
            self._target = os.readlink(self._layout.current)
            if saved.put_back(self._layout.folder, self._target):  # it starts with its own state again
                _log.info("%s: put back what was set aside for %s", self._component.name, self._target)
            program = launching.program_of(self._layout, self._target)
            self._child = launching.launch(program, self._component, self._claim.mark, output, self._expect())
        except (OSError, ValueError, FleetfootError) as error:
            _log.warning("%s: cannot start: %s", self._component.name, error)
            self._start_later()
            return
        finally:
            os.close(output)
        self._since = time.time()
        self._watch(self._child)
        self._claim.remember(self._child)
        _log.info("%s: started %s as %d", self._component.name, self._target, self._child.pid)

    def _expect(self) -> str | None:
        """Where the process about to be started shall say that it is ready; None if it need not."""
        if self._ready is None:
            return None
        self._ready.said = False
        return self._ready.address

    def _run_guard(self, output: int) -> None:
        """Run the guard to its end. That it cannot run must not keep the component from starting."""
        command = ["/bin/sh", str(self._guard), str(self._layout.folder)]
        try:
            guard = Child(command, Path("/"), launching.base_environment(), output)
        except OSError as error:
            _log.error("%s: the guard cannot run: %s", self._component.name, error)
            return
        self._watch(guard)
        self._await_end(guard, GUARD_SECONDS)
        if not guard.has_ended():
            _log.error("%s: the guard did not end within %g s", self._component.name, GUARD_SECONDS)
        self._reap(guard)

    def _died(self, child: Child) -> None:
        up = time.monotonic() - child.started
        status = self._bury(child)
        _log.warning("%s: %s ended by itself with %d", self._component.name, self._target, status)
        if up >= BACKOFF_MAX:
            self._failures = 0
        self._start_later()
        # On trial that it is judged, else that it is reported: then the pauses grow, and wakes are rare.
        if self._wake_dir is not None:
            try:
                now = self._wake_dir / "now"
                os.close(os.open(now, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
            except OSError as error:
                _log.warning("%s: cannot wake the worker: %s", self._component.name, error)

    def _start_later(self) -> None:
        """Plan the next start. On trial the guard bounds the number of starts, so the pause stays what it
        is; otherwise nothing does, so it doubles."""
        delay = self._component.restart_delay
        if not self._on_trial():
            delay = pause_before(delay, self._failures)
            self._failures += 1
        self._start_at = time.monotonic() + delay

    def _on_trial(self) -> bool:
        try:
            return self._layout.read_trial() is not None
        except OSError:
            return False

    def _stop_child(self) -> None:
        if self._child is None:
            return
        self._child.signal(signal.SIGTERM)
        self._await_end(self._child, self._grace)
        self._bury(self._child)

    def _bury(self, child: Child) -> int:
        status = self._reap(child)
        self._child = None
        self._since = time.time()
        self._claim.end_marked()  # who left the group
        return status

    # -- any child, the guard too

    def _watch(self, child: Child) -> None:
        if child.pidfd is not None:
            self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: None)

    def _await_end(self, child: Child, seconds: float) -> None:
        """Serve the socket until the first process of `child` has ended, at most for `seconds`."""
        deadline = time.monotonic() + seconds
        while not child.has_ended() and (left := deadline - time.monotonic()) > 0:
            self._wait(left if child.pidfd is not None else min(left, _CHILD_TICK))

    def _reap(self, child: Child) -> int:
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
        return child.finish()


def run_forever(config: AgentConfig) -> int:
    """Supervise all components of the device until SIGTERM, SIGINT or SIGHUP; for the main thread. Returns 0.

    Raises what `Supervisor.start` raises, after stopping what was started.
    """
    guard = guard_path()
    supervisors = [
        Supervisor(config.install_root / name, component, guard, wake_dir=config.wake_dir)
        for name, component in config.components.items()
        if component.unit is None  # else systemd does
    ]
    heard, told = os.pipe2(os.O_CLOEXEC)
    before = {
        number: signal.signal(number, lambda *_: os.write(told, b"."))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        for supervisor in supervisors:
            supervisor.start()
        os.read(heard, 1)
    finally:
        for supervisor in supervisors:
            supervisor.begin_stop()
        for supervisor in supervisors:
            supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(heard)
        os.close(told)
    return 0

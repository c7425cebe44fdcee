"""One run of the worker: read everything, act, tell, and go (contract section 6, rules 14 to 18).

The worker is not resident. It exits when it can only wait; whoever has news wakes it. While a component
is being activated, proves itself or goes back, it stays and looks again every moment.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

from fleetfoot_agent import selfupgrade
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.seam import Seam, SocketSeam
from fleetfoot_agent.spool import WorkerSide, take_wake, wake, wake_pending
from fleetfoot_agent.systemd import unit_seam
from fleetfoot_agent.worker import platform_facts
from fleetfoot_agent.worker.lock import Lock
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.report import Reporter
from fleetfoot_agent.worker.session import Session
from fleetfoot_protocol.codes import Code

log = logging.getLogger(__name__)

#: Seconds between two looks while something is in flight.
LOOK_SECONDS = 0.25
#: Most seconds of rest after a wake that brought nothing.
REST_CAP = 60


def seam_of(config: AgentConfig, component: Component) -> Seam:
    """What keeps a component running: its systemd unit, else the supervisor at its socket."""
    inner = unit_seam(component) or SocketSeam(component.socket)
    if component.name != selfupgrade.COMPONENT:
        return inner
    mark = config.worker_dir / "contact-demanded"
    return selfupgrade.AgentSeam(inner, WorkerSide(config.spool), mark, platform_facts.boot_id())


class Worker:
    """The worker of one device. `run` is one run; the object may be thrown away afterwards."""

    def __init__(self, config: AgentConfig, *, seam: Callable[[Component], Seam] | None = None) -> None:
        self._config = config
        self._seam = seam or partial(seam_of, config)
        self._stopping = False

    def stop(self) -> None:
        """Ask a run in another thread to end soon; what is in flight goes on with the next run."""
        self._stopping = True

    def run(self) -> int:
        """Run until there is nothing left to do but wait. Returns the exit status: 0."""
        lock = Lock(self._config)
        try:
            if not lock.take():
                log.info("another worker runs: leaving")
                return 0
            self._run()
        finally:
            lock.close()
        return 0

    def _run(self) -> None:
        config = self._config
        take_wake(config.wake_dir)
        memory = Memory(config.worker_dir)
        spool = WorkerSide(config.spool)
        reporter = Reporter(config, memory, spool)
        if memory.root_ignored:
            reporter.alarm(Code.UPGRADE_ROOT_REFUSED, memory.root_ignored)
        session = Session(config, memory, spool, reporter, self._seam)
        fruitless = 0
        while not self._stopping:
            fruitless = 0 if session.turn() else fruitless + 1
            if session.hands_over:
                log.info("another version of the agent goes on from here")
                wake(config.wake_dir)
                break
            if take_wake(config.wake_dir):
                # Woken without reason again and again: rule 14, so that nobody can keep the device busy.
                self._rest(min(REST_CAP, 2 ** (fruitless - 1)) if fruitless > 1 else 0)
                continue
            if not session.in_flight:
                break
            self._wait(LOOK_SECONDS)

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and not wake_pending(self._config.wake_dir):
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.05))

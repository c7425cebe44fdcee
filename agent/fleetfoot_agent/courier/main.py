"""The courier as a process: `python -m fleetfoot_agent.courier`, and `run` for the agent's command."""

import fcntl
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from fleetfoot_agent import config as configuration
from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.courier import lean
from fleetfoot_protocol.errors import FleetfootError

lean.load_paho()

from fleetfoot_agent.courier.courier import Courier  # noqa: E402
from fleetfoot_agent.courier.running import ChildWorker  # noqa: E402
from fleetfoot_agent.courier.tuning import Tuning  # noqa: E402

log = logging.getLogger(__name__)


def run(config: AgentConfig, child_mode: bool, tuning: Tuning | None = None) -> int:
    """Carry in this process until SIGTERM or SIGINT. Returns an exit code.

    child_mode: run the worker as a child (contract section 6, rule 15); else systemd runs it.
    """
    tuning = tuning or Tuning()
    lock = _lock(config.spool / "in")
    worker = None
    if child_mode:
        worker = ChildWorker(config.path, grace=tuning.worker_stop, options=config.options)
    courier = Courier(
        config, start_worker=worker, stop_worker=None if worker is None else worker.stop, tuning=tuning
    )

    def end(_number: int, _frame: FrameType | None) -> None:
        courier.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    log.info("event=started device=%s group=%s child_mode=%s", config.device, config.group, child_mode)
    courier.run()
    log.info("event=stopped device=%s", config.device)
    os.close(lock)
    return 0


def _lock(folder: Path) -> int:
    """The one writer's lock of a folder (contract section 6, rule 1): held while the descriptor is open.

    FleetfootError `conflict` if another courier has it: the two would take the session from each other.
    """
    durable.make_folder(folder)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise FleetfootError(
            "conflict",
            f"another courier works in {folder}",
            remedy="stop that one first: a device has one 'fleetfoot-agent run' or 'courier'",
        ) from error
    return lock


def main(argv: Sequence[str] | None = None) -> int:
    """Options: --config PATH, --child (run the worker as a child), --debug. 2 for a wrong one."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m fleetfoot_agent.courier", description="The half of the agent that has a network."
    )
    parser.add_argument("--config", type=Path, default=configuration.DEFAULT_CONFIG, metavar="PATH")
    parser.add_argument("--child", action="store_true", help="run the worker as a child process")
    parser.add_argument("--debug", action="store_true", help="log everything")
    options = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.INFO, format="%(levelname)s %(name)s %(message)s"
    )
    try:
        return run(configuration.load(options.config), options.child)
    except FleetfootError as error:
        print(f"{error}\n{error.remedy}", file=sys.stderr)
        return 2 if error.code == "config_invalid" else 1
    except OSError as error:
        print(f"the spool cannot be used: {error}", file=sys.stderr)
        return 1

"""Many devices in one process: ``python -m fleetfoot_sim.host SPEC`` with commands on standard input.

SPEC is a JSON file with `configs`, the paths of the devices' agent.toml. Commands, a line each:
``install BUNDLE``, ``connect``, ``disconnect``; each is answered by a line of JSON. When standard input
ends, however that came about and whatever is being done, every component is stopped and the process ends.
SIGTERM is not obeyed: it would come in the midst of that, and leave components behind that nobody knows of.
"""

import json
import logging
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from fleetfoot_agent import config as configuration
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim.devices import Device, HostedDevice

#: So many devices are worked on at the same time while they are installed by hand.
_AT_ONCE = 16
#: Seconds for a command that is being obeyed to notice that its devices are off.
_PATIENCE = 10.0


def _each(devices: Iterable[HostedDevice], act: Callable[[HostedDevice], Any]) -> dict[str, Any]:
    """Do it to every device; which ones failed, and why."""
    failed: dict[str, str] = {}

    def attempt(device: HostedDevice) -> None:
        try:
            act(device)
        except FleetfootError as error:
            failed[device.device.id] = str(error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(attempt, devices))
    return {"done": not failed, "failed": failed}


def main(arguments: list[str]) -> int:
    """Host the devices until standard input ends. Returns 0."""
    # A handler, not SIG_IGN: what is ignored here would be ignored by every component as well.
    signal.signal(signal.SIGTERM, lambda *_: None)
    logging.basicConfig(level="INFO", stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    spec = json.loads(Path(arguments[0]).read_text("utf-8"))
    configs = [configuration.load(Path(path)) for path in spec["configs"]]
    devices = [HostedDevice(Device(config, "")) for config in configs]
    commands: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # what `install` tells a person belongs into the log here
        _answer(answers, _each(devices, HostedDevice.power_on))
        obeying = threading.Thread(target=_obey_all, args=(devices, commands, answers), daemon=True)
        obeying.start()
        try:
            for line in sys.stdin:
                commands.put(line.strip())
        finally:
            commands.put(None)
            # Without supervisors what is still being done fails; and then nobody starts anything any more.
            _each(devices, HostedDevice.power_off)
            obeying.join(_PATIENCE)
            _each(devices, HostedDevice.power_off)
    return 0


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # then whoever asked has gone, and standard input ends too
        answers.write(json.dumps(value) + "\n")
        answers.flush()


def _obey_all(
    devices: list[HostedDevice], commands: "queue.SimpleQueue[str | None]", answers: TextIO
) -> None:
    while (line := commands.get()) is not None:
        _answer(answers, _obey(devices, line))


def _obey(devices: list[HostedDevice], line: str) -> dict[str, Any]:
    command, _, argument = line.partition(" ")
    if command == "install":
        return _each(devices, lambda device: device.install(Path(argument)))
    if command == "connect":
        return _each(devices, HostedDevice.connect)
    if command == "disconnect":
        return _each(devices, HostedDevice.disconnect)
    return {"done": False, "failed": {"": f"unknown command {command!a}"}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

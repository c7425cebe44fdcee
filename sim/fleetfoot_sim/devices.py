"""Devices for demo and tests: real agents, in processes of their own or many in one process."""

import json
import random
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_agent import config as configuration
from fleetfoot_agent import durable
from fleetfoot_agent.bundle import Bundle
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.courier.courier import Courier
from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_agent.seam import guard_path
from fleetfoot_agent.supervise import Supervisor
from fleetfoot_agent.worker import memory
from fleetfoot_agent.worker.by_hand import install
from fleetfoot_agent.worker.run import Worker
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim import kiosk, tied

#: A fleet on loopback reconnects sooner than one on the internet may.
LOOPBACK_TUNING = Tuning(reconnect_cap=2.0, reconnect_base=0.2, worker_restart=1.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that a device grants a new version to prove itself, and between its starts."""

    window: float = 2.0
    settle: float = 0.5
    restart_delay: float = 0.1


def _first_ephemeral() -> int:
    """Where the ports begin that the kernel gives to whoever connects without choosing one."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError):
        return 32768


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now, for listeners that will come later.

    They lie below the ephemeral ones: else any connection made meanwhile could be given one of them.
    All are held at once, so that they differ.
    """
    candidates = range(10240, max(_first_ephemeral(), 11264))
    with ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(candidates, len(candidates)):
            if len(ports) == count:
                return ports
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    raise FleetfootError("io_error", f"there are no {count} free ports on loopback")


def _toml(
    folder: Path, device: str, group: str, broker: str, port: int, pace: Pace, labels: dict[str, str]
) -> str:
    quoted = json.dumps
    pairs = ", ".join(f"{quoted(k)} = {quoted(v)}" for k, v in labels.items())
    return f"""\
[agent]
device = {quoted(device)}
group = {quoted(group)}
labels = {{{pairs}}}
state_dir = {quoted(str(folder / "state"))}
run_dir = {quoted(str(folder / "run"))}
install_root = {quoted(str(folder / "opt"))}

[broker]
url = {quoted(broker)}
keepalive = 10

[upgrade]
enabled = true

[components.{kiosk.COMPONENT}]
window = {pace.window}
settle = {pace.settle}
restart_delay = {pace.restart_delay}
checks = [{{kind = "http", url = "http://127.0.0.1:{port}/health", timeout = 2}}]
environment = {{PORT = "{port}"}}
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that is set up and not yet running: its configuration and its public key (hex)."""

    config: AgentConfig
    public: str

    @property
    def id(self) -> str:
        return self.config.device

    @property
    def group(self) -> str:
        return self.config.group


def set_up(
    folder: Path,
    device: str,
    group: str,
    broker: str,
    root: bytes,
    port: int,
    *,
    pace: Pace | None = None,
    labels: dict[str, str] | None = None,
) -> Device:
    """Make a device below `folder` as `fleetfoot-agent init` does: key, trust root, configuration.

    `root` is the envelope of the trust root, `port` where its kiosk will answer.
    """
    path = folder / "agent.toml"
    text = _toml(folder, device, group, broker, port, pace or Pace(), labels or {})
    config = configuration.parse(text, path)
    durable.make_folder(config.worker_dir, 0o700)
    key = memory.make_key(config.worker_dir / "device.key")
    durable.write_file(config.worker_dir / "root.json", root, 0o600)
    durable.write_file(path, text.encode())
    return Device(config, key.public.hex())


class HostedDevice:
    """Courier, worker and supervisor of a device in threads of this process; the component is a process."""

    def __init__(self, device: Device, *, tuning: Tuning = LOOPBACK_TUNING) -> None:
        self.device = device
        self._tuning = tuning
        self._worker: Worker | None = None
        self._courier: Courier | None = None
        component = device.config.components[kiosk.COMPONENT]
        self._supervisor = Supervisor(
            device.config.install_root / kiosk.COMPONENT,
            component,
            guard_path(),
            wake_dir=device.config.wake_dir,
        )

    def power_on(self) -> None:
        """Start the supervisor; the courier comes with `connect`."""
        self._supervisor.start()

    def install(self, bundle: Path) -> int:
        """Put a release on by hand."""
        return install(self.device.config, Bundle(bundle, bundle))

    def connect(self) -> None:
        """Start the courier, which runs the worker whenever it is needed."""
        self._courier = Courier(
            self.device.config,
            start_worker=self._run_worker,
            stop_worker=self._stop_worker,
            tuning=self._tuning,
        )
        self._courier.start()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the courier."""
        return self._courier is not None and self._courier.connected

    def disconnect(self) -> None:
        """Stop the courier and the worker; what the supervisor runs goes on."""
        if self._courier is not None:
            self._courier.stop()
            self._courier = None

    def power_off(self) -> None:
        """Stop everything, the component too."""
        self.disconnect()
        self._supervisor.stop()

    def _run_worker(self) -> None:
        self._worker = Worker(self.device.config)
        if status := self._worker.run():
            raise FleetfootError("io_error", f"the worker of {self.device.id} ended with {status}")

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()


class ProcessDevice:
    """The same device as the processes a real host has: `fleetfoot-agent supervise` and `run`."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._log = (device.config.path.parent / "agent.log").open("ab")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _start(self, command: str, *arguments: str) -> "subprocess.Popen[bytes]":
        options = ["--config", str(self.device.config.path), *arguments]
        process = subprocess.Popen(
            [sys.executable, "-m", "fleetfoot_agent", command, *options],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=tied.to_me(),
        )
        self._processes[command] = process
        return process

    def power_on(self) -> None:
        """Start the supervisor."""
        self._start("supervise")

    def install(self, bundle: Path) -> int:
        """Put a release on by hand, as a person at the device would; returns its exit code."""
        return self._start("install", str(bundle)).wait()

    def connect(self) -> None:
        """Start the courier, which starts the worker as its child."""
        self._start("run")

    def pid(self, command: str) -> int:
        """The process of `supervise` or `run`."""
        return self._processes[command].pid

    def _end(self, command: str) -> None:
        process = self._processes.pop(command, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def disconnect(self) -> None:
        """Stop the courier and the worker."""
        self._end("run")

    def power_off(self) -> None:
        """Stop everything."""
        self._end("install")
        self.disconnect()
        self._end("supervise")
        self._log.close()

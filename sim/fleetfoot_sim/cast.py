"""Who takes part in the demo: broker and manager, devices, and the watcher, as processes that end with it."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from fleetfoot_client.session import Session
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import Device, Pace, ProcessDevice, free_ports, set_up
from fleetfoot_sim.interrupts import Interrupts
from fleetfoot_sim.processes import LineProcess
from fleetfoot_sim.scene import BAD, FIRST, GOOD, Scene

GROUPS = ("kitchens", "lobbies")
#: Devices that are processes of their own; the others share `HOSTS` processes.
PROCESSES = 5
HOSTS = 2
ENROLL_AT_ONCE = 100

_FLEETFOOT = ["-c", "import sys; from fleetfoot_client.cli import main; sys.exit(main())"]

T = TypeVar("T")


class Cast:
    """Everybody, ended together by `close`. `speed` divides every waiting time; `sabotage`: for tests."""

    def __init__(self, interrupts: Interrupts, *, speed: float, sabotage: str | None) -> None:
        self._interrupts = interrupts
        self._speed = speed
        self._sabotage = sabotage
        self._stack = ExitStack()
        self._hosts: list[LineProcess] = []
        self._own: list[ProcessDevice] = []

    def started_with_it(self, start: Callable[[], T], end: Callable[[T], object]) -> T:
        """Start something that ends with the demo, at whatever moment somebody interrupts it."""
        with self._interrupts.held():
            started = start()
            self._stack.callback(end, started)
        return started

    def close(self) -> None:
        """End everything that was started."""
        with self._interrupts.held():
            self._stack.close()

    def _line_process(
        self, name: str, argv: list[str], log: Path, *, on_line: Callable[[str], None] | None = None
    ) -> LineProcess:
        return self.started_with_it(partial(LineProcess, name, argv, log, on_line=on_line), LineProcess.close)

    def start_manager(self, scene: Scene) -> str:
        """Broker and manager in one; where the broker listens."""
        broken = self._sabotage == "breaker"
        argv = ["-m", "fleetfoot_sim.sabotage", "manager"] if broken else [*_FLEETFOOT, "manager"]
        listening = ["--listen", "127.0.0.1:0", "--artifacts", "127.0.0.1:0", "--json"]
        command = ["run", "--dir", str(scene.manager), "--root", str(scene.root), *listening]
        manager = self._line_process("manager", [*argv, *command], scene.logs / "manager.log")
        return str(manager.answer(30)["broker"])

    def set_up(self, scene: Scene, broker: str, count: int) -> list[Device]:
        """Folders, keys and configurations of so many devices."""
        speed = self._speed
        pace = Pace(window=max(0.5, 2.0 / speed), settle=0.5 / speed, restart_delay=0.1)
        root = scene.root.read_bytes()
        devices = []
        for number, port in enumerate(free_ports(count), start=1):
            name = f"dev-{number:03d}"
            group = GROUPS[number % len(GROUPS)]
            folder = scene.folder / "devices" / name
            device = set_up(folder, name, group, f"mqtt://{broker}", root, port, pace=pace)
            devices.append(device)
        return devices

    def start_devices(self, scene: Scene, devices: list[Device]) -> None:
        """A few as processes of their own, the others in two."""
        own = 0 if self._sabotage else min(PROCESSES, len(devices))
        for device in devices[:own]:
            process = self.started_with_it(partial(ProcessDevice, device), ProcessDevice.power_off)
            with self._interrupts.held():
                process.power_on()
            self._own.append(process)
        shared = devices[own:]
        module = "fleetfoot_sim.sabotage" if self._sabotage == "probation" else "fleetfoot_sim.host"
        for number in range(min(HOSTS, len(shared))):
            spec = scene.folder / f"host-{number}.json"
            spec.write_text(json.dumps({"configs": [str(d.config.path) for d in shared[number::HOSTS]]}))
            argv = ["-m", module, *(["host"] if module.endswith("sabotage") else []), str(spec)]
            self._hosts.append(self._line_process(f"host-{number}", argv, scene.logs / f"host-{number}.log"))
        for host in self._hosts:
            host.done(30)

    def install_first(self, scene: Scene) -> None:
        """The first version, by hand, on all of them. FleetfootError if one does not take it."""
        for host in self._hosts:
            host.send(f"install {scene.bundle(FIRST)}")
        statuses: dict[str, int] = {}

        def install(device: ProcessDevice) -> None:
            statuses[device.device.id] = device.install(scene.bundle(FIRST))

        threads = [threading.Thread(target=install, args=(device,)) for device in self._own]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for host in self._hosts:
            host.done(90)
        if failed := [name for name, status in statuses.items() if status != 0]:
            raise FleetfootError("io_error", f"{FIRST} could not be put on {', '.join(failed)}")

    def connect(self) -> None:
        """The couriers begin."""
        for host in self._hosts:
            host.send("connect")
        for device in self._own:
            with self._interrupts.held():
                device.connect()
        for host in self._hosts:
            host.done(30)

    def enroll(self, session: Session, devices: list[Device]) -> None:
        """The manager gets to know them."""
        rows = [{"id": d.id, "group": d.group, "key": d.public, "labels": {}} for d in devices]
        for start in range(0, len(rows), ENROLL_AT_ONCE):
            batch = rows[start : start + ENROLL_AT_ONCE]
            session.request("device.enroll", arguments={"devices": batch}, timeout=30)

    def watch(self, scene: Scene, broker: str, devices: list[Device], seen: Callable[[str], None]) -> None:
        """Start who counts; `seen` gets a snapshot in each line."""
        host, _, port = broker.rpartition(":")
        spec = scene.folder / "watcher.json"
        members = [{"id": d.id, "group": d.group, "key": d.public} for d in devices]
        facts = {"host": host, "port": int(port), "root": str(scene.root), "component": kiosk.COMPONENT}
        spec.write_text(json.dumps({**facts, "good": GOOD, "bad": BAD, "members": members}))
        argv = ["-m", "fleetfoot_sim.watcher", str(spec)]
        self._line_process("watcher", argv, scene.logs / "watcher.log", on_line=seen)

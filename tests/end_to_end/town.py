"""A whole fleet for end-to-end tests: real keys, manager, broker, devices, and the command line."""

import io
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.end_to_end.wire import Wire
from tests.support.waiting import until

from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import SocketSeam
from fleetfoot_client.cli import main
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.documents import Desired, read
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.reports import ComponentStatus, Status
from fleetfoot_protocol.states import Lifecycle, Outcome
from fleetfoot_protocol.trust import TrustRoot
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import Device, HostedDevice, Pace, ProcessDevice, free_ports, set_up
from fleetfoot_sim.scene import OPERATOR, Scene
from fleetfoot_sim.tally import Member, Tally

FLEETFOOT = str(Path(sys.executable).with_name("fleetfoot"))
PACE = Pace(window=1.0, settle=0.2, restart_delay=0.05)


class Process:
    """A child that says where it serves in its first line; killed and started again at will."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command = command
        self.log = log
        self._process: subprocess.Popen[str] | None = None

    def start(self, **environ: str) -> str:
        """Start it; returns its first line."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environ}
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log.read_text()
        return line.strip()

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


class Witness:
    """Somebody who only subscribes, and counts."""

    def __init__(
        self, host: str, port: int, root: TrustRoot, tally: Tally, tls: ssl.SSLContext | None = None
    ) -> None:
        self.tally = tally
        #: Events by their ids: one that is sent again, as QoS 1 does, is the same event.
        self.events: dict[str, dict[str, Any]] = {}
        self.presence: dict[str, str] = {}
        #: The newest verified document of each group.
        self.desired: dict[str, Desired] = {}
        self._root = root
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="witness")
        if tls is not None:
            self._client.tls_set_context(tls)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_connect = lambda client, *_: client.subscribe("ff/v1/groups/#", 1)
        self._client.on_message = lambda _c, _u, message: self._take(message.topic, bytes(message.payload))
        self._client.connect(host, port)
        self._client.loop_start()

    def _take(self, name: str, payload: bytes) -> None:
        topic = topics.parse(name)
        if topic is None:
            return
        if topic.kind in (topics.Kind.DEVICE_EVENTS, topics.Kind.GROUP_EVENTS):
            event = json.loads(payload)
            self.events[event["id"]] = event
        elif topic.kind is topics.Kind.PRESENCE:
            self.presence[topic.device] = payload.decode()
        else:
            self.tally.take(topic, payload)
        # What was forged by a test is not of the manager, and no reason to stop listening.
        if topic.kind is topics.Kind.GROUP_DESIRED and payload:
            with suppress(UpgradeError):
                self.desired[topic.group] = trust.verify_desired(payload, self._root)

    def component(self, device: str) -> ComponentStatus | None:
        status = self.tally.statuses.get(device)
        return status.components.get(kiosk.COMPONENT) if status else None

    def at_rest(self, device: str, version: str) -> bool:
        found = self.component(device)
        if found is None or found.running is None:
            return False
        return found.running.version == version and found.state is Lifecycle.IDLE

    def count(self, event: str, device: str, **data: Any) -> int:
        """How many events of this name the device sent, with these data."""
        return sum(
            e["type"] == f"dev.fleetfoot.{event}"
            and e["data"].get("device") == device
            and all(e["data"].get(k) == v for k, v in data.items())
            for e in list(self.events.values())
        )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def read_said(said: str) -> Any:
    """What a command said with --json: a value, or one a line."""
    try:
        return json.loads(said)
    except json.JSONDecodeError:
        return [json.loads(line) for line in said.splitlines() if line]


class Town:
    """Everything below one folder. `own_broker`: a broker process of its own, to be killed apart.

    `database`: the URL of the manager's store, if it is not a file.
    """

    def __init__(self, folder: Path, *, own_broker: bool = False, database: str = "") -> None:
        self.folder = folder
        self.scene = Scene(folder)
        self.scene.prepare(*(["--database", database] if database else []))
        self.root = trust.first_root(self.scene.root.read_bytes())
        self.broker_port, self.artifact_port = free_ports(2)
        self.broker: Process | None = None
        where = ["--listen", f"127.0.0.1:{self.broker_port}"]
        if own_broker:
            module = [sys.executable, "-m", "fleetfoot_manager.broker", "--port", str(self.broker_port)]
            self.broker = Process(module, folder / "logs" / "broker.log")
            where = ["--broker", f"mqtt://127.0.0.1:{self.broker_port}"]
        command = [FLEETFOOT, "manager", "run", "--dir", str(self.scene.manager)]
        command += [
            "--root",
            str(self.scene.root),
            "--artifacts",
            f"127.0.0.1:{self.artifact_port}",
            "--json",
        ]
        self.manager = Process([*command, *where], folder / "logs" / "manager.log")
        self.devices: dict[str, Device] = {}
        self.hosted: dict[str, HostedDevice] = {}
        self.processes: dict[str, ProcessDevice] = {}
        self._wires: list[Wire] = []
        self._witness: Witness | None = None

    def open(self, *options: str) -> None:
        """Start broker and manager; `options` are more of the manager's."""
        self.manager.command += options
        if self.broker:
            self.broker.start()
        self.manager.start()

    def wire(self, port: int) -> Wire:
        """A wire in front of the broker or of the artifact server."""
        wire = Wire(port)
        self._wires.append(wire)
        return wire

    def close(self) -> None:
        if self._witness:
            self._witness.close()
        for hosted in self.hosted.values():
            hosted.power_off()
        for process in self.processes.values():
            process.power_off()
        for wire in self._wires:
            wire.close()
        self.manager.end(signal.SIGTERM)
        if self.broker:
            self.broker.end(signal.SIGTERM)

    # -- operators

    def fleetfoot(self, *arguments: str, status: int = 0) -> Any:
        """Run a `fleetfoot` command with --json as the operator, in this process; returns what it says.

        To start a process for each would cost more than what it does. That the command starts by itself, the
        walks through README and pages show.
        """
        said, complained = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, self.environ()), redirect_stdout(said), redirect_stderr(complained):
            returned = main([*arguments, "--json"])
        assert returned == status, (arguments, returned, said.getvalue(), complained.getvalue())
        return read_said(said.getvalue() or complained.getvalue())

    def environ(self) -> dict[str, str]:
        """Who the operator is, and where the manager, as the environment of a command."""
        return {
            "FLEETFOOT_BROKER": f"mqtt://127.0.0.1:{self.broker_port}",
            "FLEETFOOT_OPERATOR": OPERATOR,
            "FLEETFOOT_KEY": str(self.scene.operator_key),
            "FLEETFOOT_ROOT": str(self.scene.root),
            "FLEETFOOT_CONFIG_DIR": str(self.folder / "profile"),
        }

    def publish(self, version: str) -> str:
        """Publish a release; returns its digest."""
        return str(self.fleetfoot("release", "publish", "--bless", str(self.scene.bundle(version)))["digest"])

    def rollout(self, version: str, *options: str, groups: tuple[str, ...] = ("kitchens",)) -> str:
        """Start a rollout; returns its id."""
        which = [word for group in groups for word in ("--group", group)]
        facts = ["--component", kiosk.COMPONENT, "--version", version]
        return str(self.fleetfoot("rollout", "start", *facts, *which, *options)["rollout"])

    def state(self, rollout: str) -> str:
        return str(self.fleetfoot("rollout", "show", rollout)["state"])

    # -- devices

    def add(
        self,
        *names: str,
        group: str = "kitchens",
        own_processes: bool = False,
        pace: Pace = PACE,
        wire: Wire | None = None,
    ) -> None:
        """Set up, enrol and start devices that run kiosk 1.0.0, and connect them, through `wire` if given."""
        root = self.scene.root.read_bytes()
        broker = f"mqtt://127.0.0.1:{wire.port if wire else self.broker_port}"
        rows = []
        for name, port in zip(names, free_ports(len(names)), strict=True):
            device = set_up(self.folder / "devices" / name, name, group, broker, root, port, pace=pace)
            self.devices[name] = device
            rows.append({"id": name, "group": group, "key": device.public, "labels": {}})
        listed = self.folder / f"{names[0]}.json"
        listed.write_text(json.dumps({"devices": rows}))
        self.fleetfoot("device", "enroll", "--from", str(listed))
        for name in names:
            if own_processes:
                self._boot(self.processes.setdefault(name, ProcessDevice(self.devices[name])))
            else:
                self._boot(self.hosted.setdefault(name, HostedDevice(self.devices[name])))

    def _boot(self, device: HostedDevice | ProcessDevice) -> None:
        device.power_on()
        socket = device.device.config.components[kiosk.COMPONENT].socket
        until(socket.exists, "the supervisor listens")
        assert device.install(self.scene.bundle("1.0.0")) == 0
        device.connect()

    @property
    def witness(self) -> Witness:
        """The witness, who begins to watch when first asked for."""
        if self._witness is None:
            members = [Member(d.id, d.group, d.public) for d in self.devices.values()]
            self._witness = self._watch(Tally(self.root, members, kiosk.COMPONENT))
        return self._witness

    def _watch(self, tally: Tally) -> Witness:
        return Witness("127.0.0.1", self.broker_port, self.root, tally)

    def await_versions(self, expected: dict[str, str], *, seconds: float = 60) -> None:
        """Wait until each named device reports, attested and at rest, that it runs its version."""
        for name, version in expected.items():

            def there(name: str = name, version: str = version) -> bool:
                return self.witness.at_rest(name, version)

            until(there, f"{name} runs {version}", seconds=seconds)

    def await_state(self, rollout: str, *states: str, seconds: float = 60) -> None:
        """Wait until the manager's signed progress shows one of the states."""

        def there() -> bool:
            progress = self.witness.tally.progress.get(rollout)
            return progress is not None and progress.state in states

        until(there, f"rollout {rollout} is {' or '.join(states)}", seconds=seconds)

    def await_outcome(self, device: str, rollout: str, outcome: Outcome, *, seconds: float = 60) -> None:
        """Wait until a device attests how it ended a rollout."""

        def there() -> bool:
            return self.witness.tally.outcomes.get(rollout, {}).get(device) is outcome

        until(there, f"{device} ends {rollout} as {outcome}", seconds=seconds)

    def await_presence(self, device: str, presence: str, *, seconds: float = 60) -> None:
        """Wait until the broker says that a device is online or offline."""
        until(
            lambda: self.witness.presence.get(device) == presence, f"{device} is {presence}", seconds=seconds
        )

    def layout(self, device: str) -> Layout:
        return Layout(self.devices[device].config.install_root, kiosk.COMPONENT)

    def pid(self, device: str) -> int:
        """The process of the device's kiosk."""
        pid = SocketSeam(self.devices[device].config.components[kiosk.COMPONENT].socket).state().pid
        assert pid is not None
        return pid

    def said(self, device: str) -> ComponentStatus:
        """What the device's worker says in its spool, whether or not anybody has heard it."""
        payload = (self.devices[device].config.spool / "out" / "status.json").read_bytes()
        return read(Status, payload).components[kiosk.COMPONENT]

    def answer(self, device: str) -> str:
        """What the device's kiosk really answers."""
        url = self.devices[device].config.components[kiosk.COMPONENT].checks[0].url
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())

"""A NATS cluster of three nodes on loopback, with MQTT on each: bare, or with the configuration we ship."""

import contextlib
import re
import shutil
import signal
import ssl
import subprocess
import time
from functools import partial
from pathlib import Path

from tests.brokers.mosquitto import Identity, issue
from tests.support.waiting import until

from fleetfoot_client.broker.rights import Role
from fleetfoot_client.broker.target import Target
from fleetfoot_client.profiles import Address
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_sim.devices import free_ports

NODES = 3
#: How the entry of a device begins in the file that we ship.
_ENTRY = '    {{ user: "CN={},OU=device"'
SHIPPED = Path(__file__).parents[2] / "broker_conf" / "nats" / "nats.conf"

_NODE = """\
server_name: {name}
host: 127.0.0.1
port: {client}
jetstream {{ store_dir: "{disk}", max_mem: 64M, max_file: 1G }}
cluster {{ name: fleetfoot, host: 127.0.0.1, port: {route}, routes: [{routes}] }}
mqtt {{ host: 127.0.0.1, port: {mqtt} }}
"""


class Cluster:
    """Three processes; everybody is on the first node, at `port`. Killed and started again at will."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(3 * NODES - 1)
        self.ports = [port, *ports[: NODES - 1]]
        clients, routes = ports[NODES - 1 : 2 * NODES - 1], ports[2 * NODES - 1 :]
        listed = ", ".join(f'"nats://127.0.0.1:{one}"' for one in routes)
        for number in range(NODES):
            facts: dict[str, object] = {
                "name": f"n{number}",
                "client": clients[number],
                "disk": folder / f"disk{number}",
            }
            facts |= {"route": routes[number], "routes": listed, "mqtt": self.ports[number]}
            (folder / f"n{number}.conf").write_text(self._configuration(facts))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """The nodes that run."""
        return list(self._processes.values())

    def _configuration(self, facts: dict[str, object]) -> str:
        return _NODE.format(**facts)

    def start(self, **_environ: str) -> str:
        """Start what does not run; returns when MQTT can be used on every node."""
        for number in range(NODES):
            if number not in self._processes:
                with (self.folder / f"n{number}.log").open("ab") as log:
                    command = ["nats-server", "-c", str(self.folder / f"n{number}.conf")]
                    self._processes[number] = subprocess.Popen(command, stdout=log, stderr=log)
        for port in self.ports:
            until(partial(self.usable, port), "a node of the cluster can be used", seconds=60)
        return f"mqtt://127.0.0.1:{self.ports[0]}"

    def end(self, number: signal.Signals) -> None:
        """Send every node a signal and wait for its end."""
        for process in self._processes.values():
            process.send_signal(number)
        for process in self._processes.values():
            process.wait(30)
        self._processes.clear()

    def kill_node(self) -> None:
        """One node is gone, not that on which everybody is."""
        process = self._processes.pop(NODES - 1)
        process.kill()
        process.wait(30)

    def empty(self) -> None:
        """Forget what is on the disks, while nothing runs."""
        assert not self._processes
        for number in range(NODES):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder / f"disk{number}")

    def target(self, port: int) -> Target:
        """Who looks whether a node can be used."""
        return Target(Address("127.0.0.1", port, False), run="usable")

    def usable(self, port: int) -> bool:
        """Whether a node keeps what it is told to keep: a young cluster acknowledges what it then loses."""
        target, mark = self.target(port), f"{port}-{time.monotonic_ns()}".encode()
        try:
            with target.peer() as peer, target.peer() as reader:
                peer.publish(target.topic("ready"), mark, retained=True)
                reader.subscribe(target.topic("ready"))
                kept = reader.receive(1.0)
                peer.publish(target.topic("ready"), b"", retained=True)
            return kept is not None and kept.payload == mark
        except Exception:  # whatever a half started cluster does to a client
            return False


class ProductionCluster(Cluster):
    """The configuration we ship, on each node: paths, names, ports replaced, and an entry for each device."""

    def __init__(self, folder: Path, devices: list[str]) -> None:
        folder.mkdir(parents=True)
        self.pki = Pki.create(folder / "tls", "test", ["127.0.0.1", "localhost"])
        authorities = (self.pki.folder / f"{name}-ca.crt" for name in ("devices", "manager", "operators"))
        (self.pki.folder / "all-ca.crt").write_text("".join(path.read_text() for path in authorities))
        self._devices = devices
        (port,) = free_ports(1)
        self._watcher = issue(self.pki, Role.MANAGER, "manager", port)
        super().__init__(folder, port)

    def issue(self, role: Role, name: str) -> Identity:
        """A certificate for `name`, signed for `role`."""
        return issue(self.pki, role, name, self.ports[0])

    def revoke(self, device: str) -> None:
        """Take a device's entry out and restart the nodes, one after the other, last that where everybody is.

        A reload would be less, but 2.9.10 may end with a nil pointer when it reads its users anew.
        """
        self._devices = [name for name in self._devices if name != device]
        for number in reversed(range(NODES)):
            file = self.folder / f"n{number}.conf"
            file.write_text(_without_device(file.read_text(), device))
            process = self._processes.pop(number)
            process.terminate()
            process.wait(30)
            self.start()

    def target(self, port: int) -> Target:
        who = self._watcher
        context = ssl.create_default_context(cafile=str(who.ca))
        context.load_cert_chain(who.cert, who.key)
        return Target(Address("127.0.0.1", port, True), context, run="usable")

    def _configuration(self, facts: dict[str, object]) -> str:
        text = _with_devices(SHIPPED.read_text(), self._devices)
        text = text.replace("/etc/nats/fleetfoot/", f"{self.pki.folder}/")
        for old, new in (
            ("server_name: n1", f"server_name: {facts['name']}"),
            ("port: 4222", f"port: {facts['client']}"),
            ('"/var/lib/nats"', f'"{facts["disk"]}"'),
            ("port: 6222", f"host: 127.0.0.1, port: {facts['route']}"),
            ("port: 8883", f"host: 127.0.0.1, port: {facts['mqtt']}"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        text, count = re.subn(r"routes: \[.*\]", f"routes: [{facts['routes']}]", text)
        assert count == 1
        return text


def _with_devices(text: str, devices: list[str]) -> str:
    """The file with an entry for each of these devices, made from its example, and no other device's."""
    begin, end = text.index(_ENTRY.format("oven-07")), text.rindex("  ]\n}")
    entry = text[begin:end]
    return text[:begin] + "".join(entry.replace("oven-07", name) for name in devices) + text[end:]


def _without_device(text: str, device: str) -> str:
    begin = text.index(_ENTRY.format(device))
    end = text.find("    { user: ", begin + 1)
    return text[:begin] + text[end if end > 0 else text.rindex("  ]\n}") :]

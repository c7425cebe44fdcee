"""A NATS cluster of three nodes on loopback, with MQTT on each; one folder, its disks in it."""

import contextlib
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

from tests.support.waiting import until

from fleetfoot_client.broker.target import Target
from fleetfoot_client.profiles import Address
from fleetfoot_sim.devices import free_ports

NODES = 3

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
            text = _NODE.format(
                name=f"n{number}",
                client=clients[number],
                disk=folder / f"disk{number}",
                route=routes[number],
                routes=listed,
                mqtt=self.ports[number],
            )
            (folder / f"n{number}.conf").write_text(text)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, **_environ: str) -> str:
        """Start what does not run; returns when MQTT can be used on every node."""
        for number in range(NODES):
            if number not in self._processes:
                with (self.folder / f"n{number}.log").open("ab") as log:
                    command = ["nats-server", "-c", str(self.folder / f"n{number}.conf")]
                    self._processes[number] = subprocess.Popen(command, stdout=log, stderr=log)
        for port in self.ports:
            until(partial(usable, port), "a node of the cluster can be used", seconds=60)
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


def usable(port: int) -> bool:
    """Whether somebody can connect and keep something retained, which takes the cluster's agreement."""
    target = Target(Address("127.0.0.1", port, False), run="usable")
    try:
        with target.peer() as peer:
            peer.publish(target.topic("ready"), b"1", retained=True)
            peer.publish(target.topic("ready"), b"", retained=True)
        return True
    except Exception:  # whatever a half started cluster does to a client
        return False

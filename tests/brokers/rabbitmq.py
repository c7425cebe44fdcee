"""RabbitMQ with its MQTT plugin, one node on loopback: probed, not promised."""

import os
import signal
import subprocess
from pathlib import Path

from tests.support.waiting import until

from fleetfoot_client.broker.target import FAILURES, Target
from fleetfoot_client.profiles import Address
from fleetfoot_sim.devices import free_ports

#: The program itself: what stands on the PATH insists on the user and the folders of the package.
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_SECONDS = 90


class RabbitMq:
    """A node and the name server that Erlang needs, with every file of theirs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.port, self._names, self._peers = free_ports(3)
        (folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "mqtt.allow_anonymous = true\nlog.console = true\nlog.file = false\n"
        )
        self.log = folder / "rabbitmq.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def _environ(self) -> dict[str, str]:
        own = {
            "HOME": self.folder,  # where Erlang keeps the secret that nodes know each other by
            "ERL_EPMD_PORT": self._names,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"probe{self.port}@localhost",
            "RABBITMQ_DIST_PORT": self._peers,
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_MNESIA_BASE": self.folder / "mnesia",
            "RABBITMQ_LOG_BASE": self.folder / "log",
            "RABBITMQ_PID_FILE": self.folder / "pid",
        }
        return {**os.environ, **{name: str(value) for name, value in own.items()}}

    def begin(self) -> None:
        """Start it, which takes some ten seconds; `start` waits."""
        with self.log.open("ab") as log:
            for command in (
                # In the foreground, so that it ends with us: by itself it would stay behind.
                ["epmd", "-address", "127.0.0.1", "-port", str(self._names)],
                [SERVER],
            ):
                self._processes.append(subprocess.Popen(command, env=self._environ(), stdout=log, stderr=log))

    def start(self) -> str:
        """Wait until MQTT can be used; its URL."""
        until(self._usable, "RabbitMQ can be used", seconds=_SECONDS)
        return f"mqtt://127.0.0.1:{self.port}"

    def _usable(self) -> bool:
        assert self._processes[-1].poll() is None, self.log.read_text()
        try:
            Target(Address("127.0.0.1", self.port, False)).peer().leave()
        except FAILURES:
            return False
        return True

    def end(self, number: signal.Signals) -> None:
        """The node first, then the name server."""
        while self._processes:
            process = self._processes.pop()
            process.send_signal(number)
            process.wait(60)

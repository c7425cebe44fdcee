"""Mosquitto as a process on loopback: with the configuration we ship, or bare."""

import datetime
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import until

from fleetfoot_client.broker.rights import Role
from fleetfoot_manager.pki import authority
from fleetfoot_manager.pki.folder import ROLES, Pki
from fleetfoot_protocol import topics
from fleetfoot_sim.devices import free_ports

SHIPPED = Path(__file__).parents[2] / "broker_conf" / "mosquitto"
#: The listeners of mosquitto.conf, in its order.
LISTENERS = {Role.DEVICE: 8883, Role.MANAGER: 8884, Role.OPERATOR: 8885, Role.INTEGRATOR: 8886}


@dataclass(frozen=True)
class Identity:
    """A certificate, its key, and where it is for."""

    name: str
    port: int
    ca: Path
    cert: Path
    key: Path

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"


def issue(pki: Pki, role: Role, name: str, port: int) -> Identity:
    """A certificate for `name`, signed for `role`, for the listener at `port`."""
    key = authority.make_key()
    if topics.is_id(name):
        certificate = pki.sign(str(role), name, key.public_key())
    else:  # what our tools refuse, somebody else's may sign
        by, now = pki.signer(ROLES[role]), datetime.datetime.now(datetime.UTC)
        certificate = authority.issue(by, name, key.public_key(), now, 1, role=str(role))
    stem = f"{role}-{name.replace('/', '-')}-{time.monotonic_ns()}"
    cert, key_file = pki.folder / f"{stem}.crt", pki.folder / f"{stem}.key"
    cert.write_bytes(authority.pem(certificate))
    key_file.write_bytes(authority.key_pem(key))
    return Identity(name, port, pki.folder / "server-ca.crt", cert, key_file)


class Mosquitto:
    """A process, killed and started again at will; ports and disk stay the same."""

    def __init__(self, folder: Path, configuration: str, ports: list[int]) -> None:
        self.folder = folder
        self.ports = ports
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self._file = folder / "mosquitto.conf"
        # As root it would become the user of the package, who cannot read the folders of tests.
        own = "user root\n" if os.geteuid() == 0 else ""
        self._file.write_text(own + configuration)
        self.log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.ports[0]}"

    def start(self, **_environ: str) -> str:
        """Start it; returns when it listens. The signature is that of other servers of the tests."""
        with self.log.open("ab") as log:
            command = ["mosquitto", "-c", str(self._file)]
            self._process = process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: process.poll() is not None or self._listens(), "mosquitto listens")
        assert process.poll() is None, self.log.read_text()
        return self.url

    def _listens(self) -> bool:
        for port in self.ports:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                return False
        return True

    def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def save(self) -> None:
        """Have it write its disk now."""
        assert self._process is not None
        saved = self.disk / "mosquitto.db"
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        until(lambda: saved.exists() and saved.stat().st_mtime_ns > before, "mosquitto has written its disk")

    def empty(self) -> None:
        """Forget what it has on its disk, while it does not run."""
        assert self._process is None
        for path in self.disk.iterdir():
            path.unlink()


def placed(text: str, files: Path, disk: Path, port_of: dict[Role, int]) -> str:
    """The configuration that we ship, with its files, its disk and its ports elsewhere."""
    text = text.replace("/etc/mosquitto/fleetfoot/", f"{files}/").replace("/var/lib/mosquitto/", f"{disk}/")
    for role, port in LISTENERS.items():
        text, count = re.subn(rf"^listener {port}$", f"listener {port_of[role]} 127.0.0.1", text, flags=re.M)
        assert count == 1
    return text


class Production(Mosquitto):
    """The configuration we ship: paths and ports replaced, nothing else but `more` before it.

    `pki`: the folder of `fleetfoot pki init`, which is the folder of the broker too.
    """

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder, self._tls = folder, folder / "tls"
        self.pki = Pki.create(self._tls, "test", ["127.0.0.1", "localhost"])
        for path in SHIPPED.glob("*.acl"):
            (self._tls / path.name).write_text(path.read_text())
        self.port_of = dict(zip(Role, free_ports(len(Role)), strict=True))
        super().__init__(folder, more + self._configuration(), list(self.port_of.values()))

    def reload(self) -> None:
        """Have it read lists of revoked certificates and access lists anew."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _configuration(self) -> str:
        return placed((SHIPPED / "mosquitto.conf").read_text(), self._tls, self.folder / "disk", self.port_of)

    def issue(self, role: Role, name: str, *, at: Role | None = None) -> Identity:
        """A certificate for `name`, signed for `role`; `at`: for the listener of another role."""
        return issue(self.pki, role, name, self.port_of[at or role])


def bare(folder: Path, port: int | None = None) -> Mosquitto:
    """A broker that asks nobody who they are, and keeps what is retained over a clean stop."""
    chosen = free_ports(1)[0] if port is None else port
    return Mosquitto(
        folder,
        f"listener {chosen} 127.0.0.1\nallow_anonymous true\npersistence true\n"
        f"persistence_location {folder}/disk/\nlog_dest stderr\nmax_queued_messages 100000\n",
        [chosen],
    )

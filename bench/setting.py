"""On which broker and which store a benchmark runs, and how large its fleet is."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.brokers.nats import Cluster
from tests.support.stores import PostgresServer

from bench.common import Cost, cost_of, free_port, listens, mosquitto, until

BROKERS = ("mosquitto", "nats", "amqtt")
STORES = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Setting:
    """devices: 0 for as many as the benchmark takes by itself."""

    broker: str = "mosquitto"
    store: str = "sqlite"
    devices: int = 0

    def options(self) -> str:
        """As somebody would say it on the command line; empty if nothing differs from the default."""
        said = [f"--{name} {getattr(self, name)}" for name in ("broker", "store", "devices")
                if getattr(self, name) != getattr(Setting(), name)]  # fmt: skip
        return "".join(f" {one}" for one in said)


class Broker(Protocol):
    """A broker that runs: of one process or of several."""

    port: int

    @property
    def cost(self) -> Cost: ...

    def kill(self) -> None: ...


class _Processes:
    """What `find` says are its processes now; `kill` them all."""

    def __init__(self, port: int, find: Callable[[], list[subprocess.Popen[bytes]]]) -> None:
        self.port = port
        self._find = find

    @property
    def cost(self) -> Cost:
        """What all of them have cost so far."""
        each = [cost_of(process.pid) for process in self._find()]
        return Cost(sum(one.cpu for one in each), sum(one.rss for one in each))

    def kill(self) -> None:
        """End them as a loss of power would."""
        for process in self._find():
            process.kill()
        for process in self._find():
            process.wait(30)


@contextmanager
def broker(setting: Setting, folder: Path, port: int | None = None) -> Iterator[Broker]:
    """The broker of the setting, empty, at the port if one is given."""
    with _BROKERS[setting.broker](folder, port or free_port()) as found:
        yield found


@contextmanager
def _mosquitto(folder: Path, port: int) -> Iterator[Broker]:
    with mosquitto(folder, port) as (_, process):
        yield _Processes(port, lambda: [process])


@contextmanager
def _nats(folder: Path, port: int) -> Iterator[Broker]:
    """Three nodes; everybody is on the first."""
    cluster = Cluster(folder, port)
    try:
        cluster.start()
        yield _Processes(port, lambda: cluster.processes)
    finally:
        cluster.end(signal.SIGTERM)


@contextmanager
def _amqtt(folder: Path, port: int) -> Iterator[Broker]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fleetfoot_manager.broker", "--port", str(port)]
    with (folder / "broker.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: listens(port), "the broker listens")
        yield _Processes(port, lambda: [process])
    finally:
        process.terminate()
        process.wait(30)


_BROKERS: dict[str, Callable[[Path, int], contextlib.AbstractContextManager[Broker]]] = {
    "mosquitto": _mosquitto,
    "nats": _nats,
    "amqtt": _amqtt,
}


@contextmanager
def store(setting: Setting) -> Iterator[str]:
    """What a manager is told of its database: empty for a file of its own."""
    if setting.store == "sqlite":
        yield ""
        return
    server = PostgresServer(settings=("max_connections=60",))  # what is committed is on the disk
    try:
        yield server.fresh().set(drivername="postgresql").render_as_string(hide_password=False)
    finally:
        server.close()


def lacking(setting: Setting) -> str:
    """What this machine lacks for it, in words; empty if nothing."""
    programs = {"nats": "nats-server", "mosquitto": "mosquitto"}
    wanted = programs.get(setting.broker)
    if wanted and not any(os.access(Path(p) / wanted, os.X_OK) for p in os.get_exec_path()):
        return f"{wanted} is not installed"
    return ""

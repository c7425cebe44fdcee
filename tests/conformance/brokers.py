"""The brokers of the stories, each as a process of its own on a given port, and a town around one."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from tests.brokers.faulty import Fault, Proxy
from tests.brokers.mosquitto import Mosquitto, bare
from tests.brokers.nats import Cluster
from tests.end_to_end.town import Process, Town

from fleetfoot_sim.devices import free_ports


class Server(Protocol):
    """A broker's process."""

    def start(self, **environ: str) -> str: ...

    def end(self, number: signal.Signals) -> None: ...

    def empty(self) -> None: ...


class Embedded(Process):
    """The embedded broker, alone."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        module = [sys.executable, "-m", "fleetfoot_manager.broker", "--port", str(port)]
        super().__init__(module, folder / "broker.log")

    def empty(self) -> None:
        """It has no disk."""


def mosquitto(folder: Path, port: int) -> Mosquitto:
    return bare(folder, port)


MAKERS: dict[str, Callable[[Path, int], Server]] = {
    "amqtt": Embedded,
    "mosquitto": mosquitto,
    "nats": Cluster,
}
#: Where the manager of a story keeps its store in PostgreSQL; elsewhere it is a file. Who has a cluster of
#: brokers has no single machine for the store either.
WITH_POSTGRESQL = frozenset({"nats"})
_NEEDS = {
    "mosquitto": [pytest.mark.needs("mosquitto")],
    "nats": [pytest.mark.needs("nats", "postgresql")],
}
#: Parameters of a test that runs on each.
ON = [pytest.param(name, marks=_NEEDS.get(name, []), id=name) for name in MAKERS]


class OnServer(Process):
    """What a town takes for its broker: the process, behind a proxy if there is a fault."""

    def __init__(self, name: str, folder: Path, port: int, fault: Fault | None) -> None:
        super().__init__([], folder / f"{name}.log")
        self._proxy_port = None if fault is None else port
        self._fault = fault
        self.real_port = port if fault is None else free_ports(1)[0]
        self.server = MAKERS[name](folder / name, self.real_port)
        self._proxy: Proxy | None = None

    def start(self, **environ: str) -> str:
        said = self.server.start(**environ)
        if self._fault is not None and self._proxy is None and self._proxy_port is not None:
            self._proxy = Proxy(self.real_port, self._fault, self._proxy_port)
            self._proxy.__enter__()
        return said

    def end(self, number: signal.Signals) -> None:
        if self._proxy is not None:
            self._proxy.__exit__(None, None, None)
            self._proxy = None
        self.server.end(number)


def town_on(name: str, folder: Path, fault: Fault | None = None, database: str = "") -> tuple[Town, OnServer]:
    """A town whose broker is the one called `name`; everybody reaches it through `fault`, if given."""
    town = Town(folder, own_broker=True, database=database)
    server = OnServer(name, folder / "broker", town.broker_port, fault)
    town.broker = server
    return town, server

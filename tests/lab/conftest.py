"""Hosts for tests: everything they leave is removed, whatever happens."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.lab.device import Device, Shop, make_host
from tests.lab.host import MEMORY, Host, cgroup2
from tests.lab.layers import Layers
from tests.lab.leftovers import claim, remove_leftovers


class Lab:
    """Hosts of one test run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers = Layers(folder / "layers")
        self.shop = Shop(folder / "shop")
        self._count = 0
        self._golden: Host | None = None

    def host(self, *, unsynced: bool = False) -> Host:
        """A host without a disk yet; whoever asks for it removes it."""
        self._count += 1
        name = f"ff{os.getpid()}-{self._count}"
        return make_host(name, self.folder / name, self.layers, unsynced=unsynced)

    def bare_host(self, *binds: str) -> Host:
        """A host that has never seen the agent; whoever asks for it removes it. binds: what, where, ..."""
        self._count += 1
        name = f"ff{os.getpid()}-{self._count}"
        return Host(name, self.folder / name, self.layers.bare(), list(binds))

    @property
    def golden(self) -> Host:
        """A host without power on whose disk kiosk 1.0.0 was installed by hand; to be cloned."""
        if self._golden is None:
            host = self.host()
            try:
                host.format()
                host.boot()
                device = Device(host, self.shop)
                device.set_up()
                bundle = self.shop.release("1.0.0")
                device.install(bundle)
                device.await_runs(bundle)
                host.run("systemctl", "stop", "fleetfoot-worker.path", "fleetfoot-worker.timer")
                host.shut_down()
            except BaseException:
                host.remove()
                raise
            self._golden = host
        return self._golden

    def close(self) -> None:
        if self._golden is not None:
            self._golden.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    groups = cgroup2()
    assert groups is not None
    remove_leftovers(MEMORY, groups)
    folder, lock = claim(MEMORY)
    try:
        found = Lab(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    yield found
    found.close()
    os.close(lock)


@pytest.fixture
def start(lab: Lab) -> Iterator[Callable[..., Device]]:
    """Start a device that runs kiosk 1.0.0; the options are those of `Device.configure`."""
    hosts: list[Host] = []

    def begin(**options: object) -> Device:
        host = lab.host()
        hosts.append(host)
        host.clone_disk(lab.golden)
        host.boot()
        device = Device(host, lab.shop)
        if options:
            device.configure(**options)  # type: ignore[arg-type]
        device.await_runs(lab.shop.release("1.0.0"))
        return device

    try:
        yield begin
    finally:
        for host in hosts:
            host.remove()

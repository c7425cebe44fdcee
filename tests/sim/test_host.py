"""Many devices in one process leave nothing behind, however that process is ended."""

import json
import os
import signal
from pathlib import Path

import pytest
from tests.support.waiting import until

from fleetfoot_agent.seam import SocketSeam
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import Device, free_ports, set_up
from fleetfoot_sim.processes import LineProcess
from fleetfoot_sim.scene import FIRST, Scene

COUNT = 6


def _pid(device: Device) -> int | None:
    return SocketSeam(device.config.components[kiosk.COMPONENT].socket).state().pid


def _pids(devices: list[Device]) -> list[int]:
    pids = [pid for device in devices if (pid := _pid(device))]
    assert len(pids) == len(devices)
    return pids


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    scene.prepare()
    return scene


def _hosted(scene: Scene, *, installed: bool = True) -> tuple[LineProcess, list[Device]]:
    """A host whose devices all run a kiosk, if it is `installed`; there is no broker."""
    devices = []
    for number, port in enumerate(free_ports(COUNT)):
        folder, root = scene.folder / f"d{number}", scene.root.read_bytes()
        devices.append(set_up(folder, f"dev-{number}", "lab", "mqtt://127.0.0.1:9", root, port))
    spec = scene.folder / "host.json"
    spec.write_text(json.dumps({"configs": [str(device.config.path) for device in devices]}))
    host = LineProcess("host", ["-m", "fleetfoot_sim.host", str(spec)], scene.logs / "host.log")
    host.done(30)
    if installed:
        host.ask(f"install {scene.bundle(FIRST)}", 60)
    return host, devices


def test_every_component_has_ended_when_the_host_is_closed(scene: Scene) -> None:
    host, devices = _hosted(scene)
    pids = _pids(devices)
    assert all(map(_runs, pids))
    host.close()
    assert host.process.returncode == 0
    assert not list(filter(_runs, pids))


def test_the_end_of_its_input_suffices(scene: Scene) -> None:
    host, devices = _hosted(scene)
    pids = _pids(devices)
    try:
        os.kill(host.process.pid, signal.SIGTERM)
        assert host.ask("disconnect", 10) == {"done": True, "failed": {}}
        assert host.process.stdin is not None
        host.process.stdin.close()
        until(lambda: host.process.poll() is not None, "the host has ended", seconds=30)
        assert not list(filter(_runs, pids))
    finally:
        host.close()


def test_what_is_being_done_does_not_keep_it_from_ending(scene: Scene) -> None:
    host, devices = _hosted(scene, installed=False)
    host.send(f"install {scene.bundle(FIRST)}")
    pids = until(lambda: [pid for device in devices if (pid := _pid(device))], "a kiosk has been started")
    host.close(20)
    assert host.process.returncode == 0
    assert not list(filter(_runs, pids))

"""What root does by hand on a device with the shipped units, as a person would: a bundle in their home."""

import shutil
from collections.abc import Callable

import pytest
from tests.lab.device import COMPONENT, UNIT, Device
from tests.support.fleet import Bundle
from tests.support.waiting import until

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300)]

Start = Callable[..., Device]

#: Of root, where nobody else may walk.
HOME = "/root"
METRICS = "/run/fleetfoot/metrics/fleetfoot.prom"


def agent(device: Device, *words: str) -> str:
    """What the command says, and the status with which it ends."""
    return device.host.run("sh", "-c", f"fleetfoot-agent {' '.join(words)}; echo exit $?").rstrip()


def at_home(device: Device, bundle: Bundle) -> str:
    """The bundle where root would put it: nobody else may walk there."""
    folder = f"{HOME}/{bundle.path.name}"
    device.host.path(HOME).chmod(0o700)
    shutil.copytree(bundle.path, device.host.path(folder))
    return folder


def test_a_bundle_in_root_s_home_is_installed_verified_and_mended_as_the_worker(start: Start) -> None:
    device = start()
    bundle = device.shop.release("1.1.0")
    folder = at_home(device, bundle)
    assert agent(device, "check", folder).endswith(f"{COMPONENT} 1.1.0: install\nexit 0")
    assert agent(device, "install", folder).endswith("is installed and healthy\nexit 0")
    assert device.runs(bundle)
    assert device.layout.current.lstat().st_uid == device.layout.folder.stat().st_uid != 0
    # What is closed to the worker itself is named, with what to do.
    device.host.path(f"{folder}/release.dsse.json").chmod(0o600)
    said = agent(device, "install", folder)
    assert f"{folder} cannot be read by fleetfoot" in said
    assert f"chmod -R a+rX {folder}" in said
    device.host.path(f"{folder}/release.dsse.json").chmod(0o644)
    # Files that were changed are told to root, and mended by leaving them.
    said = agent(device, "verify")
    assert "BAD" not in said
    assert said.endswith("exit 0")
    with device.host.path(f"/opt/fleetfoot/{COMPONENT}/{device.current}/bin/kiosk").open("a") as file:
        file.write("# changed\n")
    said = agent(device, "verify")
    assert "(current) its files differ" in said
    assert said.endswith("exit 1")
    # The remedy that is told is the one that works.
    said = agent(device, "install", folder)
    assert "runs already, but its files differ from the signed release" in said
    assert f"fleetfoot-agent rollback {COMPONENT}" in said
    assert agent(device, "rollback", COMPONENT).endswith("exit 0")
    # Going back by hand refuses what is left, and `check` says what an order of it would meet.
    said = agent(device, "check", folder)
    assert "code: upgrade_refused_before" in said
    assert said.endswith("exit 1")
    agent(device, "install", folder)
    assert device.runs(bundle)
    assert agent(device, "verify").endswith("exit 0")


def test_where_no_guard_stands_nothing_is_switched(start: Start) -> None:
    device = start()
    bundle = device.shop.release("1.1.0")
    device.adopt("--undo")
    before = device.current, device.unit("MainPID", "InvocationID")
    said = device.install(bundle, check=False)
    assert f"fleetfoot-restart@{UNIT}.path is not active" in said
    assert f"fleetfoot-agent adopt {UNIT} --component {COMPONENT}" in said
    # A restart that would be done, but without the guard before it.
    device.host.run("systemctl", "start", f"fleetfoot-restart@{UNIT}.path")
    assert f"it would start without fleetfoot-guard@{COMPONENT}" in device.install(bundle, check=False)
    assert (device.current, device.unit("MainPID", "InvocationID")) == before
    device.adopt()
    device.install(bundle)
    assert device.runs(bundle)


def test_metrics_lie_where_the_worker_may_write_and_what_is_removed_rests(start: Start) -> None:
    device = start()
    config = device.host.path("/etc/fleetfoot/agent.toml")
    text = config.read_text()

    def metrics_at(path: str) -> None:
        config.write_text(text.replace("[agent]\n", f'[agent]\nmetrics_file = "{path}"\n'))
        device.host.run("systemctl", "start", "--wait", "fleetfoot-worker.service")

    metrics_at("/var/lib/elsewhere.prom")
    assert "the worker could not write its metrics to /var/lib/elsewhere.prom" in agent(device, "doctor")
    metrics_at(METRICS)
    assert f'fleetfoot_component_info{{component="{COMPONENT}",version="1.0.0"' in device.host.run(
        "cat", METRICS, user="daemon"
    )
    assert "metrics" not in agent(device, "doctor")
    config.write_text(text)
    said = agent(device, "remove", COMPONENT, "--yes")
    assert f"{COMPONENT} is removed" in said
    assert f"fleetfoot-agent adopt {UNIT} --component {COMPONENT} --undo" in said
    until(lambda: device.unit("ActiveState")["ActiveState"] == "inactive", "it has ended")
    assert device.unit("NRestarts", "Result") == {"NRestarts": "0", "Result": "success"}
    assert device.layout.installed() == []
    # At boot, too, there is nothing that dies and is started again.
    device.host.run("systemctl", "start", UNIT)
    assert device.unit("ActiveState", "ConditionResult") == {
        "ActiveState": "inactive",
        "ConditionResult": "no",
    }
    device.install(device.shop.release("1.0.0"))
    assert device.runs(device.shop.release("1.0.0"))

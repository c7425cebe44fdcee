"""Upgrades on real systemd with the shipped units: what works, dies, hangs, and what cannot even begin."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.device import (
    COMPONENT,
    DEVICE,
    DIES,
    DIES_SOON,
    GOOD,
    GROUP,
    HANGS,
    SPOOL,
    STATE,
    UNIT,
    Device,
)
from tests.support.fleet import Bundle, Director, everybody
from tests.support.waiting import until

from fleetfoot_manager.artifacts import ArtifactServer
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import read
from fleetfoot_protocol.reports import Status
from fleetfoot_protocol.states import Lifecycle, Outcome

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300)]

Start = Callable[..., Device]


def ended(device: Device, bundle: Bundle) -> tuple[Outcome, str]:
    """How the device ended the release, once it has."""

    def outcome() -> tuple[Outcome, str] | None:
        record = device.record()
        if record is None or record.work is not None:
            return None
        return next(((o.outcome, o.code) for o in record.outcomes if o.digest == bundle.digest), None)

    try:
        found = until(outcome, f"the device ends {bundle.release.version}", seconds=120)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{device.record()}\n{device.host.journal('-n', '200')}") from error
    assert found is not None
    return found


def comes_back(device: Device, bundle: Bundle) -> str:
    """Order a version that is bad; returns the code with which the device has gone back to 1.0.0."""
    device.order(device.shop.order(bundle), bundle)
    outcome, code = ended(device, bundle)
    assert outcome is Outcome.ROLLED_BACK, f"{device.record()}\n{device.host.journal('-n', '200')}"
    device.await_runs(device.shop.bundles["1.0.0"])
    assert device.layout.read_trial() is None
    record = device.record()
    assert record is not None
    assert bundle.digest in record.refused
    return code


def counted(device: Device) -> str:
    """What the guard has said."""
    return device.host.journal("-u", f"fleetfoot-guard@{COMPONENT}.service")


def test_a_device_upgrades_itself_by_a_signed_retained_message(start: Start, tmp_path: Path) -> None:
    device = start()
    before = device.unit("MainPID")["MainPID"]
    bundle = device.shop.release("1.1.0")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for blob in (bundle.path / "blobs").iterdir():
        (blobs / blob.name).write_bytes(blob.read_bytes())

    def by_broker() -> None:
        broker = EmbeddedBroker(port=1883)
        artifacts = ArtifactServer(blobs)
        host, port = broker.start()
        director = Director(device.shop.house, host, port, artifacts.start())
        try:
            device.host.run("systemctl", "enable", "--now", "fleetfoot-courier.service")
            device.await_connected()
            director.release(bundle)
            director.order(GROUP, everybody("r-0001", bundle.goal()))
            device.await_runs(bundle)

            def told() -> bool:
                found = director.statuses(GROUP, DEVICE, device.public)
                last = max(found, key=lambda s: s.counter, default=None)
                component = last.components[COMPONENT] if last else None
                running = component.running if component else None
                return running is not None and running.digest == bundle.digest

            until(told, "the device attests what it runs")
        finally:
            director.close()
            artifacts.stop()
            broker.stop()

    device.host.within_network(by_broker)
    assert device.unit("MainPID")["MainPID"] != before
    record = device.record()
    assert record is not None
    assert record.outcomes[-1].outcome is Outcome.COMPLETED
    assert "start 1 of 2" in counted(device)
    users = device.host.run("ps", "-eo", "user:20,args")
    assert "fleetfoot-courier" in users
    assert device.host.show("fleetfoot-courier.service", "User", "NRestarts") == {
        "User": "fleetfoot-courier",
        "NRestarts": "0",
    }


def test_a_version_that_dies_at_every_start_is_left_by_the_guard(start: Start) -> None:
    device = start(window=8.0)
    bundle = device.shop.release("1.2.0", DIES)
    assert comes_back(device, bundle) == Code.UPGRADE_BOOT_FAILED
    said = counted(device)
    assert "start 2 of 2" in said
    assert "used up its 2 starts, current is back" in said


def test_a_version_that_never_says_that_it_is_ready_is_left(start: Start) -> None:
    device = start(window=14.0)
    bundle = device.shop.release("1.3.0", HANGS)
    assert comes_back(device, bundle) == Code.UPGRADE_BOOT_FAILED
    assert "used up its 2 starts" in counted(device)
    assert "start operation timed out" in device.host.journal("-u", UNIT)


def test_a_version_that_dies_after_it_was_well_is_left_at_once(start: Start) -> None:
    device = start(window=30.0)
    bundle = device.shop.release("1.4.0", DIES_SOON)
    assert comes_back(device, bundle) == Code.UPGRADE_BOOT_FAILED
    record = device.record()
    assert record is not None
    assert record.last_error is not None
    assert "died while on probation" in record.last_error.message


def test_a_version_without_the_environment_file_is_counted_and_left(start: Start) -> None:
    # The owner's unit reads a file of the tree: an ExecStartPre= would be skipped, the guard's unit is not.
    device = start(service=f"EnvironmentFile=-{STATE}/current/env")
    good = device.shop.release("1.5.0", GOOD, env="A=1\n")
    device.order(device.shop.order(good), good)
    device.await_runs(good)
    device.configure(window=8.0, service=f"EnvironmentFile={STATE}/current/env")
    bad = device.shop.release("1.6.0", GOOD)
    device.order(device.shop.order(bad), bad)
    assert ended(device, bad) == (Outcome.ROLLED_BACK, Code.UPGRADE_BOOT_FAILED)
    device.await_runs(good)
    assert "used up its 2 starts" in counted(device)
    assert "Failed to load environment files" in device.host.journal("-u", UNIT)


def test_without_a_start_limit_a_version_without_its_working_directory_is_left(start: Start) -> None:
    # OnFailure= never fires here: systemd tries for ever. The guard alone must bring the old version back.
    device = start(unit="StartLimitIntervalSec=0", service=f"WorkingDirectory=-{STATE}/current/data")
    good = device.shop.bundles["1.0.0"]
    device.configure(
        window=8.0, unit="StartLimitIntervalSec=0", service=f"WorkingDirectory={STATE}/current/work"
    )
    bad = device.shop.release("1.8.0", GOOD)
    # The old version has the folder, the new one has not.
    device.host.run("mkdir", f"{STATE}/{device.current}/work")
    device.order(device.shop.order(bad), bad)
    assert ended(device, bad) == (Outcome.ROLLED_BACK, Code.UPGRADE_BOOT_FAILED)
    device.await_runs(good)
    assert "used up its 2 starts" in counted(device)
    assert "Changing to the requested working directory failed" in device.host.journal("-u", UNIT)


def test_a_start_limit_that_is_used_up_keeps_no_version_from_coming_back(start: Start) -> None:
    # Reachable: as few starts as adopting leaves, in an hour.
    device = start(window=8.0, unit="StartLimitIntervalSec=1h\nStartLimitBurst=1")
    for number in (1, 2, 3):
        bundle = device.shop.release(f"1.7.{number}", DIES)
        assert comes_back(device, bundle) == Code.UPGRADE_BOOT_FAILED


def test_without_a_worker_the_guard_alone_brings_the_old_version_back(start: Start) -> None:
    device = start(window=60.0)
    bundle = device.shop.release("1.2.0", DIES)
    device.order(device.shop.order(bundle), bundle)
    new = f"versions/1.2.0-{bundle.digest[:8]}"
    until(lambda: device.current == new, "current leads to the new version")
    # From here on there is no agent: what runs is killed, what would be started does not exist.
    device.host.run("rm", "/usr/bin/fleetfoot-agent")
    device.host.run("systemctl", "kill", "--signal=KILL", "fleetfoot-worker.service", check=False)
    device.host.run("systemctl", "restart", UNIT, check=False)
    until(lambda: device.version() == "1.0.0", "1.0.0 runs again", seconds=20)
    assert device.unit("ActiveState")["ActiveState"] == "active"
    record = device.record()
    assert record is not None
    assert record.state in (Lifecycle.ACTIVATING, Lifecycle.PROBATION)


def test_a_unit_that_has_given_up_wakes_the_worker(start: Start) -> None:
    device = start(unit="StartLimitIntervalSec=1h\nStartLimitBurst=1")
    until(lambda: state_of(device, "fleetfoot-worker.service") == "inactive", "the worker has nothing to do")
    runs = device.host.show("fleetfoot-worker.service", "InvocationID")["InvocationID"]
    # Outside a trial: nothing of ours ends this, only the limit does.
    program = device.host.path(f"{STATE}/{device.current}/bin/kiosk")
    program.write_text(f"#!/bin/sh\n{DIES}")
    device.host.run("systemctl", "restart", UNIT, check=False)
    until(
        lambda: "start request repeated too quickly" in device.host.journal("-u", UNIT).lower(),
        "the unit has given up",
    )
    until(
        lambda: device.host.show("fleetfoot-worker.service", "InvocationID")["InvocationID"] != runs,
        "the worker was woken",
    )


def test_what_happens_after_the_commit_is_told_and_never_undone(start: Start) -> None:
    device = start(window=60.0)
    at_rest = "inactive"
    until(lambda: state_of(device, "fleetfoot-worker.service") == at_rest, "the worker has had its look")
    before = device.record()

    def alarms() -> tuple[str, ...]:
        device.host.path("/run/fleetfoot/wake/now").touch()
        device.host.run("systemctl", "start", "--wait", "fleetfoot-worker.service")
        return read(Status, device.host.path(f"{SPOOL}/out/status.json").read_bytes()).alarms

    device.host.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
    until(
        lambda: device.unit("NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"},
        "again",
    )
    assert alarms() == (Code.UPGRADE_BOOT_FAILED,)
    with device.host.path(f"{STATE}/{device.current}/bin/kiosk").open("a") as program:
        program.write("# changed\n")
    assert set(alarms()) == {Code.UPGRADE_BOOT_FAILED, Code.UPGRADE_TREE_MISMATCH}
    assert device.record() == before
    assert device.unit("NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}


def state_of(device: Device, unit: str) -> str:
    return device.host.show(unit, "ActiveState")["ActiveState"]

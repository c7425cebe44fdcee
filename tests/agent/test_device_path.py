"""One whole device against a real broker and artifact server, ordered about by a hand-held director."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fleet import Bundle, Director, House, everybody
from tests.support.waiting import until

from fleetfoot_agent.layout import Layout
from fleetfoot_manager.artifacts import ArtifactServer
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.reports import ComponentStatus, Status
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import HostedDevice, Pace, free_ports, set_up

GROUP = "g-one"
DEVICE = "dev-001"


class Stage:
    """Broker, artifacts, director and one device that runs kiosk 1.0.0."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.broker = EmbeddedBroker()
        host, port = self.broker.start()
        self.url = f"mqtt://{host}:{port}"
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        self.artifacts = ArtifactServer(self.blobs)
        self.director = Director(self.house, host, port, self.artifacts.start())
        pace = Pace(window=1.2, settle=0.3)
        device = set_up(
            folder / DEVICE, DEVICE, GROUP, self.url, self.house.root_envelope, free_ports(1)[0], pace=pace
        )
        self.device = HostedDevice(device)
        self.layout = Layout(device.config.install_root, kiosk.COMPONENT)

    def offer(self, version: str, *, dies: bool = False) -> Bundle:
        bundle = self.house.release(version, dies=dies)
        for blob in (bundle.path / "blobs").iterdir():
            (self.blobs / blob.name).write_bytes(blob.read_bytes())
        self.director.release(bundle)
        return bundle

    def status(self) -> Status | None:
        found = self.director.statuses(GROUP, DEVICE, self.device.device.public)
        return max(found, key=lambda s: s.counter, default=None)

    def component(self) -> ComponentStatus | None:
        status = self.status()
        return status.components[kiosk.COMPONENT] if status else None

    def runs(self, version: str) -> bool:
        found = self.component()
        return bool(
            found and found.running and found.running.version == version and found.state is Lifecycle.IDLE
        )

    def close(self) -> None:
        self.device.power_off()
        self.director.close()
        self.artifacts.stop()
        self.broker.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    stage.device.power_on()
    try:
        assert stage.device.install(stage.offer("1.0.0").path) == 0
        stage.device.connect()
        until(lambda: stage.runs("1.0.0"), "the device reports 1.0.0")
        yield stage
    finally:
        stage.close()


def test_a_signed_order_is_carried_out_and_attested(stage: Stage) -> None:
    bundle = stage.offer("1.1.0")
    order = stage.director.order(GROUP, everybody("r-0001", bundle.goal()))
    until(lambda: stage.runs("1.1.0"), "the device reports 1.1.0")
    found = stage.component()
    assert found is not None
    assert found.running is not None
    assert found.running.digest == bundle.digest
    assert found.previous is not None
    assert found.previous.version == "1.0.0"
    outcome = found.outcomes[-1]
    assert (outcome.rollout, outcome.attempt, outcome.outcome) == ("r-0001", 1, Outcome.COMPLETED)
    assert found.answered is not None
    assert (found.answered.sequence, found.answered.verdict) == (order.sequence, Verdict.ACCEPTED)
    assert stage.layout.read_current() == f"versions/1.1.0-{bundle.digest[:8]}"
    assert stage.layout.read_trial() is None
    names = [e["type"].removeprefix("dev.fleetfoot.upgrade_") for e in stage.director.events(GROUP, DEVICE)]
    course = ["started", "downloaded", "verified", "staged", "activated", "health_check", "completed"]
    assert names[-len(course) :] == course


def test_a_version_that_dies_comes_back_and_is_refused_although_it_stays_retained(stage: Stage) -> None:
    bad = stage.offer("1.2.0", dies=True)
    before = stage.layout.read_current()
    stage.director.order(GROUP, everybody("r-0002", bad.goal()))
    until(
        lambda: (c := stage.component()) is not None and c.outcomes[-1].outcome is Outcome.ROLLED_BACK,
        "the device reports that it went back",
    )
    until(lambda: stage.runs("1.0.0"), "1.0.0 runs again")
    found = stage.component()
    assert found is not None
    assert stage.layout.read_current() == before
    assert stage.layout.read_trial() is None
    assert found.refused == {bad.digest: 1}
    assert found.outcomes[-1].code == Code.UPGRADE_BOOT_FAILED
    assert found.answered is not None
    assert (found.answered.verdict, found.answered.code) == (Verdict.REJECTED, Code.UPGRADE_REFUSED_BEFORE)
    # The message is still retained: a device that comes back reads it again, and leaves what runs alone.
    started = len([e for e in stage.director.events(GROUP, DEVICE) if e["type"].endswith("upgrade_started")])
    stage.device.disconnect()
    stage.device.connect()
    until(lambda: stage.device.connected, "the device is back")
    order = stage.director.order(GROUP, everybody("r-0002", bad.goal()))
    until(
        lambda: (c := stage.component()) is not None and c.answered and c.answered.sequence == order.sequence,
        "the device answers the repeated order",
    )
    assert stage.runs("1.0.0")
    again = [e for e in stage.director.events(GROUP, DEVICE) if e["type"].endswith("upgrade_started")]
    assert len(again) == started
    # A corrected release under the same rollout's group is installed.
    good = stage.offer("1.2.1")
    stage.director.order(GROUP, everybody("r-0003", good.goal()))
    until(lambda: stage.runs("1.2.1"), "the corrected release runs")


def test_a_withdrawn_release_is_left_for_the_way_back(stage: Stage) -> None:
    bundle = stage.offer("1.1.0")
    stage.director.order(GROUP, everybody("r-0001", bundle.goal()))
    until(lambda: stage.runs("1.1.0"), "the device reports 1.1.0")
    stage.director.order(GROUP, withdrawn=(bundle.digest,))
    until(lambda: stage.runs("1.0.0"), "the device went back to 1.0.0")
    found = stage.component()
    assert found is not None
    assert found.previous is None  # it is no way back to return to what was withdrawn
    assert found.refused == {}


def test_an_order_signed_by_somebody_else_changes_nothing_and_is_told(stage: Stage) -> None:
    bundle = stage.offer("1.1.0")
    document = stage.director.desired(GROUP, everybody("r-0001", bundle.goal()))
    stage.director.publish(
        f"ff/v1/groups/{GROUP}/desired/{kiosk.COMPONENT}", stage.director.sign(document, key="alice")
    )
    until(
        lambda: (
            (c := stage.component()) is not None
            and c.last_error is not None
            and c.last_error.code == Code.UPGRADE_IDENTITY_NOT_ALLOWED
        ),
        "the refusal is in the status",
    )
    assert stage.runs("1.0.0")
    assert not any(
        "started" in e["type"] for e in stage.director.events(GROUP, DEVICE)[1:] if "1.1.0" in str(e)
    )

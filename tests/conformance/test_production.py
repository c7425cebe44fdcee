"""The main job on Mosquitto as we ship it: TLS, certificates, access lists, each part with its own rights."""

import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.mosquitto import Production
from tests.conformance.secure import SecureTown
from tests.support.waiting import until

from fleetfoot_sim.scene import GOOD

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def town(tmp_path: Path) -> Iterator[SecureTown]:
    # At this level of detail it tells of each message that it denies.
    broker = Production(tmp_path / "broker", "log_type debug\n")
    broker.start()
    try:
        town = SecureTown(tmp_path, broker)
        try:
            town.open()
            yield town
        finally:
            town.close()
    finally:
        broker.end(signal.SIGTERM)


def test_a_fleet_upgrades_itself_and_nobody_needs_more_rights_than_the_lists_give(town: SecureTown) -> None:
    broker = town.secure
    assert isinstance(broker, Production)
    town.add("dev-001", "dev-002")
    town.hosted["dev-002"].disconnect()
    town.publish(GOOD)
    rollout = town.rollout(GOOD, "--immediate", "--settle", "0")

    def runs(device: str) -> bool:
        shown = town.fleetfoot("device", "show", device)
        return bool(shown["components"]["kiosk"]["version"] == GOOD)

    until(lambda: runs("dev-001"), "dev-001 runs the new version", seconds=60)
    # The broker is killed; what it had not written is published again.
    broker.end(signal.SIGKILL)
    broker.start()
    town.hosted["dev-002"].connect()
    until(lambda: runs("dev-002"), "dev-002 runs the new version", seconds=60)
    until(lambda: town.state(rollout) == "completed", "the rollout is complete", seconds=60)
    shown = town.fleetfoot("device", "show", "dev-002")
    assert shown["online"] is True
    assert town.answer("dev-002") == f"kiosk {GOOD}\n"
    # Artifacts came by TLS, which a stranger has too, but to devices alone.
    stranger = ssl.create_default_context(cafile=str(town.operator.ca))
    url = f"https://127.0.0.1:{town.artifact_port}/blobs/{'0' * 64}"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(url, context=stranger)
    log = broker.log.read_text()
    assert "Received PUBLISH from dev-001" in log
    assert "Denied PUBLISH" not in log

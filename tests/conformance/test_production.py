"""The main job on Mosquitto as we ship it: TLS, certificates, access lists, each part with its own rights."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.mosquitto import Identity, Production
from tests.end_to_end.town import FLEETFOOT, Town
from tests.support.waiting import until

from fleetfoot_client.broker.rights import Role
from fleetfoot_sim.devices import HostedDevice, ProcessDevice
from fleetfoot_sim.scene import GOOD, OPERATOR

pytestmark = pytest.mark.needs("mosquitto")


class SecureTown(Town):
    """A town whose parts connect by TLS, each with a certificate of its role."""

    def __init__(self, folder: Path, broker: Production) -> None:
        super().__init__(folder)
        self.production = broker
        manager = broker.issue(Role.MANAGER, "manager")
        at = self.manager.command.index("--listen")
        self.manager.command[at : at + 2] = ["--broker", manager.url, "--broker-ca", str(manager.ca)]
        self.manager.command += ["--broker-cert", str(manager.cert), "--broker-key", str(manager.key)]
        self.operator = broker.issue(Role.OPERATOR, OPERATOR)

    def profile(self) -> None:
        """Set up the operator's profile, as docs/brokers.md shows."""
        who = self.operator
        words = ["profile", "set", "kitchens", "--broker", who.url, "--operator", OPERATOR]
        words += ["--key", str(self.scene.operator_key), "--root", str(self.scene.root)]
        words += ["--ca-file", str(who.ca), "--cert-file", str(who.cert), "--cert-key-file", str(who.key)]
        self.fleetfoot(*words)

    def fleetfoot(self, *arguments: str, status: int = 0) -> Any:
        environ = {**os.environ, "FLEETFOOT_CONFIG_DIR": str(self.folder / "profile")}
        command = [FLEETFOOT, *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=90, check=False)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def _boot(self, device: HostedDevice | ProcessDevice) -> None:
        assert isinstance(device, HostedDevice)
        who = self.production.issue(Role.DEVICE, device.device.config.device)
        device.device = replace(device.device, config=_secured(device.device.config, who))
        super()._boot(device)


def _secured(config: Any, who: Identity) -> Any:
    broker = replace(
        config.broker, port=who.port, tls=True, ca_file=who.ca, cert_file=who.cert, key_file=who.key
    )
    return replace(config, broker=broker)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[SecureTown]:
    # At this level of detail it tells of each message that it denies.
    broker = Production(tmp_path / "broker", "log_type debug\n")
    broker.start()
    try:
        town = SecureTown(tmp_path, broker)
        try:
            town.open()
            town.profile()
            yield town
        finally:
            town.close()
    finally:
        broker.end(signal.SIGTERM)


def test_a_fleet_upgrades_itself_and_nobody_needs_more_rights_than_the_lists_give(town: SecureTown) -> None:
    town.add("dev-001", "dev-002")
    town.hosted["dev-002"].disconnect()
    town.publish(GOOD)
    rollout = town.rollout(GOOD, "--immediate", "--settle", "0")

    def runs(device: str) -> bool:
        shown = town.fleetfoot("device", "show", device)
        return bool(shown["components"]["kiosk"]["version"] == GOOD)

    until(lambda: runs("dev-001"), "dev-001 runs the new version", seconds=60)
    # The broker is killed; what it had not written is published again.
    town.production.end(signal.SIGKILL)
    town.production.start()
    town.hosted["dev-002"].connect()
    until(lambda: runs("dev-002"), "dev-002 runs the new version", seconds=60)
    until(lambda: town.state(rollout) == "completed", "the rollout is complete", seconds=60)
    shown = town.fleetfoot("device", "show", "dev-002")
    assert shown["online"] is True
    assert town.answer("dev-002") == f"kiosk {GOOD}\n"
    log = town.production.log.read_text()
    assert "Received PUBLISH from dev-001" in log
    assert "Denied PUBLISH" not in log

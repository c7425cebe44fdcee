"""Row 81 of the catalogue once per broker: a fleet of simulated devices outlives its broker."""

import os
import signal
import time
from pathlib import Path

import pytest
from bench.house import ManagerHouse
from bench.staged import SimulatedFleet
from tests.attack.rows import row
from tests.conformance.brokers import MAKERS, ON, Server
from tests.conformance.conftest import Split
from tests.support.waiting import until

from fleetfoot_sim.devices import free_ports

#: `FLEETFOOT_AGENTS=10000` for the long form.
AGENTS = int(os.environ.get("FLEETFOOT_AGENTS", "15"))


@row(
    81,
    "the broker killed and emptied in the middle of a rollout over a connected fleet",
    "all run the new release within five minutes, nobody installs twice",
)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ON)
def test_row_81_a_fleet_outlives_its_broker(tmp_path: Path, name: str, split: Split) -> None:
    (port,) = free_ports(1)
    server: Server = MAKERS[name](tmp_path / "broker", port)
    server.start()
    try:
        folder = tmp_path / "house"
        folder.mkdir()
        with ManagerHouse(folder, port) as house:
            house.enroll(AGENTS)
            house.tool("group", "policy", house.group, "--approval", "never")
            fleet = SimulatedFleet(house, port, AGENTS, 0, "--work", "3")
            try:
                house.wait_online(AGENTS)
                words = ["--component", house.component, "--version", "1.1.0", "--group", house.group]
                started = house.tool(
                    "rollout", "start", "--quiet", *words, "--immediate", "--settle", "0s"
                ).strip()
                until(lambda: fleet.now()["begun"] > 0, "the fleet begins")
                server.end(signal.SIGKILL)
                server.empty()
                began = time.monotonic()
                server.start()
                split(81, name, False)
                # Read from the store: a broker that has no leader yet brings no answer to a question.
                until(lambda: house.rollout_state(started) == "completed", "it is complete", seconds=300)
                assert time.monotonic() - began < 300
                until(lambda: fleet.now()["running"] == {"1.1.0": AGENTS}, "all run it")
                assert (fleet.now()["completed"], fleet.now()["repeated"]) == (AGENTS, 0)
            finally:
                fleet.stop()
    finally:
        server.end(signal.SIGKILL)

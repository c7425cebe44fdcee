"""A staged rollout of a whole simulated fleet end to end, through a real manager and a real broker: what it
costs in messages, bytes, processor and memory, for each device, and how it survives a broken broker.

Waves of 1, 10 and 100 %, nothing to wait for in between, no device fails. Then the broker is killed and
starts empty with everybody connected: how long until the manager knows all devices again, and whether any of
them installs again. Then the manager is restarted.
"""

import json
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import Cost, Figure, cost_of, more_files, until
from bench.house import FLEETFOOT, ManagerHouse
from bench.setting import Broker, Setting, broker, store

#: The broker writes its counts once a second (bench.common.mosquitto).
_SYS_SECONDS = 2.5
_DEFAULT = Setting()


class SimulatedFleet:
    """`fleetfoot sim` as a process."""

    def __init__(self, house: ManagerHouse, port: int, devices: int, connections: int, *more: str) -> None:
        self.log = house.folder / "sim.log"
        command = [FLEETFOOT, "sim", "--devices", str(devices), "--group", house.group, "--component"]
        command += [house.component, "--broker", f"mqtt://127.0.0.1:{port}", "--root", str(house.root)]
        command += ["--running", str(house.bundle("1.0.0")), "--json", "--work", "0.2"]
        command += ["--connections", str(connections), *more]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def now(self) -> dict[str, Any]:
        """What it said last."""
        lines = [
            line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")
        ]
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        if self.process.poll() is not None:
            raise RuntimeError(self.log.read_text()[-2000:])
        return found

    def stop(self) -> None:
        """Let every device leave, and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def _broker_counts(port: int) -> dict[str, int]:
    """Packets, and bytes of what was published, that Mosquitto has seen. It has a count of messages, too, but
    leaves retained ones out of it."""
    names = {
        "in": "$SYS/broker/messages/received",
        "out": "$SYS/broker/messages/sent",
        "bytes_in": "$SYS/broker/publish/bytes/received",
        "bytes_out": "$SYS/broker/publish/bytes/sent",
    }
    time.sleep(_SYS_SECONDS)
    found = {}
    for key, topic in names.items():
        done = subprocess.run(
            ["mosquitto_sub", "-p", str(port), "-t", topic, "-C", "1", "-W", "15"],
            capture_output=True,
            text=True,
        )
        found[key] = int(done.stdout.strip() or 0)
    return found


def figures(quick: bool, setting: Setting = _DEFAULT) -> list[Figure]:
    """Everything of one fleet."""
    devices = setting.devices or (300 if quick else 10_000)
    more_files()
    with tempfile.TemporaryDirectory() as text:
        return whole(Path(text), devices, setting=setting)


def whole(folder: Path, devices: int, connections: int = 0, *, setting: Setting = _DEFAULT) -> list[Figure]:
    """A fleet of so many devices, over so many connections (0: one each)."""
    found: list[Figure] = []
    with (
        broker(setting, folder / "broker") as server,
        store(setting) as url,
        ManagerHouse(folder, server.port, url) as house,
    ):
        enrolling = house.enroll(devices)
        found.append(Figure("enrolling", devices / enrolling, "devices/s"))
        house.tool("group", "policy", house.group, "--approval", "never")
        fleet = SimulatedFleet(house, server.port, devices, connections)
        try:
            until(
                lambda: fleet.now().get("connected") == (connections or devices),
                "the fleet is connected",
                600,
            )
            house.wait_online(devices, 600)
            found += _rollout(house, fleet, server, devices, counted=setting.broker == "mosquitto")
            found += _broken(folder, house, fleet, server, setting, devices)
        finally:
            fleet.stop()
    return found


def _rollout(
    house: ManagerHouse, fleet: SimulatedFleet, server: Broker, devices: int, *, counted: bool
) -> list[Figure]:
    counts = _broker_counts(server.port) if counted else {}
    at_manager, at_broker = cost_of(house.pid), server.cost
    stored, before = house.store_bytes(), fleet.now()
    began = time.monotonic()
    words = [
        "--component",
        house.component,
        "--version",
        "1.1.0",
        "--group",
        house.group,
        "--settle",
        "0s",
        "--reply-timeout",
        "300s",
        # Else who waits long in the queue of a manager that is behind would count as silent.
        "--device-timeout",
        "1h",
    ]
    name = house.tool("rollout", "start", "--quiet", *words, "--waves", "1%,10%,100%").strip()
    # Looked up in the store: to ask the manager again and again would be among its costs.
    until(partial(_completed, house, name), "the rollout is complete", 1800, every=0.1)
    seconds = time.monotonic() - began
    after = _broker_counts(server.port) if counted else {}
    manager, at_end = cost_of(house.pid), server.cost
    grown = house.store_bytes() - stored
    # It tells each second.
    until(lambda: fleet.now()["completed"] >= devices, "the fleet says that all are done", 30, every=0.1)
    shown = fleet.now()
    if shown["completed"] != devices or shown["repeated"]:
        raise RuntimeError(f"not every device has installed once: {shown}")

    def used(now: Cost, then: Cost) -> float:
        return (now.cpu - then.cpu) / devices * 1000

    said = (shown["statuses"] - before["statuses"]) / devices
    per = {key: (after[key] - counts[key]) / devices for key in counts}
    return [
        Figure("rollout in three waves, start to complete", seconds, "s", note=f"{devices} devices"),
        Figure("statuses, each with its attestation", said, "a device"),
        *_traffic(per),
        Figure("processor of the manager", used(manager, at_manager), "ms a device"),
        Figure("processor of the broker", used(at_end, at_broker), "ms a device"),
        Figure("memory of the manager", manager.rss, "MiB"),
        Figure("memory of the broker", at_end.rss, "MiB"),
        Figure("the store grows by", grown / devices, "B a device and rollout"),
    ]


def _completed(house: ManagerHouse, name: str) -> bool:
    state = house.rollout_state(name)
    if state in ("tripped", "aborted", "canceled", "expired"):
        raise RuntimeError(f"the rollout is {state}")
    return state == "completed"


def _traffic(per: dict[str, float]) -> list[Figure]:
    """What went through the broker for each device; nothing where the broker does not count it."""
    if not per:
        return []
    return [
        Figure("packets to the broker", per["in"], "a device", note="acknowledgements included"),
        Figure("packets from the broker", per["out"], "a device", note="acknowledgements included"),
        Figure("bytes to the broker", per["bytes_in"] / 1024, "KiB a device"),
        Figure("bytes from the broker", per["bytes_out"] / 1024, "KiB a device"),
    ]


def _broken(
    folder: Path,
    house: ManagerHouse,
    fleet: SimulatedFleet,
    server: Broker,
    setting: Setting,
    devices: int,
) -> list[Figure]:
    before = fleet.now()
    server.kill()
    mark = time.time()
    began = time.monotonic()
    with broker(setting, folder / "again", server.port):
        until(lambda: house.seen_since(mark) >= devices, "everybody was heard again", 600)
        house.wait_online(devices, 600)
        again = time.monotonic() - began
        shown = fleet.now()
        repeated = shown["begun"] - before["begun"]
        house.stop()
        start = house.start()
        house.wait_online(devices, 600)
    note = f"{devices} devices connected; repeated installs: {repeated}"
    aim = "five minutes (row 81)"
    what = "broker killed and emptied: until all are known again"
    return [
        Figure(what, again, "s", 300.0, aim, at_most=1.0, note=note),
        Figure("manager restarted: until it is ready", start, "s", note=f"{devices} known devices"),
    ]

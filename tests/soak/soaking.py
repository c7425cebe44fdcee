"""Rollout after rollout over a simulated fleet with faults: memory and descriptors of the manager stay flat.

Each round publishes a new release and rolls it out at once. Some devices lose their connection every few
seconds, some are slow; every fifth time the broker ends and starts empty. After the first third nothing
may grow any more but what one round needs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.common import cost_of, free_port, mosquitto, until
from bench.house import ManagerHouse
from bench.staged import SimulatedFleet

#: What may be gained beside a tenth: caches of the interpreter and of SQLite, MiB.
_ROOM = 12.0
_DESCRIPTORS = 8
_FAULTS = ("--flapping", "0.02", "--slow", "0.02", "--lying", "0.01")


@dataclass(frozen=True)
class Sample:
    """The manager after a round: MiB resident, open files."""

    round: int
    memory: float
    files: int


def grown(samples: list[Sample]) -> list[str]:
    """What is not flat, in words. The first third is warm-up."""
    late = samples[len(samples) // 3 :]
    if len(late) < 2:
        return ["too few rounds to tell"]
    begin, end = late[0], late[-1]
    found = []
    if end.memory > begin.memory * 1.1 + _ROOM:
        found.append(
            f"memory: {begin.memory:.0f} MiB after round {begin.round}, {end.memory:.0f} after {end.round}"
        )
    if end.files > begin.files + _DESCRIPTORS:
        found.append(f"open files: {begin.files} after round {begin.round}, {end.files} after {end.round}")
    return found


def soak(folder: Path, devices: int, seconds: float, tell: Callable[[str], None]) -> list[Sample]:
    """Rounds for so long; RuntimeError if one does not come to its end, or a device installs twice."""
    samples: list[Sample] = []
    port = free_port()
    broker = mosquitto(folder / "broker", port)
    broker.__enter__()
    try:
        with ManagerHouse(folder, port) as house:
            house.enroll(devices)
            house.tool("group", "policy", house.group, "--approval", "never")
            fleet = SimulatedFleet(house, port, devices, 0, *_FAULTS)
            try:
                house.wait_online(devices * 9 // 10)
                over = time.monotonic() + seconds
                while time.monotonic() < over or len(samples) < 3:
                    number = len(samples) + 1
                    if number % 5 == 0:
                        broker.__exit__(None, None, None)
                        broker = mosquitto(folder / "broker", port)
                        broker.__enter__()
                    _round(house, number)
                    if fleet.now()["repeated"]:
                        raise RuntimeError(f"a device installed twice: {fleet.now()}")
                    files = len(list(Path(f"/proc/{house.pid}/fd").iterdir()))
                    samples.append(Sample(number, cost_of(house.pid).rss, files))
                    tell(f"round {number}: {samples[-1].memory:.0f} MiB, {files} files")
            finally:
                fleet.stop()
    finally:
        broker.__exit__(None, None, None)
    return samples


def _round(house: ManagerHouse, number: int) -> None:
    version = f"1.{number + 1}.0"
    house.release(version)
    house.tool("release", "publish", str(house.bundle(version)), "--bless")
    words = ["--component", house.component, "--version", version, "--group", house.group]
    name = house.tool("rollout", "start", "--quiet", *words, "--immediate", "--settle", "0s").strip()
    until(lambda: house.ask("rollout", "show", name)["state"] == "completed", f"{version} is everywhere", 300)

"""Rollout after rollout over a simulated fleet with faults: memory and descriptors of the manager stay flat.

Each round publishes a new release and rolls it out at once. Some devices lose their connection every few
seconds, some are slow, some come back from every release, some take every order for expired, since their
clock is wrong; every fifth time the broker ends and starts empty.

Flat: the first third is warm-up. Of the rest the trend is taken, the median of the slopes between every two
rounds, which neither a single peak nor a late sample can bend; over all of these rounds it may gain no more
than an interpreter and SQLite gain by chance.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from bench.common import cost_of, free_port, mosquitto, until
from bench.house import ManagerHouse
from bench.staged import SimulatedFleet

#: What may be gained from the end of the warm-up to the end: MiB and a part of what is resident; files.
_ROOM = 12.0
_SHARE = 0.05
_DESCRIPTORS = 4.0
#: Fewer rounds show no trend; so many have a broker that was emptied among them.
LEAST_ROUNDS = 7
_BROKER_ENDS = 5
#: How long one round may take, on a machine that has much else to do.
_ROUND_SECONDS = 300
_FAULTS = ("--flapping", "0.02", "--slow", "0.02", "--fail", "0.01", "--lying", "0.01")


@dataclass(frozen=True)
class Sample:
    """The manager after a round: seconds since the beginning, MiB resident, open files."""

    round: int
    memory: float
    files: int
    seconds: float = 0.0


def trend(values: list[float]) -> float:
    """What they gain from the first to the last, by the median of the slopes between every two of them."""
    slopes = ((later - earlier) / (n - m) for (m, earlier), (n, later) in combinations(enumerate(values), 2))
    return statistics.median(slopes) * (len(values) - 1)


def grown(samples: list[Sample]) -> list[str]:
    """What is not flat, in words. The first third is warm-up."""
    late = samples[len(samples) // 3 :]
    if len(samples) < LEAST_ROUNDS:
        return [f"too few rounds to tell: {len(samples)}, it takes {LEAST_ROUNDS}"]
    found, span = [], f"from round {late[0].round} to {late[-1].round}"
    memory, files = [one.memory for one in late], [float(one.files) for one in late]
    if (gain := trend(memory)) > _ROOM + _SHARE * memory[0]:
        found.append(f"memory: it gains {gain:.0f} MiB on {memory[0]:.0f} {span}")
    if (gain := trend(files)) > _DESCRIPTORS:
        found.append(f"open files: they gain {gain:.0f} on {files[0]:.0f} {span}")
    return found


def soak(folder: Path, devices: int, seconds: float, tell: Callable[[str], None]) -> list[Sample]:
    """Rounds for so long, and as many as show a trend; RuntimeError if one does not come to its end, or a
    device installs twice."""
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
                began = time.monotonic()
                while time.monotonic() < began + seconds or len(samples) < LEAST_ROUNDS:
                    number = len(samples) + 1
                    if number % _BROKER_ENDS == 0:
                        broker.__exit__(None, None, None)
                        broker = mosquitto(folder / "broker", port)
                        broker.__enter__()
                    _round(house, fleet, number)
                    samples.append(_sample(house, number, time.monotonic() - began))
                    tell(json.dumps({**vars(samples[-1]), "fleet": cost_of(fleet.process.pid).rss}))
            finally:
                fleet.stop()
    finally:
        broker.__exit__(None, None, None)
    return samples


def _sample(house: ManagerHouse, number: int, seconds: float) -> Sample:
    files = len(list(Path(f"/proc/{house.pid}/fd").iterdir()))
    return Sample(number, round(cost_of(house.pid).rss, 1), files, round(seconds, 1))


def _round(house: ManagerHouse, fleet: SimulatedFleet, number: int) -> None:
    version = f"1.{number + 1}.0"
    house.release(version)
    house.tool("release", "publish", str(house.bundle(version)), "--bless", "--reply-timeout", "120s")
    words = ["--component", house.component, "--version", version, "--group", house.group]
    words += ["--immediate", "--settle", "0s", "--breaker", "0", "--reply-timeout", "120s"]
    name = house.tool("rollout", "start", "--quiet", *words).strip()

    def ended() -> bool:
        if fleet.now()["repeated"]:
            raise RuntimeError(f"a device installed twice: {fleet.now()}")
        # Looked up in the store: to ask the manager again and again would be among its costs.
        return house.rollout_state(name) == "completed"

    until(ended, f"the rollout of {version} is complete", _ROUND_SECONDS, every=0.1)

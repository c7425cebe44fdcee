"""What the store needs for a device: when it is enrolled, with its newest status, and for each rollout; and
from these, computed, what it needs after a year.

Everything is written by a real manager for simulated devices, which take part in three rollouts. The last one
counts, and what the others left beyond it is the status, which says more after a rollout than before. Counted
are pages that are in use; the file itself, and its log, are larger for a while. A status replaces the one
before; nothing of a device but the end of each of its rollouts is kept for good, so years differ in rollouts.
"""

import tempfile
from pathlib import Path

from bench.common import Figure, more_files, mosquitto, until
from bench.house import ManagerHouse
from bench.staged import SimulatedFleet

#: Rollouts that a device takes part in: one a month, and one a week.
_A_YEAR = (12, 52)
#: Devices run 1.0.0 at first; the house has the first of these already.
_VERSIONS = ("1.1.0", "1.2.0", "1.3.0")


def figures(quick: bool) -> list[Figure]:
    """For each device of one fleet."""
    devices = 200 if quick else 5_000
    more_files()
    with tempfile.TemporaryDirectory() as text:
        return _figures(devices, *_measured(Path(text), devices))


def _measured(folder: Path, devices: int) -> tuple[float, float, float]:
    """Bytes for each device: enrolled, its status, a rollout."""
    with mosquitto(folder / "broker") as (port, _), ManagerHouse(folder, port) as house:
        sizes = [house.used_bytes()]
        house.enroll(devices)
        sizes.append(house.used_bytes())
        house.tool("group", "policy", house.group, "--approval", "never")
        for version in _VERSIONS[1:]:
            house.release(version)
            house.tool("release", "publish", str(house.bundle(version)), "--bless")
        fleet = SimulatedFleet(house, port, devices, 0)
        try:
            house.wait_online(devices)
            for version in _VERSIONS:
                _roll_out(house, version)
                sizes.append(house.used_bytes())
        finally:
            fleet.stop()
    nobody, enrolled, *_, before, after = sizes
    rollout = after - before
    status = before - enrolled - (len(_VERSIONS) - 1) * rollout
    return (enrolled - nobody) / devices, status / devices, rollout / devices


def _roll_out(house: ManagerHouse, version: str) -> None:
    words = ["--component", house.component, "--version", version, "--group", house.group, "--immediate"]
    name = house.tool("rollout", "start", "--quiet", *words, "--reply-timeout", "300s").strip()
    until(lambda: house.rollout_state(name) == "completed", f"the rollout of {version} is complete", 600)


def _figures(devices: int, enrolled: float, status: float, rollout: float) -> list[Figure]:
    note = f"{devices} devices"
    years = [
        Figure(f"after a year with {times} rollouts", (enrolled + status + times * rollout) / 1024,
               "KiB a device", note="computed")
        for times in _A_YEAR
    ]  # fmt: skip
    return [
        Figure("enrolled", enrolled, "B a device", note=note),
        Figure("its newest status", status, "B a device"),
        Figure("each rollout", rollout, "B a device", note="the last one of three"),
        *years,
    ]

"""A manager that knows 100 000 devices: how long a start takes, and what the store needs for each of them."""

import json
import sqlite3
import tempfile
import time
from pathlib import Path

from bench.common import Figure, cost_of, mosquitto
from bench.house import ManagerHouse

_ROUNDS = 3


def figures(quick: bool) -> list[Figure]:
    """Start with nobody, then with many."""
    devices = 2_000 if quick else 100_000
    with (
        tempfile.TemporaryDirectory() as text,
        mosquitto(Path(text) / "broker") as (port, _),
        ManagerHouse(Path(text), port) as house,
    ):
        house.stop()
        alone, alone_cost = _start(house)
        before = house.store_bytes()
        _fill(house, devices)
        grown = house.store_bytes() - before
        many, many_cost = _start(house)
        house.start()
        began = time.monotonic()
        shown = house.ask("device", "list", "--group", "nobody")
        answered = time.monotonic() - began
        memory = cost_of(house.pid).rss
    assert shown["devices"] == []  # noqa: S101 - a group without devices
    return [
        Figure(f"ready with {devices} known devices", many, "s", alone, "a start with none", at_most=2.0),
        Figure("processor until then", many_cost, "s", alone_cost, "a start with none", at_most=2.0,
               note="what a machine with other work cannot change"),
        Figure("first answer after that", answered, "s", note="a whole command, its start included"),
        Figure("memory after the start", memory, "MiB"),
        Figure("store", grown / devices, "B a device", note="enrolment and newest status"),
    ]  # fmt: skip


def _start(house: ManagerHouse) -> tuple[float, float]:
    """Seconds until it is ready, and seconds of processor; of three starts the best."""
    seconds, costs = [], []
    for _ in range(_ROUNDS):
        seconds.append(house.start())
        costs.append(cost_of(house.pid).cpu)
        house.stop()
    return min(seconds), min(costs)


def _fill(house: ManagerHouse, devices: int) -> None:
    """Put devices with a status each into the store, which nobody has open."""
    status = json.dumps({"filler": "x" * 900}).encode()
    rows = (
        (f"known-{n:06}", "known", f"{n:064x}", "{}", time.time(), status, f"{n:064x}")
        for n in range(devices)
    )
    connection = sqlite3.connect(house.folder / "m" / "manager.sqlite3")
    with connection:
        connection.executemany(
            'insert into devices (id, "group", key, labels, enrolled, status, status_sha256, past, online)'
            " values (?, ?, ?, ?, ?, ?, ?, '{}', 0)",
            rows,
        )
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()

"""One wave: from the signed desired state to the last device that has obeyed it, against a raw fan-out of the
same payload to as many plain subscribers on the same broker.

Devices are simulated, each with its own connection, in one process: it verifies equal bytes once, and decides
for each device. To obey takes reading the manifest too, and ends with the status that says so, signed by the
device: that is processor time of devices, which a real fleet has in parallel. So three moments are told.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.common import Figure, more_files
from bench.house import ManagerHouse
from bench.setting import Setting, broker
from fleetfoot_manager import collector
from fleetfoot_manager.director import read_key
from fleetfoot_protocol import dsse, times, topics
from fleetfoot_protocol.documents import Desired, Goal, Target
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.load.device import Place
from fleetfoot_sim.load.fleet import Fleet, Plan
from fleetfoot_sim.load.mqtt import Connection
from fleetfoot_sim.load.shapes import Shapes
from fleetfoot_sim.load.verifier import Verifier

_PER_ADDRESS = 4000
_ROUNDS = 3
_DEFAULT = Setting()


async def _until(look: Callable[[], bool], what: str, seconds: float = 300.0) -> float:
    """Wait until `look()` is true; the moment it was."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:g} s in vain: {what}")
        await asyncio.sleep(0.001)
    return time.monotonic()


def _heard(fleet: Fleet, documents: int) -> bool:
    return fleet.counts.documents >= documents


class _Order:
    """Signs desired states of a fleet, each newer than the one before."""

    def __init__(self, house: ManagerHouse, secret: bytes, group: str) -> None:
        self._house, self._secret, self._group = house, secret, group
        self._sequence = int(time.time() * 1000)

    def payload(self, *, hold: bool) -> bytes:
        """Everybody, the new release."""
        new = self._house.installed("1.1.0")
        goal = Goal(version=new.version, counter=new.counter, digest=new.digest, length=1000)
        target = Target(rollout="r-bench", goal=goal, salt="r-bench", stage_cut="all", activate_cut="all")
        self._sequence += 1
        desired = Desired(
            fleet=self._house.trust_root.fleet,
            group=self._group,
            component=self._house.component,
            epoch=self._house.trust_root.epoch,
            sequence=self._sequence,
            issued=times.to_text(time.time()),
            expires=times.to_text(time.time() + 86400),
            targets=(target,),
            hold=hold,
        )
        return dsse.encode(dsse.sign(PayloadType.DESIRED, desired.payload(), self._secret))


def _all_have(readers: list[Connection], messages: int) -> bool:
    return all(reader.received >= messages for reader in readers)


class _Lap(NamedTuple):
    """What one message to all of them took: seconds, and seconds of this process's processor."""

    seconds: float
    cpu: float


async def _lap(publish: Callable[[], None], over: Callable[[], bool], what: str) -> _Lap:
    """From a publication until `over()`."""
    began, used = time.monotonic(), time.process_time()
    publish()
    return _Lap(await _until(over, what) - began, time.process_time() - used)


def _best(laps: list[_Lap]) -> _Lap:
    """The shortest, and the least of processor."""
    return _Lap(min(lap.seconds for lap in laps), min(lap.cpu for lap in laps))


async def _raw(port: int, count: int, payload: bytes) -> _Lap:
    """Until the last of so many subscribers has a message of those bytes."""
    readers = [Connection(f"raw-{n}", lambda *_: None) for n in range(count)]
    gate = asyncio.Semaphore(200)

    async def one(number: int, reader: Connection) -> None:
        async with gate:
            await reader.open("127.0.0.1", port, f"127.{1 + number // _PER_ADDRESS}.0.1")
        reader.subscribe(["raw/fan-out"])

    await asyncio.gather(*(one(n, reader) for n, reader in enumerate(readers)))
    await _until(lambda: sum(reader.granted for reader in readers) == count, "all have subscribed")
    writer = Connection("raw-writer", lambda *_: None)
    await writer.open("127.0.0.1", port, None)
    publish = partial(writer.publish, "raw/fan-out", payload)
    laps = [
        await _lap(publish, partial(_all_have, readers, turn), "all have it")
        for turn in range(1, _ROUNDS + 1)
    ]
    for connection in (*readers, writer):
        connection.close()
    await asyncio.sleep(0.5)
    return _best(laps)


async def _measure(port: int, house: ManagerHouse, secret: bytes, count: int) -> list[Figure]:
    order = _Order(house, secret, house.group)
    raw = await _raw(port, count, order.payload(hold=False))
    writer = Connection("director", lambda *_: None)
    await writer.open("127.0.0.1", port, None)
    manifest = (house.bundle("1.1.0") / "release.dsse.json").read_bytes()
    new = house.installed("1.1.0")
    writer.publish(
        topics.build(Kind.RELEASE, component=house.component, digest=new.digest), manifest, retain=True
    )
    place = Place(house.group, house.component)
    plan = Plan("127.0.0.1", port, place, count, shapes=Shapes(work=0.0), running=house.running,
                terse=True)  # fmt: skip
    fleet = Fleet(plan, Verifier(house.trust_root))
    fleet.start()
    try:
        await _until(lambda: fleet.connected() == count and fleet.settled(), "all devices are connected")
        collector.calm()  # as `fleetfoot sim` does: else a look for cycles among all devices falls into a lap
        topic = topics.build(Kind.GROUP_DESIRED, group=house.group, component=house.component)
        laps = []
        # Orders on hold: verified and resolved, and after the first of them nothing new to say.
        for _ in range(1 + _ROUNDS):
            before = fleet.counts.documents
            publish = partial(writer.publish, topic, order.payload(hold=True), retain=True)
            laps.append(await _lap(publish, partial(_heard, fleet, before + count), "all have decided"))
            await _until(fleet.settled, "the broker has everything")
        told = _best(laps[1:])
        sent, began = fleet.counts.statuses, time.monotonic()
        writer.publish(topic, order.payload(hold=False), retain=True)
        first = await _until(lambda: fleet.counts.statuses > sent, "the first device acts") - began
        begun = await _until(lambda: fleet.counts.begun >= count, "all have begun") - began
        done = (
            await _until(lambda: fleet.counts.completed >= count and fleet.settled(), "all are done") - began
        )
    finally:
        await fleet.stop()
        writer.close()
    await asyncio.sleep(0.5)
    against = f"raw fan-out to {count}"
    label = f"{count} devices"
    each = 1e6 / count
    shared = f"best of {_ROUNDS}, as the fan-out; equal bytes verified once, decided for each device"
    return [
        Figure(f"{label}: last has verified and decided", told.seconds, "s", raw.seconds, against,
               at_most=1.25, note=shared),
        Figure(f"{label}: processor of the process that is all devices", told.cpu * each, "µs a device",
               raw.cpu * each, "the process that is all subscribers"),
        Figure(f"{label}: last has begun, its status signed and sent", begun, "s", raw.seconds, against,
               note="two Ed25519 signatures, two statuses and a manifest each, in one process"),
        Figure(f"{label}: last is done and the broker has its status", done, "s", raw.seconds, against),
        Figure(f"{label}: publish to first act", first, "s", 1.0, "the aim of one second", at_most=1.0),
    ]  # fmt: skip


def figures(quick: bool, setting: Setting = _DEFAULT) -> list[Figure]:
    """For fleets of several sizes."""
    sizes = [200] if quick else [1_000, 10_000, min(19_000, more_files() - 500)]
    sizes = [setting.devices] if setting.devices else sizes
    more_files()
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        house = ManagerHouse(folder, 0)
        secret = read_key(folder / "m" / "director.key")
        for size in sizes:
            with broker(setting, folder / f"broker-{size}") as server:
                found += asyncio.run(_measure(server.port, house, secret, size))
    return found

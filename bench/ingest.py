"""From the socket to the stored row: how many statuses a second the manager takes in from Mosquitto, against
what `mosquitto_sub` receives of the same messages, with and without attestations.

The messages are real statuses with attestations, of as many devices as there are pairs. They wait on a second
connection's queue at the broker only as long as publishing them takes; both readers read the same stream at
the same QoS, one after the other.
"""

import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.common import Figure, cost_of, until
from bench.house import ManagerHouse
from bench.setting import Setting, broker, store
from fleetfoot_protocol import dsse, keys, topics
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.load.device import Counts, Place, SimulatedDevice
from fleetfoot_sim.load.mqtt import Connection
from fleetfoot_sim.load.shapes import Shapes, nature_of
from fleetfoot_sim.load.verifier import Verifier

_WINDOW = 2000
#: To look more often would take from the manager what it needs.
_LOOK_SECONDS = 0.02
_DEFAULT = Setting()


def _keep(said: list[bytes], _kind: Kind, payload: bytes) -> None:
    said.append(payload)


def _pairs(house: ManagerHouse, devices: int) -> list[tuple[str, bytes, bytes]]:
    """(device, status, attestation) of every device, signed."""
    found: list[tuple[str, bytes, bytes]] = []
    verifier = Verifier(house.trust_root)
    for name in house.names(devices):
        said: list[bytes] = []
        nature = nature_of(Shapes(), 1, name)
        place = Place(house.group, house.component)
        device = SimulatedDevice(
            name, 1, nature, place, verifier, Counts(), partial(_keep, said),
            lambda _digest: None, lambda _seconds, _act: None, house.running,
        )  # fmt: skip
        device.say()
        found.append((name, said[0], said[1]))
    return found


async def _publish(port: int, messages: list[tuple[str, bytes]]) -> None:
    connection = Connection(f"bench-{secrets.token_hex(4)}", lambda *_: None)
    await connection.open("127.0.0.1", port, None)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for number, (topic, payload) in enumerate(messages):
        connection.publish(topic, payload)
        if number % 100 == 0:
            while connection.unacknowledged > _WINDOW:
                await asyncio.sleep(0.001)
    while connection.unacknowledged:
        await asyncio.sleep(0.001)
    connection.close()


def _messages(
    house: ManagerHouse, pairs: list[tuple[str, bytes, bytes]], *, attested: bool
) -> list[tuple[str, bytes]]:
    out = []
    for name, status, attestation in pairs:
        ids = {"group": house.group, "device": name}
        out.append((topics.build(Kind.STATUS, **ids), status))
        if attested:
            out.append((topics.build(Kind.STATUS_ATTESTATION, **ids), attestation))
    return out


@contextmanager
def _publisher(port: int, file: Path) -> Iterator[float]:
    """Another process that publishes what is in the file, from now on; the moment it begins."""
    command = [sys.executable, "-m", "bench.ingest", str(port), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes
        process.stdout.readline()
        began = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        yield began
        process.wait(300)


def _store(file: Path, messages: list[tuple[str, bytes]]) -> None:
    file.write_bytes(b"".join(f"{t}\0{p.hex()}\n".encode() for t, p in messages))


def _sub_rate(port: int, file: Path, count: int) -> float:
    """Messages a second that mosquitto_sub receives."""
    words = ["mosquitto_sub", "-p", str(port), "-q", "1", "-t", "ff/v1/groups/#", "-C", str(count), "-N"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as reader:
        time.sleep(0.5)
        with _publisher(port, file) as began:
            reader.wait(300)
            return count / (time.monotonic() - began)


class _Taken(NamedTuple):
    """Messages a second until the last is stored, and until all are verified; microseconds of processor for
    each message, for the one and for the other."""

    rate: float
    verified_rate: float
    cost: float
    verified_cost: float


def _manager_rate(house: ManagerHouse, port: int, file: Path, count: int, devices: int) -> _Taken:
    before = cost_of(house.pid).cpu
    with _publisher(port, file) as began:
        until(lambda: house.stored() >= devices, "the manager has stored them", 600, every=_LOOK_SECONDS)
        seconds, cost = time.monotonic() - began, cost_of(house.pid).cpu
        until(lambda: house.verified() >= devices, "the manager has verified them", 600, every=_LOOK_SECONDS)
        all_seconds, all_cost = time.monotonic() - began, cost_of(house.pid).cpu
    each = 1e6 / count
    return _Taken(count / seconds, count / all_seconds, (cost - before) * each, (all_cost - before) * each)


def figures(quick: bool, setting: Setting = _DEFAULT) -> list[Figure]:
    """Pairs that no decision waits for, stored and then verified; and statuses that are no news."""
    devices = setting.devices or (500 if quick else 10_000)
    with (
        tempfile.TemporaryDirectory() as text,
        broker(setting, Path(text) / "broker") as server,
        store(setting) as url,
    ):
        folder, port = Path(text), server.port
        with ManagerHouse(folder, port, url) as house:
            house.enroll(devices)
            pairs = _pairs(house, devices)
            file = folder / "messages"
            messages = _messages(house, pairs, attested=True)
            _store(file, messages)
            limit = max(_sub_rate(port, file, len(messages)) for _ in range(2))
            house.forget_statuses()
            taken = _manager_rate(house, port, file, len(messages), devices)
            plain = _messages(house, pairs, attested=False)
            _store(file, plain)
            plain_limit = _sub_rate(port, file, len(plain))
            plain_rate = _heard(house, port, file, len(plain))
            signature = _signature_cost(pairs)
    cost = f"{taken.cost:.0f} µs of processor a message"
    all_cost = f"{taken.verified_cost:.0f} µs of processor a message"
    verify = 2 * (taken.verified_cost - taken.cost)
    # Where little comes at once, nothing is left for later.
    later = [] if verify <= 0 else [
        Figure("to verify a pair that is stored", verify, "µs", signature, "its Ed25519 signature alone",
               note="strict JSON of both, the row, the rest of the manager")
    ]  # fmt: skip
    whole, alone = "status and attestation, stored", "statuses alone, known already"
    return [
        Figure(whole, taken.rate, "messages/s", limit, "mosquitto_sub", at_least=0.85, note=cost),
        Figure("the same, until all are verified", taken.verified_rate, "messages/s", limit, "mosquitto_sub",
               note=all_cost),
        *later,
        Figure(alone, plain_rate, "messages/s", plain_limit, "mosquitto_sub", at_least=0.85),
    ]  # fmt: skip


def _signature_cost(pairs: list[tuple[str, bytes, bytes]]) -> float:
    """Microseconds of processor to verify the signature of a pair, and nothing else."""
    secret = secrets.token_bytes(32)
    some = pairs[:500]
    messages = [(m := dsse.pae(PayloadType.STATUS, status), keys.sign(secret, m)) for _, status, _ in some]
    public = keys.public_of(secret)
    began = time.process_time()
    if not all(keys.verify(public, message, signature) for message, signature in messages):
        raise RuntimeError("a signature that was just made is not valid")
    return (time.process_time() - began) / len(messages) * 1e6


def _heard(house: ManagerHouse, port: int, file: Path, count: int) -> float:
    """Messages a second that the manager takes in when they are no news: the path without cryptography."""
    mark = time.time()
    with _publisher(port, file) as began:
        until(
            lambda: house.seen_since(mark) >= count,
            "the manager has heard them all",
            300,
            every=_LOOK_SECONDS,
        )
        return count / (time.monotonic() - began)


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_bytes().splitlines()
    split = (line.split(b"\0") for line in lines)
    asyncio.run(_publish(int(sys.argv[1]), [(t.decode(), bytes.fromhex(p.decode())) for t, p in split]))

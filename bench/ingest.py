"""From the socket to the stored row: how many statuses a second the manager takes in from Mosquitto, against
what `mosquitto_sub` receives of the same messages, with and without attestations.

The messages are real statuses with attestations, of as many devices as there are pairs; who publishes them
has made its packets before. Both readers read the same stream at the same QoS, by turns, three times each:
the best of each counts.
"""

import secrets
import socket
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
from fleetfoot_sim.load.mqtt import connect_packet, publish_packet
from fleetfoot_sim.load.shapes import Shapes, nature_of
from fleetfoot_sim.load.verifier import Verifier

_WINDOW = 2000
_BURST = 100
_PUBACK_BYTES = 4
_ROUNDS = 3
#: How often the store is looked at, once everything is with the broker: before, nothing can be over.
_LOOK_SECONDS = 0.005
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


def _publish(port: int, messages: list[tuple[str, bytes]]) -> None:
    """Publish at QoS 1 as fast as the broker takes it, from packets that were made before the start."""
    numbered = enumerate(messages)
    packets = [publish_packet(topic, body, 1 + n % 65_535, retain=False) for n, (topic, body) in numbered]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(connect_packet(f"bench-{secrets.token_hex(4)}", keepalive=0))
        if connection.recv(4) != b"\x20\x02\0\0":
            raise RuntimeError("the broker refuses the connection")
        print("ready", flush=True)
        sys.stdin.readline()
        sent = answered = 0
        while answered < _PUBACK_BYTES * len(packets):
            if sent < len(packets) and sent - answered // _PUBACK_BYTES < _WINDOW:
                connection.sendall(b"".join(packets[sent : sent + _BURST]))
                sent += _BURST
            else:
                answered += len(connection.recv(65_536))


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
    """Another process publishes what is in the file; the moment it began, once the broker has it all."""
    command = [sys.executable, "-m", "bench.ingest", str(port), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes
        process.stdout.readline()
        began = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        process.wait(300)
        yield began


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
            limit, taken = 0.0, []
            for _ in range(_ROUNDS):  # by turns, so that what else the machine does is against both
                limit = max(limit, _sub_rate(port, file, len(messages)))
                house.forget_statuses()
                taken.append(_manager_rate(house, port, file, len(messages), devices))
            plain = _messages(house, pairs, attested=False)
            _store(file, plain)
            plain_limit = plain_rate = 0.0
            for _ in range(_ROUNDS):
                plain_limit = max(plain_limit, _sub_rate(port, file, len(plain)))
                plain_rate = max(plain_rate, _heard(house, port, file, len(plain)))
            signature = _signature_cost(pairs)
    best = _Taken(
        max(one.rate for one in taken),
        max(one.verified_rate for one in taken),
        min(one.cost for one in taken),
        min(one.verified_cost for one in taken),
    )
    cost = f"{best.cost:.0f} µs of processor a message"
    all_cost = f"{best.verified_cost:.0f} µs of processor a message"
    verify = 2 * (best.verified_cost - best.cost)
    # Where little comes at once, nothing is left for later.
    later = [] if verify <= 0 else [
        Figure("to verify a pair that is stored", verify, "µs", signature, "its Ed25519 signature alone",
               note="strict JSON of both, the row, the rest of the manager")
    ]  # fmt: skip
    whole, alone = "status and attestation, stored", "statuses alone, known already"
    return [
        Figure(whole, best.rate, "messages/s", limit, "mosquitto_sub", at_least=0.85, note=cost),
        Figure("the same, until all are verified", best.verified_rate, "messages/s", limit, "mosquitto_sub",
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
    _publish(int(sys.argv[1]), [(t.decode(), bytes.fromhex(p.decode())) for t, p in split])

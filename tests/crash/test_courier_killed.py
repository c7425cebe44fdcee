"""The real courier process, killed at system calls that write: nothing half is left, and it goes on."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attack.rows import row
from tests.crash.injecting import Fault, trace_option
from tests.support.fleet import Bundle, Director, House, everybody
from tests.support.waiting import until

from fleetfoot_agent import durable
from fleetfoot_agent.spool import BlobWant, ManifestWant, Want, WorkerSide, forms
from fleetfoot_manager.artifacts import ArtifactServer
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol.documents import Desired
from fleetfoot_sim.devices import Device, free_ports, set_up

GROUP = "g-one"
#: Kills of one run of the tests, spread over all calls that an undisturbed run makes; `make crash`: at each.
KILLS = int(os.environ.get("FLEETFOOT_COURIER_KILLS", "6"))

#: Thread and name of a call that writes, in a trace of all threads.
_WRITES = re.compile(r"^(\d+) +(write|fsync|rename)\(", re.MULTILINE)


class Carriage:
    """A broker with an order and a manifest, an artifact server, and a device's spool that wants both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.house = House(folder)
        self.broker = EmbeddedBroker()
        host, port = self.broker.start()
        self.url = f"mqtt://{host}:{port}"
        served = folder / "blobs"
        served.mkdir()
        self.artifacts = ArtifactServer(served)
        self.director = Director(self.house, host, port, self.artifacts.start())
        self.bundle: Bundle = self.house.release("1.0.0")
        self.blobs = {path.name: path.read_bytes() for path in (self.bundle.path / "blobs").iterdir()}
        for name, content in self.blobs.items():
            (served / name).write_bytes(content)
        self.director.release(self.bundle)
        self.order: Desired = self.director.order(GROUP, everybody("r-1", self.bundle.goal()))

    def device(self, number: int) -> Device:
        """A device of its own for each kill, whose worker wants the manifest and its blobs."""
        name = f"dev-{number:03}"
        device = set_up(self.folder / name, name, GROUP, self.url, self.house.root_envelope, free_ports(1)[0])
        mirror = self.director.mirror
        wants = tuple(BlobWant(sha, len(data), (f"{mirror}/{sha}",)) for sha, data in self.blobs.items())
        manifests = (ManifestWant("kiosk", self.bundle.digest),)
        WorkerSide(device.config.spool).write_want(Want(manifests, (), wants))
        return device

    def close(self) -> None:
        self.director.close()
        self.artifacts.stop()
        self.broker.stop()


@pytest.fixture(scope="module")
def carriage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carriage]:
    carriage = Carriage(tmp_path_factory.mktemp("carriage"))
    try:
        yield carriage
    finally:
        carriage.close()


def run_courier(device: Device, options: list[str] | None) -> "subprocess.Popen[bytes]":
    """`fleetfoot-agent courier`, under strace with these options, or by itself."""
    folder = device.config.path.parent
    strace = [] if options is None else ["strace", "-f", "-qq", "-o", str(folder / "trace"), *options]
    command = [*strace, sys.executable, "-m", "fleetfoot_agent", "courier"]
    command += ["--config", str(device.config.path)]
    with (folder / "courier.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def carried(carriage: Carriage, device: Device) -> bool:
    """Whether everything wanted lies whole in the spool."""
    worker = WorkerSide(device.config.spool)
    for sha, content in carriage.blobs.items():
        blob = worker.open_blob(sha, len(content))
        if blob is None:
            return False
        with blob:
            assert blob.read() == content
    messages = {m.payload for slot in worker.slots() for m in worker.messages(slot)}
    return carriage.bundle.envelope in messages and carriage.director.sign(carriage.order) in messages


def judge(carriage: Carriage, device: Device) -> None:
    """Nothing in the spool is half under a name that counts: messages are whole, blobs are beginnings."""
    whole = {carriage.bundle.envelope, carriage.director.sign(carriage.order)}
    inside = device.config.spool / "in"
    for path in inside.glob("msg/*/*"):
        if not path.name.startswith(durable.TEMP_PREFIX):
            assert path.read_bytes() in whole, path
    for path in inside.glob("blob/*"):
        if path.name in carriage.blobs:
            assert carriage.blobs[path.name].startswith(path.read_bytes()), path
        elif not path.name.startswith(durable.TEMP_PREFIX):
            assert forms.parse_blob_state(path.read_bytes()) is not None, path


def end(process: "subprocess.Popen[bytes]") -> None:
    """End strace's child, and strace with it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: process.poll() is not None or children.read_text(), "strace has started the courier")
    if process.poll() is None:
        os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
    process.wait(30)


@row(
    49,
    "SIGKILL of the courier at system calls that write, while it takes messages in and fetches blobs",
    "no half message and no foreign byte in the spool; started again, it brings everything",
)
@pytest.mark.needs("strace")
def test_row_49_a_killed_courier_leaves_nothing_half_and_goes_on(carriage: Carriage) -> None:
    undisturbed = carriage.device(0)
    process = run_courier(undisturbed, trace_option())
    try:
        until(lambda: carried(carriage, undisturbed), "everything is carried")
    finally:
        end(process)
    trace = (undisturbed.config.path.parent / "trace").read_text()
    points = points_of(trace)
    kills = min(KILLS, len(points))
    chosen = [points[n * (len(points) - 1) // (kills - 1)] for n in range(kills)]
    assert {fault.call for fault in points} == {"write", "fsync", "rename"}
    killed = sum(_killed_at(carriage, number, fault) for number, fault in enumerate(chosen, 1))
    assert killed >= kills // 2  # not every run writes as often as the undisturbed one did


def points_of(trace: str) -> list[Fault]:
    """Every call that writes, by its number within its thread, since strace counts by thread."""
    made = Counter(_WRITES.findall(trace))
    most: dict[str, int] = {}
    for (_, call), count in made.items():
        most[call] = max(count, most.get(call, 0))
    return [Fault("KILL", call, n) for call in sorted(most) for n in range(1, most[call] + 1)]


def _killed_at(carriage: Carriage, number: int, fault: Fault) -> bool:
    device = carriage.device(number)
    process = run_courier(device, ["-e", f"trace={fault.call}", "-e", fault.option()])
    try:
        until(lambda: process.poll() is not None or carried(carriage, device), f"{fault}")
    finally:
        killed = process.poll() is not None
        if not killed:
            end(process)
    judge(carriage, device)
    link = device.config.spool / "in" / "link.json"
    link.unlink(missing_ok=True)
    again = run_courier(device, None)
    try:
        until(lambda: connected(link) and carried(carriage, device), f"all is carried after {fault}")
    finally:
        again.terminate()
        again.wait(30)
    judge(carriage, device)
    assert not list((device.config.spool / "in").rglob(f"{durable.TEMP_PREFIX}*"))
    return killed


def connected(link: Path) -> bool:
    """Whether the courier has told that it has a session."""
    try:
        return bool(json.loads(link.read_bytes())["up"])
    except FileNotFoundError:
        return False

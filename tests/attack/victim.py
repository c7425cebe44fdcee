"""A running device that is attacked: courier, worker, supervisor and component at a real broker and artifact
server, and a builder who signs what no honest tool would build."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.agent.tarbytes import generous
from tests.support.fleet import Bundle, Director, House, everybody
from tests.support.waiting import until

from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import SocketSeam
from fleetfoot_agent.worker.extract import ArtifactFacts
from fleetfoot_manager.artifacts import ArtifactServer
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol import dsse, topics, trust
from fleetfoot_protocol.documents import Release
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import ComponentStatus, Status
from fleetfoot_protocol.states import Lifecycle, Outcome
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import LOOPBACK_TUNING, Device, HostedDevice, Pace, free_ports, set_up

GROUP = "g-one"
DEVICE = "dev-001"
#: Nothing waits for its turn here: a test asks for one thing after the other.
QUICK = replace(LOOPBACK_TUNING, wake_interval=0.05, poll_idle=0.1, poll_busy=0.02)


@dataclass(frozen=True)
class Untouched:
    """What a rejected attack must leave exactly as it was."""

    current: str | None
    pid: int | None
    restarts: int
    floor: int
    running: str | None
    disk: tuple[str, ...]
    around: tuple[str, ...]


def signed_hostile(house: House, version: str, blob: bytes, facts: ArtifactFacts, **changes: Any) -> Bundle:
    """A release of these very bytes, whatever they are, correctly signed and lying at hand as a bundle."""
    made = house.release(version)
    artifact = made.release.artifacts[0].model_copy(
        update={
            "format": facts.format,
            "length": facts.length,
            "sha256": facts.sha256,
            "chunk_size": facts.chunk_size,
            "index_sha256": hashlib.sha256(facts.index).hexdigest(),
            "unpacked_size": facts.unpacked_size,
            "member_count": facts.member_count,
            "tree_sha256": facts.tree_sha256,
            **changes,
        }
    )
    release = Release.model_validate({**made.release.model_dump(), "artifacts": (artifact.model_dump(),)})
    envelope = dsse.sign(PayloadType.RELEASE, release.payload(), house.keys["release"])
    shutil.rmtree(made.path)
    (made.path / "blobs").mkdir(parents=True)
    for content in (blob, facts.index):
        (made.path / "blobs" / hashlib.sha256(content).hexdigest()).write_bytes(content)
    (made.path / "release.dsse.json").write_bytes(dsse.encode(envelope))
    return Bundle(made.path, release, envelope.digest, dsse.encode(envelope))


class Victim:
    """One device that runs kiosk 1.0.0, obeys its director, and fetches what it is served.

    ca_file: who vouches for its sources by https. component: settings of its component.
    """

    def __init__(
        self, folder: Path, *, tuning: Tuning = QUICK, ca_file: Path | None = None, **component: Any
    ) -> None:
        self.folder = folder
        self.house = House(folder)
        self.broker = EmbeddedBroker()
        host, port = self.broker.start()
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        self.artifacts = ArtifactServer(self.blobs)
        self.director = Director(self.house, host, port, self.artifacts.start())
        pace = Pace(window=0.6, settle=0.1)
        url = f"mqtt://{host}:{port}"
        device = set_up(
            folder / DEVICE, DEVICE, GROUP, url, self.house.root_envelope, free_ports(1)[0], pace=pace
        )
        broker = replace(device.config.broker, ca_file=ca_file)
        components = {n: replace(c, **component) for n, c in device.config.components.items()}
        device = Device(replace(device.config, broker=broker, components=components), device.public)
        self.device = HostedDevice(device, tuning=tuning)
        self.layout = Layout(device.config.install_root, kiosk.COMPONENT)
        self._seam = SocketSeam(device.config.components[kiosk.COMPONENT].socket)
        self._minor = 0
        self._read = 0
        self._status: Status | None = None

    def _next_version(self) -> str:
        self._minor += 1
        return f"1.{self._minor}.0"

    # -- what the other side does

    def serve(self, bundle: Bundle) -> Bundle:
        """Publish a release: its manifest at the broker, its blobs at the artifact server."""
        for blob in (bundle.path / "blobs").iterdir():
            (self.blobs / blob.name).write_bytes(blob.read_bytes())
        self.director.release(bundle)
        return bundle

    def good(self) -> Bundle:
        """An honest release, newer than all before it."""
        return self.serve(self.house.release(self._next_version()))

    def hostile(self, blob: bytes, facts: ArtifactFacts | None = None, **changes: Any) -> Bundle:
        """A release of these very bytes, correctly signed: by a broken builder, or one that was taken over.

        facts: what the manifest says of them; by default it fits the bytes and allows more than they hold.
        """
        facts = facts or generous(blob)
        bundle = signed_hostile(self.house, self._next_version(), blob, facts, **changes)
        for path in (bundle.path / "blobs").iterdir():
            (self.blobs / path.name).write_bytes(path.read_bytes())
        self.director.release(bundle)
        return bundle

    # -- what there is to see

    def status(self) -> Status | None:
        """The newest status heard, once its attestation is here; one that does not verify is an error."""
        topic = topics.build(Kind.STATUS, group=GROUP, device=DEVICE)
        heard = self.director.heard.get(topic, [])
        attested = self.director.heard.get(f"{topic}/attestation", [])
        # Looked at often: what was verified already is not verified again.
        for payload in heard[self._read :]:
            named = hashlib.sha256(payload).hexdigest().encode()
            attestation = next((a for a in reversed(attested) if named in a), None)
            if attestation is None:
                break
            public = bytes.fromhex(self.device.device.public)
            self._status = trust.verify_status(payload, attestation, public)
            self._read += 1
        return self._status

    def component(self) -> ComponentStatus | None:
        status = self.status()
        return status.components[kiosk.COMPONENT] if status else None

    def runs(self, bundle: Bundle) -> bool:
        """Whether the device has said that this release is what runs now, and it is."""
        found = self.component()
        if found is None or found.running is None or found.state is not Lifecycle.IDLE:
            return False
        name = f"versions/{bundle.release.version}-{bundle.digest[:8]}"
        return found.running.digest == bundle.digest and self.layout.read_current() == name

    def pid(self) -> int | None:
        """The running process of the component."""
        return self._seam.state().pid

    def events(self, bundle: Bundle) -> list[dict[str, Any]]:
        """What the device has told of this release."""
        found = self.director.events(GROUP, DEVICE)
        return [event for event in found if event["data"].get("digest") == bundle.digest]

    def began(self, bundle: Bundle, stage: str = "started") -> bool:
        """Whether the device has told that it has reached this stage with the release."""
        return any(event["type"].endswith(f"upgrade_{stage}") for event in self.events(bundle))

    def outcomes(self, bundle: Bundle) -> list[tuple[Outcome, str]]:
        """What the device, at rest, says became of the release."""
        found = self.component()
        told = found.outcomes if found and found.state is Lifecycle.IDLE else ()
        return [(o.outcome, o.code) for o in told if o.digest == bundle.digest]

    def untouched(self) -> Untouched:
        """The present state of everything that a rejected attack may not change."""
        state, found = self._seam.state(), self.component()
        assert found is not None
        return Untouched(
            current=self.layout.read_current(),
            pid=state.pid,
            restarts=state.restarts,
            floor=found.floor,
            running=found.running.digest if found.running else None,
            disk=tuple(sorted(_everything(self.layout.versions) | _everything(self.layout.staging))),
            around=tuple(sorted(os.listdir(self.folder) + os.listdir(self.layout.folder.parent))),
        )

    # -- acts, with what must come of them

    def order(self, bundle: Bundle) -> None:
        """Order everybody to run this release."""
        self.director.order(GROUP, everybody(f"r-{bundle.digest[:8]}", bundle.goal()))

    def install(self, bundle: Bundle, *, seconds: float = 30.0) -> None:
        """Order a release; AssertionError unless it is installed and runs."""
        self.order(bundle)
        until(lambda: self.runs(bundle), f"{bundle.release.version} runs", seconds=seconds)

    def obey(self) -> Bundle:
        """Order an honest release; AssertionError unless it is installed."""
        bundle = self.good()
        self.install(bundle)
        return bundle

    def refuse(self, bundle: Bundle, code: str, *, seconds: float = 30.0) -> float:
        """Order a hostile release; all clauses of a rejection with `code` must hold. Its processor
        time in seconds, of courier, worker and this test, which is all the same process.
        """
        before, began = self.untouched(), time.process_time()
        self.order(bundle)
        until(lambda: self.outcomes(bundle), f"the device refuses {bundle.release.version}", seconds=seconds)
        taken = time.process_time() - began
        assert self.outcomes(bundle) == [(Outcome.FAILED, code)]
        found = self.component()
        assert found is not None
        assert found.last_error is not None
        assert found.last_error.code == code

        def failures() -> list[str]:
            return [e["errorcode"] for e in self.events(bundle) if e["type"].endswith("_failed")]

        until(failures, "the event arrives")
        assert failures() == [code]
        done = ("upgrade_staged", "upgrade_activated")
        assert not any(e["type"].endswith(done) for e in self.events(bundle))
        assert self.untouched() == before
        assert self.device.connected
        return taken

    def close(self) -> None:
        self.device.power_off()
        self.director.close()
        self.artifacts.stop()
        self.broker.stop()


def _everything(folder: Path) -> set[str]:
    """Every path below a folder with kind, mode and size."""
    found = set()
    for base, folders, files in os.walk(folder):
        for name in folders + files:
            facts = os.lstat(os.path.join(base, name))
            found.add(f"{os.path.join(base, name)} {facts.st_mode:o} {facts.st_size}")
    return found


@contextmanager
def running(folder: Path, **more: Any) -> Iterator[Victim]:
    """A victim that runs 1.0.0 and has said so; ended at the end."""
    victim = Victim(folder, **more)
    victim.device.power_on()
    try:
        first = victim.serve(victim.house.release("1.0.0"))
        assert victim.device.install(first.path) == 0
        victim.device.connect()
        until(lambda: victim.runs(first), "the device reports 1.0.0")
        yield victim
    finally:
        victim.close()

"""A running device whose orders and manifests are forged, and what must come of each forgery.

Its fleet demands two of two release keys. Forgeries are injected at a real broker against a real courier,
worker and supervisor; releases come from a real artifact server.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fleet import FLEET, Bundle, Director, everybody
from tests.support.waiting import until

from fleetfoot_agent import config as configuration
from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import SocketSeam
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_manager.artifacts import ArtifactServer
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol import dsse, strictjson, topics, trust
from fleetfoot_protocol.documents import Desired, Document, Release, read
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import ComponentStatus, Status
from fleetfoot_protocol.states import Lifecycle
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import TrustRoot
from fleetfoot_sim import kiosk
from fleetfoot_sim.devices import Device, HostedDevice, Pace, free_ports, set_up

GROUP = "g-one"
DEVICE = "dev-001"
ORDERS = topics.build(Kind.GROUP_DESIRED, group=GROUP, component=kiosk.COMPONENT)
OWN = topics.build(Kind.DEVICE_DESIRED, group=GROUP, device=DEVICE, component=kiosk.COMPONENT)
HEARTBEATS = topics.build(Kind.HEARTBEAT, group=GROUP)
RELEASE_KEYS = ("release", "release-b")
#: A device on loopback that looks often, so that an attack costs a moment and not a second.
BRISK = Tuning(reconnect_cap=1.0, reconnect_base=0.1, worker_restart=1.0, wake_interval=0.02, poll_busy=0.02)
PACE = Pace(window=0.5, settle=0.1, restart_delay=0.05)


class House:
    """Keys and trust root of a fleet, made by the real tools; two of two keys sign its releases."""

    NAMES = ("root", "root-2", *RELEASE_KEYS, "director", "director-2", "alice", "stranger")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, bytes] = {}
        for name in self.NAMES:
            self._tool("key", "new", self.path(name))
            self.keys[name] = bytes.fromhex(json.loads(self.path(name).read_text())["secret"])
        self.root_path = folder / "root.1.json"
        self._tool(
            "trust", "init", "--fleet", FLEET, "--root-key", self.path("root"), "--release-threshold", 2,
            *(word for name in RELEASE_KEYS for word in ("--release-key", self.public(name))),
            "--director", self.public("director"), "--operator", f"alice={self.public('alice')}:admin",
            "--out", self.root_path,
        )  # fmt: skip
        self.root_envelope = self.root_path.read_bytes()
        self.root = trust.first_root(self.root_envelope)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def public(self, name: str) -> Path:
        return self.folder / f"{name}.key.pub"

    def _tool(self, *words: object) -> None:
        assert fleetfoot([str(word) for word in words]) == 0

    def rotate(self, have: int, *words: object, signers: tuple[str, ...] = ("root",)) -> bytes:
        """Root `have` + 1 in place of `have`, made by the real tool."""
        out = self.folder / f"root.{have + 1}.json"
        signed = [word for name in signers for word in ("--root-key", self.path(name))]
        self._tool(
            "trust", "rotate", "--root", self.folder / f"root.{have}.json", *signed, *words, "--out", out
        )
        return out.read_bytes()

    def release(self, version: str, *words: object, signers: tuple[str, ...] = RELEASE_KEYS) -> Bundle:
        """Build a version of the kiosk, with more options of the tool, and sign it."""
        tree = kiosk.write_tree(self.folder / "apps" / version, version)
        out = self.folder / "dist"
        self._tool(
            "release", "build", tree, "--component", kiosk.COMPONENT, "--version", version,
            "--entrypoint", kiosk.ENTRYPOINT, "--out", out, *words,
        )  # fmt: skip
        path = out / f"{kiosk.COMPONENT}-{version}"
        for name in signers:
            self._tool("release", "sign", path, "--key", self.path(name))
        data = (path / "release.dsse.json").read_bytes()
        envelope = dsse.decode(data)
        return Bundle(path, read(Release, envelope.payload), envelope.digest, data)

    def sign(self, kind: PayloadType, payload: bytes, *names: str) -> bytes:
        return dsse.encode(dsse.sign(kind, payload, *(self.keys[name] for name in names)))

    def sign_root(self, root: TrustRoot, *names: str) -> bytes:
        return self.sign(PayloadType.ROOT, root.payload(), *(names or ("root",)))


@dataclass(frozen=True)
class Untouched:
    """What a rejected attack must leave exactly as it was."""

    current: str | None
    pid: int | None
    restarts: int
    floor: int
    running: str | None
    refused: tuple[tuple[str, int], ...]
    installed: tuple[str, ...]
    staging: tuple[str, ...]
    documents: tuple[str, ...]
    root: str
    blobs: tuple[str, ...]


def _contents(folder: Path) -> tuple[str, ...]:
    """Every file below a folder, with its mode and bytes."""
    found = []
    for base, _, files in os.walk(folder):
        for name in files:
            path = Path(base) / name
            digest = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
            found.append(f"{path} {path.lstat().st_mode:o} {digest}")
    return tuple(sorted(found))


class Target:
    """One device that obeys a hand-held director."""

    def __init__(self, folder: Path, *, more_settings: str = "") -> None:
        self.folder = folder
        self.house = House(folder)
        self.broker = EmbeddedBroker()
        host, port = self.broker.start()
        self.url = f"mqtt://{host}:{port}"
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        self.artifacts = ArtifactServer(self.blobs)
        self.director = Director(self.house, host, port, self.artifacts.start())  # type: ignore[arg-type]
        made = set_up(
            folder / DEVICE, DEVICE, GROUP, self.url, self.house.root_envelope, free_ports(1)[0], pace=PACE
        )
        if more_settings:
            path = made.config.path
            path.write_text(path.read_text() + more_settings)
            made = Device(configuration.load(path), made.public)
        self.config = made.config
        self.device = HostedDevice(made, tuning=BRISK)
        self.layout = Layout(self.config.install_root, kiosk.COMPONENT)
        self._seam = SocketSeam(self.config.components[kiosk.COMPONENT].socket)
        self._minor = 0
        self._newest: Status | None = None
        self._looked = (0, 0)
        self._events: dict[str, dict[str, Any]] = {}
        self._heard = 0

    def close(self) -> None:
        self.device.power_off()
        self.director.close()
        self.artifacts.stop()
        self.broker.stop()

    # -- what the other side does

    def serve(self, bundle: Bundle, *, manifest: bytes | None = None) -> Bundle:
        """Publish a release, or something else in the place of its manifest."""
        for blob in (bundle.path / "blobs").iterdir():
            (self.blobs / blob.name).write_bytes(blob.read_bytes())
        self.manifest(bundle.digest, bundle.envelope if manifest is None else manifest)
        return bundle

    def manifest(self, digest: str, data: bytes) -> None:
        self.director.publish(topics.build(Kind.RELEASE, component=kiosk.COMPONENT, digest=digest), data)

    def release(self, *words: object, signers: tuple[str, ...] = RELEASE_KEYS) -> Bundle:
        """The next version, not published."""
        self._minor += 1
        return self.house.release(f"1.{self._minor}.0", *words, signers=signers)

    def document(self, *bundles: Bundle, **fields: Any) -> Desired:
        """The next group document; the rollout is named by the release and the sequence."""
        sequence = self.director.sequence + 1
        goals = fields.pop("goal", {})
        targets = [everybody(f"r-{b.digest[:8]}-{sequence}", b.goal(**goals)) for b in bundles]
        return self.director.desired(GROUP, *targets).model_copy(update=fields)

    def signed(
        self, document: Document | bytes, *names: str, kind: PayloadType = PayloadType.DESIRED
    ) -> bytes:
        payload = document if isinstance(document, bytes) else document.payload()
        return self.house.sign(kind, payload, *(names or ("director",)))

    def altered(self, document: Document, **changes: Any) -> bytes:
        """The document with members replaced or added, whatever they are, signed by the director."""
        value = strictjson.loads(document.payload())
        return self.signed(json.dumps({**value, **changes}).encode())

    def send(self, data: bytes, topic: str = ORDERS) -> None:
        self.director.publish(topic, data)

    # -- what there is to see

    def status(self) -> Status | None:
        """The newest status heard whose attestation was heard too and verifies."""
        topic = topics.build(Kind.STATUS, group=GROUP, device=DEVICE)
        payloads = self.director.heard.get(topic, [])
        attestations = self.director.heard.get(f"{topic}/attestation", [])
        if (len(payloads), len(attestations)) != self._looked:
            self._looked = (len(payloads), len(attestations))
            of = {json.loads(data)["sha256"]: data for data in attestations[-20:]}
            for payload in payloads[-20:]:
                if (attestation := of.get(hashlib.sha256(payload).hexdigest())) is None:
                    continue
                status = trust.verify_status(payload, attestation, bytes.fromhex(self.device.device.public))
                if self._newest is None or status.counter > self._newest.counter:
                    self._newest = status
        return self._newest

    def component(self) -> ComponentStatus:
        status = self.status()
        assert status is not None
        return status.components[kiosk.COMPONENT]

    def runs(self, bundle: Bundle) -> bool:
        """Whether the device says that this release is what runs, and it is."""
        if self.status() is None:
            return False
        found = self.component()
        told = found.running is not None and found.running.digest == bundle.digest
        name = f"versions/{bundle.release.version}-{bundle.digest[:8]}"
        return told and found.state is Lifecycle.IDLE and self.layout.read_current() == name

    def events(self, name: str) -> list[dict[str, Any]]:
        heard = self.director.heard.get(topics.build(Kind.DEVICE_EVENTS, group=GROUP, device=DEVICE), [])
        for payload in heard[self._heard :]:
            event = json.loads(payload)
            self._events.setdefault(event["id"], event)  # one that was told again after a kill counts once
            self._heard += 1
        return [event for event in self._events.values() if event["type"] == f"dev.fleetfoot.{name}"]

    def told(self, code: str) -> int:
        """How many refusals and alarms with this code were told."""
        told = [*self.events("upgrade_rejected"), *self.events("alarm")]
        return sum(event["errorcode"] == code for event in told)

    def alarmed(self, code: str) -> bool:
        """Whether an alarm with this code stands."""
        status = self.status()
        return status is not None and code in status.alarms

    def answered(self, document: Desired) -> str | None:
        """The code of the answer to this document, empty if it was accepted; None if there is none yet."""
        status = self.status()
        found = status.components[kiosk.COMPONENT].answered if status else None
        same = found is not None and (found.epoch, found.sequence) == document.order
        return found.code if same and found is not None else None

    def untouched(self) -> Untouched:
        state, found, worker = self._seam.state(), self.component(), self.config.worker_dir
        return Untouched(
            current=self.layout.read_current(),
            pid=state.pid,
            restarts=state.restarts,
            floor=found.floor,
            running=found.running.digest if found.running else None,
            refused=tuple(found.refused.items()),
            installed=_contents(self.layout.versions),
            staging=_contents(self.layout.staging),
            documents=tuple(n for n in _contents(worker / "docs") if "/manifest." not in n),
            root=hashlib.sha256((worker / "root.json").read_bytes()).hexdigest(),
            blobs=_contents(self.config.spool / "in" / "blob"),
        )

    # -- acts, with what must come of them

    def settle(self) -> Desired:
        """An order of nothing, and its answer: all that came before it has been dealt with by then."""
        document = self.document()
        self.send(self.signed(document))
        until(lambda: self.answered(document) == "", "the device answers an honest order")
        return document

    def obey(self, bundle: Bundle | None = None) -> Bundle:
        """Order an honest release; AssertionError unless it is installed and runs."""
        bundle = bundle or self.serve(self.release())
        self.obey_document(self.document(bundle), bundle)
        return bundle

    def obey_document(self, document: Desired, bundle: Bundle) -> None:
        """Send this order; AssertionError unless its release is installed and runs."""
        self.send(self.signed(document))
        until(lambda: self.runs(bundle), f"{bundle.release.version} runs")

    def refuse(self, inject: Callable[[], None], code: str, *, what: object = "") -> None:
        """Inject something; every clause of a rejection with `code` must hold.

        Nothing installed, kept, fetched or restarted; told once, by an event and in the status; and the
        device still listens: it answers the next honest document.
        """
        before, told = self.untouched(), self.told(code)
        inject()
        until(lambda: self.told(code) > told, f"the device tells {code} of {what}")
        until(lambda: self._shows(code), f"the status shows {code} of {what}")
        assert self.untouched() == before, what
        self.settle()
        assert self.told(code) == told + 1, what
        after = self.untouched()
        assert (after.current, after.pid, after.restarts) == (before.current, before.pid, before.restarts), (
            what
        )
        assert (after.installed, after.staging) == (before.installed, before.staging), what
        assert (after.floor, after.refused, after.blobs) == (before.floor, before.refused, before.blobs), what

    def refuse_order(self, data: bytes, code: str, *, topic: str = ORDERS, what: object = "") -> None:
        """An order that may not even be kept."""
        self.refuse(lambda: self.send(data, topic), code, what=what)

    def answer(self, document: Desired, code: str, *, data: bytes | None = None, topic: str = ORDERS) -> None:
        """An order that is genuine, and refused: answered with `code`, and nothing else happens."""
        before = self.untouched()
        self.send(data or self.signed(document), topic)
        until(lambda: self.answered(document) == code, f"the answer {code}")
        after = self.untouched()
        assert after.staging == before.staging == ()
        # The same answer to one order after the other is told once.
        rejected = self.events("upgrade_rejected")
        assert sum(event["data"].get("sequence") == document.sequence for event in rejected) <= 1
        until(lambda: not code or self.told(code), f"{code} is told")
        assert self.device.connected
        assert (after.current, after.pid, after.restarts) == (before.current, before.pid, before.restarts)
        assert (after.floor, after.refused, after.installed) == (
            before.floor,
            before.refused,
            before.installed,
        )
        assert after.blobs == before.blobs  # not a byte of it was fetched

    def _shows(self, code: str) -> bool:
        status = self.status()
        if status is None:
            return False
        problem = status.components[kiosk.COMPONENT].last_error
        return code in status.alarms or (problem is not None and problem.code == code)


@contextmanager
def target(folder: Path, *, more_settings: str = "", install: bool = True) -> Iterator[Target]:
    """A device that runs its first release and has said so; ended at the end."""
    made = Target(folder, more_settings=more_settings)
    made.device.power_on()
    try:
        if install:
            first = made.serve(made.release())
            assert made.device.install(first.path) == 0
        made.device.connect()
        until(lambda: made.status() is not None and (not install or made.runs(first)), "the device reports")
        yield made
    finally:
        made.close()


def soon(seconds: float) -> int:
    """Unix seconds from now."""
    return int(time.time() + seconds)

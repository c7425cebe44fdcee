"""A device in the lab: the shipped units, one adopted unit, releases whose behaviour is a script."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.lab.host import Host
from tests.lab.layers import Layers
from tests.support.fleet import FLEET, Bundle, House, everybody
from tests.support.waiting import until

from fleetfoot_agent import durable
from fleetfoot_agent.layout import ENTRYPOINT_SUFFIX, Layout
from fleetfoot_agent.spool import CourierSide
from fleetfoot_agent.worker import extract
from fleetfoot_agent.worker.journal import read_record
from fleetfoot_agent.worker.record import Record
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_protocol import dsse, times, trust
from fleetfoot_protocol.documents import Desired, read
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import ComponentStatus, Status
from fleetfoot_protocol.tree import tree_sha256
from fleetfoot_protocol.trust import TrustRoot

GROUP = "g-one"
DEVICE = "dev-001"
COMPONENT = "kiosk"
UNIT = "kiosk.service"
SPOOL = "/var/lib/fleetfoot/spool"
STATE = "/opt/fleetfoot/kiosk"
#: What is missing is waited for: nobody serves it.
NOBODY = "http://127.0.0.1:9/blobs"

#: What a version does when it is started.
GOOD = "systemd-notify --ready\nexec sleep infinity\n"
DIES = "exit 3\n"
HANGS = "exec sleep infinity\n"
DIES_SOON = "systemd-notify --ready\nsleep 0.5\nexit 4\n"

UNIT_FILE = """\
[Unit]
Description=The component that is upgraded
{unit}
[Service]
Type=notify
NotifyAccess=all
User=daemon
ExecStart=/opt/fleetfoot/kiosk/current/bin/kiosk
TimeoutStartSec=2s
{service}
[Install]
WantedBy=multi-user.target
"""

CONFIG = """\
[agent]
device = "dev-001"
group = "g-one"
[broker]
url = "mqtt://127.0.0.1:1883"
[upgrade]
enabled = true
[components.kiosk]
unit = "kiosk.service"
window = {window}
settle = {settle}
max_boot_attempts = 2
"""


@dataclass
class Shop:
    """A fleet's keys and its releases of the kiosk, each built and signed once by the real tools."""

    folder: Path
    bundles: dict[str, Bundle] = field(default_factory=dict)
    made_of: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    sequence: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.house = House(self.folder)

    @property
    def root(self) -> TrustRoot:
        return self.house.root

    def release(
        self, version: str, script: str = GOOD, *, component: str = COMPONENT, source: str = "", **files: str
    ) -> Bundle:
        """A component that runs `script`; files: more of its tree, by name. A version is one component's.

        source: where its blobs are, before any mirror of an order.
        """
        made_of = self.made_of.setdefault(version, (script, files))
        assert made_of == (script, files), f"{version} is another test's, and something else"
        if version in self.bundles:
            return self.bundles[version]
        tree = self.folder / "trees" / version
        (tree / "bin").mkdir(parents=True)
        program = tree / "bin" / component
        program.write_text(f"#!/bin/sh\n# {version}\n{script}")
        program.chmod(0o755)
        # Enough to be cut while it is verified and unpacked, and to be seen torn if it was not synced.
        (tree / "data").mkdir()
        random = Random(version)  # noqa: S311
        for number in range(8):
            (tree / "data" / f"{number}").write_bytes(random.randbytes(400_000))
        for name, text in files.items():
            (tree / name).write_text(text)
        out = self.folder / "dist"
        build = ["release", "build", str(tree), "--component", component, "--version", version]
        build += ["--counter", str(_counter(version)), "--entrypoint", f"bin/{component}", "--out", str(out)]
        build += ["--source", source] if source else []
        assert fleetfoot(build) == 0
        path = out / f"{component}-{version}"
        assert fleetfoot(["release", "sign", str(path), "--key", str(self.folder / "release.key")]) == 0
        envelope = (path / "release.dsse.json").read_bytes()
        release, digest = trust.verify_release(envelope, self.root)
        self.bundles[version] = Bundle(path, release, digest, envelope)
        return self.bundles[version]

    def order(self, bundle: Bundle, *, mirror: str = NOBODY, **goal: Any) -> bytes:
        """A signed order, newer than all before: everybody runs this release, up or down."""
        self.sequence += 1
        now = time.time()
        document = Desired(
            fleet=FLEET,
            group=GROUP,
            component=bundle.release.component,
            epoch=self.root.epoch,
            sequence=self.sequence,
            issued=times.to_text(now - 60),
            expires=times.to_text(now + 86400),
            mirror=mirror,
            targets=(everybody(f"r-{self.sequence}", bundle.goal(mode="exactly", **goal)),),
        )
        signed = dsse.sign(PayloadType.DESIRED, document.payload(), self.house.keys["director"])
        return dsse.encode(signed)


def _counter(version: str) -> int:
    """A counter that rises with the version. Chosen by the tool it would rise in the order of building, which
    is the order of the test files in this process: a 1.1.0 built before 1.0.0 is no upgrade of it.
    """
    major, minor, patch = map(int, version.split("."))
    return (major * 100 + minor) * 100 + patch


class Device:
    """The device on `host`. Its first boot, `set_up`, does what a package and its owner do.

    component, unit_name: what is ordered and looked at.
    """

    component = COMPONENT
    unit_name = UNIT

    def __init__(self, host: Host, shop: Shop) -> None:
        self.host = host
        self.shop = shop

    def set_up(self) -> None:
        """Users and folders, identity, configuration, the owner's unit; adopted, agent enabled and started.

        The host is on already.
        """
        host = self.host
        host.run("systemd-sysusers", "fleetfoot.conf")
        host.run("systemd-tmpfiles", "--create", "fleetfoot.conf")
        host.path("/etc/fleetfoot/root.json").write_bytes(self.shop.house.root_envelope)
        init = ["init", "--device", DEVICE, "--group", GROUP, "--component", COMPONENT, "--enable"]
        host.run(
            "fleetfoot-agent", *init, "--broker", "mqtt://127.0.0.1", "--root", "/etc/fleetfoot/root.json"
        )
        self.configure()
        host.run("systemctl", "enable", UNIT)
        host.run("systemctl", "enable", "--now", "fleetfoot-worker.path", "fleetfoot-worker.timer")

    def configure(
        self,
        *,
        window: float = 0.5,
        settle: float = 0.1,
        unit: str = "",
        service: str = "",
        component: str = "",
    ) -> None:
        """The owner's part: agent.toml, the unit file with more lines of each section; adopted (again)."""
        text = CONFIG.format(window=window, settle=settle) + component
        self.host.path("/etc/fleetfoot/agent.toml").write_text(text)
        text = UNIT_FILE.format(unit=unit, service=service)
        self.host.path(f"/etc/systemd/system/{UNIT}").write_text(text)
        self.host.run("systemctl", "daemon-reload")
        self.adopt()

    def adopt(self, *options: str, check: bool = True) -> str:
        return self.host.run(
            "fleetfoot-agent", "adopt", UNIT, "--component", COMPONENT, *options, check=check
        )

    @property
    def public(self) -> str:
        text = self.host.path("/var/lib/fleetfoot/worker/device.pub").read_text()
        return str(json.loads(text)["public"])

    def install(self, bundle: Bundle, *, check: bool = True) -> str:
        """Put a release on by hand."""
        copy = f"/tmp/{bundle.path.name}"
        self.host.run("mkdir", "-p", f"{copy}/blobs")
        self.host.path(f"{copy}/release.dsse.json").write_bytes(bundle.envelope)
        for blob in (bundle.path / "blobs").iterdir():
            self.host.path(f"{copy}/blobs/{blob.name}").write_bytes(blob.read_bytes())
        return self.host.run("fleetfoot-agent", "install", copy, check=check)

    # -- orders without a broker: what the courier would have brought

    def order(self, document: bytes, bundle: Bundle, *, manifest: bool = True, blobs: bool = True) -> None:
        """Bring a signed order into the spool, durably, with what it is about or without; wake the worker."""
        courier = CourierSide(self.host.path(SPOOL))
        if not manifest:
            courier.keep_slots(lambda slot: not slot.startswith("manifest."))
        if not blobs:
            courier.keep_blobs(set())
        self._bring(courier, bundle, manifest=manifest, blobs=blobs)
        courier.store_message(f"group.{self.component}", document)
        self.host.path("/run/fleetfoot/wake/now").touch()

    def await_connected(self) -> None:
        """Wait until the courier hears: it is connected and its subscriptions are answered."""
        link = self.host.path(f"{SPOOL}/in/link.json")
        until(lambda: link.exists() and json.loads(link.read_text())["up"], "the courier hears")

    def bring(self, bundle: Bundle) -> None:
        """Bring what an order is about, as soon as the device has booted, and wake the worker."""
        self._bring(CourierSide(self.host.path(SPOOL)), bundle, manifest=True, blobs=True)
        wake = self.host.path("/run/fleetfoot/wake")
        until(wake.is_dir, f"{self.host.name} has its folders")
        (wake / "now").touch()

    def _bring(self, courier: CourierSide, bundle: Bundle, *, manifest: bool, blobs: bool) -> None:
        for blob in (bundle.path / "blobs").iterdir() if blobs else ():
            place = courier.blob_path(blob.name)
            if not place.exists():
                durable.write_file(place, blob.read_bytes())
        if manifest:
            courier.store_message(f"manifest.{bundle.digest}", bundle.envelope)

    # -- what there is to see

    @property
    def layout(self) -> Layout:
        return Layout(self.host.path("/opt/fleetfoot"), self.component)

    @property
    def current(self) -> str:
        """The text of `current`; empty if there is none."""
        try:
            return str(self.layout.current.readlink())
        except OSError:
            return ""

    def record(self) -> Record | None:
        """The journal; None while there is none."""
        try:
            return read_record(self.layout.journal.read_bytes())
        except FileNotFoundError:
            return None

    def told(self) -> ComponentStatus | None:
        """What the worker says in its spool."""
        try:
            data = self.host.path(f"{SPOOL}/out/status.json").read_bytes()
        except FileNotFoundError:
            return None
        return read(Status, data).components.get(self.component)

    def unit(self, *names: str) -> dict[str, str]:
        return self.host.show(self.unit_name, *names)

    def runs(self, bundle: Bundle) -> bool:
        """Whether the release is committed, is what `current` leads to, and what its unit really executes."""
        record = self.record()
        if record is None or record.work is not None or record.run is None:
            return False
        name = f"{bundle.release.version}-{bundle.digest[:8]}"
        if record.run.digest != bundle.digest or self.current != f"versions/{name}":
            return False
        facts = self.unit("ActiveState", "MainPID")
        return facts["ActiveState"] == "active" and self.version() == bundle.release.version

    def version(self) -> str:
        """The version that the unit's process was started from: what it left in its memory of arguments."""
        note = self.host.path(f"/run/fleetfoot/started/{self.component}").read_text().split()
        same = note[0] == self.unit("InvocationID")["InvocationID"]
        return note[1].removeprefix("versions/").rpartition("-")[0] if same else ""

    def await_runs(self, bundle: Bundle, *, seconds: float = 120) -> None:
        def there() -> bool:
            try:
                return self.runs(bundle)
            except (OSError, IndexError):
                return False

        try:
            until(there, f"{self.host.name} runs {bundle.release.version}", seconds=seconds)
        except AssertionError as error:
            known = f"{self.record()}\n{self.told()}"
            raise AssertionError(f"{error}\n{known}\n{self.host.journal('-n', '150')}") from error


def problem_of(layout: Layout, target: str, root: TrustRoot) -> str:
    """What is wrong with the tree that `target` names; empty if it is whole, verified and startable."""
    name = target.removeprefix("versions/")
    data = layout.envelope(name)
    if data is None:
        return f"no envelope beside {name}"
    try:
        release, digest = trust.verify_release(data, root)
        members = extract.hash_tree(layout.tree(name))
    except (FleetfootError, OSError) as error:
        return f"{name}: {error}"
    artifact = release.artifacts[0]
    if name != f"{release.version}-{digest[:8]}" or tree_sha256(members) != artifact.tree_sha256:
        return f"{name} is not what was signed"
    if layout.entrypoint(name) != artifact.entrypoint:
        beside = layout.versions / f"{name}{ENTRYPOINT_SUFFIX}"
        return f"{beside.name} does not say what to start"
    return ""


def make_host(name: str, folder: Path, layers: Layers, *, unsynced: bool = False) -> Host:
    """A host of the lab with the agent on it, its disk not yet made."""
    return Host(name, folder, layers.lower(unsynced=unsynced), layers.binds)

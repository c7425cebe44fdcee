"""The agent upgrades itself on real systemd: A, B, a broken C, and B again; by digest and process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.lab.conftest import Lab
from tests.lab.device import CONFIG, DEVICE, GROUP, Device, Shop
from tests.support.fleet import Bundle, Director, everybody
from tests.support.waiting import until

from fleetfoot_agent.layout import Layout
from fleetfoot_agent.selfupgrade import COMPONENT, UNIT
from fleetfoot_agent.worker.journal import read_record
from fleetfoot_agent.worker.record import Record
from fleetfoot_client import agent_payload
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_manager.artifacts import ArtifactServer
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_protocol import trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Outcome

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300)]

Start = Callable[..., Device]

#: What is broken about an agent: which file of it, what is put at its end or in its place.
WORKER_DIES = ("site/fleetfoot_agent/worker/run.py", "raise SystemExit(3)\n")
COURIER_DEAF = (
    "site/fleetfoot_agent/courier/main.py",
    "import time\nrun = lambda *_, **__: time.sleep(3600)\n",
)

AGENT_CONFIG = """
[components.fleetfoot-agent]
unit = "fleetfoot-courier.service"
window = 4
settle = 0.5
max_boot_attempts = 2
"""


def agent_release(shop: Shop, version: str, broken: tuple[str, str] | None = None) -> Bundle:
    """An agent of this checkout, by the real tools; broken ones are built as any folder is."""
    out = shop.folder / "agents"
    path = out / f"{COMPONENT}-{version}"
    if broken is None:
        assert fleetfoot(["release", "build-agent", "--version", version, "--out", str(out)]) == 0
    else:
        tree = agent_payload.lay(shop.folder / f"agent-{version}", version_of_release=version)
        file, text = broken
        (tree / file).write_text((tree / file).read_text() + text)
        for compiled in (tree / file).parent.glob(f"__pycache__/{Path(file).stem}.*"):
            compiled.unlink()
        build = ["release", "build", str(tree), "--component", COMPONENT, "--version", version]
        assert fleetfoot([*build, "--entrypoint", agent_payload.ENTRYPOINT, "--out", str(out)]) == 0
    assert fleetfoot(["release", "sign", str(path), "--key", str(shop.folder / "release.key")]) == 0
    envelope = (path / "release.dsse.json").read_bytes()
    release, digest = trust.verify_release(envelope, shop.root)
    return Bundle(path, release, digest, envelope)


@contextmanager
def manager(device: Device, blobs: Path) -> Iterator[Director]:
    """Broker, artifacts and director in the device's network. For `within_network`."""
    broker, artifacts = EmbeddedBroker(port=1883), ArtifactServer(blobs)
    host, port = broker.start()
    director = Director(device.shop.house, host, port, artifacts.start())
    try:
        yield director
    finally:
        director.close()
        artifacts.stop()
        broker.stop()


def give(director: Director, bundle: Bundle, blobs: Path) -> None:
    blobs.mkdir(exist_ok=True)
    for blob in (bundle.path / "blobs").iterdir():
        (blobs / blob.name).write_bytes(blob.read_bytes())
    director.release(bundle)
    number = len(list(blobs.iterdir()))
    target = everybody(f"r-{number}", bundle.goal(mode="exactly"))
    director.order(GROUP, target, component=COMPONENT)


def record(device: Device) -> Record:
    layout = Layout(device.host.path("/opt/fleetfoot"), COMPONENT)
    return read_record(layout.journal.read_bytes())


def courier(device: Device) -> tuple[str, str]:
    """(pid of the courier, what its command line says where it lies)."""
    pid = device.host.show(UNIT, "MainPID")["MainPID"]
    environment = device.host.run("sh", "-c", f"tr '\\0' '\\n' </proc/{pid}/environ", check=False)
    lies = [line for line in environment.splitlines() if line.startswith("PYTHONPATH=")]
    return pid, "".join(lies)


def runs(device: Device, bundle: Bundle) -> bool:
    """Whether the agent is this release: committed, its courier really started from it."""
    try:
        found = record(device)
    except (OSError, ValueError):
        return False
    if found.work is not None or found.run is None or found.run.digest != bundle.digest:
        return False
    return f"{bundle.release.version}-{bundle.digest[:8]}/" in courier(device)[1]


def await_runs(device: Device, bundle: Bundle) -> None:
    try:
        until(lambda: runs(device, bundle), f"the agent is {bundle.release.version}", seconds=90)
    except AssertionError as error:
        told = device.host.journal("-n", "120")
        raise AssertionError(f"{error}\n{courier(device)}\n{record(device)}\n{told}") from error


def says_it_is(device: Device, director: Director, version: str) -> bool:
    statuses = director.statuses(GROUP, DEVICE, device.public)
    newest = max(statuses, key=lambda status: status.counter, default=None)
    return newest is not None and newest.agent == version


def comes_back(device: Device, director: Director, bad: Bundle, good: Bundle, blobs: Path) -> Code:
    give(director, bad, blobs)

    def refused() -> str | None:
        found = record(device)
        ends = [o for o in found.outcomes if o.digest == bad.digest and o.outcome is Outcome.ROLLED_BACK]
        return ends[0].code if ends and bad.digest in found.refused else None

    try:
        code = until(refused, f"{bad.release.version} is left", seconds=120)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{record(device)}\n{device.host.journal('-n', '120')}") from error
    await_runs(device, good)
    return Code(str(code))


def test_the_agent_upgrades_itself_and_comes_back_from_a_broken_one(
    start: Start, lab: Lab, tmp_path: Path
) -> None:
    device = start()
    host, blobs = device.host, tmp_path / "blobs"
    host.path("/etc/fleetfoot/agent.toml").write_text(CONFIG.format(window=0.5, settle=0.1) + AGENT_CONFIG)
    host.run("fleetfoot-agent", "adopt", UNIT, "--component", COMPONENT)
    first, second = agent_release(lab.shop, "0.2.0"), agent_release(lab.shop, "0.3.0")
    dies = agent_release(lab.shop, "0.4.0", WORKER_DIES)
    deaf = agent_release(lab.shop, "0.5.0", COURIER_DEAF)

    def upgrade() -> None:
        with manager(device, blobs) as director:
            host.run("systemctl", "enable", "--now", UNIT)
            device.await_connected()
            pids = [courier(device)[0]]
            for bundle in (first, second):
                give(director, bundle, blobs)
                await_runs(device, bundle)
                until(lambda b=bundle: says_it_is(device, director, b.release.version), "its worker says so")  # type: ignore[misc]
                pids.append(courier(device)[0])
            assert len(set(pids)) == 3
            # A worker that cannot start is counted by the guard, which needs no agent at all.
            assert comes_back(device, director, dies, second, blobs) is Code.UPGRADE_BOOT_FAILED
            guard = host.journal("-u", f"fleetfoot-guard@{COMPONENT}.service")
            assert "used up its 2 starts, current is back" in guard
            # A courier that never reaches the broker is found by the new worker, since the old one did.
            assert comes_back(device, director, deaf, second, blobs) is Code.UPGRADE_HEALTH_FAILED
            until(lambda: says_it_is(device, director, "0.3.0"), "the old worker says so")
            device.await_runs(device.shop.bundles["1.0.0"])  # the component was left alone

    host.within_network(upgrade)

"""Power cuts while the agent upgrades itself, judged as all others are.

What is cut here is what a self-upgrade adds: the hand-over from one worker to the next, and the guard that
counts the starts of workers. So its releases lie unpacked on the disk from the beginning, and an order alone
moves the agent up, down, and to a version whose courier dies. The courier runs as shipped, without a broker.
"""

import time
from pathlib import Path

from tests.lab.device import CONFIG, Device, Shop
from tests.lab.host import Host
from tests.lab.layers import HELD
from tests.lab.powercuts import Cutter
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_agent import durable
from fleetfoot_agent.layout import Layout, version_name
from fleetfoot_agent.selfupgrade import COMPONENT, UNIT
from fleetfoot_agent.worker import extract
from fleetfoot_client import agent_payload
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_protocol import trust

GOOD_AGENTS = ("0.2.1", "0.3.1")
BAD_AGENT = "0.4.1"

#: States that are hunted. Before these the way is that of any component.
HUNTED = ("staged", "activating", "probation", "rolling_back")

_CONFIG = """
[components.fleetfoot-agent]
unit = "fleetfoot-courier.service"
window = {window}
settle = 0.1
max_boot_attempts = 2
"""


def stock_agents(shop: Shop) -> None:
    """Build the agents that are ordered, of this checkout; the bad one's courier dies at once."""
    tree = agent_payload.lay(shop.folder / "agent-tree", version_of_release=GOOD_AGENTS[0])
    (tree / "site/sitecustomize.py").write_text(HELD)  # so that its states can be hunted, too
    for version in (*GOOD_AGENTS, BAD_AGENT):
        program = tree / agent_payload.ENTRYPOINT
        if version == BAD_AGENT:
            head, rest = program.read_text().split("\n", 1)
            program.write_text(f'{head}\n[ "$1" = courier ] && exit 3\n{rest}')
        (tree / "version").write_text(version)
        out = shop.folder / "agents"
        build = ["release", "build", str(tree), "--component", COMPONENT, "--version", version]
        assert fleetfoot([*build, "--entrypoint", agent_payload.ENTRYPOINT, "--out", str(out)]) == 0
        path = out / f"{COMPONENT}-{version}"
        assert fleetfoot(["release", "sign", str(path), "--key", str(shop.folder / "release.key")]) == 0
        envelope = (path / "release.dsse.json").read_bytes()
        release, digest = trust.verify_release(envelope, shop.root)
        shop.bundles[version] = Bundle(path, release, digest, envelope)


def unpack(layout: Layout, bundle: Bundle) -> None:
    """Put the release among the versions, as staging does."""
    artifact, blobs = bundle.release.artifacts[0], bundle.path / "blobs"
    facts = extract.ArtifactFacts(
        format=artifact.format,
        length=artifact.length,
        sha256=artifact.sha256,
        chunk_size=artifact.chunk_size,
        index=(blobs / artifact.index_sha256).read_bytes(),
        unpacked_size=artifact.unpacked_size,
        member_count=artifact.member_count,
        tree_sha256=artifact.tree_sha256,
    )
    name = version_name(bundle.release.version, bundle.digest)
    staged: Path = layout.staging / name
    durable.make_folder(staged)
    with (blobs / artifact.sha256).open("rb") as blob:
        extract.extract(blob, facts, staged)
    layout.promote(staged, name, bundle.envelope, artifact.entrypoint)


class AgentDevice(Device):
    """The device, of which the agent itself is ordered and looked at."""

    component = COMPONENT
    unit_name = UNIT

    def bring(self, bundle: Bundle) -> None:
        """Everything lies there already: the worker is woken."""
        wake = self.host.path("/run/fleetfoot/wake")
        until(wake.is_dir, f"{self.host.name} has its folders")
        (wake / "now").touch()


class AgentCutter(Cutter):
    """Cuts while the agent upgrades itself."""

    versions = GOOD_AGENTS
    bad_version = BAD_AGENT

    def make_device(self, host: Host, shop: Shop) -> Device:
        return AgentDevice(host, shop)

    def _prey(self) -> str:
        return self._random.choice(HUNTED)

    def _first_boot(self) -> None:
        host, device = self.host, self.device
        host.clone_disk(self._golden)
        host.boot()
        text = CONFIG.format(window=0.5, settle=0.1).replace("[upgrade]", "[upgrade]\nkeep_versions = 3")
        host.path("/etc/fleetfoot/agent.toml").write_text(text + _CONFIG.format(window=self._window))
        device.layout.create()
        for version in (*self.versions, self.bad_version):
            unpack(device.layout, self._shop.bundles[version])
        host.run("chown", "-R", "fleetfoot:fleetfoot", f"/opt/fleetfoot/{COMPONENT}")
        host.run("fleetfoot-agent", "adopt", UNIT, "--component", COMPONENT)
        host.run("systemctl", "enable", "--now", UNIT, "fleetfoot-worker.path", "fleetfoot-worker.timer")
        self._attempts[self._good.digest] += 1
        first = self._shop.order(self._good)
        device.order(first, self._good, manifest=False, blobs=False)
        device.await_runs(self._good, seconds=60)
        host.run("sync")

    def _await_moment(self, hunted: str | None) -> None:
        if hunted is None:
            # A hand-over takes two starts of a worker.
            time.sleep(self._random.uniform(0.0, 5.0))
        else:
            super()._await_moment(hunted)

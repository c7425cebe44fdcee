"""What a demo needs before anything runs: keys, trust root, releases; all made by the real tools."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_client.exits import Exit
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_sim import kiosk

FLEET = "demo"
OPERATOR = "alice"
FIRST, GOOD, BAD = "1.0.0", "1.1.0", "1.2.0"


def tool(*arguments: str) -> str:
    """Run a `fleetfoot` command in this process; returns what it printed. FleetfootError if it fails."""
    said = io.StringIO()
    with redirect_stdout(said):
        status = fleetfoot(list(arguments))
    if status == Exit.INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise FleetfootError("io_error", f"'fleetfoot {' '.join(arguments[:3])} ...' ended with {status}")
    return said.getvalue()


@dataclass(frozen=True, slots=True)
class Scene:
    """Folders and files of a demo."""

    folder: Path

    @property
    def manager(self) -> Path:
        return self.folder / "manager"

    @property
    def root(self) -> Path:
        return self.folder / "root.json"

    @property
    def operator_key(self) -> Path:
        return self.folder / "keys" / f"{OPERATOR}.key"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def bundle(self, version: str) -> Path:
        """The folder of a release."""
        return self.folder / "dist" / f"{kiosk.COMPONENT}-{version}"

    def prepare(self, *options: str) -> None:
        """Make keys, the manager's state, the trust root that binds them, and three signed releases.

        `options` are more of `manager init`.
        """
        self.logs.mkdir()
        keys = self.folder / "keys"
        keys.mkdir()
        for name in ("root", "release", OPERATOR):
            tool("key", "new", str(keys / f"{name}.key"))
        public = f"{OPERATOR}={self.operator_key}.pub"
        tool("manager", "init", "--dir", str(self.manager), "--operator", public, "--fleet", FLEET, *options)
        request = ["--request", str(self.manager / "root-request.json")]
        signing = ["--root-key", str(keys / "root.key"), "--release-key", str(keys / "release.key.pub")]
        tool("trust", "init", *request, *signing, "--out", str(self.root))
        for version in (FIRST, GOOD, BAD):
            tree = kiosk.write_tree(self.folder / "apps" / version, version, dies=version == BAD)
            self.release(version, tree)

    def release(self, version: str, tree: Path) -> None:
        """Build and sign a release of a tree."""
        facts = ["--component", kiosk.COMPONENT, "--version", version, "--entrypoint", kiosk.ENTRYPOINT]
        key = self.folder / "keys" / "release.key"
        notes = ["--notes", f"kiosk {version}"]
        tool("release", "build", str(tree), *facts, *notes, "--out", str(self.folder / "dist"))
        tool("release", "sign", str(self.bundle(version)), "--key", str(key))

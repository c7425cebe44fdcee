"""`make deb TRUST=root.json`: the agent as a Debian package for one fleet, whose root it embeds.

Bundled: the agent with all it requires (base install alone), units, guard, launcher, users and folders. The
interpreter is Debian's own, of the version that runs this. Nothing here needs a network. The same environment
and the same root give the same bytes.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fleetfoot_client import agent_payload
from fleetfoot_protocol import trust

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
NAME = "fleetfoot-agent"
SCRIPTS = ("postinst", "prerm", "postrm")
#: Seconds since 1970 for everything inside, unless SOURCE_DATE_EPOCH says otherwise.
EPOCH = "1735689600"

CONTROL = """\
Package: {name}
Version: {version}
Architecture: {architecture}
Maintainer: Fleetfoot maintainers <maintainers@fleetfoot.invalid>
Section: admin
Priority: optional
Installed-Size: {size}
Depends: {python}, libc6, libzstd1, systemd, dbus | dbus-broker
Description: upgrades this device by signed releases, and comes back by itself
 The agent of Fleetfoot for fleet {fleet}, whose trust root (version {root}) it embeds: no
 configuration and no enrolment replaces it. Courier and worker run as users of their own in
 hardened units; a guard that is no part of any release counts the starts of a new version.
"""


def build(root_file: Path, out: Path) -> Path:
    """Build the package in `out`; returns its path."""
    data = root_file.read_bytes()
    root = trust.first_root(data)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fleetfoot-deb-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        _fill(tree, data)
        version = _debian_version(agent_payload.version())
        architecture = _ask("dpkg", "--print-architecture")
        size = sum(
            path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink()
        )
        control = tree / "DEBIAN"
        control.mkdir()
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        text = CONTROL.format(
            name=NAME,
            version=version,
            architecture=architecture,
            size=-(-size // 1024),
            python=python,
            fleet=root.fleet,
            root=root.version,
        )
        (control / "control").write_text(text)
        for script in SCRIPTS:
            shutil.copyfile(HERE / script, control / script)
            (control / script).chmod(0o755)
        _open(tree)
        path = out / f"{NAME}_{version}_{architecture}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zzstd", "--build", str(tree), str(path)]
        environment = {"SOURCE_DATE_EPOCH": EPOCH, **os.environ}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return path


def _fill(tree: Path, root: bytes) -> None:
    subprocess.run(["sh", str(ROOT / "systemd" / "install"), str(tree)], check=True)
    library = tree / "usr/lib/fleetfoot"
    agent_payload.lay(library / "agent")
    (library / "root.json").write_bytes(root)
    program = tree / "usr/bin" / NAME
    program.parent.mkdir(parents=True)
    program.symlink_to("../lib/fleetfoot/fleetfoot-launcher")
    doc = tree / "usr/share/doc" / NAME
    doc.mkdir(parents=True)
    shutil.copyfile(ROOT / "LICENSE", doc / "copyright")
    with gzip.GzipFile(doc / "changelog.gz", "wb", mtime=0) as file:
        file.write((ROOT / "CHANGELOG.md").read_bytes())
    files = library / "files.sha256"
    files.unlink()
    owned = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  /{p.relative_to(tree)}\n"
        for p in owned
        if doc not in p.parents
    ]
    files.write_text("".join(lines))


def _open(tree: Path) -> None:
    for base, _, names in os.walk(tree):
        Path(base).chmod(0o755)
        for name in names:
            path = Path(base, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _debian_version(version: str) -> str:
    """SemVer sorts pre-releases before the release; Debian does so after a tilde."""
    return version.replace("-", "~", 1)


def _ask(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> None:
    """Options: --trust FILE, the fleet's root; --out DIR."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trust", type=Path, required=True, metavar="FILE", help="the fleet's trust root")
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR")
    args = parser.parse_args()
    path = build(args.trust, args.out)
    print(f"{path}\non the device, as root: apt-get install ./{path.name}")
    print("then: fleetfoot-agent init --device ID --group ID --component ID --broker URL --enable")


if __name__ == "__main__":
    main()

"""The agent as a tree that runs wherever it lies: for `release build-agent` and for packages.

    bin/fleetfoot-agent     finds itself, then the interpreter
    site/                   fleetfoot_agent, fleetfoot_protocol and what they require, compiled

It is taken from the environment that runs this, base install alone. Extension modules bind it to the C
library and to the ABI of this interpreter; a release of it names both. Compiled files are there because
nobody may write into an installed version: by the hash of their source, never by its time, so that the
same environment gives the same bytes.
"""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from fleetfoot_client.building import Place
from fleetfoot_protocol import platforms
from fleetfoot_protocol.errors import FleetfootError

#: The component as which an agent upgrades itself.
COMPONENT = "fleetfoot-agent"
ENTRYPOINT = "bin/fleetfoot-agent"

_PACKAGES = ("fleetfoot_protocol", "fleetfoot_agent")
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")

_LAUNCHER = """\
#!/bin/sh
# The agent beside this file, wherever that is, on the interpreter for which it was compiled.
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P) || exit 127
bundled=/usr/lib/fleetfoot/python
export PYTHONPATH="$here/site" PYTHONDONTWRITEBYTECODE=1
if [ -x "$bundled/bin/{python}" ]; then
    # An interpreter that was moved must not find the machine's own library of its name.
    LD_LIBRARY_PATH="$bundled/lib" exec "$bundled/bin/{python}" -sP -m fleetfoot_agent "$@"
fi
for python in /usr/bin/{python} /usr/local/bin/{python}; do
    [ -x "$python" ] && exec "$python" -sP -m fleetfoot_agent "$@"
done
echo "fleetfoot-agent: this version needs {python}, which is not here" >&2
exit 127
"""


def abi() -> str:
    """The ABI of this interpreter, as wheels name it: cp311."""
    return f"cp{sys.version_info[0]}{sys.version_info[1]}"


def this_place() -> Place:
    """The platform to which a tree made here is bound."""
    libc = "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
    system, machine = platform.system(), platform.machine()
    return Place(platforms.normalise_system(system), platforms.normalise_machine(machine), libc, abi())


def version() -> str:
    """The version of the agent in this environment."""
    return distribution("fleetfoot").version


def lay(folder: Path, *, version_of_release: str | None = None) -> Path:
    """Write the tree into `folder`, which must not be there yet. Returns it.

    version_of_release: what the agent calls itself; by default the version of this environment. Raises
    `FleetfootError` not_found if this environment has no agent, or lacks something that one requires.
    """
    site = folder / "site"
    (folder / "bin").mkdir(parents=True)
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise FleetfootError("not_found", f"there is no {name} here", remedy="pip install fleetfoot")
        shutil.copytree(Path(spec.submodule_search_locations[0]), site / name, ignore=_IGNORED)
    for found in _required("fleetfoot", set()):
        _copy(found, site)
    _own_metadata(site, version_of_release or version())
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    launcher = folder / ENTRYPOINT
    launcher.write_text(_LAUNCHER.format(python=python))
    launcher.chmod(0o755)
    _compile(site)
    return folder


def _required(name: str, done: set[str]) -> Iterator[Distribution]:
    """What the distribution requires without extras, and so on, each once."""
    for line in distribution(name).requires or ():
        spec, _, marker = line.partition(";")
        if "extra" in marker:
            continue
        match = re.match(r"[A-Za-z0-9._-]+", spec.strip())
        wanted = match[0] if match else ""
        if re.sub("[-_.]+", "-", wanted).lower() in done:
            continue
        done.add(re.sub("[-_.]+", "-", wanted).lower())
        try:
            found = distribution(wanted)
        except PackageNotFoundError as error:
            if marker:  # for another interpreter or system
                continue
            raise FleetfootError("not_found", f"{wanted}, which {name} requires, is not installed") from error
        yield found
        yield from _required(wanted, done)


def _copy(found: Distribution, site: Path) -> None:
    for file in found.files or ():
        if (
            ".." in file.parts
            or "__pycache__" in file.parts
            or file.name in ("RECORD", "INSTALLER", "REQUESTED")
        ):
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), target)


def _own_metadata(site: Path, called: str) -> None:
    """The little by which the agent finds its own version."""
    folder = site / f"fleetfoot-{called}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fleetfoot\nVersion: {called}\n")


def _compile(site: Path) -> None:
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(site), "-p", "site"]
    done = subprocess.run(
        [sys.executable, "-m", "compileall", *options, str(site)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise FleetfootError("io_error", f"cannot compile the agent: {done.stdout.strip()[-300:]}")

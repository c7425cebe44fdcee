"""Which trust root a device has: its own, or the one that its package embeds and what follows from that.

A package that is built for a fleet (`make deb TRUST=root.json`) brings the fleet's root. Then nothing on the
device replaces it, neither environment nor configuration nor a new enrolment: trust begins with the embedded
root, and every later one must be reached from it by the chain of roots, whose links are kept in `roots/`.
What else lies in the worker's folder is ignored, and said to be.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_protocol import trust
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.trust import TrustRoot

#: Where a package keeps the root that it embeds. Nothing can point elsewhere.
EMBEDDED = Path("/usr/lib/fleetfoot/root.json")

_ENVELOPE_CAP = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """The root in force, its bytes, and why what lies in the folder was ignored; empty if it was not."""

    root: TrustRoot
    data: bytes
    ignored: str = ""


def embedded() -> bytes | None:
    """The root that the package embeds; None if it embeds none."""
    return durable.read_regular(EMBEDDED.parent, EMBEDDED.name, _ENVELOPE_CAP)


def find(folder: Path) -> Found:
    """The root in force on a device whose worker has `folder`. Changes nothing. Raises `FleetfootError`."""
    own = durable.read_regular(folder, "root.json", _ENVELOPE_CAP)
    packaged = embedded()
    if packaged is None:
        if own is None:
            raise FleetfootError(
                "not_found",
                f"there is no trust root in {folder}",
                remedy="run 'fleetfoot-agent init --root root.json' with the root of your fleet",
            )
        return Found(trust.first_root(own), own)
    found = _follow(folder, Found(trust.first_root(packaged), packaged))
    return Found(found.root, found.data, _ignored(own, found))


def _follow(folder: Path, found: Found) -> Found:
    """As far as the kept links lead."""
    while True:
        data = durable.read_regular(folder / "roots", f"{found.root.version + 1}.json", _ENVELOPE_CAP)
        try:
            if data is None:
                return found
            found = Found(trust.advance_root(found.root, data), data)
        except FleetfootError:
            return found  # it will be asked for again


def _ignored(own: bytes | None, found: Found) -> str:
    """Why the root in the folder does not count; empty for the one in force, and for a predecessor."""
    if own is None or hashlib.sha256(own).digest() == hashlib.sha256(found.data).digest():
        return ""
    try:
        root = trust.first_root(own)
    except FleetfootError:
        return "what lies in its place is no root"
    if root.fleet == found.root.fleet and root.version < found.root.version:
        return ""
    return f"root {root.version} of fleet {root.fleet} does not follow from the root that the package embeds"


def keep_link(folder: Path, root: TrustRoot, data: bytes) -> None:
    """Keep a root that was reached, durably, as a link of the chain."""
    durable.make_folder(folder / "roots", 0o700)
    durable.write_file(folder / "roots" / f"{root.version}.json", data, 0o600)

"""Releases, orders and trust roots of one fleet, signed by the real tools, for tests of a device."""

import json
import time
from pathlib import Path
from typing import Any

from tests.support.fleet import FLEET, Bundle, House

from fleetfoot_agent.layout import version_name
from fleetfoot_protocol import dsse, keys, times
from fleetfoot_protocol.documents import Desired, Goal, Heartbeat, Probe, Release, Target
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.trust import TrustRoot

GROUP = "g-one"
DEVICE = "dev-001"
MIRROR = "http://127.0.0.1:9/blobs"


def name_of(bundle: Bundle) -> str:
    """The name of its tree."""
    return version_name(bundle.release.version, bundle.digest)


def blob_of(bundle: Bundle) -> str:
    """The sha256 of its one artifact."""
    return bundle.release.artifacts[0].sha256


class Stock:
    """Releases of one fleet, each built and signed once."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self._bundles: dict[str, Bundle] = {}

    def __getitem__(self, version: str) -> Bundle:
        if version not in self._bundles:
            self._bundles[version] = self.house.release(version)
        return self._bundles[version]

    def signed(self, kind: PayloadType, payload: bytes, *, key: str = "director") -> bytes:
        return dsse.encode(dsse.sign(kind, payload, self.house.keys[key]))

    def changed(self, bundle: Bundle, *, key: str = "release", **changes: Any) -> Bundle:
        """The same artifact under another manifest, signed by the key named `key`."""
        release = Release.model_validate(bundle.release.model_dump() | changes)
        envelope = self.signed(PayloadType.RELEASE, release.payload(), key=key)
        return Bundle(bundle.path, release, dsse.decode(envelope).digest, envelope)

    def desired(self, sequence: int, *targets: Target, **fields: Any) -> Desired:
        now = time.time()
        facts: dict[str, Any] = {
            "fleet": FLEET,
            "group": GROUP,
            "component": "kiosk",
            "epoch": 1,
            "sequence": sequence,
            "issued": times.to_text(now - 60),
            "expires": times.to_text(now + 86400),
            "mirror": MIRROR,
            "targets": targets,
        }
        return Desired(**{**facts, **fields})

    def order(self, sequence: int, *targets: Target, **fields: Any) -> bytes:
        return self.signed(PayloadType.DESIRED, self.desired(sequence, *targets, **fields).payload())

    def root_after(
        self, have: TrustRoot, *, director: bytes | None = None, signed_by: str = "root", **changes: Any
    ) -> tuple[TrustRoot, bytes]:
        """The next trust root and its envelope; another `director` key makes a new epoch."""
        fields = have.model_dump(mode="json")
        fields["version"] += 1
        if director is not None:
            public = keys.public_of(director)
            fields["keys"][keys.key_id(public)] = public.hex()
            fields["roles"]["director"]["keys"] = [keys.key_id(public)]
            fields["epoch"] += 1
        root = TrustRoot.model_validate_json(json.dumps(fields | changes), strict=True)
        return root, self.signed(PayloadType.ROOT, root.payload(), key=signed_by)

    def heartbeat(self, issued: float, expires: float) -> bytes:
        beat = Heartbeat(
            fleet=FLEET,
            group=GROUP,
            issued=times.to_text(issued),
            expires=times.to_text(expires),
            components={},
        )
        return self.signed(PayloadType.HEARTBEAT, beat.payload())

    def probe(
        self,
        goal: Goal,
        group: str = GROUP,
        *,
        name: str = "p-1",
        issued: float = 0,
        key: str = "director",
        **fields: Any,
    ) -> bytes:
        """A probe that was issued `issued` seconds from now and lives a minute."""
        facts: dict[str, Any] = {
            "fleet": FLEET,
            "group": group,
            "component": "kiosk",
            "id": name,
            "goal": goal,
            "issued": times.to_text(time.time() + issued),
            "expires": times.to_text(time.time() + issued + 60),
        }
        return self.signed(PayloadType.PROBE, Probe(**{**facts, **fields}).payload(), key=key)

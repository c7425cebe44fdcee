"""What a fleet verifies: once for all of its devices where the bytes are the same."""

from collections.abc import Callable
from typing import TypeVar

from fleetfoot_protocol import trust
from fleetfoot_protocol.documents import Desired, Probe, Release
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.trust import TrustRoot

#: Documents of a kind that are remembered.
_REMEMBERED = 64

V = TypeVar("V")


class Verifier:
    """Verifies documents with a trust root; what is byte for byte the same, once. `count` of verifications.

    each: verify for every device anew, which measures what the processors of a fleet do in parallel.
    """

    def __init__(self, root: TrustRoot, *, each: bool = False) -> None:
        self.root = root
        self.count = 0
        self._each = each
        self._desired: dict[bytes, Desired | UpgradeError] = {}
        self._probes: dict[bytes, Probe | UpgradeError] = {}
        self._releases: dict[bytes, tuple[Release, str] | UpgradeError] = {}

    def desired(self, data: bytes) -> Desired:
        """The desired state in an envelope. Raises UpgradeError."""
        return self._verified(self._desired, trust.verify_desired, data)

    def probe(self, data: bytes) -> Probe:
        """The probe in an envelope. Raises UpgradeError."""
        return self._verified(self._probes, trust.verify_probe, data)

    def release(self, data: bytes) -> tuple[Release, str]:
        """The manifest in an envelope with its digest. Raises UpgradeError."""
        return self._verified(self._releases, trust.verify_release, data)

    def _verified(
        self, known: dict[bytes, V | UpgradeError], verify: Callable[[bytes, TrustRoot], V], data: bytes
    ) -> V:
        found = None if self._each else known.get(data)
        if found is None:
            self.count += 1
            try:
                found = verify(data, self.root)
            except UpgradeError as error:
                found = error
            while len(known) >= _REMEMBERED:
                known.pop(next(iter(known)))
            known[data] = found
        if isinstance(found, UpgradeError):
            raise found
        return found

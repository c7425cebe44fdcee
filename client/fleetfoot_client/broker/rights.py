"""Who may write and read what at the broker, by role: the one table behind every access list we ship.

The writers are those of contract section 1; the readers are what each program subscribes to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fleetfoot_protocol.topics import Kind


class Role(StrEnum):
    """What somebody at the broker is; each has certificates of its own."""

    DEVICE = "device"
    MANAGER = "manager"
    OPERATOR = "operator"
    INTEGRATOR = "integrator"


@dataclass(frozen=True, slots=True)
class Rights:
    """own: the id in a topic that must be the name of whoever connects, empty if there is none.

    Kinds without that id are read as a whole; an id that is not the own one is any.
    """

    own: str
    writes: frozenset[Kind]
    reads: frozenset[Kind]


_OF_DEVICES = frozenset(
    {Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE, Kind.PROGRESS, Kind.DEVICE_EVENTS}
)

RIGHTS: Mapping[Role, Rights] = {
    Role.DEVICE: Rights(
        own="device",
        writes=_OF_DEVICES,
        # Its own presence: the courier corrects a late Will.
        reads=frozenset(
            {
                Kind.GROUP_DESIRED,
                Kind.DEVICE_DESIRED,
                Kind.HEARTBEAT,
                Kind.PROBE,
                Kind.RELEASE,
                Kind.TRUST_ROOT,
                Kind.PRESENCE,
            }
        ),
    ),
    # Devices' topics too: to forget a device is to clear what it left retained.
    Role.MANAGER: Rights(own="", writes=frozenset(Kind), reads=frozenset(Kind)),
    Role.OPERATOR: Rights(
        own="operator",
        writes=frozenset({Kind.REQUESTS}),
        reads=frozenset(Kind) - {Kind.REQUESTS},
    ),
    # What is plain JSON, with what it takes to verify it.
    Role.INTEGRATOR: Rights(
        own="",
        writes=frozenset(),
        reads=_OF_DEVICES
        | {Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION, Kind.GROUP_EVENTS, Kind.MANAGER_PRESENCE, Kind.TRUST_ROOT},
    ),
}


def verb(role: Role, kind: Kind) -> str:
    """`readwrite`, `write`, `read`, or empty: what `role` may do with topics of `kind`, as far as its own."""
    rights = RIGHTS[role]
    may = {(True, True): "readwrite", (False, True): "write", (True, False): "read"}
    return may.get((kind in rights.reads, kind in rights.writes), "")

"""Exit codes of the command line, in one place; the documentation lists the same ones."""

from enum import IntEnum

from fleetfoot_protocol.codes import TABLE, Code, Family
from fleetfoot_protocol.errors import FleetfootError


class Exit(IntEnum):
    """What the number says that a command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    """A rollout is paused or tripped, or ended without being completed; a device would not, or did not."""
    TIMEOUT = 4
    TRUST = 5
    """A signature or a checksum is not what it must be, or a key has not the right."""
    BROKER = 6
    REFUSED = 78
    """The manager's store is damaged, of another version, not this user's, or taken over by another manager:
    no start will mend that."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as a shell counts."""
    BROKEN_PIPE = 141
    """Nobody reads any more: 128 + SIGPIPE."""


_BY_CODE: dict[str, Exit] = {
    "usage": Exit.USAGE,
    "config_invalid": Exit.USAGE,
    "unsafe_binding": Exit.USAGE,
    "timeout": Exit.TIMEOUT,
    "store_refused": Exit.REFUSED,
    "store_taken": Exit.REFUSED,
    "broker_unreachable": Exit.BROKER,
    Code.UPGRADE_LENGTH_MISMATCH: Exit.TRUST,
    Code.UPGRADE_CHECKSUM_MISMATCH: Exit.TRUST,
    **{code: Exit.TRUST for code, info in TABLE.items() if info.family is Family.TRUST},
}


def exit_of(error: FleetfootError) -> Exit:
    """The exit code that belongs to an error."""
    return _BY_CODE.get(error.code, Exit.FAILED)

"""What this machine is: platform, boot, clock, free space. Everything is read anew when asked."""

import ctypes
import importlib.metadata
import os
import platform
import sys
from functools import cache
from pathlib import Path

from fleetfoot_protocol.platforms import normalise_machine
from fleetfoot_protocol.reports import Platform

_TIME_ERROR = 5
# struct timex is at most 208 bytes; the kernel fills what it knows.
_TIMEX_BYTES = 256


@cache
def agent_version() -> str:
    """The version of this agent."""
    return importlib.metadata.version("fleetfoot")


def this_platform(hardware: str) -> Platform:
    """Operating system, machine and C library of this host; `hardware` is what the owner calls it."""
    return Platform(
        os=platform.system().lower(), arch=normalise_machine(platform.machine()), libc=_libc(), hw=hardware
    )


@cache
def _libc() -> str | None:
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        name = None
    if name:
        return "glibc"
    return "musl" if any(Path("/lib").glob("ld-musl-*")) else None


def abis() -> frozenset[str]:
    """The binary interfaces that a release can be bound to here: this interpreter's, as wheels name it."""
    return frozenset({f"cp{sys.version_info[0]}{sys.version_info[1]}"})


def boot_id() -> str:
    """The kernel's id of this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"


def clock_trusted() -> bool:
    """Whether the kernel says that its clock is synchronised (adjtimex(2) returns no TIME_ERROR).

    Reads only: `modes` is zero.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
        state = libc.adjtimex(ctypes.byref(buffer))
    except (OSError, AttributeError):
        return False
    return state not in (-1, _TIME_ERROR)


def free_bytes(*folders: Path) -> int:
    """Bytes that an unprivileged user can still write, the least over the folders' file systems."""
    free = []
    for folder in folders:
        there = folder
        while not there.exists():
            there = there.parent
        found = os.statvfs(there)
        free.append(found.f_bavail * found.f_frsize)
    return min(free)

"""Clocks and chance: what the courier takes from the machine besides files and sockets."""

import os
import time


def boot_id() -> str:
    """What names this boot of the kernel; empty where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
            return source.read().strip()
    except (OSError, ValueError):
        return ""


def boottime() -> float:
    """Seconds since this boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def full_jitter(attempt: int, base: float, cap: float) -> float:
    """A random time below min(cap, base * 2^attempt), so that a fleet does not come back in step.

    Chance from the kernel: the random module costs memory and is needed for nothing else.
    """
    limit = min(cap, base * float(2 ** min(attempt, 62)))
    return limit * int.from_bytes(os.urandom(4), "big") / 2**32

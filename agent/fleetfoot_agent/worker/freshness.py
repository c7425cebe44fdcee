"""Whether the manager is still heard: heartbeats that do not come, and documents they name that do not.

Losing freshness is an alarm and never blocks anything (contract section 4, "Order and floors"). So the word
of any clock will do here: that of the device, and that of the signed documents.
"""

import time
from collections.abc import Iterable

from fleetfoot_agent.spool import Link
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.planning import Clock
from fleetfoot_protocol.documents import Heartbeat, expired

#: Seconds after which freshness is looked at again although nothing happened.
LOOK_SECONDS = 3600
#: Seconds that a device waits for its first heartbeat under a trust root: as long as one lives.
FIRST_SECONDS = 24 * 3600
#: Seconds in which a document follows the heartbeat that names it, as far as nobody withholds it.
FOLLOWS_SECONDS = 60


def lost(memory: Memory, components: Iterable[str], clock: Clock, *, stands: bool) -> str | None:
    """Why freshness is lost, in words; None if it is not. `stands`: whether the alarm stands already."""
    heartbeat = memory.heartbeat()
    if heartbeat is None:
        late = clock.now - memory.rooted() > FIRST_SECONDS
        return "no heartbeat of the manager has come yet" if late else None
    if expired(heartbeat.expires, max(clock.now, clock.floor)):
        return "no fresh heartbeat of the manager has come"
    behind = _behind(memory, heartbeat, components)
    if behind and (stands or clock.now >= _follows_until(memory)):
        return f"the newest order for {behind} is withheld: the heartbeat names it, and it has not come"
    return None


def next_look(memory: Memory, components: Iterable[str], now: int) -> int:
    """When to look again, unix seconds."""
    heartbeat = memory.heartbeat()
    if heartbeat is not None and now < _follows_until(memory) and _behind(memory, heartbeat, components):
        return min(now + LOOK_SECONDS, int(_follows_until(memory)) + 1)
    return now + LOOK_SECONDS


def settles_in(link: Link | None, boot_id: str) -> float:
    """Seconds until a session with the broker is old enough for what it holds to have come; 0 if it is.

    A device that has been in a box, or asleep, hears of the present only then. The courier's word will do: a
    hostile one could keep the alarm itself from being told just as well.
    """
    if link is None or link.boot_id != boot_id:
        return 0.0
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - link.since
    return max(0.0, FOLLOWS_SECONDS - age) if age >= 0 else 0.0


def _follows_until(memory: Memory) -> float:
    return (memory.arrived("heartbeat") or 0.0) + FOLLOWS_SECONDS


def _behind(memory: Memory, heartbeat: Heartbeat, components: Iterable[str]) -> str:
    """A component whose group document is older than the heartbeat says; empty if there is none."""
    for name in components:
        named = heartbeat.components.get(name)
        if named is None:
            continue
        have = memory.desired("group", name)
        if have is None or have[0].order < (named.epoch, named.sequence):
            return name
    return ""

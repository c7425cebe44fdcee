"""The engine paused: nothing begins anywhere until somebody resumes it.

It is a fact of the store, so it outlives the manager. Rules:

1. Pausing holds every rollout that is under way, as `rollout.pause` does for one; resuming goes on with
   those, and with no other that somebody had paused before.
2. For as long, every document says `hold` as a whole, those of groups and those of single devices: so nobody
   begins by a baseline, a standing target, an order that was given before, or what awaits an approval alone.
3. Meanwhile whatever would let a device begin is refused, and no hop of a chain begins. What stops, ends or
   brings back is not: pause, cancel, abort, a rollback at once, a recall, a reject.
4. Documents are renewed, heartbeats go out and reports are taken in as ever: devices lose nothing by it.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from fleetfoot_manager.store import get_meta, set_meta
from fleetfoot_protocol import times
from fleetfoot_protocol.errors import FleetfootError

_NAME = "engine_paused"
#: Verbs that let devices begin, whatever is said.
_BEGIN = frozenset(
    {
        "rollout.start",
        "rollout.resume",
        "rollout.activate",
        "rollout.approve",
        "rollout.retry",
        "device.upgrade",
        "device.downgrade",
        "release.promote",
    }
)


class Standstill(NamedTuple):
    """Who paused the engine, when (unix seconds), why, and the rollouts that it holds."""

    by: str
    at: float
    reason: str
    rollouts: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """As replies tell it."""
        return {"by": self.by, "at": times.to_text(self.at), "reason": self.reason}

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"paused by {self.by} since {times.to_text(self.at)}{why}"


def of(tx: Connection) -> Standstill | None:
    """The standstill, or None while the engine goes on."""
    text = get_meta(tx, _NAME)
    if not text:
        return None
    body = json.loads(text)
    return Standstill(body["by"], body["at"], body["reason"], tuple(body["rollouts"]))


def keep(tx: Connection, found: Standstill | None) -> None:
    """Let the engine stand still from now on, or go on."""
    set_meta(tx, _NAME, "" if found is None else json.dumps(found._asdict()))


def begins(verb: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a request would let devices begin."""
    if verb == "rollout.decide":
        steps = ("waves", "batch_pct", "batch_size")
        return arguments.get("decision") == "continue" or any(arguments.get(name) for name in steps)
    if verb == "device.pin":
        return arguments.get("version") is not None
    return verb in _BEGIN or (verb == "release.publish" and arguments.get("bless") is True)


def refusal(tx: Connection, verb: str, arguments: Mapping[str, Any]) -> FleetfootError | None:
    """Why a request must not be met now, if it would let devices begin while nothing may."""
    if not begins(verb, arguments) or (found := of(tx)) is None:
        return None
    return FleetfootError(
        "state_refused",
        f"the engine is {found}",
        remedy="let it go on first: 'fleetfoot rollout resume --all'",
    )

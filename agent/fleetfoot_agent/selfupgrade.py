"""The agent as a component of its own: which version this process is, and what proves a new one.

The component is called `fleetfoot-agent`; its unit is the courier's. The worker that swaps `current` is
not the one that judges: it ends, and the next one, which the guard has counted, is the new version. So a
worker that cannot start is found by the guard, and a courier that cannot connect by the new worker.
Broker contact is demanded only if the courier before had it (contract section 4).
"""

import os
from pathlib import Path
from typing import Protocol

from fleetfoot_agent import durable
from fleetfoot_agent.seam import Seam, UnitState
from fleetfoot_agent.spool import Link

#: What the courier of the agent runs in.
UNIT = "fleetfoot-courier.service"
#: The component, and the variable by which the launcher says which of its versions was started.
COMPONENT = "fleetfoot-agent"
TARGET_VARIABLE = "FLEETFOOT_TARGET"


def own_target() -> str | None:
    """The text of `current` from which this process was started; None for the package's own agent."""
    return os.environ.get(TARGET_VARIABLE) or None


def is_another(current: str | None) -> bool:
    """Whether `current` leads to another agent than this process."""
    return current != own_target()


class LinkSource(Protocol):
    """Whoever can say how the courier's session is."""

    def link(self) -> Link | None:
        """What the courier said last."""


class AgentSeam:
    """The seam to the courier's unit, which counts as ready only with broker contact, if that is demanded.

    `mark` is there while it is: written when the courier is restarted that had contact, durable, because
    the one who judges is another process, perhaps after a reboot. `link`: the courier's word on its session.
    """

    def __init__(self, inner: Seam, link: LinkSource, mark: Path, boot_id: str) -> None:
        self._inner = inner
        self._link = link
        self._mark = mark
        self._boot_id = boot_id

    def _connected(self) -> bool:
        link = self._link.link()
        return link is not None and link.up and link.boot_id == self._boot_id

    def state(self) -> UnitState:
        """As the unit's, but not ready without the contact that is demanded."""
        found = self._inner.state()
        ready = found.ready and (self._connected() or not self._mark.exists())
        return UnitState(found.active, ready, found.pid, found.restarts, found.since, found.target)

    def demand(self) -> None:
        """As the unit's."""
        self._inner.demand()

    def quiesce(self) -> None:
        """Nothing: it would stop who asks for it."""

    def restart(self) -> None:
        """Restart the courier, and remember whether the one before had contact."""
        if self._connected():
            durable.write_file(self._mark, b"")
        else:
            durable.remove_file(self._mark)
        self._inner.restart()

"""Fault points: where a test kills the manager, to prove that it goes on where it was.

`FLEETFOOT_FAULT="<stage>:<effect>:<nth>"` in the environment, read once at start: at the nth time (from 1)
that an effect of that name passes that stage, the process kills itself with SIGKILL. Without the variable
nothing here does anything.

Stages, for each effect of a decision: `before-apply` and `after-apply` lie inside the transaction;
`after-commit` lies between the commit and the first publication; `after-publish` behind handing the
publications to the broker's connection.
"""

import logging
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import get_args

from fleetfoot_manager.effects import Effect
from fleetfoot_protocol.errors import FleetfootError

log = logging.getLogger(__name__)

VARIABLE = "FLEETFOOT_FAULT"


class Stage(StrEnum):
    """Where in the life of an effect a fault point lies."""

    BEFORE_APPLY = "before-apply"
    AFTER_APPLY = "after-apply"
    AFTER_COMMIT = "after-commit"
    AFTER_PUBLISH = "after-publish"


#: The names of all effects, from the closed union itself.
EFFECTS: tuple[str, ...] = tuple(sorted(kind.__name__ for kind in get_args(Effect)))


@dataclass(slots=True)
class Faults:
    """The one fault that is armed, or none."""

    stage: Stage | None = None
    effect: str = ""
    nth: int = 1
    _seen: int = field(default=0, init=False)

    @classmethod
    def from_environment(cls) -> "Faults":
        """The fault that the environment names. Raises FleetfootError `usage` for one that cannot be."""
        text = os.environ.get(VARIABLE, "")
        if not text:
            return cls()
        stage, _, rest = text.partition(":")
        effect, _, nth = rest.partition(":")
        if stage not in set(Stage) or effect not in EFFECTS or not (nth or "1").isdecimal():
            raise FleetfootError(
                "usage",
                f"{VARIABLE}={text!a} names no fault point",
                remedy=f"<stage>:<effect>:<nth> of {', '.join(Stage)} and {', '.join(EFFECTS)}",
            )
        log.warning("fault point armed: %s", text)
        return cls(Stage(stage), effect, int(nth or "1"))

    def hit(self, stage: Stage, effects: Iterable[str]) -> None:
        """Pass the fault point of `stage` with the named effects; does not return if it is the armed one."""
        if stage is not self.stage:
            return
        self._seen += sum(1 for name in effects if name == self.effect)
        if self._seen >= self.nth:
            os.kill(os.getpid(), signal.SIGKILL)

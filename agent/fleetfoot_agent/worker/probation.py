"""Watching a version prove itself: what is seen each second, and the verdict (contract section 7).

`Observer` decides from observations alone; `look` makes one. The window restarts with the worker.
"""

from dataclasses import dataclass
from typing import Literal

from fleetfoot_agent.components import Component
from fleetfoot_agent.seam import Seam
from fleetfoot_agent.worker import checks
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import CheckResult


@dataclass(frozen=True, slots=True)
class Look:
    """One observation. `problem` is None when all is well.

    `up`: whether the process runs at all; None if nobody could say, because the supervisor does not answer.
    `restarts`: starts that nobody asked for.
    """

    pid: int | None
    up: bool | None
    problem: str | None
    checks: tuple[CheckResult, ...] = ()
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the observations amount to so far."""

    verdict: Literal["wait", "healthy", "unwell"]
    code: Code = Code.UPGRADE_HEALTH_FAILED
    message: str = ""


def look(component: Component, seam: Seam, target: str) -> Look:
    """Ask the supervisor and try the checks once. `target`: the text of `current` that should run."""
    try:
        state = seam.state()
    except FleetfootError as error:
        return Look(None, None, error.message)
    if state.target != target:
        return Look(state.pid, False, f"{state.target or 'nothing'} was started last, not {target}")
    if not state.active:
        return Look(state.pid, False, "the process does not run", restarts=state.restarts)
    if not state.ready:
        return Look(state.pid, True, "the process is not ready", restarts=state.restarts)
    tried = checks.try_all(component.checks)
    problem = next((result.message for result in tried if not result.healthy), None)
    return Look(state.pid, True, problem, tried, state.restarts)


class Observer:
    """Judges a version over `window` seconds; it must be well for the last `settle` of them.

    Until it has been well for the first time, starts are the guard's to count. Once it was well, its death
    inside the window is enough: what dies so soon will die again. A supervisor that does not answer is no
    death, but no health either.
    """

    def __init__(self, window: float, settle: float, now: float) -> None:
        self._end = now + window
        self._settle = settle
        self._well_since: float | None = None
        self._pid: int | None = None
        self._was_well = False

    def judge(self, seen: Look, now: float) -> Judgement:
        """The judgement after one more look at `now` (monotonic seconds)."""
        died = self._was_well and seen.up is not None and (not seen.up or seen.pid != self._pid)
        if died:
            return Judgement("unwell", Code.UPGRADE_BOOT_FAILED, "it died while on probation")
        if seen.problem is None:
            self._was_well, self._pid = True, seen.pid
            self._well_since = now if self._well_since is None else self._well_since
        else:
            self._well_since = None
        if now < self._end:
            return Judgement("wait")
        if self._well_since is not None and now - self._well_since >= self._settle:
            return Judgement("healthy")
        code = Code.UPGRADE_HEALTH_FAILED if seen.up else Code.UPGRADE_BOOT_FAILED
        return Judgement("unwell", code, seen.problem or "it was not well for long enough")

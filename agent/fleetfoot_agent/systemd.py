"""The seam to systemd: what `seam.SocketSeam` is to the supervisor, for a component that a unit runs.

The worker is no root and has no sudo. It reads the unit's properties from systemd over D-Bus, which anybody
may; it wishes a restart by making a file that a root-owned path unit waits for (contract section 7).

Which version a start was about cannot be seen from outside another user's process. So the adopted unit notes
it itself, as root, right before its program starts: `fleetfoot-note` writes the invocation id that systemd
gave this very start, and the text of `current`. The note counts only while the unit has that invocation id,
so neither an older start nor a swap meanwhile can be taken for it. Standard library only.
"""

import re
import subprocess
import time
from pathlib import Path

from fleetfoot_agent import durable, selfupgrade
from fleetfoot_agent.components import Component
from fleetfoot_agent.seam import Seam, UnitState
from fleetfoot_protocol.errors import FleetfootError

#: Where adopted units note what they start, and where the worker makes its wishes.
STARTED = Path("/run/fleetfoot/started")
RESTART = Path("/run/fleetfoot/restart")

#: What is asked for.
PROPERTIES = (
    "LoadState",
    "ActiveState",
    "MainPID",
    "NRestarts",
    "InvocationID",
    "StateChangeTimestampMonotonic",
    "Wants",
)

_NOTE_CAP = 4096
_NOTE = re.compile(r"([0-9a-f]{32}) (\S{1,512})\n")
_POLL = 0.02


class SystemdSeam:
    """The seam to the adopted unit `unit`, which runs `component`.

    started, wishes: folders of notes and of wishes. act_timeout: seconds for a restart to begin, which takes
    the component's time to stop. guarded: whether the guard must stand before this very unit.
    Everything that goes wrong is `FleetfootError` supervisor_failed.
    """

    def __init__(
        self,
        unit: str,
        component: str,
        *,
        started: Path = STARTED,
        wishes: Path = RESTART,
        timeout: float = 10.0,
        act_timeout: float = 120.0,
        guarded: bool = True,
    ) -> None:
        self._guarded = guarded
        self._unit = unit
        self._component = component
        self._started = started
        self._wishes = wishes
        self._timeout = timeout
        self._act_timeout = act_timeout

    def state(self) -> UnitState:
        """How the component is now: active while it has a process, ready while systemd calls it active."""
        facts = self._show(self._unit)
        if facts["LoadState"] != "loaded":
            raise self._failed(f"{self._unit} is {facts['LoadState']}")
        pid = _number(facts["MainPID"])
        changed = _number(facts["StateChangeTimestampMonotonic"]) / 1e6
        return UnitState(
            active=pid != 0,
            ready=pid != 0 and facts["ActiveState"] in ("active", "reloading"),
            pid=pid or None,
            restarts=_number(facts["NRestarts"]),
            since=time.time() - max(0.0, time.monotonic() - changed),
            target=self._noted(facts["InvocationID"]),
        )

    def demand(self) -> None:
        """Nothing, if the unit was adopted: a wish would be answered, and the guard counts its starts."""
        self.state()
        self._demand_answer()
        guard = f"fleetfoot-guard@{self._component}.service"
        if self._guarded and guard not in self._show(self._unit)["Wants"].split():
            raise self._failed(f"{self._unit} is not adopted: it would start without {guard}")

    def restart(self) -> None:
        """Have the unit restarted; returns when the start has begun, whose outcome `state` tells.

        A start that is asked for while systemd itself starts the unit again is not taken for the one that was
        wished: the wish must be gone, its unit at rest, and no stop of the old process pending.
        """
        wish = self._wishes / self._unit
        service = f"fleetfoot-restart@{self._unit}.service"
        self._demand_answer()
        before = self._show(self._unit)["InvocationID"]
        try:
            durable.write_file(wish, b"")
        except OSError as error:
            raise self._failed(f"cannot wish for a restart at {wish}: {error.strerror}") from error
        deadline = time.monotonic() + self._act_timeout
        while not self._granted(wish, service, before):
            if time.monotonic() > deadline:
                raise self._failed(f"{self._unit} was not restarted within {self._act_timeout:g} s")
            time.sleep(_POLL)

    def _demand_answer(self) -> None:
        path = f"fleetfoot-restart@{self._unit}.path"
        if self._show(path)["ActiveState"] != "active":
            raise self._failed(f"{path} is not active, so nothing would answer the wish")

    def quiesce(self) -> None:
        """Nothing: the worker may restart this unit and no more. A drain hook of the owner can stop it."""

    def _granted(self, wish: Path, service: str, before: str) -> bool:
        if wish.exists():
            return False
        answer = self._show(service)["ActiveState"]
        if answer == "failed":
            raise self._failed(f"{service} failed")
        if answer != "inactive":
            return False
        if self._stop_pending():
            return False
        facts = self._show(self._unit)
        # A unit that could not even begin (its start was refused) has no new invocation, and no process.
        return facts["InvocationID"] != before or facts["ActiveState"] in ("failed", "inactive")

    def _stop_pending(self) -> bool:
        """Whether the old process still has to go: systemd turns a restart into a start when it has."""
        jobs = self._systemctl("list-jobs", "--plain", "--no-legend").splitlines()
        found = (line.split() for line in jobs)
        return any(job[1] == self._unit and job[2] != "start" for job in found if len(job) >= 3)

    def _noted(self, invocation: str) -> str | None:
        data = durable.read_regular(self._started, self._component, _NOTE_CAP)
        match = _NOTE.fullmatch((data or b"").decode("utf-8", "replace"))
        return match[2] if match and match[1] == invocation else None

    def _show(self, unit: str) -> dict[str, str]:
        wanted = [f"--property={name}" for name in PROPERTIES]
        lines = self._systemctl("show", *wanted, "--", unit).splitlines()
        found = dict.fromkeys(PROPERTIES, "")
        found |= dict(line.split("=", 1) for line in lines if "=" in line)
        return found

    def _systemctl(self, *arguments: str) -> str:
        try:
            return ask(*arguments, timeout=self._timeout)
        except FleetfootError as error:
            raise self._failed(error.message) from error

    def _failed(self, why: str) -> FleetfootError:
        return FleetfootError(
            "supervisor_failed",
            why,
            remedy=f"see 'systemctl status {self._unit}'; was it adopted? "
            f"fleetfoot-agent adopt {self._unit} --component {self._component}",
        )


def ask(*arguments: str, timeout: float = 10.0) -> str:
    """What systemctl answers. Raises `FleetfootError` (supervisor_failed), for a negative answer too."""
    try:
        done = subprocess.run(
            ["systemctl", "--no-pager", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip()[:500]
        raise FleetfootError("supervisor_failed", f"systemctl {' '.join(arguments)}: {why}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FleetfootError("supervisor_failed", f"systemd cannot be asked: {error}") from error
    return done.stdout


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def unit_seam(component: Component) -> Seam | None:
    """The seam to the component's unit; None if no unit runs it, but a supervisor."""
    if component.unit is None:
        return None
    # The agent's own guard stands before its worker, not before the courier, whose unit this is.
    return SystemdSeam(component.unit, component.name, guarded=component.unit != selfupgrade.UNIT)

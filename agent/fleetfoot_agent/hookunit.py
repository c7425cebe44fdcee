"""Hooks and checks that are units of the device's owner, and how the worker has them run.

The worker may start nothing. It wishes by making a file that a root-owned path unit waits for, as it does for
restarts (contract section 7); `fleetfoot-hook` then runs the unit to its end and tells how it ended. The
unit is of `Type=oneshot`, and its time is limited by systemd itself, to the longest that any use of it may
take: `fleetfoot-agent adopt` sees to both. What this use may take the wish says, and
`fleetfoot-hook` ends it. Standard library only.
"""

import re
import time
from collections.abc import Mapping
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_agent.systemd import ask
from fleetfoot_protocol.errors import FleetfootError

#: Where the worker makes its wishes, and where root tells how the units ended.
WISHES = Path("/run/fleetfoot/hook")
TOLD = Path("/run/fleetfoot/hooked")

_TOLD_CAP = 256
_ANSWER = re.compile(r"([a-z-]{1,40}) ([0-9]{1,3})\n")
_POLL = 0.02
#: Seconds beyond its time that a unit may take until systemd has ended it.
_GRACE = 15.0


class UnitHook:
    """The hook that is the unit `unit`. wishes, told: folders of wishes and of answers."""

    def __init__(self, unit: str, *, wishes: Path = WISHES, told: Path = TOLD) -> None:
        self._unit = unit
        self._wish = wishes / unit
        self._told = told

    def run(self, environment: Mapping[str, str], timeout: float) -> str | None:
        """Have it run to its end. None if it ended well, else why not, in words.

        A run that an earlier worker wished may have to end first: then it runs a second time.
        """
        path = f"fleetfoot-hook@{self._unit}.path"
        try:
            ask("is-active", "--quiet", "--", path)
        except FleetfootError:
            return f"{path} is not active, so nothing runs {self._unit}: adopt the component's unit again"
        text = "".join(f"{name}={value}\n" for name, value in environment.items())
        try:
            durable.write_file(self._wish, text.encode())
        except OSError as error:
            return f"cannot wish for {self._unit} at {self._wish}: {error.strerror}"
        deadline = time.monotonic() + timeout + _GRACE
        while self._wish.exists():
            if time.monotonic() > deadline:
                self._wish.unlink(missing_ok=True)
                return f"nobody has run {self._unit} within {timeout:g} s"
            time.sleep(_POLL)
        return self._answer(timeout)

    def _answer(self, timeout: float) -> str | None:
        deadline = time.monotonic() + timeout + _GRACE
        while (data := durable.read_regular(self._told, self._unit, _TOLD_CAP)) is None:
            if time.monotonic() > deadline:
                return f"{self._unit} did not end within {timeout:g} s"
            time.sleep(_POLL)
        match = _ANSWER.fullmatch(data.decode("ascii", "replace"))
        if match is None:
            return f"{self._unit} ended in a way that is not understood"
        if match[1] == "success":
            return None
        if match[1] == "timeout":
            return f"{self._unit} did not end within {timeout:g} s"
        return f"{self._unit} failed: {match[1]} {match[2]}"

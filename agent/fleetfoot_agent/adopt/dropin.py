"""What adopting adds to a unit, and which units it refuses: pure, from what `systemctl show` says.

Contract section 7 asks for: the guard before every start as a unit of its own, a restart after every failure
with a pause, room for all starts of a trial within the start limit, the worker woken when the unit has given
up. What a unit has already and is at least as strong stays its own.
"""

import re
from collections.abc import Mapping

from fleetfoot_agent.components import Component
from fleetfoot_protocol.errors import FleetfootError

#: Properties of the unit that are looked at.
FACTS = (
    "Id",
    "LoadState",
    "UnitFileState",
    "Transient",
    "Type",
    "BusName",
    "PIDFile",
    "RemainAfterExit",
    "RootDirectory",
    "RootImage",
    "RefuseManualStart",
    "RefuseManualStop",
    "ExecStart",
    "WorkingDirectory",
    "Restart",
    "RestartUSec",
    "StartLimitBurst",
    "StartLimitIntervalUSec",
)

#: The guard unit and the packaged scripts know no other place.
INSTALL_ROOT = "/opt/fleetfoot"
NOTE = "/usr/lib/fleetfoot/fleetfoot-note"

_OWN = re.compile(r"fleetfoot-(courier|worker|wake|(guard|restart|hook|keep|restore)@.*)\.service")
#: Restart= settings that answer every failure.
_RESTARTS = ("always", "on-failure")
_MIN_PAUSE_US = 1_000_000

_SPANS = {"us": 1, "ms": 1000, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}


def span_us(text: str) -> int | None:
    """Microseconds in a time span as systemd prints it, ``1min 30s``; None for ``infinity`` and the like."""
    total = 0
    for word in text.split():
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z]+)", word)
        if word == "0":
            continue
        if match is None or match[2] not in _SPANS:
            return None
        total += round(float(match[1]) * _SPANS[match[2]])
    return total


def check(facts: Mapping[str, str], component: Component) -> None:
    """Raise `FleetfootError` (state_refused) if the unit is one that adopting cannot protect."""
    unit = facts["Id"]
    current = f"{INSTALL_ROOT}/{component.name}/current"
    started = f"{facts['ExecStart']} {facts['WorkingDirectory']} "
    uses_current = re.search(re.escape(current) + r"(?![A-Za-z0-9._-])", started)
    # (refused if, why, what to do); the first that holds is told.
    table = (
        (facts["LoadState"] == "not-found", "there is no such unit", "install the unit first"),
        (facts["LoadState"] == "masked", "it is masked", f"systemctl unmask {unit}"),
        (facts["LoadState"] != "loaded", f"it is {facts['LoadState']}", f"systemd-analyze verify {unit}"),
        (_OWN.fullmatch(unit), "it is the agent's own", "name the unit that runs your component"),
        (facts["Transient"] == "yes", "it is transient, gone with the next boot", "write it as a unit file"),
        (facts["Type"] == "oneshot", "Type=oneshot: it runs once, so nothing can prove itself healthy in it",
         "let it be a service that stays, Type=notify or exec"),
        (facts["Type"] == "dbus" or facts["BusName"] not in ("", "(null)"),
         "D-Bus starts it, past the guard and whenever it likes", "use Type=notify, and no BusName="),
        (facts["Type"] == "forking" and not facts["PIDFile"],
         "Type=forking without PIDFile=: systemd only guesses its process", "set PIDFile=, or Type=notify"),
        (facts["RemainAfterExit"] == "yes", "RemainAfterExit=yes: it counts as running when it has ended",
         "remove RemainAfterExit="),
        (facts["RootDirectory"] or facts["RootImage"], "in its root current leads elsewhere",
         "remove RootDirectory= or RootImage="),
        (facts["RefuseManualStart"] == "yes" or facts["RefuseManualStop"] == "yes",
         "it may not be restarted by hand, so the worker could not either",
         "remove RefuseManualStart= and RefuseManualStop="),
        (not uses_current, f"neither ExecStart= nor WorkingDirectory= names {current}, so an upgrade would "
         "change nothing", f"start it from {current}/..."),
    )  # fmt: skip
    for refused, why, remedy in table:
        if refused:
            raise FleetfootError("state_refused", f"{unit} cannot be adopted: {why}", remedy=remedy)


def check_hook(facts: Mapping[str, str]) -> None:
    """Raise `FleetfootError` (state_refused) if the unit does not run to its end, each time anew."""
    unit = facts["Id"]
    ours = re.search(re.escape(INSTALL_ROOT) + r"/", facts["ExecStart"])
    table = (
        (facts["LoadState"] == "not-found", "there is no such unit", "install the unit first"),
        (facts["LoadState"] != "loaded", f"it is {facts['LoadState']}", f"systemd-analyze verify {unit}"),
        (_OWN.fullmatch(unit), "it is the agent's own", "name a unit of yours"),
        (facts["Type"] != "oneshot", f"Type={facts['Type']}: nobody could tell when it has ended",
         "use Type=oneshot"),
        (facts["RemainAfterExit"] == "yes", "RemainAfterExit=yes: it would run but once",
         "remove RemainAfterExit="),
        (facts["RefuseManualStart"] == "yes", "it may not be started by hand", "remove RefuseManualStart="),
        (ours, f"its program lies below {INSTALL_ROOT}, where the worker's user can write",
         "let it run a program of the device's owner, never one of a release"),
    )  # fmt: skip
    for refused, why, remedy in table:
        if refused:
            raise FleetfootError("state_refused", f"{unit} cannot be a hook: {why}", remedy=remedy)


def render_hook(timeout: float) -> str:
    """The text of the drop-in for a unit that is a hook and may take `timeout` seconds."""
    return (
        "[Service]\n"
        "EnvironmentFile=-/run/fleetfoot/hooked/%n.env\n"
        f"TimeoutStartSec={timeout:g}s\n"
        "TimeoutStartFailureMode=kill\n"
    )


def without(facts: Mapping[str, str], text: str) -> dict[str, str]:
    """The unit's facts as they would be without our drop-in `text`, as far as `render` looks at them.

    Or adopting a second time would find what the first time has added, and leave it out.
    """
    lines = set(text.splitlines())
    found = dict(facts)
    if "Restart=on-failure" in lines:
        found["Restart"] = "no"
    if "RestartSec=1s" in lines:
        found["RestartUSec"] = "0"
    if any(line.startswith("StartLimitBurst=") for line in lines):
        found["StartLimitBurst"] = "0"
    return found


def render(facts: Mapping[str, str], component: Component) -> str:
    """The text of the drop-in for the unit."""
    guard = f"fleetfoot-guard@{component.name}.service"
    lines = ["[Unit]", f"Wants={guard}", f"After={guard}"]
    if component.preserve:
        restore = f"fleetfoot-restore@{component.name}.service"
        lines += [f"Wants={restore}", f"After={restore}"]
    lines.append("OnFailure=fleetfoot-wake.service")
    # Without any version, as before the first and after the last, there is nothing to start again and again.
    lines.append(f"ConditionPathIsSymbolicLink={INSTALL_ROOT}/{component.name}/current")
    burst = 2 * component.max_boot_attempts + 4
    limited = span_us(facts["StartLimitIntervalUSec"]) != 0
    if limited and int(facts["StartLimitBurst"] or 0) < burst:
        lines.append(f"StartLimitBurst={burst}")
    lines += ["", "[Service]", f"ExecStartPre=+{NOTE} {component.name}"]
    if facts["Restart"] not in _RESTARTS:
        lines.append("Restart=on-failure")
    pause = span_us(facts["RestartUSec"])
    if pause is not None and pause < _MIN_PAUSE_US:
        lines.append("RestartSec=1s")
    return "\n".join(lines) + "\n"

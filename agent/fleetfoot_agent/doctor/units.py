"""The units: the agent's own, the adopted ones, and the guard, which is tried on a trial made for it."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fleetfoot_agent import selfupgrade
from fleetfoot_agent.adopt import command as adopting
from fleetfoot_agent.adopt.command import systemctl
from fleetfoot_agent.adopt.dropin import span_us
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.doctor.findings import Area, Finding, advice, ok, problem
from fleetfoot_agent.doctor.owners import owners
from fleetfoot_agent.layout import Trial
from fleetfoot_agent.seam import SocketSeam
from fleetfoot_protocol.errors import FleetfootError

#: The agent's units: what must be active, and what only must not have failed.
_ACTIVE = ("fleetfoot-courier.service", "fleetfoot-worker.path", "fleetfoot-worker.timer")
_SOUND = ("fleetfoot-worker.service", "fleetfoot-wake.service")

_FACTS = (
    "LoadState",
    "ActiveState",
    "Result",
    "FragmentPath",
    "DropInPaths",
    "UnitFileState",
    "NeedDaemonReload",
)
_ADOPTED = (
    *_FACTS,
    "Wants",
    "After",
    "OnFailure",
    "Restart",
    "RestartUSec",
    "StartLimitBurst",
    "StartLimitIntervalUSec",
)

GUARD = Path("/usr/lib/fleetfoot/fleetfoot-guard")
_AGAIN = "install the package again"


def booted_by_systemd() -> bool:
    """As sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def show(unit: str, names: tuple[str, ...]) -> dict[str, str]:
    """Properties of a unit."""
    lines = systemctl("show", *(f"--property={name}" for name in names), "--", unit).splitlines()
    return dict.fromkeys(names, "") | dict(line.split("=", 1) for line in lines if "=" in line)


def units(config: AgentConfig) -> list[Finding]:
    """The agent's units and those of its components."""
    found: list[Finding] = []
    for unit in (*_ACTIVE, *_SOUND):
        found += judge_own(unit, show(unit, _FACTS), active=unit in _ACTIVE)
    for component in config.components.values():
        found += _component(config, component)
    return found


def judge_own(unit: str, facts: Mapping[str, str], *, active: bool) -> list[Finding]:
    """What is to be said about one of the agent's own units."""
    if facts["LoadState"] != "loaded":
        text = f"{unit} is {facts['LoadState']}"
        return [
            problem(
                Area.UNIT, text, "install the package again, or run systemd/install; unmask what is masked"
            )
        ]
    found = []
    if not facts["FragmentPath"].removeprefix("/lib").removeprefix("/usr/lib").startswith("/systemd/system/"):
        text = f"{unit} is replaced by {facts['FragmentPath']}"
        found.append(problem(Area.UNIT, text, "remove it: the package's own is hardened and kept up to date"))
    if facts["DropInPaths"]:
        text = f"{unit} is changed by {facts['DropInPaths']}"
        found.append(advice(Area.UNIT, text, "see that it is yours: systemctl cat " + unit))
    if facts["NeedDaemonReload"] == "yes":
        found.append(problem(Area.UNIT, f"{unit} changed on disk", "systemctl daemon-reload"))
    if active and facts["ActiveState"] not in ("active", "activating", "reloading"):
        remedy = f"systemctl enable --now {unit}"
        found.append(problem(Area.UNIT, f"{unit} is {facts['ActiveState']}", remedy))
    elif active and facts["UnitFileState"] not in ("enabled", "enabled-runtime", "static", "generated"):
        text = f"{unit} is active, but not enabled: it will not come back after a reboot"
        found.append(problem(Area.UNIT, text, f"systemctl enable {unit}"))
    if facts["ActiveState"] == "failed":
        text = f"{unit} has failed: {facts['Result']}"
        found.append(problem(Area.UNIT, text, f"see why: journalctl -u {unit}"))
    return found or [ok(Area.UNIT, f"{unit} is {facts['ActiveState']}")]


def _component(config: AgentConfig, component: Component) -> list[Finding]:
    unit = component.unit
    if unit is None:
        return [supervised(config, component)]
    again = f"fleetfoot-agent adopt {unit} --component {component.name}"
    path = show(f"fleetfoot-restart@{unit}.path", _FACTS)
    if component.name == selfupgrade.COMPONENT:
        if path["ActiveState"] == "active":
            return [ok(Area.UNIT, "the agent may upgrade itself")]
        return [problem(Area.UNIT, "the agent cannot restart its courier to upgrade itself", again)]
    try:
        taken = adopting.ours(adopting.UNITS / f"{unit}.d")
    except FleetfootError as error:
        return [problem(Area.UNIT, error.message, error.remedy)]
    if taken != component.name:
        return [
            problem(Area.UNIT, f"{unit} is not adopted, so no guard stands before {component.name}", again)
        ]
    if path["ActiveState"] != "active":
        text = f"fleetfoot-restart@{unit}.path is not active: the worker cannot have {unit} restarted"
        return [problem(Area.UNIT, text, again)]
    return judge_adopted(unit, component, show(unit, _ADOPTED)) + owners(component, show)


def supervised(config: AgentConfig, component: Component) -> Finding:
    """Whether the supervisor of a component without a unit answers."""
    try:
        state = SocketSeam(component.socket, timeout=2.0).state()
    except FleetfootError as error:
        return problem(
            Area.UNIT,
            f"{component.name} has no unit, and no supervisor answers: {error.message}",
            f"name its unit in {config.path}, or: fleetfoot-agent supervise --config {config.path}",
        )
    how = "runs" if state.active else "does not run"
    return ok(Area.UNIT, f"{component.name} is kept by a supervisor and {how}")


def judge_adopted(unit: str, component: Component, facts: Mapping[str, str]) -> list[Finding]:
    """Whether what `adopt` added is in force: a later drop-in may have taken it back."""
    if facts["LoadState"] != "loaded":
        return [problem(Area.UNIT, f"{unit} is {facts['LoadState']}", f"systemd-analyze verify {unit}")]
    guard, found = f"fleetfoot-guard@{component.name}.service", []
    again = f"see which drop-in takes it back: systemctl cat {unit}"
    if guard not in facts["Wants"].split() or guard not in facts["After"].split():
        found.append(problem(Area.UNIT, f"{unit} starts without {guard}", again))
    if facts["Restart"] not in ("always", "on-failure"):
        text = f"{unit} has Restart={facts['Restart']}: it stays down when it dies, and nothing counts"
        found.append(problem(Area.UNIT, text, again))
    if "fleetfoot-wake.service" not in facts["OnFailure"].split():
        found.append(problem(Area.UNIT, f"{unit} wakes nobody when it gives up", again))
    burst, wanted = int(facts["StartLimitBurst"] or 0), 2 * component.max_boot_attempts + 4
    interval = span_us(facts["StartLimitIntervalUSec"])
    if interval != 0 and burst < wanted:
        text = f"{unit} may start {burst} times, a trial and its way back need {wanted}"
        found.append(problem(Area.UNIT, text, f"fleetfoot-agent adopt {unit} --component {component.name}"))
    if facts["ActiveState"] == "failed":
        found.append(problem(Area.UNIT, f"{unit} has failed: {facts['Result']}", f"journalctl -u {unit}"))
    if facts["NeedDaemonReload"] == "yes":
        found.append(problem(Area.UNIT, f"{unit} changed on disk", "systemctl daemon-reload"))
    if facts["UnitFileState"] not in ("enabled", "enabled-runtime", "static", "generated", "indirect"):
        found.append(advice(Area.UNIT, f"{unit} is not started at boot", f"systemctl enable {unit}"))
    limit = (
        "" if limit_reachable(facts) else "; its start limit cannot be reached, so OnFailure= will not fire"
    )
    return found or [ok(Area.UNIT, f"{unit} is adopted and {facts['ActiveState']}{limit}")]


def limit_reachable(facts: Mapping[str, str]) -> bool:
    """Whether a unit that dies at once at every start is ever given up by systemd."""
    interval, pause = span_us(facts["StartLimitIntervalUSec"]), span_us(facts["RestartUSec"])
    if interval == 0:
        return False
    return interval is None or pause is None or int(facts["StartLimitBurst"] or 0) * pause < interval


def guard(script: Path) -> list[Finding]:
    """Try the guard on a trial made up for it: it must count the start, then put `current` back."""
    if not os.access(script, os.X_OK):
        text = "cannot be executed" if script.exists() else "is not there"
        return [problem(Area.GUARD, f"{script} {text}", _AGAIN)]
    old, new = "versions/1.0.0-aaaaaaaa", "versions/2.0.0-bbbbbbbb"
    with tempfile.TemporaryDirectory(prefix="fleetfoot-doctor-") as name:
        folder = Path(name)
        for target in (old, new):
            (folder / target).mkdir(parents=True)
        (folder / "trial").write_bytes(Trial(0, 1, old, new).line())
        (folder / "current").symlink_to(new)
        said = _run_guard(script, folder)
        counted = (folder / "trial").read_bytes() == Trial(1, 1, old, new).line()
        said += _run_guard(script, folder)
        back = os.readlink(folder / "current") == old
    if not counted or not back:
        what = "go back" if counted else "count starts"
        return [problem(Area.GUARD, f"{script} does not {what}: {said.strip()[:200]}", _AGAIN)]
    return [ok(Area.GUARD, "tried: it counts a start, and goes back when they are used up")]


def _run_guard(script: Path, folder: Path) -> str:
    try:
        done = subprocess.run(
            [str(script), str(folder)], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr

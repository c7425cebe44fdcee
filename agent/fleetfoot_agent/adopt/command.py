"""`fleetfoot-agent adopt`: put a unit under the guard, or take it out again. For root.

What is put: one drop-in of the unit, `50-fleetfoot.conf`, whose first lines say what it is and the sha256
of the rest, the enabled path unit that restarts this one unit, and what `auxiliary` names for hooks and
for what is preserved. `--undo` removes these and nothing else; a drop-in that somebody has edited since is
nobody's to remove but theirs.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from fleetfoot_agent import durable, selfupgrade, systemd
from fleetfoot_agent.adopt import auxiliary, dropin
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_protocol.errors import FleetfootError

UNITS = Path("/etc/systemd/system")
NAME = "50-fleetfoot.conf"

_HEADER = (
    "# Made by: fleetfoot-agent adopt {unit} --component {component}\n# sha256 of what follows: {digest}\n"
)
_MADE = re.compile(
    r"# Made by: fleetfoot-agent adopt \S+ --component (\S+)\n# sha256 of what follows: ([0-9a-f]{64})\n(.*)",
    re.DOTALL,
)
_CAP = 64 * 1024
_TIMEOUT = 60.0


def adopt(config: AgentConfig, unit: str, component: str, *, undo: bool) -> int:
    """Adopt `unit` for `component`, or undo it. Doing it twice is doing it once. Returns 0.

    Raises `FleetfootError`: not root, not configured, a unit that cannot be protected, systemd refusing.
    """
    if os.geteuid() != 0:
        raise FleetfootError("not_allowed", "only root may change units", remedy="run it as root")
    if (unit, component) == (selfupgrade.UNIT, selfupgrade.COMPONENT):
        return _itself(config, unit, component, undo=undo)
    if undo:
        return _undo(unit, component)
    found = _configured(config, unit, component)
    facts = facts_of(unit)
    folder = UNITS / f"{unit}.d"
    taken = ours(folder)
    if taken is not None and taken != component:
        raise FleetfootError("conflict", f"{unit} is adopted for component {taken} already")
    if other := _adopted_for(component, unit):
        raise FleetfootError(
            "conflict",
            f"component {component} has a primary unit already: {other}",
            remedy=f"make {unit} PartOf={other}, or take that one out: "
            f"fleetfoot-agent adopt {other} --component {component} --undo",
        )
    dropin.check(facts, found)
    auxiliary.check(found, UNITS, facts_of)
    before = (folder / NAME).read_text("utf-8") if taken else ""
    text = dropin.render(dropin.without(facts, before), found)
    head = _HEADER.format(unit=unit, component=component, digest=hashlib.sha256(text.encode()).hexdigest())
    durable.make_folder(folder)
    durable.write_file(folder / NAME, (head + text).encode())
    helpers = auxiliary.put(found, UNITS, systemctl)
    systemctl("enable", "--now", f"fleetfoot-restart@{unit}.path")
    print(f"{unit} is adopted for component {component}; from its next start on the guard looks first")
    print(f"added: {folder / NAME}\nenabled: {', '.join([f'fleetfoot-restart@{unit}.path', *helpers])}")
    return 0


def _itself(config: AgentConfig, unit: str, component: str, *, undo: bool) -> int:
    """The agent's own unit has what a drop-in would add, as shipped: the restart alone is let, or not."""
    if undo:
        auxiliary.take_away(component, UNITS, systemctl)
        systemctl("daemon-reload")
    else:
        found = _configured(config, unit, component)
        if found.preserve:
            text = "what the agent keeps is no part of its releases, so there is nothing to preserve for it"
            raise FleetfootError(
                "config_invalid", text, remedy=f"remove preserve from [components.{component}]"
            )
        auxiliary.check(found, UNITS, facts_of)
        auxiliary.put(found, UNITS, systemctl)
    systemctl("disable" if undo else "enable", "--now", f"fleetfoot-restart@{unit}.path")
    print(
        "the agent may no longer upgrade itself"
        if undo
        else "the agent may upgrade itself by signed releases"
    )
    return 0


def _configured(config: AgentConfig, unit: str, component: str) -> Component:
    found = config.components.get(component)
    if found is None or found.unit != unit:
        raise FleetfootError(
            "config_invalid",
            f"{config.path} does not say that {unit} runs component {component}",
            remedy=f'write unit = "{unit}" into [components.{component}], then adopt it again',
        )
    if str(config.install_root) != dropin.INSTALL_ROOT:
        raise FleetfootError(
            "config_invalid",
            f"the guard's unit looks below {dropin.INSTALL_ROOT}, but install_root is {config.install_root}",
            remedy=f'set install_root = "{dropin.INSTALL_ROOT}"',
        )
    return found


def ours(folder: Path) -> str | None:
    """The component for which the unit with this drop-in folder is adopted; None if it is not."""
    data = durable.read_regular(folder, NAME, _CAP)
    if data is None:
        return None
    match = _MADE.fullmatch(data.decode("utf-8", "replace"))
    if match is None or hashlib.sha256(match[3].encode()).hexdigest() != match[2]:
        raise FleetfootError(
            "conflict",
            f"{folder / NAME} was edited by somebody",
            remedy="look at it, remove it yourself, run 'systemctl daemon-reload', and try again",
        )
    return match[1]


def _adopted_for(component: str, unit: str) -> str | None:
    """Another unit that is adopted for the component."""
    for folder in sorted(UNITS.glob("*.service.d")):
        other = folder.name.removesuffix(".d")
        with suppress(FleetfootError):
            if other != unit and ours(folder) == component:
                return other
    return None


def _undo(unit: str, component: str) -> int:
    folder = UNITS / f"{unit}.d"
    taken = ours(folder)
    if taken is not None and taken != component:
        raise FleetfootError("conflict", f"{unit} is adopted for component {taken}, not {component}")
    if taken is None:
        raise FleetfootError("not_found", f"{unit} is not adopted for component {component}")
    systemctl("disable", "--now", f"fleetfoot-restart@{unit}.path")
    auxiliary.take_away(component, UNITS, systemctl)
    durable.remove_file(folder / NAME)
    with suppress(OSError):  # somebody else's drop-ins are in it
        folder.rmdir()
    systemctl("daemon-reload")
    print(f"{unit} is no longer adopted; removed: {folder / NAME}")
    print(
        "while it is configured as a component's unit, upgrades of that component will fail: see agent.toml"
    )
    return 0


def facts_of(unit: str) -> dict[str, str]:
    """What `dropin.FACTS` names of the unit."""
    wanted = [f"--property={name}" for name in dropin.FACTS]
    lines = systemctl("show", *wanted, "--", unit).splitlines()
    return dict.fromkeys(dropin.FACTS, "") | dict(line.split("=", 1) for line in lines if "=" in line)


def systemctl(*arguments: str) -> str:
    """Ask systemd, also for what takes its time. Raises `FleetfootError` (supervisor_failed)."""
    return systemd.ask(*arguments, timeout=_TIMEOUT)

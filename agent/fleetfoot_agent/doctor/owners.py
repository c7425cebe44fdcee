"""The owner's part: units that run as hooks and checks, and what sets aside and puts back."""

from collections.abc import Callable, Mapping

from fleetfoot_agent import durable
from fleetfoot_agent.adopt import auxiliary, dropin
from fleetfoot_agent.components import Component
from fleetfoot_agent.doctor.findings import Area, Finding, ok, problem
from fleetfoot_protocol.errors import FleetfootError

_FACTS = ("ActiveState", "UnitFileState")
_HOOK_FACTS = (*dropin.FACTS, "EnvironmentFiles")

Show = Callable[[str, tuple[str, ...]], Mapping[str, str]]


def owners(component: Component, show: Show) -> list[Finding]:
    """Whether everything is in force that `adopt` puts for hooks, checks and what is preserved."""
    again = f"fleetfoot-agent adopt {component.unit} --component {component.name}"
    units = list(component.unit_timeouts())
    found = [f for unit in units if (f := _hook(unit, show(unit, _HOOK_FACTS), again)) is not None]
    keep, restore = auxiliary.keepers(component.name)
    if component.preserve:
        units.append(keep)
        found += _preserved(component, show(str(component.unit), ("Wants", "After")), restore, again)
    for unit in units:
        path = f"fleetfoot-hook@{unit}.path"
        facts = show(path, _FACTS)
        if facts["ActiveState"] != "active" or facts["UnitFileState"] != "enabled":
            text = f"{path} is {facts['ActiveState']} and {facts['UnitFileState'] or 'not enabled'}"
            found.append(problem(Area.UNIT, f"{text}: the worker cannot have {unit} run", again))
    if units and not found:
        return [ok(Area.UNIT, f"{component.name} can have run: {', '.join(units)}")]
    return found


def _hook(unit: str, facts: Mapping[str, str], again: str) -> Finding | None:
    try:
        dropin.check_hook(facts)
    except FleetfootError as error:
        return problem(Area.UNIT, error.message, error.remedy)
    if f"/run/fleetfoot/hooked/{unit}.env" not in facts["EnvironmentFiles"]:
        return problem(Area.UNIT, f"{unit} is a hook that was not adopted", again)
    return None


def _preserved(component: Component, facts: Mapping[str, str], restore: str, again: str) -> list[Finding]:
    found = []
    if restore not in facts["Wants"].split() or restore not in facts["After"].split():
        text = f"{component.unit} starts without {restore}: what is preserved would not be put back"
        found.append(problem(Area.UNIT, text, again))
    lines = durable.read_regular(auxiliary.SAVED / component.name, auxiliary.PATHS, 64 * 1024)
    if lines != auxiliary.lines_of(component):
        text = f"what is preserved of {component.name} is not what the configuration says"
        found.append(problem(Area.UNIT, text, again))
    return found

"""The owner's hooks at the moments of an upgrade: before a download, around the switch, going back."""

import logging

from fleetfoot_agent.components import Component
from fleetfoot_agent.hookunit import UnitHook
from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import Hook, ProgramHook
from fleetfoot_agent.worker.record import Work
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError

log = logging.getLogger(__name__)

#: The packaged hook that sets aside, how long it may take, and how it says that there is no room.
KEEP = "fleetfoot-keep@{}.service"
KEEP_TIMEOUT = 600.0
KEEP_FULL = "exit-code 28"


def run(component: Component, layout: Layout, moment: str, work: Work) -> None:
    """Run the hook of this moment, if there is one. Raises `UpgradeError` (upgrade_hook_failed).

    After a crash it may run again. Its environment says what is being done.
    """
    found = component.hooks.get(moment)
    if found is None:
        return
    log.info("component=%s hook=%s runs=%a", component.name, moment, found.unit or found.argv[0])
    hook: Hook = ProgramHook(found.argv) if found.unit is None else UnitHook(found.unit)
    why = hook.run(_environment(component, layout, moment, work, found.timeout), found.timeout)
    if why is not None:
        raise UpgradeError(Code.UPGRADE_HOOK_FAILED, f"{moment}: {why}")


def set_aside(component: Component, layout: Layout, work: Work) -> None:
    """Have root set aside what the component's unit keeps elsewhere. Raises `UpgradeError`."""
    keeper = UnitHook(KEEP.format(component.name))
    why = keeper.run(_environment(component, layout, "preserve", work, KEEP_TIMEOUT), KEEP_TIMEOUT)
    if why is not None:
        code = Code.UPGRADE_DISK_FULL if why.endswith(KEEP_FULL) else Code.UPGRADE_IO_ERROR
        raise UpgradeError(code, f"what it keeps elsewhere cannot be set aside: {why}")


def _environment(
    component: Component, layout: Layout, moment: str, work: Work, timeout: float
) -> dict[str, str]:
    return {
        "FLEETFOOT_HOOK": moment,
        "FLEETFOOT_TIMEOUT": f"{timeout:g}",
        "FLEETFOOT_COMPONENT": component.name,
        "FLEETFOOT_VERSION": work.goal.version,
        "FLEETFOOT_VERSION_DIR": str(layout.tree(work.name)),
        "FLEETFOOT_OLD_VERSION_DIR": str(layout.tree(work.old)) if work.old else "",
    }

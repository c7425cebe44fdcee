"""The owner's programs at the moments of an upgrade: before a download, around the switch, going back."""

import logging

from fleetfoot_agent.config import Component
from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import ProgramHook
from fleetfoot_agent.worker.record import Work
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError

log = logging.getLogger(__name__)


def run(component: Component, layout: Layout, moment: str, work: Work) -> None:
    """Run the hook of this moment, if there is one. Raises `UpgradeError` (upgrade_hook_failed).

    After a crash it may run again. Its environment says what is being done.
    """
    argv = component.hooks.get(moment)
    if argv is None:
        return
    environment = {
        "FLEETFOOT_HOOK": moment,
        "FLEETFOOT_COMPONENT": component.name,
        "FLEETFOOT_VERSION": work.goal.version,
        "FLEETFOOT_VERSION_DIR": str(layout.tree(work.name)),
        "FLEETFOOT_OLD_VERSION_DIR": str(layout.tree(work.old)) if work.old else "",
    }
    log.info("component=%s hook=%s program=%a", component.name, moment, argv[0])
    why = ProgramHook(argv).run(environment, component.hook_timeout)
    if why is not None:
        raise UpgradeError(Code.UPGRADE_HOOK_FAILED, f"{moment}: {why}")

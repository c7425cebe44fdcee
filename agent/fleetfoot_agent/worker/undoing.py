"""`fleetfoot-agent rollback` and `remove`: back to the version before, or off the device. No broker."""

import logging
import time

from fleetfoot_agent import durable, saved
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.seam import Seam
from fleetfoot_agent.spool import WorkerSide
from fleetfoot_agent.worker import by_hand, lifecycle, planning, platform_facts
from fleetfoot_agent.worker.driver import Driver
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.planning import Clock, Planned
from fleetfoot_agent.worker.report import Reporter
from fleetfoot_agent.worker.run import seam_of
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.resolve import Act, Plan, Why

log = logging.getLogger(__name__)


def rollback(config: AgentConfig, name: str) -> int:
    """Go back to the version before, as a recall would, and refuse the one that is left from then on.

    Raises `FleetfootError`: nothing to go back to, below the floor, no supervisor, and so on.
    """
    with by_hand.alone(config):
        component = _configured(config, name)
        seam = seam_of(config, component)
        by_hand.demand_supervisor(seam, component, config)
        memory = Memory(config.worker_dir)
        driver = _driver(config, component, memory, seam)
        return _go_back(config, memory, component, driver)


def _go_back(config: AgentConfig, memory: Memory, component: Component, driver: Driver) -> int:
    left, back = driver.record.run, driver.record.prev
    if (
        left is None
        or back is None
        or not driver.layout.is_installed(version_name(back.version, back.digest))
    ):
        raise UpgradeError(Code.UPGRADE_NO_WAY_BACK, f"{component.name} has no version to go back to")
    if back.counter < driver.floor:
        text = f"{back.version} has counter {back.counter}, below the floor {driver.floor}"
        raise UpgradeError(Code.UPGRADE_BELOW_FLOOR, text)
    clock = Clock(int(time.time()), memory.time_floor(), platform_facts.clock_trusted())
    ordered = planning.make_plan(config, memory, component.name, driver.record, clock).plan.goal
    goal = Goal(
        version=back.version, counter=back.counter, digest=back.digest, length=0, attempt=1, mode="exactly"
    )
    by_hand.carry_through(driver, component, Planned(Plan(Act.RETURN, Why.RECALLED, goal)))
    status = by_hand.conclude(driver, component, goal)
    # Else an order that still stands would bring it again at once.
    attempt = ordered.attempt if ordered is not None and ordered.digest == left.digest else 1
    driver.refuse(left.digest, attempt)
    print(f"{left.version} is refused here, until another attempt is ordered or it is installed by hand")
    return status


def remove(config: AgentConfig, name: str) -> int:
    """Take a component off the device: stop it, remove its versions and its journal. Floors are kept."""
    with by_hand.alone(config):
        component = _configured(config, name)
        seam = seam_of(config, component)
        driver = _driver(config, component, Memory(config.worker_dir), seam)
        layout = driver.layout
        layout.remove_trial()
        durable.remove_file(layout.current)
        try:
            seam.restart()  # with nothing to start: what ran is ended
        except FleetfootError as error:
            log.warning("component=%s was not stopped cause=%a", name, error.message)
            print(f"note: {name} could not be stopped: {error.message}")
        for tree in layout.installed():
            layout.discard(tree)
        saved.forget(layout.folder)
        durable.remove_file(layout.journal)
        print(f"{name} is removed")
        if component.unit is not None:
            unit = component.unit
            print(f"  {unit} has nothing to start any more; if it is not to come back, as root:")
            print(f"  fleetfoot-agent adopt {unit} --component {name} --undo && systemctl disable {unit}")
        print(f"  what the fleet orders for it is installed again, unless its table leaves {config.path}")
        return 0


def _configured(config: AgentConfig, name: str) -> Component:
    component = config.components.get(name)
    if component is None:
        raise FleetfootError("not_found", f"component {name[:80]!a} is not configured on this device")
    return component


def _driver(config: AgentConfig, component: Component, memory: Memory, seam: Seam) -> Driver:
    """Its driver, at rest. Raises `UpgradeError` while it is on trial or goes back."""
    reporter = Reporter(config, memory, WorkerSide(config.spool))
    blobs = by_hand.BundleBlobs(config.install_root / component.name)
    driver = Driver(config, component, memory, blobs, seam, reporter.event, by_hand=True)
    if driver.broken:
        raise driver.broken
    if driver.record.state in lifecycle.IN_FLIGHT:
        raise UpgradeError(Code.UPGRADE_LOCKED, f"{component.name} is {driver.record.state}")
    return driver

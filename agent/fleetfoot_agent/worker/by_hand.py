"""`fleetfoot-agent install`: a release from a bundle at hand, through the very path that orders take."""

import logging
import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fleetfoot_agent.bundle import Bundle
from fleetfoot_agent.components import Component
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.seam import Seam
from fleetfoot_agent.spool import WorkerSide
from fleetfoot_agent.worker import lifecycle, planning, platform_facts
from fleetfoot_agent.worker.driver import Driver
from fleetfoot_agent.worker.inspection import tree_problem
from fleetfoot_agent.worker.lock import Lock
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.planning import Clock, Planned
from fleetfoot_agent.worker.report import Reporter
from fleetfoot_agent.worker.run import LOOK_SECONDS, Worker, seam_of
from fleetfoot_protocol import trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Goal, Release
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.resolve import Act, Plan, Why
from fleetfoot_protocol.states import Lifecycle
from fleetfoot_protocol.trust import TrustRoot

log = logging.getLogger(__name__)

ENVELOPE = "release.dsse.json"
#: Seconds to wait for a worker that is at work.
LOCK_SECONDS = 30.0
#: Seconds to wait for a supervisor that does not answer yet.
SUPERVISOR_SECONDS = 2.0


class BundleBlobs:
    """Blobs in the folder of a bundle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "blobs"

    def open(self, sha256: str, length: int) -> BinaryIO | None:
        """The blob, if it is there with this length. Its bytes are verified as anybody's are."""
        try:
            blob = (self._folder / sha256).open("rb")
        except FileNotFoundError:
            return None
        if os.fstat(blob.fileno()).st_size != length:
            blob.close()
            return None
        return blob

    def failure(self, sha256: str) -> tuple[Code, str] | None:
        """A bundle is complete or it is not: nothing more will come."""
        return (
            Code.UPGRADE_DOWNLOAD_FAILED,
            f"blob {sha256[:16]} is missing in the bundle or has another length",
        )


def read_bundle(bundle: Bundle, root: TrustRoot) -> tuple[Release, str, bytes]:
    """Manifest, digest and envelope of a bundle. Raises `FleetfootError`: none, or not signed as needed."""
    try:
        data = (bundle.place / ENVELOPE).read_bytes()
    except PermissionError as error:
        user = pwd.getpwuid(os.geteuid()).pw_name
        raise FleetfootError(
            "not_allowed",
            f"{bundle.name} cannot be read by {user}, who is to install it",
            remedy=f"let everybody read it: chmod -R a+rX {bundle.name}",
        ) from error
    except OSError as error:
        raise FleetfootError(
            "not_found",
            f"{bundle.name} is not a release bundle: {error.strerror}",
            remedy="name the folder that 'fleetfoot release build' made",
        ) from error
    release, digest = trust.verify_release(data, root)
    return release, digest, data


def install(config: AgentConfig, bundle: Bundle) -> int:
    """Verify, unpack, activate and prove the release in `bundle`. Returns the exit status.

    Raises `FleetfootError`: not signed as it must be, not for this device, no supervisor, and so on.
    """
    with alone(config):
        return _install(config, bundle)


@contextmanager
def alone(config: AgentConfig) -> Iterator[None]:
    """While no worker is at work; afterwards one tells what was done, and obeys what arrived meanwhile."""
    lock = Lock(config)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not lock.take():
            if time.monotonic() > deadline:
                raise UpgradeError(Code.UPGRADE_LOCKED, "the worker is busy with another upgrade")
            time.sleep(0.1)
        yield
    finally:
        lock.close()
        Worker(config).run()


def _install(config: AgentConfig, bundle: Bundle) -> int:
    memory = Memory(config.worker_dir)
    release, digest, data = read_bundle(bundle, memory.root)
    component = config.components.get(release.component)
    if component is None:
        raise FleetfootError(
            "not_found",
            f"component {release.component} is not configured on this device",
            remedy=f"add a table [components.{release.component}] to {config.path}",
        )
    seam = seam_of(config, component)
    demand_supervisor(seam, component, config)
    spool = WorkerSide(config.spool)
    reporter = Reporter(config, memory, spool)
    memory.store(f"manifest.{digest}", data)
    driver = Driver(
        config,
        component,
        memory,
        BundleBlobs(bundle.place),
        seam,
        reporter.event,
        by_hand=True,
    )
    status = _drive(config, memory, driver, release, digest)
    _tell_standing_order(config, memory, component, driver)
    return status


def _tell_standing_order(config: AgentConfig, memory: Memory, component: Component, driver: Driver) -> None:
    """Warn the person whose version will not stay."""
    clock = Clock(int(time.time()), memory.time_floor(), platform_facts.clock_trusted())
    plan = planning.make_plan(config, memory, component.name, driver.record, clock).plan
    if plan.act is Act.INSTALL and plan.goal is not None and config.policy.enabled:
        print(
            f"note: an order of the fleet stands and is obeyed from here on: {plan.goal.version}\n"
            f"  to keep {component.name} where it is, pin it in {config.path}, [upgrade.pins]",
            flush=True,
        )


def demand_supervisor(seam: Seam, component: Component, config: AgentConfig) -> None:
    """Without one nothing could be proved: say so before anything is unpacked. It may be about to start."""
    deadline = time.monotonic() + SUPERVISOR_SECONDS
    while True:
        try:
            seam.demand()
        except FleetfootError as error:
            if component.unit is not None:
                raise
            if time.monotonic() > deadline:
                remedy = f"start it: fleetfoot-agent supervise --config {config.path}"
                raise FleetfootError(error.code, error.message, remedy=remedy) from error
            time.sleep(0.1)
        else:
            return


def _drive(config: AgentConfig, memory: Memory, driver: Driver, release: Release, digest: str) -> int:
    component = driver.component
    if driver.broken:
        raise driver.broken
    if driver.record.state in lifecycle.IN_FLIGHT:  # what has not touched anything yet gives way
        raise UpgradeError(Code.UPGRADE_LOCKED, f"{component.name} is {driver.record.state}")
    run = driver.record.run
    if run is not None and run.digest == digest:
        _demand_untouched(config, memory, driver, version_name(run.version, digest))
        print(f"{component.name} {release.version} runs already")
        return 0
    goal = Goal(
        version=release.version,
        counter=release.counter,
        digest=digest,
        length=max(a.length for a in release.artifacts),
        attempt=driver.record.refused.get(digest, 0) + 1,
        mode="exactly",
    )
    if goal.counter < driver.floor:
        raise UpgradeError(
            Code.UPGRADE_BELOW_FLOOR, f"counter {goal.counter} is below the floor {driver.floor}"
        )
    carry_through(driver, component, Planned(Plan(Act.INSTALL, Why.ORDERED, goal)))
    return conclude(driver, component, goal)


def _demand_untouched(config: AgentConfig, memory: Memory, driver: Driver, name: str) -> None:
    """Raise `UpgradeError` if what runs was changed. It is not mended under the feet of who runs from it."""
    if problem := tree_problem(config, memory.root, driver.layout, name):
        agent, component = "fleetfoot-agent", driver.component.name
        back = f"rollback {component}" if driver.record.prev else f"remove {component} --yes"
        raise UpgradeError(
            Code.UPGRADE_TREE_MISMATCH,
            f"{component} {name} runs already, but {problem}",
            remedy=f"leave it first, then install it again: {agent} {back}",
        )


def carry_through(driver: Driver, component: Component, planned: Planned) -> None:
    """Do what is planned to its end, and say what is being done."""
    version = planned.plan.goal.version if planned.plan.goal else ""
    told = ""
    driver.follow(planned, int(time.time()))
    while driver.record.work is not None:
        going = driver.advance(planned, may_activate=True)
        state = str(driver.record.state)
        if state not in (told, Lifecycle.IDLE):
            long = f", {component.window:g} s" if state == Lifecycle.PROBATION else ""
            print(f"{component.name} {version}: {state}{long}", flush=True)
            told = state
        if not going and driver.record.state not in lifecycle.IN_FLIGHT:
            break
        if not going:
            time.sleep(LOOK_SECONDS)


def conclude(driver: Driver, component: Component, goal: Goal) -> int:
    """0 if the goal runs. Raises `UpgradeError`, which says why not."""
    record = driver.record
    if record.work is None and record.run is not None and record.run.digest == goal.digest:
        print(f"{component.name} {goal.version} is installed and healthy")
        return 0
    if (refusal := driver.refusal) is not None and refusal.code is not None:
        raise UpgradeError(refusal.code, refusal.reason)
    problem = record.last_error
    code = Code(problem.code) if problem else Code.UPGRADE_INTERNAL
    raise UpgradeError(code, problem.message if problem else f"it stopped while {record.state}")

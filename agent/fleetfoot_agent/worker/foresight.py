"""`fleetfoot-agent check` and `consent`: what would happen, and the owner's word on it.

`check` only looks: it asks the very functions that decide, and writes nothing. A worker may be at work.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_agent.bundle import Bundle
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import Layout, version_name
from fleetfoot_agent.spool import wake
from fleetfoot_agent.worker import owner, planning, platform_facts
from fleetfoot_agent.worker.by_hand import read_bundle
from fleetfoot_agent.worker.journal import JOURNAL_CAP, read_record
from fleetfoot_agent.worker.memory import Memory, verified_release
from fleetfoot_agent.worker.owner import Answer, Consent
from fleetfoot_agent.worker.planning import Clock, Planned
from fleetfoot_agent.worker.record import Record
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.documents import Goal, Release
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.resolve import Act, Plan, Why

_ACTS = (Act.INSTALL, Act.STAGE, Act.RETURN)
#: Why a component stays, for people.
_STAYS: dict[str, str] = {
    Why.NO_GOAL: "nothing is ordered",
    Why.PINNED: "it is pinned by an order of its own",
    Why.CURRENT: "what is ordered runs already",
    Why.AHEAD: "what runs is newer than what is ordered, which does not permit going down",
}


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would happen to a component. `act`: install, stage, return, stay, wait, defer or reject."""

    component: str
    version: str | None
    digest: str | None
    act: str
    code: Code | None = None
    cause: str = ""

    @property
    def remedy(self) -> str:
        """What to do about the code; empty if there is none."""
        return info(self.code).remedy if self.code else ""

    @property
    def well(self) -> bool:
        """Whether it is done, or would be done at once."""
        return self.code is None and self.act != "wait"


def check(config: AgentConfig, release: str | None, bundle: Bundle | None, as_json: bool) -> int:
    """Tell what would happen to `bundle`, to what is ordered for the component named `release`, or to
    everything that is ordered. 0 if all of it would be done or is done, else 1.
    """
    memory = Memory(config.worker_dir, looking=True)
    if bundle is None and release is not None and release not in config.components:
        bundle = Bundle.of(Path(release))
    if bundle is not None:
        outlooks = [_of_bundle(config, memory, bundle)]
    else:
        outlooks = [_of_order(config, memory, name) for name in ([release] if release else config.components)]
    if as_json:
        rows = [
            {
                "component": o.component,
                "version": o.version,
                "digest": o.digest,
                "act": o.act,
                "code": o.code,
                "cause": o.cause,
                "remedy": o.remedy,
            }
            for o in outlooks
        ]
        print(json.dumps({"ok": all(o.well for o in outlooks), "outlooks": rows}))
    else:
        for outlook in outlooks:
            _print(outlook)
    return 0 if all(outlook.well for outlook in outlooks) else 1


def _print(outlook: Outlook) -> None:
    what = f"{outlook.component} {outlook.version or ''}".rstrip()
    cause = _STAYS.get(outlook.cause, outlook.cause)
    print(f"{what}: {outlook.act}" + (f", {cause}" if cause else ""))
    if outlook.code is not None:
        print(f"  code: {outlook.code}\n  what to do: {outlook.remedy}")


def _record(config: AgentConfig, component: str) -> Record:
    """What the journal says, as far as it can be read; the worker sees to the rest."""
    layout = Layout(config.install_root, component)
    data = durable.read_regular(layout.folder, layout.journal.name, JOURNAL_CAP)
    try:
        return Record() if data is None else read_record(data)
    except ValueError:
        return Record()


def _planned(config: AgentConfig, memory: Memory, component: str, record: Record) -> Planned:
    clock = Clock(int(time.time()), memory.time_floor(), platform_facts.clock_trusted())
    return planning.make_plan(config, memory, component, record, clock)


def _of_order(config: AgentConfig, memory: Memory, component: str) -> Outlook:
    record = _record(config, component)
    planned = _planned(config, memory, component, record)
    plan, goal = planned.plan, planned.plan.goal
    version, digest = (goal.version, goal.digest) if goal else (None, None)
    if plan.act not in _ACTS or goal is None:
        act = {Act.DEFER: "defer", Act.REJECT: "reject"}.get(plan.act, "stay")
        return Outlook(component, version, digest, act, plan.code, str(plan.why))
    if not config.policy.enabled:
        code = Code.UPGRADE_DISABLED
        return Outlook(component, version, digest, "reject", code, "upgrades are disabled on this device")
    found = memory.release(goal.digest)
    if found is None:
        found = _kept(config, memory, component, goal)
    if found is None:
        return Outlook(
            component, version, digest, "wait", None, "the manifest of the release has not come yet"
        )
    return _judged(config, memory, component, record, plan, found[0])


def _kept(config: AgentConfig, memory: Memory, component: str, goal: Goal) -> tuple[Release, bytes] | None:
    data = Layout(config.install_root, component).envelope(version_name(goal.version, goal.digest))
    return None if data is None else verified_release(data, goal.digest, memory.root)


def _of_bundle(config: AgentConfig, memory: Memory, bundle: Bundle) -> Outlook:
    release, digest, _ = read_bundle(bundle, memory.root)
    name = release.component
    if name not in config.components:
        raise FleetfootError(
            "not_found",
            f"component {name} is not configured on this device",
            remedy=f"add a table [components.{name}] to {config.path}",
        )
    record = _record(config, name)
    if record.run is not None and record.run.digest == digest:
        return Outlook(name, release.version, digest, "stay", None, "it runs already")
    if digest in _planned(config, memory, name, record).withdrawn:
        # Put on by hand it would be left again with the next order that is read.
        cause = "it is withdrawn for this device"
        return Outlook(name, release.version, digest, "stay", Code.UPGRADE_CANCELED, cause)
    if release.counter < (floor := planning.floor_of(config, name, record)):
        cause = f"counter {release.counter} is below the floor {floor}"
        return Outlook(name, release.version, digest, "reject", Code.UPGRADE_BELOW_FLOOR, cause)
    if (failed := record.refused.get(digest, 0)) > 0:
        cause = f"it failed here, or was left by hand; another attempt, number {failed + 1}, would be taken"
        return Outlook(name, release.version, digest, "reject", Code.UPGRADE_REFUSED_BEFORE, cause)
    if record.run is not None and record.run.counter >= release.counter:
        # An order that does not say `exactly` would leave the device where it is (section 4, `ahead`).
        cause = f"{record.run.version} runs, which is newer"
        return Outlook(name, release.version, digest, "stay", Code.UPGRADE_DOWNGRADE_REFUSED, cause)
    goal = Goal(
        version=release.version,
        counter=release.counter,
        digest=digest,
        length=max(a.length for a in release.artifacts),
        attempt=1,
        mode="exactly",
    )
    return _judged(config, memory, name, record, Plan(Act.INSTALL, Why.ORDERED, goal), release)


def _judged(
    config: AgentConfig,
    memory: Memory,
    component: str,
    record: Record,
    plan: Plan,
    release: Release,
) -> Outlook:
    digest = plan.goal.digest if plan.goal else None
    staged = digest is not None and Layout(config.install_root, component).is_installed(
        version_name(release.version, digest)
    )
    here = owner.circumstances(config, component, plan, int(time.time()), memory.time_floor(), note=False)
    found = planning.permission(config, record, plan, release, staged=staged, here=here)
    act = str(plan.act) if found.verdict == "proceed" else found.verdict
    return Outlook(component, release.version, digest, act, found.code, found.reason)


def consent(config: AgentConfig, component: str, answer: Answer) -> int:
    """Keep the owner's answer about what is ordered for the component now, and wake the worker."""
    if component not in config.components:
        raise FleetfootError("not_found", f"component {component[:80]!a} is not configured on this device")
    memory = Memory(config.worker_dir, looking=True)
    plan = _planned(config, memory, component, _record(config, component)).plan
    goal = plan.goal
    if goal is None or plan.act is Act.STAY:
        raise FleetfootError(
            "not_found",
            f"nothing is ordered for {component} that could be agreed to",
            remedy=f"look what is: fleetfoot-agent check --config {config.path} {component}",
        )
    now = int(time.time())
    owner.keep_consent(config, component, Consent(digest=goal.digest, answer=answer, at=now))
    wake(config.wake_dir)
    word = {"accept": "accepted", "refuse": "refused", "defer": "put off"}[answer]
    print(f"{component} {goal.version} is {word} ({times.to_text(now)})")
    if answer == "accept" and not config.policy.enabled:
        print(f"note: upgrades are disabled on this device ({config.path}, upgrade.enabled)")
    return 0

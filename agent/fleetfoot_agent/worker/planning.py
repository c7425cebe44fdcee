"""From documents to a plan and an answer: `resolve`, then `allow`, with this device's facts filled in."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fleetfoot_agent import selfupgrade
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.worker import extract, lifecycle, platform_facts, steps
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.owner import Circumstances
from fleetfoot_agent.worker.record import Record
from fleetfoot_agent.worker.steps import StepEvent
from fleetfoot_protocol.allow import Environment, Permission, Rules, allow
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Goal, Release, expired
from fleetfoot_protocol.reports import Answer
from fleetfoot_protocol.resolve import Act, Device, Plan, resolve
from fleetfoot_protocol.states import Lifecycle, Verdict


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with the document that decided it (None if there is none) and what was withdrawn.

    lapsed: a document that would have decided, had it not expired.
    """

    plan: Plan
    document: Desired | None = None
    withdrawn: frozenset[str] = frozenset()
    mirror: str | None = None
    lapsed: Desired | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """The time as far as expiry may use it: unix seconds; `floor` is signed, `trusted` the kernel's word."""

    now: int
    floor: int
    trusted: bool

    def past(self, expires: str) -> bool:
        """Whether `expires` is past: by the signed floor, or by a clock that may be believed."""
        return expired(expires, self.floor) or (self.trusted and expired(expires, self.now))


def ordered(plan: Plan) -> Goal | None:
    """The goal that the plan asks to work towards, or None."""
    return plan.goal if plan.act in (Act.INSTALL, Act.STAGE, Act.RETURN) else None


def to_come(plan: Plan, record: Record) -> Goal | None:
    """The goal that the plan is about and that nothing is done for now: later, unless the plan changes.

    Not after the disk was full: what has come is in the way of the next attempt, or of somebody else.
    """
    if plan.act not in (Act.INSTALL, Act.STAGE, Act.RETURN, Act.DEFER) or plan.goal is None:
        return None
    if record.state not in (Lifecycle.IDLE, Lifecycle.WAITING):
        return None
    retry, error = record.retry, record.last_error
    full = error is not None and error.code == Code.UPGRADE_DISK_FULL
    return None if full and retry is not None and retry.digest == plan.goal.digest else plan.goal


def change_of(record: Record, planned: Planned, *, enabled: bool) -> StepEvent | None:
    """What a fresh plan means for the work in hand (section 4); None if it goes on as it is.

    Before activating, a changed plan abandons or reorders it; activating and probation run to their verdict
    unless their digest is withdrawn; rolling back always finishes.
    """
    work, plan = record.work, planned.plan
    if work is None:
        return None
    if record.state in (Lifecycle.ACTIVATING, Lifecycle.PROBATION):
        return steps.Recalled() if work.goal.digest in planned.withdrawn else None
    if record.state not in lifecycle.BEFORE_ACTIVATION:
        return None
    goal = ordered(plan)
    if goal is not None and goal.digest != work.goal.digest:
        return steps.Abandon(Code.UPGRADE_SUPERSEDED)
    if goal is None or not enabled:
        return steps.Abandon(Code.UPGRADE_CANCELED if plan.act is Act.STAY else None)
    if (plan.act, goal, plan.rollout) != (work.act, work.goal, work.rollout):
        return steps.Reorder(plan.act, goal, plan.rollout)
    return None


def may_begin(record: Record, goal: Goal, now: int) -> bool:
    """Whether work on the goal may begin at `now` (unix seconds): a while after a failure that passes."""
    retry = record.retry
    waits = retry is not None and (retry.digest, retry.attempt) == (goal.digest, goal.attempt)
    # Further off than one ever waits: the clock was set back since then, and the moment says nothing.
    return not waits or retry is None or not now < retry.at <= now + lifecycle.RETRY_CAP


def rules_of(config: AgentConfig) -> Rules:
    """Local policy for `allow`."""
    policy = config.policy
    return Rules(
        enabled=policy.enabled,
        allowed_channels=policy.allowed_channels,
        min_version=policy.min_version,
        pins=policy.pins,
        disk_reserve=policy.disk_reserve,
        budget=policy.download_budget or None,
    )


def floor_of(config: AgentConfig, component: str, record: Record) -> int:
    """The lowest release counter that this device takes: what it learned, and never below the built-in."""
    return max(record.floor, config.components[component].floor)


def make_plan(config: AgentConfig, memory: Memory, component: str, record: Record, clock: Clock) -> Planned:
    """What the newest documents ask of this component."""
    found = {scope: memory.desired(scope, component) for scope in ("group", "own")}
    present = {scope: pair[0] for scope, pair in found.items() if pair is not None}
    valid = {scope: doc for scope, doc in present.items() if not clock.past(doc.expires)}
    group, own = valid.get("group"), valid.get("own")
    floor = floor_of(config, component, record)
    device = Device(config.device, config.labels, record.run, record.prev, record.refused, floor)
    live = own is not None and not own.released
    document = own if live else group
    withdrawn = set(group.withdrawn if group else ()) | set(own.withdrawn if own and live else ())
    return Planned(
        plan=resolve(group, own, device),
        document=document,
        withdrawn=frozenset(withdrawn),
        mirror=document.mirror if document and document.mirror else group.mirror if group else None,
        lapsed=next((doc for scope, doc in present.items() if scope not in valid), None),
    )


def permission(
    config: AgentConfig,
    record: Record,
    plan: Plan,
    release: Release,
    *,
    staged: bool,
    by_hand: bool = False,
    here: Circumstances | None = None,
) -> Permission:
    """What local policy says to the plan now.

    by_hand: the owner orders it here, so `enabled`, channel, window, consent and splay are theirs. here: the
    circumstances, without which the owner's time has no say.
    """
    if not by_hand and plan.act in (Act.INSTALL, Act.STAGE) and _never_started(config, release.component):
        return Permission("reject", Code.UPGRADE_INCOMPATIBLE, _NOT_BY_ITSELF)
    rules, here = rules_of(config), here or Circumstances()
    if by_hand:
        rules = Rules(
            enabled=True,
            allowed_channels=("dev",),
            min_version=rules.min_version,
            pins=rules.pins,
            disk_reserve=rules.disk_reserve,
        )
    environment = Environment(
        platform=platform_facts.this_platform(config.hardware),
        agent=platform_facts.agent_version(),
        run=record.run,
        free=_free(config, release),
        staged=staged,
        formats=extract.formats(),
        window_open=here.window_open,
        consent=here.consent,
        splay_over=here.splay_over,
        abis=platform_facts.abis(),
    )
    found = allow(plan, release, rules, environment)
    return replace(found, reason=here.explain(found)) if found.verdict == "defer" else found


def _free(config: AgentConfig, release: Release) -> int:
    """Bytes for installing the release: what is free, and what an earlier attempt has fetched of it."""
    wanted = [(a.sha256, a.length) for a in release.artifacts]
    wanted += [(a.index_sha256, a.index_length) for a in release.artifacts]
    here = sum(min(length, _allocated(config.spool / "in" / "blob" / sha256)) for sha256, length in wanted)
    there = here if here and os.stat(config.spool).st_dev == _device(config.install_root) else 0
    return min(
        platform_facts.free_bytes(config.spool) + here,
        platform_facts.free_bytes(config.install_root) + there,
    )


def _allocated(path: Path) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def _device(path: Path) -> int | None:
    try:
        return os.stat(path).st_dev
    except FileNotFoundError:
        return None  # nothing was ever installed, so nothing was ever fetched for it


_NOT_BY_ITSELF: Final = (
    "no systemd unit starts this agent: whoever does (an image, a supervisor) replaces it, or name the unit"
)


def _never_started(config: AgentConfig, component: str) -> bool:
    """Whether it is the agent itself, where nothing would start what `current` leads to.

    Without a unit the courier is a child of whoever runs it: often of a container, whose image must not
    change from within, and whose next start would bring the old agent back without anybody having judged.
    """
    return component == selfupgrade.COMPONENT and config.components[component].unit is None


_VERDICTS: dict[Act, Verdict] = {
    Act.STAY: Verdict.ACCEPTED,
    Act.INSTALL: Verdict.ACCEPTED,
    Act.STAGE: Verdict.ACCEPTED,
    Act.RETURN: Verdict.ACCEPTED,
    Act.DEFER: Verdict.DEFERRED,
    Act.REJECT: Verdict.REJECTED,
}


def answer(config: AgentConfig, planned: Planned, allowed: Permission | None) -> Answer | None:
    """The answer to the decisive document; None where there is none. `allowed` None: not asked yet."""
    document, plan = planned.document, planned.plan
    if document is None:
        return _expired(planned.lapsed) if planned.lapsed else None
    verdict, code, reason = _VERDICTS[plan.act], plan.code, str(plan.why)
    acts = plan.act in (Act.INSTALL, Act.STAGE, Act.RETURN)
    if acts and not config.policy.enabled:
        verdict, code, reason = (
            Verdict.REJECTED,
            Code.UPGRADE_DISABLED,
            "upgrades are disabled on this device",
        )
    elif acts and allowed is not None and allowed.verdict != "proceed":
        verdict = Verdict.DEFERRED if allowed.verdict == "defer" else Verdict.REJECTED
        code, reason = allowed.code, allowed.reason
    return _answer(document, verdict, code, reason)


def _expired(document: Desired) -> Answer:
    return _answer(document, Verdict.REJECTED, Code.UPGRADE_EXPIRED, f"it expired at {document.expires}")


def _answer(document: Desired, verdict: Verdict, code: Code | None, reason: str) -> Answer:
    return Answer(
        epoch=document.epoch,
        sequence=document.sequence,
        scope="own" if document.device else "group",
        verdict=verdict,
        code=str(code or ""),
        reason=reason[:256],
    )

"""What a simulated device answers to a probe: by the functions of the protocol, as a worker does."""

from typing import NamedTuple

from fleetfoot_protocol import times
from fleetfoot_protocol.allow import Environment, Rules, allow
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Probe, Release
from fleetfoot_protocol.reports import Platform, Preflight
from fleetfoot_protocol.resolve import Act, Device, Why, resolve
from fleetfoot_protocol.states import Verdict

_VERDICTS = {"proceed": Verdict.ACCEPTED, "defer": Verdict.DEFERRED, "reject": Verdict.REJECTED}


class Asked(NamedTuple):
    """The device that is asked. hold: its group's document holds; own: a document of its own decides."""

    memory: Device
    platform: Platform
    free: int
    hold: bool
    own: bool


def answer(
    probe: Probe, device: Asked, release: Release | None, rules: Rules, now: float
) -> Preflight | None:
    """The answer, given at `now`, unix seconds; None if it takes the manifest, and that has not come yet."""
    asked = Desired(
        fleet=probe.fleet,
        group=probe.group,
        component=probe.component,
        epoch=1,
        sequence=1,
        issued=probe.issued,
        expires=probe.expires,
        baseline=probe.goal,
        hold=device.hold,
    )
    plan = resolve(asked, None, device.memory)
    if device.own and plan.why is not Why.CURRENT:
        text = "this device obeys a document of its own"
        return _said(probe, now, Verdict.REJECTED, Code.UPGRADE_PINNED, text)
    if plan.act is Act.INSTALL:
        if release is None:
            return None
        here = Environment(platform=device.platform, agent="0.1.0", run=device.memory.run, free=device.free)
        found = allow(plan, release, rules, here)
        return _said(probe, now, _VERDICTS[found.verdict], found.code, found.reason or str(plan.why))
    verdict = {Act.REJECT: Verdict.REJECTED, Act.DEFER: Verdict.DEFERRED}.get(plan.act)
    return _said(probe, now, verdict or Verdict.ACCEPTED, plan.code, str(plan.why))


def _said(probe: Probe, now: float, verdict: Verdict, code: Code | None, reason: str) -> Preflight:
    return Preflight(
        id=probe.id,
        digest=probe.goal.digest,
        verdict=verdict,
        code=str(code or ""),
        reason=reason[:256],
        at=times.to_text(now),
    )

"""What a device's status says about one rollout: from a component's snapshot to a report of the core.

Pure. In this order, the first that applies:

1. Work is in hand: active, whichever work it is. The code of a rejection or deferral does not matter then.
2. An outcome of this rollout, attempt and digest stands in the status: the newest one. A completed one
   counts only if the goal's digest was committed.
3. The device obeys a document of its own: skipped, with that for a reason.
4. The device answered this rollout with a rejection: failed, with its code. What it answered counts if
   it names this rollout and attempt as its work, or if it answered the very document that stands now and
   `resolve` says that this rollout is what the document asks of this device.
5. The device obeys another rollout over the same group, of a higher priority: skipped, naming it.
6. The device is ahead of the goal and may stay there: skipped.
7. Nothing: what runs is all there is to report; a deferral gives the reason.
"""

from fleetfoot_manager.rollout_events import Report
from fleetfoot_manager.rollout_state import OWN, Rollout
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.reports import ComponentStatus, OutcomeRecord, Status
from fleetfoot_protocol.resolve import Device, first_target, resolve
from fleetfoot_protocol.states import Lifecycle, Outcome, Terminal, Verdict

#: States in which a device works on something. Waiting and staged are not: it has not begun, or rests.
_AT_WORK = frozenset(
    {
        Lifecycle.DOWNLOADING,
        Lifecycle.VERIFYING,
        Lifecycle.STAGING,
        Lifecycle.ACTIVATING,
        Lifecycle.PROBATION,
        Lifecycle.ROLLING_BACK,
    }
)
_ENDINGS: dict[Outcome, Terminal] = {
    Outcome.COMPLETED: Terminal.HEALTHY,
    Outcome.STAGED: Terminal.STAGED,
    Outcome.ROLLED_BACK: Terminal.ROLLED_BACK,
    Outcome.FAILED: Terminal.FAILED,
    Outcome.REJECTED: Terminal.FAILED,
    Outcome.CANCELED: Terminal.CANCELED,
}
AHEAD = "ahead of the target"
OTHER = "obeys rollout"


def report(rollout: Rollout, status: Status, current: Desired | None, *, own: bool = False) -> Report | None:
    """The report of a verified status for one rollout; None if it says nothing of the component.

    current: the group document of the rollout's component as it stands now. own: whether a document of the
    device's own stands for it; what it answered to one that was released is no reason to pass it over.
    """
    component = status.components.get(rollout.component)
    if component is None:
        return None
    running = component.running.digest if component.running else None
    terminal, code, reason = _said(rollout, status, component, current, own)
    mine = terminal is not Terminal.ACTIVE or component.rollout == rollout.id
    return Report(
        device=status.device,
        running=running,
        terminal=terminal,
        code=code,
        reason=reason,
        rollout=rollout.id if mine else component.rollout,
        attempt=component.attempt if terminal is Terminal.ACTIVE else rollout.goal.attempt,
    )


def _said(
    rollout: Rollout, status: Status, component: ComponentStatus, current: Desired | None, own: bool
) -> tuple[Terminal | None, str, str]:
    if component.state in _AT_WORK:
        return Terminal.ACTIVE, "", component.reason
    if outcome := _newest_outcome(rollout, component):
        return _ENDINGS[outcome.outcome], outcome.code, ""
    answered = component.answered
    if own and answered is not None and answered.scope == "own":
        return Terminal.SKIPPED, "", OWN
    if answered is not None and answered.verdict is Verdict.REJECTED:
        if _answers(rollout, status, component, current):
            return Terminal.FAILED, answered.code, answered.reason
        return None, "", ""
    if other := _obeys_another(rollout, status, component, current):
        return Terminal.SKIPPED, "", f"{OTHER} {other}"
    if _ahead(rollout, component):
        return Terminal.SKIPPED, "", AHEAD
    if answered is not None and answered.verdict is Verdict.DEFERRED:
        return None, answered.code, answered.reason
    return None, "", component.reason


def _newest_outcome(rollout: Rollout, component: ComponentStatus) -> OutcomeRecord | None:
    goal = rollout.goal
    mine = [
        record
        for record in component.outcomes
        if (record.rollout, record.attempt, record.digest) == (rollout.id, goal.attempt, goal.digest)
        and (record.outcome is not Outcome.COMPLETED or record.running == goal.digest)
    ]
    # Times have whole seconds: of two in the same second the later in the list is the newer.
    return max(enumerate(mine), key=lambda item: (item[1].at, item[0]))[1] if mine else None


def _answers(rollout: Rollout, status: Status, component: ComponentStatus, current: Desired | None) -> bool:
    goal = rollout.goal
    named = (component.rollout, component.attempt, component.target)
    if named == (rollout.id, goal.attempt, goal.digest):
        return True
    answered = component.answered
    if answered is None or answered.scope != "group" or current is None:
        return False
    if (answered.epoch, answered.sequence) != current.order:
        return False
    plan = resolve(current, None, _facts(status, component))
    return plan.rollout == rollout.id and plan.goal == goal


def _facts(status: Status, component: ComponentStatus) -> Device:
    return Device(
        id=status.device,
        labels=status.labels,
        run=component.running,
        prev=component.previous,
        refused=component.refused,
        floor=component.floor,
    )


def _obeys_another(
    rollout: Rollout, status: Status, component: ComponentStatus, current: Desired | None
) -> str:
    """The rollout whose target stands before this one's and admits the device, or nothing."""
    if current is None or all(target.rollout == rollout.id for target in current.targets[:1]):
        return ""
    first = first_target(current, _facts(status, component))
    places = {target.rollout: place for place, target in enumerate(current.targets)}
    if first is None or rollout.id not in places or places[first.rollout] >= places[rollout.id]:
        return ""
    return first.rollout


def _ahead(rollout: Rollout, component: ComponentStatus) -> bool:
    run = component.running
    return (
        rollout.goal.mode == "at_least"
        and run is not None
        and run.digest != rollout.goal.digest
        and run.counter >= rollout.goal.counter
    )

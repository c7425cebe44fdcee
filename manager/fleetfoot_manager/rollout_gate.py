"""The gate: when a wave opens, passes, trips, and how a rollout ends.

Each function takes a rollout and the time and returns a rollout and what to do; none looks at the table of
transitions, which stands in `rollout`.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from fleetfoot_manager.effects import (
    Effect,
    Emit,
    PublishDesired,
    PublishProgress,
    SetBaseline,
    Stand,
    Withdraw,
)
from fleetfoot_manager.rollout_devices import FAILURES, STAGING_WAVE, DeviceRecord
from fleetfoot_manager.rollout_state import Rollout
from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import Target
from fleetfoot_protocol.events import MAX_LISTED_DEVICES, Event
from fleetfoot_protocol.states import RolloutState, Terminal

Turn: TypeAlias = tuple[Rollout, list[Effect]]

#: States in which the rollout's target stands in its groups' documents -> its hold.
HELD: dict[RolloutState, bool] = {
    RolloutState.RUNNING: False,
    RolloutState.SETTLING: False,
    RolloutState.PAUSED: True,
    RolloutState.TRIPPED: True,
}
#: Why a rollout stands whose canary passed, and whose release nobody has blessed yet.
AWAITS_BLESSING = "the canary is well; later waves need a blessed release"
#: Why a rollout stands of which each wave is approved.
AWAITS_APPROVAL = "the next wave awaits approval"
#: Why a rollout stands that only stages until somebody says more.
AWAITS_ACTIVATION = "everything is staged; nobody activates before somebody says so"
STAGING = "everybody stages, nobody activates yet"
#: Under these the cut alone keeps the next wave out: who was admitted before goes on, what is staged stays.
_UNHELD = frozenset({AWAITS_APPROVAL, AWAITS_ACTIVATION})
_NO_ANSWER = "no answer within the device timeout"
AWAY = "offline when it was asked"


def target(rollout: Rollout) -> Target | None:
    """What stands in the group documents now; None before the start and once it is dropped."""
    if rollout.state not in HELD:
        return None
    cut = rollout.cuts[rollout.wave - 1] if rollout.wave else admission.NOBODY
    return Target(
        rollout=rollout.id,
        goal=rollout.goal,
        selector=dict(rollout.selector),
        include=_included(rollout),
        salt=rollout.salt,
        stage_cut=rollout.cuts[-1] if rollout.stage else cut,
        activate_cut=cut,
        hold=HELD[rollout.state] and rollout.reason not in _UNHELD,
    )


def _included(rollout: Rollout) -> tuple[str, ...]:
    """Who is admitted by name: canaries from the first wave on, or everybody of the open waves."""
    if not rollout.listed:
        return rollout.include if rollout.wave else ()
    ids = (member.device for member in rollout.cohort)
    return tuple(device for device in ids if 0 < rollout.devices[device].wave <= rollout.wave)


def overdue_at(rollout: Rollout, since: float) -> float:
    """When a device exposed at `since` is silent: time under a hold does not count against it."""
    start = since if rollout.unheld is None else max(since, rollout.unheld)
    return start + rollout.device_timeout


def with_devices(rollout: Rollout, changes: Mapping[str, DeviceRecord]) -> Rollout:
    """With these records; the very same rollout if they change nothing."""
    devices = rollout.devices.put(changes)
    return rollout if devices is rollout.devices else replace(rollout, devices=devices)


def silenced(rollout: Rollout, now: float) -> Rollout:
    """With every awaited device past its timeout set down as silent."""
    first = rollout.devices.first_awaited
    if first is None or now < overdue_at(rollout, first):
        return rollout
    silent = {
        device: replace(record, terminal=Terminal.SILENT, reason=_NO_ANSWER, ended=now)
        for device, record in rollout.devices.items()
        if record.awaited and record.since is not None and now >= overdue_at(rollout, record.since)
    }
    return with_devices(rollout, silent)


def _judged(rollout: Rollout, mark: str) -> int:
    """How many are so (`DeviceTable.sum`) of those that the gate judges by.

    Those are the devices of the newest wave, and of any that it was put together with.
    """
    return rollout.devices.sum(mark, range(rollout.from_wave, rollout.wave + 1))


def away(rollout: Rollout, devices: Collection[str], now: float) -> Rollout:
    """With these set down as silent at once, where who is offline is not waited for."""
    records = ((device, rollout.devices[device]) for device in devices if device in rollout.devices)
    silent = {
        device: replace(record, terminal=Terminal.SILENT, reason=AWAY, ended=now)
        for device, record in records
        if record.awaited and record.terminal is Terminal.PENDING
    }
    return with_devices(rollout, silent)


def succeeded(rollout: Rollout) -> bool:
    """Whether enough devices that the newest wave admitted are on the goal: without one, no wave passes."""
    if rollout.staging:
        every = range(len(rollout.waves) + 1)
        return any(rollout.devices.sum(mark, every) for mark in ("success", Terminal.STAGED))
    needed = max(1, min(rollout.min_successes, _judged(rollout, "all")))
    return _judged(rollout, "success") >= needed


def _proves_nothing(rollout: Rollout) -> bool:
    """Whether the newest wave had nobody to take the goal: all are ahead, or obey another order.

    While everybody stages nobody is judged.
    """
    judged = _judged(rollout, "all")
    return bool(judged) and _judged(rollout, "passive") == judged


def stages(rollout: Rollout, device: str) -> bool:
    """Whether the staging admits it. A name admits to activating too, so that who is a canary by name alone
    stages when its wave opens."""
    return device not in rollout.include or admission.below(rollout.cuts[-1], rollout.salt, device)


def open_staging(rollout: Rollout, now: float) -> Turn:
    """Everybody may stage, nobody activates: wave 0."""
    opened = replace(rollout, state=RolloutState.RUNNING, reason=STAGING)
    if all(stages(rollout, device) for device in rollout.include):
        devices, count = rollout.devices.open(STAGING_WAVE, now)
        opened = replace(opened, devices=devices)
    else:
        exposed = {
            device: replace(record, since=now)
            for device, record in rollout.devices.items()
            if record.wave and not record.gone and stages(rollout, device)
        }
        opened, count = with_devices(opened, exposed), len(exposed)
    data = {"batch_index": 0, "device_count": count, "phase": "stage"}
    return opened, [PublishDesired(), PublishProgress(), Emit(Event.BATCH_STARTED, data)]


def open_wave(rollout: Rollout, now: float) -> Turn:
    """The next wave goes out: its devices are exposed from now on, or asked again if they have staged."""
    wave = rollout.wave + 1
    devices, count = rollout.devices.open(wave, now)
    opened = replace(
        rollout,
        state=RolloutState.RUNNING,
        wave=wave,
        reason="",
        settle_until=None,
        devices=devices,
    )
    started = Emit(Event.BATCH_STARTED, {"batch_index": wave, "device_count": count})
    return opened, [PublishDesired(), PublishProgress(), started]


def proceed(rollout: Rollout, now: float) -> Turn:
    """As far as the rollout goes by itself at this moment: it trips, settles, widens, completes, or waits."""
    effects: list[Effect] = []
    while rollout.state in (RolloutState.RUNNING, RolloutState.SETTLING):
        if reason := _too_many(rollout):
            rollout, more = trip(rollout, reason)
        elif rollout.state is RolloutState.SETTLING or rollout.devices.awaited:
            break
        elif not succeeded(rollout):
            rollout, more = _unproven(rollout, now)
        else:
            rollout, more = _pass(rollout, now)
        effects += more
    return rollout, effects


def _too_many(rollout: Rollout) -> str:
    """Why the breaker or the limit of failures trips at this moment, or nothing."""
    failures = rollout.devices.failures - rollout.failures_before
    where = f"in wave {rollout.wave}" if rollout.wave else "while staging"
    if rollout.consecutive:
        if rollout.breaker and rollout.streak >= rollout.breaker:
            return f"{rollout.streak} failed one after another {where}, limit {rollout.breaker}"
    elif rollout.breaker and failures >= rollout.breaker:
        return f"{failures} failed {where}, limit {rollout.breaker}"
    if rollout.failure_percent and failures * 100 > rollout.failure_percent * rollout.approved:
        return f"{failures} of {rollout.approved} failed {where}, limit {rollout.failure_percent} %"
    return ""


def _unproven(rollout: Rollout, now: float) -> Turn:
    """A wave has ended without what it needs to pass.

    Where nobody could have taken the goal there was nothing to prove: the next wave is judged for both. That
    needs a next wave which may open, or, behind the last one, a wave that passed before.
    """
    if _proves_nothing(rollout):
        if rollout.wave < len(rollout.waves) and not rollout.canary:
            return onward(rollout, now, rollout.from_wave)
        if rollout.wave == len(rollout.waves) and rollout.passed:
            return _complete(rollout, now)
    what = f"wave {rollout.wave}" if rollout.wave else "the staging"
    if _judged(rollout, "success"):
        return trip(rollout, f"{what} ended with fewer than {rollout.min_successes} successes")
    return trip(rollout, f"{what} ended without a success")


def trip(rollout: Rollout, reason: str) -> Turn:
    """Nobody else begins until a person decides."""
    failed = [device for device, record in rollout.devices.items() if record.terminal in FAILURES]
    data = {
        "batch_index": rollout.wave,
        "failed_device_ids": sorted(failed)[:MAX_LISTED_DEVICES],
        "failed_count": len(failed),
        "reason": reason,
    }
    tripped = replace(rollout, state=RolloutState.TRIPPED, reason=reason, settle_until=None)
    return tripped, [PublishDesired(), PublishProgress(), Emit(Event.CIRCUIT_BREAKER_TRIPPED, data)]


def _pass(rollout: Rollout, now: float) -> Turn:
    effects: list[Effect] = [PublishProgress()]
    if rollout.passed < rollout.wave:
        rollout = replace(rollout, passed=rollout.wave)
        effects.append(Emit(Event.BATCH_COMPLETED, batch_data(rollout)))
    if rollout.settle > 0:
        return replace(rollout, state=RolloutState.SETTLING, settle_until=now + rollout.settle), effects
    after, more = settled(rollout, now)
    return after, effects + more


def batch_data(rollout: Rollout) -> dict[str, Any]:
    """How the newest wave ended."""
    return {
        "batch_index": rollout.wave,
        "healthy_count": _judged(rollout, Terminal.HEALTHY),
        "failed_count": sum(_judged(rollout, terminal) for terminal in FAILURES),
    }


def settled(rollout: Rollout, now: float) -> Turn:
    """The newest wave has settled: the next one opens, or the rollout completes.

    Unless what made it pass is no longer so, or whoever joined is awaited: then the gate is closed again.
    """
    if rollout.devices.awaited or not succeeded(rollout):
        return replace(rollout, state=RolloutState.RUNNING, settle_until=None), [PublishProgress()]
    if rollout.wave == len(rollout.waves):
        return _complete(rollout, now)
    return onward(rollout, now, rollout.wave + 1)


def onward(rollout: Rollout, now: float, from_wave: int) -> Turn:
    """The next wave opens, unless somebody has to permit that first. `from_wave`: what it is judged with."""
    rollout = replace(rollout, from_wave=max(1, from_wave))
    if rollout.canary:
        return _await(rollout, AWAITS_BLESSING)
    if rollout.staging and rollout.stage == "only":
        return _await(rollout, AWAITS_ACTIVATION)
    return _await(rollout, AWAITS_APPROVAL) if rollout.each_wave else open_wave(rollout, now)


def _await(rollout: Rollout, reason: str) -> Turn:
    paused = replace(
        rollout,
        state=RolloutState.PAUSED,
        resume_to=RolloutState.RUNNING,
        reason=reason,
        settle_until=None,
    )
    told = Emit(Event.ROLLOUT_PAUSED, {"by": "manager", "reason": reason})
    return paused, [PublishDesired(), PublishProgress(), told]


def _complete(rollout: Rollout, now: float) -> Turn:
    intents = _lasting(rollout)
    data = {
        "version": rollout.goal.version,
        "completed_count": rollout.devices.counts.get(Terminal.HEALTHY, 0),
        "failed_count": rollout.devices.failures,
    }
    done, effects = end(rollout, RolloutState.COMPLETED, "", now)
    return done, [*intents, *effects, Emit(Event.ROLLOUT_COMPLETED, data)]


def _lasting(rollout: Rollout) -> list[Effect]:
    """What a completed rollout leaves of itself in its groups.

    Of one that brought everybody back, what they came back from is withdrawn, for whoever missed it; and
    what they came back to must keep nobody down for ever.
    """
    if rollout.withdraws:
        back: list[Effect] = [Withdraw(rollout.withdraws)]
        if not rollout.restricted:
            back.append(SetBaseline(rollout.goal.model_copy(update={"mode": "at_least"})))
        return back
    stays = target(rollout) if rollout.restricted else None
    return [SetBaseline(rollout.goal) if stays is None else Stand(stays)]


def end(rollout: Rollout, state: RolloutState, reason: str, now: float) -> Turn:
    """Into an ended state. The target is dropped, for those groups that were told of one."""
    told: list[Effect] = [PublishDesired()] if rollout.state in HELD else []
    done = replace(
        rollout,
        state=state,
        reason=reason,
        ended=now,
        resume_to=None,
        settle_until=None,
        return_until=None,
    )
    return done, [*told, PublishProgress()]


def dismissed(rollout: Rollout, now: float) -> Rollout:
    """With every device that has not begun set down as canceled."""
    return with_devices(
        rollout,
        {
            device: replace(record, terminal=Terminal.CANCELED, ended=now)
            for device, record in rollout.devices.items()
            if record.terminal is Terminal.PENDING
        },
    )

"""The gate: when a wave opens, passes, trips, and how a rollout ends.

Each function takes a rollout and the time and returns a rollout and what to do; none looks at the table of
transitions, which stands in `rollout`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from fleetfoot_manager.effects import Effect, Emit, PublishDesired, PublishProgress, SetBaseline, Stand
from fleetfoot_manager.rollout_state import FAILURES, DeviceRecord, Rollout, shared
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
_NO_ANSWER = "no answer within the device timeout"


def target(rollout: Rollout) -> Target | None:
    """What stands in the group documents now; None before the start and once it is dropped."""
    if rollout.state not in HELD:
        return None
    cut = rollout.cuts[rollout.wave - 1]
    return Target(
        rollout=rollout.id,
        goal=rollout.goal,
        selector=dict(rollout.selector),
        salt=rollout.salt,
        stage_cut=cut,
        activate_cut=cut,
        hold=HELD[rollout.state],
    )


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


def succeeded(rollout: Rollout) -> bool:
    """Whether any device that the newest wave admitted is on the goal: without one, no wave passes."""
    return any(record.success for record in rollout.devices.values() if record.wave == rollout.wave)


def open_wave(rollout: Rollout, now: float) -> Turn:
    """The next wave goes out: its devices are exposed from now on."""
    wave = rollout.wave + 1
    expose = shared(lambda record: replace(record, since=now))
    exposed = {
        device: expose(record)
        for device, record in rollout.devices.items()
        if 0 < record.wave <= wave and record.since is None and not record.gone
    }
    opened = replace(rollout, state=RolloutState.RUNNING, wave=wave, settle_until=None)
    started = Emit(Event.BATCH_STARTED, {"batch_index": wave, "device_count": len(exposed)})
    return with_devices(opened, exposed), [PublishDesired(), PublishProgress(), started]


def proceed(rollout: Rollout, now: float) -> Turn:
    """As far as the rollout goes by itself at this moment: it trips, settles, widens, completes, or waits."""
    effects: list[Effect] = []
    while rollout.state in (RolloutState.RUNNING, RolloutState.SETTLING):
        failures = rollout.devices.failures - rollout.failures_before
        if rollout.breaker and failures >= rollout.breaker:
            rollout, more = trip(
                rollout, f"{failures} failed in wave {rollout.wave}, limit {rollout.breaker}"
            )
        elif rollout.state is RolloutState.SETTLING or rollout.devices.awaited:
            break
        elif not succeeded(rollout):
            rollout, more = trip(rollout, f"wave {rollout.wave} ended without a success")
        else:
            rollout, more = _pass(rollout, now)
        effects += more
    return rollout, effects


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
    wave = [record.terminal for record in rollout.devices.values() if record.wave == rollout.wave]
    return {
        "batch_index": rollout.wave,
        "healthy_count": wave.count(Terminal.HEALTHY),
        "failed_count": sum(wave.count(terminal) for terminal in FAILURES),
    }


def settled(rollout: Rollout, now: float) -> Turn:
    """The newest wave has settled: the next one opens, or the rollout completes.

    Unless what made it pass is no longer so, or whoever joined is awaited: then the gate is closed again.
    """
    if rollout.devices.awaited or not succeeded(rollout):
        return replace(rollout, state=RolloutState.RUNNING, settle_until=None), [PublishProgress()]
    if rollout.wave == len(rollout.waves):
        return _complete(rollout, now)
    return _await_blessing(rollout) if rollout.canary else open_wave(rollout, now)


def _await_blessing(rollout: Rollout) -> Turn:
    paused = replace(
        rollout,
        state=RolloutState.PAUSED,
        resume_to=RolloutState.RUNNING,
        reason=AWAITS_BLESSING,
        settle_until=None,
    )
    told = Emit(Event.ROLLOUT_PAUSED, {"by": "manager", "reason": AWAITS_BLESSING})
    return paused, [PublishDesired(), PublishProgress(), told]


def _complete(rollout: Rollout, now: float) -> Turn:
    stays = target(rollout) if rollout.restricted else None
    intent: Effect = SetBaseline(rollout.goal) if stays is None else Stand(stays)
    data = {
        "version": rollout.goal.version,
        "completed_count": rollout.devices.counts.get(Terminal.HEALTHY, 0),
        "failed_count": rollout.devices.failures,
    }
    done, effects = end(rollout, RolloutState.COMPLETED, "", now)
    return done, [intent, *effects, Emit(Event.ROLLOUT_COMPLETED, data)]


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

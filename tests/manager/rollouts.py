"""Rollouts over thirty devices in two groups, what their devices say, and one rollout in each state."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fleetfoot_manager.effects import (
    Effect,
    Emit,
)
from fleetfoot_manager.rollout import (
    Activate,
    Approve,
    Away,
    Bless,
    Cancel,
    Decide,
    Decision,
    Expire,
    Joined,
    Kind,
    Left,
    Pause,
    Report,
    Resume,
    Retry,
    Rollout,
    RolloutEvent,
    Start,
    Supersede,
    Tick,
    advance,
    planned,
)
from fleetfoot_protocol.documents import Goal
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.states import RolloutState, Terminal

S, T = RolloutState, Terminal
NEW, OLD = "a" * 64, "b" * 64
GOAL = Goal(version="1.1.0", counter=2, digest=NEW, length=1000)
DEVICES = [(f"dev-{n:03}", ("hall", "yard")[n % 2]) for n in range(30)]
START = 1000.0


def plan(**options: Any) -> Rollout:
    given: dict[str, Any] = {
        "devices": DEVICES,
        "waves": (3, 15, 30),
        "settle": 60.0,
        "device_timeout": 300.0,
    }
    return planned(id="r-1", component="kiosk", goal=GOAL, now=START - 10, **given | options)


def go(rollout: Rollout, *events: RolloutEvent, at: float = START) -> Rollout:
    for event in events:
        rollout, _ = advance(rollout, event, at)
    return rollout


def running(**options: Any) -> Rollout:
    return go(plan(**options), Start())


def exposed(rollout: Rollout) -> list[str]:
    """Exposed devices in the order of admission."""
    return [m.device for m in rollout.cohort if rollout.devices[m.device].since is not None]


def awaited(rollout: Rollout) -> list[str]:
    return [device for device in exposed(rollout) if rollout.devices[device].awaited]


def says(device: str, terminal: Terminal | None, digest: str | None = OLD, attempt: int = 1) -> Report:
    return Report(device, digest, terminal, rollout="r-1", attempt=attempt)


def healthy(device: str, attempt: int = 1) -> Report:
    return says(device, T.HEALTHY, NEW, attempt)


def failed(device: str, attempt: int = 1) -> Report:
    return replace(says(device, T.ROLLED_BACK, OLD, attempt), code="upgrade_boot_failed", reason="exit 1")


def all_healthy(rollout: Rollout, at: float = START) -> Rollout:
    return go(rollout, *(healthy(device) for device in awaited(rollout)), at=at)


def terminals(rollout: Rollout) -> dict[str, int]:
    return rollout.devices.counts


def events_of(done: tuple[Effect, ...]) -> dict[Event, dict[str, Any]]:
    return {effect.event: effect.data for effect in done if isinstance(effect, Emit)}


def first_exposed() -> str:
    return exposed(running())[0]


def tripped(**options: Any) -> Rollout:
    rollout = running(**options)
    return go(rollout, failed(exposed(rollout)[0]))


def settling(**options: Any) -> Rollout:
    return all_healthy(running(**options))


def rolling_back() -> Rollout:
    rollout = running()
    return go(rollout, healthy(exposed(rollout)[0]), Decide(Decision.ROLLBACK))


def on_goal(rollout: Rollout, wave: int) -> Rollout:
    """Everybody of a wave that is not open yet runs the goal already."""
    return go(rollout, *(says(d, None, NEW) for d, record in rollout.devices.items() if record.wave == wave))


def canary() -> Rollout:
    return all_healthy(running(canary=True, settle=0.0))


def approving() -> Rollout:
    return all_healthy(running(each_wave=True, settle=0.0))


def only_staged() -> Rollout:
    rollout = running(stage="only", settle=60.0)
    return go(go(rollout, *(says(name, T.STAGED) for name in awaited(rollout))), Tick(), at=START + 60)


#: A rollout in each state, reached the way it is reached in life.
IN_STATE: dict[RolloutState, Callable[[], Rollout]] = {
    S.PLANNED: plan,
    S.AWAITING_APPROVAL: lambda: plan(approval=True),
    S.RUNNING: lambda: go(running(breaker=0), failed(first_exposed())),
    S.SETTLING: settling,
    S.PAUSED: lambda: go(running(), Pause("ann"), failed(first_exposed())),
    S.TRIPPED: tripped,
    S.ROLLING_BACK: rolling_back,
    S.COMPLETED: lambda: all_healthy(running(waves=(30,), settle=0.0)),
    S.ROLLED_BACK: lambda: go(running(), Decide(Decision.ROLLBACK)),
    S.ABORTED: lambda: go(tripped(), Decide(Decision.ABORT)),
    S.CANCELED: lambda: go(running(), Cancel()),
    S.EXPIRED: lambda: go(running(), Expire()),
    S.SUPERSEDED: lambda: go(running(), Supersede("r-2")),
}
SAMPLES: dict[Kind, RolloutEvent] = {
    Activate: Activate("ann"),
    Away: Away(frozenset({"dev-000"})),
    Supersede: Supersede("r-2"),
    Approve: Approve(),
    Bless: Bless(),
    Start: Start(),
    Report: healthy("dev-000"),
    Tick: Tick(),
    Pause: Pause("ann", "smoke"),
    Resume: Resume(),
    Decision.CONTINUE: Decide(Decision.CONTINUE),
    Decision.ROLLBACK: Decide(Decision.ROLLBACK),
    Decision.ABORT: Decide(Decision.ABORT),
    Retry: Retry(),
    Cancel: Cancel(),
    Expire: Expire(),
    Joined: Joined("dev-900", "hall"),
    Left: Left("dev-000"),
}

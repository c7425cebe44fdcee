"""A rollout as it is planned: cohort, waves and cuts, before anything has happened. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fleetfoot_manager.rollout_devices import DeviceRecord, DeviceTable
from fleetfoot_manager.rollout_state import ALREADY, BEYOND, Member, Rollout
from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import MAX_LISTED, Goal
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState, Terminal


def planned(
    *,
    id: str,
    component: str,
    goal: Goal,
    devices: Iterable[tuple[str, str]],
    waves: tuple[int, ...],
    now: float,
    groups: tuple[str, ...] | None = None,
    selector: Mapping[str, str] | None = None,
    salt: str | None = None,
    already: Collection[str] = (),
    settle: float = 300.0,
    device_timeout: float = 300.0,
    breaker: int = 1,
    approval: bool = False,
    canary: bool = False,
    include: tuple[str, ...] = (),
    listed: bool = False,
    stage: str = "",
    **pace: Any,
) -> Rollout:
    """A rollout over `devices`, pairs of (device, group): the whole inventory that matches the selector.

    waves: cumulative counts (`admission.wave_sizes`); groups: by default those of the devices; salt: by
    default the rollout's id; already: devices known to run the goal; include, listed, stage and pace: see
    `Rollout`, with `include` being the first wave, if there is one. With a selector, or with waves that
    stop short of everybody, the rollout is restricted: what nobody approved must not follow from its end.
    Raises FleetfootError `request_invalid`.
    """
    salt = id if salt is None else salt
    members = [Member(*pair) for pair in devices]
    if len({member.device for member in members}) != len(members) or not members:
        raise FleetfootError("request_invalid", "a rollout needs devices, each in one group")
    if not waves or list(waves) != sorted(set(waves)) or waves[0] < 1 or waves[-1] > len(members):
        raise FleetfootError("request_invalid", f"waves must rise from 1 to at most {len(members)} devices")
    if settle < 0 or device_timeout <= 0 or breaker < 0:
        raise FleetfootError("request_invalid", "settle, device_timeout and breaker must not be negative")
    group = dict(members)
    _demand_sound(group, waves, include, listed, stage)
    fit = [admission.Candidate(member.device, {}) for member in members]
    order = admission.ranked(salt, fit, include)
    cuts = (admission.NOBODY,) * len(waves)
    if not listed:
        cuts = admission.cuts_for(waves, salt, fit, include=include)
    rollout = Rollout(
        id=id,
        component=component,
        goal=goal,
        groups=tuple(sorted(set(group.values()))) if groups is None else groups,
        salt=salt,
        waves=waves,
        cuts=cuts,
        cohort=tuple(Member(device, group[device]) for device in order),
        devices=DeviceTable({}),
        created=now,
        selector=dict(selector or {}),
        settle=settle,
        device_timeout=device_timeout,
        breaker=breaker,
        restricted=bool(selector) or listed or waves[-1] < len(members),
        canary=canary,
        state=RolloutState.AWAITING_APPROVAL if approval else RolloutState.PLANNED,
        include=include,
        listed=listed,
        stage=stage,
        **pace,
    )
    wave, records = 0, {}
    for rank, device in enumerate(order):
        # In the order of admission the waves follow each other; behind the last one is nobody's.
        while wave < len(waves) and rank >= waves[wave]:
            wave += 1
        number = wave + 1 if wave < len(waves) else 0
        records[device] = new_record(number, device in already, now)
    return replace(rollout, devices=DeviceTable(records))


def _demand_sound(
    group: Mapping[str, str], waves: tuple[int, ...], include: tuple[str, ...], listed: bool, stage: str
) -> None:
    """Raise FleetfootError `request_invalid` for what cannot be named, or does not go together."""
    why = ""
    if stage not in ("", "first", "only"):
        why = f"there is no way to stage {stage[:20]!a}"
    elif (listed and len(group) > MAX_LISTED) or len(include) > MAX_LISTED:
        why = f"no more than {MAX_LISTED} devices can be named"
    elif len(set(include)) != len(include) or not set(include) <= set(group):
        why = "canaries are devices of the cohort, each named once"
    elif include and waves[0] != len(include):
        why = "canaries are the first wave"
    elif include and stage and len(waves) == 1:
        why = "canaries stage when they activate: to stage first takes a wave behind them"
    elif listed and stage:
        why = "devices named one by one are admitted to staging and to activating at once"
    if why:
        raise FleetfootError("request_invalid", why)


def new_record(wave: int, on_goal: bool, now: float) -> DeviceRecord:
    """The record of a device in this wave, of which nothing was reported yet, not exposed."""
    if wave == 0:
        return DeviceRecord(0, Terminal.SKIPPED, reason=BEYOND, ended=now, on_goal=on_goal)
    if on_goal:
        return DeviceRecord(wave, Terminal.SKIPPED, reason=ALREADY, ended=now, on_goal=True)
    return DeviceRecord(wave)

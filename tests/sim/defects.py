"""Defects, planted one at a time into the cores of manager and device, that the simulation must find.

Each is a mistake that somebody could make: a comparison off by one, a rule forgotten, an order swapped.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fleetfoot_agent.worker import intake, lifecycle, planning, steps
from fleetfoot_agent.worker import preflight as agent_preflight
from fleetfoot_manager import (
    audit,
    compose,
    documents,
    ingest,
    pace,
    publisher,
    reassert,
    rollout,
    rollout_acts,
    rollout_devices,
    rollout_gate,
    rollout_plan,
    rollout_reports,
    standstill,
    work,
)
from fleetfoot_manager import planning as manager_planning
from fleetfoot_manager.requests import chains, engine_acts, preflight, starting
from fleetfoot_protocol import admission, auditchain, resolve, trust
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.dsse import decode
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.resolve import Act, Plan, Why
from fleetfoot_protocol.states import Lifecycle, RolloutState, Terminal
from fleetfoot_sim.world.device import Device

Patch = pytest.MonkeyPatch
#: Where the search for a defect begins, if it shows seldom. Another seed finds it too, only later.
FIRST_SEEDS = {
    "approval_is_skipped": 32,
    "older_statuses_count": 42,
    "pause_does_not_hold": 17,
    "recall_waits_for_the_verdict": 12,
    "nobody_is_ever_silent": 6,
    "changed_plan_does_not_abandon": 31,
    "wave_passes_without_a_success": 6,
    "wave_does_not_wait_for_everybody": 6,
    "older_documents_are_taken": 6,
    "whoever_is_ahead_goes_down": 11,
    # Every tenth story has probes.
    "silence_counts_as_yes": 8,
    "answers_to_another_probe_count": 8,
    "preflight_forgets_what_was_refused": 38,
    "preflight_overlooks_the_hold": 758,
    "rollback_withdraws_nothing": 17,
    "emptied_broker_is_told_nothing": 15,
    "resolve_ignores_the_floor": 281,
    # Rollouts of other forms are told of in the second hundred.
    "who_stages_may_activate": 103,
    "named_devices_are_left_out": 100,
    "named_devices_open_the_cut": 100,
    "what_is_only_staged_goes_on": 124,
    "failures_in_a_row_trip_nothing": 134,
    "wave_opens_without_its_approval": 112,
    "hop_begins_without_its_approval": 9,
    # And of closer bounds in the second half of that.
    "nothing_expires": 150,
    "one_success_is_enough": 105,
    "limit_in_percent_trips_nothing": 156,
    "limit_in_percent_trips_too_early": 153,
    "what_is_superseded_goes_on": 151,
    "superseding_takes_what_it_covers_in_part": 160,
    "superseded_devices_may_begin": 151,
    "lower_priority_goes_first": 153,
    "priority_is_forgotten": 150,
    "resolve_begins_with_the_last_target": 153,
    "paused_engine_holds_nothing": 167,
    "paused_engine_lets_rollouts_begin": 153,
    "paused_engine_leaves_what_awaits_approval": 166,
}
DEFECTS: dict[str, Callable[[Patch], None]] = {}


def defect(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    DEFECTS[plant.__name__] = plant
    return plant


# --- the manager


@defect
def cut_admits_one_more(patch: Patch) -> None:
    real = admission.cuts_for

    def cuts_for(sizes: Any, *a: Any, **more: Any) -> Any:
        return real([size + 1 for size in sizes], *a, **more)

    patch.setattr(admission, "cuts_for", cuts_for)


@defect
def trip_does_not_hold(patch: Patch) -> None:
    patch.setitem(rollout_gate.HELD, RolloutState.TRIPPED, False)


@defect
def pause_does_not_hold(patch: Patch) -> None:
    patch.setitem(rollout_gate.HELD, RolloutState.PAUSED, False)


@defect
def breaker_is_one_too_late(patch: Patch) -> None:
    def proceed(rollout: Any, now: float) -> Any:
        looser = replace(rollout, breaker=rollout.breaker + 1 if rollout.breaker else 0)
        after, effects = real(looser, now)
        return (rollout if after is looser else replace(after, breaker=rollout.breaker)), effects

    real = rollout_gate.proceed
    patch.setattr(rollout_acts, "proceed", proceed)


@defect
def wave_passes_without_a_success(patch: Patch) -> None:
    patch.setattr(rollout_gate, "succeeded", lambda rollout: True)


@defect
def wave_does_not_wait_for_everybody(patch: Patch) -> None:
    patch.setattr(rollout_devices.DeviceTable, "awaited", property(lambda table: 0))


@defect
def rollback_withdraws_nothing(patch: Patch) -> None:
    patch.setattr(compose, "_withdrawn", lambda intent, digest: intent)


@defect
def sequence_stands_still(patch: Patch) -> None:
    patch.setattr(documents, "next_sequence", lambda last, now: max(last, 1))


@defect
def sequence_goes_back(patch: Patch) -> None:
    patch.setattr(documents, "next_sequence", lambda last, now: max(1, int(3.6e12 - now * 1000)))


@defect
def outcome_of_any_attempt_counts(patch: Patch) -> None:
    real = rollout_reports.recorded

    def recorded(rollout: Any, record: Any, report: Any, now: float) -> Any:
        mine = replace(report, rollout=rollout.id, attempt=rollout.goal.attempt)
        if record.since is not None and not record.gone and record.terminal is Terminal.PENDING:
            mine = replace(mine, terminal=mine.terminal or Terminal.HEALTHY, running=rollout.goal.digest)
        return real(rollout, record, mine, now)

    patch.setattr(rollout_acts, "recorded", recorded)


@defect
def nobody_is_ever_silent(patch: Patch) -> None:
    patch.setattr(rollout_acts, "silenced", lambda rollout, now: rollout)


@defect
def emptied_broker_is_told_nothing(patch: Patch) -> None:
    patch.setattr(reassert.Reassertion, "connected", lambda self: None)
    patch.setattr(reassert.Reassertion, "arrived", lambda self, work, topic, payload: None)


@defect
def older_statuses_count(patch: Patch) -> None:
    patch.setattr(ingest.Ingest, "_is_news", lambda self, work, entry, status: True)


@defect
def audit_forgets_the_row_before(patch: Patch) -> None:
    def hash_of(*row: Any) -> str:
        return auditchain.hash_of(row[0], row[1], row[2], row[3], row[4], row[5], auditchain.GENESIS)

    patch.setattr(audit, "hash_of", hash_of)


@defect
def approval_is_skipped(patch: Patch) -> None:
    real = rollout_plan.planned
    patch.setattr(manager_planning, "planned", lambda **facts: real(**{**facts, "approval": False}))


def _published(patch: Patch, change: Callable[[Any], dict[str, Any]]) -> None:
    """Each target goes out with what `change` says of it."""
    real = publisher.put_desired

    def put(
        tx: Any, house: Any, group: str, component: str, intent: Any, targets: Any, *a: Any, **m: Any
    ) -> Any:
        changed = [target.model_copy(update=change(target)) for target in targets]
        return real(tx, house, group, component, intent, changed, *a, **m)

    patch.setattr(publisher, "put_desired", put)


@defect
def documents_admit_everybody(patch: Patch) -> None:
    _published(patch, lambda target: {"stage_cut": "all", "activate_cut": "all"})


@defect
def who_stages_may_activate(patch: Patch) -> None:
    _published(patch, lambda target: {"activate_cut": target.stage_cut})


@defect
def named_devices_are_left_out(patch: Patch) -> None:
    _published(patch, lambda target: {"include": ()})


@defect
def named_devices_open_the_cut(patch: Patch) -> None:
    def change(target: Any) -> dict[str, Any]:
        return {"stage_cut": "all", "activate_cut": "all"} if target.include else {}

    _published(patch, change)


def _goes_on(patch: Patch, reason: str) -> None:
    real = rollout_gate._await

    def wait(rollout: Any, why: str) -> Any:
        return rollout_gate.open_wave(rollout, 1.8e9) if why == reason else real(rollout, why)

    patch.setattr(rollout_gate, "_await", wait)


@defect
def wave_opens_without_its_approval(patch: Patch) -> None:
    _goes_on(patch, rollout_gate.AWAITS_APPROVAL)


@defect
def what_is_only_staged_goes_on(patch: Patch) -> None:
    _goes_on(patch, rollout_gate.AWAITS_ACTIVATION)


@defect
def failures_in_a_row_trip_nothing(patch: Patch) -> None:
    real = rollout_gate._too_many
    patch.setattr(rollout_gate, "_too_many", lambda of: "" if of.consecutive else real(of))


@defect
def hop_begins_without_its_approval(patch: Patch) -> None:
    real = manager_planning.make

    def make(*facts: Any) -> Any:
        made = real(*facts)
        return replace(made, rollout=replace(made.rollout, state=RolloutState.PLANNED))

    patch.setattr(chains, "planning", SimpleNamespace(make=make))


@defect
def nothing_expires(patch: Patch) -> None:
    patch.setattr(rollout, "due", lambda of, now: rollout.Tick())


@defect
def one_success_is_enough(patch: Patch) -> None:
    real = rollout_gate.succeeded
    patch.setattr(rollout_gate, "succeeded", lambda of: real(replace(of, min_successes=1)))


@defect
def limit_in_percent_trips_nothing(patch: Patch) -> None:
    real = rollout_gate._too_many
    patch.setattr(rollout_gate, "_too_many", lambda of: real(replace(of, failure_percent=0)))


@defect
def limit_in_percent_trips_too_early(patch: Patch) -> None:
    real = rollout_gate._too_many

    def too_many(of: Any) -> str:
        failures = of.devices.failures - of.failures_before
        at = failures and failures * 100 == of.failure_percent * of.approved
        return f"{failures} failed, limit reached" if at else real(of)

    patch.setattr(rollout_gate, "_too_many", too_many)


@defect
def what_is_superseded_goes_on(patch: Patch) -> None:
    real = starting._in_the_way

    def in_the_way(*facts: Any) -> list[Any]:
        real(*facts)
        return []

    patch.setattr(starting, "_in_the_way", in_the_way)


@defect
def superseding_takes_what_it_covers_in_part(patch: Patch) -> None:
    real = starting._in_the_way

    def in_the_way(work: Any, new: Any, asked: Any) -> list[Any]:
        shared = [of for of in work.rollouts.values() if set(of.groups) & set(new.groups) and of is not new]
        kinds = (RolloutState.ROLLING_BACK,)
        free = [of for of in shared if of.id != new.id and of.state not in kinds and not of.after]
        return free if asked.supersede else real(work, new, asked)

    patch.setattr(starting, "_in_the_way", in_the_way)


@defect
def superseded_devices_may_begin(patch: Patch) -> None:
    real = rollout_acts.on_supersede

    def on_supersede(of: Any, event: Any, now: float) -> Any:
        after, effects = real(of, event, now)
        return replace(after, devices=of.devices), effects

    for steps_of in rollout.TRANSITIONS.values():
        if step := steps_of.get(rollout.Supersede):
            patch.setitem(steps_of, rollout.Supersede, replace(step, handler=on_supersede))


@defect
def lower_priority_goes_first(patch: Patch) -> None:
    patch.setattr(work, "_rank", lambda of: (-of.priority, of.created, of.id))


@defect
def priority_is_forgotten(patch: Patch) -> None:
    real = pace.of

    def of(*facts: Any) -> Any:
        found = real(*facts)
        return found._replace(gate={**found.gate, "priority": 0})

    patch.setattr(pace, "of", of)


@defect
def paused_engine_holds_nothing(patch: Patch) -> None:
    patch.setattr(engine_acts, "TRANSITIONS", dict.fromkeys(RolloutState, ()))


@defect
def paused_engine_leaves_what_awaits_approval(patch: Patch) -> None:
    patch.setattr(work.Work, "renew_every_order", lambda work: None)


@defect
def paused_engine_lets_rollouts_begin(patch: Patch) -> None:
    patch.setattr(standstill, "refusal", lambda *facts: None)


# --- the protocol and the device


def _resolved(patch: Patch, change: Callable[[Any, Any, Any], tuple[Any, Any, Any]]) -> None:
    real = resolve.resolve
    patch.setattr(planning, "resolve", lambda group, own, device: real(*change(group, own, device)))


def _without(document: Desired | None, **changes: Any) -> Desired | None:
    return document.model_copy(update=changes) if document else None


@defect
def resolve_ignores_holds(patch: Patch) -> None:
    def change(group: Any, own: Any, device: Any) -> Any:
        if group is None:
            return group, own, device
        targets = tuple(target.model_copy(update={"hold": False}) for target in group.targets)
        return _without(group, targets=targets, hold=False), own, device

    _resolved(patch, change)


@defect
def resolve_begins_with_the_last_target(patch: Patch) -> None:
    def change(group: Any, own: Any, device: Any) -> Any:
        return _without(group, targets=group.targets[::-1]) if group else group, own, device

    _resolved(patch, change)


@defect
def resolve_ignores_the_floor(patch: Patch) -> None:
    _resolved(patch, lambda group, own, device: (group, own, replace(device, floor=0)))


@defect
def resolve_ignores_refusals(patch: Patch) -> None:
    _resolved(patch, lambda group, own, device: (group, own, replace(device, refused={})))


@defect
def resolve_ignores_recalls(patch: Patch) -> None:
    _resolved(patch, lambda group, own, device: (_without(group, withdrawn=()), own, device))


@defect
def resolve_installs_what_runs(patch: Patch) -> None:
    real = resolve.resolve

    def again(group: Any, own: Any, device: Any) -> Plan:
        plan = real(group, own, device)
        return Plan(Act.INSTALL, Why.ORDERED, plan.goal, plan.rollout) if plan.why is Why.CURRENT else plan

    patch.setattr(planning, "resolve", again)


@defect
def everybody_is_admitted(patch: Patch) -> None:
    patch.setattr(admission, "below", lambda cut, salt, device: True)


@defect
def selector_is_ignored(patch: Patch) -> None:
    patch.setattr(
        admission, "admitted", lambda target, device, labels, cut: admission.below(cut, target.salt, device)
    )


def _stepped(patch: Patch, event: type, change: Callable[[Any, Any], Any]) -> None:
    real = lifecycle._HANDLERS[event]

    def handler(record: Any, happened: Any, now: int) -> Any:
        done, said = real(record, happened, now)
        return change(record, done), said

    patch.setitem(lifecycle._HANDLERS, event, handler)


@defect
def commit_does_not_raise_the_floor(patch: Patch) -> None:
    _stepped(patch, steps.Healthy, lambda old, new: new.model_copy(update={"floor": old.floor}))


@defect
def failure_is_not_remembered(patch: Patch) -> None:
    patch.setattr(lifecycle, "_refuse", lambda record: record)


@defect
def commit_writes_down_the_old_version(patch: Patch) -> None:
    _stepped(patch, steps.Healthy, lambda old, new: new.model_copy(update={"run": old.run}))


@defect
def way_back_is_written_down_as_the_goal(patch: Patch) -> None:
    def change(old: Any, new: Any) -> Any:
        goal = old.work.goal
        run = Installed(version=goal.version, counter=goal.counter, digest=goal.digest)
        return new.model_copy(update={"run": run})

    _stepped(patch, steps.WayBackProven, change)


@defect
def changed_plan_does_not_abandon(patch: Patch) -> None:
    real = planning.change_of

    def change_of(record: Any, planned: Any, *, enabled: bool) -> Any:
        found = real(record, planned, enabled=enabled)
        return None if isinstance(found, steps.Abandon) else found

    patch.setattr(planning, "change_of", change_of)


@defect
def recall_waits_for_the_verdict(patch: Patch) -> None:
    real = planning.change_of

    def change_of(record: Any, planned: Any, *, enabled: bool) -> Any:
        found = real(record, planned, enabled=enabled)
        return None if isinstance(found, steps.Recalled) else found

    patch.setattr(planning, "change_of", change_of)


@defect
def whoever_is_ahead_goes_down(patch: Patch) -> None:
    def down(document: Desired | None) -> Desired | None:
        if document is None:
            return None
        told = document.model_dump()
        for goal in [told["baseline"], *(target["goal"] for target in told["targets"])]:
            if goal is not None:
                goal["mode"] = "exactly"
        return Desired.model_validate(told)

    _resolved(patch, lambda group, own, device: (down(group), down(own), device))


@defect
def probation_ends_with_the_first_boot(patch: Patch) -> None:
    real = Device.switch_on

    def switch_on(self: Device) -> None:
        work = self.record.work
        if self.record.state is Lifecycle.PROBATION and work is not None:
            self.runs = work.old
        real(self)

    patch.setattr(Device, "switch_on", switch_on)


@defect
def older_documents_are_taken(patch: Patch) -> None:
    def desired(self: Any, message: Any, intake: Any) -> None:
        document = trust.verify_desired(message.payload, self._memory.root)
        scope = "own" if document.device else "group"
        if document.group == self._config.group:
            self._memory.store(f"{scope}.{document.component}", message.payload)

    real = intake.Reader.__init__

    def init(self: Any, *args: Any) -> None:
        real(self, *args)
        for slot in ("group", "own"):
            self._handlers[slot] = lambda message, found: desired(self, message, found)

    patch.setattr(intake.Reader, "__init__", init)


@defect
def signatures_are_not_checked(patch: Patch) -> None:
    def verify(data: bytes, root: Any) -> Desired:
        return Desired.model_validate_json(decode(data).payload)

    patch.setattr(trust, "verify_desired", verify)


# --- preflight


@defect
def silence_counts_as_yes(patch: Patch) -> None:
    patch.setattr(preflight, "UNKNOWN", "ok")


@defect
def answers_to_another_probe_count(patch: Patch) -> None:
    real = preflight._row

    def row(entry: Any, asked: Any) -> Any:
        one = entry.status.components.get(asked.component) if entry.status else None
        said = one.preflight if one else None
        return real(entry, asked if said is None else asked.model_copy(update={"id": said.id}))

    patch.setattr(preflight, "_row", row)


@defect
def preflight_forgets_what_was_refused(patch: Patch) -> None:
    real = resolve.resolve

    def forgetful(group: Any, own: Any, device: Any) -> Plan:
        return real(group, own, replace(device, refused={}))

    patch.setattr(agent_preflight, "resolve", forgetful)


@defect
def preflight_overlooks_the_hold(patch: Patch) -> None:
    real = resolve.resolve
    patch.setattr(
        agent_preflight, "resolve", lambda group, own, device: real(_without(group, hold=False), own, device)
    )

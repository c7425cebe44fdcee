"""One transaction of the engine: everything that a batch of inputs decides, and what it publishes.

The pure core decides; here its effects become rows: the rollout's state, the groups' intents, signed
documents, progress, events, audit, and their publications in the outbox, all in the transaction of the
input that caused them. Documents and progress are composed once, before the commit: only the newest of
them counts. What fails in a `step` leaves no trace, in the store or in memory.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import (
    acts,
    audit,
    catalogue,
    compose,
    documents,
    effects,
    keyring,
    publisher,
    rollout,
    rollout_rows,
    schema,
    standstill,
)
from fleetfoot_manager.catalogue import Life
from fleetfoot_manager.effects import Effect
from fleetfoot_manager.faults import Stage
from fleetfoot_manager.house import House
from fleetfoot_manager.registry import Registry
from fleetfoot_manager.rollout import Rollout, RolloutEvent
from fleetfoot_manager.rollout_events import kind_of
from fleetfoot_manager.store import Store, upsert
from fleetfoot_protocol import admission, events, strictjson, times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.topics import Kind

#: Events of a rollout that are decisions of the manager and so stand in the audit log.
_AUDITED: dict[Event, str] = {
    Event.CIRCUIT_BREAKER_TRIPPED: "group.upgrade.paused",
    Event.ROLLOUT_COMPLETED: "group.upgrade.complete",
    Event.ROLLOUT_EXPIRED: "group.upgrade.expire",
}

#: Actions after which another device, or none, is known by a name.
_ENROLS = frozenset({"device.enroll", "device.move", "device.relabel", "device.forget", "device.revoke"})

#: What a step of a transaction must leave as it was, when it fails.
_MEMORY = (
    "rollouts",
    "effects",
    "_changed",
    "_progress",
    "_desired",
    "_heartbeats",
    "_parsed",
    "_sends",
    "_audits",
    "_intents",
    "_lives",
    "_acts",
    "_own",
    "newcomers",
    "unheard",
    "evictions",
)


def _rank(of: Rollout) -> tuple[int, float, str]:
    """Of two rollouts over the same devices the one with the higher priority counts, else the newer one."""
    return of.priority, of.created, of.id


class Work:
    """What handlers of inputs act through. `rollouts` are the live ones by id, as they are by now."""

    def __init__(
        self,
        store: Store,
        tx: Connection,
        house: House,
        live: Mapping[str, Rollout],
        devices: Registry,
        now: float,
    ) -> None:
        self.tx = tx
        self.devices = devices
        self.house = house
        self.now = now
        self.rollouts: dict[str, Rollout] = dict(live)
        self.effects: list[str] = []
        #: More comes than can be looked into at once: what can be written later is.
        self.hurried = False
        #: (group, device) enrolled here: what they have said before was not theirs to say, and is now.
        self.newcomers: list[tuple[str, str]] = []
        #: (group, device) of which more should have been heard: what the broker keeps of them is asked for.
        self.unheard: list[tuple[str, str]] = []
        #: (group, device) to be turned away from the broker once this is committed.
        self.evictions: list[tuple[str, str]] = []
        #: What changed in the enrolment of devices, to be remembered beside the store after the commit.
        self.enrolments: list[dict[str, Any]] = []
        #: Digest of the signed request that is being decided, empty while the manager acts by itself.
        self.request_digest = ""
        self._store = store
        self._changed: dict[str, Rollout] = {}
        #: How the store has them.
        self._stored: dict[str, Rollout] = dict(live)
        self._progress: dict[str, None] = {}
        self._desired: dict[tuple[str, str], int] = {}
        self._heartbeats: dict[str, None] = {}
        self._parsed: dict[tuple[str, str], Desired | None] = {}
        self._sends: list[tuple[str, bytes]] = []
        self._audit_head = False
        self._audits: list[tuple[str, str, dict[str, Any], str]] = []
        self._intents: dict[tuple[str, str], compose.GroupIntent] = {}
        self._lives: dict[str, Life] = {}
        self._acts: dict[tuple[str, str], acts.Act] = {}
        self._own: dict[tuple[str, str], int] = {}

    @contextmanager
    def step(self, *, writes: bool = True) -> Iterator[None]:
        """A part that is undone alone, in the store and here, when it raises.

        writes: whether it may write to the store before `finish`; what a device says does not.
        """
        devices = self.devices.snapshot()
        before = {name: held.copy() if (held := getattr(self, name)) else type(held)() for name in _MEMORY}
        try:
            if writes:
                with self._store.step(self.tx):
                    yield
            else:
                yield
        except BaseException:
            self.devices.restore(devices)
            for name, value in before.items():
                setattr(self, name, value)
            raise

    # --- what may be asked for -----------------------------------------------------------------------

    def rollout(self, name: str) -> Rollout | None:
        """The rollout as it is by now, live or ended; None if there is none."""
        known = self.rollouts.get(name) or self._changed.get(name)
        if known is None:
            known = rollout_rows.load_one(self.tx, name)
            if known is not None:
                self._stored[name] = known
        return known

    def intent(self, group: str, component: str) -> compose.GroupIntent:
        """What the group is meant to be, apart from live rollouts."""
        if (group, component) in self._intents:
            return self._intents[group, component]
        table = schema.intents.c
        text = self.tx.scalar(
            sa.select(table.intent).where(table.group == group, table.component == component)
        )
        return compose.GroupIntent() if text is None else compose.GroupIntent.from_json(json.loads(text))

    def desired_now(self, group: str, component: str) -> Desired | None:
        """The group's stored document of a component, or None. One that is due anew has no order yet."""
        key = (group, component)
        if key in self._desired:
            return None
        if key not in self._parsed:
            self._parsed[key] = publisher.stored_desired(self.tx, group, component)
        return self._parsed[key]

    def acts_of(self, device: str) -> list[acts.Act]:
        """The newest act on each component of a device, as they are by now."""
        found = {act.component: act for act in acts.of_device(self.tx, device)}
        found |= {act.component: act for (name, _), act in self._acts.items() if name == device}
        return [found[component] for component in sorted(found)]

    # --- what may be done ----------------------------------------------------------------------------

    def add(self, new: Rollout) -> None:
        """Take in a rollout that has just been planned."""
        self.rollouts[new.id] = new
        self._changed[new.id] = new
        self.renew_progress(new.id)

    def advance(self, name: str, event: RolloutEvent) -> Rollout:
        """Let something happen to a rollout and apply all that follows. Raises KeyError for an unknown one.

        Raises FleetfootError `state_refused` for what its state does not take; nothing has changed then.
        """
        before = self.rollout(name)
        if before is None:
            raise KeyError(name)
        after, follows = rollout.advance(before, event, self.now)
        if after is not before:
            self._changed[name] = after
            if after.state.ended:
                self.rollouts.pop(name, None)
            else:
                self.rollouts[name] = after
        for effect in follows:
            label = type(effect).__name__
            self.house.faults.hit(Stage.BEFORE_APPLY, (label,))
            self._apply(after, effect)
            self.house.faults.hit(Stage.AFTER_APPLY, (label,))
            self.effects.append(label)
        opened = (after.wave, after.staging) != (before.wave, before.staging)
        return self._passing_over(after) if opened and after.skip_offline else after

    def _passing_over(self, of: Rollout) -> Rollout:
        """Tell a rollout that waits for nobody who is offline whom of the wave that has opened it means."""
        entries = self.devices.members(self.tx, of.groups)
        away = frozenset(entry.id for entry in entries if not entry.online)
        asked = any(device in away and record.awaited for device, record in of.devices.items())
        takes = kind_of(rollout.Away(away)) in rollout.TRANSITIONS[of.state]
        return self.advance(of.id, rollout.Away(away)) if asked and takes else of

    def join(self, device: str, group: str, labels: Mapping[str, str]) -> None:
        """Tell live rollouts that a device came into one of their groups, matches now, or left them."""
        for of in list(self.rollouts.values()):
            known = of.devices.get(device)
            event: RolloutEvent | None = None
            if group in of.groups and admission.matches(of.selector, labels):
                event = rollout.Joined(device, group)
            elif known is not None and not known.gone and group not in of.groups:
                event = rollout.Left(device)
            if event is not None and kind_of(event) in rollout.TRANSITIONS[of.state]:
                self.advance(of.id, event)

    def _apply(self, of: Rollout, effect: Effect) -> None:
        match effect:
            case effects.PublishDesired():
                for group in of.groups:
                    self.renew_desired(group, of.component)
            case effects.PublishProgress():
                self.renew_progress(of.id)
            case effects.Emit(event, data, code):
                self._emit(of, event, data, code)
            case _:
                for group in of.groups:
                    self.change_intent(group, of.component, effect)
                if isinstance(effect, effects.SetBaseline):
                    self._live(of)

    def _live(self, of: Rollout) -> None:
        """A release that is a group's baseline is live."""
        row = catalogue.by_digest(self.tx, of.goal.digest)
        if row is not None and Life.LIVE in catalogue.PROMOTIONS[Life(row.life)]:
            self._lives[row.digest] = Life.LIVE
            about = {"component": row.component, "version": row.version, "digest": row.digest}
            self.audit(audit.MANAGER, "release.promote", {**about, "from": row.life, "to": str(Life.LIVE)})

    def change_intent(self, group: str, component: str, effect: Effect) -> None:
        """Change what a group is meant to be. FleetfootError `conflict` past what a document can say."""
        self._intents[group, component] = compose.applied(self.intent(group, component), effect)

    def _emit(self, of: Rollout, event: Event, data: dict[str, Any], code: Code | None) -> None:
        body = {"version": of.goal.version, "groups": list(of.groups), **data}
        self.event(of.groups, event, body, component=of.component, rollout=of.id, code=code)
        if event in _AUDITED:
            about = {"rollout": of.id, "component": of.component, **body}
            if event is Event.CIRCUIT_BREAKER_TRIPPED:
                about["failure_count"] = of.devices.failures
            self.audit(audit.MANAGER, _AUDITED[event], about)

    def event(
        self,
        groups: Iterable[str],
        event: Event,
        data: dict[str, Any],
        *,
        component: str | None = None,
        rollout: str | None = None,
        code: Code | None = None,
    ) -> None:
        """Tell these groups of an event: the same id in each, so that it counts once."""
        body = events.cloud_event(
            event,
            source=f"/fleets/{self.house.fleet}/manager",
            event_id=f"{self.house.entropy.getrandbits(96):024x}",
            time=times.to_text(self.now),
            data=data,
            component=component,
            rollout=rollout,
            code=code,
        )
        for group in groups:
            self.send(documents.place(Kind.GROUP_EVENTS, group=group), strictjson.dumps(body))

    def send(self, topic: str, payload: bytes) -> None:
        """Publish something that is not retained, behind the documents that this transaction changes."""
        self._sends.append((topic, payload))

    def audit(self, actor: str, action: str, data: dict[str, Any]) -> None:
        """Add a row to the audit log, under the request that is being decided."""
        self._audits.append((actor, action, data, self.request_digest))

    def renew_desired(self, group: str, component: str, *, beyond: int = 0) -> None:
        """Let the group's document be composed and signed anew, with a new sequence, above `beyond`."""
        key = (group, component)
        self._desired[key] = max(beyond, self._desired.get(key, 0))

    def put_act(self, act: acts.Act) -> None:
        """Let an act on a device stand, or be released: in the store, and in the device's own document."""
        self._acts[act.device, act.component] = act
        self.renew_own(act.device, act.component)

    def renew_own(self, device: str, component: str, *, beyond: int = 0) -> None:
        """Let the device's own document be signed anew, with a new sequence, above `beyond`."""
        self._own[device, component] = max(beyond, self._own.get((device, component), 0))

    def renew_every_order(self, *, released: bool = False) -> None:
        """Let every document by which some device could begin something be signed anew.

        released: also those that give a device back to its group, by which none could.
        """
        table = schema.documents.c
        told = sa.select(table.group, table.component).where(table.kind == str(Kind.GROUP_DESIRED))
        for group, component in self.tx.execute(told):
            self.renew_desired(group, component)
        for act in acts.every(self.tx):
            if act.stands or released:
                self.renew_own(act.device, act.component)

    def drop_own(self, group: str, act: acts.Act) -> None:
        """Forget an act, and clear the device's own document from the broker."""
        self._acts.pop((act.device, act.component), None)
        self._own.pop((act.device, act.component), None)
        acts.forget(self.tx, act.device, act.component)
        ids = {"group": group, "device": act.device, "component": act.component}
        documents.drop(self.tx, documents.place(Kind.DEVICE_DESIRED, **ids))

    def forget_group(self, group: str) -> int:
        """Clear everything that is retained for a group; returns how many topics. Nothing of it is live."""
        table = schema.documents.c
        topics = self.tx.scalars(sa.select(table.topic).where(table.group == group)).all()
        for topic in topics:
            documents.drop(self.tx, topic)
        for waiting in (self._desired, self._intents, self._parsed):
            for key in [key for key in waiting if key[0] == group]:
                del waiting[key]
        self._heartbeats.pop(group, None)
        return len(topics)

    def renew_heartbeat(self, group: str) -> None:
        """Let the group's heartbeat be signed anew."""
        self._heartbeats[group] = None

    def renew_audit_head(self) -> None:
        """Let the head of the audit log be signed anew."""
        self._audit_head = True

    def renew_progress(self, name: str) -> None:
        """Let the rollout's progress be told and attested anew."""
        self._progress[name] = None

    # --- the end of the transaction ------------------------------------------------------------------

    def finish(self) -> None:
        """Store what changed and everything that is published of it. Once, right before the commit."""
        self.devices.flush(self.tx, hurried=self.hurried)
        for name, changed in self._changed.items():
            rollout_rows.keep(self.tx, self._stored.get(name), changed)
            if name in self.rollouts:
                self.rollouts[name] = replace(changed, devices=changed.devices.kept())
        for digest, life in self._lives.items():
            catalogue.live_on(self.tx, digest, life)
        for (group, component), intent in self._intents.items():
            text = strictjson.dumps(intent.to_json()).decode()
            upsert(self.tx, schema.intents, {"group": group, "component": component}, {"intent": text})
        enrolled = {data["device"]: None for _, action, data, _ in self._audits if action in _ENROLS}
        self.enrolments = keyring.lines(self.tx, enrolled)
        audit.append_all(self.tx, self.now, self._audits)
        if self._audits or self._audit_head:
            publisher.put_audit_head(self.tx, self.house, self.now)
        hold = bool(self._desired or self._own) and standstill.of(self.tx) is not None
        for (group, component), beyond in self._desired.items():
            targets = [
                found
                for of in sorted(self.rollouts.values(), key=_rank, reverse=True)
                if of.component == component and group in of.groups and (found := rollout.target(of))
            ]
            intent = self.intent(group, component)
            publisher.put_desired(
                self.tx, self.house, group, component, intent, targets, self.now, beyond=beyond, hold=hold
            )
            self._heartbeats[group] = None
        for act in self._acts.values():
            acts.keep(self.tx, act)
        for (device, component), beyond in self._own.items():
            known = next((act for act in acts.of_device(self.tx, device) if act.component == component), None)
            entry = self.devices.find(self.tx, device)
            if known is not None and entry is not None:
                publisher.put_own(self.tx, self.house, entry.group, known, self.now, beyond=beyond, hold=hold)
        for group in self._heartbeats:
            publisher.put_heartbeat(self.tx, self.house, group, self.now)
        for name in self._progress:
            if (of := self.rollout(name)) is not None:
                publisher.put_progress(self.tx, self.house, of, self.now)
        documents.enqueue_all(self.tx, self._sends)
        documents.trim_events(self.tx)

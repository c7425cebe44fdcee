"""Acts on single devices: upgrade, downgrade, pin, each by a document of the device itself (section 5).

A device has one act at a time for a component; a new one takes the place of the one before. Rules:

1. An act that does not pin lives for 24 hours. Once the device has said how it went, its document is
   published again as released, with a higher sequence, and kept until the first would have expired.
2. An act that pins holds until somebody releases it; its document is renewed like those of groups.
3. Without a version, a pin holds what runs: a document without a goal.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fleetfoot_manager import schema
from fleetfoot_protocol import admission
from fleetfoot_protocol.documents import Desired, Goal, Target
from fleetfoot_protocol.reports import ComponentStatus
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict

LIFE_SECONDS = 24 * 3600.0
OPEN, HELD, RELEASED = "open", "held", "released"


@dataclass(frozen=True, slots=True)
class Act:
    """An act on one component of one device.

    kind: upgrade, downgrade or pin. goal: None for a bare pin. state: open until the device has answered,
    held when a pin stands, released. outcome: how the device ended it, empty before. expires: unix seconds
    until which the document, or the one that releases it, is kept; for one that pins, when it runs out
    unless it is renewed.
    """

    device: str
    component: str
    act: str
    kind: str
    goal: Goal | None
    pins: bool
    operator: str
    created: float
    expires: float
    state: str = OPEN
    outcome: str = ""
    code: str = ""

    @property
    def stands(self) -> bool:
        """Whether the device obeys it."""
        return self.state != RELEASED

    def released(self) -> "Act":
        """The same, given back to the group."""
        return replace(self, state=RELEASED)

    def row(self) -> dict[str, Any]:
        """The act as lists show it."""
        shown: dict[str, Any] = {"act": self.act, "kind": self.kind, "state": self.state, "pins": self.pins}
        goal = self.goal
        if goal is not None:
            shown |= {"version": goal.version, "digest": goal.digest, "attempt": goal.attempt}
        return shown | {name: value for name in ("outcome", "code") if (value := getattr(self, name))}


def _read(row: Row[Any]) -> Act:
    values = dict(row._mapping)
    goal = values.pop("goal")
    return Act(**values, goal=Goal.model_validate(json.loads(goal)) if goal else None)


def of_device(tx: Connection, device: str) -> list[Act]:
    """The newest act for each component of a device."""
    table = schema.acts
    rows = tx.execute(sa.select(table).where(table.c.device == device).order_by(table.c.component))
    return [_read(row) for row in rows]


def standing(tx: Connection, component: str) -> dict[str, Act]:
    """The acts that stand for a component, by device."""
    table = schema.acts
    rows = tx.execute(sa.select(table).where(table.c.component == component, table.c.state != RELEASED))
    return {act.device: act for act in map(_read, rows)}


def devices_with_open(tx: Connection) -> set[str]:
    """Devices of which an answer is awaited."""
    table = schema.acts.c
    return set(tx.scalars(sa.select(table.device).where(table.state == OPEN).distinct()))


def every(tx: Connection) -> list[Act]:
    """Every act that is remembered."""
    return [_read(row) for row in tx.execute(sa.select(schema.acts))]


def run_out(tx: Connection, now: float) -> list[Act]:
    """Acts that do not pin, or are released, whose documents expired."""
    table = schema.acts
    over = sa.and_(table.c.expires <= now, sa.or_(table.c.pins.is_(False), table.c.state == RELEASED))
    return [_read(row) for row in tx.execute(sa.select(table).where(over))]


def keep(tx: Connection, act: Act) -> None:
    """Write an act in the place of the one before."""
    goal = "" if act.goal is None else json.dumps(act.goal.model_dump(mode="json"))
    fields = ("act", "kind", "pins", "state", "outcome", "code", "operator", "created", "expires")
    forget(tx, act.device, act.component)
    values = {name: getattr(act, name) for name in fields}
    tx.execute(sa.insert(schema.acts).values(device=act.device, component=act.component, goal=goal, **values))


def forget(tx: Connection, device: str, component: str) -> None:
    """Forget the act of a component."""
    table = schema.acts.c
    tx.execute(sa.delete(schema.acts).where(table.device == device, table.component == component))


def targets(act: Act) -> tuple[Target, ...]:
    """What stands in the device's document: one target for the act, so that its outcome bears its id."""
    if act.goal is None or not act.stands:
        return ()
    return (
        Target(
            rollout=act.act,
            goal=act.goal,
            salt=act.act,
            stage_cut=admission.ALL,
            activate_cut=admission.ALL,
        ),
    )


def heard(act: Act, component: ComponentStatus, document: Desired | None) -> Act | None:
    """The act after what its device says; None if that ends nothing.

    document: the device's own document as it stands. The first that applies: an outcome of this act; the
    goal runs, or something newer that may stay; the device rejected this very document.
    """
    goal = act.goal
    if act.state != OPEN or goal is None:
        return None
    for record in reversed(component.outcomes):
        if (record.rollout, record.attempt, record.digest) == (act.act, goal.attempt, goal.digest):
            done = record.outcome is not Outcome.COMPLETED or record.running == goal.digest
            return _ended(act, str(record.outcome), record.code) if done else None
    run = component.running
    if component.state is Lifecycle.IDLE and run is not None:
        ahead = goal.mode == "at_least" and run.counter >= goal.counter
        if run.digest == goal.digest or ahead:
            return _ended(act, str(Outcome.COMPLETED), "")
    answered = component.answered
    if answered is None or document is None or answered.scope != "own":
        return None
    if answered.verdict is Verdict.REJECTED and (answered.epoch, answered.sequence) == document.order:
        return _ended(act, str(Outcome.REJECTED), answered.code)
    return None


def _ended(act: Act, outcome: str, code: str) -> Act:
    return replace(act, state=HELD if act.pins else RELEASED, outcome=outcome, code=code)

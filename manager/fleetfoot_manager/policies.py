"""What groups demand before a rollout starts, and what is remembered of who asked for it and who approved it.

Default (VOCABULARY, "Defaults"): group rollouts of more than 100 devices are approved first. Over several
groups the strictest counts: one group that demands approval is enough.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_manager.requests.rollout_arguments import RolloutPlan
from fleetfoot_manager.store import upsert
from fleetfoot_protocol.documents import Model


class Policy(Model):
    """approval: whether rollouts need one; `above`: those of more than `approval_above` devices.

    approval_by_other: whoever asked for a rollout does not approve it. approval_waves: each wave behind the
    first is approved, too.
    """

    approval: Literal["above", "always", "never"] = "above"
    approval_above: Annotated[int, Field(ge=0, le=10_000_000)] = 100
    approval_by_other: bool = False
    approval_waves: bool = False

    def demands(self, devices: int) -> bool:
        """Whether a rollout of that many devices needs approval."""
        return self.approval == "always" or (self.approval == "above" and devices > self.approval_above)


def of_group(tx: Connection, group: str) -> Policy:
    """The group's policy, or the defaults."""
    table = schema.policies.c
    text = tx.scalar(sa.select(table.policy).where(table.group == group))
    return Policy() if text is None else Policy.model_validate_json(text)


def keep(tx: Connection, group: str, policy: Policy) -> None:
    """Write a group's policy."""
    upsert(tx, schema.policies, {"group": group}, {"policy": json.dumps(policy.model_dump())})


def demand_approval(tx: Connection, groups: Iterable[str], devices: int) -> bool:
    """Whether one of the groups demands approval of a rollout of that many devices."""
    return any(of_group(tx, group).demands(devices) for group in groups)


def demand_each_wave(tx: Connection, groups: Iterable[str]) -> bool:
    """Whether one of the groups demands approval of each wave."""
    return any(of_group(tx, group).approval_waves for group in groups)


class Order(NamedTuple):
    """Who asked for a rollout, with which arguments; who decided, how, and with which changes."""

    rollout: str
    requester: str
    asked: RolloutPlan
    decided_by: str = ""
    decision: str = ""
    edited: RolloutPlan | None = None
    at: float | None = None

    def row(self) -> dict[str, Any]:
        """As it is shown: nobody decides on what needs no approval."""
        shown = {"requested_by": self.requester}
        if self.decision:
            shown |= {"decided_by": self.decided_by, "decision": self.decision}
        return shown


def plain(asked: RolloutPlan) -> dict[str, Any]:
    """The arguments as JSON, without those that were left out."""
    return asked.model_dump(mode="json", exclude_none=True)


def order_of(tx: Connection, rollout: str) -> Order | None:
    """What is remembered of a rollout's request, or None for one that is older than this memory."""
    row = tx.execute(sa.select(schema.orders).where(schema.orders.c.rollout == rollout)).first()
    if row is None:
        return None
    edited = RolloutPlan.model_validate_json(row.edited) if row.edited else None
    asked = RolloutPlan.model_validate_json(row.asked)
    return Order(row.rollout, row.requester, asked, row.decided_by, row.decision, edited, row.at)


def by_others(tx: Connection, groups: Iterable[str]) -> list[str]:
    """Those of the groups in which whoever asked for a rollout does not approve it."""
    return [group for group in groups if of_group(tx, group).approval_by_other]


def barred(tx: Connection, rollout: str, groups: Iterable[str]) -> str | None:
    """Who must not approve this rollout, having asked for it."""
    order = order_of(tx, rollout)
    return order.requester if order is not None and by_others(tx, groups) else None


def keep_order(tx: Connection, order: Order) -> None:
    """Write it."""
    values = {
        "requester": order.requester,
        "asked": json.dumps(plain(order.asked)),
        "decided_by": order.decided_by,
        "decision": order.decision,
        "edited": "" if order.edited is None else json.dumps(plain(order.edited)),
        "at": order.at,
    }
    upsert(tx, schema.orders, {"rollout": order.rollout}, values)

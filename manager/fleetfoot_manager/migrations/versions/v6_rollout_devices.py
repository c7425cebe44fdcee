"""Devices of a rollout in rows of their own: a report of one of them writes one."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from fleetfoot_manager.schema import words

revision = "6"
down_revision = "5"

_ROLLOUTS = sa.table("rollouts", sa.column("id"), sa.column("rollout"), sa.column("cohort"))
_FIELDS = ("wave", "terminal", "code", "reason", "since", "ended", "on_goal", "gone")


def upgrade() -> None:
    """From version 5."""
    op.add_column("rollouts", sa.Column("cohort", sa.Text, nullable=False, server_default="[]"))
    devices = op.create_table(
        "rollout_devices",
        sa.Column("rollout", words(63), sa.ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("device", words(63), primary_key=True),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("terminal", words(16), nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("on_goal", sa.Boolean, nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
    )
    tx = op.get_bind()
    for name, text in tx.execute(sa.select(_ROLLOUTS.c.id, _ROLLOUTS.c.rollout)).all():
        body = json.loads(text)
        rows = [{"rollout": name, "device": d, **record} for d, record in body.pop("devices").items()]
        if rows:
            op.bulk_insert(devices, rows)
        _write(tx, name, {"cohort": json.dumps(body.pop("cohort")), "rollout": json.dumps(body)})


def downgrade() -> None:
    """To version 5."""
    tx = op.get_bind()
    devices = sa.table("rollout_devices", *(sa.column(name) for name in ("rollout", "device", *_FIELDS)))
    for name, text, cohort in tx.execute(
        sa.select(_ROLLOUTS.c.id, _ROLLOUTS.c.rollout, _ROLLOUTS.c.cohort)
    ).all():
        query = sa.select(devices.c.device, *(devices.c[one] for one in _FIELDS))
        rows = tx.execute(query.where(devices.c.rollout == name)).all()
        body = json.loads(text) | {
            "cohort": json.loads(cohort),
            "devices": {row[0]: _record(row[1:]) for row in rows},
        }
        _write(tx, name, {"rollout": json.dumps(body)})
    op.drop_table("rollout_devices")
    op.drop_column("rollouts", "cohort")


def _record(values: Any) -> dict[str, Any]:
    record = dict(zip(_FIELDS, values, strict=True))
    return record | {name: bool(record[name]) for name in ("on_goal", "gone")}


def _write(tx: Any, name: str, values: dict[str, str]) -> None:
    tx.execute(sa.update(_ROLLOUTS).where(_ROLLOUTS.c.id == name).values(**values))

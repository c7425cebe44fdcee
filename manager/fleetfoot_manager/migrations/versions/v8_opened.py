"""When a wave opened stands once in its rollout, and no more in a row for each device that it exposed."""

import json

import sqlalchemy as sa
from alembic import op

revision = "8"
down_revision = "7"

_ROLLOUTS = sa.table("rollouts", sa.column("id"), sa.column("rollout"))
_DEVICES = sa.table(
    "rollout_devices",
    sa.column("rollout"),
    sa.column("wave"),
    sa.column("since"),
    sa.column("gone", sa.Boolean),
)


def upgrade() -> None:
    """From version 7: what stands in rows may go on to stand there."""


def downgrade() -> None:
    """To version 7: every exposed device gets its row again."""
    tx = op.get_bind()
    row = _DEVICES.c
    for name, text in tx.execute(sa.select(_ROLLOUTS.c.id, _ROLLOUTS.c.rollout)).all():
        body = json.loads(text)
        for wave, at in body.pop("opened", {}).items():
            there = (row.rollout == name, row.wave == int(wave), row.since.is_(None), row.gone.is_(False))
            tx.execute(sa.update(_DEVICES).where(*there).values(since=at))
        tx.execute(sa.update(_ROLLOUTS).where(_ROLLOUTS.c.id == name).values(rollout=json.dumps(body)))

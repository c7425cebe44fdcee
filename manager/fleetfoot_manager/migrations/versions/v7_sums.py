"""How many devices of a rollout ended how, beside it: lists need not count a hundred thousand rows."""

import json
from collections import Counter, defaultdict

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"

_ROLLOUTS = sa.table(
    "rollouts", sa.column("id"), sa.column("live", sa.Boolean), sa.column("cohort"), sa.column("sums")
)
_DEVICES = sa.table("rollout_devices", sa.column("rollout"), sa.column("device"), sa.column("terminal"))


def upgrade() -> None:
    """From version 6."""
    op.add_column("rollouts", sa.Column("sums", sa.Text, nullable=False, server_default="{}"))
    tx = op.get_bind()
    for name, live, cohort in tx.execute(
        sa.select(_ROLLOUTS.c.id, _ROLLOUTS.c.live, _ROLLOUTS.c.cohort)
    ).all():
        groups = dict(json.loads(cohort))
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        query = sa.select(_DEVICES.c.device, _DEVICES.c.terminal).where(_DEVICES.c.rollout == name)
        for device, terminal in tx.execute(query):
            sums["" if live else groups[device]][terminal] += 1
        tx.execute(sa.update(_ROLLOUTS).where(_ROLLOUTS.c.id == name).values(sums=json.dumps(sums)))


def downgrade() -> None:
    """To version 6."""
    op.drop_column("rollouts", "sums")

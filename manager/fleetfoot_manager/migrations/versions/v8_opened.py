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
    sa.column("terminal"),
    sa.column("code"),
    sa.column("reason"),
    sa.column("ended"),
)
_ASKED = {"terminal": "pending", "code": "", "reason": "", "ended": None}


def upgrade() -> None:
    """From version 7: what stands in rows may go on to stand there."""


def downgrade() -> None:
    """To version 7: every exposed device gets its row again."""
    tx = op.get_bind()
    row = _DEVICES.c
    for name, text in tx.execute(sa.select(_ROLLOUTS.c.id, _ROLLOUTS.c.rollout)).all():
        body = json.loads(text)
        opened = {int(wave): at for wave, at in body.pop("opened", {}).items()}
        for wave, at in sorted(opened.items()):
            mine = (row.rollout == name, row.gone.is_(False), row.wave == wave if wave else row.wave > 0)
            tx.execute(sa.update(_DEVICES).where(*mine, row.since.is_(None)).values(since=at))
            # Who has staged is asked again with its wave.
            rests = sa.or_(row.terminal == "staged", sa.and_(row.terminal == "silent", row.since < at))
            if wave and body.get("stage"):
                tx.execute(sa.update(_DEVICES).where(*mine, rests).values(since=at, **_ASKED))
        tx.execute(sa.update(_ROLLOUTS).where(_ROLLOUTS.c.id == name).values(rollout=json.dumps(body)))

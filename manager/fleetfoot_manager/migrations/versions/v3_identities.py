"""Tokens by which devices enrol themselves, and devices that were revoked."""

import sqlalchemy as sa
from alembic import op

from fleetfoot_manager.schema import words

revision = "3"
down_revision = "2"


def upgrade() -> None:
    """From version 2."""
    op.create_table(
        "enrolment_tokens",
        sa.Column("secret_sha256", words(64), primary_key=True),
        sa.Column("group", words(63), nullable=False),
        sa.Column("device", words(63)),
        sa.Column("root", words(64), nullable=False),
        sa.Column("operator", words(63), nullable=False),
        sa.Column("expires", sa.Float, nullable=False, index=True),
        sa.Column("used_by", words(200)),
        sa.Column("used_at", sa.Float),
    )
    op.create_table(
        "revoked_devices",
        sa.Column("id", words(63), primary_key=True),
        sa.Column("group", words(63), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """To version 2."""
    op.drop_table("revoked_devices")
    op.drop_table("enrolment_tokens")

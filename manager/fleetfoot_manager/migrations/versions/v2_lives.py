"""The life of releases, acts on single devices, policies, approval, notes."""

import sqlalchemy as sa
from alembic import op

from fleetfoot_manager.schema import Serial, words

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """From version 1."""
    op.create_table(
        "recalls",
        sa.Column("digest", words(64), primary_key=True),
        sa.Column("component", words(63), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("operator", words(63), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
    )
    op.create_table(
        "acts",
        sa.Column("device", words(63), primary_key=True),
        sa.Column("component", words(63), primary_key=True),
        sa.Column("act", words(63), nullable=False),
        sa.Column("kind", words(16), nullable=False),
        sa.Column("goal", sa.Text, nullable=False),
        sa.Column("pins", sa.Boolean, nullable=False),
        sa.Column("state", words(16), nullable=False, index=True),
        sa.Column("outcome", words(16), nullable=False),
        sa.Column("code", words(64), nullable=False),
        sa.Column("operator", words(63), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "policies",
        sa.Column("group", words(63), primary_key=True),
        sa.Column("policy", sa.Text, nullable=False),
    )
    op.create_table(
        "orders",
        sa.Column("rollout", words(63), primary_key=True),
        sa.Column("requester", words(63), nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("decided_by", words(63), nullable=False, server_default=""),
        sa.Column("decision", words(16), nullable=False, server_default=""),
        sa.Column("edited", sa.Text, nullable=False, server_default=""),
        sa.Column("at", sa.Float),
    )
    op.create_table(
        "notes",
        sa.Column("id", Serial, primary_key=True, autoincrement=True),
        sa.Column("rollout", words(63), nullable=False, index=True),
        sa.Column("component", words(63), nullable=False, index=True),
        sa.Column("author", words(63), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("title", words(160), nullable=False),
        sa.Column("category", words(32), nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """To version 1."""
    op.drop_table("notes")
    op.drop_table("orders")
    op.drop_table("policies")
    op.drop_table("acts")
    op.drop_table("recalls")

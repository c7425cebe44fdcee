"""What devices said under load and nobody has verified yet."""

import sqlalchemy as sa
from alembic import op

from fleetfoot_manager.schema import words

revision = "5"
down_revision = "4"


def upgrade() -> None:
    """From version 4."""
    op.create_table(
        "claims",
        sa.Column("device", words(63), sa.ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sha256", words(64), nullable=False),
        sa.Column("status", sa.LargeBinary, nullable=False),
        sa.Column("attestation", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """To version 4. What was not verified is said again by the broker: it is retained."""
    op.drop_table("claims")

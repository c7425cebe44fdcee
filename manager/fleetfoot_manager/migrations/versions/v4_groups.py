"""Groups that have no device yet. From here on the store's version is alembic's word alone."""

import sqlalchemy as sa
from alembic import op

from fleetfoot_manager.schema import words

revision = "4"
down_revision = "3"

_META = sa.table("meta", sa.column("name"), sa.column("value"))


def upgrade() -> None:
    """From version 3."""
    op.create_table(
        "groups",
        sa.Column("id", words(63), primary_key=True),
        sa.Column("title", words(160), nullable=False, server_default=""),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.execute(sa.delete(_META).where(_META.c.name == "schema"))


def downgrade() -> None:
    """To version 3, whose programs look for their version in `meta`."""
    op.drop_table("groups")
    op.execute(sa.insert(_META).values(name="schema", value="3"))

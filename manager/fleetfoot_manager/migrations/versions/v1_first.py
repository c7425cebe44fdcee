"""The first tables: roots, releases, devices, rollouts, documents, outbox, requests, audit."""

import sqlalchemy as sa
from alembic import op

from fleetfoot_manager.schema import Serial, words

revision = "1"
down_revision = None


def upgrade() -> None:
    """From version 0."""
    op.create_table(
        "meta",
        sa.Column("name", words(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "roots",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("component", words(63), primary_key=True),
        sa.Column("version", words(64), primary_key=True),
        sa.Column("digest", words(64), nullable=False, unique=True),
        sa.Column("channel", words(16), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("life", words(16), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("published", sa.Float, nullable=False),
        sa.Index("releases_by_counter", "component", "counter", unique=True),
    )
    op.create_table(
        "upload_tokens",
        sa.Column("token_sha256", words(64), primary_key=True),
        sa.Column("operator", words(63), nullable=False),
        sa.Column("expires", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "upload_blobs",
        sa.Column("token_sha256", words(64), primary_key=True),
        sa.Column("sha256", words(64), primary_key=True),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["token_sha256"], ["upload_tokens.token_sha256"], ondelete="CASCADE"),
    )
    op.create_table(
        "devices",
        sa.Column("id", words(63), primary_key=True),
        sa.Column("group", words(63), nullable=False, index=True),
        sa.Column("key", words(64), nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("enrolled", sa.Float, nullable=False),
        sa.Column("status", sa.LargeBinary),
        sa.Column("status_sha256", words(64)),
        sa.Column("incarnation", words(32)),
        sa.Column("counter", sa.BigInteger),
        sa.Column("past", sa.Text, nullable=False, server_default="{}"),
        sa.Column("online", sa.Boolean, nullable=False, default=False),
        sa.Column("last_seen", sa.Float),
    )
    op.create_table(
        "intents",
        sa.Column("group", words(63), primary_key=True),
        sa.Column("component", words(63), primary_key=True),
        sa.Column("intent", sa.Text, nullable=False),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", words(63), primary_key=True),
        sa.Column("component", words(63), nullable=False),
        sa.Column("digest", words(64), nullable=False),
        sa.Column("state", words(32), nullable=False),
        sa.Column("live", sa.Boolean, nullable=False, index=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("rollout", sa.Text, nullable=False),
    )
    op.create_table(
        "rollout_groups",
        sa.Column("rollout", words(63), sa.ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("group", words(63), primary_key=True, index=True),
    )
    op.create_table(
        "documents",
        sa.Column("topic", words(255), primary_key=True),
        sa.Column("kind", words(32), nullable=False, index=True),
        sa.Column("group", words(63), nullable=False, server_default=""),
        sa.Column("device", words(63), nullable=False, server_default=""),
        sa.Column("component", words(63), nullable=False, server_default=""),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("sequence", sa.BigInteger),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("sha256", words(64), nullable=False),
        sa.Column("issued", sa.Float, nullable=False),
        sa.Column("renew", sa.Float, index=True),
    )
    op.create_table(
        "outbox",
        sa.Column("id", Serial, primary_key=True, autoincrement=True),
        sa.Column("topic", words(255), nullable=False, index=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("retained", sa.Boolean, nullable=False),
        sa.Column("qos", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "requests",
        sa.Column("operator", words(63), primary_key=True),
        sa.Column("id", words(63), primary_key=True),
        sa.Column("digest", words(64), nullable=False),
        sa.Column("reply", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "audit",
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", words(32), nullable=False),
        sa.Column("actor", words(80), nullable=False),
        sa.Column("action", words(64), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("request", words(64), nullable=False, server_default=""),
        sa.Column("previous", words(64), nullable=False),
        sa.Column("hash", words(64), nullable=False),
    )


def downgrade() -> None:
    """To version 0."""
    op.drop_table("audit")
    op.drop_table("requests")
    op.drop_table("outbox")
    op.drop_table("documents")
    op.drop_table("rollout_groups")
    op.drop_table("rollouts")
    op.drop_table("intents")
    op.drop_table("devices")
    op.drop_table("upload_blobs")
    op.drop_table("upload_tokens")
    op.drop_table("releases")
    op.drop_table("roots")
    op.drop_table("meta")

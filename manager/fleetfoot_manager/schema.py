"""The tables of the manager's store, as SQLAlchemy Core.

Documents, requests and replies are kept as the exact bytes that were signed or came signed. Everything
that is looked at as a whole (a rollout, labels) is JSON; what is looked for has a column. Times are unix
seconds. Topics are kept without their configurable root (`groups/g/heartbeat`).

Every change here is a migration too (`migrations/versions/`): a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()


def words(length: int) -> String:
    """Text that is compared and sorted by its bytes, on every database: pages go on where they ended."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


#: A number that the database gives, larger every time. SQLite has them for plain integers only.
Serial = BigInteger().with_variant(Integer(), "sqlite")

#: One row for each single fact: fleet, lease holder, mirror last published.
meta = Table(
    "meta",
    metadata,
    Column("name", words(64), primary_key=True),
    Column("value", Text, nullable=False),
)

#: Every trust root from the installed one on, in the order of the chain.
roots = Table(
    "roots",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("envelope", LargeBinary, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("component", words(63), primary_key=True),
    Column("version", words(64), primary_key=True),
    Column("digest", words(64), nullable=False, unique=True),
    Column("channel", words(16), nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("life", words(16), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("published", Float, nullable=False),
    Index("releases_by_counter", "component", "counter", unique=True),
)

#: What an upload token admits. The token itself is kept only as its sha256.
upload_tokens = Table(
    "upload_tokens",
    metadata,
    Column("token_sha256", words(64), primary_key=True),
    Column("operator", words(63), nullable=False),
    Column("expires", Float, nullable=False, index=True),
)
upload_blobs = Table(
    "upload_blobs",
    metadata,
    Column("token_sha256", words(64), primary_key=True),
    Column("sha256", words(64), primary_key=True),
    Column("length", BigInteger, nullable=False),
    ForeignKeyConstraint(["token_sha256"], ["upload_tokens.token_sha256"], ondelete="CASCADE"),
)

#: The inventory. `labels` are those of the enrolment; the device's own stand in its status.
#: `past`: earlier incarnations and the highest counter of each, so that none of them is taken for news.
devices = Table(
    "devices",
    metadata,
    Column("id", words(63), primary_key=True),
    Column("group", words(63), nullable=False, index=True),
    Column("key", words(64), nullable=False),
    Column("labels", Text, nullable=False),
    Column("enrolled", Float, nullable=False),
    Column("status", LargeBinary),
    Column("status_sha256", words(64)),
    Column("incarnation", words(32)),
    Column("counter", BigInteger),
    Column("past", Text, nullable=False, server_default="{}"),
    Column("online", Boolean, nullable=False, default=False),
    Column("last_seen", Float),
)

#: What devices said under load and nobody has verified yet. It counts for nothing until then.
claims = Table(
    "claims",
    metadata,
    Column("device", words(63), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("sha256", words(64), nullable=False),
    Column("status", LargeBinary, nullable=False),
    Column("attestation", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
)

#: What a group is meant to be, apart from rollouts that are under way.
intents = Table(
    "intents",
    metadata,
    Column("group", words(63), primary_key=True),
    Column("component", words(63), primary_key=True),
    Column("intent", Text, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", words(63), primary_key=True),
    Column("component", words(63), nullable=False),
    Column("digest", words(64), nullable=False),
    Column("state", words(32), nullable=False),
    Column("live", Boolean, nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("rollout", Text, nullable=False),
    Column("cohort", Text, nullable=False, server_default="[]"),
    Column("sums", Text, nullable=False, server_default="{}"),
)
#: What a rollout knows of each of its devices (`rollout_state.DeviceRecord`).
rollout_devices = Table(
    "rollout_devices",
    metadata,
    Column("rollout", words(63), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("device", words(63), primary_key=True),
    Column("wave", Integer, nullable=False),
    Column("terminal", words(16), nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Float),
    Column("ended", Float),
    Column("on_goal", Boolean, nullable=False),
    Column("gone", Boolean, nullable=False),
)
rollout_groups = Table(
    "rollout_groups",
    metadata,
    Column("rollout", words(63), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("group", words(63), primary_key=True, index=True),
)

#: What the broker should hold, retained: the newest document of each topic, byte for byte.
documents = Table(
    "documents",
    metadata,
    Column("topic", words(255), primary_key=True),
    Column("kind", words(32), nullable=False, index=True),
    Column("group", words(63), nullable=False, server_default=""),
    Column("device", words(63), nullable=False, server_default=""),
    Column("component", words(63), nullable=False, server_default=""),
    Column("epoch", BigInteger),
    Column("sequence", BigInteger),
    Column("payload", LargeBinary, nullable=False),
    Column("sha256", words(64), nullable=False),
    Column("issued", Float, nullable=False),
    Column("renew", Float, index=True),
)

#: Publications that were decided and that the broker has not acknowledged yet, in their order.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("topic", words(255), nullable=False, index=True),
    Column("payload", LargeBinary, nullable=False),
    Column("retained", Boolean, nullable=False),
    Column("qos", Integer, nullable=False),
    sqlite_autoincrement=True,
)

#: Requests that were decided, with the reply that every repetition gets.
requests = Table(
    "requests",
    metadata,
    Column("operator", words(63), primary_key=True),
    Column("id", words(63), primary_key=True),
    Column("digest", words(64), nullable=False),
    Column("reply", LargeBinary, nullable=False),
    Column("at", Float, nullable=False, index=True),
)

#: A hash chain: each row's hash covers the row and the hash before it.
audit = Table(
    "audit",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("at", words(32), nullable=False),
    Column("actor", words(80), nullable=False),
    Column("action", words(64), nullable=False),
    Column("data", Text, nullable=False),
    Column("request", words(64), nullable=False, server_default=""),
    Column("previous", words(64), nullable=False),
    Column("hash", words(64), nullable=False),
)

#: Releases that were recalled. `before`: groups (JSON) in which the release was withdrawn already.
recalls = Table(
    "recalls",
    metadata,
    Column("digest", words(64), primary_key=True),
    Column("component", words(63), nullable=False),
    Column("reason", Text, nullable=False),
    Column("operator", words(63), nullable=False),
    Column("at", Float, nullable=False),
    Column("before", Text, nullable=False),
)

#: The newest act on a single device for each of its components. `goal` is JSON, empty for a bare pin.
acts = Table(
    "acts",
    metadata,
    Column("device", words(63), primary_key=True),
    Column("component", words(63), primary_key=True),
    Column("act", words(63), nullable=False),
    Column("kind", words(16), nullable=False),
    Column("goal", Text, nullable=False),
    Column("pins", Boolean, nullable=False),
    Column("state", words(16), nullable=False, index=True),
    Column("outcome", words(16), nullable=False),
    Column("code", words(64), nullable=False),
    Column("operator", words(63), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False, index=True),
)

#: What a group demands, as JSON; groups without a row have the defaults.
policies = Table(
    "policies",
    metadata,
    Column("group", words(63), primary_key=True),
    Column("policy", Text, nullable=False),
)

#: Who asked for a rollout with which arguments, and who approved it with which changes (JSON).
orders = Table(
    "orders",
    metadata,
    Column("rollout", words(63), primary_key=True),
    Column("requester", words(63), nullable=False),
    Column("asked", Text, nullable=False),
    Column("decided_by", words(63), nullable=False, server_default=""),
    Column("decision", words(16), nullable=False, server_default=""),
    Column("edited", Text, nullable=False, server_default=""),
    Column("at", Float),
)

#: What people want those after them to know about a rollout.
notes = Table(
    "notes",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("rollout", words(63), nullable=False, index=True),
    Column("component", words(63), nullable=False, index=True),
    Column("author", words(63), nullable=False),
    Column("at", Float, nullable=False),
    Column("title", words(160), nullable=False),
    Column("category", words(32), nullable=False),
    Column("tags", Text, nullable=False),
    Column("text", Text, nullable=False),
)

#: Enrolment tokens, by the sha256 of their secret. `used_by`: the device and both keys that it enrolled.
enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("secret_sha256", words(64), primary_key=True),
    Column("group", words(63), nullable=False),
    Column("device", words(63)),
    Column("root", words(64), nullable=False),
    Column("operator", words(63), nullable=False),
    Column("expires", Float, nullable=False, index=True),
    Column("used_by", words(200)),
    Column("used_at", Float),
)

#: Devices that were revoked and not enrolled anew, with the group they were in.
revoked_devices = Table(
    "revoked_devices",
    metadata,
    Column("id", words(63), primary_key=True),
    Column("group", words(63), nullable=False),
    Column("at", Float, nullable=False),
)

#: Groups that were made, and those that some device has left; others come to be with their first one.
groups = Table(
    "groups",
    metadata,
    Column("id", words(63), primary_key=True),
    Column("title", words(160), nullable=False, server_default=""),
    Column("created", Float, nullable=False),
)

"""Where the store lies: one SQLite file in the state folder, or a PostgreSQL schema that a URL names.

What differs between the two stands here and nowhere else: how a connection is set up so that a commit is
durable, how a transaction of the writer begins, and what keeps a second writer out.

- SQLite: WAL, `synchronous=FULL`, writers begin `IMMEDIATE`. The lock of the state folder keeps others out.
- PostgreSQL: `synchronous_commit=on`, readers see one snapshot. A lock of the session on the schema keeps
  managers on other machines out; the server gives it free when the process, or after seconds its machine,
  is gone.

The URL lies in the state folder, readable by its owner only. It needs no password in it: what libpq looks at
(`~/.pgpass`, `PGPASSFILE`, `PGSERVICE`, client certificates) is looked at here too.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from fleetfoot_protocol.errors import FleetfootError

STORE_NAME = "manager.sqlite3"
URL_NAME = "database.url"

_BUSY_SECONDS = 10.0
#: How long a killed manager's lock may survive it: until the server has noticed.
_PATIENCE_SECONDS = 2.0
_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtext('fleetfoot-manager'), hashtext(current_schema()))")
_HOLDER = sa.text(
    "SELECT activity.application_name FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND database ="
    " (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = (hashtext('fleetfoot-manager')::bigint & 4294967295)::oid"
    " AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid"
)
#: A machine that vanished is given up after 25 s, by both ends.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_SETTINGS = (
    "synchronous_commit = on",
    f"lock_timeout = '{int(_BUSY_SECONDS)}s'",
    "tcp_keepalives_idle = 10",
    "tcp_keepalives_interval = 5",
    "tcp_keepalives_count = 3",
)


#: Codes of errors after which a manager must not go on: it could not remember what it decides.
FATAL = frozenset({"store_unusable", "store_refused", "store_taken"})
#: What SQLite says of a file that is no database, or not whole: it will not be so by itself.
_RUINED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def translated(error: SQLAlchemyError) -> FleetfootError:
    """What a database reported, as an error of this program."""
    text = f"the store failed: {str(error).splitlines()[0][:300]}"
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    if name.startswith(_RUINED):
        return refused(text, "the file is damaged: restore the newest backup, or 'fleetfoot manager recover'")
    return unusable(text)


def unusable(message: str, remedy: str | None = None) -> FleetfootError:
    """The error for everything that goes wrong with the store."""
    return FleetfootError("store_unusable", message, **({} if remedy is None else {"remedy": remedy}))


def refused(message: str, remedy: str | None = None) -> FleetfootError:
    """The error for a store with which no further attempt will go better: somebody has to do something."""
    return FleetfootError("store_refused", message, **({} if remedy is None else {"remedy": remedy}))


def demand_access(folder: Path, *, read_only: bool) -> None:
    """Raise FleetfootError `store_refused` unless this user may use the SQLite file in a folder."""
    path, how = folder / STORE_NAME, os.R_OK | (0 if read_only else os.W_OK)
    if not os.access(path, how) or not os.access(folder, os.X_OK | how):
        raise refused(
            f"user {os.geteuid()} may not {'read' if read_only else 'read and write'} {path} and its folder",
            f"give the folder to whom the manager runs as: chown -R USER {folder}",
        )


def parse(text: str) -> URL:
    """The URL of a PostgreSQL database. Raises FleetfootError `usage` for anything else."""
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise FleetfootError(
            "usage",
            f"{text.partition('@')[2][:80] or text[:80]!a} is no URL of a PostgreSQL database",
            remedy="give postgresql://USER@HOST/DATABASE, or leave it out for a SQLite file in the folder",
        )
    return url.set(drivername="postgresql+psycopg")


def remember(folder: Path, url: URL) -> None:
    """Write the URL into the state folder, readable by its owner only. Never overwrites."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(folder / URL_NAME, flags, 0o600), "w") as file:
        file.write(url.set(drivername="postgresql").render_as_string(hide_password=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def of_folder(folder: Path) -> URL | None:
    """The URL that a state folder names, None for its own SQLite file."""
    try:
        return parse((folder / URL_NAME).read_text().strip())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(f"cannot read {folder / URL_NAME}: {error.strerror}") from error


class Database:
    """The engine of a store, and what keeps other writers away from it.

    `where`: in words, without a password. read_only: for SQLite, to open a file that nothing is written to.
    """

    def __init__(self, folder: Path, url: URL | None, *, read_only: bool = False) -> None:
        self.url = url
        self.path = folder / STORE_NAME
        self.where = str(self.path) if url is None else url.render_as_string(hide_password=True)
        self.engine = _sqlite(self.path, read_only=read_only) if url is None else _postgresql(url)
        self._lock: Connection | None = None
        one_snapshot = {} if url is None else {"isolation_level": "REPEATABLE READ"}
        self.reading = self.engine.execution_options(**one_snapshot)
        self.writing = self.engine.execution_options(begin="IMMEDIATE")

    def lock(self) -> None:
        """Keep writers on other machines out, or raise FleetfootError `conflict` naming the one there is."""
        if self.url is None:
            return
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        end = time.monotonic() + _PATIENCE_SECONDS
        while not connection.scalar(_LOCK):
            if time.monotonic() > end:
                holder = connection.scalar(_HOLDER) or "unknown"
                connection.close()
                raise FleetfootError(
                    "conflict",
                    f"another manager ({holder}) works on {self.where}",
                    remedy="stop that manager first: one store has one writer",
                )
            time.sleep(0.05)
        self._lock = connection

    def holder(self, tx: Connection) -> str:
        """Who else keeps writers out of a PostgreSQL database, empty if nobody does."""
        if self.url is None:
            return ""
        found = str(tx.scalar(_HOLDER) or "")
        return "" if found == tx.scalar(sa.text("SELECT current_setting('application_name')")) else found

    def close(self) -> None:
        """Give the lock up and close every connection."""
        if self._lock is not None:
            # A connection that goes back to the pool would keep the lock of its session.
            self._lock.invalidate()
            self._lock.close()
            self._lock = None
        self.engine.dispose()


def _sqlite(path: Path, *, read_only: bool) -> Engine:
    if read_only:
        return sa.create_engine(f"sqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true")
    engine = sa.create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # pysqlite's own transactions would begin too late for savepoints; ours begin in `_begin_sqlite`.
    connection.isolation_level = None
    for pragma in (
        "foreign_keys = ON",
        "journal_mode = WAL",
        "synchronous = FULL",
        f"busy_timeout = {int(_BUSY_SECONDS * 1000)}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _postgresql(url: URL) -> Engine:
    name = f"fleetfoot-manager {os.getpid()}@{socket.gethostname()}"[:63]
    try:
        engine = sa.create_engine(url, connect_args={"application_name": name, **_KEEPALIVE})
    except (ImportError, NoSuchModuleError) as error:
        raise FleetfootError(
            "config_invalid",
            f"the client library of PostgreSQL is missing: {error}",
            remedy="install the extra: pip install 'fleetfoot[postgresql]'",
        ) from error
    event.listen(engine, "connect", _set_up_postgresql)
    return engine


def _set_up_postgresql(connection: Any, _record: object) -> None:
    connection.autocommit = True
    for setting in _SETTINGS:
        connection.execute(f"SET {setting}")
    connection.autocommit = False

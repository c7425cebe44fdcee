"""The store: one SQLite file (WAL), one writer by lease, transactions that are all or nothing.

Rules:

1. A manager writes only while it holds the lock of the state folder *and* its name stands in the lease
   row: a manager whose lease was taken away meets that in its next transaction and stops.
2. `write()` is one transaction, durable when it returns (synchronous=FULL). `step()` inside it is a
   savepoint: what fails in a step is undone alone.
3. Whatever the database reports is one error: FleetfootError `store_unusable`.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fleetfoot_manager import schema
from fleetfoot_protocol.errors import FleetfootError

STORE_NAME = "manager.sqlite3"
LOCK_NAME = "lock"
_BUSY_SECONDS = 10.0


def get_meta(tx: Connection, name: str) -> str | None:
    """The value of a single fact, or None."""
    value: str | None = tx.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.name == name))
    return value


def set_meta(tx: Connection, name: str, value: str) -> None:
    """Keep a single fact."""
    upsert(tx, schema.meta, {"name": name}, {"value": value})


def upsert(tx: Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Update the row with this key, or insert it; in words that every database understands."""
    match = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if tx.execute(sa.update(table).where(match).values(**values)).rowcount == 0:
        tx.execute(sa.insert(table).values(**key, **values))


class FolderLock:
    """The lock of a state folder: held while the process lives, whatever becomes of it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock, or raise FleetfootError `conflict` naming the process that has it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(f"cannot open {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise FleetfootError(
                "conflict",
                f"another manager (process {holder or 'unknown'}) works in {self._path.parent}",
                remedy="stop that manager first: one store has one writer",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up; nothing happens if it is not held."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def holder_of(folder: Path) -> int | None:
    """The process that holds the lock of a state folder, or None."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(descriptor, 32).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(descriptor)
    return None


def unusable(message: str) -> FleetfootError:
    """The error for everything that goes wrong with the store."""
    return FleetfootError("store_unusable", message)


def _on_connect(connection: Any, _record: object) -> None:
    # pysqlite's own transactions would begin too late for savepoints; ours begin in `_on_begin`.
    connection.isolation_level = None
    for pragma in (
        "foreign_keys = ON",
        "journal_mode = WAL",
        "synchronous = FULL",
        f"busy_timeout = {int(_BUSY_SECONDS * 1000)}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _engine(path: Path, *, read_only: bool) -> Engine:
    if read_only:
        engine = sa.create_engine(f"sqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true")
    else:
        engine = sa.create_engine(f"sqlite:///{path}")
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
    return engine


class Store:
    """An open store. `folder` is the manager's state folder.

    Reading is for any thread; writing for one thread of the process that holds the lease.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self.path = folder / STORE_NAME
        if not self.path.is_file():
            raise unusable(f"no store in {folder}; 'fleetfoot manager init --dir {folder}' makes one")
        self._lock = FolderLock(folder)
        self._lease = ""
        self._read_only = read_only
        self._engine = _engine(self.path, read_only=read_only)
        try:
            self._check_version()
        except BaseException:
            self._engine.dispose()
            raise

    @classmethod
    def create(cls, folder: Path, fleet: str) -> None:
        """Make an empty store for `fleet` in `folder`; readable by its owner only."""
        path = folder / STORE_NAME
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        engine = _engine(path, read_only=False)
        try:
            with _translated(), engine.begin() as tx:
                schema.metadata.create_all(tx)
                set_meta(tx, "schema", str(schema.SCHEMA_VERSION))
                set_meta(tx, "fleet", fleet)
        finally:
            engine.dispose()

    def _check_version(self) -> None:
        with self.read() as tx:
            found = get_meta(tx, "schema")
        if found in schema.LACKING_TABLES and not self._read_only:
            return  # brought up to date once nobody else writes
        if found != str(schema.SCHEMA_VERSION):
            raise FleetfootError(
                "store_unusable",
                f"{self.path} has schema {found}, this program {schema.SCHEMA_VERSION}",
                remedy="run the manager once with this program, or the program that wrote this store",
            )

    @property
    def fleet(self) -> str:
        """The fleet this store belongs to."""
        with self.read() as tx:
            return get_meta(tx, "fleet") or ""

    def acquire(self) -> None:
        """Become the one writer. Raises FleetfootError `conflict` if somebody else is."""
        self._lock.acquire()
        lease = secrets.token_hex(16)
        with _translated(), self._begin() as tx:
            set_meta(tx, "lease", lease)
            if get_meta(tx, "schema") in schema.LACKING_TABLES:
                schema.metadata.create_all(tx)
                set_meta(tx, "schema", str(schema.SCHEMA_VERSION))
        self._lease = lease

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction of the writer; committed and durable when the block ends, undone if it raises."""
        if not self._lease:
            raise unusable("this process does not hold the lease of the store")
        with _translated(), self._begin() as tx:
            if get_meta(tx, "lease") != self._lease:
                raise FleetfootError(
                    "store_unusable",
                    "another manager has taken over this store",
                    remedy="run one manager only; this one has stopped",
                )
            yield tx

    @contextmanager
    def step(self, tx: Connection) -> Iterator[None]:
        """A part of a transaction that is undone alone when it raises."""
        with tx.begin_nested():
            yield

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the store, for any thread."""
        with _translated(), self._engine.begin() as tx:
            yield tx

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(begin="IMMEDIATE") as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close every connection and give the lock up."""
        self._engine.dispose()
        self._lease = ""
        self._lock.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise unusable(f"the store failed: {str(error).splitlines()[0][:300]}") from error

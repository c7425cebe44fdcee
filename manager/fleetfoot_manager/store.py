"""The store: one writer by lease, transactions that are all or nothing, on SQLite or PostgreSQL.

Rules:

1. A manager writes only while it holds the lock of the state folder, that of the database, *and* its name
   stands in the lease row: a manager whose lease was taken away meets that in its next transaction and stops
   with `store_taken`. It does not come back by itself, so that two who are started for one store do not take
   it from each other in turn.
2. `write()` is one transaction, durable when it returns. `step()` inside it is a savepoint: what fails in a
   step is undone alone.
3. Whatever the database reports is one error: FleetfootError `store_unusable`, or `store_refused` for what no
   further attempt will mend.
4. A store of another version is refused, never guessed at; `fleetfoot manager migrate` changes it.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import SQLAlchemyError

from fleetfoot_manager import database, migrate, schema
from fleetfoot_manager.database import STORE_NAME, Database, refused, unusable
from fleetfoot_manager.director import KEY_NAME
from fleetfoot_manager.locks import FolderLock
from fleetfoot_protocol.errors import FleetfootError

#: Unix seconds: requests that were signed before may have been decided by a store that is lost.
REQUESTS_SINCE = "requests_since"
#: sha256 of the audit head that the broker held when a lost store was recovered.
RECOVERED_HEAD = "recovered_head"


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


def write_many(tx: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement, with `?` for each value, for every row, without what a row costs in SQLAlchemy."""
    if rows:
        marked = statement if tx.dialect.paramstyle == "qmark" else statement.replace("?", "%s")
        tx.exec_driver_sql(marked, [tuple(row) for row in rows])


def read_many(tx: Connection, statement: str, values: Sequence[str]) -> list[Any]:
    """The rows of a statement in whose `(?)` these values stand, as the driver gives them."""
    marked = statement.replace("(?)", f"({', '.join('?' * len(values))})")
    if tx.dialect.paramstyle != "qmark":
        marked = marked.replace("?", "%s")
    return list(tx.exec_driver_sql(marked, tuple(values)).cursor.fetchall())


class Store:
    """An open store. `folder` is the manager's state folder.

    Reading is for any thread; writing for one thread of the process that holds the lease.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        url = database.of_folder(folder)
        if url is None and not (folder / STORE_NAME).is_file():
            raise _without(folder)
        if url is None:
            database.demand_access(folder, read_only=read_only)
        self._lock = FolderLock(folder)
        self._lease = ""
        self.database = Database(folder, url, read_only=read_only)
        try:
            with self.read() as tx:
                migrate.demand_current(tx, folder)
        except BaseException:
            self.database.engine.dispose()
            raise

    @classmethod
    def create(cls, folder: Path, fleet: str, url: URL | None = None) -> None:
        """Make an empty store for `fleet`: a file in `folder`, or tables in the database at `url`.

        Raises FleetfootError `exists_already` for a database that has a store.
        """
        if url is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(folder / STORE_NAME, flags, 0o600))
        else:
            database.remember(folder, url)
        made = Database(folder, url)
        try:
            with _translated(), made.writing.begin() as tx:
                if sa.inspect(tx).has_table(schema.meta.name):
                    raise FleetfootError(
                        "exists_already",
                        f"{made.where} holds the store of a fleet already",
                        remedy="name another database, or another schema by ?options=-csearch_path%3DNAME",
                    )
                schema.metadata.create_all(tx)
                migrate.stamp(tx)
                set_meta(tx, "fleet", fleet)
        finally:
            made.close()

    @property
    def fleet(self) -> str:
        """The fleet this store belongs to."""
        with self.read() as tx:
            return get_meta(tx, "fleet") or ""

    def acquire(self) -> None:
        """Become the one writer. Raises FleetfootError `conflict` if somebody else is."""
        self._lock.acquire()
        lease = secrets.token_hex(16)
        with _translated():
            self.database.lock()
            with self.database.writing.begin() as tx:
                set_meta(tx, "lease", lease)
        self._lease = lease

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction of the writer; committed and durable when the block ends, undone if it raises."""
        if not self._lease:
            raise unusable("this process does not hold the lease of the store")
        table = schema.meta.c
        # Locked until the commit: whoever takes the lease over waits for what was begun under it.
        held = sa.select(table.value).where(table.name == "lease").with_for_update()
        with _translated(), self.database.writing.begin() as tx:
            if tx.scalar(held) != self._lease:
                raise self._taken(tx)
            yield tx

    def _taken(self, tx: Connection) -> FleetfootError:
        """Somebody else may write by now: for whoever reads why this manager has ended."""
        holder = self.database.holder(tx)
        return FleetfootError(
            "store_taken",
            f"another manager{f' ({holder})' if holder else ''} has taken over {self.database.where}",
            remedy="one store has one manager: leave this one stopped ('systemctl disable --now"
            " fleetfoot-manager' here), or stop the other and start this one again",
        )

    @contextmanager
    def step(self, tx: Connection) -> Iterator[None]:
        """A part of a transaction that is undone alone when it raises."""
        # In plain words: SQLAlchemy gives each savepoint a name of its own and compiles its statement anew.
        tx.exec_driver_sql("SAVEPOINT step")
        try:
            yield
        except BaseException:
            tx.exec_driver_sql("ROLLBACK TO SAVEPOINT step")
            tx.exec_driver_sql("RELEASE SAVEPOINT step")
            raise
        tx.exec_driver_sql("RELEASE SAVEPOINT step")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the store, for any thread."""
        with _translated(), self.database.reading.begin() as tx:
            yield tx

    def close(self) -> None:
        """Close every connection and give the lock up."""
        self.database.close()
        self._lease = ""
        self._lock.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _without(folder: Path) -> FleetfootError:
    """Why there is no store: the folder was never a manager's, or it has lost it."""
    if (folder / KEY_NAME).exists():
        return refused(
            f"{folder} has a director key and no store any more",
            "put the newest backup into a new folder ('fleetfoot manager restore'), or rebuild it from"
            f" what the broker retains: 'fleetfoot manager recover --dir {folder} --root ROOT --broker URL'",
        )
    return refused(
        f"no store in {folder}",
        f"make one with 'fleetfoot manager init --dir {folder} ...', or name the folder with --dir",
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise database.translated(error) from error

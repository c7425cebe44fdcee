"""Versions of the store's tables, by alembic: looked at before anything is read, changed when asked.

A store says its version in alembic's own table. Stores of the versions 1 to 3 were written before it was
used here, and say theirs in `meta`.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from fleetfoot_manager import database, schema
from fleetfoot_manager.database import Database, refused, translated
from fleetfoot_manager.locks import FolderLock
from fleetfoot_protocol.errors import FleetfootError

#: The version that this program reads and writes; a test compares it with the newest migration.
CURRENT = "8"
_BEFORE_ALEMBIC = ("1", "2", "3")
_SCRIPTS = Path(__file__).parent / "migrations"


def _config(tx: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = tx
    return config


def versions() -> list[str]:
    """Every version there has been, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [one.revision for one in scripts.walk_revisions()][::-1]


def version(tx: Connection) -> str | None:
    """The version of the store, or None for what is no store."""
    inspector = sa.inspect(tx)
    if inspector.has_table("alembic_version"):
        return MigrationContext.configure(tx).get_current_revision()
    if not inspector.has_table(schema.meta.name):
        return None
    value: str | None = tx.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.name == "schema"))
    return value


def demand_current(tx: Connection, folder: Path) -> None:
    """Raise FleetfootError `store_refused` unless the store has the version of this program."""
    found = version(tx)
    if found == CURRENT:
        return
    if found is None:
        raise refused("this is no store of a manager", "restore it from a backup, or make a new one")
    older = found in versions()
    raise refused(
        f"the store has version {found}, this program reads and writes {CURRENT}",
        f"stop the manager, make a copy of {folder}, and run 'fleetfoot manager migrate --dir {folder}'"
        if older
        else "run the program that wrote it, or let that one migrate it down first",
    )


def stamp(tx: Connection) -> None:
    """Say that the tables, which have just been made, have the current version."""
    context = MigrationContext.configure(tx)
    context.stamp(ScriptDirectory.from_config(_config()), CURRENT)


def make(tx: Connection, to: str) -> None:
    """Make the tables of that version in an empty database."""
    command.upgrade(_config(tx), to)


def change(tx: Connection, to: str = CURRENT) -> tuple[str, str]:
    """Bring the store to another version in this transaction; returns (before, after).

    Raises FleetfootError `usage` for a version that does not exist, `store_refused` for what is no store.
    """
    known = versions()
    if to not in known:
        raise FleetfootError("usage", f"there is no version {to[:20]!a}", remedy=f"one of {', '.join(known)}")
    found = version(tx)
    if found not in known:
        raise refused(f"a store of version {found} is not known here", "use the program that wrote it")
    config = _config(tx)
    if found in _BEFORE_ALEMBIC and not sa.inspect(tx).has_table("alembic_version"):
        command.stamp(config, found)
    if known.index(to) > known.index(found):
        command.upgrade(config, to)
    elif to != found:
        command.downgrade(config, to)
    return found, to


def run(folder: Path, to: str) -> tuple[str, str]:
    """Bring the store in a state folder to another version; returns (before, after).

    Raises FleetfootError `conflict` while a manager runs, and what `change` raises.
    """
    lock = FolderLock(folder)
    lock.acquire()
    opened = Database(folder, database.of_folder(folder))
    try:
        opened.lock()
        with opened.writing.begin() as tx:
            return change(tx, to)
    except SQLAlchemyError as error:
        raise translated(error) from error
    finally:
        opened.close()
        lock.release()

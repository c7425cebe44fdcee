"""Versions of the store: each way up and down, on each database, and what the tables are in the end."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.support.stores import database_url

from fleetfoot_manager import audit, migrate, schema
from fleetfoot_manager.database import STORE_NAME
from fleetfoot_manager.init import make_state
from fleetfoot_manager.store import Store
from fleetfoot_protocol.errors import FleetfootError

NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_state(tmp_path / "state", "testfleet", {}, database_url())
    with Store(tmp_path / "state") as store:
        store.acquire()
        with store.write() as tx:
            audit.append(tx, NOW, "alice", "device.enroll", {"device": "dev-1"})
    return tmp_path / "state"


def rows(folder: Path) -> list[audit.Entry]:
    with Store(folder) as store, store.read() as tx:
        return list(audit.entries(tx))


def test_this_program_has_the_newest_version() -> None:
    assert migrate.versions()[-1] == migrate.CURRENT


@pytest.mark.parametrize("to", migrate.versions())
def test_down_and_up_again_keeps_what_both_versions_know(folder: Path, to: str) -> None:
    before = rows(folder)
    assert migrate.run(folder, to) == (migrate.CURRENT, to)
    assert migrate.run(folder, migrate.CURRENT) == (to, migrate.CURRENT)
    assert rows(folder) == before


def test_the_way_up_leads_to_the_tables_that_the_program_knows(folder: Path, backend: str) -> None:
    migrate.run(folder, migrate.versions()[0])
    migrate.run(folder, migrate.CURRENT)
    with Store(folder) as store, store.read() as tx:
        opts = {"compare_type": True, "compare_server_default": backend == "postgresql"}
        context = MigrationContext.configure(tx, opts=opts)
        assert compare_metadata(context, schema.metadata) == []


def test_every_older_version_is_refused_until_it_is_migrated(folder: Path) -> None:
    for to in migrate.versions()[:-1]:
        migrate.run(folder, to)
        with pytest.raises(FleetfootError, match=f"has version {to}") as caught:
            Store(folder)
        assert f"fleetfoot manager migrate --dir {folder}" in caught.value.remedy


def test_a_store_from_before_alembic_is_known_by_its_own_word(tmp_path: Path) -> None:
    make_state(tmp_path / "state", "testfleet", {})
    migrate.run(tmp_path / "state", "3")
    with sqlite3.connect(tmp_path / "state" / STORE_NAME) as connection:
        connection.execute("DROP TABLE alembic_version")
    connection.close()
    assert migrate.run(tmp_path / "state", migrate.CURRENT) == ("3", migrate.CURRENT)
    with Store(tmp_path / "state") as store:
        assert store.fleet == "testfleet"


def test_a_migration_that_fails_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.run(folder, "1")
    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.Operations.execute", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            migrate.run(folder, migrate.CURRENT)
    assert migrate.run(folder, "1") == ("1", "1")
    assert migrate.run(folder, migrate.CURRENT) == ("1", migrate.CURRENT)


def test_nothing_is_migrated_under_a_running_manager(folder: Path) -> None:
    with Store(folder) as store:
        store.acquire()
        with pytest.raises(FleetfootError, match="another manager") as caught:
            migrate.run(folder, "2")
    assert caught.value.code == "conflict"


@pytest.mark.parametrize("to", ["99", "head", "base", "-1", "x"])
def test_a_version_that_does_not_exist_is_an_error_of_usage(folder: Path, to: str) -> None:
    with pytest.raises(FleetfootError, match="no version") as caught:
        migrate.run(folder, to)
    assert caught.value.code == "usage"


def test_the_store_says_where_it_lies_without_its_password(folder: Path, backend: str) -> None:
    with Store(folder) as store:
        assert store.database.where.startswith(str(folder) if backend == "sqlite" else "postgresql+psycopg")
    assert sa.make_url("postgresql://u:secret@h/d").render_as_string(hide_password=True).count("secret") == 0

"""Where managers of tests keep their stores: SQLite files, or schemas of a PostgreSQL server of this run.

The server comes from the distribution's package, listens on a socket in a folder of its own and nowhere else,
and is thrown away at the end; so it need not sync anything to the disk. The tests of the store say what does.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL
from tests.support.waiting import until

from fleetfoot_manager import database
from fleetfoot_manager.database import Database

_FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=60")


def program(name: str) -> str | None:
    """A program of the newest PostgreSQL server here; Debian keeps them off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda found: int(found.parent.name))
    return shutil.which(name, path=os.pathsep.join([*map(str, folders[::-1]), os.environ.get("PATH", "")]))


def present() -> bool:
    return program("initdb") is not None and program("postgres") is not None


class PostgresServer:
    """Root may not run it, so it runs as the user `postgres` then. The path of a socket has to be short."""

    def __init__(self, settings: Sequence[str] = _FAST) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ff-pg-"))
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user is not None:
            shutil.chown(self.folder, self.user, self.user)
        data, log = self.folder / "data", self.folder / "log"
        # A locale that sorts like people: what depends on the order of bytes has to say so.
        locale = ["--locale-provider=icu", "--icu-locale=en", "--locale=C.UTF-8", "--encoding=UTF8"]
        self._do("initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "-N", *locale)
        settings = [*settings, "listen_addresses=", f"unix_socket_directories={self.folder}"]
        command = [
            _demanded("postgres"),
            "-D",
            str(data),
            *(word for one in settings for word in ("-c", one)),
        ]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, user=self.user, cwd=self.folder)
        url = URL.create("postgresql+psycopg", username="postgres", database="postgres")
        self.url = url.update_query_dict({"host": str(self.folder)})
        self.engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        until(self._answers, "the PostgreSQL server answers")

    def _do(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [_demanded(name), *arguments], check=True, capture_output=True, user=self.user, cwd=self.folder
        )

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            with self.engine.connect():
                return True
        except sa.exc.OperationalError:
            return False

    def fresh(self) -> URL:
        """An empty schema."""
        name = f"t{secrets.token_hex(6)}"
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        return self.url.update_query_dict({"options": f"-csearch_path={name}"})

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.folder)


def _demanded(name: str) -> str:
    found = program(name)
    assert found is not None, name
    return found


#: The server whose schemas new stores are made in; None for files.
server: PostgresServer | None = None


def database_url() -> URL | None:
    """What a new manager of a test should be told about its database."""
    return None if server is None else server.fresh()


def tamper(folder: Path, statement: str) -> None:
    """Do to the store in a state folder what no manager would."""
    opened = Database(folder, database.of_folder(folder))
    try:
        with opened.engine.begin() as connection:
            connection.exec_driver_sql(statement)
    finally:
        opened.close()

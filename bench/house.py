"""A manager as a process with a fleet that is enrolled, for benchmarks. Not a benchmark itself."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa

from bench.common import ROOT, until
from fleetfoot_client import bundle as bundles
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_manager import database
from fleetfoot_manager.database import STORE_NAME, Database
from fleetfoot_protocol import trust
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.trust import TrustRoot
from fleetfoot_sim.load.device import Place, public_of
from fleetfoot_sim.load.fleet import Plan

FLEETFOOT = str(Path(sys.executable).with_name("fleetfoot"))

_POSTGRESQL_BYTES = (
    "select sum(pg_total_relation_size(c.oid)) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = current_schema() and c.relkind = 'r'"
)


def _reader(folder: Path, url: str) -> sa.Engine:
    """For looking into a store beside its manager."""
    where = database.parse(url) if url else f"sqlite:///file:{folder / STORE_NAME}?mode=ro&uri=true"
    return sa.create_engine(where, isolation_level="AUTOCOMMIT")


class ManagerHouse:
    """Keys, root, manager and two releases, 1.0.0 (which devices run) and 1.1.0; use it in a `with`."""

    group, component = "ovens", "kiosk"

    def __init__(self, folder: Path, port: int, url: str = "") -> None:
        """url: of its PostgreSQL database; empty for a file."""
        self.folder, self.port = folder, port
        self._environ = {"FLEETFOOT_CONFIG_DIR": str(folder / "profile")}
        self._process: subprocess.Popen[str] | None = None
        self.log = folder / "manager.log"
        for name in ("root", "release", "alice"):
            self.tool("key", "new", str(folder / f"{name}.key"))
        words = ["--fleet", "bakery", "--operator", f"alice={folder}/alice.key.pub"]
        words += ["--database", url] if url else []
        self.tool("manager", "init", "--dir", str(folder / "m"), *words)
        self._engine = _reader(folder / "m", url)
        self.root = folder / "root.json"
        words = ["--request", str(folder / "m/root-request.json"), "--root-key", str(folder / "root.key")]
        words += ["--release-key", str(folder / "release.key.pub"), "--out", str(self.root)]
        self.tool("trust", "init", *words)
        self.trust_root: TrustRoot = trust.first_root(self.root.read_bytes())
        for version in ("1.0.0", "1.1.0"):
            self.release(version)

    def tool(self, *words: str) -> str:
        """Run a command in this process; RuntimeError with what it said if it fails."""
        said = io.StringIO()
        with patch.dict(os.environ, self._environ), redirect_stdout(said), redirect_stderr(said):
            code = fleetfoot(list(words))
        if code != 0:
            raise RuntimeError(f"{' '.join(words)}: {said.getvalue()}")
        return said.getvalue()

    def ask(self, *words: str) -> Any:
        """A command's answer with --json."""
        return json.loads(self.tool(*words, "--json"))

    def release(self, version: str) -> None:
        """Build and sign a version."""
        app = self.folder / "app" / version / "bin"
        app.mkdir(parents=True)
        (app / "kiosk").write_text(f"#!/bin/sh\necho {version}\n")
        (app / "kiosk").chmod(0o755)
        facts = ["--component", self.component, "--version", version, "--entrypoint", "bin/kiosk"]
        self.tool("release", "build", str(app.parent), *facts, "--out", str(self.folder / "dist"))
        self.tool("release", "sign", str(self.bundle(version)), "--key", str(self.folder / "release.key"))

    def bundle(self, version: str) -> Path:
        """The folder of a release."""
        return self.folder / "dist" / f"{self.component}-{version}"

    @property
    def running(self) -> Installed:
        """What devices run at first."""
        return self.installed("1.0.0")

    def installed(self, version: str) -> Installed:
        """A release as a device has it."""
        found = bundles.load(self.bundle(version))
        return Installed(version=version, counter=found.release.counter, digest=found.digest)

    def names(self, devices: int) -> list[str]:
        """The ids of so many devices."""
        return Plan("", 0, Place(self.group, self.component), devices).names()

    @property
    def pid(self) -> int:
        """The manager's process."""
        assert self._process is not None  # noqa: S101 - inside `with` only
        return self._process.pid

    def start(self) -> float:
        """Start the manager; returns the seconds until it is ready."""
        began = time.monotonic()
        command = [FLEETFOOT, "manager", "run", "--dir", str(self.folder / "m"), "--json", "--log-level"]
        command += ["warning", "--broker", f"mqtt://127.0.0.1:{self.port}", "--artifacts", "127.0.0.1:0"]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--root", str(self.root)], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
            )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        if not self._process.stdout.readline():
            raise RuntimeError(self.log.read_text())
        return time.monotonic() - began

    def stop(self) -> None:
        """End the manager in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def __enter__(self) -> "ManagerHouse":
        self.start()
        words = ["--broker", f"mqtt://127.0.0.1:{self.port}", "--operator", "alice", "--root", str(self.root)]
        self.tool("profile", "set", "here", *words, "--key", str(self.folder / "alice.key"))
        for version in ("1.0.0", "1.1.0"):
            self.tool("release", "publish", str(self.bundle(version)), "--bless")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._engine.dispose()

    def enroll(self, devices: int) -> float:
        """Enrol so many simulated devices; returns the seconds it took."""
        rows = [{"id": n, "group": self.group, "key": public_of(1, n)} for n in self.names(devices)]
        file = self.folder / "devices.json"
        file.write_text(json.dumps({"devices": rows}))
        began = time.monotonic()
        self.tool("device", "enroll", "--from", str(file), "--reply-timeout", "300s")
        return time.monotonic() - began

    # -- looking into the store

    def _first(self, text: str, **values: object) -> Any:
        with self._engine.connect() as connection:
            row = connection.execute(sa.text(text), values).fetchone()
            return None if row is None else row[0]

    def _query(self, text: str, **values: object) -> int:
        return int(self._first(text, **values) or 0)

    def rollout_state(self, name: str) -> str | None:
        """In which state a rollout is stored."""
        found: str | None = self._first("select state from rollouts where id = :name", name=name)
        return found

    def stored(self) -> int:
        """Devices whose status is stored, verified or not yet."""
        return self.verified() + self._query("select count(*) from claims")

    def verified(self) -> int:
        """Devices whose status is stored and verified."""
        return self._query("select count(*) from devices where status is not null")

    def seen_since(self, moment: float) -> int:
        """Devices that were heard since then (unix seconds)."""
        return self._query("select count(*) from devices where last_seen >= :moment", moment=moment)

    def forget_statuses(self) -> None:
        """Let the manager hear everything anew: stop, clear, start."""
        self.stop()
        text = "update devices set status=null, status_sha256=null, incarnation=null, counter=null"
        opened = Database(self.folder / "m", database.of_folder(self.folder / "m"))
        with opened.engine.begin() as connection:
            connection.exec_driver_sql(f"{text}, last_seen=null, past='{{}}'")
        opened.close()
        self.start()

    def store_bytes(self) -> int:
        """Size of the store; of a file, its log included."""
        if self._engine.dialect.name == "postgresql":
            return self._query(_POSTGRESQL_BYTES)
        folder = self.folder / "m"
        return sum(path.stat().st_size for path in folder.glob("manager.sqlite3*"))

    def used_bytes(self) -> int:
        """Bytes of the store's pages that are in use once nothing waits, those in its log included."""
        waiting = "select (select count(*) from outbox) + (select count(*) from claims)"
        until(lambda: self._query(waiting) == 0, "everything is published and verified", 300)
        used = self._query("pragma page_count") - self._query("pragma freelist_count")
        return used * self._query("pragma page_size")

    def wait_online(self, devices: int, seconds: float = 300) -> None:
        """Wait until the manager knows so many devices to be there."""
        text = "select count(*) from devices where online and status is not null"
        until(lambda: self._query(text) >= devices, f"{devices} devices are online", seconds)

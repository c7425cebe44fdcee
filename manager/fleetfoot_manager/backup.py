"""`fleetfoot manager backup|restore`: everything of a manager in one file, taken while it runs.

The file is a tar, mode 0600 because the director key is in it:

    backup.json         format, fleet, version of the store, when, rows by table, sha256 of the next
    store.jsonl         one line for each row: [table, {column: value}]; bytes as {"b64": text}
    director.key, root-request.json
    blobs/<sha256>      unless left out

One view of the store, so it is what some commit left. It says nothing of the kind of database: what was
SQLite may be restored into PostgreSQL, or the other way round. A backup of an older version is restored as
that version, and migrated.

No sequence is used again afterwards: what is signed next has at least the time in milliseconds, and a
request that was signed before the restoration is refused, for it may have been decided after the backup.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from fleetfoot_manager import audit, database, migrate, schema
from fleetfoot_manager.database import Database
from fleetfoot_manager.director import KEY_NAME
from fleetfoot_manager.init import BLOBS_NAME, REQUEST_NAME, make_folder
from fleetfoot_manager.store import REQUESTS_SINCE, Store, set_meta
from fleetfoot_protocol import times
from fleetfoot_protocol.errors import FleetfootError

FORMAT = 1
_ABOUT, _ROWS = "backup.json", "store.jsonl"
_FILES = (KEY_NAME, REQUEST_NAME)
_BATCH = 500
#: What belongs to a running process, not to what it knows.
_LEFT_OUT = {"meta": {"lease"}}
_MAX_ABOUT = 64 * 1024


def write(folder: Path, out: Path, *, blobs: bool = True) -> dict[str, Any]:
    """Write a backup of the manager in `folder` to the new file `out`; returns what `backup.json` says.

    Raises FleetfootError `exists_already`, `io_error`, `store_unusable`.
    """
    if out.exists():
        raise FleetfootError("exists_already", f"{out} is there already", remedy="name another file")
    try:
        with tempfile.TemporaryFile(dir=out.parent) as rows:
            about = _dump(folder, rows)
            _pack(folder, out, about, rows, blobs=blobs)
    except OSError as error:
        raise FleetfootError("io_error", f"cannot write {out}: {error.strerror or error}") from error
    return about


def _dump(folder: Path, file: IO[bytes]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    seen = hashlib.sha256()
    with Store(folder, read_only=True) as store, store.read() as tx:
        for table in schema.metadata.sorted_tables:
            left_out = _LEFT_OUT.get(table.name, set())
            found = tx.execution_options(yield_per=_BATCH).execute(sa.select(table)).mappings()
            for row in found:
                if row.get("name") in left_out:
                    continue
                line = json.dumps([table.name, {str(k): _out(v) for k, v in row.items()}]) + "\n"
                file.write(line.encode())
                seen.update(line.encode())
                counts[table.name] = counts.get(table.name, 0) + 1
        version = migrate.version(tx)
        fleet = store.fleet
    return {
        "format": FORMAT,
        "fleet": fleet,
        "version": version,
        "written": times.to_text(time.time()),
        "tables": counts,
        "sha256": seen.hexdigest(),
    }


def _out(value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _in(value: Any) -> Any:
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def _pack(folder: Path, out: Path, about: dict[str, Any], rows: IO[bytes], *, blobs: bool) -> None:
    names = list(_FILES)
    if blobs:
        found = (folder / BLOBS_NAME).glob("[0-9a-f]" * 64)
        names += sorted(f"{BLOBS_NAME}/{path.name}" for path in found)
    about["files"] = names
    unfinished = out.with_name(f".{out.name}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            text = (json.dumps(about, indent=2) + "\n").encode()
            _add(tar, _ABOUT, io.BytesIO(text), len(text))
            length = rows.tell()
            rows.seek(0)
            _add(tar, _ROWS, rows, length)
            for name in names:
                with (folder / name).open("rb") as content:
                    _add(tar, name, content, os.fstat(content.fileno()).st_size)
        file.flush()
        os.fsync(file.fileno())
    os.rename(unfinished, out)


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], length: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = length, 0o600, int(time.time())
    tar.addfile(info, content)


def restore(file: Path, folder: Path, url: URL | None = None) -> dict[str, Any]:
    """Make the manager of a backup in the new `folder`, its store in the database at `url` if one is given.

    Raises FleetfootError: `exists_already` for a folder with contents or a database with a store, `usage`
    for a file that is no backup, or not whole, `io_error` where it cannot be read or unpacked.
    """
    try:
        with tarfile.open(file, "r:") as tar, tempfile.TemporaryFile() as rows:
            about = _examine(tar, rows, file)
            make_folder(folder)
            try:
                _fill(tar, folder, url, about, rows)
            except BaseException:
                shutil.rmtree(folder)
                raise
    except OSError as error:
        raise FleetfootError("io_error", f"cannot restore {file} in {folder}: {error}") from error
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise FleetfootError(
            "usage", f"{file} cannot be restored: {error}", remedy="name a file of 'fleetfoot manager backup'"
        ) from error
    return about


def _fill(
    tar: tarfile.TarFile, folder: Path, url: URL | None, about: dict[str, Any], rows: IO[bytes]
) -> None:
    (folder / BLOBS_NAME).mkdir()
    missing = set(about["files"]) - _unpack(tar, folder)
    if missing:
        raise ValueError(f"it is cut off: {min(missing)} is missing")
    if url is None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(folder / database.STORE_NAME, flags, 0o600))
    else:
        database.remember(folder, url)
    _load(Database(folder, url), about, rows)


def _examine(tar: tarfile.TarFile, rows: IO[bytes], file: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(_member(tar, _ABOUT).read(_MAX_ABOUT))
    if about["format"] != FORMAT or about["version"] not in migrate.versions():
        raise FleetfootError(
            "store_refused",
            f"{file} has format {about['format']} and version {about['version']}, unknown here",
            remedy="restore it with the program that wrote it, or a newer one",
        )
    seen = hashlib.sha256()
    content = _member(tar, _ROWS)
    while piece := content.read(1 << 20):
        seen.update(piece)
        rows.write(piece)
    if seen.hexdigest() != about["sha256"]:
        raise ValueError("its rows are not those that were written")
    rows.seek(0)
    return about


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    content = tar.extractfile(name)
    if content is None:
        raise ValueError(f"{name} is no file in it")
    return content


def _unpack(tar: tarfile.TarFile, folder: Path) -> set[str]:
    """The files beside the store, by their names: a backup may come from anywhere. Returns their names."""
    done: set[str] = set()
    for info in tar:
        place, _, name = info.name.rpartition("/")
        blob = place == BLOBS_NAME and len(name) == 64 and set(name) <= set("0123456789abcdef")
        if not info.isreg() or not (blob or info.name in _FILES):
            continue
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        content, seen = _member(tar, info.name), hashlib.sha256()
        with os.fdopen(os.open(folder / info.name, flags, 0o644 if blob else 0o600), "wb") as file:
            while piece := content.read(1 << 20):
                seen.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if blob and seen.hexdigest() != name:
            raise ValueError(f"blob {name} in it has other bytes")
        done.add(info.name)
    return done


def _load(made: Database, about: dict[str, Any], rows: IO[bytes]) -> None:
    """Rows into tables of the version that they have, then to the version of this program."""
    try:
        with made.writing.begin() as tx:
            if sa.inspect(tx).has_table(schema.meta.name):
                raise FleetfootError(
                    "exists_already",
                    f"{made.where} holds the store of a fleet already",
                    remedy="name an empty database, or another schema of it",
                )
            migrate.make(tx, about["version"])
            tables = sa.MetaData()
            tables.reflect(tx)
            for name, batch in _batches(rows):
                tx.execute(sa.insert(tables.tables[name]), batch)
            migrate.change(tx)
            _count_on(tx)
            now = time.time()
            set_meta(tx, REQUESTS_SINCE, repr(now))
            known = {name: about[name] for name in ("fleet", "written", "sha256")}
            audit.append(tx, now, audit.MANAGER, "store.restore", known)
    finally:
        made.close()


def _batches(rows: IO[bytes]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    name, batch = "", list[dict[str, Any]]()
    for line in rows:
        table, row = json.loads(line)
        if batch and (table != name or len(batch) == _BATCH):
            yield name, batch
            batch = []
        name = table
        batch.append({column: _in(value) for column, value in row.items()})
    if batch:
        yield name, batch


def _count_on(tx: Connection) -> None:
    """Let numbers that the database gives follow those that are there."""
    if tx.dialect.name != "postgresql":
        return
    for table in (schema.outbox, schema.notes):
        highest = tx.scalar(sa.select(sa.func.max(table.c.id)))
        if highest is not None:
            tx.execute(sa.select(sa.func.setval(sa.func.pg_get_serial_sequence(table.name, "id"), highest)))

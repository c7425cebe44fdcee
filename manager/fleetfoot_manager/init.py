"""`fleetfoot manager init`: the state folder of a new manager.

    DIR/                    0700
      director.key          0600, made here and never elsewhere
      manager.sqlite3       the store; for a PostgreSQL server instead
      database.url          0600, where it is
      root-request.json     what the trust root must name: fleet, director key, operators' keys
      blobs/                artifacts and indexes, by sha256

A trust root is made from the request where the root keys are, which is not here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.engine import URL

from fleetfoot_manager.director import KEY_NAME, make_key, read_public
from fleetfoot_manager.store import Store
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError

REQUEST_NAME = "root-request.json"
BLOBS_NAME = "blobs"


def make_state(folder: Path, fleet: str, operators: Mapping[str, Path], database: URL | None = None) -> Path:
    """Make the state folder; returns the path of the root request.

    operators: name -> public key file; database: of PostgreSQL, by default a file. Raises FleetfootError:
    `exists_already` for a folder with contents, `usage` for names that are no ids,
    `key_unreadable`, `io_error`.
    """
    for what, name in [("fleet", fleet), *(("operator", name) for name in operators)]:
        if not topics.is_id(name):
            raise FleetfootError(
                "usage", f"{what} {name[:80]!a} is no id", remedy=f"ids match {topics.ID_PATTERN}"
            )
    public = {name: read_public(path).hex() for name, path in operators.items()}
    try:
        make_folder(folder)
        director = make_key(folder / KEY_NAME)
        Store.create(folder, fleet, database)
        (folder / BLOBS_NAME).mkdir()
        request = folder / REQUEST_NAME
        text = json.dumps({"fleet": fleet, "director": director.hex(), "operators": public}, indent=2)
        request.write_text(text + "\n")
    except OSError as error:
        raise FleetfootError("io_error", f"cannot make {folder}: {error.strerror or error}") from error
    return request


def make_folder(folder: Path) -> None:
    """An empty folder for its owner only. Raises FleetfootError `exists_already` for one with contents."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FleetfootError("exists_already", f"{folder} is not empty")
    os.chmod(folder, 0o700)

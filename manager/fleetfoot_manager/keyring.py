"""Public keys of the devices beside the store: what `fleetfoot manager recover` knows them by.

One JSON object a line, appended after the commit of each enrolment; a later line about a device replaces the
earlier ones, one that says `gone` ends it. Written anew at every start, so what a crash left out is made
good. Nothing here is secret and nothing is decided by it while the store is there.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import inventory, schema
from fleetfoot_protocol.errors import FleetfootError

NAME = "devices.keys"


def lines(tx: Connection, devices: Iterable[str]) -> list[dict[str, Any]]:
    """What is to be remembered of devices whose enrolment has changed, or ended."""
    found: list[dict[str, Any]] = []
    names = list(devices)
    known = {entry.id: entry for entry in inventory.named(tx, names)}
    for device in names:
        entry = known.get(device)
        if entry is None:
            found.append({"id": device, "gone": True})
        else:
            labels = dict(entry.enrolled_labels)
            found.append({"id": device, "group": entry.group, "key": entry.key.hex(), "labels": labels})
    return found


def append(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add what a transaction changed. Raises OSError."""
    with (folder / NAME).open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in lines)
        file.flush()
        os.fsync(file.fileno())


def write(folder: Path, tx: Connection) -> None:
    """Bring the file up to what the store says. Raises OSError."""
    table = schema.devices.c
    rows = tx.execute(sa.select(table.id, table.group, table.key, table.labels).order_by(table.id))
    # Ids and keys need no quoting and labels are JSON: this is done at every start, for every device.
    text = "".join(
        f'{{"id": "{device}", "group": "{group}", "key": "{key}", "labels": {labels}}}\n'
        for device, group, key, labels in rows
    )
    path = folder / NAME
    if path.is_file() and path.read_text() == text:
        return
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(unfinished, path)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The devices of the file by id; none without a file. A last line that was cut off is passed over.

    Raises FleetfootError `io_error` for a file that cannot be read.
    """
    path = folder / NAME
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FleetfootError("io_error", f"cannot read {path}: {error.strerror}") from error
    found: dict[str, dict[str, Any]] = {}
    for text in lines:
        try:
            row = json.loads(text)
        except ValueError:
            continue
        found.pop(row["id"], None)
        if not row.get("gone"):
            found[row["id"]] = row
    return found

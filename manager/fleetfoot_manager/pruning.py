"""What is deleted once nobody needs it.

- Blobs: those that no release needs which still serves somebody, a day after they came. An upload of this
  hour may be waiting for its publication.
- Events wait for the broker, 10 000 at most (`documents.trim_events`); decided requests are remembered for
  30 days, upload tokens for an hour (`agenda`).
- The audit log is cut by a signed request alone, `audit.prune`, of what was exported before.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import schema
from fleetfoot_manager.catalogue import Life, ReleaseRow
from fleetfoot_manager.init import BLOBS_NAME
from fleetfoot_manager.store import Store
from fleetfoot_protocol.errors import FleetfootError

KEPT_SECONDS = 24 * 3600.0


def needed(tx: Connection) -> set[str]:
    """The blobs of every release that is not archived, its envelope among them."""
    found: set[str] = set()
    rows = tx.execute(sa.select(schema.releases).where(schema.releases.c.life != str(Life.ARCHIVED)))
    for row in map(ReleaseRow._make, rows):
        found.add(hashlib.sha256(row.envelope).hexdigest())
        for artifact in row.manifest.artifacts:
            found |= {artifact.sha256, artifact.index_sha256}
    return found


def blobs(folder: Path, *, delete: bool = True, now: float | None = None) -> list[dict[str, Any]]:
    """Delete the blobs that nobody needs; returns them as {sha256, length}. Raises `io_error`."""
    limit = (time.time() if now is None else now) - KEPT_SECONDS
    with Store(folder, read_only=True) as store, store.read() as tx:
        keep = needed(tx)
    gone: list[dict[str, Any]] = []
    try:
        for path in sorted((folder / BLOBS_NAME).glob("[0-9a-f]" * 64)):
            facts = path.lstat()
            if path.name in keep or facts.st_mtime > limit:
                continue
            gone.append({"sha256": path.name, "length": facts.st_size})
            if delete:
                path.unlink()
    except OSError as error:
        raise FleetfootError("io_error", f"cannot prune {folder / BLOBS_NAME}: {error.strerror}") from error
    return gone

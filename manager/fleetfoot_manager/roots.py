"""The trust root of a manager: installed once, replaced by nothing but a chain (contract section 3)."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import audit, schema
from fleetfoot_manager.store import Store
from fleetfoot_protocol import dsse, trust
from fleetfoot_protocol.documents import read
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.trust import TrustRoot

log = logging.getLogger(__name__)


def current(tx: Connection) -> TrustRoot | None:
    """The newest root of the store, or None. It was verified when it was stored."""
    table = schema.roots.c
    envelope = tx.scalar(sa.select(table.envelope).order_by(table.version.desc()).limit(1))
    return None if envelope is None else read(TrustRoot, dsse.decode(envelope).payload)


def install(store: Store, files: Sequence[Path]) -> TrustRoot:
    """The root in force, after the roots of `files` were taken in, in the order of their versions.

    Raises FleetfootError: `config_invalid` without any root, `upgrade_root_refused` and other codes of
    trust for one that is not properly signed or chained.
    """
    offered = [(path, _read(path)) for path in files]
    with store.write() as tx:
        have = current(tx)
        if have is None and not offered:
            raise FleetfootError(
                "config_invalid",
                f"the manager in {store.folder} has no trust root",
                remedy=f"make one with 'fleetfoot trust init --request {store.folder}/root-request.json ...',"
                f" then 'fleetfoot manager run --dir {store.folder} --root root.json'",
            )
        for path, data in sorted(offered, key=lambda item: _version(item[1])):
            have = _take(tx, store.fleet, have, data, path)
    if have is None:
        raise AssertionError("no root although one was offered")
    return have


def operators_changed(before: TrustRoot | None, after: TrustRoot) -> list[tuple[str, dict[str, Any]]]:
    """What a root changes about operators, as rows of the audit log: action and data, removals first.

    Who has another key or other roles than before is removed and added.
    """
    had, has = _operators(before) if before else {}, _operators(after)
    gone = [("operator.remove", had[name]) for name in sorted(had) if has.get(name) != had[name]]
    come = [("operator.add", has[name]) for name in sorted(has) if had.get(name) != has[name]]
    return gone + come


def _operators(root: TrustRoot) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "operator": name,
            "key": root.keys[entry.key],
            "roles": {group: sorted(map(str, roles)) for group, roles in sorted(entry.roles.items())},
        }
        for name, entry in root.roles.operators.items()
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()[: dsse.MAX_ENVELOPE + 1]
    except OSError as error:
        raise FleetfootError("io_error", f"cannot read root {path}: {error.strerror}") from error


def _version(data: bytes) -> int:
    return read(TrustRoot, dsse.decode(data).payload).version


def _take(tx: Connection, fleet: str, have: TrustRoot | None, data: bytes, path: Path) -> TrustRoot:
    if have is None:
        new = trust.first_root(data, str(path))
        if new.fleet != fleet:
            raise FleetfootError("config_invalid", f"{path} is the root of fleet {new.fleet}, not of {fleet}")
    else:
        known = tx.scalar(sa.select(schema.roots.c.envelope).where(schema.roots.c.version == _version(data)))
        if known is not None and dsse.decode(known).digest == dsse.decode(data).digest:
            return have
        new = trust.advance_root(have, data)
    tx.execute(sa.insert(schema.roots).values(version=new.version, envelope=data))
    about = {"version": new.version, "epoch": new.epoch, "digest": dsse.decode(data).digest}
    now = time.time()
    audit.append(tx, now, audit.MANAGER, "root.install", about)
    for action, of in operators_changed(have, new):
        audit.append(tx, now, audit.MANAGER, action, {"root": new.version, **of})
    log.info("installed root version=%d epoch=%d", new.version, new.epoch)
    return new

"""`fleetfoot manager status`: what the store of this machine says, whether or not the manager runs."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fleetfoot_manager import inventory, roots, schema
from fleetfoot_manager.locks import holder_of
from fleetfoot_manager.requests.rollouts import row_of
from fleetfoot_manager.store import Store
from fleetfoot_manager.work import load_rollouts

_SHOWN_ENDED = 5


def look(folder: Path) -> dict[str, Any]:
    """The state as JSON values; `pid` only while a manager runs. Reads only."""
    with Store(folder, read_only=True) as store, store.read() as tx:
        groups = inventory.groups(tx)
        devices, online = inventory.counts(tx, groups)
        root = roots.current(tx)
        live = load_rollouts(tx, live=True)
        ended = load_rollouts(tx, live=False, limit=_SHOWN_ENDED)
        waiting = tx.scalar(sa.select(sa.func.count()).select_from(schema.outbox)) or 0
        releases = tx.scalar(sa.select(sa.func.count()).select_from(schema.releases)) or 0
        pid = holder_of(folder)
        return {
            "running": pid is not None,
            **({} if pid is None else {"pid": pid}),
            "fleet": store.fleet,
            "root": root.version if root else 0,
            "groups": groups,
            "devices": devices,
            "online": online,
            "releases": releases,
            "waiting": waiting,
            "rollouts": [row_of(of) for of in [*live, *ended]],
        }


def lines(seen: dict[str, Any]) -> list[str]:
    """The same for people."""
    process = f"running (process {seen['pid']})" if seen["running"] else "not running"
    text = [
        f"manager of fleet {seen['fleet']}: {process}, trust root {seen['root'] or 'not installed'}",
        f"{_count(seen['devices'], 'device')} in {_count(len(seen['groups']), 'group')},"
        f" {seen['online']} online; {_count(seen['releases'], 'release')};"
        f" waiting for the broker: {_count(seen['waiting'], 'message')}",
    ]
    for row in seen["rollouts"]:
        counts = ", ".join(f"{count} {name}" for name, count in row["counts"].items())
        text.append(
            f"rollout {row['rollout']}  {row['component']} {row['version']}  {row['state']}"
            f"  wave {row['wave']} of {len(row['waves'])}  {counts}"
        )
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")

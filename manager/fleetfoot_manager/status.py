"""`fleetfoot manager status`: what the store of this machine says, whether or not the manager runs."""

import http.client
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import acts, inventory, policies, rollout_rows, roots, schema, standstill
from fleetfoot_manager.locks import holder_of
from fleetfoot_manager.requests.overview import waits
from fleetfoot_manager.requests.rollouts import row_of
from fleetfoot_manager.rollout import Rollout
from fleetfoot_manager.run import WHERE_NAME
from fleetfoot_manager.store import Store
from fleetfoot_manager.wording import counted
from fleetfoot_protocol.states import Right
from fleetfoot_protocol.trust import TrustRoot

_SHOWN_ENDED = 5
#: Long enough for a busy machine, short enough for a person who looks because something is wrong.
_PATIENCE_SECONDS = 2.0
_MAX_ANSWER = 2000
#: What a rollout waits for -> the right of those who can give it.
_GIVES: dict[str, Right] = {
    "approval": Right.APPROVE,
    "resume": Right.STEER,
    "decision": Right.STEER,
    "blessing": Right.RELEASE,
    "activation": Right.STEER,
}


def look(folder: Path) -> dict[str, Any]:
    """The state as JSON values; `pid` only while a manager runs. Reads only."""
    with Store(folder, read_only=True) as store, store.read() as tx:
        groups = inventory.known_groups(tx)
        still = standstill.of(tx)
        devices, online = inventory.counts(tx, groups)
        root = roots.current(tx)
        live = rollout_rows.summaries(tx, live=True)
        ended = rollout_rows.summaries(tx, live=False, limit=_SHOWN_ENDED)
        waiting = tx.scalar(sa.select(sa.func.count()).select_from(schema.outbox)) or 0
        releases = tx.scalar(sa.select(sa.func.count()).select_from(schema.releases)) or 0
        pid = holder_of(folder)
        orders = tx.scalar(
            sa.select(sa.func.count()).select_from(schema.acts).where(schema.acts.c.state == acts.OPEN)
        )
        return {
            "running": pid is not None,
            **({} if pid is None else {"pid": pid, "engine": engine(folder)}),
            **({} if still is None else {"paused": {**still.row(), "who": _who(root, Right.STEER, ["*"])}}),
            "fleet": store.fleet,
            "root": root.version if root else 0,
            "groups": groups,
            "devices": devices,
            "online": online,
            "releases": releases,
            "waiting": waiting,
            "waits": [row for of, _ in live if (row := _waits(tx, of, root))],
            "orders_open": orders or 0,
            "rollouts": [row_of(one.rollout, one.counts) for one in [*live, *ended]],
        }


def engine(folder: Path) -> str:
    """How the running manager says it is: `running`, or why it does not turn."""
    try:
        where = json.loads((folder / WHERE_NAME).read_text())["status"]
        host, _, port = where.removeprefix("http://").rpartition(":")
        line = http.client.HTTPConnection(host, int(port), timeout=_PATIENCE_SECONDS)
        try:
            line.request("GET", "/readyz")
            answer = line.getresponse()
            text = answer.read(_MAX_ANSWER).decode("utf-8", "replace").strip()
        finally:
            line.close()
    except FileNotFoundError:
        return "starting, or of a version that does not say how it is"
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return "it does not answer: stuck, or its process is stopped"
    return "running" if answer.status == 200 else text


def _waits(tx: Connection, of: Rollout, root: TrustRoot | None) -> dict[str, Any] | None:
    """What a rollout waits for and who can give it, if it is a person's act."""
    row = waits(of)
    if row is None:
        return None
    who = _who(root, _GIVES[row["for"]], of.groups)
    barred = policies.barred(tx, of.id, of.groups) if row["for"] == "approval" else None
    return {**row, "who": [name for name in who if name != barred]}


def _who(root: TrustRoot | None, right: Right, groups: Iterable[str]) -> list[str]:
    """The operators who have a right in all of these groups."""
    if root is None:
        return []
    return [name for name in sorted(root.roles.operators) if all(root.may(name, right, g) for g in groups)]


def lines(seen: dict[str, Any]) -> list[str]:
    """The same for people."""
    process = f"running (process {seen['pid']})" if seen["running"] else "not running"
    if seen.get("engine", "running") != "running":
        process = f"process {seen['pid']}, BUT {seen['engine']}"
    if (still := seen.get("paused")) is not None:
        why = f": {still['reason']}" if still["reason"] else ""
        process += f", ENGINE PAUSED by {still['by']} since {still['at']}{why}"
    text = [
        f"manager of fleet {seen['fleet']}: {process}, trust root {seen['root'] or 'not installed'}",
        f"{counted(seen['devices'], 'device')} in {counted(len(seen['groups']), 'group')},"
        f" {seen['online']} online; {counted(seen['releases'], 'release')};"
        f" waiting for the broker: {counted(seen['waiting'], 'message')}",
    ]
    if "paused" in seen:
        who = ", ".join(seen["paused"]["who"]) or "nobody whom the trust root names"
        text.append(f"everything waits for 'fleetfoot rollout resume --all', which can come from: {who}")
    if seen["orders_open"]:
        text.append(f"{counted(seen['orders_open'], 'order')} to single devices wait for the device")
    for row in seen["waits"]:
        who = ", ".join(row["who"]) or "nobody whom the trust root names"
        text.append(f"rollout {row['rollout']} waits for {row['for']}, which can come from: {who}")
    for row in seen["rollouts"]:
        counts = ", ".join(f"{count} {name}" for name, count in row["counts"].items())
        text.append(
            f"rollout {row['rollout']}  {row['component']} {row['version']}  {row['state']}"
            f"  wave {row['wave']} of {len(row['waves'])}  {counts}"
        )
    return text

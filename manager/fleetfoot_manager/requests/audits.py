"""The verbs about the audit log. It tells of every group, so they are for those who may read every group."""

from typing import Any

from fleetfoot_manager import audit, rights
from fleetfoot_manager.requests import arguments
from fleetfoot_manager.requests.answers import fitted
from fleetfoot_manager.work import Work
from fleetfoot_protocol import auditchain
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request


def listing(work: Work, request: Request) -> dict[str, Any]:
    """`audit.list`: a page, in the order of the log; `next` is what to ask for `after`."""
    asked = arguments.parse(arguments.AuditList, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    wanted = audit.Wanted(asked.actor, asked.action, asked.group, asked.since)
    found = audit.page(work.tx, asked.limit, wanted, after=asked.after)
    rows = [row._asdict() for row in found]
    if asked.after is None:
        # The newest are wanted: what does not fit is left out at the other end.
        shown = fitted(rows[::-1])[0][::-1]
    else:
        shown, _ = fitted(rows)
    end = audit.last(work.tx)
    more = bool(shown) and asked.after is not None and (len(shown) < len(rows) or len(rows) == asked.limit)
    following = {"next": shown[-1]["n"]} if more else {}
    return {"entries": shown, "count": end.n if end else 0, **following}


def show(work: Work, request: Request) -> dict[str, Any]:
    """`audit.show`."""
    asked = arguments.parse(arguments.AuditShow, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    row = audit.entry(work.tx, asked.n)
    if row is None:
        raise FleetfootError("not_found", f"the audit log has no entry {asked.n}")
    return row._asdict()


def prune(work: Work, request: Request) -> dict[str, Any]:
    """`audit.prune`: only of what the operator holds an export, as the hash of its last entry shows."""
    asked = arguments.parse(arguments.AuditPrune, request.arguments)
    rights.demand(work.house.root, request, [rights.EVERY_GROUP])
    removed = audit.prune(work.tx, asked.through, asked.hash)
    data = {"through": asked.through, "hash": asked.hash}
    work.audit(request.operator, auditchain.PRUNE, {**data, "removed": removed})
    return {**data, "removed": removed}

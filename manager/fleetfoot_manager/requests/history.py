"""The verbs that look back: how rollouts went, what people noted of them, and the report of one."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import catalogue, notes, planning, policies, rights, rollout_rows, schema
from fleetfoot_manager.notes import Note
from fleetfoot_manager.requests import arguments, rollout_arguments, rollouts
from fleetfoot_manager.requests.answers import BUDGET, fitted, moment, some
from fleetfoot_manager.rollout import Rollout
from fleetfoot_manager.rollout_rows import Summary
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.states import TAKEN_BACK, RolloutState, Terminal

_NOTES = 20
_TRACES = 60
_HEAD_BUDGET = BUDGET // 2
#: How a device that was asked can end; of these the first is a success.
_TRIED = (Terminal.HEALTHY, Terminal.FAILED, Terminal.ROLLED_BACK, Terminal.SILENT, TAKEN_BACK)


def history(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.history`: ended rollouts, the newest first, and success rates over them."""
    asked = arguments.parse(rollout_arguments.RolloutHistory, request.arguments)
    root = work.house.root
    rights.demand_anywhere(root, request)
    if asked.group is not None:
        rights.demand(root, request, [asked.group])
    found = [
        past
        for past in rollout_rows.summaries(work.tx, live=False, component=asked.component, limit=asked.limit)
        if rights.reads_all(root, request, past.rollout.groups)
        and (asked.group is None or asked.group in past.rollout.groups)
    ]
    rows, more = fitted([_past_row(past) for past in found], _HEAD_BUDGET)
    rates: dict[str, Any] = {
        "components": _rates((past.rollout.component, past.rollout, past.counts) for past in found),
        "releases": _rates(
            (f"{past.rollout.component} {past.rollout.goal.version}", past.rollout, past.counts)
            for past in found
        ),
        "groups": _rates(
            (group, past.rollout, past.sums.get(group, {})) for past in found for group in past.rollout.groups
        ),
    }
    shown = {name: fitted(list(of.items()), _HEAD_BUDGET // 3)[0] for name, of in rates.items()}
    return {
        "rollouts": rows,
        **{name: dict(of) for name, of in shown.items()},
        **({"more": more} if more else {}),
    }


def _past_row(past: Summary) -> dict[str, Any]:
    of, counts = past.rollout, past.counts
    took = None if of.started is None or of.ended is None else int(of.ended - of.started)
    return {
        "rollout": of.id,
        "component": of.component,
        "version": of.goal.version,
        "groups": list(of.groups),
        "state": str(of.state),
        "total": sum(counts.values()),
        "counts": counts,
        **some(
            started=moment(of.started),
            ended=moment(of.ended),
            seconds=took,
            success_percent=_rate(Counter(counts)),
        ),
    }


def _rate(counts: Counter[str]) -> int | None:
    """Devices that proved healthy and were not taken back, of those asked that had to answer, in percent."""
    tried = sum(counts[terminal] for terminal in _TRIED)
    return counts[_TRIED[0]] * 100 // tried if tried else None


def _rates(found: Iterable[tuple[str, Rollout, Mapping[str, int]]]) -> dict[str, dict[str, Any]]:
    """By name, over rollouts with how many of their devices count under that name."""
    number: Counter[str] = Counter()
    completed: Counter[str] = Counter()
    devices: dict[str, Counter[str]] = {}
    for name, of, counts in found:
        number[name] += 1
        completed[name] += of.state is RolloutState.COMPLETED
        devices.setdefault(name, Counter()).update(counts)
    return {
        name: {
            "rollouts": number[name],
            "completed": completed[name],
            "counts": dict(devices[name]),
            **some(success_percent=_rate(devices[name])),
        }
        for name in sorted(number)
    }


def note(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.note`: on a rollout in any state."""
    asked = arguments.parse(rollout_arguments.RolloutNote, request.arguments)
    of = rollouts.named(work, request, asked.rollout)
    made = Note(
        of.id, of.component, request.operator, work.now, asked.title, asked.category, asked.tags, asked.text
    )
    notes.add(work.tx, made)
    work.audit(request.operator, "rollout.note", {"rollout": of.id, "title": asked.title})
    return made.row()


def report(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.report`: everything about an ended rollout; its devices page by page."""
    asked = arguments.parse(rollout_arguments.RolloutReport, request.arguments)
    of = rollouts.named(work, request, asked.rollout)
    if not of.state.ended:
        raise FleetfootError(
            "state_refused",
            f"rollout {of.id} is {of.state}: there is a report once it has ended",
            remedy=f"look at it with 'fleetfoot rollout show {of.id}'",
        )
    head = _head(work, of) if asked.after == 0 else {}
    members = of.cohort[asked.after :]
    rows, _ = fitted([_device(of, *member) for member in members[:500]], BUDGET - _HEAD_BUDGET)
    following = asked.after + len(rows)
    return {**head, "devices": rows, **({"next": following} if following < len(of.cohort) else {})}


def _head(work: Work, of: Rollout) -> dict[str, Any]:
    order = policies.order_of(work.tx, of.id)
    said = [one.row() for one in notes.newest(work.tx, _NOTES, rollout=of.id)]
    traces, _ = fitted(list(_traces(work.tx, of.id)), _HEAD_BUDGET // 2)
    return {
        **rollouts.row_of(of),
        **(order.row() | {"asked": policies.plain(order.asked)} if order else {}),
        **({"approved": policies.plain(order.edited)} if order and order.edited else {}),
        "fleet": work.house.fleet,
        "selector": dict(of.selector),
        "settle": int(of.settle),
        "device_timeout": int(of.device_timeout),
        "strategy": of.strategy,
        **planning.gate(of),
        **some(takes_back=_taken_back(work, of)),
        "notes": fitted(said, _HEAD_BUDGET // 4)[0],
        "audit": traces,
        **some(success_percent=_rate(Counter(of.counts))),
    }


def _traces(tx: Connection, rollout: str) -> Iterator[dict[str, Any]]:
    """What the audit log says of a rollout: the entries' numbers lead to all of it."""
    table = schema.audit.c
    about = table.data.contains(f'"rollout":"{rollout}"', autoescape=True)
    query = sa.select(table.n, table.at, table.actor, table.action, table.data).where(about)
    for row in tx.execute(query.order_by(table.n).limit(_TRACES)):
        yield {**some(n=row.n, at=row.at, actor=row.actor, action=row.action, what=_what(row.data))}


def _what(data: str) -> str:
    """What of an entry a report says beside its action: the decision, the wave, what was edited."""
    told = json.loads(data)
    wave = told.get("wave")
    edited = ", ".join(told.get("edited", ()))
    parts = (told.get("decision"), f"wave {wave}" if wave else "", f"with other {edited}" if edited else "")
    return "; ".join(str(part) for part in parts if part)


def _taken_back(work: Work, of: Rollout) -> str | None:
    """The version from which this rollout brings devices back, if it is one that does."""
    row = catalogue.by_digest(work.tx, of.withdraws) if of.withdraws else None
    return of.withdraws[:12] or None if row is None else row.version


def _device(of: Rollout, device: str, group: str) -> dict[str, Any]:
    record = of.devices[device]
    row = {"id": device, "group": group, "wave": record.wave, "terminal": str(record.terminal)}
    since, ended = moment(record.since), moment(record.ended)
    # That it proved healthy stays so; whether it still ran the release is another fact.
    row |= {"on_goal": record.on_goal}
    return row | some(code=record.code, reason=record.reason, since=since, ended=ended)

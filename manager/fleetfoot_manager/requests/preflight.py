"""The verbs about preflight: asking the fleet what it would do, and counting what it answered.

A probe is one retained message for each group; each device answers in its attested status. Nothing of it is
kept here but the probe: the answers are the devices' own, so a store that has just been wiped counts the same
once they have spoken. A device that has not answered this very probe is unknown, whatever else is known.
"""

from collections import Counter
from typing import Any, NamedTuple

from fleetfoot_manager import planning, publisher, rights, targets
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.requests import arguments, rollout_arguments
from fleetfoot_manager.requests.answers import fitted, some
from fleetfoot_manager.requests.starting import demand_signed
from fleetfoot_manager.work import Work
from fleetfoot_protocol import admission, times
from fleetfoot_protocol.reports import Preflight, Request
from fleetfoot_protocol.states import Verdict

#: What a device's verdict counts as.
WORDS: dict[Verdict, str] = {
    Verdict.ACCEPTED: "ok",
    Verdict.DEFERRED: "deferred",
    Verdict.REJECTED: "refused",
}
UNKNOWN = "unknown"
#: Those first that a person looks for.
_ORDER = ("refused", UNKNOWN, "deferred", "ok")


class _Row(NamedTuple):
    """A device with what it answered, and what that counts as."""

    entry: DeviceEntry
    answer: Preflight | None
    counts_as: str


def probe(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.probe`: what would be refused as a plan is not asked; else one message goes to each group."""
    asked = arguments.parse(rollout_arguments.RolloutProbe, request.arguments)
    rights.demand_anywhere(work.house.root, request)
    asked = targets.resolved(work.tx, asked)
    rights.demand(work.house.root, request, asked.groups)
    made = planning.make(work.tx, asked, "r-plan", work.now)
    demand_signed(work, made.release)
    name, goal = work.house.name("p-"), made.rollout.goal
    expires = work.now + asked.deadline
    for group in made.rollout.groups:
        publisher.put_probe(work.tx, work.house, group, asked.component, name, goal, work.now, expires)
    data = {
        "probe": name,
        "groups": list(asked.groups),
        "component": asked.component,
        "version": asked.version,
        "node_count": made.rollout.total,
    }
    work.audit(request.operator, "group.upgrade.preflight", data)
    return {
        "id": name,
        "component": asked.component,
        "version": asked.version,
        "digest": goal.digest,
        "groups": list(asked.groups),
        "total": made.rollout.total,
        "expires": times.to_text(expires),
    }


def answers(work: Work, request: Request) -> dict[str, Any]:
    """`rollout.answers`: how many devices would, would later, would not; and who has not said."""
    asked = arguments.parse(rollout_arguments.RolloutAnswers, request.arguments)
    rights.demand_anywhere(work.house.root, request)
    asked = targets.resolved(work.tx, asked)
    rights.demand(work.house.root, request, asked.groups)
    rows = [_row(entry, asked) for entry in _asked(work, asked)]
    rows.sort(key=lambda row: (_ORDER.index(row.counts_as), row.entry.id))
    counts = Counter(row.counts_as for row in rows)
    reasons = Counter((row.counts_as, _why(row)) for row in rows)
    shown, more = fitted([_shown(row) for row in rows])
    return {
        "id": asked.id,
        "total": len(rows),
        "counts": {word: counts[word] for word in ("ok", "deferred", "refused", UNKNOWN)},
        "reasons": [
            {"counts_as": word, "why": why, "count": count}
            for (word, why), count in sorted(
                reasons.items(), key=lambda item: (_ORDER.index(item[0][0]), -item[1], item[0][1])
            )
        ],
        "devices": shown,
        **({"more": more} if more else {}),
    }


def _asked(work: Work, asked: rollout_arguments.RolloutAnswers) -> list[DeviceEntry]:
    """Of whom an answer is wanted, as they are by now."""
    if not asked.devices:
        every = work.devices.members(work.tx, asked.groups)
        return [entry for entry in every if admission.matches(asked.selector, entry.labels)]
    work.devices.expect(work.tx, asked.devices)
    found = (work.devices.find(work.tx, device) for device in asked.devices)
    return [entry for entry in found if entry is not None]


def _row(entry: DeviceEntry, asked: rollout_arguments.RolloutAnswers) -> _Row:
    one = entry.status.components.get(asked.component) if entry.status else None
    found = one.preflight if one else None
    if found is None or (found.id, found.digest) != (asked.id, asked.digest):
        return _Row(entry, None, UNKNOWN)
    return _Row(entry, found, WORDS[found.verdict])


def _why(row: _Row) -> str:
    """A word to count by: the code of the answer, else what it accepted; of silence, what is known."""
    if row.answer is not None:
        return row.answer.code or row.answer.reason
    if row.entry.status is None:
        return "never heard"
    return "no answer" if row.entry.online else "offline"


def _shown(row: _Row) -> dict[str, Any]:
    reason = row.answer.reason if row.answer else _why(row)
    return {
        "device": row.entry.id,
        "group": row.entry.group,
        "counts_as": row.counts_as,
        **some(code=row.answer.code if row.answer else None, reason=reason, at=row.answer and row.answer.at),
    }

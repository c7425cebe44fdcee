"""Rollouts and plans as people read them."""

from collections.abc import Mapping

from fleetfoot_client.following import View
from fleetfoot_client.rows import PlanRow, RolloutRow
from fleetfoot_client.terminal import facts, literal, table
from fleetfoot_protocol.states import BADGES, RolloutState

_LISTED = 20
_BY_WORD = {badge.word: badge for badge in BADGES.values()}


def badge(state: str) -> str:
    """Glyph and word of a state or of a badge's word; what is not known as it is."""
    found = BADGES.get(state) or _BY_WORD.get(state)
    return f"{found.glyph} {found.word}" if found else state


def plan(row: PlanRow) -> str:
    """A plan: the waves, who has it already, who would refuse."""
    text = facts(
        [
            ("upgrade", f"{row.component} to {row.version}"),
            ("groups", " ".join(row.groups)),
            ("devices", row.total),
            ("waves", ", ".join(map(str, row.waves)) + " (cumulative)"),
            ("settle", _seconds(row.settle)),
            ("device timeout", _seconds(row.device_timeout)),
            ("trips at", _breaker(row.breaker)),
            ("approval", "needed before it starts" if row.approval else ""),
            ("already there", max(row.already_count, len(row.already)) or ""),
            ("ahead", row.ahead_count or ""),
            ("offline", row.offline_count or ""),
            ("takes about", _estimate(row)),
        ]
    )
    text += "".join(f"\nmind: {literal(warning)}" for warning in row.warnings)
    refusing = max(row.refusing_count, len(row.refusing))
    if refusing:
        cells = [(r.device, r.code, r.reason) for r in row.refusing[:_LISTED]]
        text += f"\n\n{refusing} would refuse it:\n{table(('DEVICE', 'CODE', 'REASON'), cells)}"
        text += more(refusing - len(cells))
    if row.notes:
        noted = [(note.at, note.rollout, note.author, note.category, note.title) for note in row.notes]
        text += (
            f"\n\nnoted of earlier rollouts:\n{table(('AT', 'ROLLOUT', 'WHO', 'CATEGORY', 'NOTE'), noted)}"
        )
    return text


def _estimate(row: PlanRow) -> str:
    if not row.estimated_total_seconds:
        return ""
    source = "this fleet's history" if row.estimated_from == "history" else "the defaults"
    return f"{_seconds(row.estimated_total_seconds)}, by {source}"


def listing(rows: list[RolloutRow], left_out: int) -> str:
    """Rollouts, a line each, and how many more there are."""
    if not rows:
        return "no rollout is under way; ended ones: fleetfoot rollout list --all"
    cells = [
        (r.rollout, f"{r.component} {r.version}", " ".join(r.groups), r.state, _waves(r.wave, r.waves),
         _counts(r.counts), r.started)
        for r in rows
    ]  # fmt: skip
    return table(("ROLLOUT", "UPGRADE", "GROUPS", "STATE", "WAVE", "DEVICES", "STARTED"), cells) + more(
        left_out
    )


def summary(row: RolloutRow) -> str:
    """A rollout without its devices, and what can be done if it stands."""
    text = facts(
        [
            ("rollout", row.rollout),
            ("upgrade", f"{row.component} to {row.version}"),
            ("groups", " ".join(row.groups)),
            ("state", row.state + (f" ({row.reason})" if row.reason else "")),
            ("wave", f"{_waves(row.wave, row.waves)}: {', '.join(map(str, row.waves))} of {row.total}"),
            ("devices", _counts(row.counts)),
            ("asked by", row.requested_by),
            (row.decision or "decided", f"by {row.decided_by}" if row.decided_by else ""),
            ("attempt", row.attempt if row.attempt > 1 else ""),
            ("started", row.started),
            ("settles", row.settles),
            ("ended", row.ended),
            ("revision", row.revision),
        ]
    )
    hint = _hint(row.state, literal(row.rollout))
    return f"{text}\n\n{hint}" if hint else text


def one(row: RolloutRow) -> str:
    """A rollout with its devices."""
    if not row.devices:
        return summary(row)
    cells = [(d.id, d.group, d.wave, badge(d.terminal), d.code, d.reason) for d in row.devices]
    devices = table(("DEVICE", "GROUP", "WAVE", "RESULT", "CODE", "REASON"), cells)
    return f"{summary(row)}\n\n{devices}{more(row.more)}"


def line(view: View) -> str:
    """One moment of a rollout in one line."""
    parts = [
        f"{view.rollout}  {view.component} {view.version}",
        f"{view.state + (f' ({view.reason})' if view.reason else '')}",
        f"wave {_waves(view.wave, view.waves)}",
        _counts(view.counts),
    ]
    text = literal("  ".join(part for part in parts if part))
    hint = _hint(view.state, literal(view.rollout))
    return f"{text}\n{hint}" if hint else text


def _hint(state: str, rollout: str) -> str:
    if state == RolloutState.TRIPPED:
        return f"it needs a decision: fleetfoot rollout decide {rollout} continue|rollback|abort"
    if state == RolloutState.AWAITING_APPROVAL:
        return f"it awaits approval: fleetfoot rollout approve {rollout}"
    if state == RolloutState.PAUSED:
        return f"go on: fleetfoot rollout resume {rollout}"
    return ""


def _waves(wave: int, waves: tuple[int, ...]) -> str:
    return f"{wave}/{len(waves)}"


def _counts(counts: Mapping[str, int]) -> str:
    """The badge of every result that occurs and how often, in the order of the table of badges."""
    known = [state for state in BADGES if state in counts]
    states = list(dict.fromkeys([*known, *sorted(counts)]))
    return ", ".join(f"{badge(state)} {counts[state]}" for state in states if counts[state])


def _breaker(count: int) -> str:
    if count == 0:
        return "never"
    return "the 1st failure" if count == 1 else f"{count} failures"


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"


def more(count: int) -> str:
    """The line that says how many rows are not shown; nothing if all are."""
    return f"\n... and {count} more" if count > 0 else ""

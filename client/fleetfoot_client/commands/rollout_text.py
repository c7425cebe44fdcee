"""Rollouts and plans as people read them."""

from collections.abc import Mapping

from fleetfoot_client.following import View
from fleetfoot_client.rows import CauseRow, GateRow, PlanNote, PlanRow, RolloutRow, TookRow, awaited
from fleetfoot_client.terminal import facts, literal, table
from fleetfoot_protocol.states import BADGES, RolloutState

_LISTED = 20
_WAVES = 10
STAGING = {"first": "everybody stages before the first wave", "only": "until 'rollout activate'"}
_BY_WORD = {badge.word: badge for badge in BADGES.values()}


def badge(state: str) -> str:
    """Glyph and word of a state or of a badge's word; what is not known as it is."""
    found = BADGES.get(state) or _BY_WORD.get(state)
    return f"{found.glyph} {found.word}" if found else state.replace("_", " ")


def plan(row: PlanRow) -> str:
    """A plan: the waves, who has it already, who would refuse."""
    text = facts(
        [
            ("upgrade", f"{row.component} to {row.version}"),
            ("groups", " ".join(row.groups)),
            ("devices", row.total),
            ("chain", " then ".join(row.chain)),
            (row.strategy or "waves", _sizes(row.waves)),
            ("canaries", " ".join(row.canaries)),
            ("staging", STAGING.get(row.stage, row.stage)),
            ("settle", _seconds(row.settle)),
            ("device timeout", _seconds(row.device_timeout)),
            ("trips at", trips(row)),
            ("needs", f"{row.min_successes} successes in each wave" if row.min_successes > 1 else ""),
            ("approval", approval(row)),
            ("priority", row.priority or ""),
            ("expires", row.expires),
            ("already there", max(row.already_count, len(row.already)) or ""),
            ("ahead", row.ahead_count or ""),
            ("newer ones", "go down to it" if row.mode == "exactly" else ""),
            ("supersedes", " ".join(row.supersedes)),
            ("offline", _offline(row)),
            ("takes about", estimate(row)),
        ]
    )
    text += "".join(f"\nmind: {literal(warning)}" for warning in row.warnings)
    text += f"\nit cannot start now: {literal(row.blocked)}" if row.blocked else ""
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


def estimate(row: PlanRow) -> str:
    """How long it takes about, and by what one knows."""
    if not row.estimated_total_seconds:
        return ""
    source = "this fleet's history" if row.estimated_from == "history" else "the defaults"
    return f"{_seconds(row.estimated_total_seconds)}, by {source}"


def listing(rows: list[RolloutRow], left_out: int, *, ended: bool) -> str:
    """Rollouts, a line each, and how many more there are. ended: also those that have ended."""
    if not rows and ended:
        return "there was no rollout yet; begin one: fleetfoot rollout plan"
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
            (row.strategy or "waves", f"{_waves(row.wave, row.waves)}: {_sizes(row.waves)} of {row.total}"),
            ("canaries", " ".join(row.canaries)),
            ("staging", STAGING.get(row.stage, row.stage)),
            ("trips at", trips(row)),
            ("approval", approval(row)),
            ("devices", _counts(row.counts)),
            ("healthy after", took(row.took)),
            (
                "last time",
                f"{took(row.before)}, {row.before.version} in {row.before.rollout}" if row.before else "",
            ),
            ("asked by", row.requested_by),
            (row.decision or "decided", f"by {row.decided_by}" if row.decided_by else ""),
            ("attempt", row.attempt if row.attempt > 1 else ""),
            ("started", row.started),
            ("settles", row.settles),
            ("ended", row.ended),
            ("revision", row.revision),
        ]
    )
    if row.causes:
        text += f"\n\nfailures by cause\n{_causes(row.causes)}"
    if row.notes:
        text += "\n\nnoted\n" + "\n".join(_note(note) for note in row.notes)
    hint = _hint(row.state, literal(row.rollout), row.reason, literal(f"{row.component} {row.version}"))
    return f"{text}\n\n{hint}" if hint else text


def _note(note: PlanNote) -> str:
    """A note with the whole story, its lines set in below the first."""
    tags = "".join(f" #{tag}" for tag in note.tags)
    head = literal(f"{note.at}  {note.author}  {note.category}: {note.title}{tags}")
    return "\n".join([head, *(f"    {literal(line)}" for line in note.text.splitlines())])


def took(row: TookRow | None) -> str:
    """How long devices took from being asked to being healthy."""
    if row is None:
        return ""
    count = "1 device" if row.devices == 1 else f"{row.devices} devices"
    return f"median {_seconds(row.median)}, 9 of 10 within {_seconds(row.p90)} ({count})"


def _causes(rows: tuple[CauseRow, ...]) -> str:
    return table(("DEVICES", "GROUP", "CODE"), [(r.count, r.group, r.code) for r in rows])


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
    hint = _hint(view.state, literal(view.rollout), view.reason, literal(f"{view.component} {view.version}"))
    return f"{text}\n{hint}" if hint else text


def _hint(state: str, rollout: str, reason: str, release: str) -> str:
    if state == RolloutState.TRIPPED:
        return f"it needs a decision: fleetfoot rollout decide {rollout} continue|rollback|abort"
    if state == RolloutState.AWAITING_APPROVAL:
        return f"it awaits approval: fleetfoot rollout approve {rollout}"
    word = awaited(state, reason)
    if word == "activation":
        return f"go on with it: fleetfoot rollout activate {rollout}"
    if word == "approval":
        return f"let the next wave open: fleetfoot rollout approve {rollout}"
    if word == "blessing":
        return f"bless it, and it goes on: fleetfoot release promote {release} blessed"
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


def _sizes(waves: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, waves[:_WAVES])) + (f" ... {waves[-1]}" if waves[_WAVES:] else "")
    return f"{shown} (cumulative)"


def trips(row: GateRow) -> str:
    """What stops it; nothing where that is not known."""
    limit = f"more than {row.failure_percent} % failures" if row.failure_percent else ""
    if row.breaker is None:
        return ""
    if row.breaker == 0:
        return limit or "never"
    count = "the 1st failure" if row.breaker == 1 else f"{row.breaker} failures"
    in_a_row = " in a row" if row.consecutive and row.breaker > 1 else ""
    return f"{count}{in_a_row}{f', or {limit}' if limit else ''}"


def _offline(row: PlanRow) -> str:
    skipped = ", not waited for" if row.offline_policy == "skip" else ""
    return f"{row.offline_count}{skipped}" if row.offline_count else ""


def approval(row: PlanRow | RolloutRow) -> str:
    """Where somebody has to approve."""
    start = "before it starts" if isinstance(row, PlanRow) and row.approval else ""
    waves = "before each wave behind the first" if row.approve_each_wave else ""
    return f"needed {' and '.join(filter(None, (start, waves)))}" if start or waves else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"


def more(count: int) -> str:
    """The line that says how many rows are not shown; nothing if all are."""
    return f"\n... and {count} more" if count > 0 else ""

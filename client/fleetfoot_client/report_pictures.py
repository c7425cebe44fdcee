"""The pictures of a report, as SVG inside the page: who ended how in each wave, and when what happened.

Every figure that a picture shows stands as text beside it, and no two results differ by their colour alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from fleetfoot_client.rows import ReportDevice, ReportRow, TraceRow
from fleetfoot_client.terminal import literal
from fleetfoot_protocol import times
from fleetfoot_protocol.states import BADGES, TAKEN_BACK, RolloutState, Terminal

#: How a device can end, in the order of the bars -> the class of its look.
LOOKS: dict[str, str] = {
    Terminal.HEALTHY: "good",
    TAKEN_BACK: "returned",
    Terminal.SKIPPED: "calm",
    Terminal.STAGED: "staged",
    Terminal.ACTIVE: "open",
    Terminal.PENDING: "open",
    Terminal.CANCELED: "gone",
    Terminal.SILENT: "warn",
    Terminal.ROLLED_BACK: "back",
    Terminal.FAILED: "bad",
}
WRONG = frozenset({"bad", "back", "warn"})
#: What the audit log says of people and gates -> the word on the time line.
_ACTS = {
    "group.upgrade.approve": "approved",
    "group.upgrade.reject": "rejected",
    "group.upgrade.paused": "paused",
    "group.upgrade.resume": "resumed",
    "group.upgrade.activate": "activated",
    "group.upgrade.decide": "decided",
    "group.upgrade.retry": "tried again",
    "group.upgrade.cancel": "canceled",
}
_TRIP = ("group.upgrade.paused", "manager")
_WIDTH, _BAR, _GAP, _LEFT, _RIGHT = 720, 22, 8, 124, 56
_HEIGHT, _TICKS, _PHASES, _MARKS = 150, 5, 24, 12
_INNER = _WIDTH - _LEFT - _RIGHT

STYLE = """\
svg { max-width: 100%; height: auto; } svg text { fill: var(--text); font: 13px system-ui, sans-serif; }
svg text.small { fill: var(--soft); font-size: 12px; }
.good { fill: var(--good); } .calm { fill: var(--calm); } .warn { fill: var(--warn); }
.back { fill: var(--back); } .bad { fill: var(--bad); }
.staged { fill: var(--page); stroke: var(--good); stroke-width: 2; }
.returned { fill: var(--page); stroke: var(--back); stroke-width: 2; }
.open { fill: var(--page); stroke: var(--calm); stroke-width: 1.5; }
.gone { fill: var(--page); stroke: var(--calm); stroke-width: 1.5; stroke-dasharray: 3 3; }
.span { fill: var(--span); } .axis { stroke: var(--line); }
.mark { fill: none; stroke: var(--soft); stroke-dasharray: 2 3; }
.flag { fill: var(--soft); } svg text.number { fill: var(--page); font-size: 11px; }
.track { fill: none; stroke-width: 2; } .track.good { fill: none; stroke: var(--good); }
.track.bad { fill: none; stroke: var(--bad); stroke-dasharray: 6 3; }
"""


class Phase(NamedTuple):
    """A wave, or several neighbouring ones of a long row of batches."""

    name: str
    devices: Sequence[ReportDevice]


class Mark(NamedTuple):
    """Something that a person or the gate did. `at`: unix seconds."""

    at: int
    text: str


def ended(row: ReportRow, device: ReportDevice) -> str:
    """How the device ended, as the report counts it."""
    back = row.state == RolloutState.ROLLED_BACK and device.terminal == Terminal.HEALTHY
    return TAKEN_BACK if back and device.on_goal is False else device.terminal


def word(result: str) -> str:
    """A result as people read it."""
    badge = BADGES.get(result)
    return badge.word if badge else result.replace("_", " ")


def phases(row: ReportRow) -> list[Phase]:
    """The waves by their names, in their order; of very many, neighbours together."""
    waves: dict[int, list[ReportDevice]] = {}
    for device in row.devices:
        waves.setdefault(device.wave, []).append(device)
    numbers = sorted(number for number in waves if number)
    canaries = [numbers.pop(0)] if row.canaries and numbers[:1] == [1] else []
    found = [Phase("canaries", waves[number]) for number in canaries]
    step = max(1, -(-len(numbers) // _PHASES))
    for first in range(0, len(numbers), step):
        some = numbers[first : first + step]
        found.append(Phase(_name(row, some), [device for number in some for device in waves[number]]))
    return found + ([Phase("not reached", waves[0])] if 0 in waves else [])


def _name(row: ReportRow, numbers: Sequence[int]) -> str:
    if len(row.waves) == 1:
        return "everybody"
    kind = "step" if row.takes_back else "batch" if row.strategy == "batches" else "wave"
    first, last = numbers[0], numbers[-1]
    return f"{kind} {first}" if first == last else f"{kind} {first}-{last}"


def bars(row: ReportRow) -> str:
    """A bar for each wave, divided by how its devices ended, with a key."""
    found = phases(row)
    longest = max((len(phase.devices) for phase in found), default=1)
    parts = []
    for line, phase in enumerate(found):
        y, x = line * (_BAR + _GAP) + 2, float(_LEFT)
        counts = Counter(ended(row, device) for device in phase.devices)
        parts.append(f'<text x="0" y="{y + 16}">{_text(phase.name)}</text>')
        for result in sorted(counts, key=_rank):
            width = _INNER * counts[result] / longest
            about = f"{phase.name}: {counts[result]} {word(result)}"
            parts.append(
                f'<rect class="{_look(result)}" x="{x:.1f}" y="{y}" width="{max(1.0, width - 2):.1f}"'
                f' height="{_BAR}"><title>{_text(about)}</title></rect>'
            )
            x += width
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 16}">{len(phase.devices)}</text>')
    return _svg(len(found) * (_BAR + _GAP) + 4, parts, "devices by wave and result") + _key(row)


def _rank(result: str) -> int:
    order = list(LOOKS)
    return order.index(result) if result in order else len(order)


def _look(result: str) -> str:
    return LOOKS.get(result, "open")


def _key(row: ReportRow) -> str:
    """What the looks of the bars mean, and how many there are of each."""
    counts = Counter(ended(row, device) for device in row.devices)
    items = "".join(
        f'<span><svg width="16" height="14" aria-hidden="true"><path class="{_look(result)}"'
        f' d="M1 1h14v12h-14z"/></svg> {_text(word(result))} {counts[result]}</span>'
        for result in sorted(counts, key=_rank)
    )
    return f'\n<p class="key">{items}</p>'


def marks(row: ReportRow) -> list[Mark]:
    """What people and the gate did meanwhile, the earliest first."""
    found = [Mark(times.from_text(one.at), _act(one)) for one in row.audit if one.action in _ACTS]
    return sorted(found)[:_MARKS]


def _act(one: TraceRow) -> str:
    """What one did. By itself the manager pauses only what has tripped."""
    act = "tripped" if (one.action, one.actor) == _TRIP else _ACTS[one.action]
    return f"{act}{f' {one.what}' if one.what else ''} by {one.actor}"


def course(row: ReportRow) -> str:
    """When each wave was at work, when devices became healthy or failed, and who did what meanwhile."""
    moments = [times.from_text(at) for d in row.devices for at in (d.since, d.ended) if at and d.since]
    moments += [times.from_text(at) for at in (row.started, row.ended) if at]
    if not any(device.since for device in row.devices):
        return '<p class="soft">No device was asked to move.</p>'
    done = marks(row)
    start = min([*moments, *(mark.at for mark in done)])
    scale = _Scale(start, max([*moments, *(mark.at for mark in done)]) - start or 1)
    lanes, height = _lanes(row, scale)
    top = 24 if done else 4
    graph, base = _graph(row, scale, top + height + 12)
    flags = _flags(done, scale, base)
    parts = [*flags, f'<g transform="translate(0 {top})">', *lanes, "</g>", *graph, *_axis(row, scale, base)]
    picture = _svg(base + 26, parts, "waves and devices over time")
    return "\n".join(filter(None, (picture, _told(row), _listed(done, scale))))


class _Scale(NamedTuple):
    start: int
    span: int

    def x(self, at: float) -> float:
        return _LEFT + _INNER * (at - self.start) / self.span


def _lanes(row: ReportRow, scale: _Scale) -> tuple[list[str], int]:
    """From when to when each wave was at work: a line for each; and their height."""
    parts, y = [], 0
    for name, spell in _spells(row):
        parts.append(f'<text x="0" y="{y + 12}">{_text(name)}</text>')
        if spell is None:
            parts.append(f'<text class="small" x="{_LEFT}" y="{y + 12}">not opened</text>')
        else:
            x, width = scale.x(spell[0]), max(3.0, scale.x(spell[1]) - scale.x(spell[0]))
            about = f"{name}: {lasted(spell[1] - spell[0])}"
            parts.append(
                f'<rect class="span" x="{x:.1f}" y="{y}" width="{width:.1f}" height="14" rx="3">'
                f"<title>{_text(about)}</title></rect>"
            )
        y += 20
    return parts, y


def _spells(row: ReportRow) -> Iterable[tuple[str, tuple[int, int] | None]]:
    """(name, from when to when) of the staging, where it goes first, and of each wave."""
    over = times.from_text(row.ended) if row.ended else 0
    asked = [times.from_text(device.since) for device in row.devices if device.since]
    if row.stage and row.started:
        began = times.from_text(row.started)
        opened = [at for at in asked if at > began]
        yield "staging", (began, min(opened, default=over))
    for phase in phases(row):
        there = [device for device in phase.devices if device.since]
        if row.stage and row.started:
            there = [d for d in there if d.terminal != Terminal.STAGED and d.since > row.started]
        if there:
            ends = [times.from_text(device.ended) if device.ended else over for device in there]
            first = min(times.from_text(device.since) for device in there)
            yield phase.name, (first, max([first, *ends]))
        elif phase.name != "not reached":
            yield phase.name, None


def _graph(row: ReportRow, scale: _Scale, top: int) -> tuple[list[str], int]:
    """How many devices had become healthy, and how many had failed, over time; and its lower edge."""
    good, bad = _ends(row, frozenset({"good", "returned"})), _ends(row, WRONG)
    base, most = top + _HEIGHT, max(len(good), len(bad), 1)
    parts = [f'<text class="small" x="0" y="{top + 24}">devices: {most}</text>']
    for moments, look in ((good, "good"), (bad, "bad")):
        if moments:
            path = f"M{scale.x(moments[0]):.1f} {base}"
            for number, at in enumerate(moments, 1):
                path += f"H{scale.x(at):.1f}V{base - (_HEIGHT - 20) * number / most:.1f}"
            parts.append(f'<path class="track {look}" d="{path}H{_WIDTH - _RIGHT}"/>')
    return parts, base


def _ends(row: ReportRow, looks: frozenset[str]) -> list[int]:
    return sorted(
        times.from_text(device.ended)
        for device in row.devices
        if device.ended and LOOKS.get(ended(row, device)) in looks
    )


def _axis(row: ReportRow, scale: _Scale, base: int) -> Iterable[str]:
    yield f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{_WIDTH - _RIGHT}" y2="{base}"/>'
    shown = ""
    for tick in range(_TICKS):
        seconds = scale.span * tick // (_TICKS - 1)
        x = scale.x(scale.start + scale.span * tick / (_TICKS - 1))
        text = f"+{lasted(seconds)}" if tick else "0"
        yield f'<line class="axis" x1="{x:.1f}" y1="{base}" x2="{x:.1f}" y2="{base + 5}"/>'
        if text != shown:
            yield f'<text class="small" x="{x:.1f}" y="{base + 19}" text-anchor="middle">{text}</text>'
        shown = text


def _flags(done: Sequence[Mark], scale: _Scale, base: int) -> Iterable[str]:
    """A numbered flag for each act, kept apart from the one before."""
    place = 0.0
    for number, mark in enumerate(done, 1):
        x = scale.x(mark.at)
        place = min(max(x, place + 18), _WIDTH - 9.0)
        line = f"M{place:.1f} 16L{x:.1f} 24V{base}"
        yield f'<path class="mark" d="{line}"><title>{_text(mark.text)}</title></path>'
        yield f'<circle class="flag" cx="{place:.1f}" cy="9" r="8"/>'
        yield f'<text class="number" x="{place:.1f}" y="13" text-anchor="middle">{number}</text>'


def _told(row: ReportRow) -> str:
    good = len(_ends(row, frozenset({"good", "returned"})))
    bad = len(_ends(row, WRONG))
    text = f"{good} became healthy (line), {bad} failed, went back or stayed silent (dashed)"
    return f'<p class="soft">{_text(text)}; it began at {_text(row.started or "no time")}.</p>'


def _listed(done: Sequence[Mark], scale: _Scale) -> str:
    items = "".join(f"<li>{_text(f'+{lasted(m.at - scale.start)}: {m.text}')}</li>" for m in done)
    return f"<ol>{items}</ol>" if items else ""


def lasted(seconds: int) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _text(text: object) -> str:
    """Text as it stands in a page: control characters written out, markup escaped."""
    return escape(literal(str(text)))


def _svg(height: float, parts: Iterable[str], label: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg role="img" aria-label="{_text(label)}" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
        f' height="{height:.0f}">\n{body}\n</svg>'
    )

"""The report of an ended rollout: `report.json` as the manager said it, `report.html` for people.

The page is a single file: no script, nothing is loaded, pictures are SVG inside it, and it follows the
reader's choice of light or dark. All that came from the network is written as text, never as markup.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from fleetfoot_client.rows import PlanNote, ReportDevice, ReportRow, parse
from fleetfoot_client.terminal import literal
from fleetfoot_protocol import times
from fleetfoot_protocol.states import BADGES, Terminal

#: How a device can end, in the order of the bars -> the class of its colour.
_CLASSES: dict[str, str] = {
    Terminal.HEALTHY: "good",
    Terminal.SKIPPED: "calm",
    Terminal.STAGED: "calm",
    Terminal.ACTIVE: "calm",
    Terminal.PENDING: "calm",
    Terminal.CANCELED: "calm",
    Terminal.SILENT: "warn",
    Terminal.ROLLED_BACK: "back",
    Terminal.FAILED: "bad",
}
_WIDTH, _BAR, _GAP = 640, 22, 10
_HEIGHT = 160

_STYLE = """\
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1f24; --soft: #5c6570; --line: #d5dae0;
  --good: #2563c9; --calm: #a9b3bf; --warn: #d9a300; --back: #d96b0b; --bad: #c62828; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --text: #e6e9ed; --soft: #9aa4b0; --line: #333a43;
    --good: #6ea0f5; --calm: #5a6572; --warn: #e6bb3c; --back: #f2994a; --bad: #ef6b6b; } }
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.soft { color: var(--soft); } .wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--text); font: 13px system-ui, sans-serif; }
.good { fill: var(--good); } .calm { fill: var(--calm); } .warn { fill: var(--warn); }
.back { fill: var(--back); } .bad { fill: var(--bad); }
.track { fill: none; stroke-width: 2; } .axis { stroke: var(--line); }
.track.good { fill: none; stroke: var(--good); } .track.bad { fill: none; stroke: var(--bad); }
"""


def as_json(value: dict[str, Any]) -> bytes:
    """`report.json`."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def as_html(value: dict[str, Any]) -> bytes:
    """`report.html`. FormError `upgrade_malformed` for a value that is no report."""
    row = parse(ReportRow, value)
    title = f"{row.component} {row.version}: {row.state}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="soft">rollout {_text(row.rollout)} of fleet {_text(row.fleet)}</p>',
        _facts(row),
        "<h2>Devices by wave</h2>",
        _waves(row),
        "<h2>As it went</h2>",
        _course(row),
        *_problems(row),
        *_notes(row.notes),
        "<h2>Devices</h2>",
        _devices(row.devices),
        *_traces(row),
    ]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    return page.encode()


def _text(text: object) -> str:
    """Text as it stands in a page: control characters written out, markup escaped."""
    return escape(literal(str(text)))


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _facts(row: ReportRow) -> str:
    counts = Counter(device.terminal for device in row.devices)
    pairs: list[tuple[str, object]] = [
        ("groups", ", ".join(row.groups)),
        ("devices", row.total),
        ("results", ", ".join(f"{_word(name)} {counts[name]}" for name in _CLASSES if counts[name])),
        ("success", "" if row.success_percent is None else f"{row.success_percent} %"),
        ("reason", row.reason),
        ("waves", ", ".join(map(str, row.waves)) + " (cumulative)"),
        ("asked by", row.requested_by),
        (row.decision or "decided", f"by {row.decided_by}" if row.decided_by else ""),
        ("started", row.started),
        ("ended", row.ended),
        ("release", row.digest),
    ]
    return _table(("", ""), [pair for pair in pairs if pair[1] != ""])


def _word(terminal: str) -> str:
    badge = BADGES.get(terminal)
    return badge.word if badge else terminal


def _waves(row: ReportRow) -> str:
    """A bar for each wave, divided by how its devices ended."""
    waves: dict[int, Counter[str]] = {}
    for device in row.devices:
        waves.setdefault(device.wave, Counter())[device.terminal] += 1
    longest = max((sum(counts.values()) for counts in waves.values()), default=1)
    parts = []
    for line, (wave, counts) in enumerate(sorted(waves.items())):
        y = line * (_BAR + _GAP)
        x = 90.0
        name = f"wave {wave}" if wave else "no wave"
        parts.append(f'<text x="0" y="{y + 16}">{name}</text>')
        for terminal, colour in _CLASSES.items():
            if counts[terminal]:
                width = (_WIDTH - 140) * counts[terminal] / longest
                about = f"{name}: {counts[terminal]} {_word(terminal)}"
                parts.append(
                    f'<rect class="{colour}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}">'
                    f"<title>{_text(about)}</title></rect>"
                )
                x += width
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 16}">{sum(counts.values())}</text>')
    return _svg(len(waves) * (_BAR + _GAP), parts, "devices by wave and result")


def _course(row: ReportRow) -> str:
    """How many devices had become healthy, and how many had failed, over time."""
    ends = [(times.from_text(d.ended), _CLASSES.get(d.terminal, "calm")) for d in row.devices if d.ended]
    good = sorted(at for at, colour in ends if colour == "good")
    bad = sorted(at for at, colour in ends if colour in ("bad", "back", "warn"))
    if not good and not bad:
        return '<p class="soft">No device was asked to move.</p>'
    start = min([*good, *bad, *([times.from_text(row.started)] if row.started else [])])
    last = max([*good, *bad, *([times.from_text(row.ended)] if row.ended else [])])
    span, most = max(1, last - start), max(len(good), len(bad))
    parts = [f'<line class="axis" x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}"/>']
    for moments, colour in ((good, "good"), (bad, "bad")):
        if moments:
            path = f"M0 {_HEIGHT}"
            for number, at in enumerate(moments, 1):
                path += f"H{_WIDTH * (at - start) / span:.1f}V{_HEIGHT - (_HEIGHT - 20) * number / most:.1f}"
            parts.append(f'<path class="track {colour}" d="{path}H{_WIDTH}"/>')
    parts.append(f'<text x="0" y="{_HEIGHT + 18}">{_text(row.started)}</text>')
    parts.append(
        f'<text x="{_WIDTH}" y="{_HEIGHT + 18}" text-anchor="end">{_text(_lasted(span))} later</text>'
    )
    key = f"{len(good)} became healthy (blue), {len(bad)} failed, went back or stayed silent (red)"
    picture = _svg(_HEIGHT + 26, parts, "devices that ended, over time")
    return f'{picture}\n<p class="soft">{_text(key)}</p>'


def _lasted(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _svg(height: float, parts: Iterable[str], label: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg role="img" aria-label="{_text(label)}" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
        f' height="{height:.0f}">\n{body}\n</svg>'
    )


def _problems(row: ReportRow) -> list[str]:
    found = Counter(
        (_word(device.terminal), device.code, device.reason)
        for device in row.devices
        if _CLASSES.get(device.terminal) in ("bad", "back", "warn")
    )
    if not found:
        return []
    rows = [(count, *what) for what, count in found.most_common(20)]
    return ["<h2>What went wrong</h2>", _table(("devices", "result", "code", "reason"), rows)]


def _notes(notes: Sequence[PlanNote]) -> list[str]:
    rows = [(note.at, note.author, note.category, note.title, note.text) for note in notes]
    return ["<h2>Notes</h2>", _table(("at", "who", "category", "title", "text"), rows)] if rows else []


def _devices(devices: Sequence[ReportDevice]) -> str:
    order = list(reversed(_CLASSES))
    rows = sorted(devices, key=lambda d: (order.index(d.terminal) if d.terminal in order else 0, d.wave))
    cells = [
        (d.id, d.group, d.wave or "", _word(d.terminal), d.code, d.reason, d.since, d.ended) for d in rows
    ]
    return _table(("device", "group", "wave", "result", "code", "reason", "asked", "ended"), cells)


def _traces(row: ReportRow) -> list[str]:
    cells = [(one.n, one.at, one.actor, one.action) for one in row.audit]
    if not cells:
        return []
    return ["<h2>In the audit log</h2>", _table(("entry", "at", "who", "action"), cells)]

"""The report of an ended rollout: `report.json` as the manager said it, `report.html` for people.

The page is a single file: no script, nothing is loaded, pictures are SVG inside it, and it follows the
reader's choice of light or dark. All that came from the network is written as text, never as markup.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from fleetfoot_client import report_pictures as pictures
from fleetfoot_client.commands import rollout_text
from fleetfoot_client.report_pictures import word
from fleetfoot_client.rows import PlanNote, ReportRow, parse
from fleetfoot_client.terminal import literal

_WAVES = 12

_STYLE = """\
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1f24; --soft: #5c6570; --line: #d5dae0;
  --good: #2563c9; --calm: #a9b3bf; --warn: #d9a300; --back: #d96b0b; --bad: #c62828; --span: #c3d3ee; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --text: #e6e9ed; --soft: #9aa4b0; --line: #333a43;
    --good: #6ea0f5; --calm: #66717e; --warn: #e6bb3c; --back: #f2994a; --bad: #ef6b6b; --span: #34496b; } }
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.soft { color: var(--soft); } .wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; } td:first-child { overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; color: var(--soft); margin: .5rem 0; }
.key svg { vertical-align: -2px; } ol { color: var(--soft); padding-left: 1.25rem; }
"""


def as_json(value: dict[str, Any]) -> bytes:
    """`report.json`."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def as_html(value: dict[str, Any]) -> bytes:
    """`report.html`. FormError `upgrade_malformed` for a value that is no report."""
    row = parse(ReportRow, value)
    title = f"{row.component} {row.version}: {row.state.replace('_', ' ')}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="soft">rollout {_text(row.rollout)} of fleet {_text(row.fleet)}</p>',
        _facts(row),
        *_edits(row),
        "<h2>Devices by wave</h2>",
        pictures.bars(row),
        "<h2>As it went</h2>",
        pictures.course(row),
        *_problems(row),
        *_notes(row.notes),
        "<h2>Devices</h2>",
        _devices(row),
        *_traces(row),
    ]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{_STYLE}{pictures.STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
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
    counts = Counter(pictures.ended(row, device) for device in row.devices)
    selector = ", ".join(f"{key}={value}" for key, value in row.selector.items())
    pairs: list[tuple[str, object]] = [
        ("groups", ", ".join(row.groups)),
        ("only", selector),
        ("devices", row.total),
        ("results", ", ".join(f"{word(name)} {counts[name]}" for name in pictures.LOOKS if counts[name])),
        ("success", "" if row.success_percent is None else f"{row.success_percent} %"),
        ("reason", row.reason),
        ("takes back", f"{row.component} {row.takes_back}" if row.takes_back else ""),
        ("goes out by", _way(row)),
        ("canaries", ", ".join(row.canaries)),
        ("staging", rollout_text.STAGING.get(row.stage, row.stage)),
        ("settles for", pictures.lasted(int(row.settle)) if row.settle else ""),
        ("trips at", rollout_text.trips(row)),
        ("needs", f"{row.min_successes} successes in each wave" if row.min_successes > 1 else ""),
        ("offline devices", "are not waited for" if row.offline_policy == "skip" else ""),
        ("each wave", "is approved" if row.approve_each_wave else ""),
        ("priority", row.priority or ""),
        ("would expire", row.expires),
        ("comes after", row.after),
        ("attempt", row.attempt if row.attempt > 1 else ""),
        ("asked by", row.requested_by),
        (row.decision or "decided", f"by {row.decided_by}" if row.decided_by else ""),
        ("started", row.started),
        ("ended", row.ended),
        ("release", row.digest),
    ]
    return _table(("", ""), [pair for pair in pairs if pair[1] != ""])


def _way(row: ReportRow) -> str:
    """The strategy in words: sizes of batches, cumulative counts of waves."""
    if len(row.waves) <= 1:
        return "everybody at once" if row.waves else ""
    if row.strategy == "batches":
        sizes = [after - before for before, after in pairwise(row.waves)]
        return f"{len(row.waves)} batches of up to {max([*sizes, row.waves[0]])} devices"
    shown = ", ".join(map(str, row.waves[:_WAVES])) + (f" ... {row.waves[-1]}" if row.waves[_WAVES:] else "")
    return f"waves up to {shown} devices"


def _edits(row: ReportRow) -> list[str]:
    """What was asked for and what was approved instead, where they differ."""
    names = [name for name in {**row.asked, **row.approved} if row.asked.get(name) != row.approved.get(name)]
    if not row.approved or not names:
        return []
    cells = [
        (name.replace("_", " "), _plain(row.asked.get(name)), _plain(row.approved.get(name)))
        for name in names
    ]
    return ["<h2>Edited on approval</h2>", _table(("", "asked for", "approved"), cells)]


def _plain(value: object) -> str:
    """An argument as people read it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "as usual" if value is None else str(value)


def _problems(row: ReportRow) -> list[str]:
    found = Counter(
        (word(device.terminal), device.code, device.reason)
        for device in row.devices
        if pictures.LOOKS.get(device.terminal) in pictures.WRONG
    )
    if not found:
        return []
    rows = [(count, *what) for what, count in found.most_common(20)]
    return ["<h2>What went wrong</h2>", _table(("devices", "result", "code", "reason"), rows)]


def _notes(notes: Sequence[PlanNote]) -> list[str]:
    rows = [(note.at, note.author, note.category, note.title, note.text) for note in notes]
    return ["<h2>Notes</h2>", _table(("at", "who", "category", "title", "text"), rows)] if rows else []


def _devices(row: ReportRow) -> str:
    order = list(reversed(pictures.LOOKS))
    ends = [(device, pictures.ended(row, device)) for device in row.devices]
    ends.sort(key=lambda one: (order.index(one[1]) if one[1] in order else 0, one[0].wave))
    cells = [(d.id, d.group, d.wave or "", word(end), d.code, d.reason, d.since, d.ended) for d, end in ends]
    return _table(("device", "group", "wave", "result", "code", "reason", "asked", "ended"), cells)


def _traces(row: ReportRow) -> list[str]:
    cells = [(one.n, one.at, one.actor, one.action, one.what) for one in row.audit]
    if not cells:
        return []
    return ["<h2>In the audit log</h2>", _table(("entry", "at", "who", "action", ""), cells)]

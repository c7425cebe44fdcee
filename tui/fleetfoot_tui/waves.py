"""A rollout in pictures made of characters: the strip of its waves, the funnel of phases, causes."""

from collections import Counter
from collections.abc import Iterable, Mapping

from fleetfoot_client.commands import rollout_text
from fleetfoot_client.rows import BeforeRow, RolloutDevice, RolloutRow, TookRow
from fleetfoot_protocol import times
from fleetfoot_protocol.states import TAKEN_BACK, RolloutState
from fleetfoot_tui.look import Cell, badge, bar, glyph, plural, rollout_badge, span

#: How devices ended, in the order of the strip.
ENDS = (
    "healthy", TAKEN_BACK, "active", "staged", "failed", "rolled_back", "silent", "canceled", "skipped",
    "pending",
)  # fmt: skip
#: Columns that a wave needs: in the strip, and as a number behind the mark; and what stands around those.
_SEGMENT, _STEP, _GATE = 8, 7, 30
#: Differences below this many seconds say nothing.
_CHANCE_SECONDS = 5.0
_ENDED = {str(state) for state in RolloutState if state.ended}
#: What a rollout stands for -> in words.
_AWAITED = {
    "approval": "awaits approval",
    "activation": "awaits activation",
    "blessing": "awaits a blessed release",
}
#: Not by colour alone: good is full, bad is hatched, what has not ended is light.
_BLOCKS = {
    "active": "▒",
    "pending": "░",
    "canceled": "░",
    "skipped": "░",
    "failed": "▚",
    "rolled_back": "▞",
    "silent": "?",
}


def strip(row: RolloutRow, width: int) -> list[Cell]:
    """A segment for each wave, as wide as its part, filled by how its devices ended.

    Where not every single device is known, the counts of the whole rollout fill the strip from the left,
    as the waves do. Of many waves, those around the open one.
    """
    if not row.waves or not row.total:
        return []
    sizes = [size - before for before, size in zip((0, *row.waves), row.waves, strict=False)]
    shown = around(row.wave, len(sizes), width // _SEGMENT)
    room = max(len(shown) * 4, width - 3 * (len(shown) - 1) - 4)
    part = max(1, sum(sizes[number - 1] for number in shown))
    whole = dict(row.counts)
    cells = [Cell("… ", "grey")] if shown[0] > 1 else []
    for number, size in enumerate(sizes, 1):
        known = _of_wave(row, number)
        found = _taken(whole, size) if known is None else known
        if number not in shown:
            continue
        if number > shown[0]:
            cells.append(Cell(" ▸ ", "bold" if number == row.wave else "grey"))
        cells += _filled(found, max(1, size), max(2, int(size / part * room)))
    return [*cells, Cell(" …", "grey")] if shown[-1] < len(sizes) else cells


def around(wave: int, count: int, most: int) -> range:
    """The numbers of the waves that are shown: at most so many of `count`, the open one among them."""
    most = max(1, min(most, count))
    first = max(1, min(wave - most // 3, count - most + 1))
    return range(first, first + most)


def _of_wave(row: RolloutRow, number: int) -> dict[str, int] | None:
    if row.more or len(row.devices) < row.total:
        return None
    return Counter(device.terminal for device in row.devices if device.wave == number)


def _taken(whole: dict[str, int], size: int) -> dict[str, int]:
    """`size` devices of those that are left, in the order of the strip."""
    found: dict[str, int] = {}
    for end in ENDS:
        part = min(whole.get(end, 0), size - sum(found.values()))
        if part > 0:
            found[end] = part
            whole[end] -= part
    return found


def _filled(found: Mapping[str, int], size: int, length: int) -> list[Cell]:
    """One segment: every result that occurs gets at least one block, the most frequent gives way."""
    ends = [end for end in (*ENDS, *found) if found.get(end)]
    blocks = {end: max(1, round(found[end] / size * length)) for end in dict.fromkeys(ends)}
    while blocks and sum(blocks.values()) > length and max(blocks.values()) > 1:
        blocks[max(blocks, key=lambda end: blocks[end])] -= 1
    if blocks and (spare := length - sum(blocks.values())) > 0:
        blocks[max(blocks, key=lambda end: blocks[end])] += spare
    return [Cell(_BLOCKS.get(end, "█") * count, badge(end).colour) for end, count in blocks.items()]


def gate(row: RolloutRow, now: float, width: int, *, turning: bool = True) -> list[Cell]:
    """Which waves are open, how large each is, and what the next one waits for.

    turning: whether there is a manager that opens it, as far as is known.
    """
    cells = [Cell("waves       ", "grey")]
    if row.stage:
        staged = row.wave > 0 or row.awaits == "activation"
        cells.append(
            Cell(f"{'✓' if staged else '▶' if row.started else '·'} staging  ", "blue" if staged else "bold")
        )
    shown = around(row.wave, len(row.waves), (width - _GATE) // _STEP)
    for number in shown:
        size = row.waves[number - 1]
        passed = number < row.wave or (number == row.wave and row.state == "completed")
        is_open = number == row.wave and row.state not in _ENDED
        mark = "✓" if passed else "▶" if is_open else "·"
        colour = "blue" if passed else "bold" if is_open else "grey"
        cells.append(Cell(f"{mark} {size}  ", colour))
    if len(shown) < len(row.waves):
        cells.append(Cell(f"of {len(row.waves)}  ", "grey"))
    if row.awaits:
        cells.append(Cell(_AWAITED[row.awaits], "yellow"))
    if row.state == "settling" and row.settles and not turning:
        cells.append(Cell("settles when the manager is back", "yellow"))
    elif row.state == "settling" and row.settles:
        cells.append(Cell(f"settles in {span(_left(row.settles, now))}", "cyan"))
    return cells


def _left(moment: str, now: float) -> float:
    try:
        return times.from_text(moment) - now
    except ValueError:
        return 0.0


def counts(row: RolloutRow) -> list[Cell]:
    """The badge of every result that occurs, and how often."""
    cells = [Cell("devices     ", "grey")]
    for end in [*ENDS, *sorted(set(row.counts) - set(ENDS))]:
        if row.counts.get(end):
            shown = badge(end)
            cells.append(Cell(f"{shown.text} {row.counts[end]}  ", shown.colour))
    return cells


def tally(row: RolloutRow) -> Cell:
    """Every result that occurs by its glyph, with its count, in the colour of the worst: for a table."""
    shown = [(glyph(end), row.counts[end]) for end in ENDS if row.counts.get(end)]
    worst = next((cell.colour for cell, _ in shown if cell.colour in ("red", "orange")), "")
    return Cell(" ".join(f"{cell.text}{count}" for cell, count in shown), worst)


#: The way of a device, and the states in which it is at least so far.
PHASES: tuple[tuple[str, frozenset[str]], ...] = (
    ("offered", frozenset({"idle", "waiting"})),
    ("download", frozenset({"downloading"})),
    ("verify", frozenset({"verifying", "staging"})),
    ("unpacked", frozenset({"staged"})),
    ("switched", frozenset({"activating"})),
    ("probation", frozenset({"probation"})),
)


def funnel(devices: Iterable[RolloutDevice], states: Mapping[str, str], width: int) -> list[list[Cell]]:
    """How many of the devices that were reached got at least so far. `states`: lifecycle by device."""
    places = {state: place for place, (_, found) in enumerate(PHASES) for state in found}
    reached = Counter[int]()
    for device in devices:
        if device.terminal in ("pending", "skipped", "canceled"):
            continue
        if device.terminal == "healthy":
            reached[len(PHASES)] += 1
        elif device.terminal == "staged":
            reached[places["staged"]] += 1
        elif device.terminal == "rolled_back":
            reached[places["activating"]] += 1
        else:
            reached[places.get(states.get(device.id, "idle"), 0)] += 1
    total = sum(reached.values())
    if not total:
        return []
    names = [*(name for name, _ in PHASES), "healthy"]
    lines = []
    for place, name in enumerate(names):
        count = sum(number for at, number in reached.items() if at >= place)
        lines.append(
            [Cell(f"{name:12}", "grey"), Cell(bar(count / total, width), "blue"), Cell(f" {count}", "grey")]
        )
    return lines


def causes(row: RolloutRow) -> list[list[Cell]]:
    """Failures by group and code, the most frequent first: one cause or many?"""
    found = Counter({(one.code, one.group): one.count for one in row.causes}) or Counter(
        (device.code or device.terminal, device.group)
        for device in row.devices
        if device.terminal in ("failed", "rolled_back", "silent")
    )
    return [
        [Cell(f"{count:>4}  ", "red"), Cell(code, "orange"), Cell(f"  in {group}", "grey")]
        for (code, group), count in found.most_common(5)
    ]


def strategy(row: RolloutRow) -> list[list[Cell]]:
    """How it goes out, and what stops it, as far as the manager has said."""
    parts = (
        row.strategy,
        f"trips at {stops}" if (stops := rollout_text.trips(row)) else "",
        f"approval {word}" if (word := rollout_text.approval(row)) else "",
        f"canaries {' '.join(row.canaries)}" if row.canaries else "",
        rollout_text.STAGING.get(row.stage, row.stage),
        f"priority {row.priority}" if row.priority else "",
        f"expires {row.expires}" if row.expires else "",
    )
    said = ", ".join(part for part in parts if part)
    return [[Cell("strategy    ", "grey"), Cell(said)]] if said else []


def pace(row: RolloutRow) -> list[list[Cell]]:
    """What devices took to be healthy, against the last rollout of the component."""
    if row.took is None:
        return []
    lines = [[Cell("healthy in  ", "grey"), Cell(f"{_took(row.took)}  ")]]
    if row.before is not None:
        lines[0].append(_against(row.took, row.before))
        last = f"{_took(row.before)}, {row.before.version} in {row.before.rollout}"
        lines.append([Cell("last time   ", "grey"), Cell(last, "grey")])
    return lines


def _took(row: TookRow) -> str:
    return f"{span(row.median)} median, {span(row.p90)} p90, {plural(row.devices, 'device')}"


def _against(took: TookRow, before: BeforeRow) -> Cell:
    """In words, where the difference is more than chance makes of a few seconds."""
    apart = took.median - before.median
    if abs(apart) < max(_CHANCE_SECONDS, before.median / 10):
        return Cell("as fast as last time", "blue")
    word = "slower" if apart > 0 else "faster"
    return Cell(f"{span(abs(apart))} {word} than last time", "orange" if apart > 0 else "blue")


def needed(device: RolloutDevice, now: float) -> str:
    """What a device took, or takes until now."""
    if not device.since or device.terminal in ("pending", "skipped", "canceled"):
        return ""
    passed = -_left(device.since, now)
    took = passed + _left(device.ended, now) if device.ended else passed
    return span(took) if took >= 0 else ""


def title(row: RolloutRow) -> list[Cell]:
    """What it is, and how it stands."""
    shown = rollout_badge(row.state)
    cells = [Cell(f"{row.component} {row.version}  ", "bold"), Cell(" ".join(row.groups)), Cell("   "), shown]
    return [*cells, Cell(f"  {row.reason}", "grey")] if row.reason else cells

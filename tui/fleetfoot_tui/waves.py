"""A rollout in pictures made of characters: the strip of its waves, the funnel of phases, causes."""

from collections import Counter
from collections.abc import Iterable, Mapping

from fleetfoot_client.rows import RolloutDevice, RolloutRow
from fleetfoot_protocol import times
from fleetfoot_tui.look import Cell, badge, bar, rollout_badge, span

#: How devices ended, in the order of the strip.
ENDS = ("healthy", "active", "staged", "failed", "rolled_back", "silent", "canceled", "skipped", "pending")
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
    as the waves do.
    """
    if not row.waves or not row.total:
        return []
    room = max(len(row.waves) * 4, width - 3 * (len(row.waves) - 1))
    whole = dict(row.counts)
    cells: list[Cell] = []
    before = 0
    for number, size in enumerate(row.waves, 1):
        if number > 1:
            cells.append(Cell(" ▸ ", "bold" if number == row.wave else "grey"))
        known = _of_wave(row, number)
        found = _taken(whole, size - before) if known is None else known
        length = max(2, round((size - before) / row.waves[-1] * room))
        cells += _filled(found, max(1, size - before), length)
        before = size
    return cells


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


def gate(row: RolloutRow, now: float, *, turning: bool = True) -> list[Cell]:
    """Which waves are open, how large each is, and what the next one waits for.

    turning: whether there is a manager that opens it, as far as is known.
    """
    cells = [Cell("waves       ", "grey")]
    for number, size in enumerate(row.waves, 1):
        passed = number < row.wave or (number == row.wave and row.state == "completed")
        mark = "✓" if passed else "▶" if number == row.wave else "·"
        colour = "blue" if passed else "bold" if number == row.wave else "grey"
        cells.append(Cell(f"{mark} {size}  ", colour))
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
        if device.terminal in ("healthy", "staged"):
            reached[len(PHASES)] += 1
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


def causes(devices: Iterable[RolloutDevice]) -> list[list[Cell]]:
    """Failures by group and code, the most frequent first: one cause or many?"""
    found = Counter(
        (device.code or device.terminal, device.group)
        for device in devices
        if device.terminal in ("failed", "rolled_back", "silent")
    )
    return [
        [Cell(f"{count:>4}  ", "red"), Cell(code, "orange"), Cell(f"  in {group}", "grey")]
        for (code, group), count in found.most_common(5)
    ]


def title(row: RolloutRow) -> list[Cell]:
    """What it is, and how it stands."""
    shown = rollout_badge(row.state)
    cells = [Cell(f"{row.component} {row.version}  ", "bold"), Cell(" ".join(row.groups)), Cell("   "), shown]
    return [*cells, Cell(f"  {row.reason}", "grey")] if row.reason else cells

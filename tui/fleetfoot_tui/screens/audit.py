"""The audit log, and at a glance whether it is what the director signed."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

from textual.widget import Widget

from fleetfoot_client.auditing import entry
from fleetfoot_protocol.auditchain import AuditHead, Entry
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui.columns import Column
from fleetfoot_tui.dialogs import Paper
from fleetfoot_tui.look import Cell, safe
from fleetfoot_tui.messages import Answered, Chosen, Refused
from fleetfoot_tui.model import Changes
from fleetfoot_tui.room import Page, Room, facts
from fleetfoot_tui.table import LineTable

COLUMNS = (
    Column("     N", 6, 6),
    Column("AT", 20, 20, rank=1),
    Column("WHO", 8, 20),
    Column("ACTION", 22, 28),
    Column("", 1, 1),
    Column("DATA", 10, 300, rank=2),
)


def verdict(entries: Sequence[Entry], head: AuditHead | None) -> tuple[Cell, set[int]]:
    """Whether a tail of the log holds together and ends where the director's signed head says; and what not.

    Returns the words and the numbers of entries that are wrong.
    """
    wrong = {one.n for one in entries if one.hash != one.expected_hash()}
    for before, one in pairwise(entries):
        if one.n != before.n + 1 or one.previous != before.hash:
            wrong.add(one.n)
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return Cell(f"✗ not what was written: entry {min(wrong)}{more}", "red"), wrong
    if not entries:
        return Cell("? nothing to verify", "yellow"), wrong
    first, last = entries[0].n, entries[-1].n
    if head is None:
        return Cell(f"? {first} to {last} hold together; no signed head was heard", "yellow"), wrong
    met = next((one for one in entries if one.n == head.count), None)
    if met is not None and met.hash == head.hash:
        return Cell(f"✓ {first} to {last} verified against the head the director signed", "blue"), wrong
    if head.count > last:
        return Cell(f"✗ the director signed {head.count} entries, the manager shows {last}", "red"), wrong
    return Cell(f"✗ the director signed another entry {head.count}", "red"), {head.count}


def told(data: str) -> str:
    """The data of an entry as `name=value`; as it stands where it is not what it should be."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(value, dict):
        return data
    shown = [(name, one if isinstance(one, str) else json.dumps(one)) for name, one in value.items()]
    return " ".join(f"{name}={one}" for name, one in shown)


class AuditRoom(Room):
    """The newest entries."""

    ABOUT = (
        "The newest entries of the log, checked here: each hash, that each follows from the one before, and "
        "that they meet the head that the director signed. The whole log: fleetfoot audit verify."
    )
    DEFAULT_CSS = "AuditRoom #verdict { height: 2; }"

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[str, Entry] = {}
        self._bad: set[int] = set()
        self._wrong = ""

    @property
    def crumb(self) -> str:
        """Audit."""
        return "Audit"

    def body(self) -> Iterable[Widget]:
        """The verdict, then the entries."""
        yield Page(id="verdict")
        yield LineTable(COLUMNS, self._cells, empty=" Nothing is in the log, or it may not be read.")

    def renew(self) -> None:
        """Ask for the newest."""
        self.ask("list", "audit.list")
        self._show()

    def notice(self, changes: Changes) -> None:
        """A new head means a new entry."""
        if "audit" in changes.kinds:
            self.ask("list", "audit.list")

    def on_answered(self, message: Answered) -> None:
        """A page."""
        try:
            found = [entry(value, "an entry") for value in message.result.get("entries", ())]
        except FleetfootError as error:
            self._wrong = error.message
        else:
            self._wrong = ""
            self._entries = {str(one.n): one for one in reversed(found)}
        self._show()

    def refused(self, message: Refused) -> None:
        """Said on top."""
        self._wrong = message.error.message
        self._show()

    def _show(self) -> None:
        said, self._bad = verdict(list(self._entries.values())[::-1], self.fleet.audit_head)
        table = self.query_one(LineTable)
        table.show(list(self._entries))
        table.dirty()
        self.query_one("#verdict", Page).update(self.paint([[said], [Cell(self._wrong, "yellow")]]))

    def _cells(self, key: str) -> Sequence[Cell]:
        one = self._entries[key]
        refused = one.action == "request.refused"
        return (
            Cell(str(one.n).rjust(6), "grey"),
            Cell(one.at, "grey"),
            Cell(one.actor),
            Cell(one.action, "orange" if refused else ""),
            Cell("✗", "red") if one.n in self._bad else Cell("✓", "blue"),
            Cell(told(one.data), "grey"),
        )

    def on_chosen(self, message: Chosen) -> None:
        """One entry, whole."""
        one = self._entries.get(message.key)
        if one is not None:
            pairs = [(name, str(value)) for name, value in one.model_dump(exclude={"data"}).items()]
            self.app.push_screen(Paper(f"Entry {one.n}", self.paint(facts([*pairs, *_single(one.data)]))))


def _single(data: str) -> list[tuple[str, str]]:
    """What an entry says, one thing after the other; as it is written, where it is nothing of that kind."""
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found:
        return [("data", data)]
    return [(f"{safe(name)[:24]}  ", _plain(value)) for name, value in found.items()]


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value)

"""Writes the tables of docs/security.md from test runs: what was tried, and what a break-in does not give.

    pytest -m row --junitxml=rows.xml && python -m docs.security_table rows.xml
    pytest -m row tests/conformance --junitxml=rows.xml && python -m docs.security_table --brokers rows.xml

The second form writes one table alone: of the rows that were carried out once per broker, what each stopped.
Where the whole takes too long at once, there may be several reports, of a room each.

A test of `tests/attack/rows.py` carries its row in the report. A row whose tests did not run, were left out
or failed is shown as such. Exits with 1 if there is any, or if a cell of the second table has no test.
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.rows import WANTS, WHO
from tests.conformance.expectations import BROKERS, STOPPED

PAGE = Path(__file__).parent / "security.md"
#: Where a part of the page begins and ends.
Marks = tuple[str, str]
ATTACKS: Marks = ("<!-- made from a test run: begin -->", "<!-- made from a test run: end -->")
PER_BROKER: Marks = (
    "<!-- made from a test run on each broker: begin -->",
    "<!-- made from a test run on each broker: end -->",
)
#: Rows of the catalogue that this page answers for.
ROWS = (
    *range(1, 4), *range(5, 8), 9, *range(11, 18), *range(19, 23), *range(24, 38), 39, 40, 41, 43,
    *range(45, 50), *range(51, 64), *range(65, 68), 69, 70, 71, *range(74, 78), *range(79, 84),
)  # fmt: skip


@dataclass
class Tried:
    """One test, over all of its parameters."""

    number: int
    test: str
    file: str
    tried: str
    survived: str
    holds: list[tuple[str, str]]
    outcomes: list[str] = field(default_factory=list)
    #: Broker -> whether it stopped what was tried, and why; of runs that passed.
    splits: dict[str, tuple[bool, str]] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """`passed` only if every parameter was."""
        worse = [outcome for outcome in self.outcomes if outcome != "passed"]
        return worse[0] if worse else "passed"


def read_reports(*paths: Path) -> list[Tried]:
    """The attacks of JUnit reports, by row and test."""
    found: dict[tuple[str, str], Tried] = {}
    for path in paths:
        _read_report(path, found)
    return sorted(found.values(), key=lambda one: (one.number, one.file, one.test))


def _read_report(path: Path, found: dict[tuple[str, str], Tried]) -> None:
    # The report was written by our own pytest, a moment ago.
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314
        for entry in case.iter("property"):
            if entry.get("name") != "row":
                continue
            about = json.loads(entry.get("value") or "{}")
            test = (case.get("name") or "").partition("[")[0]
            file = (case.get("classname") or "").replace(".", "/") + ".py"
            one = found.setdefault(
                (file, test),
                Tried(
                    about["number"], test, file, about["tried"], about["survived"],
                    [(who, wants) for who, wants in about["holds"]],
                ),
            )  # fmt: skip
            bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            one.outcomes.append(bad[0] if bad else "passed")
            for split in [] if bad else case.iter("property"):
                if split.get("name") == "split":
                    told = json.loads(split.get("value") or "{}")
                    one.splits[told["broker"]] = (told["stopped"], told["why"])


def tried_table(found: list[Tried]) -> str:
    """One line for each test; one for each row without any."""
    lines = ["| # | tried | survived | test |", "|---|---|---|---|"]
    have = {one.number for one in found}
    rows = [(one.number, _line(one)) for one in found]
    absent = [number for number in ROWS if number not in have]
    rows += [(number, f"| {number} | | **not tried in this run** | |") for number in absent]
    return "\n".join([*lines, *(line for _, line in sorted(rows, key=lambda item: item[0]))])


def _line(one: Tried) -> str:
    outcome = _cell(one.survived) if one.outcome == "passed" else f"**{one.outcome}**"
    return f"| {one.number} | {_cell(one.tried)} | {outcome} | {_link(one)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _link(one: Tried) -> str:
    words = re.sub(r"^test_row_\d+_", "", one.test).replace("_", " ")
    return f"[{words}](../{one.file})"


def compromise_table(found: list[Tried]) -> str:
    """Who was taken over, and which tests show that it does not give what they want."""
    lines = [f"| taken over | {' | '.join(WANTS.values())} |", "|---" * (len(WANTS) + 1) + "|"]
    for who, words in WHO.items():
        cells = [_proofs(found, who, wants) for wants in WANTS]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _proofs(found: list[Tried], who: str, wants: str) -> str:
    proofs = [one for one in found if (who, wants) in one.holds and one.outcome == "passed"]
    links = ", ".join(f'[{one.number}](../{one.file} "{one.test}")' for one in proofs)
    return f"no: {links}" if proofs else "**unproved**"


def split_table(found: list[Tried]) -> str:
    """One line for each row that ran once per broker: what the broker did, and what Fleetfoot survived."""
    heads = ("#", "tried", *BROKERS, "survived on each", "test")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in found:
        if one.number in STOPPED and (one.splits or one.file.startswith("tests/conformance/")):
            cells = [_split_cell(one.splits.get(broker)) for broker in BROKERS]
            parts = (str(one.number), _cell(one.tried), *cells, _cell(one.survived), _link(one))
            lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def _split_cell(split: tuple[bool, str] | None) -> str:
    if split is None:
        return "**not tried in this run**"
    stopped, why = split
    return f"{'stopped' if stopped else '**not stopped**'}: {_cell(why)}"


def untried(found: list[Tried]) -> list[str]:
    """Rows that were not carried out on a broker."""
    have = {(one.number, broker) for one in found for broker in one.splits}
    return [
        f"row {number} was not tried on {broker}"
        for number, brokers in STOPPED.items()
        for broker in brokers
        if (number, broker) not in have
    ]


def missing(found: list[Tried]) -> list[str]:
    """What keeps the page from being whole, in words."""
    have = {one.number for one in found}
    gaps = [f"row {number} was not tried" for number in ROWS if number not in have]
    gaps += [f"{one.file}::{one.test}: {one.outcome}" for one in found if one.outcome != "passed"]
    passed = {cell for one in found if one.outcome == "passed" for cell in one.holds}
    gaps += [f"no test: {who}, {wants}" for who in WHO for wants in WANTS if (who, wants) not in passed]
    return gaps


def between(page: str, marks: Marks, text: str) -> str:
    """The page with this text between two marks. ValueError where it lacks them."""
    begin, end = marks
    if not 0 <= page.find(begin) < page.find(end):
        raise ValueError(f"{PAGE} lacks the line {begin}, or {end} after it")
    return f"{page.partition(begin)[0]}{begin}\n\n{text}\n\n{end}{page.partition(end)[2]}"


def main(arguments: list[str]) -> int:
    """Write the page from the reports that are named; with `--brokers`, that of the brokers alone."""
    alone = arguments[:1] == ["--brokers"]
    reports = arguments[alone:]
    if not reports or any(name.startswith("-") for name in reports):
        print(__doc__, file=sys.stderr)
        return 2
    found = read_reports(*map(Path, reports))
    page, gaps = between(PAGE.read_text("utf-8"), PER_BROKER, split_table(found)), untried(found)
    if not alone:
        attacks = f"## Tried and survived\n\n{tried_table(found)}"
        page = between(page, ATTACKS, f"## Taken over\n\n{compromise_table(found)}\n\n{attacks}")
        gaps += missing(found)
    PAGE.write_text(page, "utf-8")
    for gap in gaps:
        print(gap, file=sys.stderr)
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

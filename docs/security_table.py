"""Writes the tables of docs/security.md from a test run: what was tried, and what a break-in does not give.

    pytest -m row --junitxml=rows.xml && python -m docs.security_table rows.xml

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

PAGE = Path(__file__).parent / "security.md"
BEGIN, END = "<!-- made from a test run: begin -->", "<!-- made from a test run: end -->"
#: Rows of the catalogue that this page answers for.
ROWS = (
    *range(1, 4), *range(5, 8), 9, *range(11, 18), *range(19, 23), *range(24, 31), 40, 41, 43,
    *range(45, 50), 52, *range(54, 61), 79,
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

    @property
    def outcome(self) -> str:
        """`passed` only if every parameter was."""
        worse = [outcome for outcome in self.outcomes if outcome != "passed"]
        return worse[0] if worse else "passed"


def read_report(path: Path) -> list[Tried]:
    """The attacks of a JUnit report, by row and test."""
    found: dict[tuple[str, str], Tried] = {}
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
    return sorted(found.values(), key=lambda one: (one.number, one.file, one.test))


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


def missing(found: list[Tried]) -> list[str]:
    """What keeps the page from being whole, in words."""
    have = {one.number for one in found}
    gaps = [f"row {number} was not tried" for number in ROWS if number not in have]
    gaps += [f"{one.file}::{one.test}: {one.outcome}" for one in found if one.outcome != "passed"]
    passed = {cell for one in found if one.outcome == "passed" for cell in one.holds}
    gaps += [f"no test: {who}, {wants}" for who in WHO for wants in WANTS if (who, wants) not in passed]
    return gaps


def main(arguments: list[str]) -> int:
    """Write the page from the report named by the only argument."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    found = read_report(Path(arguments[0]))
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE} lacks the line {END}")
    tables = f"## Taken over\n\n{compromise_table(found)}\n\n## Tried and survived\n\n{tried_table(found)}\n"
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", "utf-8")
    gaps = missing(found)
    for gap in gaps:
        print(gap, file=sys.stderr)
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

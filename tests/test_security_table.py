"""The tables of docs/security.md say what the run said, and never more."""

import json
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from docs import security_table
from docs.security_table import (
    ATTACKS,
    PER_BROKER,
    compromise_table,
    missing,
    read_reports,
    split_table,
    tried_table,
    untried,
)
from tests.attack.rows import WANTS, WHO, row

ROOT = Path(__file__).parent.parent


def case(test: str, number: int, outcome: str = "", split: dict[str, Any] | None = None, **about: Any) -> str:
    facts = {"number": number, "tried": "an attack", "survived": "nothing happened", "holds": [], **about}
    value = quoteattr(json.dumps(facts))
    more = "" if split is None else f'<property name="split" value={quoteattr(json.dumps(split))}/>'
    inner = f'<properties><property name="row" value={value}/>{more}</properties>{outcome}'
    return f'<testcase classname="tests.attack.test_x" name="{test}">{inner}</testcase>'


@pytest.fixture
def report(tmp_path: Path) -> Any:
    def write(*cases: str) -> Path:
        path = tmp_path / "rows.xml"
        path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
        return path

    return write


def test_a_row_that_passed_is_told_as_survived_and_one_that_did_not_run_as_not_tried(report: Any) -> None:
    found = read_reports(report(case("test_row_01_a", 1)))
    table = tried_table(found)
    assert "| 1 | an attack | nothing happened | [a](../tests/attack/test_x.py) |" in table
    assert "| 2 | | **not tried in this run** | |" in table


@pytest.mark.parametrize("tag", ["failure", "error", "skipped"])
def test_one_parameter_that_did_not_pass_is_enough_not_to_have_survived(report: Any, tag: str) -> None:
    good, bad = case("test_row_01_a[x]", 1), case("test_row_01_a[y]", 1, f"<{tag}/>")
    found = read_reports(report(good, bad, good))
    assert "nothing happened" not in tried_table(found)
    assert f"**{tag}**" in tried_table(found)
    assert f"tests/attack/test_x.py::test_row_01_a: {tag}" in missing(found)


def test_a_cell_without_a_test_that_passed_is_unproved(report: Any) -> None:
    found = read_reports(report(case("test_row_01_a", 1, "<failure/>", holds=[["broker", "unsigned"]])))
    assert compromise_table(found).count("**unproved**") == len(WHO) * len(WANTS)
    found = read_reports(report(case("test_row_01_a", 1, holds=[["broker", "unsigned"]])))
    assert "no: [1]" in compromise_table(found)
    assert "no test: broker, unsigned" not in missing(found)
    assert "no test: broker, old" in missing(found)


def test_what_a_broker_stopped_is_told_apart_from_what_was_survived(report: Any) -> None:
    stopped = {"broker": "mosquitto", "stopped": True, "why": "by its list"}
    let_through = {"broker": "amqtt", "stopped": False, "why": "it has none"}
    cases = [case("test_row_71_a[x]", 71, split=stopped), case("test_row_71_a[y]", 71, split=let_through)]
    found = read_reports(report(*cases))
    cells = (
        "**not stopped**: it has none | stopped: by its list | **not tried in this run** | nothing happened |"
    )
    assert cells in split_table(found)
    assert "row 71 was not tried on nats" in untried(found)
    assert "row 71 was not tried on amqtt" not in untried(found)
    failed = read_reports(report(case("test_row_71_a[x]", 71, "<failure/>", split=stopped)))
    assert "row 71 was not tried on mosquitto" in untried(failed)


def test_each_table_comes_to_its_place_from_reports_of_a_room_each(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = {"broker": "nats", "stopped": True, "why": "by its entry"}
    one = report(case("test_row_71_a[x]", 71, split=stopped)).rename(tmp_path / "one.xml")
    two = report(case("test_row_01_a", 1)).rename(tmp_path / "two.xml")
    page = tmp_path / "page.md"
    page.write_text(
        "before\n" + "\nbetween\n".join(f"{a}\nold\n{b}" for a, b in (PER_BROKER, ATTACKS)) + "\nafter"
    )
    monkeypatch.setattr(security_table, "PAGE", page)
    assert security_table.main(["--brokers", str(one)]) == 1  # since most of it was not tried
    first, second = page.read_text().split("\nbetween\n")
    assert "\nold\n" not in first
    assert "stopped: by its entry" in first
    assert second == f"{ATTACKS[0]}\nold\n{ATTACKS[1]}\nafter"
    assert security_table.main([str(one), str(two)]) == 1
    written = page.read_text()
    assert written.startswith(f"{first}\nbetween\n")
    assert "\nold\n" not in written
    assert "| 1 | an attack | nothing happened | [a](../tests/attack/test_x.py) |" in written
    assert "| 71 | an attack | nothing happened | [a](../tests/attack/test_x.py) |" in written
    assert security_table.main([str(one), str(two)]) == 1
    assert page.read_text() == written
    assert security_table.main([]) == 2


def test_a_page_without_the_marks_is_not_written() -> None:
    with pytest.raises(ValueError, match="lacks the line"):
        security_table.between(f"{ATTACKS[1]} {ATTACKS[0]}", ATTACKS, "text")


def test_text_cannot_break_the_table(report: Any) -> None:
    found = read_reports(report(case("test_row_01_a", 1, tried="a|b <i>")))
    assert "a\\|b &lt;i>" in tried_table(found)


@pytest.mark.parametrize(
    ("number", "tried", "holds"),
    [
        (2, "x", []),
        (1, "", []),
        (1, "x\ny", []),
        (1, "x", [("broker", "nothing")]),
        (1, "x", [("nobody", "old")]),
    ],
)
def test_a_mark_that_the_table_cannot_show_is_refused(
    number: int, tried: str, holds: list[tuple[str, str]]
) -> None:
    def test_row_01_a() -> None: ...

    with pytest.raises(ValueError, match=r"no such cell|one line|must start"):
        row(number, tried, "survived", holds=holds)(test_row_01_a)


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    links = set(re.findall(r"\[([^\]]+)\]\(\.\./(tests/[\w/]+\.py)\)", page))
    assert links
    for words, file in links:
        name = words.replace(" ", "_")
        assert re.search(rf"def test_row_\d\d_{re.escape(name)}\(", (ROOT / file).read_text("utf-8")), (
            words,
            file,
        )

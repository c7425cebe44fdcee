"""Text for people: nothing that came from elsewhere acts on the terminal, columns are aligned."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from fleetfoot_client.terminal import bytes_text, columns, facts, literal, table


def test_what_could_act_on_a_terminal_is_written_out() -> None:
    assert literal("a\x1b[2Jb") == "a\\x1b[2Jb"
    assert literal("one\ntwo\r\tend") == "one\\ntwo\\r\\tend"
    assert literal("user\u202egnp.exe") == "user\\u202egnp.exe"
    assert literal("\x9b31m\x7f\u200b\U000e0001") == "\\x9b31m\\x7f\\u200b\\U000e0001"


def test_what_has_a_shape_stays() -> None:
    assert literal("Küche 7 — 厨房 ✓ café") == "Küche 7 — 厨房 ✓ café"
    assert literal("one\ntwo", keep="\n") == "one\ntwo"


@given(st.text())
def test_no_text_at_all_gets_a_shapeless_character_through(text: str) -> None:
    shown = literal(text)
    assert all(unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for c in shown)
    assert literal(shown) == shown


def test_columns_line_up_under_their_header_also_with_wide_characters() -> None:
    lines = table(("NAME", "STATE"), [("厨房", "ok"), ("a", "ok\x1b"), ("longer name", "")]).splitlines()
    assert lines == ["NAME         STATE", "厨房         ok", "a            ok\\x1b", "longer name"]
    assert columns(lines[1].removesuffix("ok")) == columns(lines[0].removesuffix("STATE"))


def test_facts_leave_out_what_is_empty() -> None:
    assert facts([("a", 1), ("none", None), ("empty", ""), ("longer", 0)]) == "a       1\nlonger  0"


def test_sizes_have_a_unit() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1024, 3 << 20, 5 << 30)] == [
        "0 B", "1023 B", "1.0 KiB", "3.0 MiB", "5.0 GiB",
    ]  # fmt: skip

"""The mutator plants what it says, and every judgement is about a mutant that exists."""

import ast

import pytest
from tests.mutation.__main__ import main, source_of
from tests.mutation.judged import judgements, row
from tests.mutation.operators import mutants
from tests.mutation.targets import TARGETS

SOURCE = '''
"""Words."""
import sys
LIMIT: int = 3
TABLE = {"a": (1, 2)}

def f(x: int, y: bool = False) -> int:
    """More words."""
    if x < LIMIT and not y:
        return g(x, key=x + 1)
    raise ValueError("left alone")
'''


def planted(source: str) -> dict[str, str]:
    """Change -> the lines that are other than before."""
    plain = ast.unparse(ast.parse(source)).splitlines()
    found = {}
    for mutant in mutants(source, "m"):
        with mutant.planted() as tree:
            lines = ast.unparse(tree).splitlines()
        found[mutant.change] = " ".join(line.strip() for line in lines if line not in plain)
    return found


def test_each_kind_of_mistake_is_planted_and_nothing_else_is_touched() -> None:
    changes = planted(SOURCE)
    assert changes["3 → 4"] == "LIMIT: int = 4"
    assert changes["without 'a'"] == "TABLE = {}"
    assert changes["without 2"] == "TABLE = {'a': (1,)}"
    assert changes["False → True"] == "def f(x: int, y: bool=True) -> int:"
    assert changes["x < LIMIT → x <= LIMIT"] == "if x <= LIMIT and (not y):"
    assert changes["x < LIMIT → x >= LIMIT"] == "if x >= LIMIT and (not y):"
    assert changes["x < LIMIT and (not y) → x < LIMIT or not y"] == "if x < LIMIT or not y:"
    assert changes["x < LIMIT and (not y) → x < LIMIT"] == "if x < LIMIT:"
    assert changes["not y → y"] == "if x < LIMIT and y:"
    assert changes["without key=x + 1"] == "return g(x)"
    assert changes["x + 1 → x - 1"] == "return g(x, key=x - 1)"
    assert changes["return g(x, key=x + 1) → return None"] == "return None"
    assert changes["if x < LIMIT and (not y): … → if x < LIMIT and (not y): nothing"] == "pass"
    assert not [change for change in changes if "ords" in change or "left alone" in change or "sys" in change]


def test_a_mutant_changes_no_other() -> None:
    before = planted(SOURCE)
    assert before == planted(SOURCE)
    assert all(before.values()), "each is another text than the source"


def test_every_judgement_is_of_a_mutant_that_exists() -> None:
    modules = {module for target in TARGETS.values() for module in target.modules}
    keys = {
        mutant.key
        for module in modules
        for mutant in mutants(source_of(module).read_text(), module.rpartition(".")[2])
    }
    assert judgements()
    assert not judgements().keys() - keys, "judged in docs/mutation.md, but no longer in the code"
    assert all(row(*key, reason).count("`") == 4 for key, reason in judgements().items() if "`" not in reason)


def test_a_core_that_nobody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mutation", "nonsense"])
    with pytest.raises(SystemExit):
        main()
    assert "there are resolve, lifecycle, rollout" in capsys.readouterr().err

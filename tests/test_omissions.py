"""The promise of tests/conftest.py, kept: nothing is left out unnamed, nothing required is left out."""

from pathlib import Path

import pytest

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()
# Two more lines for its table: one that no machine has, one that every machine has.
TABLE = """
CAPABILITIES["unobtainium"] = Capability(lambda: False, "find the ore")
CAPABILITIES["air"] = Capability(lambda: True, "breathe")
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("FLEETFOOT_REQUIRE", raising=False)
    pytester.makeconftest(CONFTEST + TABLE)
    pytester.makeini("[pytest]\naddopts = --strict-markers\nmarkers =\n    needs(capability): tested here\n")
    pytester.makepyfile(
        test_inner="""
        import pytest

        @pytest.mark.needs("unobtainium")
        def test_digs():
            raise AssertionError("ran without what it needs")

        @pytest.mark.needs("air")
        def test_breathes():
            pass

        @pytest.mark.needs("air")
        @pytest.mark.needs("unobtainium")
        def test_digs_and_breathes():
            raise AssertionError("ran without what it needs")
        """
    )
    return pytester


def test_a_missing_capability_omits_the_test_and_the_summary_names_both(inner: pytest.Pytester) -> None:
    result = inner.runpytest()
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(
        [
            "*= omitted =*",
            "test_inner.py::test_digs needs unobtainium: find the ore",
            "test_inner.py::test_digs_and_breathes needs unobtainium: find the ore",
        ]
    )
    assert result.ret == pytest.ExitCode.OK


def test_an_omission_of_something_required_fails_and_is_named(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFOOT_REQUIRE", "air, unobtainium")
    result = inner.runpytest()
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(
        ["FLEETFOOT_REQUIRE forbids this omission: test_inner.py::test_digs needs unobtainium: find the ore"]
    )
    result.stdout.no_fnmatch_line("*= omitted =*")
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_requiring_what_is_there_changes_nothing(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFOOT_REQUIRE", "air")
    result = inner.runpytest()
    result.assert_outcomes(passed=1, deselected=2)
    assert result.ret == pytest.ExitCode.OK


def test_an_unknown_name_in_the_environment_is_an_error_of_usage(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFOOT_REQUIRE", "air,unobtanium")
    result = inner.runpytest()
    result.stderr.fnmatch_lines(["ERROR: FLEETFOOT_REQUIRE names unknown capabilities: unobtanium *"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_an_unknown_name_on_a_test_is_an_error_of_usage(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        test_typo="""
        import pytest

        @pytest.mark.needs("unobtanium")
        def test_typo():
            pass
        """
    )
    result = inner.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "test_typo.py::test_typo names unknown capabilities: unobtanium" in str(result.stderr)


def test_what_a_filter_left_out_is_not_called_omitted(inner: pytest.Pytester) -> None:
    result = inner.runpytest("-k", "test_breathes")
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.no_fnmatch_line("*= omitted =*")

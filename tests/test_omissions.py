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
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # the table asks tests.lab
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


OMITTED = [
    "*= omitted =*",
    "test_inner.py::test_digs needs unobtainium: find the ore",
    "test_inner.py::test_digs_and_breathes needs unobtainium: find the ore",
]


def test_a_missing_capability_omits_the_test_and_the_summary_names_both(inner: pytest.Pytester) -> None:
    result = inner.runpytest()
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(OMITTED)
    assert result.ret == pytest.ExitCode.OK


def test_omissions_of_tests_run_side_by_side_are_named_once(inner: pytest.Pytester) -> None:
    result = inner.runpytest_subprocess("-n", "2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(OMITTED)
    assert str(result.stdout).count(OMITTED[1]) == 1
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("side_by_side", [(), ("-n", "1")])
def test_a_run_whose_test_forgot_a_thread_fails_and_ends(
    inner: pytest.Pytester, side_by_side: tuple[str, ...]
) -> None:
    inner.makepyfile(
        test_forgetful="""
        import threading

        def test_starts_a_thread_that_waits():
            threading.Thread(target=threading.Event().wait, name="forgotten").start()
        """
    )
    result = inner.runpytest_subprocess("test_forgetful.py", *side_by_side, timeout=60)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *threads that no test has ended: forgotten*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


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

"""`.ci/run`, with a `make` of the test's own: what it tries again, and when it says that all is well."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAST = ".pytest_cache/v/cache/lastfailed"
#: Everything passes, or the first run of the tests does not; the second ends as `again` says.
MAKE = f"""#!/bin/sh
echo "$*" >> made
case "$*" in
  check) exit 0;;
  test) test -e failing || exit 0; mkdir -p "$(dirname {LAST})"; cp failing {LAST}; exit 1;;
  *) exit "$(cat again)";;
esac
"""


class Checkout:
    """A folder with nothing but `.ci/run` and what it asks for, which is there by its name only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir()
        script = shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
        wanted = re.findall(r"[(\s][\w-]*?:?([\w.-]+):[\w.-]+(?=[\s)])", Path(script).read_text())
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in {*wanted, "python3", "apt-get", "dpkg-deb"}:
            (self.bin / name).unlink(missing_ok=True)
            (self.bin / name).symlink_to("/bin/true")
        (self.bin / "make").unlink()
        self._program(self.bin / "make", MAKE)
        # What is asked of it: whether there is a lab, the version, and what failed.
        self._program(folder / ".venv/bin/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')

    def _program(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, failing: list[str] | None, again: int = 0) -> tuple[int, str, list[str]]:
        """Its exit code, what it said, and what it had made after `make check`."""
        if failing is not None:
            (self.folder / "failing").write_text(json.dumps(dict.fromkeys(failing, True)))
        (self.folder / "again").write_text(str(again))
        environ = {**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [self.folder / ".ci" / "run"],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        made = (self.folder / "made").read_text().splitlines()
        assert made[0] == "check", done.stderr
        return done.returncode, done.stdout, made[1:]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def in_files(count: int, each: int) -> list[str]:
    return [f"tests/x/test_{file}.py::test[{number}]" for file in range(count) for number in range(each)]


def test_what_passes_is_made_once_and_nothing_is_said(checkout: Checkout) -> None:
    code, said, made = checkout.run(None)
    assert (code, made) == (0, ["test"])
    assert "failed" not in said


def test_tests_of_a_few_files_are_tried_again_alone_and_named_at_the_end(checkout: Checkout) -> None:
    failing = in_files(4, 10)
    code, said, made = checkout.run(failing)
    assert (code, len(made)) == (0, 2)
    assert "--last-failed" in made[1]
    assert said.endswith("PASSED ONLY ALONE, to be mended:\n" + "\n".join(sorted(failing)) + "\n")


def test_what_fails_alone_too_has_failed(checkout: Checkout) -> None:
    code, said, made = checkout.run(in_files(1, 1), again=2)
    assert (code, len(made)) == (2, 2)
    assert "failed beside others:\ntests/x/test_0.py::test[0]\n" in said
    assert "PASSED" not in said


def test_failures_in_five_files_are_no_accident(checkout: Checkout) -> None:
    code, said, made = checkout.run(in_files(5, 1))
    assert (code, made) == (1, ["test"])
    assert "in more than 4 files, so nothing is tried again" in said


def test_a_run_that_fails_without_a_failed_test_has_failed(checkout: Checkout) -> None:
    (checkout.folder / "failing").mkdir()  # nothing that could be copied
    code, _, made = checkout.run(None)
    assert (code != 0, made) == (True, ["test"])

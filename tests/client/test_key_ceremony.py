"""docs/keys.md says what works: its commands are run, all of them, in their order."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from nacl.pwhash import argon2id
from tests.client.rig import Run

from fleetfoot_client import lockbox
from fleetfoot_protocol import trust

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_every_command_of_the_ceremony_does_what_the_page_says(
    tmp_path: Path, app: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockbox, "OPS", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(lockbox, "MEMORY", argon2id.MEMLIMIT_MIN)
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse battery staple\n")
    monkeypatch.setenv(lockbox.FILE_VARIABLE, str(phrase))
    monkeypatch.chdir(tmp_path)
    listed = commands()
    assert len(listed) > 20
    for words in listed:
        if words[0] == "mv":
            shutil.move(words[1], words[2])
            continue
        assert words[0] == "fleetfoot"
        done = run(*words[1:])
        assert done.code == 0, (words, done.err)
    root = trust.first_root(Path("root.1.json").read_bytes())
    first = root
    for version in (2, 3, 4, 5):
        root = trust.advance_root(root, Path(f"root.{version}.json").read_bytes())
    assert (first.epoch, root.epoch) == (1, 2)
    assert (root.roles.root.threshold, root.roles.release.threshold) == (2, 2)
    assert set(first.keys) - set(root.keys), "removed keys are gone"
    # Half-signed is not signed, and what the removed key signed is not enough any more.
    assert run("release", "verify", "dist/kiosk-1.1.0", "--root", "root.1.json").code == 0
    assert run("release", "verify", "dist/kiosk-1.1.0", "--root", "root.5.json").code == 5

"""The pictures of the documentation are what the console shows while a demo runs; keys decide it."""

import subprocess
from pathlib import Path

import pytest
from tests.manager.process import FLEETFOOT

from fleetfoot_sim.portraits import WHILE_TRIPPED


def test_a_running_demo_is_drawn_and_decided(tmp_path: Path) -> None:
    command = [FLEETFOOT, "demo", "--devices", "6", "--speed", "5", "--console-pictures", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rolled back: the whole fleet runs 1.1.0" in done.stdout
    assert {path.stem for path in tmp_path.iterdir()} == {portrait.name for portrait in WHILE_TRIPPED}
    for portrait in WHILE_TRIPPED:
        text = (tmp_path / f"{portrait.name}.svg").read_text()
        assert all(word in text for word in portrait.words)
        assert "url(" not in text.replace("url(#", "")


@pytest.mark.parametrize("folder", ["none", "file"])
def test_a_folder_that_cannot_be_is_said_before_anything_starts(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    command = [FLEETFOOT, "demo", "--console-pictures", str(tmp_path / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "is no folder of yours" in done.stderr

"""The commands on a terminal, typed at as a person does."""

import json
from pathlib import Path

from tests.manager.process import FLEETFOOT
from tests.tui.stage import Stage
from tests.tui.terminal import Terminal
from tests.tui.trouble import troubled

from fleetfoot_client import recording
from fleetfoot_client.cli import main


def recorded(stage: Stage, path: Path) -> None:
    """The troubled fleet as a file."""
    troubled(stage)
    with path.open("w") as file:
        recorder = recording.Recorder(file, stage.signed_root(), "ff")
        for topic, payload, retained in stage.inbox.drain(60):
            recorder.put(topic.text(), payload, retained)


def test_a_recording_is_looked_at_and_left(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "trouble.jsonl"
    recorded(stage, path)
    terminal = Terminal([FLEETFOOT, "replay", str(path), "--speed", "100"])
    try:
        terminal.until(b"30 of 30 devices", 60)
        terminal.type(b"f")
        terminal.until(b"faults only", 30)
        terminal.type(b"/")
        terminal.until(b"!inverse", 30)
        terminal.type(b"boot")
        terminal.until(b"1 of 30 devices", 30)
        # The first one leaves the field, which takes a moment; the next one opens the device.
        terminal.insist(b"\r", b"should run", 30)
        terminal.type(b"\x11")  # ctrl+q
        terminal.drain(60)
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()


def test_without_a_terminal_the_console_says_so(capfd: object, tmp_path: Path, stage: Stage) -> None:
    path = tmp_path / "trouble.jsonl"
    recorded(stage, path)
    assert main(["replay", str(path)]) == 2
    assert main(["tui"]) == 2
    assert main(["replay", str(path), "--json"]) == 0
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["fleetfoot"] == "recording"

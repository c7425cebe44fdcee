"""The demo on a terminal: a person watches in the console, decides, looks around, leaves."""

from pathlib import Path

import pytest
from tests.manager.process import FLEETFOOT
from tests.tui.tmux import Tmux


@pytest.mark.needs("tmux")
def test_the_demo_opens_the_console_and_the_person_takes_the_decision(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    command = [FLEETFOOT, "demo", "--devices", "6", "--speed", "5", "--keep", str(fleet)]
    tmux = Tmux(tmp_path, command)
    try:
        tmux.until("6 of 6 devices", "✓ broker", seconds=90)
        tmux.press("2")
        tmux.until("kiosk 1.2.0", "✗ tripped", seconds=90)
        tmux.resize(40, 10)
        tmux.until("Rollouts")
        tmux.resize(80, 24)
        tmux.press("Enter")
        # The canary is back: what is decided now is decided on what is seen.
        tmux.until("Roll back", "failures by cause", "  upgrade_", "↩ rolled back 1")
        tmux.press("b")
        tmux.until("The release is withdrawn")
        tmux.press("y")
        tmux.until("↩ rolled back", "That was the story", seconds=90)
        tmux.press("1")
        tmux.until("1.1.0 ███", "6 of 6 devices")
        tmux.press("q")
        left = tmux.until("ended with 0", seconds=90)
        assert "Everything is kept in" in left
    finally:
        tmux.close()
    assert (fleet / "logs").is_dir()

"""A terminal that a person types at: tmux on a socket of its own, so that what they see can be read."""

import os
import shlex
import subprocess
from pathlib import Path

from tests.support.waiting import until


class Tmux:
    """A command in a window of this size; keys have tmux's names."""

    def __init__(self, folder: Path, command: list[str], size: tuple[int, int] = (120, 40)) -> None:
        self._socket = folder / "tmux"
        width, height = map(str, size)
        line = f"{shlex.join(command)}; echo ended with $?; cat"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", width, "-y", height, line)

    def _tmux(self, *arguments: str) -> str:
        environ = {**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"}
        return subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments],
            env=environ, check=True, capture_output=True, text=True, timeout=30,
        ).stdout  # fmt: skip

    def screen(self) -> str:
        """What stands on it."""
        return self._tmux("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """One key after the other."""
        for key in keys:
            self._tmux("send-keys", key)

    def type(self, text: str) -> None:
        """Letters, literally."""
        self._tmux("send-keys", "-l", text)

    def resize(self, width: int, height: int) -> None:
        """Another size."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def until(self, *words: str, seconds: float = 60.0) -> str:
        """The screen once all of the words are on it."""
        seen = ""

        def there() -> bool:
            nonlocal seen
            seen = self.screen()
            return all(word in seen for word in words)

        try:
            until(there, " ".join(words), seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; on the screen:\n{seen}") from None
        return seen

    def close(self) -> None:
        """End it and everything in it."""
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], check=False, capture_output=True)

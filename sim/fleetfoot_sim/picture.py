"""The end of the demo as a picture: an SVG that loads nothing from anywhere."""

import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding

from fleetfoot_sim.demo import View
from fleetfoot_sim.screen import body

_WIDTH = 96


def write(path: Path, view: View, result: dict[str, Any]) -> None:
    """Write what `view` shows. OSError where that fails."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Padding(body(view), (1, 2)))
    text = console.export_svg(title=f"fleetfoot demo: {result['devices']} devices in {result['seconds']} s")
    # rich points to a web font; the picture must not depend on anybody's server.
    text = re.sub(r"@font-face\s*\{.*?\}\s*", "", text, flags=re.DOTALL)
    # Without it some viewers drop the blanks at the beginning of a line.
    text = text.replace("<svg ", '<svg xml:space="preserve" ', 1)
    path.write_text(text, encoding="utf-8")

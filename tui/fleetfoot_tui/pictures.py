"""A screen as SVG that needs nothing from anywhere: the toolkit's own names fonts on somebody's server."""

import os
import re
from pathlib import Path

_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def self_contained(svg: str) -> str:
    """The picture without fonts from a network; the viewer's own monospace takes their place."""
    # Without the first some viewers drop the blanks at the beginning of a piece of a line.
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1)
    return _FONT.sub("", svg).replace("Fira Code, monospace", "Fira Code, DejaVu Sans Mono, monospace")


def write(path: Path, svg: str) -> None:
    """A file of its own; OSError also if there is one already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(self_contained(svg))

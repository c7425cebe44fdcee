"""A release that somebody has brought to the device in a folder."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's folder: `name` as a person named it, `place` by which it is read."""

    name: Path
    place: Path

    @classmethod
    def of(cls, name: Path) -> "Bundle":
        """The bundle in the folder `name`, held open while the process lives.

        Root may name one below its own home and go on as the worker's user, who could not walk there.
        """
        try:
            held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return cls(name, name)  # whoever reads it says what is wrong
        return cls(name, Path(f"/proc/self/fd/{held}"))

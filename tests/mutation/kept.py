"""What became of the mutants of a core, kept while neither the core nor a test beside its tests changes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.operators import Mutant

NOTICED, HANGS, SURVIVES = "noticed", "hangs", "SURVIVES"
_PLACE = Path(__file__).parents[2] / ".mutation"


class Kept:
    """A line for each mutant in a file named after what it was found with."""

    def __init__(self, name: str, sources: Iterable[Path], tests: Iterable[str]) -> None:
        root = _PLACE.parent
        folders = {(root / test).parent for test in tests} | {Path(__file__).parent}
        files = {*sources, *(path for folder in folders for path in folder.glob("*.py"))}
        found = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()
        self._path = _PLACE / f"{name}-{found[:12]}.jsonl"

    def read(self) -> dict[tuple[str, str], str]:
        """(where, change) -> what became of the mutant."""
        if not self._path.exists():
            return {}
        lines = (json.loads(line) for line in self._path.read_text().splitlines())
        return {(where, change): became for where, change, became in lines}

    def add(self, mutant: Mutant, became: str) -> None:
        """Write down one more."""
        _PLACE.mkdir(exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps([*mutant.key, became]) + "\n")

    def forget(self) -> None:
        """Begin anew."""
        self._path.unlink(missing_ok=True)

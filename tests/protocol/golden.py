"""Reading the golden vectors, and what is said when one no longer holds."""

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"
CHANGED = (
    "differs from its golden vector. A change of the contract is a change of `spec`: take the change back, "
    "or raise SPEC, say so in docs/contract.md and write the vectors anew with "
    "`python -m tests.protocol.vectors.generate`"
)


def load(name: str) -> Any:
    """The vectors of `name`.json."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def hold(what: str, found: object, golden: object) -> None:
    """Fail unless what the code makes now is what the vector says."""
    assert found == golden, f"{what} {CHANGED}"

"""The audit log as anyone can check it: entries chained by hashes, and heads that the director signed.

Each entry's hash is the sha256 over the hash before it and the entry itself as JSON with sorted keys. That
finds what was changed, dropped, put in or moved; what was cut off at the end is found by a signed head, which
says how many entries there were and the hash of the last. Pure: no I/O.

Old entries may be removed once they are exported: an entry `audit.prune` behind them, in the same chain and
under the same signed heads, says how far, and the hash of the last that went. Without it they are missing.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints

from fleetfoot_protocol import strictjson
from fleetfoot_protocol.documents import Document, Model
from fleetfoot_protocol.errors import FormError
from fleetfoot_protocol.fields import Digest, Id, Positive, Time

#: The hash before the first entry.
GENESIS = "0" * 64
#: The action of an entry that says which entries were removed: {"through": n, "hash": that entry's}.
PRUNE = "audit.prune"


class Entry(Model):
    """One entry. `actor` is an operator or `manager`; `data` is a JSON object as text.

    request: digest of the signed request that caused it, empty where the manager acted by itself.
    """

    n: Positive
    at: Time
    actor: Annotated[str, StringConstraints(max_length=80)]
    action: Annotated[str, StringConstraints(max_length=64)]
    data: str
    request: Annotated[str, StringConstraints(pattern="^([0-9a-f]{64})?$")]
    previous: Digest
    hash: Digest

    def expected_hash(self) -> str:
        """The hash that the entry must have, behind the one it names as the one before."""
        return hash_of(self.n, self.at, self.actor, self.action, self.data, self.request, self.previous)


class AuditHead(Document):
    """How long the log was, and the hash of its last entry."""

    fleet: Id
    count: Annotated[int, Field(ge=1)]
    hash: Digest
    issued: Time


class Flaw(NamedTuple):
    """What is wrong, and at which entry it shows. what: changed, missing, moved, cut or replaced."""

    what: str
    n: int
    message: str


def hash_of(n: int, at: str, actor: str, action: str, data: str, request: str, previous: str) -> str:
    """The hash of an entry."""
    row = {"n": n, "at": at, "actor": actor, "action": action, "data": data, "request": request}
    return hashlib.sha256(previous.encode() + strictjson.dumps(row)).hexdigest()


def flaws(entries: Iterable[Entry], heads: Sequence[AuditHead]) -> list[Flaw]:
    """Everything that is wrong with a log that should be whole from its first entry on.

    Or from where it was cut, if an entry in it says so, with the hash of the last one that went.
    heads: verified ones, any number of them; each must be met.
    """
    found: list[Flaw] = []
    hashes: dict[int, str] = {}
    removed: set[tuple[int, str]] = set()
    cut: tuple[int, str] | None = None
    last, previous = 0, GENESIS
    for entry in entries:
        if not hashes and entry.n > 1:
            # What the last removed entry was is known by its hash; whether it was removed is told below.
            last, previous = cut = entry.n - 1, entry.previous
            hashes[last] = previous
        if entry.action == PRUNE:
            removed |= _removed(entry)
        if entry.n > last + 1:
            missing = f"entry {last + 1}" + (f" to {entry.n - 1}" if entry.n > last + 2 else "")
            found.append(Flaw("missing", last + 1, f"{missing} is missing"))
        elif entry.n <= last:
            found.append(Flaw("moved", entry.n, f"entry {entry.n} stands behind entry {last}"))
        elif entry.previous != previous:
            found.append(Flaw("replaced", entry.n, f"entry {entry.n} does not follow from the one before it"))
        if entry.hash != entry.expected_hash():
            found.append(Flaw("changed", entry.n, f"entry {entry.n} is not what was written"))
        hashes[entry.n] = entry.hash
        last, previous = max(last, entry.n), entry.hash
    if cut is not None and cut not in removed:
        missing = "entry 1 is" if cut[0] == 1 else f"entry 1 to {cut[0]} are"
        found.insert(0, Flaw("missing", 1, f"{missing} missing"))
    for head in heads:
        signed = f"the director signed {head.count} entries on {head.issued}"
        if head.count > last:
            found.append(Flaw("cut", last + 1, f"{signed}, there are {last}"))
        elif cut is not None and head.count < cut[0]:
            text = f"{signed}, which were removed since: name their export too"
            found.append(Flaw("missing", head.count, text))
        elif hashes.get(head.count) != head.hash:
            found.append(Flaw("replaced", head.count, f"{signed}, with another entry {head.count}"))
    return found


def _removed(entry: Entry) -> set[tuple[int, str]]:
    """What an entry says was removed: (number, hash) of the last that went; nothing if it does not say."""
    try:
        data = strictjson.loads(entry.data.encode())
    except FormError:
        return set()
    through, hashed = (data.get("through"), data.get("hash")) if isinstance(data, dict) else (None, None)
    if not isinstance(through, int) or not isinstance(hashed, str) or not through < entry.n:
        return set()
    return {(through, hashed)}

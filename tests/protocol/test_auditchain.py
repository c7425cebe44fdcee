"""The audit chain: whatever is done to a log, it shows, and where."""

import json
from collections.abc import Callable

import pytest

from fleetfoot_protocol.auditchain import GENESIS, AuditHead, Entry, flaws, hash_of

AT = "2026-01-01T00:00:00Z"
Log = list[Entry]


def made(*actions: str, previous: str = GENESIS, first: int = 1) -> Log:
    rows: Log = []
    for n, action in enumerate(actions, first):
        row = (n, AT, "alice", action, json.dumps({"n": n}), "", previous)
        previous = hash_of(*row)
        names = ("n", "at", "actor", "action", "data", "request", "previous")
        rows.append(Entry.model_validate({**dict(zip(names, row, strict=True)), "hash": previous}))
    return rows


LOG = made(*(f"act.{name}" for name in "abcdefgh"))


def head(log: Log, count: int | None = None) -> AuditHead:
    entry = log[(count or len(log)) - 1]
    return AuditHead(fleet="harbour", count=entry.n, hash=entry.hash, issued=AT)


def with_entry(log: Log, n: int, **changes: object) -> Log:
    return [entry.model_copy(update=changes) if entry.n == n else entry for entry in log]


def rehashed(log: Log, n: int, **changes: object) -> Log:
    """As somebody does it who knows how the chain is made: the hash of the entry fits, and all behind it."""
    found = with_entry(log, n, **changes)
    previous = found[n - 2].hash
    for index in range(n - 1, len(found)):
        entry = found[index].model_copy(update={"previous": previous})
        previous = entry.expected_hash()
        found[index] = entry.model_copy(update={"hash": previous})
    return found


def test_a_whole_log_has_no_flaw() -> None:
    assert flaws(LOG, [head(LOG), head(LOG, 3)]) == []
    assert flaws(LOG, [head(LOG[:5])]) == []


TAMPERED: dict[str, tuple[Callable[[Log], Log], str, int]] = {
    "action changed": (lambda log: with_entry(log, 3, action="act.x"), "changed", 3),
    "data changed": (lambda log: with_entry(log, 3, data="{}"), "changed", 3),
    "actor changed": (lambda log: with_entry(log, 3, actor="bob"), "changed", 3),
    "time changed": (lambda log: with_entry(log, 3, at="2026-01-01T00:00:01Z"), "changed", 3),
    "request changed": (lambda log: with_entry(log, 3, request="0" * 64), "changed", 3),
    "hash changed": (lambda log: with_entry(log, 3, hash="0" * 64), "changed", 3),
    "first dropped": (lambda log: log[1:], "missing", 1),
    "middle dropped": (lambda log: log[:3] + log[4:], "missing", 4),
    "two swapped": (lambda log: [*log[:3], log[4], log[3], *log[5:]], "moved", 4),
    "one twice": (lambda log: [*log[:3], log[2], *log[3:]], "moved", 3),
    "one put in between": (lambda log: [*log[:3], *made("act.x", first=4), *log[4:]], "replaced", 4),
    "tail cut off": (lambda log: log[:6], "cut", 7),
    "everything cut off": (lambda log: [], "cut", 1),
    "chained anew": (lambda log: rehashed(log, 3, action="act.x"), "replaced", 8),
    "dropped and numbered anew": (
        lambda log: log[:3] + made(*(e.action for e in log[4:]), previous=log[2].hash, first=4),
        "cut",
        8,
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_done_to_a_log_is_found(name: str) -> None:
    tamper, what, n = TAMPERED[name]
    assert (what, n) in {(flaw.what, flaw.n) for flaw in flaws(tamper(LOG), [head(LOG)])}


def test_an_older_head_finds_what_a_newer_one_was_made_to_hide() -> None:
    forged = rehashed(LOG, 3, action="act.x")
    assert flaws(forged, [head(forged)]) == []
    (flaw,) = flaws(forged, [head(forged), head(LOG, 5)])
    assert (flaw.what, flaw.n) == ("replaced", 5)


def pruned(through: int, hashed: str = "") -> Log:
    """LOG, with an entry behind it that says that the first ones were removed."""
    data = json.dumps({"through": through, "hash": hashed or LOG[through - 1].hash})
    last = made("audit.prune", previous=LOG[-1].hash, first=len(LOG) + 1)
    return rehashed([*LOG, *last], len(LOG) + 1, data=data)


def test_a_log_that_says_how_far_it_was_cut_is_whole_behind_that() -> None:
    whole = pruned(3)
    assert flaws(whole[3:], [head(whole), head(LOG, 3), head(LOG, 5)]) == []
    assert [flaw.what for flaw in flaws(whole[3:], [head(whole), head(LOG, 2)])] == ["missing"]
    assert flaws(whole, [head(whole), head(LOG, 2)]) == []


@pytest.mark.parametrize(
    "log",
    [pruned(3)[4:], pruned(3)[2:], pruned(3, "0" * 64)[3:], LOG[3:], pruned(9, "0" * 64)[8:]],
    ids=["more", "less", "another", "unsaid", "itself"],
)
def test_a_log_that_was_cut_elsewhere_than_it_says_is_not_whole(log: Log) -> None:
    assert [(flaw.what, flaw.n) for flaw in flaws(log, [head(log, len(log))])] == [("missing", 1)]

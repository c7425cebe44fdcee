"""`fleetfoot audit`: exported with its head, verified with public keys alone, here or from afar."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.client.rig import Fleet, HandManager, Run

from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol import dsse, topics
from fleetfoot_protocol.auditchain import GENESIS, AuditHead, hash_of
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.topics import Kind

AT = "2026-01-01T00:00:00Z"
Rows = list[dict[str, Any]]


def chain(count: int) -> Rows:
    rows: Rows = []
    previous = GENESIS
    for n in range(1, count + 1):
        row = (n, AT, "alice", "device.enroll", json.dumps({"device": f"dev-{n}\x1b"}), "", previous)
        names = ("n", "at", "actor", "action", "data", "request", "previous")
        previous = hash_of(*row)
        rows.append({**dict(zip(names, row, strict=True)), "hash": previous})
    return rows


ROWS = chain(7)


def head(fleet: Fleet, rows: Rows, key: str = "director") -> bytes:
    document = AuditHead(fleet="kitchens", count=rows[-1]["n"], hash=rows[-1]["hash"], issued=AT)
    return dsse.encode(dsse.sign(PayloadType.AUDIT, document.payload(), fleet.secret(key)))


def export(folder: Path, fleet: Fleet, rows: Rows, signed: Rows, key: str = "director") -> Path:
    path = folder / "audit.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path.with_name("audit.jsonl.head").write_bytes(head(fleet, signed, key))
    return path


@pytest.fixture
def log(manager: HandManager, fleet: Fleet) -> HandManager:
    """A manager that gives the log three entries at a time, and its head."""

    def listing(request: Request) -> dict[str, Any]:
        after = request.arguments.get("after", 0)
        found = ROWS[after : after + 3]
        more = {"next": found[-1]["n"]} if len(found) == 3 else {}
        return {"entries": found, "count": len(ROWS), **more}

    manager.answers["audit.list"] = listing
    manager.answers["audit.show"] = lambda request: ROWS[request.arguments["n"] - 1]
    manager.publish(topics.build(Kind.AUDIT_HEAD), head(fleet, ROWS), retain=True)
    return manager


def test_the_log_is_exported_whole_and_verifies_offline(
    log: HandManager, fleet: Fleet, profile: Profile, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "audit.jsonl"
    done = run("audit", "export", "--out", out, "--json")
    assert (done.code, done.json["entries"], done.json["signed"]) == (0, 7, 7)
    found = run("audit", "verify", out, "--root", fleet.root, "--json")
    assert (found.code, found.json["ok"], found.json["entries"]) == (0, True, 7)
    assert run("audit", "export", "--out", out).code == Exit.FAILED


def test_the_managers_log_is_verified_against_the_retained_head(
    log: HandManager, profile: Profile, run: Run
) -> None:
    done = run("audit", "verify")
    assert (done.code, "7 entries are whole" in done.out) == (0, True)
    assert "\\x1b" in run("audit", "list", "--limit", 2).out
    assert "device.enroll" in run("audit", "show", 3).out


def test_a_manager_that_leaves_the_end_out_is_found(
    log: HandManager, fleet: Fleet, profile: Profile, run: Run
) -> None:
    log.answers["audit.list"] = lambda request: {"entries": ROWS[:5], "count": 5}
    done = run("audit", "verify", "--json")
    assert (done.code, done.json["flaws"][0]["what"]) == (Exit.TRUST, "cut")


TAMPERED: dict[str, tuple[Rows, str]] = {
    "changed": ([*ROWS[:2], {**ROWS[2], "actor": "bob"}, *ROWS[3:]], "changed"),
    "dropped": (ROWS[:2] + ROWS[3:], "missing"),
    "reordered": ([*ROWS[:2], ROWS[3], ROWS[2], *ROWS[4:]], "moved"),
    "cut": (ROWS[:-1], "cut"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_an_export_that_was_tampered_with_ends_with_the_exit_code_of_trust(
    name: str, fleet: Fleet, run: Run, tmp_path: Path
) -> None:
    rows, what = TAMPERED[name]
    done = run("audit", "verify", export(tmp_path, fleet, rows, ROWS), "--root", fleet.root, "--json")
    assert done.code == Exit.TRUST
    assert what in {flaw["what"] for flaw in done.json["flaws"]}


def test_a_head_that_the_director_did_not_sign_proves_nothing(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    path = export(tmp_path, fleet, ROWS, ROWS, key="alice")
    done = run("audit", "verify", path, "--root", fleet.root)
    assert (done.code, "upgrade_" in done.err) == (Exit.TRUST, True)


def test_an_older_head_is_held_against_a_newer_log(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    other = chain(3)
    older = tmp_path / "older.head"
    older.write_bytes(head(fleet, [{**other[-1], "hash": "0" * 64}]))
    path = export(tmp_path, fleet, ROWS, ROWS)
    done = run("audit", "verify", path, "--root", fleet.root, "--head", older, "--json")
    assert (done.code, done.json["flaws"][0]["n"]) == (Exit.TRUST, 3)


def test_without_a_head_nothing_is_called_whole(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    path = export(tmp_path, fleet, ROWS, ROWS)
    path.with_name("audit.jsonl.head").unlink()
    assert run("audit", "verify", path, "--root", fleet.root).code != 0


def test_old_entries_go_by_what_a_whole_export_says_and_by_nothing_else(
    log: HandManager, fleet: Fleet, profile: Profile, run: Run, tmp_path: Path
) -> None:
    log.answers["audit.prune"] = lambda request: {**request.arguments, "removed": 6}
    path = export(tmp_path, fleet, ROWS[:6], ROWS)
    assert run("audit", "prune", path, "--older-than", "1d").code == Exit.FAILED
    path = export(tmp_path, fleet, ROWS, ROWS)
    assert "so old" in run("audit", "prune", path, "--older-than", "36500d").out
    assert log.heard == []
    done = run("audit", "prune", path, "--older-than", "1d")
    assert (done.code, "6 entries removed, up to 6" in done.out) == (0, True), done.out + done.err
    (request,) = log.heard
    assert request.arguments == {"through": 6, "hash": ROWS[5]["hash"]}


def test_exports_verify_together_where_one_ends_inside_the_next(
    fleet: Fleet, run: Run, tmp_path: Path
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    older = export(first, fleet, ROWS[:4], ROWS[:4])
    newer = export(second, fleet, ROWS[2:], ROWS)
    found = run("audit", "verify", older, newer, "--root", fleet.root, "--json")
    assert (found.code, found.json["entries"]) == (0, 7)
    alone = run("audit", "verify", newer, "--root", fleet.root, "--json")
    assert (alone.code, alone.json["flaws"][0]["what"]) == (Exit.TRUST, "missing")
    twice = export(
        second, fleet, [*ROWS[2:4], {**ROWS[3], "actor": "bob", "hash": "0" * 64}, *ROWS[4:]], ROWS
    )
    assert run("audit", "verify", older, twice, "--root", fleet.root).code == Exit.TRUST

"""`fleetfoot audit`: who did what, when; and whether that is all of it, and as it was written."""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fleetfoot_client import auditing, options, roots, terminal
from fleetfoot_client.commands import online
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import AuditRow, parse, parse_list
from fleetfoot_protocol import strictjson, times, trust
from fleetfoot_protocol.auditchain import AuditHead, Entry, flaws
from fleetfoot_protocol.errors import FleetfootError

_DETAILS = 90


def register(subparsers: options.Subparsers) -> None:
    """Add `audit` and its subcommands."""
    group = options.add_group(
        subparsers,
        "audit",
        "see who did what, and verify that log",
        details="Each entry carries the hash of the one before; the manager signs how many there are.",
        example="fleetfoot audit list --limit 20",
    )
    _add_list(group)
    show = options.add_command(
        group, "show", _show, "show one entry with all it says", example="fleetfoot audit show 42"
    )
    show.add_argument("n", metavar="N", type=options.positive, help="its number")
    options.add_manager(show)
    export = options.add_command(
        group,
        "export",
        _export,
        "write the whole log to a file, with its signed head beside it",
        details="FILE gets a JSON object a line, FILE.head what the director signed. Keep exports: an old\n"
        "head proves later that nothing was cut since.",
        example="fleetfoot audit export --out audit-2026-01.jsonl",
    )
    export.add_argument("--out", metavar="FILE", type=Path, required=True, help="a new file")
    options.add_manager(export)
    _add_verify(group)
    _add_prune(group)


def _add_prune(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "prune",
        _prune,
        "remove old entries from the manager, once they are exported",
        details="Only what stands in EXPORT, verified with its head. The log says how far it was cut, in\n"
        "the same chain, so that the rest verifies by itself, and together with the export as a whole.",
        example="fleetfoot audit prune audit-2026-01.jsonl --older-than 365d",
    )
    add = parser.add_argument
    add("export", metavar="EXPORT", type=Path, help="what 'audit export' wrote")
    add("--older-than", metavar="TIME", type=options.duration, required=True,
        help="entries that are older than this: 365d, 12h")  # fmt: skip
    options.add_manager(parser)


def _add_list(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "list",
        _list,
        "list the newest entries, or those after a number",
        example="fleetfoot audit list --group ovens --action group.upgrade. --since 1d\n"
        "fleetfoot audit list --actor alice --limit 20\n"
        "fleetfoot audit list --after 100",
    )
    add = parser.add_argument
    add("--limit", metavar="N", type=options.positive, default=50, help="at most so many (default: 50)")
    add("--after", metavar="N", type=options.natural, help="those behind this number, oldest first")
    add("--actor", metavar="NAME", type=options.identifier, help="only this operator's, or manager's")
    add("--action", metavar="TEXT", help="only actions that begin so, e.g. release.")
    add("--group", metavar="NAME", type=options.identifier, help="only what is about this group")
    add("--since", metavar="TIME", type=options.duration, help="only the last 15m, 12h, 7d")
    options.add_manager(parser)


def _add_verify(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "verify",
        _verify,
        "check that no entry was changed, dropped, moved or cut off",
        details="Without FILE: the manager's log against the head that the broker retains.\n"
        "With FILE: an export, with public keys alone. Heads of older exports count as well.\n"
        "Exits with 5 if anything is wrong.",
        example="fleetfoot audit verify\n"
        "fleetfoot audit verify audit-2025.jsonl audit-2026.jsonl\n"
        "fleetfoot audit verify audit-2026-01.jsonl --root root.json --head audit-2025-12.jsonl.head",
    )
    add = parser.add_argument
    add(
        "files",
        metavar="FILE",
        type=Path,
        nargs="*",
        help="exports, oldest first: what was removed, and what follows",
    )
    add("--root", metavar="FILE", type=Path, help="the trust root that names the director (with FILE)")
    add("--head", metavar="FILE", type=Path, action="append", default=[],
        help="a signed head that the log must meet; repeatable (default: FILE.head)")  # fmt: skip
    options.add_manager(parser)


def _list(args: argparse.Namespace) -> int:
    wanted = {name: getattr(args, name) for name in ("after", "actor", "action", "group")}
    since = None if args.since is None else times.to_text(time.time() - args.since)
    result = online.ask(args, "audit.list", limit=min(args.limit, 200), since=since, **wanted)
    text = ""
    if not args.json:
        rows = parse_list(AuditRow, result, "entries")
        cells = [(r.n, r.at, r.actor, r.action, _short(r.data)) for r in rows]
        text = terminal.table(("N", "AT", "WHO", "ACTION", "ABOUT"), cells) if cells else "no entries"
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _short(data: str) -> str:
    """The simple values of an entry's data."""
    value = strictjson.loads(data.encode())
    simple = value.items() if isinstance(value, dict) else ()
    told = ((key, one) for key, one in simple if isinstance(one, str | int) and one != "")
    text = " ".join(f"{key}={str(one).lower() if isinstance(one, bool) else one}" for key, one in told)
    return text if len(text) <= _DETAILS else text[: _DETAILS - 1] + "…"


def _show(args: argparse.Namespace) -> int:
    result = online.ask(args, "audit.show", n=args.n)
    row = parse(AuditRow, result)
    facts = [("entry", row.n), ("at", row.at), ("who", row.actor), ("action", row.action)]
    text = terminal.facts([*facts, ("request", row.request), ("hash", row.hash)])
    data = json.dumps(strictjson.loads(row.data.encode()), indent=2, sort_keys=True)
    terminal.show(result, f"{text}\n\n{terminal.literal(data, keep=chr(10))}", as_json=args.json)
    return Exit.OK


def _export(args: argparse.Namespace) -> int:
    where = auditing.head_path(args.out)
    with online.open_session(args) as session:
        head = auditing.retained_head(session)
        signed = trust.verify_audit_head(head, session.root)
        try:
            with args.out.open("xb") as file, where.open("xb") as beside:
                beside.write(head)
                count = 0
                for row in auditing.fetched(session, timeout=args.reply_timeout):
                    file.write(strictjson.dumps(row) + b"\n")
                    count += 1
        except FileExistsError as error:
            raise FleetfootError("exists_already", f"{error.filename} exists") from error
    value = {"file": str(args.out), "head": str(where), "entries": count, "signed": signed.count}
    text = f"{count} entries in {args.out}, the signed head in {where}"
    terminal.show(value, f"{text}\nverify: fleetfoot audit verify {args.out}", as_json=args.json)
    return Exit.OK


def _verify(args: argparse.Namespace) -> int:
    if not args.files:
        if args.root is not None:
            raise FleetfootError("usage", "--root is for an export: name its FILE")
        with online.open_session(args) as session:
            head = trust.verify_audit_head(auditing.retained_head(session), session.root)
            older = [auditing.read_head(path, session.root) for path in args.head]
            rows = auditing.fetched(session, timeout=args.reply_timeout)
            return _judged((auditing.entry(row, "an entry") for row in rows), [head, *older], args.json)
    root = online.open_session(args).root if args.root is None else roots.load_valid(args.root)
    paths = [*map(auditing.head_path, args.files), *args.head]
    heads = [auditing.read_head(path, root) for path in paths]
    return _judged(auditing.read_exports(args.files), heads, args.json)


def _prune(args: argparse.Namespace) -> int:
    with online.open_session(args) as session:
        head = auditing.read_head(auditing.head_path(args.export), session.root)
        rows = list(auditing.read_export(args.export))
        if found := flaws(rows, [head]):
            raise FleetfootError(
                "state_refused",
                f"{args.export} is not whole: {found[0].message}",
                remedy="export the log anew: 'fleetfoot audit export'",
            )
        limit = time.time() - args.older_than
        # The newest entry that is known stays: the chain goes on from it.
        old = [row for row in rows[:-1] if row.n <= head.count and times.from_text(row.at) < limit]
        if not old:
            terminal.show({"removed": 0}, "no entry of this export is so old", as_json=args.json)
            return Exit.OK
        arguments = {"through": old[-1].n, "hash": old[-1].hash}
        result = session.request("audit.prune", arguments=arguments, timeout=args.reply_timeout)
    text = (
        f"{result.get('removed')} entries removed, up to {old[-1].n}; keep {args.export} and its head\n"
        f"verify it all: fleetfoot audit export --out NEXT && fleetfoot audit verify {args.export} NEXT"
    )
    terminal.show(result, terminal.literal(text, keep="\n"), as_json=args.json)
    return Exit.OK


def _judged(entries: Iterable[Entry], heads: list[AuditHead], as_json: bool) -> int:
    rows = list(entries)
    found = flaws(rows, heads)
    value: dict[str, Any] = {
        "ok": not found,
        "entries": len(rows),
        "signed": max(head.count for head in heads),
        "flaws": [flaw._asdict() for flaw in found],
    }
    if found:
        text = "\n".join(f"{flaw.what}: {flaw.message}" for flaw in found)
    else:
        text = f"{len(rows)} entries are whole and in order; the director signed {value['signed']} of them"
    terminal.show(value, terminal.literal(text, keep="\n"), as_json=as_json)
    return Exit.TRUST if found else Exit.OK

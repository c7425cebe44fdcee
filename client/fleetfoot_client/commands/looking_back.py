"""`fleetfoot rollout history|note|report`: how rollouts went, and what is worth knowing for the next one."""

import argparse
from pathlib import Path
from typing import Any

from fleetfoot_client import files, options, report, terminal
from fleetfoot_client.commands import online
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import PastRow, RateRow, parse, parse_list
from fleetfoot_client.session import Session
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError, FormError

_TABLES = (("components", "COMPONENT"), ("releases", "RELEASE"), ("groups", "GROUP"))


def add(group: options.Subparsers) -> None:
    """The subcommands."""
    history = options.add_command(
        group,
        "history",
        _history,
        "list ended rollouts and how many devices they reached well",
        details="Success: devices that proved healthy and were not taken back, of those asked to move.",
        example="fleetfoot rollout history --component kiosk",
    )
    add_argument = history.add_argument
    add_argument("--component", metavar="NAME", type=options.identifier, help="only this component's")
    add_argument("--group", metavar="NAME", type=options.identifier, help="only those over this group")
    add_argument("--limit", metavar="N", type=options.positive, default=50,
        help="over the newest N ended rollouts (default: 50, at most 200)")  # fmt: skip
    options.add_manager(history)
    note = options.add_command(
        group,
        "note",
        _note,
        "note something about a rollout; the next plan for its component shows it",
        example="fleetfoot rollout note r-4k2m9x0a7c --title 'ovens need a warm start' --category lesson",
    )
    add_argument = note.add_argument
    add_argument("rollout", metavar="ID", type=options.identifier, help="the rollout's id")
    add_argument("--title", metavar="TEXT", required=True, help="what to know, in one line")
    add_argument("--category", metavar="WORD", help="e.g. lesson, problem (default: note)")
    add_argument("--tag", metavar="WORD", action="append", default=[], help="repeatable")
    add_argument("--text", metavar="TEXT", help="the whole story")
    options.add_manager(note)
    made = options.add_command(
        group,
        "report",
        _report,
        "write report.json and report.html of an ended rollout",
        details="The page is one file: pictures inside, no script, light and dark.",
        example="fleetfoot rollout report r-4k2m9x0a7c --out reports/r-4k2m9x0a7c",
    )
    made.add_argument("rollout", metavar="ID", type=options.identifier, help="the rollout's id")
    made.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder; made if missing")
    options.add_manager(made)


def _history(args: argparse.Namespace) -> int:
    wanted = {"component": args.component, "group": args.group, "limit": min(args.limit, 200)}
    result = online.ask(args, "rollout.history", **wanted)
    if args.json:
        terminal.show_json(result)
        return Exit.OK
    rows = parse_list(PastRow, result, "rollouts")
    cells = [
        (r.rollout, f"{r.component} {r.version}", " ".join(r.groups), r.state, r.total, _percent(r),
         r.ended) for r in rows
    ]  # fmt: skip
    header = ("ROLLOUT", "UPGRADE", "GROUPS", "STATE", "DEVICES", "SUCCESS", "ENDED")
    parts = [terminal.table(header, cells) if cells else "no rollout has ended yet"]
    for name, title in _TABLES if cells else ():
        rates = {key: parse(RateRow, value) for key, value in dict(result.get(name, {})).items()}
        lines = [(key, of.rollouts, of.completed, _percent(of)) for key, of in rates.items()]
        parts.append(terminal.table((title, "ROLLOUTS", "COMPLETED", "SUCCESS"), lines))
    terminal.say("\n\n".join(parts))
    return Exit.OK


def _percent(row: PastRow | RateRow) -> str:
    return "" if row.success_percent is None else f"{row.success_percent} %"


def _note(args: argparse.Namespace) -> int:
    result = online.ask(
        args,
        "rollout.note",
        rollout=args.rollout,
        title=args.title,
        category=args.category,
        tags=args.tag or None,
        text=args.text,
    )
    terminal.show(result, f"noted on rollout {args.rollout}", as_json=args.json)
    return Exit.OK


def _report(args: argparse.Namespace) -> int:
    with online.open_session(args) as session:
        value = _whole(session, args.rollout, args.reply_timeout)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FleetfootError("io_error", f"cannot make {args.out}: {error.strerror}") from error
    written = []
    for name, data in (("report.json", report.as_json(value)), ("report.html", report.as_html(value))):
        files.replace(args.out / name, data)
        written.append(str(args.out / name))
    shown = {"rollout": args.rollout, "files": written, "devices": len(value["devices"])}
    terminal.show(shown, "\n".join(written), as_json=args.json)
    return Exit.OK


def _whole(session: Session, rollout: str, timeout: float) -> dict[str, Any]:
    """The report with all of its devices, which come page by page."""
    value: dict[str, Any] = {}
    devices: list[Any] = []
    after = 0
    while True:
        page = session.request(
            "rollout.report", arguments={"rollout": rollout, "after": after}, timeout=timeout
        )
        found = page.get("devices")
        if not isinstance(found, list):
            raise FormError(Code.UPGRADE_MALFORMED, "the manager's reply has no list 'devices'")
        value = value or page
        devices += found
        following = page.get("next")
        if not isinstance(following, int) or following <= after:
            break
        after = following
    return {name: one for name, one in value.items() if name != "next"} | {"devices": devices}

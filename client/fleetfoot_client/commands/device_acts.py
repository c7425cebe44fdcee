"""`fleetfoot device upgrade|downgrade|pin|unpin|release|upgrades|downgrades`: one device by itself."""

import argparse
import time
from typing import Any

from fleetfoot_client import options, terminal
from fleetfoot_client.commands import online
from fleetfoot_client.exits import Exit
from fleetfoot_client.link import deadline
from fleetfoot_client.rows import ActRow, DeviceRow, OwnRow, ReachableRow, parse, parse_list
from fleetfoot_client.session import Session
from fleetfoot_client.terminal import literal
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import Outcome

_LOOK_SECONDS = 1.0
#: The state of an act of which the device has not said how it went.
_OPEN = "open"
_MOVES = {
    "upgrade": ("bring one device to a newer release", "A device that is ahead stays."),
    "downgrade": (
        "bring one device back to an older release",
        "Refused where its group would bring it up again at once: pin it as well then.",
    ),
}
_BACK = {
    "unpin": "let a pinned device obey its group again",
    "release": "end whatever was asked of one device apart from its group",
}
_LISTS = {
    "upgrades": "list what one device could be upgraded to, and what not, and why",
    "downgrades": "list what one device could go back to, and what not, and why",
}


def add(group: options.Subparsers) -> None:
    """The subcommands."""
    for verb, (summary, details) in _MOVES.items():
        parser = _command(
            group,
            verb,
            summary,
            f"fleetfoot device {verb} oven-07 kiosk 1.1.0",
            details=f"{details} Lives 24 hours: a device that sleeps obeys when it wakes.",
        )
        parser.add_argument("version", metavar="VERSION", type=options.version, help="to which version")
        parser.add_argument("--pin", action="store_true", help="and keep it there until 'device unpin'")
        parser.add_argument(
            "--wait",
            metavar="TIME",
            type=options.duration,
            help="wait until the device has said how it went; exits with 0 if it runs the release now,"
            " 3 if not, 4 if it has not said in time",
        )
        options.add_manager(parser)
    pin = _command(
        group,
        "pin",
        "keep one device at a version, whatever its group is told",
        "fleetfoot device pin oven-07 kiosk\nfleetfoot device pin oven-07 kiosk 1.0.0",
        details="Without a version: at what runs. A recall still sends it back.",
    )
    pin.add_argument("version", metavar="VERSION", nargs="?", type=options.version, help="at which version")
    options.add_manager(pin)
    for verb, summary in _BACK.items():
        options.add_manager(_command(group, verb, summary, f"fleetfoot device {verb} oven-07 kiosk"))
    for verb, summary in _LISTS.items():
        parser = _command(group, verb, summary, f"fleetfoot device {verb} oven-07 kiosk")
        parser.set_defaults(handler=_reachable)
        options.add_manager(parser)


def _command(
    group: options.Subparsers, verb: str, summary: str, example: str, details: str = ""
) -> argparse.ArgumentParser:
    parser = options.add_command(group, verb, _act, summary, details=details, example=example)
    parser.set_defaults(verb=f"device.{verb}")
    parser.add_argument("device", metavar="ID", type=options.identifier, help="the device's id")
    parser.add_argument("component", metavar="COMPONENT", type=options.identifier, help="which component")
    return parser


def _ask(session: Session, args: argparse.Namespace) -> dict[str, Any]:
    wanted = {
        "device": args.device,
        "component": args.component,
        "version": getattr(args, "version", None),
        "pin": True if getattr(args, "pin", False) else None,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    return session.request(args.verb, arguments=given, timeout=args.reply_timeout)


def _act(args: argparse.Namespace) -> int:
    wait = getattr(args, "wait", None)
    with online.open_session(args) as session:
        result = _ask(session, args)
        row = parse(ActRow, result)
        if wait is None or row.already:
            terminal.show(result, literal(_said(row), keep="\n"), as_json=args.json)
            return Exit.OK
        if not args.json:
            terminal.note(literal(_said(row), keep="\n"))
        ended = _awaited(session, row, wait, args.reply_timeout)
    how = f"{ended.state}, {ended.outcome}" + (f" ({ended.code})" if ended.code else "")
    text = f"{row.component} of {row.device}: {row.kind} to {row.version} is {how}"
    value = {**result, "state": ended.state, "outcome": ended.outcome, "code": ended.code}
    terminal.show(value, literal(text), as_json=args.json)
    return Exit.OK if ended.outcome == Outcome.COMPLETED else Exit.STOPPED


def _said(row: ActRow) -> str:
    if row.already:
        return (
            f"{row.device} runs {row.component} {row.version} already: nothing was ordered\n"
            f"to keep it there: fleetfoot device pin {row.device} {row.component}"
        )
    what = row.kind + (f" to {row.version}" if row.version else "")
    text = f"{row.component} of {row.device}: {what} is {row.state}"
    if row.state == _OPEN:
        text += "" if row.online else " (the device is offline: it obeys when it comes back)"
        text += f"\nsee how it goes: fleetfoot device show {row.device}"
    return text


def _awaited(session: Session, asked: ActRow, wait: int, reply_timeout: float) -> OwnRow:
    """How the act ended. FleetfootError `timeout`; `conflict` where another order took its place."""
    left = deadline(wait)
    while True:
        shown = session.request("device.show", arguments={"device": asked.device}, timeout=reply_timeout)
        own = parse(DeviceRow, shown).own.get(asked.component)
        if own is None or own.act != asked.act:
            raise FleetfootError(
                "conflict",
                f"{asked.device} has been given another order since",
                remedy="see who did: fleetfoot audit list --action node.upgrade --limit 10",
            )
        if own.state != _OPEN:
            return own
        if not left():
            raise FleetfootError(
                "timeout",
                f"{asked.device} has not said how it went within {wait} s",
                remedy=f"the order stands: see how it goes with 'fleetfoot device show {asked.device}'",
            )
        time.sleep(min(_LOOK_SECONDS, left() or 0.0))


def _reachable(args: argparse.Namespace) -> int:
    with online.open_session(args) as session:
        result = _ask(session, args)
    if args.json:
        terminal.show_json(result)
        return Exit.OK
    rows = parse_list(ReachableRow, result, "releases")
    cells = [(r.version, r.channel, r.life, "yes" if r.direct else "no", r.remark, r.created) for r in rows]
    header = ("VERSION", "CHANNEL", "LIFE", "DIRECT", "REMARK", "CREATED")
    terminal.say(terminal.table(header, cells) if cells else f"no {args.verb.partition('.')[2]}")
    return Exit.OK

"""`fleetfoot events`: what devices and rollouts tell as it happens."""

import argparse
import json
from collections import OrderedDict
from typing import Any

from fleetfoot_client import options, terminal
from fleetfoot_client.commands import online
from fleetfoot_client.exits import Exit
from fleetfoot_client.link import deadline
from fleetfoot_client.session import Message, Session
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.events import PREFIX
from fleetfoot_protocol.topics import Kind

_DEFAULT_TIME = 10
_REMEMBERED = 4096
_MAX_BYTES = 256 << 10


def register(subparsers: options.Subparsers) -> None:
    """Add `events`."""
    parser = options.add_command(
        subparsers,
        "events",
        _events,
        "print events of devices and rollouts as they happen",
        details="Events are not kept: what happened before is not printed. They are for people and programs\n"
        "and not signed; what is decided, is decided by status with attestation. JSON lines with --json.",
        example="fleetfoot events --follow --kind-prefix upgrade_rolled_back\n"
        "fleetfoot events --group ovens --limit 10 --json",
    )
    add = parser.add_argument
    add("--follow", action="store_true", help="go on until Ctrl-C (or --limit)")
    add("--limit", metavar="N", type=options.positive, help="end after N events")
    add("--timeout", metavar="TIME", type=options.duration,
        help=f"end after this time (default: {_DEFAULT_TIME}s without --follow)")  # fmt: skip
    add("--kind-prefix", metavar="TEXT", default="", help="only kinds that begin so, e.g. rollout_")
    add("--group", metavar="NAME", type=options.identifier, help="only this group's")
    options.add_profile(parser)


def _events(args: argparse.Namespace) -> int:
    timeout = args.timeout
    if timeout is None and not args.follow:
        timeout = _DEFAULT_TIME
    left = deadline(timeout)
    wanted = _Wanted(args.kind_prefix.removeprefix(PREFIX))
    shown = 0
    with online.open_session(args) as session:
        _subscribe(session, args.group)
        while (message := session.next_message(left())) is not None:
            event = wanted.take(message)
            if event is None:
                continue
            _show_event(event, message, as_json=args.json)
            shown += 1
            if shown == args.limit:
                return Exit.OK
    if args.limit is None:
        return Exit.OK
    raise FleetfootError(
        "timeout",
        f"{shown} of {args.limit} events within {timeout} s",
        remedy="wait longer with --timeout or --follow",
    )


def _subscribe(session: Session, group: str | None) -> None:
    given = {"group": group} if group else {}
    root = session.profile.topic_root
    kinds = (Kind.GROUP_EVENTS, Kind.DEVICE_EVENTS)
    session.watch(*(topics.subscription(kind, root=root, **given) for kind in kinds))


class _Wanted:
    """Which messages are events that are to be shown; each event once, since messages may come twice."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def take(self, message: Message) -> dict[str, Any] | None:
        """The event in a message, or None. An event that is no CloudEvent is nobody's event."""
        if len(message.payload) > _MAX_BYTES:
            return None
        try:
            event = json.loads(message.payload)
        except (ValueError, RecursionError):
            return None
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            return None
        if not event["type"].removeprefix(PREFIX).startswith(self._prefix):
            return None
        key = (str(event.get("source")), str(event.get("id")))
        if key in self._seen:
            return None
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return event


def _show_event(event: dict[str, Any], message: Message, *, as_json: bool) -> None:
    if as_json:
        terminal.show_json(event, line=True)
        return
    who = message.topic.device or str(event.get("rollout", ""))
    cells = [
        str(event.get("time", "")),
        f"{event.get('severity', '')!s:8}",
        f"{event['type'].removeprefix(PREFIX):28}",
        f"{message.topic.group}/{who}" if who else message.topic.group,
        str(event.get("component", "")),
        str(event.get("errorcode", "")),
        _details(event.get("data"), {message.topic.group, who}),
    ]
    terminal.say(terminal.literal("  ".join(cell for cell in cells if cell)))


def _details(data: object, shown: set[str]) -> str:
    """The simple values of an event's data, `key=value`, but what is `shown` already or known elsewhere.

    Digests are shortened: whoever needs all of one asks for --json.
    """
    if not isinstance(data, dict):
        return ""
    simple = {k: v for k, v in data.items() if isinstance(v, str | int) and k not in ("error_code", "remedy")}
    told = {k: v for k, v in simple.items() if k not in ("device", "group") or v not in shown}
    if isinstance(digest := told.get("digest"), str):
        told["digest"] = digest[:12]
    return " ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in told.items()
    )

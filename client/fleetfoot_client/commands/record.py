"""`fleetfoot record`: what the broker says, into a file that `fleetfoot replay` shows again."""

import argparse
import os
import signal
import threading
from pathlib import Path

from fleetfoot_client import options, profiles, terminal
from fleetfoot_client.exits import Exit
from fleetfoot_client.link import Link
from fleetfoot_client.recording import Recorder
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind

_NEVER = frozenset({Kind.REQUESTS, Kind.REPLIES})
_PATIENCE = 10.0


def register(subparsers: options.Subparsers) -> None:
    """Add `record`."""
    parser = options.add_command(
        subparsers,
        "record",
        _record,
        "write down what the broker says, to look at it again",
        details="Everything an operator may read but requests and replies, retained messages first, until\n"
        "Ctrl-C or --for. The file names devices and errors of your fleet: look before you hand it on.",
        example="fleetfoot record trouble.jsonl --for 5m\nfleetfoot replay trouble.jsonl --speed 10",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="where to; must not exist")
    parser.add_argument(
        "--for", metavar="TIME", dest="duration", type=options.duration, help="end after this time"
    )
    options.add_profile(parser)


def _record(args: argparse.Namespace) -> int:
    profile = profiles.choose(args.profile, os.environ)
    root = profile.root.read_bytes()
    filters = [topics.subscription(kind, root=profile.topic_root) for kind in Kind if kind not in _NEVER]
    try:
        descriptor = os.open(args.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FleetfootError("exists_already", f"{args.file} is there already") from None
    ended = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: ended.set())
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            recorder = Recorder(file, root, profile.topic_root)
            link = Link(profile, recorder.put)
            link.open(_PATIENCE)
            try:
                link.subscribe(filters, _PATIENCE)
                ended.wait(args.duration)
            finally:
                link.close()
    finally:
        signal.signal(signal.SIGINT, before)
    text = f"{recorder.count} messages in {args.file}; look at them: fleetfoot replay {args.file}"
    terminal.show(
        {"file": str(args.file), "messages": recorder.count}, terminal.literal(text), as_json=args.json
    )
    return Exit.OK

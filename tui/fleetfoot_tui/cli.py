"""`fleetfoot tui`."""

import argparse
import logging
import os
import sys

from fleetfoot_client import options, profiles
from fleetfoot_client.exits import Exit
from fleetfoot_client.session import Session
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui import settings, swift


def register(subparsers: options.Subparsers) -> None:
    """Add `tui`."""
    parser = options.add_command(
        subparsers,
        "tui",
        _tui,
        "the console: see what the fleet does, and steer it",
        details="Keys: ? says which there are, : opens the palette, q goes back and ^q leaves. What changes\n"
        "something is a signed request, like a command's; watching works while the manager is down.",
        example="fleetfoot tui\nfleetfoot tui --profile bakery --read-only",
    )
    parser.add_argument(
        "--read-only", action="store_true", help="sign nothing that changes anything, whatever is pressed"
    )
    options.add_profile(parser)


def _tui(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise FleetfootError(
            "usage",
            "the console needs a terminal",
            remedy="for programs there are the other commands, each with --json",
        )
    # Whatever is logged would be written across the screen.
    logging.disable(logging.CRITICAL)
    swift.prepare()
    from fleetfoot_tui.app import Console
    from fleetfoot_tui.feed import Feed
    from fleetfoot_tui.screens import bindings

    own = settings.from_environment(bindings() | Console.binding_ids())
    profile = profiles.choose(args.profile, os.environ)
    with Session(profile, read_only=args.read_only, patient=True) as session, Feed(profile) as feed:
        console = Console(
            session.root,
            feed,
            session,
            source=feed,
            read_only=args.read_only,
            operator=profile.operator,
            keys=own.keys,
            theme=own.theme,
        )
        console.run()
    return console.return_code or Exit.OK

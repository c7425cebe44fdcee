"""What the commands share that talk to a manager: the session, and which revision they act on."""

import argparse
import os
from typing import Any

from fleetfoot_client import profiles
from fleetfoot_client.session import EVERY_GROUP, Session


def open_session(args: argparse.Namespace) -> Session:
    """A session with the profile that the command was given; use it in a `with`."""
    return Session(profiles.choose(args.profile, os.environ))


def ask(args: argparse.Namespace, verb: str, **arguments: Any) -> dict[str, Any]:
    """One request on a session of its own; arguments of None are left out."""
    given = {name: value for name, value in arguments.items() if value is not None}
    with open_session(args) as session:
        return session.request(verb, EVERY_GROUP, given, timeout=args.reply_timeout)

"""`fleetfoot device token|revoke`: who may become a device, and who is one no more."""

import argparse
import secrets
from typing import Annotated

from pydantic import Field

from fleetfoot_client import options, terminal
from fleetfoot_client.commands import online
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import Row, parse
from fleetfoot_client.terminal import literal
from fleetfoot_protocol import enrolment
from fleetfoot_protocol.enrolment import Token


class _Named(Row):
    """What the manager adds to a token."""

    url: str
    root: str
    ca: str
    expires: Annotated[str, Field(max_length=64)]


def add(group: options.Subparsers) -> None:
    """The subcommands."""
    token = options.add_command(
        group,
        "token",
        _token,
        "make a token with which one device enrols itself",
        details="Whoever has the token may use it, once; the manager and the broker never see its secret.\n"
        "With --id it is for that device alone, and may give a known device new keys.",
        example="fleetfoot device token --group ovens --life 2h > token.txt\n"
        "fleetfoot-agent enroll token.txt --device oven-07 --component kiosk --enable",
    )
    token.add_argument("--group", metavar="NAME", required=True, type=options.identifier, help="its group")
    token.add_argument("--id", metavar="ID", type=options.identifier, help="only this device may use it")
    token.add_argument("--life", metavar="TIME", type=options.duration, default=3600,
        help="how long it may be used: 30m, 2h, 7d (default: 1h)")  # fmt: skip
    options.add_manager(token)
    revoke = options.add_command(
        group,
        "revoke",
        _revoke,
        "turn a device away for good: its certificates, its session, what it left",
        details="As 'device forget'; and a manager with --pki puts its certificates on the list of revoked\n"
        "ones. The broker has to load the new list (docs/brokers.md); until then the manager ends the\n"
        "device's session again and again. An enrolment under this name ends the revocation.",
        example="fleetfoot device revoke oven-07",
    )
    revoke.add_argument("device", metavar="ID", type=options.identifier, help="the device's id")
    options.add_manager(revoke)


def _token(args: argparse.Namespace) -> int:
    secret = secrets.token_hex(32)
    digest = enrolment.secret_digest(secret)
    result = online.ask(
        args, "device.token", secret_sha256=digest, group=args.group, device=args.id, life=int(args.life)
    )
    named = parse(_Named, result)
    token = Token(
        url=named.url, secret=secret, group=args.group, device=args.id, root=named.root, ca=named.ca
    )
    text = enrolment.encode(token)
    terminal.show({"token": text, "expires": named.expires}, text, as_json=args.json)
    return Exit.OK


def _revoke(args: argparse.Namespace) -> int:
    result = online.ask(args, "device.revoke", device=args.device)
    listed, cleared = result.get("certificates"), result.get("cleared")
    text = f"{args.device} is revoked; {listed} certificates listed, {cleared} retained topics cleared"
    if not listed:
        text += (
            "\nthis manager has none of its certificates: take its credentials at the broker away yourself"
        )
    terminal.show(result, literal(text, keep="\n"), as_json=args.json)
    return Exit.OK

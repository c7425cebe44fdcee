"""`fleetfoot broker check`: what a broker does and what follows from it."""

import argparse
import ssl
from pathlib import Path

from fleetfoot_client import files, options, profiles, terminal
from fleetfoot_client.broker import report
from fleetfoot_client.broker.check import check
from fleetfoot_client.broker.report import DEMO, PRODUCTION, ROWS, Finding
from fleetfoot_client.broker.rights import Role
from fleetfoot_client.broker.target import Target
from fleetfoot_client.exits import Exit
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError

_WORD = {True: "yes", False: "NO", None: "?"}


def register(subparsers: options.Subparsers) -> None:
    """Add `broker` and its subcommands."""
    group = options.add_group(
        subparsers,
        "broker",
        "look at a broker before a fleet depends on it",
        example="fleetfoot broker check mqtt://127.0.0.1",
    )
    parser = options.add_command(
        group,
        "check",
        _check,
        "try what a broker does with retained messages, Wills, order, silence, strangers",
        details="Works below topics of its own, ffcheck/<random>/, and clears what it leaves there. Where\n"
        "an access list denies them, this is said and the rest is tried. With --as it also tries what\n"
        "must be denied to a role, with messages that are empty and go to ids that nobody has. A broker\n"
        "that ties client ids to certificates ends the real device's connection for a moment.\n"
        "Exit code 1 if the broker is not safe for what --for names.",
        example="fleetfoot broker check mqtt://127.0.0.1\n"
        "fleetfoot broker check mqtts://broker.example.org:8884 --ca-file ca.crt --cert-file manager.crt \\\n"
        "    --cert-key-file manager.key --for production",
    )
    _add_arguments(parser)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    roles = [str(role) for role in Role]
    add(
        "--as",
        dest="role",
        choices=roles,
        help="whose certificate or password this is: try what it is denied",
    )
    add("--for", dest="purpose", choices=(DEMO, PRODUCTION), default=DEMO,
        help="what it must be safe for (default: %(default)s)")  # fmt: skip
    add("--topic-root", metavar="TOPIC", default=topics.DEFAULT_ROOT,
        help="what the fleet's topics begin with, for --as (default: %(default)s)")  # fmt: skip
    add("--username", metavar="NAME", help="the name at the broker, if it wants one")
    add("--password-file", metavar="FILE", type=Path, help="a file whose first line is the password")
    add("--ca-file", metavar="FILE", type=Path, help="certificates that vouch for the broker")
    add("--cert-file", metavar="FILE", type=Path, help="the TLS certificate to show")
    add("--cert-key-file", metavar="FILE", type=Path, help="the key of that certificate")


def _check(args: argparse.Namespace) -> int:
    try:
        root = topics.check_root(args.topic_root)
    except topics.TopicError as error:
        raise FleetfootError("usage", str(error)) from error
    target = _target(args)
    role = None if args.role is None else Role(args.role)
    findings = list(check(target, role, root))
    terminal.show(report.as_json(args.url, findings), _text(findings), as_json=args.json)
    return Exit.FAILED if report.safe_for(findings, args.purpose) is False else Exit.OK


def _target(args: argparse.Namespace) -> Target:
    address = profiles.parse_broker(args.url)
    if (args.cert_file is None) != (args.cert_key_file is None):
        raise FleetfootError("usage", "--cert-file and --cert-key-file belong together")
    if not address.tls and (args.ca_file or args.cert_file):
        raise FleetfootError("usage", "certificates are of no use without TLS: give the URL as mqtts://")
    password = None
    if args.password_file is not None:
        text = files.read(args.password_file, 4096).decode("utf-8", "replace")
        password = text.split("\n", 1)[0].rstrip("\r")
    return Target(address, _context(args) if address.tls else None, args.username, password)


def _context(args: argparse.Namespace) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if args.ca_file is None else str(args.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if args.cert_file is not None:
            context.load_cert_chain(args.cert_file, args.cert_key_file)
    except (OSError, ValueError) as error:
        raise FleetfootError("config_invalid", f"cannot use the TLS files: {error}") from error
    return context


def _text(findings: list[Finding]) -> str:
    rows = [(f.name.replace("_", " "), _WORD[f.holds], f.detail) for f in findings]
    lines = [terminal.table(("CHECK", "HOLDS", "FOUND"), rows)]
    failed = [f for f in findings if f.holds is False]
    if failed:
        pairs = [(f.name.replace("_", " "), ROWS[f.name].consequence) for f in failed]
        lines += ["", "what follows:", terminal.facts(pairs)]
    lines.append("")
    for purpose in (DEMO, PRODUCTION):
        safe = report.safe_for(findings, purpose)
        why = [
            f.name.replace("_", " ") for f in findings if report.needed(f.name, purpose) and f.holds is safe
        ]
        tail = {True: "", False: f" ({', '.join(why)})", None: f" (not seen: {', '.join(why)})"}[safe]
        lines.append(f"safe for {purpose}: {_WORD[safe]}{terminal.literal(tail)}")
    return "\n".join(lines)

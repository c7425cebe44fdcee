"""What the subcommands of `fleetfoot manager` have in common."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

if TYPE_CHECKING:
    from fleetfoot_manager.broker_address import Credentials


def add_command(
    commands: Any, name: str, summary: str, details: str, example: str
) -> argparse.ArgumentParser:
    """A subcommand of `fleetfoot manager`, with the folder that all of them work in."""
    text = f"{summary[0].upper()}{summary[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{text}\n\n{details}",
        epilog=f"example:\n  fleetfoot manager {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder = platformdirs.user_data_path("fleetfoot") / "manager"
    parser.add_argument(
        "--dir",
        type=Path,
        default=folder,
        metavar="DIR",
        help="state folder of the manager (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="answer as one JSON object")
    return parser


def add_database(parser: argparse.ArgumentParser) -> None:
    """The option that says where a new store lies."""
    parser.add_argument(
        "--database",
        metavar="URL",
        help="keep the store in PostgreSQL, postgresql://USER@HOST/DATABASE, instead of a file in the folder",
    )


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """What an external broker wants to see."""
    add = parser.add_argument
    add("--broker-ca", type=Path, metavar="FILE", help="certificates that vouch for the external broker")
    add("--broker-cert", type=Path, metavar="FILE", help="the manager's certificate at the broker")
    add("--broker-key", type=Path, metavar="FILE", help="the key of that certificate")
    add("--broker-username", metavar="NAME", help="the manager's name at the broker, if it wants one")
    add(
        "--broker-password-file",
        type=Path,
        metavar="FILE",
        help="a file whose first line is the password",
    )


def credentials_of(args: argparse.Namespace) -> "Credentials":
    """What those options said."""
    from fleetfoot_manager.broker_address import Credentials

    return Credentials(
        ca=args.broker_ca,
        cert=args.broker_cert,
        key=args.broker_key,
        username=args.broker_username,
        password_file=args.broker_password_file,
    )

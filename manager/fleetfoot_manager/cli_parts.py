"""What the subcommands of `fleetfoot manager` have in common."""

import argparse
from pathlib import Path
from typing import Any

import platformdirs


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
    return parser


def add_database(parser: argparse.ArgumentParser) -> None:
    """The option that says where a new store lies."""
    parser.add_argument(
        "--database",
        metavar="URL",
        help="keep the store in PostgreSQL, postgresql://USER@HOST/DATABASE, instead of a file in the folder",
    )

"""Building parsers: every command says what it does and gives an example; types that check arguments."""

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from fleetfoot_protocol import topics, versions
from fleetfoot_protocol.errors import FleetfootError

#: What `register` of a command gets. In quotes: the class has no parameter at run time.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

Handler = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors as all others: with a code and what to do."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint, after a reminder of how the command is used."""
        self.print_usage(sys.stderr)
        raise FleetfootError("usage", message, remedy=f"see '{self.prog} --help'")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Let the command itself complain of what it does not know: the help that helps is its own."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


_DURATION = re.compile(r"(\d{1,9})(s|m|h|d)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def add_group(
    subparsers: Subparsers, name: str, summary: str, *, example: str, details: str = ""
) -> Subparsers:
    """A command that only has subcommands; returns where they are added."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=_description(summary, details),
        epilog=_example(example),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(dest=f"{name}_command", metavar="COMMAND", required=True)


def add_command(
    subparsers: Subparsers, name: str, handler: Handler, summary: str, *, example: str, details: str = ""
) -> argparse.ArgumentParser:
    """A command with its handler, --json, and its example at the end of its help."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=_description(summary, details),
        epilog=_example(example),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _description(summary: str, details: str) -> str:
    text = f"{summary[0].upper()}{summary[1:]}."
    return f"{text}\n\n{details}" if details else text


def _example(text: str) -> str:
    return "example:\n" + "\n".join(f"  {line}" for line in text.splitlines())


def add_profile(parser: argparse.ArgumentParser) -> None:
    """The option of every command that connects to the broker."""
    parser.add_argument("--profile", metavar="NAME", help="which profile to use (default: the default one)")


def add_manager(parser: argparse.ArgumentParser) -> None:
    """The options of every command that asks the manager."""
    add_profile(parser)
    parser.add_argument(
        "--reply-timeout",
        metavar="TIME",
        type=duration,
        default=15,
        help="how long to wait for the manager's reply (default: 15s)",
    )


def identifier(text: str) -> str:
    """An id of the contract."""
    if not topics.is_id(text):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!a} is no id: small letters, digits and '-', at most 63, not beginning with '-'"
        )
    return text


def version(text: str) -> str:
    """A version of the contract."""
    try:
        return versions.check(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:80]!a} is no version: SemVer without build metadata, e.g. 1.4.0 or 2.0.0-rc.1"
        ) from None


def duration(text: str) -> int:
    """Seconds, from `90`, `90s`, `5m`, `2h` or `1d`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is no time: a number with s, m, h or d, e.g. 5m")
    return int(match[1]) * _SECONDS[match[2]]


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or len(text) > 15 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is not a whole number from 1 on")
    return int(text)


def natural(text: str) -> int:
    """A whole number from 0 on."""
    return 0 if text == "0" else positive(text)


def days(text: str) -> int:
    """A number of days, at most a hundred years."""
    if positive(text) > 36_500:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} days are more than a hundred years")
    return int(text)


def label(text: str) -> tuple[str, str]:
    """A label, `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is no label: KEY=VALUE")
    return key, value

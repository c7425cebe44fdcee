"""The `fleetfoot` command: finds its subcommands by entry points and turns errors into exit codes.

Each entry point of the group `fleetfoot.commands` loads to `register(subparsers)`. Only the one that was
asked for is loaded, so that `fleetfoot key new` does not pay for the manager; the help loads all of them.
"""

import argparse
import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version

from fleetfoot_client.exits import Exit, exit_of
from fleetfoot_client.options import Parser, Subparsers
from fleetfoot_client.terminal import show_error
from fleetfoot_protocol.errors import FleetfootError

GROUP = "fleetfoot.commands"
#: The extra that a command needs, where the base install does not suffice for it.
EXTRAS = {"manager": "manager", "pki": "manager", "demo": "demo", "tui": "tui", "replay": "tui", "sim": "all"}

_EPILOG = """\
exit codes:
  0 done  1 failed  2 usage  3 rollout paused, tripped or aborted  4 timeout
  5 signature or trust  6 broker unreachable

example:
  fleetfoot key new release.key
  fleetfoot release build app/ --component kiosk --version 1.0.0 --entrypoint bin/kiosk --out dist/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and lets no error through as a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a glyph gets its number, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # What is still buffered goes nowhere, or the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE


def _fill_closed_streams() -> None:
    """Lead streams that were closed nowhere: the next file that is opened must not take their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except SystemExit as leave:  # argparse has said what it wanted to say
        return leave.code if isinstance(leave.code, int) else Exit.USAGE
    except FleetfootError as error:
        failure = error
    except EOFError:
        failure = FleetfootError("usage", "the input ended before the question was answered")
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        failure = FleetfootError("io_error", f"{where}{error.strerror or error}")
    show_error(failure, as_json="--json" in arguments)
    return exit_of(failure)


def _dispatch(arguments: list[str]) -> int:
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    asked = next((word for word in arguments if not word.startswith("-")), None)
    parser: argparse.ArgumentParser = Parser(
        prog="fleetfoot",
        description="Upgrade fleets of edge devices: keys, releases, rollouts, devices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fleetfoot {version('fleetfoot')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    if asked is None:
        missing = _register_all(subparsers, found)
        if missing:
            parser.epilog = "\n".join(["not installed:", *missing, "", _EPILOG])
        parser.parse_args(arguments)
        parser.print_help(sys.stderr)
        return Exit.USAGE
    if asked not in found:
        parser.error(_unknown(asked, sorted(found)))
    register = _load(found[asked])
    register(subparsers)
    options = parser.parse_args(arguments)
    try:
        code: int = options.handler(options)
    except ModuleNotFoundError as error:
        raise _needs_extra(asked, error) from error
    return code


def _register_all(subparsers: Subparsers, found: dict[str, EntryPoint]) -> list[str]:
    """Register every command; returns a line for each one that cannot be loaded."""
    missing = []
    for name in sorted(found):
        try:
            _load(found[name])(subparsers)
        except FleetfootError as error:
            missing.append(f"  {name}: {error.remedy}")
    return missing


def _load(entry: EntryPoint) -> Callable[[Subparsers], None]:
    """The command's `register`. Raises FleetfootError `not_installed` if something it imports is missing."""
    try:
        register: Callable[[Subparsers], None] = entry.load()
    except (ImportError, AttributeError) as error:
        raise _needs_extra(entry.name, error) from error
    return register


def _needs_extra(name: str, error: Exception) -> FleetfootError:
    return FleetfootError(
        "not_installed",
        f"the command {name!r} cannot run: {error}",
        remedy=f"install its extra, in a checkout: pip install '.[{EXTRAS.get(name, 'all')}]'",
    )


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f" (there are: {', '.join(known)})"
    return f"there is no command {name[:40]!a}{hint}"

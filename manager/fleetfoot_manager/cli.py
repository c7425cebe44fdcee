"""`fleetfoot manager init|run|status`."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetfoot_protocol.codes import Code, Family, info
from fleetfoot_protocol.errors import FleetfootError

_LEVELS = ("debug", "info", "warning", "error")
#: Libraries that tell every packet at the level at which we tell decisions.
_CHATTY = ("amqtt", "transitions", "aiohttp")
_FORMAT = "ts=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"


class OneLine(logging.Formatter):
    """Messages as they are, but on one line: some of their words come from the network."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in record.message
        )
        return super().formatMessage(record)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `manager` command."""
    parser = subparsers.add_parser("manager", help="run the manager of a fleet, or make a new one")
    commands = parser.add_subparsers(dest="manager_command", required=True, metavar="COMMAND")
    _add_init(commands)
    _add_run(commands)
    _add_status(commands)


def _add_init(commands: Any) -> None:
    parser = commands.add_parser("init", help="make the state folder of a new manager")
    _add_folder(parser)
    parser.add_argument(
        "--operator",
        action="append",
        required=True,
        metavar="NAME=PUBFILE",
        help="an operator and the file of the public key; may be given several times",
    )
    parser.add_argument("--fleet", default="fleet", help="id of the fleet (default: %(default)s)")
    parser.set_defaults(handler=_guarded(_init))


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run the manager until SIGTERM or SIGINT",
        description="Without --broker it starts one of its own, for demo, tests and a trusted loopback only.",
    )
    _add_folder(parser)
    parser.add_argument(
        "--root",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="trust root to install; later ones must follow in a chain (may be given several times)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--broker", metavar="URL", help="external broker, as mqtt://host:port")
    where.add_argument(
        "--listen",
        default="127.0.0.1:1883",
        metavar="HOST:PORT",
        help="where the embedded broker listens, port 0 for any (default: %(default)s)",
    )
    parser.add_argument(
        "--artifacts",
        default="127.0.0.1:8090",
        metavar="HOST:PORT",
        help="where the artifact server listens, port 0 for any (default: %(default)s)",
    )
    parser.add_argument("--mirror", metavar="URL", help="base URL that devices fetch from, instead of that")
    parser.add_argument(
        "--topic-root", default="ff", help="first levels of all topics (default: %(default)s)"
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="say where it serves as one JSON object")
    parser.set_defaults(handler=_guarded(_run))


def _add_status(commands: Any) -> None:
    parser = commands.add_parser("status", help="what the store on this machine says")
    _add_folder(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(handler=_guarded(_status))


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="state folder of the manager")


def _guarded(handler: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Errors of ours as two lines and an exit code: what is wrong, and what to do."""

    def guarded(args: argparse.Namespace) -> int:
        try:
            return handler(args)
        except FleetfootError as error:
            print(f"fleetfoot manager: {error}", file=sys.stderr)
            print(f"  {error.remedy}", file=sys.stderr)
            return _exit_code(error.code)

    return guarded


def _exit_code(code: str) -> int:
    if code in ("usage", "unsafe_binding"):
        return 2
    if code == "timeout":
        return 4
    if code in set(Code) and info(Code(code)).family is Family.TRUST:
        return 5
    return 1


def _init(args: argparse.Namespace) -> int:
    from fleetfoot_manager.init import make_state

    operators: dict[str, Path] = {}
    for text in args.operator:
        name, equals, path = text.partition("=")
        if not equals or not path or name in operators:
            raise FleetfootError(
                "usage", f"--operator {text[:200]!a}", remedy="give each once, as NAME=PUBFILE"
            )
        operators[name] = Path(path)
    request = make_state(args.dir, args.fleet, operators)
    print(f"made the manager of fleet {args.fleet} in {args.dir}")
    print("next, where the root key is:")
    print(
        f"  fleetfoot trust init --request {request} --root-key root.key --release-key release.key.pub"
        " --out root.json"
    )
    print("then, here:")
    print(f"  fleetfoot manager run --dir {args.dir} --root root.json")
    return 0


def _run(args: argparse.Namespace) -> int:
    from fleetfoot_manager.run import Options, Ready, parse_address, run
    from fleetfoot_protocol import topics

    console = logging.StreamHandler()
    console.setFormatter(OneLine(_FORMAT))
    logging.basicConfig(level=args.log_level.upper(), handlers=[console])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if args.log_level == "debug" else logging.WARNING)
    try:
        topic_root = topics.check_root(args.topic_root)
    except topics.TopicError as error:
        raise FleetfootError("usage", str(error)) from error
    options = Options(
        folder=args.dir,
        roots=args.root,
        broker=args.broker,
        listen=parse_address(args.listen, "--listen"),
        artifacts=parse_address(args.artifacts, "--artifacts"),
        mirror=args.mirror,
        topic_root=topic_root,
    )

    def say(ready: Ready) -> None:
        if args.json:
            print(json.dumps({"broker": ready.broker, "artifacts": ready.artifacts}), flush=True)
        else:
            print(f"ready broker={ready.broker} artifacts={ready.artifacts}", flush=True)

    run(options, say)
    return 0


def _status(args: argparse.Namespace) -> int:
    from fleetfoot_manager.status import lines, look

    seen = look(args.dir)
    print(json.dumps(seen) if args.json else "\n".join(lines(seen)))
    return 0

"""`fleetfoot manager init|run|status`; what looks after the store stands in `cli_store`."""

import argparse
import json
import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fleetfoot_manager import cli_store, logs
from fleetfoot_manager.cli_parts import add_command, add_credentials, add_database, credentials_of
from fleetfoot_protocol.errors import FleetfootError

_LEVELS = ("debug", "info", "warning", "error")
#: Libraries that tell every packet at the level at which we tell decisions.
_CHATTY = ("amqtt", "transitions", "aiohttp")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `manager` command. The `fleetfoot` command tells its errors and gives them their exit codes."""
    parser = subparsers.add_parser(
        "manager",
        help="run the manager of a fleet, or make a new one",
        description="Make, run and look at the manager of a fleet: on the machine where its state is.",
        epilog="example:\n  fleetfoot manager status --dir manager",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="manager_command", required=True, metavar="COMMAND")
    _add_init(commands)
    _add_run(commands)
    _add_status(commands)
    cli_store.add(commands)


def _add_init(commands: Any) -> None:
    parser = add_command(
        commands,
        "init",
        "make the state folder of a new manager",
        "Makes its key (the director key), its store, and a request from which 'fleetfoot trust init'\n"
        "makes the trust root where the root keys are.",
        "--dir manager --fleet kitchens --operator alice=alice.key.pub",
    )
    parser.add_argument(
        "--operator",
        action="append",
        required=True,
        metavar="[NAME=]PUBFILE",
        help="an operator by the file of the public key; the name is by default what stands before the\n"
        "file's first dot: alice.key.pub is alice's; may be given several times",
    )
    parser.add_argument(
        "--fleet", default="fleet", metavar="ID", help="id of the fleet (default: %(default)s)"
    )
    add_database(parser)
    parser.set_defaults(handler=_init)


def _add_run(commands: Any) -> None:
    parser = add_command(
        commands,
        "run",
        "run the manager until SIGTERM or SIGINT",
        "Without --broker it starts one of its own, for demo, tests and a trusted loopback only. The\n"
        "artifact server listens on loopback only too, unless --pki gives it certificates; or put a web\n"
        "server with TLS in front of it and name that with --mirror.",
        "--dir manager --root root.json\n"
        "  fleetfoot manager run --dir manager --broker mqtt://127.0.0.1 --mirror https://example.org/blobs",
    )
    parser.add_argument(
        "--root",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="trust root to install; later ones must follow in a chain (may be given several times)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--broker", metavar="URL", help="external broker, mqtt://host:port or mqtts://...")
    where.add_argument(
        "--listen",
        default="127.0.0.1:1883",
        metavar="HOST:PORT",
        help="where the embedded broker listens, port 0 for any (default: %(default)s)",
    )
    add_credentials(parser)
    parser.add_argument(
        "--artifacts",
        default="127.0.0.1:8090",
        metavar="HOST:PORT",
        help="where the artifact server listens, port 0 for any (default: %(default)s)",
    )
    parser.add_argument(
        "--pki",
        type=Path,
        metavar="DIR",
        help="certificates of 'fleetfoot pki init': artifacts by TLS, to devices only, each what is meant for"
        " it; and, with devices-ca.key in it, enrolment by token",
    )
    parser.add_argument(
        "--device-broker", metavar="URL", help="the broker that enrolling devices get, instead of --broker"
    )
    parser.add_argument(
        "--certificate-days",
        type=float,
        default=365.0,
        metavar="N",
        help="how long devices' certificates live; renewed by themselves after two thirds"
        " (default: %(default)g)",
    )
    parser.add_argument(
        "--status",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where /healthz, /readyz and /metrics are served; loopback only (default: any free port)",
    )
    parser.add_argument("--mirror", metavar="URL", help="base URL that devices fetch from, instead of that")
    parser.add_argument(
        "--topic-root", default="ff", metavar="TOPIC", help="what topics begin with (default: %(default)s)"
    )
    parser.add_argument(
        "--log-level", choices=_LEVELS, default="info", help="what is logged on stderr (default: %(default)s)"
    )
    parser.add_argument(
        "--log-format",
        choices=tuple(logs.FORMATS),
        default="text",
        help="lines of name=value, or a JSON object a line with the same names (default: %(default)s)",
    )
    parser.set_defaults(handler=_run)


def _add_status(commands: Any) -> None:
    parser = add_command(
        commands,
        "status",
        "say what the store on this machine holds",
        "Reads only, whether or not the manager runs.",
        "--dir manager --json",
    )
    parser.set_defaults(handler=_status)


def _init(args: argparse.Namespace) -> int:
    from fleetfoot_manager.database import parse
    from fleetfoot_manager.init import make_state

    operators: dict[str, Path] = {}
    for text in args.operator:
        before, equals, path = text.partition("=")
        name, file = (before, Path(path)) if equals else (Path(text).name.partition(".")[0], Path(text))
        if not name or not file.name or name in operators:
            raise FleetfootError(
                "usage", f"--operator {text[:200]!a}", remedy="give each once, as PUBFILE or NAME=PUBFILE"
            )
        operators[name] = file
    database = None if args.database is None else parse(args.database)
    request = make_state(args.dir, args.fleet, operators, database)
    if args.json:
        about = {"fleet": args.fleet, "dir": str(args.dir), "request": str(request)}
        print(json.dumps({**about, "operators": sorted(operators)}))
        return 0
    folder = shlex.quote(str(args.dir))
    print(f"made the manager of fleet {args.fleet} in {args.dir}")
    print("next, where the root key is (every key comes from 'fleetfoot key new FILE'):")
    print(
        f"  fleetfoot trust init --request {shlex.quote(str(request))} --root-key root.key"
        " --release-key release.key.pub --out root.json"
    )
    print("then, here:")
    print(f"  fleetfoot manager run --dir {folder} --root root.json")
    print("then, where an operator works:")
    for name, path in operators.items():
        key = shlex.quote(str(path).removesuffix(".pub"))
        print(
            f"  fleetfoot profile set {args.fleet} --broker mqtt://127.0.0.1 --operator {name} --key {key}"
            " --root root.json"
        )
    return 0


def _run(args: argparse.Namespace) -> int:
    from fleetfoot_manager.run import Options, Ready, parse_address, run
    from fleetfoot_protocol import topics

    console = logging.StreamHandler()
    console.setFormatter(logs.FORMATS[args.log_format]())
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
        status=parse_address(args.status, "--status"),
        mirror=args.mirror,
        topic_root=topic_root,
        pki=args.pki,
        device_broker=args.device_broker,
        certificate_days=args.certificate_days,
        credentials=credentials_of(args),
    )

    def say(ready: Ready) -> None:
        if args.json:
            print(json.dumps(asdict(ready)), flush=True)
        else:
            print(
                f"ready broker={ready.broker} artifacts={ready.artifacts} status={ready.status}", flush=True
            )

    run(options, say)
    return 0


def _status(args: argparse.Namespace) -> int:
    from fleetfoot_manager.status import lines, look

    seen = look(args.dir)
    print(json.dumps(seen) if args.json else "\n".join(lines(seen)))
    return 0

"""The `fleetfoot-agent` command. Imports only what the command at hand needs: the courier stays small."""

import argparse
import json
import logging
import sys
from pathlib import Path

from fleetfoot_agent.config import DEFAULT_CONFIG, load
from fleetfoot_protocol.errors import FleetfootError

#: Exit statuses: the same as the `fleetfoot` command's.
OK, FAILED, USAGE, TRUST = 0, 1, 2, 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fleetfoot-agent",
        description="Upgrades this device: decides, verifies, installs, proves itself healthy or goes back.",
        epilog="example: fleetfoot-agent init --device dev-001 --group kitchens --component kiosk "
        "--broker mqtts://broker:8883 --root root.json",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    sub = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, text: str, epilog: str = "") -> argparse.ArgumentParser:
        command = sub.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog)
        command.add_argument(
            "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default: {DEFAULT_CONFIG}"
        )
        return command

    init = add("init", "make this device's key and configuration", "Asks nothing that an option answers.")
    init.add_argument("--device", required=True, metavar="ID", help="this device's id in the fleet")
    init.add_argument("--group", required=True, metavar="ID", help="the group it belongs to")
    init.add_argument(
        "--broker", required=True, metavar="URL", help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"
    )
    init.add_argument("--root", required=True, type=Path, metavar="FILE", help="the trust root of the fleet")
    init.add_argument("--component", required=True, action="append", metavar="ID", help="repeat for several")
    init.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    init.add_argument("--enable", action=argparse.BooleanOptionalAction, help="may this device be upgraded?")
    init.add_argument("--state-dir", type=Path, default=Path("/var/lib/fleetfoot"), metavar="DIR")
    init.add_argument("--run-dir", type=Path, default=Path("/run/fleetfoot"), metavar="DIR")
    init.add_argument("--install-root", type=Path, default=Path("/opt/fleetfoot"), metavar="DIR")

    install = add(
        "install",
        "put a release on by hand, through the same verified path; works without a network",
        "example: fleetfoot-agent install ./kiosk-1.0.0",
    )
    install.add_argument("bundle", type=Path, help="folder made by 'fleetfoot release build' and signed")

    add("run", "carry messages, and start the worker as a child whenever it is needed")
    add("courier", "only carry messages; the worker is woken by systemd")
    add("worker", "decide and act once, then exit")
    add("supervise", "keep this device's components running, where there is no systemd")
    status = add("status", "show what runs, what is being done and what went wrong")
    status.add_argument("--json", action="store_true", help="the status document as it is published")
    verify = add("verify", "check the installed trees against their signed releases")
    verify.add_argument("--json", action="store_true")
    return parser


def _logging(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "init":
        from fleetfoot_agent.setup import init

        return init(args)
    config = load(args.config)
    if args.command == "run":
        from fleetfoot_agent.courier.main import run

        return run(config, child_mode=True)
    if args.command == "courier":
        from fleetfoot_agent.courier.main import run

        return run(config, child_mode=False)
    if args.command == "worker":
        from fleetfoot_agent.worker.run import Worker

        return Worker(config).run()
    if args.command == "supervise":
        from fleetfoot_agent.supervise import run_forever

        return run_forever(config)
    if args.command == "install":
        from fleetfoot_agent.worker.by_hand import install

        return install(config, args.bundle)
    from fleetfoot_agent.worker import inspection

    return (
        inspection.status(config, args.json)
        if args.command == "status"
        else inspection.verify(config, args.json)
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status; errors go to stderr with what to do next."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.version:
        from fleetfoot_agent.worker.platform_facts import agent_version

        print(agent_version())
        return OK
    if args.command is None:
        parser.print_help()
        return USAGE
    _logging(args.log_level)
    try:
        return _dispatch(args)
    except KeyboardInterrupt:
        return 130
    except FleetfootError as error:
        return fail(error, as_json=getattr(args, "json", False))


def fail(error: FleetfootError, *, as_json: bool) -> int:
    """Tell an error to a person or a program; returns the exit status."""
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}))
    print(f"error: {error.message!s}", file=sys.stderr)
    print(f"  code: {error.code}", file=sys.stderr)
    print(f"  what to do: {error.remedy}", file=sys.stderr)
    trust = error.code in (
        "upgrade_signature_invalid",
        "upgrade_threshold_not_met",
        "upgrade_identity_not_allowed",
    )
    return TRUST if trust else USAGE if error.code in ("usage", "config_invalid") else FAILED

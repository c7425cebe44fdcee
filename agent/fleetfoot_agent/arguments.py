"""What the `fleetfoot-agent` command understands, in the order in which its help lists it."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from fleetfoot_agent.config import DEFAULT_CONFIG
from fleetfoot_protocol.errors import FleetfootError

#: Adds a command: name, summary, details; `example` without the program's name.
Add = Callable[..., argparse.ArgumentParser]

_EPILOG = """\
exit codes:
  0 done  1 failed  2 usage or configuration  5 signature or trust

example, everything in one folder and without root:
  fleetfoot-agent init --dir device --device dev-001 --group lab --component app \\
    --broker mqtt://127.0.0.1 --root root.json --enable
  fleetfoot-agent supervise --config device/agent.toml &
  fleetfoot-agent install --config device/agent.toml dist/app-1.0.0
  fleetfoot-agent run --config device/agent.toml
"""


_ANY_WIDTH = partial(argparse.RawDescriptionHelpFormatter, width=80)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors as all others: with a code and what to do.

    argparse makes a formatter for each argument that is added, and loads what measures terminals for it,
    which the resident courier would keep; so the width is asked for when there is something to show.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_ANY_WIDTH)

    def format_help(self) -> str:
        """The help, as wide as the terminal."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def format_usage(self) -> str:
        """Likewise."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_usage()

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


class _Version(argparse.Action):
    """--version, which reads the version only when somebody asks."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from fleetfoot_agent.worker.platform_facts import agent_version

        print(f"fleetfoot-agent {agent_version()}")
        parser.exit(0)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command: `command` says which, None if nothing was asked for."""
    top = _Parser(
        prog="fleetfoot-agent",
        description="Upgrades this device: decides, verifies, installs, proves itself healthy or goes back.",
        epilog=_EPILOG,
    )
    top.add_argument("--version", action=_Version, help="print the version and exit")
    top.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="what is logged on stderr (default: info while it runs, warning for single answers)",
    )
    # With `prog`, or argparse makes a usage for it.
    sub = top.add_subparsers(dest="command", metavar="COMMAND", prog=top.prog)

    def add(name: str, text: str, details: str = "", *, example: str) -> argparse.ArgumentParser:
        command = sub.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}." + (f"\n\n{details}" if details else ""),
            epilog=f"example:\n  fleetfoot-agent {example}",
        )
        command.add_argument(
            "--config", type=Path, metavar="FILE", help=f"configuration (default: {DEFAULT_CONFIG})"
        )
        if name != "init":
            command.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help="a setting above file and environment, as in upgrade.enabled=false; repeatable",
            )
        return command

    _add_making(add)
    _add_working(add)
    _add_looking(add)
    _add_owner(add)
    return top


def _add_making(add: Add) -> None:
    _add_init(
        add(
            "init",
            "make this device's key and configuration",
            "What is there already is never overwritten. Without --enable or --no-enable it asks.",
            example="init --device dev-001 --group kitchens --component kiosk \\\n"
            "      --broker mqtts://broker.example.org --root root.json",
        )
    )
    _add_enroll(
        add(
            "enroll",
            "get this device's identity with a token",
            "Makes the device's keys, which never leave it; gets a certificate for them, and the fleet's\n"
            "trust root if there is none here. A configuration that is there keeps every other setting.\n"
            "TOKEN comes from 'fleetfoot device token'; give a file that has it, or the token itself, which\n"
            "other users of this machine can see then. The same command may be given again.",
            example="enroll token.txt --device oven-07 --component kiosk --enable",
        )
    )


def _add_working(add: Add) -> None:
    install = add(
        "install",
        "put a release on by hand, through the same verified path",
        "Works without a network and whatever upgrade.enabled and upgrade.allowed_channels say; pins,\n"
        "min_version and the security floor hold. The component's supervisor must run.",
        example="install ./kiosk-1.0.0",
    )
    install.add_argument("bundle", type=Path, metavar="BUNDLE", help="a signed folder of 'release build'")
    add("run", "carry messages, and start the worker as a child whenever it is needed", example="run")
    add("courier", "only carry messages; somebody else starts the worker", example="courier")
    add("worker", "decide and act once, then exit", example="worker")
    add(
        "supervise",
        "keep this device's components running, where there is no systemd",
        "Runs until SIGTERM or SIGINT. Each component's output goes to <install_root>/<component>/log.",
        example="supervise",
    )
    _add_adopt(
        add(
            "adopt",
            "let a systemd unit run a component, guarded",
            "As root. Adds a drop-in to the unit: the guard before every start, a restart after every\n"
            "failure, room for all starts of a trial; and lets the worker have this one unit restarted.\n"
            "It refuses units that it cannot protect. --undo takes back exactly what was added.",
            example="adopt kiosk.service --component kiosk",
        )
    )


def _add_looking(add: Add) -> None:
    status = add("status", "show what runs, what is being done and what went wrong", example="status")
    status.add_argument("--json", action="store_true", help="the status document as it is published")
    _add_doctor(
        add(
            "doctor",
            "look whether this device could be upgraded now, and come back",
            "One line for each thing looked at: ok, advice or problem, with what to do. As root it\n"
            "tries, from inside their units, what courier and worker must not be able to do.\n"
            "Exits with 1 if there is a problem, with 0 if there is at most advice.",
            example="doctor --json",
        )
    )
    verify = add(
        "verify",
        "check the installed trees against their signed releases",
        "Exits with 1 if a file differs from what was signed.",
        example="verify --json",
    )
    verify.add_argument("--json", action="store_true", help="one JSON object")


def _add_owner(add: Add) -> None:
    rollback = add(
        "rollback",
        "go back to the version before, by hand",
        "Needs no network. The version that is left is refused from then on, as if it had failed here:\n"
        "until another attempt is ordered, or it is installed by hand.",
        example="rollback kiosk",
    )
    rollback.add_argument("component", metavar="COMPONENT")
    remove = add(
        "remove",
        "take a component off this device: its process, its versions, its journal",
        "What it keeps outside its folder stays, and so does the security floor.",
        example="remove kiosk --yes",
    )
    remove.add_argument("component", metavar="COMPONENT")
    remove.add_argument("--yes", action="store_true", help="really")
    check = add(
        "check",
        "tell what would happen to a release, and why, without doing anything",
        "RELEASE is the folder of a bundle, or a component: then what is ordered for it is looked at.\n"
        "Without it, everything that is ordered. Exits with 0 if it would be done or is done, else with 1.",
        example="check ./kiosk-1.1.0",
    )
    check.add_argument("release", metavar="RELEASE", nargs="?", help="a bundle's folder, or a component")
    check.add_argument("--json", action="store_true", help="one JSON object")
    consent = add(
        "consent",
        "give the owner's answer about what is ordered",
        "An answer is about one release; another one is asked about anew, if upgrade.consent is true.\n"
        "A refusal or delay counts in any case. What is on trial already runs to its verdict.",
        example="consent accept kiosk",
    )
    consent.add_argument("answer", choices=("accept", "refuse", "defer"))
    consent.add_argument("component", metavar="COMPONENT")
    show = add(
        "config",
        "show every setting as it counts",
        "Above the file stand variables such as FLEETFOOT_UPGRADE_ENABLED, above these the options --set.",
        example="config show --origin",
    )
    show.add_argument("what", choices=("show",))
    show.add_argument(
        "--origin", action="store_true", help="say who set each: file, variable, option, default"
    )
    show.add_argument("--json", action="store_true", help="one JSON object")


def _add_init(init: argparse.ArgumentParser) -> None:
    add = init.add_argument
    add("--device", required=True, metavar="ID", help="this device's id in the fleet")
    add("--group", required=True, metavar="ID", help="the group it belongs to")
    add("--broker", required=True, metavar="URL", help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    add("--root", type=Path, metavar="FILE", help="the trust root of the fleet, unless the package has it")
    add("--component", required=True, action="append", metavar="ID", help="what is upgraded; repeatable")
    _add_setup(init)


def _add_setup(parser: argparse.ArgumentParser) -> None:
    """What a new configuration says besides who and what."""
    add = parser.add_argument
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="for selectors; repeatable")
    add("--enable", action=argparse.BooleanOptionalAction, help="may this device be upgraded from outside?")
    add("--dir", type=Path, metavar="DIR", help="everything below one folder of yours, without root: "
        "agent.toml, state, run and opt in it")  # fmt: skip
    add("--state-dir", type=Path, metavar="DIR", help="spool and keys (default: /var/lib/fleetfoot)")
    add("--run-dir", type=Path, metavar="DIR", help="sockets and wakes, a tmpfs (default: /run/fleetfoot)")
    add("--install-root", type=Path, metavar="DIR", help="installed versions (default: /opt/fleetfoot)")


def _add_enroll(enroll: argparse.ArgumentParser) -> None:
    add = enroll.add_argument
    add("token", metavar="TOKEN", help="the token, or a file with it")
    add("--device", metavar="ID", help="this device's id, where no configuration or token says it")
    add("--component", action="append", default=[], metavar="ID", help="as for init; repeatable")
    _add_setup(enroll)


def _add_adopt(adopt: argparse.ArgumentParser) -> None:
    adopt.add_argument(
        "unit", metavar="UNIT", help="the unit, as components.<id>.unit in the configuration says"
    )
    adopt.add_argument("--component", required=True, metavar="ID", help="what it runs")
    adopt.add_argument("--undo", action="store_true", help="take back what was added")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object")
    # For the doctor's own probes, which it starts inside the walls.
    parser.add_argument("--probe", choices=("courier", "worker"), help=argparse.SUPPRESS)
    parser.add_argument("--address", action="append", default=[], help=argparse.SUPPRESS)

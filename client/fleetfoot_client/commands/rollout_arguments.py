"""What `fleetfoot rollout` is told."""

import argparse
import re
from typing import Any

from fleetfoot_client import options
from fleetfoot_client.options import Handler, Subparsers

_PERCENT = re.compile(r"([1-9][0-9]?|100)%")

#: Verb -> (what it does, what to know about it).
_ACTS = {
    "pause": ("hold a rollout", "Devices that have not begun do not begin; those at work finish."),
    "resume": ("go on with a paused rollout", ""),
    "activate": (
        "let what everybody has staged go on, wave by wave",
        "For a rollout started with --stage only, once everybody has staged.",
    ),
    "retry": (
        "let devices try again that refused this release after a failure",
        "Orders another attempt of the same release on all devices of the rollout.",
    ),
    "cancel": (
        "end a rollout without undoing it",
        "Work before activating is abandoned; who has moved stays. To go back, decide 'rollback'.",
    ),
}


def wave_list(text: str) -> list[int | str]:
    """Cumulative device counts or percentages: `3,15,30`, `10%,50%,100%`, or `10/50/100` for the latter."""
    if "/" in text:
        text = ",".join(f"{part}%" for part in text.split("/"))
    waves: list[int | str] = []
    for part in text.split(","):
        if _PERCENT.fullmatch(part):
            waves.append(part)
        else:
            try:
                waves.append(options.positive(part))
            except argparse.ArgumentTypeError:
                raise argparse.ArgumentTypeError(
                    f"{part[:40]!a} is neither a number of devices nor a percentage: 3,15,30 or 10%,50%,100%"
                ) from None
    return waves


def wishes(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `rollout.plan` and `rollout.start`; what was not said is None."""
    return {
        "component": args.component,
        "version": args.version,
        "groups": args.group or None,
        "devices": args.device or None,
        "selector": dict(args.selector) or None,
        "waves": args.waves,
        "immediate": args.immediate or None,
        "strategy": "batches" if args.batches else None,
        "batch_pct": args.batch_percent,
        "batch_size": args.batch_size,
        "batch_delay_seconds": args.batch_delay,
        "canaries": args.canary or None,
        "stage": args.stage,
        "settle": args.settle,
        "device_timeout": args.device_timeout,
        "breaker": args.breaker,
        "failure_percent": args.failure_percent,
        "min_successes": args.min_successes,
        "offline": args.offline,
        "approve_each_wave": args.approve_each_wave or None,
        "priority": args.priority,
        "ttl": args.ttl,
        "supersede": args.supersede or None,
        "mode": "exactly" if args.exactly else None,
    }


def add_plan(group: Subparsers, handler: Handler) -> argparse.ArgumentParser:
    """`rollout plan`."""
    parser = options.add_command(
        group,
        "plan",
        handler,
        "show what a rollout would do, without doing it",
        example="fleetfoot rollout plan --component kiosk --version 1.1.0 --group ovens --waves 10%,50%,100%",
    )
    add_wishes(parser)
    return parser


def add_start(group: Subparsers, handler: Handler) -> None:
    """`rollout start`."""
    parser = options.add_command(
        group,
        "start",
        handler,
        "start a rollout; prints its id and its plan at once",
        example="fleetfoot rollout start --component kiosk --version 1.1.0 --group ovens --group grills \\\n"
        "    --waves 3,15,30 --settle 5m\n"
        "fleetfoot rollout start --component kiosk --version 1.1.0 --group lab --immediate",
    )
    add_wishes(parser)
    parser.add_argument("--quiet", "-q", action="store_true", help="print the rollout's id and nothing else")


def add_wishes(parser: argparse.ArgumentParser) -> None:
    """What a rollout is to be."""
    add = parser.add_argument
    add("--component", metavar="NAME", type=options.identifier, required=True, help="what to upgrade")
    add("--version", type=options.version, required=True, help="to which published version")
    add("--group", metavar="NAME", type=options.identifier, action="append", default=[],
        help="which devices; repeatable")  # fmt: skip
    add("--device", metavar="ID", type=options.identifier, action="append", default=[],
        help="only this device, whichever its group; repeatable, at most 500")  # fmt: skip
    add("--selector", metavar="KEY=VALUE", type=options.label, action="append", default=[],
        help="only devices with this label; repeatable, all must match")  # fmt: skip
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--waves", metavar="LIST", type=wave_list,
        help="cumulative sizes: 3,15,30 or 10%%,50%%,100%%, which 10/50/100 says too (default)")  # fmt: skip
    pace.add_argument("--immediate", action="store_true", help="everybody at once")
    pace.add_argument("--batches", action="store_true", help="equal batches, of 20 %% unless said")
    pace.add_argument("--batch-percent", metavar="N", type=options.positive, help="batches of N %%")
    pace.add_argument("--batch-size", metavar="N", type=options.positive, help="batches of N devices")
    add("--batch-delay", metavar="TIME", type=options.duration, help="with batches: how long between them")
    add("--canary", metavar="ID", type=options.identifier, action="append", default=[],
        help="this device is in the first wave; repeatable, and nobody else is in it")  # fmt: skip
    add("--stage", choices=("first", "only"),
        help="everybody downloads and unpacks first; 'only': and goes no further until"
        " 'rollout activate'")  # fmt: skip
    add("--settle", metavar="TIME", type=options.duration,
        help="how long a wave must stay well before the next one opens, e.g. 5m")  # fmt: skip
    add("--device-timeout", metavar="TIME", type=options.duration,
        help="after how long a device without a result counts as silent")  # fmt: skip
    add("--breaker", metavar="N", type=options.natural,
        help="how many failures trip the rollout, of batches in a row; 0: none do (default: 1,"
        " of batches 2)")  # fmt: skip
    add("--failure-percent", metavar="N", type=options.positive,
        help="more failures than N %% of the devices asked trip it")  # fmt: skip
    add("--min-successes", metavar="N", type=options.positive,
        help="how many devices of a wave must be well before the next one opens (default: 1)")  # fmt: skip
    add("--offline", choices=("wait", "skip"),
        help="who is offline when asked: wait up to the device timeout (default), or not at all")  # fmt: skip
    add("--approve-each-wave", action="store_true", help="somebody approves every wave behind the first")
    add("--priority", metavar="N", type=options.natural,
        help="0 to 100: of two rollouts over a device, the higher counts (default: 0)")  # fmt: skip
    add("--ttl", metavar="TIME", type=options.duration, help="it expires unless it has ended by then")
    add("--supersede", action="store_true",
        help="take the place of what is under way for this component in these groups")  # fmt: skip
    add("--exactly", action="store_true", help="also devices that run something newer: they go down")
    options.add_manager(parser)


def add_list(group: Subparsers, handler: Handler) -> None:
    """`rollout list`."""
    parser = options.add_command(
        group, "list", handler, "list rollouts that have not ended", example="fleetfoot rollout list --all"
    )
    parser.add_argument("--all", action="store_true", help="ended ones too")
    options.add_manager(parser)


def add_show(group: Subparsers, handler: Handler) -> None:
    """`rollout show`."""
    parser = options.add_command(
        group,
        "show",
        handler,
        "show a rollout and how each device ended",
        example="fleetfoot rollout show r-4k2m9x0a7c",
    )
    _add_rollout(parser)
    options.add_manager(parser)


def add_watch(group: Subparsers, handler: Handler) -> None:
    """`rollout watch`."""
    parser = options.add_command(
        group,
        "watch",
        handler,
        "follow a rollout until it ends or needs a decision",
        details="A line for each change (a JSON object per line with --json), signed by the manager.\n"
        "Exits with 0 when completed, 3 when paused, tripped or ended otherwise, 4 on --timeout.",
        example="fleetfoot rollout watch r-4k2m9x0a7c --timeout 30m",
    )
    _add_rollout(parser)
    parser.add_argument("--timeout", metavar="TIME", type=options.duration, help="watch no longer than this")
    parser.add_argument("--until-end", action="store_true", help="also through pauses and trips")
    options.add_manager(parser)


def add_acts(group: Subparsers, handler: Handler) -> None:
    """`rollout pause`, `resume`, `activate`, `retry`, `cancel`."""
    for verb, (summary, details) in _ACTS.items():
        parser = options.add_command(
            group, verb, handler, summary, details=details, example=f"fleetfoot rollout {verb} r-4k2m9x0a7c"
        )
        parser.set_defaults(verb=f"rollout.{verb}", decision=None, all=False, reason=None)
        if verb in ("pause", "resume"):
            _add_rollout_or_all(parser, verb)
        else:
            _add_rollout(parser)
        add_revision(parser)
        options.add_manager(parser)


def add_decide(group: Subparsers, handler: Handler) -> None:
    """`rollout decide`."""
    parser = options.add_command(
        group,
        "decide",
        handler,
        "decide about a tripped rollout",
        details="continue: go on, counting failures anew.\n"
        "rollback: withdraw the release; devices that run it go back.\n"
        "abort: end it here; who has moved stays.\n"
        "With a rollback, --waves or batches take devices back in steps, by a rollout of its own.",
        example="fleetfoot rollout decide r-4k2m9x0a7c rollback\n"
        "fleetfoot rollout decide r-4k2m9x0a7c rollback --waves 1,50%,100% --settle 5m",
    )
    parser.set_defaults(verb="rollout.decide", all=False, reason=None)
    _add_rollout(parser)
    parser.add_argument("decision", choices=("continue", "rollback", "abort"), help="what becomes of it")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--waves", metavar="LIST", type=wave_list, help="back in steps of these cumulative sizes"
    )
    pace.add_argument("--batch-percent", metavar="N", type=options.positive, help="back in batches of N %%")
    pace.add_argument("--batch-size", metavar="N", type=options.positive, help="back in batches of N devices")
    parser.add_argument("--settle", metavar="TIME", type=options.duration, help="how long between the steps")
    parser.add_argument("--leave-stranded", action="store_true",
        help="roll back although some devices have no way back: they stay")  # fmt: skip
    add_revision(parser)
    options.add_manager(parser)


def _add_rollout_or_all(parser: argparse.ArgumentParser, verb: str) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("rollout", metavar="ID", nargs="?", type=options.identifier, help="the rollout's id")
    if verb == "pause":
        which.add_argument("--all", action="store_true",
            help="pause the manager's engine: every rollout is held, and nothing new begins")  # fmt: skip
        parser.add_argument("--reason", metavar="TEXT", help="with --all: why, for everybody who looks")
    else:
        which.add_argument("--all", action="store_true",
            help="let the engine go on, with the rollouts that were paused with it")  # fmt: skip


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rollout", metavar="ID", type=options.identifier, help="the rollout's id")


def add_revision(parser: argparse.ArgumentParser) -> None:
    """The option of acts on a rollout that says what was seen of it."""
    parser.add_argument(
        "--revision",
        metavar="N",
        type=options.natural,
        help="act only if the rollout is at this revision (default: the present one)",
    )

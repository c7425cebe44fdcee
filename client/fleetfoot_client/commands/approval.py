"""`fleetfoot rollout approve|reject`: deciding on a rollout before it starts."""

import argparse
from typing import Any

from fleetfoot_client import options, terminal
from fleetfoot_client.commands import online, rollout_arguments, rollout_text
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import RolloutRow, parse


def add(group: options.Subparsers) -> None:
    """The subcommands."""
    approve = options.add_command(
        group,
        "approve",
        _approve,
        "let a rollout start that awaits approval, or its next wave open",
        details="It may be made gentler: smaller waves, an earlier breaker, a longer settle. What was asked\n"
        "for and what was approved are both kept. Planned anew over the devices that there are now.",
        example="fleetfoot rollout approve r-4k2m9x0a7c\n"
        "fleetfoot rollout approve r-4k2m9x0a7c --waves 1%,10%,100% --breaker 1",
    )
    add_argument = approve.add_argument
    add_argument("rollout", metavar="ID", type=options.identifier, help="the rollout's id")
    add_argument("--waves", metavar="LIST", type=rollout_arguments.wave_list, help="smaller waves")
    add_argument("--settle", metavar="TIME", type=options.duration, help="a longer time to settle")
    add_argument("--breaker", metavar="N", type=options.positive, help="fewer failures that trip it")
    add_argument("--batch-percent", dest="batch_pct", metavar="N", type=options.positive,
        help="smaller batches, of N %%")  # fmt: skip
    add_argument("--batch-size", metavar="N", type=options.positive, help="smaller batches, of N devices")
    add_argument("--failure-percent", metavar="N", type=options.positive, help="a lower limit of failures")
    approve.set_defaults(verb="rollout.approve", reason=None)
    reject = options.add_command(
        group,
        "reject",
        _approve,
        "end a rollout that awaits approval",
        example="fleetfoot rollout reject r-4k2m9x0a7c --reason 'not before the weekend'",
    )
    reject.add_argument("rollout", metavar="ID", type=options.identifier, help="the rollout's id")
    reject.add_argument("--reason", metavar="TEXT", required=True, help="why, for whoever asked for it")
    reject.set_defaults(
        verb="rollout.reject", waves=None, batch_pct=None, batch_size=None, settle=None, breaker=None,
        failure_percent=None,
    )  # fmt: skip
    for parser in (approve, reject):
        rollout_arguments.add_revision(parser)
        options.add_manager(parser)


def _approve(args: argparse.Namespace) -> int:
    names = ("rollout", "waves", "batch_pct", "batch_size", "settle", "breaker", "failure_percent", "reason")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    with online.open_session(args) as session:
        revision = args.revision
        if revision is None:
            shown = session.request(
                "rollout.show", arguments={"rollout": args.rollout}, timeout=args.reply_timeout
            )
            revision = parse(RolloutRow, shown).revision
        result = session.request(args.verb, arguments=given, revision=revision, timeout=args.reply_timeout)
    text = "" if args.json else rollout_text.summary(parse(RolloutRow, result))
    terminal.show(result, text, as_json=args.json)
    return Exit.OK

"""`fleetfoot rollout`: planning, starting, watching and steering rollouts."""

import argparse
from typing import Any

from fleetfoot_client import following, options, terminal
from fleetfoot_client.commands import (
    approval,
    looking_back,
    online,
    preflight,
    rollout_arguments,
    rollout_text,
)
from fleetfoot_client.exits import Exit
from fleetfoot_client.following import View
from fleetfoot_client.rows import EngineRow, More, PlanRow, RolloutRow, parse, parse_list
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import RolloutState


def register(subparsers: options.Subparsers) -> None:
    """Add `rollout` and its subcommands."""
    group = options.add_group(
        subparsers,
        "rollout",
        "plan, start, watch and steer rollouts",
        details="A rollout goes out in waves. A failure trips it: nobody else begins, and it waits for you.",
        example="fleetfoot rollout list",
    )
    preflight.add_options(rollout_arguments.add_plan(group, _plan))
    preflight.add(group)
    rollout_arguments.add_start(group, _start)
    rollout_arguments.add_list(group, _list)
    rollout_arguments.add_show(group, _show)
    rollout_arguments.add_watch(group, _watch)
    rollout_arguments.add_acts(group, _act)
    rollout_arguments.add_decide(group, _act)
    approval.add(group)
    looking_back.add(group)


def _plan(args: argparse.Namespace) -> int:
    wishes = {name: value for name, value in rollout_arguments.wishes(args).items() if value is not None}
    with online.open_session(args) as session:
        result = session.request("rollout.plan", arguments=wishes, timeout=args.reply_timeout)
        text = "" if args.json else rollout_text.plan(parse(PlanRow, result.get("plan")))
        if args.preflight:
            answers = preflight.ask(session, args)
            return preflight.show({**result, "preflight": answers}, text + "\n\n", args)
    text += "\n\nnothing has begun: to begin, say 'start' instead of 'plan'"
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _start(args: argparse.Namespace) -> int:
    result = online.ask(args, "rollout.start", **rollout_arguments.wishes(args))
    identity = terminal.literal(str(result.get("rollout")))
    text = identity
    if not (args.json or args.quiet):
        waits = result.get("state") == RolloutState.AWAITING_APPROVAL
        said = f"rollout {identity} {'awaits approval' if waits else 'has started'}"
        text = f"{said}\n\n{rollout_text.plan(parse(PlanRow, result.get('plan')))}"
        text += f"\n\nwatch it: fleetfoot rollout watch {identity}"
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _list(args: argparse.Namespace) -> int:
    result = online.ask(args, "rollout.list", state="all" if args.all else "active")
    text = "" if args.json else _listing(result, ended=args.all)
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _listing(result: dict[str, Any], *, ended: bool) -> str:
    rows = parse_list(RolloutRow, result, "rollouts")
    return rollout_text.listing(rows, parse(More, result).more, ended=ended)


def _show(args: argparse.Namespace) -> int:
    result = online.ask(args, "rollout.show", rollout=args.rollout)
    text = "" if args.json else rollout_text.one(parse(RolloutRow, result))
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _act(args: argparse.Namespace) -> int:
    """Pause, resume, cancel, retry, decide: `args.verb` on the revision that is present or named."""
    if args.all:
        return _act_on_all(args)
    if args.reason is not None:
        raise FleetfootError("usage", "--reason goes with --all")
    arguments: dict[str, Any] = {"rollout": args.rollout}
    if args.decision is not None:
        steps = {
            "waves": args.waves,
            "batch_pct": args.batch_percent,
            "batch_size": args.batch_size,
            "settle": args.settle,
            "leave_stranded": args.leave_stranded or None,
        }
        arguments |= {"decision": args.decision, **{n: v for n, v in steps.items() if v is not None}}
    with online.open_session(args) as session:
        revision = args.revision
        if revision is None:
            present = session.request(
                "rollout.show", arguments={"rollout": args.rollout}, timeout=args.reply_timeout
            )
            revision = parse(RolloutRow, present).revision
        result = session.request(
            args.verb, arguments=arguments, revision=revision, timeout=args.reply_timeout
        )
    text = "" if args.json else rollout_text.summary(parse(RolloutRow, result))
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _act_on_all(args: argparse.Namespace) -> int:
    """Pause the engine, or let it go on."""
    if args.revision is not None:
        raise FleetfootError("usage", "--revision is of one rollout, not of all")
    verb = args.verb.replace("rollout.", "engine.")
    result = online.ask(args, verb, **({"reason": args.reason} if args.reason else {}))
    row = parse(EngineRow, result)
    names = ", ".join(row.rollouts)
    if verb == "engine.pause":
        text = f"the engine is paused: nothing begins; held: {names or 'no rollout was under way'}"
        text += "\nlet it go on: fleetfoot rollout resume --all"
    else:
        text = "the engine goes on" + (f", with {names}" if names else "")
    terminal.show(result, terminal.literal(text, keep="\n"), as_json=args.json)
    return Exit.OK


def _watch(args: argparse.Namespace) -> int:
    state = ""
    with online.open_session(args) as session:
        views = following.follow(
            session,
            args.rollout,
            timeout=args.timeout,
            until_end=args.until_end,
            reply_timeout=args.reply_timeout,
        )
        for view in views:
            state = view.state
            _show_view(view, as_json=args.json)
    return Exit.OK if state == RolloutState.COMPLETED else Exit.STOPPED


def _show_view(view: View, *, as_json: bool) -> None:
    if as_json:
        value = {name: getattr(view, name) for name in View.__slots__}
        terminal.show_json(value, line=True)
    else:
        terminal.say(rollout_text.line(view))

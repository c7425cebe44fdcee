"""`fleetfoot group`: who is in which group and runs what, who differs, and what a group demands."""

import argparse
from collections.abc import Mapping
from typing import Any

from fleetfoot_client import options, terminal
from fleetfoot_client.commands import online, rollout_text
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import DriftRow, GroupRow, More, PolicyRow, parse, parse_list
from fleetfoot_protocol.errors import FleetfootError

_POLICY = ("approval", "approval_above", "approval_by_other", "approval_waves")


def register(subparsers: options.Subparsers) -> None:
    """Add `group` and its subcommands."""
    group = options.add_group(
        subparsers, "group", "see groups, and set what they demand", example="fleetfoot group list"
    )
    listing = options.add_command(
        group, "list", _list, "list groups and what their devices run", example="fleetfoot group list"
    )
    options.add_manager(listing)
    create = options.add_command(
        group,
        "create",
        _create,
        "make a group before its first device",
        details="Groups come to be with their first device too. Recalls count in a new one at once.",
        example="fleetfoot group create ovens --title 'Ovens of the north'",
    )
    _add_name(create)
    create.add_argument("--title", metavar="TEXT", default="", help="what it is, in words")
    options.add_manager(create)
    forget = options.add_command(
        group,
        "forget",
        _forget,
        "let a group go that has no devices any more",
        details="Its policy, baseline and retained documents go with it; history and audit log stay.",
        example="fleetfoot group forget ovens",
    )
    _add_name(forget)
    options.add_manager(forget)
    show = options.add_command(
        group, "show", _show, "show one group with its policy", example="fleetfoot group show ovens"
    )
    _add_name(show)
    options.add_manager(show)
    drift = options.add_command(
        group,
        "drift",
        _drift,
        "list devices that are not where their documents want them",
        details="Computed as the devices compute it, from what each has said last.",
        example="fleetfoot group drift ovens",
    )
    _add_name(drift)
    options.add_manager(drift)
    _add_policy(group)


def _add_policy(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "policy",
        _policy,
        "show what a group demands of rollouts, or set it",
        details="Over several groups the strictest counts.",
        example="fleetfoot group policy ovens\n"
        "fleetfoot group policy ovens --approval above --approval-above 50 --approval-by-other yes",
    )
    _add_name(parser)
    add = parser.add_argument
    add("--approval", choices=("above", "always", "never"), help="which rollouts need approval")
    add("--approval-above", metavar="N", type=options.natural,
        help="with 'above': rollouts of more devices than this")  # fmt: skip
    add("--approval-by-other", choices=("yes", "no"),
        help="whether somebody else than who asked for it must approve")  # fmt: skip
    add("--approval-waves", choices=("yes", "no"),
        help="whether each wave behind the first is approved, too")  # fmt: skip
    options.add_manager(parser)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP", type=options.identifier, help="the group's name")


def _list(args: argparse.Namespace) -> int:
    result = online.ask(args, "group.list")
    text = "" if args.json else _listing(parse_list(GroupRow, result, "groups"), parse(More, result).more)
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _listing(rows: list[GroupRow], left_out: int) -> str:
    if not rows:
        return "no groups yet: see 'fleetfoot device enroll --help'"
    cells = []
    for row in rows:
        there = f"{row.online} of {row.devices}"
        for name, one in row.components.items() or [("", None)]:
            versions = _counts(one.versions) if one else ""
            states = _counts(one.states) if one else ""
            cells.append((row.group, there, name, versions, states, one.baseline if one else ""))
    header = ("GROUP", "ONLINE", "COMPONENT", "VERSIONS", "STATES", "BASELINE")
    return terminal.table(header, cells) + rollout_text.more(left_out)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _show(args: argparse.Namespace) -> int:
    result = online.ask(args, "group.show", group=args.group)
    text = ""
    if not args.json:
        row = parse(GroupRow, result)
        title = f"{terminal.literal(row.title)}\n\n" if row.title else ""
        text = f"{title}{_listing([row], 0)}\n\n{_policy_text(row.policy)}"
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _create(args: argparse.Namespace) -> int:
    result = online.ask(args, "group.create", group=args.group, title=args.title)
    text = (
        f"group {args.group} is there\nput a device into it: fleetfoot device enroll --group {args.group} ..."
    )
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _forget(args: argparse.Namespace) -> int:
    result = online.ask(args, "group.forget", group=args.group)
    cleared = result.get("cleared", 0)
    text = f"group {args.group} is forgotten, {cleared} retained topic{'' if cleared == 1 else 's'} cleared"
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _policy_text(policy: PolicyRow) -> str:
    needed = {
        "always": "every rollout",
        "never": "no rollout",
        "above": f"rollouts of more than {policy.approval_above} devices",
    }
    by = "somebody else than who asked for it" if policy.approval_by_other else "any approver"
    waves = "each wave behind the first" if policy.approval_waves else ""
    return terminal.facts(
        [
            ("needs approval", needed.get(policy.approval, policy.approval)),
            ("and again", waves),
            ("approved by", by),
        ]
    )


def _drift(args: argparse.Namespace) -> int:
    result = online.ask(args, "group.drift", group=args.group)
    if args.json:
        terminal.show_json(result)
        return Exit.OK
    rows = parse_list(DriftRow, result, "drift")
    cells = [
        (r.device, "online" if r.online else "offline", r.component, r.runs or "nothing", r.wants,
         rollout_text.badge(r.badge), r.code or r.reason or r.why)
        for r in rows
    ]  # fmt: skip
    header = ("DEVICE", "LINK", "COMPONENT", "RUNS", "WANTS", "STATE", "WHY")
    text = terminal.table(header, cells) if cells else f"nobody in {args.group} drifts"
    text += rollout_text.more(parse(More, result).more)
    unheard = result.get("unheard_count", 0)
    if unheard:
        text += f"\n{unheard} have said nothing yet"
    terminal.say(text)
    return Exit.OK


def _policy(args: argparse.Namespace) -> int:
    wanted: dict[str, Any] = {name: getattr(args, name) for name in _POLICY}
    for name in ("approval_by_other", "approval_waves"):
        if wanted[name] is not None:
            wanted[name] = wanted[name] == "yes"
    setting = any(value is not None for value in wanted.values())
    verb = "group.policy" if setting else "group.show"
    result = online.ask(args, verb, group=args.group, **(wanted if setting else {}))
    policy = result.get("policy")
    if not isinstance(policy, dict):
        raise FleetfootError("request_invalid", "the manager's reply has no policy")
    text = "" if args.json else _policy_text(parse(PolicyRow, policy))
    terminal.show({"group": args.group, "policy": policy}, text, as_json=args.json)
    return Exit.OK

"""`fleetfoot device move|relabel|forget`: who a device is."""

import argparse
from typing import Any

from fleetfoot_client import options, terminal
from fleetfoot_client.commands import online
from fleetfoot_client.exits import Exit
from fleetfoot_client.terminal import literal


def add(group: options.Subparsers) -> None:
    """The subcommands."""
    move = options.add_command(
        group,
        "move",
        _move,
        "put a device into another group",
        details="The device has to be told as well: set 'group' in its agent.toml and restart its agent.\n"
        "What was asked of it alone, a pin for example, ends.",
        example="fleetfoot device move oven-07 bakery",
    )
    _add_device(move)
    move.add_argument("group", metavar="GROUP", type=options.identifier, help="the new group")
    options.add_manager(move)
    relabel = options.add_command(
        group,
        "relabel",
        _relabel,
        "replace the labels of a device's enrolment",
        details="They count until the device tells its own, which stand in its agent.toml.",
        example="fleetfoot device relabel oven-07 --label site=berlin --label floor=2",
    )
    _add_device(relabel)
    relabel.add_argument("--label", metavar="KEY=VALUE", type=options.label, action="append", default=[],
        help="a label; repeatable; none at all removes them")  # fmt: skip
    options.add_manager(relabel)
    forget = options.add_command(
        group,
        "forget",
        _forget,
        "remove a device from the fleet, and everything it left on the broker",
        details="Take its credentials at the broker away first: one that is still connected would come back\n"
        "to the broker, though nobody listens to it any more.",
        example="fleetfoot device forget oven-07",
    )
    _add_device(forget)
    options.add_manager(forget)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="ID", type=options.identifier, help="the device's id")


def _move(args: argparse.Namespace) -> int:
    result = online.ask(args, "device.move", device=args.device, group=args.group)
    text = f'{args.device} is in group {args.group}\nnow set group = "{args.group}" in its agent.toml'
    return _done(args, result, text)


def _relabel(args: argparse.Namespace) -> int:
    result = online.ask(args, "device.relabel", device=args.device, labels=dict(args.label))
    text = f"{args.device} has {len(dict(args.label))} labels by its enrolment"
    if result.get("effective") != result.get("labels"):
        text += "; those that the device tells itself count"
    return _done(args, result, text)


def _forget(args: argparse.Namespace) -> int:
    result = online.ask(args, "device.forget", device=args.device)
    return _done(args, result, f"{args.device} is forgotten; {result.get('cleared')} retained topics cleared")


def _done(args: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    terminal.show(result, literal(text, keep="\n"), as_json=args.json)
    return Exit.OK

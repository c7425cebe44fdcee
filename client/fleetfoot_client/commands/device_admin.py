"""`fleetfoot device move|relabel|replace|forget`: who a device is."""

import argparse
from typing import Any

from fleetfoot_client import keyfiles, options, terminal
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
    replace = options.add_command(
        group,
        "replace",
        _replace,
        "put other hardware in a device's place: the same name, group and labels, another key",
        details="What the old one said is forgotten, what was asked of it alone ends. The new one gets its\n"
        "group's orders once it speaks. A manager with --pki revokes all certificates of this name: issue\n"
        "the new one's afterwards, or enrol it with 'device token --id', which does both.",
        example="fleetfoot device replace oven-07 --key new/state/worker/device.pub",
    )
    _add_device(replace)
    replace.add_argument("--key", metavar="FILE", required=True, help="the new public key")
    options.add_manager(replace)
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
    count = len(dict(args.label))
    text = f"{args.device} has {count} label{'s'[: count != 1]} by its enrolment"
    if result.get("effective") != result.get("labels"):
        text += "; those that the device tells itself count"
    return _done(args, result, text)


def _replace(args: argparse.Namespace) -> int:
    key = keyfiles.load_public(args.key)
    result = online.ask(args, "device.replace", device=args.device, key=key.hex())
    text = (
        f"{args.device} is known by another key from now on; {result.get('cleared')} retained topics cleared"
    )
    listed = result.get("certificates")
    if listed:
        text += (
            f"\n{listed} certificates of the old one are on devices.crl: let the broker load it, then issue"
            "\nthe new one's (docs/identities.md)"
        )
    else:
        text += "\nthis manager has none of its certificates: take the old one's at the broker away yourself"
    return _done(args, result, text)


def _forget(args: argparse.Namespace) -> int:
    result = online.ask(args, "device.forget", device=args.device)
    return _done(args, result, f"{args.device} is forgotten; {result.get('cleared')} retained topics cleared")


def _done(args: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    terminal.show(result, literal(text, keep="\n"), as_json=args.json)
    return Exit.OK

"""`fleetfoot device`: enrolling and looking at devices."""

import argparse
from pathlib import Path
from typing import Any

from fleetfoot_client import enrolment, keyfiles, options, terminal
from fleetfoot_client.commands import device_acts, device_admin, device_identity, online
from fleetfoot_client.commands.rollout_text import badge
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import ComponentRow, DeviceRow, OwnRow, parse, parse_list
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.errors import FleetfootError


def register(subparsers: options.Subparsers) -> None:
    """Add `device` and its subcommands."""
    group = options.add_group(
        subparsers, "device", "enrol devices and see how they are", example="fleetfoot device list"
    )
    _add_enroll(group)
    listing = options.add_command(
        group, "list", _list, "list devices and what they run", example="fleetfoot device list --group ovens"
    )
    listing.add_argument("--group", metavar="NAME", type=options.identifier, help="only this group's")
    options.add_manager(listing)
    show = options.add_command(
        group,
        "show",
        _show,
        "show one device: what runs, what went wrong, what to do about it",
        example="fleetfoot device show oven-07",
    )
    show.add_argument("device", metavar="ID", type=options.identifier, help="the device's id")
    options.add_manager(show)
    device_acts.add(group)
    device_admin.add(group)
    device_identity.add(group)


def _add_enroll(group: options.Subparsers) -> None:
    parser = options.add_command(
        group,
        "enroll",
        _enroll,
        "make a device known, with the key that attests what it says",
        details="'fleetfoot-agent init' on the device prints all three. Doing it twice changes nothing.\n"
        'A file holds {"devices": [{"id": ..., "group": ..., "key": ..., "labels": {...}}, ...]}.',
        example="fleetfoot device enroll --id oven-07 --group ovens --key oven.key.pub --label site=berlin\n"
        "fleetfoot device enroll --from devices.json",
    )
    add = parser.add_argument
    add("--id", metavar="ID", type=options.identifier, help="the device's id")
    add("--group", metavar="NAME", type=options.identifier, help="its group")
    add("--key", metavar="PUB", help="its public key: file or 64 hex digits")
    add("--label", metavar="KEY=VALUE", type=options.label, action="append", default=[],
        help="a label; repeatable")  # fmt: skip
    add("--from", metavar="FILE", dest="source", type=Path, help="a JSON file with many devices")
    add("--replace", action="store_true", help="give a known device another key or group")
    options.add_manager(parser)


def _enroll(args: argparse.Namespace) -> int:
    devices = _wanted(args)
    with online.open_session(args) as session:
        result = enrolment.enroll(session, devices, timeout=args.reply_timeout)
    counts = ", ".join(f"{count} {terminal.literal(name)}" for name, count in result.items())
    terminal.show(result, f"{len(devices)} device{'s'[: len(devices) != 1]}: {counts}", as_json=args.json)
    return Exit.OK


def _wanted(args: argparse.Namespace) -> list[enrolment.Enrolment]:
    single = (args.id, args.group, args.key)
    if args.source is not None:
        if any(single) or args.label:
            raise FleetfootError("usage", "give --from, or --id, --group and --key, not both")
        found = enrolment.read_file(args.source)
        return [d.model_copy(update={"replace": True}) for d in found] if args.replace else found
    if not all(single):
        raise FleetfootError("usage", "give --id, --group and --key, or --from FILE")
    key = keyfiles.load_public(args.key)
    return [enrolment.make(args.id, args.group, key, dict(args.label), replace=args.replace)]


def _list(args: argparse.Namespace) -> int:
    found: list[dict[str, Any]] = []
    after: str | None = None
    with online.open_session(args) as session:
        while True:
            wanted = {"group": args.group, "after": after}
            given = {name: value for name, value in wanted.items() if value is not None}
            result = session.request("device.list", arguments=given, timeout=args.reply_timeout)
            rows = parse_list(DeviceRow, result, "devices")
            found += result["devices"]
            following = result.get("next")
            # A page that does not go on would be asked for for ever.
            if not rows or not following or following == after:
                break
            after = str(following)
    text = "" if args.json else _listing([parse(DeviceRow, row) for row in found])
    terminal.show({"devices": found}, text, as_json=args.json)
    return Exit.OK


def _listing(rows: list[DeviceRow]) -> str:
    if not rows:
        return "no devices yet: see 'fleetfoot device enroll --help'"
    cells = []
    for row in rows:
        there = "online" if row.online else "offline"
        components: dict[str, ComponentRow | None] = {**row.components} or {"": None}
        for name, component in components.items():
            version, state, why = _component_cells(component)
            why = why or ("out of support" if name in row.unsupported else "")
            cells.append((row.id, row.group, there, name, version, state, why))
    header = ("DEVICE", "GROUP", "LINK", "COMPONENT", "VERSION", "STATE", "WHY")
    online_count = sum(row.online for row in rows)
    count = f"{len(rows)} device{'s'[: len(rows) != 1]}"
    return f"{terminal.table(header, cells)}\n\n{count}, {online_count} online"


def _component_cells(component: ComponentRow | None) -> tuple[str, str, str]:
    if component is None:
        return "", "", ""
    return component.version, _state(component), component.code or component.reason


def _state(component: ComponentRow) -> str:
    """Glyph and word of the badge that the manager gave, else of the state."""
    return badge(component.badge or component.state)


def _show(args: argparse.Namespace) -> int:
    result = online.ask(args, "device.show", device=args.device)
    text = "" if args.json else _one(parse(DeviceRow, result))
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


def _one(row: DeviceRow) -> str:
    text = terminal.facts(
        [
            ("device", row.id),
            ("group", row.group),
            ("link", "online" if row.online else "offline"),
            ("last seen", row.last_seen),
            ("platform", row.platform),
            ("agent", row.agent),
            ("labels", " ".join(f"{key}={value}" for key, value in row.labels.items())),
            ("alarms", " ".join(row.alarms)),
        ]
    )
    if not row.components:
        text += (
            "\n\nnothing was heard yet that its key has signed: see 'fleetfoot-agent doctor' on the device"
        )
    for name, component in row.components.items():
        pairs = [
            ("component", name),
            ("runs", component.version or "nothing"),
            ("digest", component.digest),
            ("state", _state(component) + (f" ({component.state})" if component.state else "")),
            ("reason", component.reason),
            ("out of support", row.unsupported.get(name, "")),
            ("rollout", component.rollout),
            ("own order", _own(row.own.get(name))),
            *_explained(component.code),
        ]
        text += f"\n\n{terminal.facts(pairs)}"
    for alarm in row.alarms:
        text += f"\n\n{terminal.facts([('alarm', alarm), *_explained(alarm)[1:]])}"
    if row.last_error is not None and row.last_error.code:
        error = row.last_error
        known = dict(_explained(error.code))
        pairs = [
            ("last error", error.code),
            ("at", error.at),
            ("cause", error.message or known.get("meaning", "")),
            ("what to do", known.get("what to do") or error.remedy),
        ]
        text += f"\n\n{terminal.facts(pairs)}"
    return text


def _own(act: OwnRow | None) -> str:
    """What was asked of the device apart from its group."""
    if act is None:
        return ""
    what = f"{act.kind} {act.version}".rstrip()
    ended = f", {act.outcome}" if act.outcome else ""
    return f"{what}: {act.state}{ended}" + (f" ({act.code})" if act.code else "")


def _explained(code: str) -> list[tuple[str, str]]:
    """A code with its meaning and remedy, where it is one of the contract's."""
    if not code:
        return []
    if code not in list(Code):
        return [("code", code)]
    known = info(Code(code))
    return [("code", f"{code} ({known.severity})"), ("meaning", known.meaning), ("what to do", known.remedy)]

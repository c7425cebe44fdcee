"""`fleetfoot release publish|list|show`: the manager's catalogue."""

import argparse
from pathlib import Path

from fleetfoot_client import bundle as bundles
from fleetfoot_client import options, publishing, terminal
from fleetfoot_client.commands import online, rollout_text
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import More, ReleaseRow, parse, parse_list


def add_publish(group: options.Subparsers) -> None:
    """`release publish`."""
    parser = options.add_command(
        group,
        "publish",
        _publish,
        "upload a signed bundle and publish it",
        details="Verified here first, with the profile's root: what is not signed by enough release keys is\n"
        "not sent. The manager verifies again. Publishing the same bundle twice changes nothing.",
        example="fleetfoot release publish dist/kiosk-1.1.0",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder made by 'release build'")
    options.add_manager(parser)


def add_list(group: options.Subparsers) -> None:
    """`release list`."""
    parser = options.add_command(
        group,
        "list",
        _list,
        "list published releases",
        example="fleetfoot release list --component kiosk",
    )
    parser.add_argument("--component", metavar="NAME", type=options.identifier, help="only this component's")
    options.add_manager(parser)


def add_show(group: options.Subparsers) -> None:
    """`release show`."""
    parser = options.add_command(
        group, "show", _show, "show one published release", example="fleetfoot release show kiosk 1.1.0"
    )
    parser.add_argument("component", metavar="COMPONENT", type=options.identifier, help="which component")
    parser.add_argument("version", metavar="VERSION", type=options.version, help="which version")
    options.add_manager(parser)


def _publish(args: argparse.Namespace) -> int:
    bundle = bundles.load(args.bundle)
    session = online.open_session(args)
    # Before anything is connected: a half-signed release is no reason to need a broker.
    bundles.verify_signatures(bundle, session.root)
    with session:
        result = publishing.publish(session, bundle, _Progress(), timeout=args.reply_timeout)
    release = bundle.release
    text = f"{release.component} {release.version} is published (counter {release.counter}, {bundle.digest})"
    text += f"\nsee what it would do: fleetfoot rollout plan --component {release.component}"
    text += f" --version {release.version} --group GROUP"
    terminal.show(result, text, as_json=args.json)
    return Exit.OK


class _Progress:
    """A line for each file that is sent."""

    def __init__(self) -> None:
        self._sent = 0

    def __call__(self, sha256: str, length: int, total: int) -> None:
        self._sent += 1
        terminal.note(f"uploading {self._sent} of {total}: {sha256[:12]} ({terminal.bytes_text(length)})")


def _list(args: argparse.Namespace) -> int:
    result = online.ask(args, "release.list", component=args.component)
    if args.json:
        terminal.show_json(result)
        return Exit.OK
    rows = parse_list(ReleaseRow, result, "releases")
    cells = [
        (r.component, r.version, r.channel, r.counter, r.life, " ".join(r.platforms),
         terminal.bytes_text(r.length), r.created)
        for r in rows
    ]  # fmt: skip
    header = ("COMPONENT", "VERSION", "CHANNEL", "COUNTER", "LIFE", "PLATFORMS", "SIZE", "CREATED")
    listed = terminal.table(header, cells) + rollout_text.more(parse(More, result).more)
    terminal.say(listed if cells else "no releases yet: see 'fleetfoot release publish --help'")
    return Exit.OK


def _show(args: argparse.Namespace) -> int:
    result = online.ask(args, "release.show", component=args.component, version=args.version)
    if args.json:
        terminal.show_json(result)
        return Exit.OK
    row = parse(ReleaseRow, result)
    text = terminal.facts(
        [
            ("release", f"{row.component} {row.version} ({row.channel})"),
            ("life", row.life),
            ("counter", row.counter),
            ("floor", row.min_counter),
            ("platforms", " ".join(row.platforms)),
            ("size", f"{terminal.bytes_text(row.length)} ({row.length} bytes)"),
            ("created", row.created),
            ("signed by", " ".join(row.signers)),
            ("digest", row.digest),
        ]
    )
    notes = terminal.literal(row.notes, keep="\n")
    terminal.say(f"{text}\n\n{notes}" if notes else text)
    return Exit.OK

"""`fleetfoot release publish|list|show|compare|promote|archive|recall|lift`: the manager's catalogue."""

import argparse
from pathlib import Path
from typing import Any

from fleetfoot_client import bundle as bundles
from fleetfoot_client import options, publishing, terminal
from fleetfoot_client.commands import online, rollout_text
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import ComparedRow, More, ReleaseRow, parse, parse_list


def add_publish(group: options.Subparsers) -> None:
    """`release publish`."""
    parser = options.add_command(
        group,
        "publish",
        _publish,
        "upload a signed bundle and publish it",
        details="Verified here first, with the profile's root: what is not signed by enough release keys is\n"
        "not sent. The manager verifies again. Publishing the same bundle twice changes nothing.",
        example="fleetfoot release publish dist/kiosk-1.1.0\n"
        "fleetfoot release publish dist/kiosk-1.1.0 --bless",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder made by 'release build'")
    parser.add_argument(
        "--bless",
        action="store_true",
        help="let whole groups have it at once (else single devices and canaries first; see 'promote')",
    )
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
    _add_release(parser)
    options.add_manager(parser)


def add_compare(group: options.Subparsers) -> None:
    """`release compare`."""
    parser = options.add_command(
        group,
        "compare",
        _compare,
        "say what lies between two releases: notes, platforms, sizes",
        example="fleetfoot release compare kiosk 1.0.0 1.2.0",
    )
    _add_release(parser)
    parser.add_argument("to", metavar="OTHER", type=options.version, help="the version to compare with")
    options.add_manager(parser)


def add_life(group: options.Subparsers) -> None:
    """`release promote`, `archive`, `recall`, `lift`."""
    promote = options.add_command(
        group,
        "promote",
        _promote,
        "let a release serve more",
        details="published: single devices, and the first wave (canary) of rollouts that have more waves.\n"
        "blessed: whole groups. live: the same; what a group has for its baseline is live by itself.\n"
        "Rollouts whose canary is well and that wait for this go on at once.",
        example="fleetfoot release promote kiosk 1.1.0 blessed",
    )
    _add_release(promote)
    promote.add_argument("to", choices=("blessed", "live"), help="the new life")
    options.add_manager(promote)
    archive = options.add_command(
        group,
        "archive",
        _archive,
        "let a release serve nobody any more",
        details="Refused, naming who needs it, while anybody runs it, goes to it or may come back to it.",
        example="fleetfoot release archive kiosk 1.0.0",
    )
    _add_release(archive)
    options.add_manager(archive)
    recall = options.add_command(
        group,
        "recall",
        _recall,
        "withdraw a release in every group: whoever runs it goes back",
        details="Stays until 'release lift'. Rollouts of it are rolled back.",
        example="fleetfoot release recall kiosk 1.1.0 --reason 'leaks card numbers'",
    )
    _add_release(recall)
    recall.add_argument("--reason", metavar="TEXT", required=True, help="why, for everybody who asks later")
    options.add_manager(recall)
    lift = options.add_command(
        group,
        "lift",
        _lift,
        "take the recall of a release back",
        details="Nobody is given the release by that: start a rollout of it.",
        example="fleetfoot release lift kiosk 1.1.0",
    )
    _add_release(lift)
    options.add_manager(lift)


def _add_release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("component", metavar="COMPONENT", type=options.identifier, help="which component")
    parser.add_argument("version", metavar="VERSION", type=options.version, help="which version")


def _publish(args: argparse.Namespace) -> int:
    bundle = bundles.load(args.bundle)
    session = online.open_session(args)
    # Before anything is connected: a half-signed release is no reason to need a broker.
    bundles.verify_signatures(bundle, session.root)
    with session:
        result = publishing.publish(
            session, bundle, _Progress(), timeout=args.reply_timeout, bless=args.bless
        )
    release = bundle.release
    life = terminal.literal(str(result.get("life", "published")))
    text = f"{release.component} {release.version} is {life} (counter {release.counter}, {bundle.digest})"
    text += f"\nsee what it would do: fleetfoot rollout plan --component {release.component}"
    text += f" --version {release.version} --group GROUP"
    if life == "published":
        text += "\nwhole groups may have it once it is blessed: fleetfoot release promote"
        text += f" {release.component} {release.version} blessed"
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
        (r.component, r.version, r.channel, r.counter, _life(r), " ".join(r.platforms),
         terminal.bytes_text(r.length), r.created)
        for r in rows
    ]  # fmt: skip
    header = ("COMPONENT", "VERSION", "CHANNEL", "COUNTER", "LIFE", "PLATFORMS", "SIZE", "CREATED")
    listed = terminal.table(header, cells) + rollout_text.more(parse(More, result).more)
    terminal.say(listed if cells else "no releases yet: see 'fleetfoot release publish --help'")
    return Exit.OK


def _compare(args: argparse.Namespace) -> int:
    result = online.ask(args, "release.compare", **_release(args), to=args.to)
    if args.json:
        terminal.show_json(result)
        return Exit.OK
    both = parse(ComparedRow, result)
    older, newer = both.older, both.newer
    cells = [
        (one.platform, _size(one.from_length), _size(one.to_length),
         "the same artifact" if one.same else "gone" if one.to_length is None
         else "new" if one.from_length is None else "")
        for one in both.platforms
    ]  # fmt: skip
    text = f"{both.component} {older.version} ({older.life}) to {newer.version} ({newer.life})\n\n"
    text += terminal.table(("PLATFORM", older.version, newer.version, ""), cells)
    for step in both.between:
        mark = f" (recalled: {step.recalled})" if step.recalled else ""
        notes = terminal.literal(step.notes, keep="\n") or "no notes"
        text += f"\n\n{terminal.literal(step.version + mark)}\n{notes}"
    terminal.say(text + rollout_text.more(both.more))
    return Exit.OK


def _size(length: int | None) -> str:
    return "-" if length is None else terminal.bytes_text(length)


def _life(row: ReleaseRow) -> str:
    return "recalled" if row.recalled else row.life


def _promote(args: argparse.Namespace) -> int:
    return _acted(args, online.ask(args, "release.promote", **_release(args), to=args.to))


def _archive(args: argparse.Namespace) -> int:
    return _acted(args, online.ask(args, "release.archive", **_release(args)))


def _recall(args: argparse.Namespace) -> int:
    return _acted(args, online.ask(args, "release.recall", **_release(args), reason=args.reason))


def _lift(args: argparse.Namespace) -> int:
    return _acted(args, online.ask(args, "release.lift", **_release(args)))


def _release(args: argparse.Namespace) -> dict[str, str]:
    return {"component": args.component, "version": args.version}


def _acted(args: argparse.Namespace, result: dict[str, Any]) -> int:
    row = parse(ReleaseRow, result)
    groups = result.get("groups")
    text = f"{row.component} {row.version} is {_life(row)}"
    if isinstance(groups, list):
        text += f"; {len(groups)} group{'s'[: len(groups) != 1]} told"
    terminal.show(result, terminal.literal(text), as_json=args.json)
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
            ("recalled", row.recalled),
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

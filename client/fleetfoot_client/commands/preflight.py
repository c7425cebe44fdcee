"""`fleetfoot rollout preflight` and `rollout plan --preflight`: the fleet is asked what it would do."""

import argparse
import time
from typing import Any

from fleetfoot_client import options, terminal
from fleetfoot_client.commands import online, rollout_arguments
from fleetfoot_client.exits import Exit
from fleetfoot_client.rows import Row, parse
from fleetfoot_client.session import Session

DEADLINE = 30
_LISTED = 20
_LOOK_SECONDS = 0.5
_WORDS = ("ok", "deferred", "refused", "unknown")
#: What of a plan's wishes says which devices are meant.
_COHORT = ("component", "groups", "devices", "selector")


class AskedRow(Row):
    """A probe that was published."""

    id: str
    digest: str


class ReasonRow(Row):
    """How many devices have one answer for one reason."""

    counts_as: str
    why: str
    count: int


class AnswerRow(Row):
    """What one device answered."""

    device: str
    counts_as: str
    code: str = ""
    reason: str = ""


class PreflightRow(Row):
    """What a fleet answered to a probe."""

    id: str
    total: int
    counts: dict[str, int]
    reasons: tuple[ReasonRow, ...] = ()
    devices: tuple[AnswerRow, ...] = ()
    more: int = 0


def add(group: options.Subparsers) -> None:
    """`rollout preflight`."""
    parser = options.add_command(
        group,
        "preflight",
        _preflight,
        "ask the devices themselves what they would do, without doing it",
        details="Each device answers from its own policy, disk, windows, consent and trust; it fetches no\n"
        "artifact and changes nothing. Who says nothing by the deadline is unknown, never ok.\n"
        "Exits with 0 if every device would upgrade, else with 3.",
        example="fleetfoot rollout preflight --component kiosk --version 1.1.0 --group ovens --deadline 1m",
    )
    rollout_arguments.add_wishes(parser)
    _add_deadline(parser, DEADLINE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `rollout plan`."""
    parser.add_argument(
        "--preflight",
        action="store_true",
        help="also ask the devices themselves; exits with 3 if not all would",
    )
    _add_deadline(parser, None)


def _add_deadline(parser: argparse.ArgumentParser, default: int | None) -> None:
    parser.add_argument(
        "--deadline",
        metavar="TIME",
        type=options.duration,
        default=default,
        help=f"how long answers of devices are waited for (default: {DEADLINE}s)",
    )


def _preflight(args: argparse.Namespace) -> int:
    with online.open_session(args) as session:
        result = ask(session, args)
    return show({"preflight": result}, "", args)


def ask(session: Session, args: argparse.Namespace) -> dict[str, Any]:
    """Have the question published; what was answered when everybody has, or at the deadline."""
    deadline = DEADLINE if args.deadline is None else args.deadline
    wishes = {name: value for name, value in rollout_arguments.wishes(args).items() if value is not None}
    asked = session.request(
        "rollout.probe", arguments={**wishes, "deadline": max(1, deadline)}, timeout=args.reply_timeout
    )
    end = time.monotonic() + deadline
    probe = parse(AskedRow, asked)
    cohort = {name: wishes[name] for name in _COHORT if name in wishes}
    while True:
        over = time.monotonic() >= end
        found = session.request(
            "rollout.answers",
            arguments={**cohort, "id": probe.id, "digest": probe.digest},
            timeout=args.reply_timeout,
        )
        if over or not parse(PreflightRow, found).counts.get("unknown"):
            return found
        time.sleep(min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))


def show(result: dict[str, Any], before: str, args: argparse.Namespace) -> int:
    """Print the answer, under what stands `before` it; the exit code says whether all would."""
    row = parse(PreflightRow, result.get("preflight"))
    terminal.show(result, before if args.json else before + _text(row), as_json=args.json)
    return Exit.OK if row.counts.get("ok") == row.total else Exit.STOPPED


def _text(row: PreflightRow) -> str:
    counts = ", ".join(f"{row.counts.get(word, 0)} {word}" for word in _WORDS)
    text = f"preflight: of {row.total} devices {counts}"
    if row.reasons:
        cells = [(reason.counts_as, reason.why, reason.count) for reason in row.reasons]
        text += f"\n\n{terminal.table(('ANSWER', 'WHY', 'DEVICES'), cells)}"
    others = [one for one in row.devices if one.counts_as != "ok"]
    if others:
        lines = [(one.device, one.counts_as, one.code, one.reason) for one in others[:_LISTED]]
        text += f"\n\n{terminal.table(('DEVICE', 'ANSWER', 'CODE', 'REASON'), lines)}"
        left = row.total - row.counts.get("ok", 0) - len(lines)
        text += f"\n… and {left} more (--json has them)" if left > 0 else ""
    return text

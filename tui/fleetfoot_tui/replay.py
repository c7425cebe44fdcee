"""`fleetfoot replay`: a recording, in the console."""

import argparse
import logging
import sys
import threading
from pathlib import Path

from fleetfoot_client import options, recording, terminal
from fleetfoot_client.exits import Exit
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui import swift


def register(subparsers: options.Subparsers) -> None:
    """Add `replay`."""
    parser = options.add_command(
        subparsers,
        "replay",
        _replay,
        "show a recording in the console, as it happened",
        details="Nothing is connected, nothing can be changed. What is shown is verified against the trust\n"
        "root in the file, which proves nothing about who made the file.",
        example="fleetfoot replay trouble.jsonl --speed 10",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="made by 'fleetfoot record'")
    parser.add_argument(
        "--speed", metavar="N", type=_speed, default=1.0, help="so many times as fast (default: 1)"
    )


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is no speed: a number from 0.01 on")
    return value


def _replay(args: argparse.Namespace) -> int:
    with recording.opened(args.file) as file:
        head = recording.read_head(file)
        if args.json:
            count = sum(1 for _ in recording.messages(file))
            terminal.show_json({"fleet": head.root.fleet, "at": head.at, "messages": count})
            return Exit.OK
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise FleetfootError(
                "usage", "the console needs a terminal", remedy="--json counts what is in the file"
            )
        logging.disable(logging.CRITICAL)
        swift.prepare()
        from fleetfoot_tui.app import Console
        from fleetfoot_tui.asking import Nobody
        from fleetfoot_tui.feed import Inbox

        inbox, ended = Inbox(head.topic_root), threading.Event()
        wrong: list[FleetfootError] = []

        def play() -> None:
            heard = (one for one in recording.messages(file) if not ended.is_set())
            try:
                recording.play(heard, inbox.put, speed=args.speed, wait=ended.wait)
            except FleetfootError as error:
                wrong.append(error)

        player = threading.Thread(target=play, name="replay")
        player.start()
        try:
            Console(head.root, inbox, Nobody(), read_only=True).run()
        finally:
            ended.set()
            player.join()
    if wrong:
        raise wrong[0]
    return Exit.OK

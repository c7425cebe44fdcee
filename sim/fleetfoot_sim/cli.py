"""`fleetfoot demo`: the main job on this machine, in under a minute."""

import argparse
import json
import os
import sys
from pathlib import Path

from fleetfoot_protocol.errors import FleetfootError


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="watch a fleet upgrade itself and a bad release come back, on loopback",
        description="Throw-away keys, a broker, a manager and 30 real agents on loopback: a good release\n"
        "goes out in waves, a bad one is stopped and undone. Takes under a minute, leaves nothing behind.",
        epilog="example:\n  fleetfoot demo\n  fleetfoot demo --headless --keep /tmp/fleet --picture demo.svg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=int, default=30, metavar="N", help="3 to 200 (default: 30)")
    parser.add_argument("--headless", action="store_true", help="plain lines instead of a live picture")
    parser.add_argument("--json", action="store_true", help="end with the figures as one JSON object")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep everything in DIR")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="divide waiting times by X")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the end as a picture")
    parser.add_argument("--sabotage", choices=("probation", "breaker"), help=argparse.SUPPRESS)
    parser.set_defaults(handler=_demo)


def _check(args: argparse.Namespace) -> None:
    """What cannot be is said at once, not after the demo."""
    if not 3 <= args.devices <= 200:
        raise FleetfootError("usage", "--devices must be from 3 to 200", remedy="choose a number in between")
    if not 0.2 <= args.speed <= 10:
        raise FleetfootError("usage", "--speed must be from 0.2 to 10", remedy="choose a number in between")
    if args.picture is None:
        return
    if args.picture.suffix != ".svg":
        raise FleetfootError("usage", f"--picture {args.picture} must end in .svg", remedy="it is an SVG")
    if args.picture.is_dir() or not os.access(args.picture.absolute().parent, os.W_OK):
        raise FleetfootError(
            "io_error",
            f"--picture {args.picture} cannot be written",
            remedy="name a file in a folder of yours that is there",
        )


def _demo(args: argparse.Namespace) -> int:
    from fleetfoot_sim import demo, picture, screen
    from fleetfoot_sim.interrupts import Interrupts

    _check(args)
    options = demo.Options(args.devices, args.keep, args.speed, args.sabotage)
    plain = args.headless or args.json or not sys.stdout.isatty()
    display = screen.Plain(sys.stderr if args.json else sys.stdout) if plain else screen.Live()
    with Interrupts() as interrupts, display:
        result = demo.Demo(options, display.show, interrupts).run()
    wrong = demo.is_true(result, args.devices)
    if args.picture:
        picture.write(args.picture, display.last, result)
    if args.json:
        print(json.dumps(result))
    else:
        print(screen.epilogue(result, args.keep))
    for what in wrong:
        print(f"not true: {what}", file=sys.stderr)
    return 1 if wrong else 0

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
        "goes out in waves, a bad one is stopped and undone. Takes under a minute, leaves nothing behind.\n"
        "On a terminal it opens the console, and the decision on the bad release is yours.",
        epilog="example:\n  fleetfoot demo\n  fleetfoot demo --auto\n"
        "  fleetfoot demo --headless --keep /tmp/fleet --picture demo.svg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=int, default=30, metavar="N", help="3 to 200 (default: 30)")
    parser.add_argument("--auto", action="store_true", help="take the decision too, instead of asking for it")
    parser.add_argument("--headless", action="store_true", help="plain lines instead of the console")
    parser.add_argument("--json", action="store_true", help="end with the figures as one JSON object")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep everything in DIR")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="divide waiting times by X")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the end as a picture")
    parser.add_argument(
        "--console-pictures", type=Path, metavar="DIR", help="draw the console's screens into DIR as it goes"
    )
    parser.add_argument("--told", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--asks", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sabotage", choices=("probation", "breaker"), help=argparse.SUPPRESS)
    parser.set_defaults(handler=_demo)


def _check(args: argparse.Namespace) -> None:
    """What cannot be is said at once, not after the demo."""
    if not 3 <= args.devices <= 200:
        raise FleetfootError("usage", "--devices must be from 3 to 200", remedy="choose a number in between")
    if not 0.2 <= args.speed <= 10:
        raise FleetfootError("usage", "--speed must be from 0.2 to 10", remedy="choose a number in between")
    pictures = args.console_pictures
    if pictures is not None and not (pictures.is_dir() and os.access(pictures, os.W_OK)):
        raise FleetfootError(
            "io_error", f"--console-pictures {pictures} is no folder of yours", remedy="make it first"
        )
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
    _check(args)
    if args.told:
        return _played(args)
    if args.console_pictures:
        return _portrayed(args)
    plain = args.headless or args.json or args.picture or args.sabotage
    if plain or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _shown(args)
    from fleetfoot_sim import demo, guided, screen

    arguments = ["--devices", str(args.devices), "--speed", str(args.speed)]
    arguments += [] if args.auto else ["--asks"]
    arguments += ["--keep", str(args.keep)] if args.keep else []
    status, result = guided.run(arguments)
    if result is None:
        return status
    print(screen.epilogue(result, args.keep))
    return status or (_judged(demo.is_true(result, args.devices)) if args.auto else 0)


def _portrayed(args: argparse.Namespace) -> int:
    """Behind a console that nobody looks at, which draws itself and takes the decision."""
    from fleetfoot_sim import demo, guided, portraits

    arguments = ["--devices", str(args.devices), "--speed", str(args.speed), "--asks"]
    status, result = guided.run(arguments, portraits.into(args.console_pictures))
    return status or (1 if result is None else _judged(demo.is_true(result, args.devices)))


def _played(args: argparse.Namespace) -> int:
    """Behind somebody's console."""
    from fleetfoot_sim import demo, guided
    from fleetfoot_sim.interrupts import Interrupts

    told = guided.Told()
    options = demo.Options(args.devices, args.keep, args.speed, asks=args.asks)
    with Interrupts() as interrupts:
        demo.Demo(options, told.show, interrupts, told).run()
    return 0


def _shown(args: argparse.Namespace) -> int:
    """In plain lines."""
    from fleetfoot_sim import demo, picture, screen
    from fleetfoot_sim.interrupts import Interrupts

    options = demo.Options(args.devices, args.keep, args.speed, args.sabotage)
    with Interrupts() as interrupts, screen.Plain(sys.stderr if args.json else sys.stdout) as display:
        result = demo.Demo(options, display.show, interrupts).run()
    wrong = demo.is_true(result, args.devices)
    if args.picture:
        picture.write(args.picture, display.last, result)
    if args.json:
        print(json.dumps(result))
    else:
        print(screen.epilogue(result, args.keep))
    return _judged(wrong)


def _judged(wrong: list[str]) -> int:
    for what in wrong:
        print(f"not true: {what}", file=sys.stderr)
    return 1 if wrong else 0

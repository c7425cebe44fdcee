"""`fleetfoot sim`: thousands of simulated devices that verify, decide and report as real ones do."""

import argparse
import asyncio
import json
import resource
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fleetfoot_client import bundle as bundles
from fleetfoot_client.profiles import parse_broker
from fleetfoot_manager import collector
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Installed
from fleetfoot_sim.load.device import Place, public_of
from fleetfoot_sim.load.fleet import Fleet, Plan
from fleetfoot_sim.load.shapes import Shapes
from fleetfoot_sim.load.verifier import Verifier

_SPARE_FILES = 64


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `sim` command."""
    parser = subparsers.add_parser(
        "sim",
        help="simulate a fleet at a broker: thousands of devices that verify, decide and report",
        description="Simulated devices, each with a key and a connection of its own, that verify every\n"
        "document and decide with the code of real ones. Nothing is installed: work takes --work\n"
        "seconds and ends as the device's shape wants. The seed makes keys and shapes, so a fleet can be\n"
        "enrolled once: --enrolment writes the file for 'fleetfoot device enroll --from'.\n"
        "Runs until SIGINT or SIGTERM.",
        epilog="example:\n"
        "  fleetfoot sim --devices 1000 --group ovens --component kiosk --enrolment devices.json\n"
        "  fleetfoot device enroll --from devices.json\n"
        "  fleetfoot sim --devices 1000 --group ovens --component kiosk --broker mqtt://127.0.0.1 \\\n"
        "      --root root.json --running dist/kiosk-1.0.0 --fail 0.01",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--devices", type=int, required=True, metavar="N", help="how many")
    add("--group", required=True, metavar="NAME", help="their group")
    add("--component", required=True, metavar="ID", help="what they run")
    add("--seed", type=int, default=1, metavar="N", help="of keys and shapes (default: 1)")
    add("--prefix", default="sim", metavar="ID", help="what their ids begin with (default: sim)")
    add("--enrolment", type=Path, metavar="FILE", help="write their enrolment there, and end")
    add("--broker", metavar="URL", help="mqtt://HOST[:PORT]; without TLS, so on loopback or a test network")
    add("--root", type=Path, metavar="FILE", help="the fleet's trust root")
    add("--topic-root", default=topics.DEFAULT_ROOT, metavar="TOPIC", help="(default: %(default)s)")
    add("--running", type=Path, metavar="BUNDLE", help="the signed release that they run at first")
    add("--connections", type=int, default=0, metavar="N", help="share so many (default: one of each device)")
    add("--verify-each", action="store_true", help="verify for each device anew, not once for equal bytes")
    add("--work", type=float, default=1.0, metavar="S", help="seconds of an upgrade (default: 1)")
    for name, what in (
        ("fail", "come back from every release"),
        ("slow", "take ten times as long"),
        ("silent", "begin and are never heard again"),
        ("flapping", "lose their connection every few seconds"),
        ("offline", "are not there in the first seconds"),
        ("lying", "have a clock that is a year ahead or behind, and call it trusted"),
    ):
        add(f"--{name}", type=float, default=0.0, metavar="SHARE", help=f"share of devices that {what}")
    add("--json", action="store_true", help="one JSON object each second")
    parser.set_defaults(handler=_sim)


def _sim(args: argparse.Namespace) -> int:
    if not 1 <= args.devices <= 1_000_000:
        raise FleetfootError("usage", "--devices must be from 1 to 1000000")
    for what, name in (("group", args.group), ("component", args.component), ("prefix", args.prefix)):
        if not topics.is_id(name):
            raise FleetfootError("usage", f"--{what} {name[:80]!a} is no id")
    plan = _plan(args)
    if args.enrolment is not None:
        devices = [
            {"id": name, "group": args.group, "key": public_of(args.seed, name)} for name in plan.names()
        ]
        args.enrolment.write_text(json.dumps({"devices": devices}) + "\n")
        print(
            f"{len(devices)} devices in {args.enrolment}; next:"
            f" fleetfoot device enroll --from {args.enrolment}"
        )
        return 0
    if args.broker is None or args.root is None:
        raise FleetfootError("usage", "a fleet needs --broker and --root, or --enrolment")
    _demand_files(args.connections or args.devices)
    verifier = Verifier(trust.first_root(args.root.read_bytes()), each=args.verify_each)
    asyncio.run(_run(plan, verifier, as_json=args.json))
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    address = parse_broker(args.broker or "mqtt://127.0.0.1")
    if address.tls:
        raise FleetfootError("usage", "simulated devices have no certificates: name a broker without TLS")
    running = None
    if args.running is not None:
        bundle = bundles.load(args.running)
        release = bundle.release
        running = Installed(version=release.version, counter=release.counter, digest=bundle.digest)
    shapes = Shapes(args.fail, args.slow, args.silent, args.flapping, args.offline, args.lying, args.work)
    place = Place(args.group, args.component, args.topic_root)
    return Plan(
        address.host, address.port, place, args.devices, args.seed, args.prefix, shapes,
        args.connections, running,
    )  # fmt: skip


def _demand_files(wanted: int) -> None:
    """Raise the limit of open files as far as it goes; FleetfootError if that is not far enough."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if wanted + _SPARE_FILES > hard:
        raise FleetfootError(
            "usage",
            f"{wanted} connections take more files than the {hard} that this process may open",
            remedy=f"raise 'ulimit -n', or let devices share: --connections {hard - 1000}",
        )


async def _run(plan: Plan, verifier: Verifier, *, as_json: bool) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    fleet = Fleet(plan, verifier)
    collector.calm()
    fleet.start()
    began = time.monotonic()
    while not over.is_set():
        show(facts(fleet, time.monotonic() - began), as_json=as_json)
        try:
            await asyncio.wait_for(over.wait(), 1.0)
        except TimeoutError:
            continue
    await fleet.stop()


def facts(fleet: Fleet, seconds: float) -> dict[str, Any]:
    """What is so now. `running`: devices by the version they run."""
    running: dict[str, int] = {}
    for device in fleet.devices:
        version = device.memory.run.version if device.memory.run else "nothing"
        running[version] = running.get(version, 0) + 1
    counts = asdict(fleet.counts)
    counts.pop("sequences")
    return {
        "seconds": round(seconds, 1),
        "devices": fleet.plan.devices,
        "connected": fleet.connected(),
        "failures": fleet.failures,
        "verified": fleet.verifier.count,
        **counts,
        "running": running,
    }


def show(found: dict[str, Any], *, as_json: bool) -> None:
    """One line."""
    if as_json:
        print(json.dumps(found), flush=True)
        return
    runs = ", ".join(f"{count} run {version}" for version, count in sorted(found["running"].items()))
    line = f"{found['seconds']:7.1f} s  {found['connected']} connected  {runs}"
    line += f"  completed {found['completed']}  rolled back {found['rolled_back']}"
    if found["failures"]:
        line += f"  connections failed {found['failures']}"
    if sys.stdout.isatty():
        print(f"\r{line}\x1b[K", end="", flush=True)
    else:
        print(line, flush=True)

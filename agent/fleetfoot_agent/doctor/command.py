"""`fleetfoot-agent doctor`: look at everything, one line for each thing; 1 if something must be done."""

import argparse
import json
from collections.abc import Iterator

from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.doctor import device, findings, isolation, package, probe, units
from fleetfoot_agent.doctor.findings import Area, Finding, advice, problem
from fleetfoot_agent.seam import guard_path
from fleetfoot_protocol.errors import FleetfootError


def doctor(config: AgentConfig, args: argparse.Namespace) -> int:
    """Print what was found. Returns 1 if there is a problem, else 0."""
    if args.probe is not None:
        print(json.dumps(probe.attempts(config, args.probe, args.address)))
        return 0
    found = list(look(config))
    print(findings.as_json(found) if args.json else findings.as_text(found))
    return findings.status_of(found)


def look(config: AgentConfig) -> Iterator[Finding]:
    """Everything, in the order of `findings.AREAS`."""
    here = units.booted_by_systemd() and any(c.unit for c in config.components.values())
    if here:
        yield from package.package()
    yield from package.permissions(config, split=here)
    yield from device.trust(config)
    yield from device.alarms(config)
    yield from device.clock(config)
    yield from device.broker(config)
    yield from device.disk(config)
    yield from device.quota(config, package.COURIER)
    if not here:
        for component in config.components.values():
            yield units.supervised(config, component)
        yield from units.guard(guard_path())
        yield advice(
            Area.ISOLATION,
            "courier and worker run as one user: whoever takes over the courier can install",
            "on machines with systemd use the package's units: docs/systemd.md",
        )
        return
    try:
        yield from units.units(config)
        yield from units.guard(units.GUARD)
        yield from isolation.isolation(config)
    except FleetfootError as error:
        yield problem(Area.UNIT, error.message, error.remedy or "see that systemd and dbus run")

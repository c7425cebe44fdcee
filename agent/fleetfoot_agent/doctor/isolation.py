"""Whether the walls around courier and worker stand: tried from inside, in a copy of each half's own unit.

The copy is what systemd has in force, drop-ins included, with another program: `probe`. It lives in
/run/systemd/system for as long as it runs. So a wall that somebody took away by a drop-in is found missing,
and one that this kernel cannot build, too.
"""

import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fleetfoot_agent.adopt.command import systemctl
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.doctor import probe
from fleetfoot_agent.doctor.findings import Area, Finding, Level, advice, ok, problem
from fleetfoot_protocol.errors import FleetfootError

HALVES = ("courier", "worker")
_RUNTIME = Path("/run/systemd/system")
_PROGRAM = "/usr/bin/fleetfoot-agent"
_SIOCGIFADDR = 0x8915

_OVERRIDE = """
[Unit]
ConditionPathExists=
OnFailure=
[Service]
Type=oneshot
Restart=no
TimeoutStartSec=60s
ExecStart=
ExecStart={program} --log-level error doctor --probe {half} {addresses}--config {config}
StandardOutput=truncate:{answer}
"""


def isolation(config: AgentConfig) -> list[Finding]:
    """What each half can do that it must not, and cannot do that it must."""
    if os.geteuid() != 0:
        text = "the walls around courier and worker were not tried"
        return [advice(Area.ISOLATION, text, "run the doctor as root")]
    addresses = own_addresses()
    found: list[Finding] = []
    for half in HALVES:
        try:
            answer = _ask(config, half, addresses)
        except (FleetfootError, OSError, ValueError) as error:
            text = f"the walls around the {half} could not be tried: {error}"
            found.append(problem(Area.ISOLATION, text, f"journalctl -u fleetfoot-doctor-{half}.service"))
            continue
        found += judge(config, half, answer)
    return found


def _ask(config: AgentConfig, half: str, addresses: list[str]) -> dict[str, str]:
    name = f"fleetfoot-doctor-{half}.service"
    answer = Path(f"/run/fleetfoot-doctor-{half}.json")
    unit = _RUNTIME / name
    given = "".join(f"--address {address} " for address in addresses)
    text = systemctl("cat", f"fleetfoot-{half}.service") + _OVERRIDE.format(
        program=_PROGRAM, half=half, addresses=given, config=config.path, answer=answer
    )
    try:
        unit.write_text(text)
        systemctl("daemon-reload")
        systemctl("start", name)
        told = json.loads(answer.read_text())
        if not isinstance(told, dict) or told.get("half") != half:
            raise ValueError("it gave no answer")
        return {str(key): str(value) for key, value in told.items()}
    finally:
        answer.unlink(missing_ok=True)
        unit.unlink(missing_ok=True)
        with suppress(FleetfootError):
            systemctl("daemon-reload")


def judge(config: AgentConfig, half: str, tried: Mapping[str, str]) -> list[Finding]:
    """What is wrong with the walls around `half`, from what its probe could do."""
    may = {f"write {folder}" for folder in probe.writable(config)[half]} | {"send 127.0.0.1"}
    if half == "worker":
        may.add(f"open {config.worker_dir / 'device.key'}")
    sends = {act for act in tried if act.startswith("send ")}
    cat = f"systemctl cat fleetfoot-{half}.service"
    found = []
    for act, outcome in tried.items():
        if act in ("half", "spool") or (half == "courier" and act in sends):
            continue  # the courier is the one with a network
        if act == "listen" and outcome == "done":
            text = f"the {half} could listen at a port: this machine does not carry out SocketBindDeny="
            found.append(
                advice(Area.ISOLATION, text, "apt-get install libbpf1, or a firewall for what comes in")
            )
        elif outcome == "done" and act not in may:
            text = f"the {half} can {act}, and must not"
            remedy = f"see what takes its wall away, or whether this kernel has none: {cat}"
            found.append(problem(Area.ISOLATION, text, remedy))
        elif outcome != "done" and act in may:
            text = f"the {half} cannot {act}: {outcome}"
            found.append(problem(Area.ISOLATION, text, f"see what forbids it: {cat}"))
    if any(one.level is Level.PROBLEM for one in found):
        return found
    if half == "worker" and not any(tried[act] == "refused" for act in sends):
        text = (
            "the worker has sent nothing, but this machine has no network that it could have been kept from"
        )
        return [advice(Area.ISOLATION, text, "run the doctor again when the network is up")]
    count = sum(act not in may for act in tried) - 2
    return [
        ok(Area.ISOLATION, f"the {half} was kept from {count} things that it must not do; tried from inside")
    ]


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine beyond loopback: there is always a way to them."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                address = socket.inet_ntoa(fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)[20:24])
                if not address.startswith("127."):
                    found.append(address)
    return found[:8]

"""`doctor` on a healthy device, and with each fault put into it: the line, what to do, the exit status."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.lab.device import COMPONENT, UNIT, Device
from tests.support.waiting import until

from fleetfoot_manager.broker import EmbeddedBroker

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300)]

Start = Callable[..., Device]

LIB = "/usr/lib/fleetfoot"
STATE = "/var/lib/fleetfoot"
ETC, RUN = "/etc/systemd/system", "/run/systemd/system"
RELOAD = "systemctl daemon-reload"
TOLD = f"{STATE}/spool/out/status.json"
GUARD = f"{LIB}/fleetfoot-guard"
OWNED = "mode=755,uid=fleetfoot,gid=fleetfoot"


@dataclass(frozen=True)
class Fault:
    """What is done to the device, what the doctor must say of it, and how it is taken back; in shell."""

    area: str
    put: str
    words: str
    take_back: str


def moved(path: str) -> tuple[str, str]:
    return f"mv {path} /away", f"mv /away {path}"


def drop_in(unit: str, text: str) -> tuple[str, str]:
    path = f"{RUN}/{unit}.d/99-fault.conf"
    put = f"mkdir -p {RUN}/{unit}.d; printf '[Service]\\n{text}\\n' > {path}; {RELOAD}"
    return put, f"rm {path}; {RELOAD}"


def fault(area: str, words: str, acts: tuple[str, str], more: tuple[str, str] = ("true", "true")) -> Fault:
    return Fault(area, f"{acts[0]}; {more[0]}", words, f"{acts[1]}; {more[1]}")


def systemctl(verb: str, back: str, unit: str) -> tuple[str, str]:
    return f"systemctl {verb} {unit}", f"systemctl {back} {unit}"


def chmod(path: str, bad: str, good: str) -> tuple[str, str]:
    return f"chmod {bad} {path}", f"chmod {good} {path}"


def edited(path: str, old: str, new: str) -> tuple[str, str]:
    return f"cp -a {path} /kept; sed -i 's/{old}/{new}/' {path}", f"mv /kept {path}"


def mounted(options: str) -> tuple[str, str]:
    return f"mount {options} /opt/fleetfoot", "umount /opt/fleetfoot"


_COURIER = "fleetfoot-courier.service"
_ADOPTED = moved(f"{ETC}/{UNIT}.d/50-fleetfoot.conf")
_COPY = (f"cp /usr/lib/systemd/system/{_COURIER} {ETC}/; {RELOAD}", f"rm {ETC}/{_COURIER}; {RELOAD}")
_DEAF = (f"cp -a {GUARD} /away; printf '#!/bin/sh\\nexit 0\\n' > {GUARD}", f"cp -a /away {GUARD}")
_OPEN = drop_in(_COURIER, f"ReadWritePaths={STATE}")

FAULTS = (
    fault(
        "package", "fleetfoot-note was edited", (f"echo >>{LIB}/fleetfoot-note", f"sed -i '$d' {LIB}/*-note")
    ),
    fault("package", "fleetfoot.conf: No such file", moved("/usr/lib/sysusers.d/fleetfoot.conf")),
    fault("permissions", "has mode 0644, not 0600", chmod(f"{STATE}/worker/device.key", "644", "600")),
    fault("permissions", "has mode 0777, not 0770", chmod("/run/fleetfoot/wake", "777", "770")),
    fault("permissions", "belongs to root", ("chown root /opt/fleetfoot", "chown fleetfoot /opt/fleetfoot")),
    fault("trust", "there is no trust root", moved(f"{STATE}/worker/root.json")),
    fault("broker", "but the courier has no session", systemctl("stop", "start", _COURIER)),
    fault(
        "trust",
        "alarm upgrade_tree_mismatch",
        edited(TOLD, r'"alarms":\[\]', '"alarms":["upgrade_tree_mismatch"]'),
    ),
    fault("clock", "document is from 2099-", edited(TOLD, '"floor":"[0-9]*-', '"floor":"2099-')),
    fault("unit", "fleetfoot-worker.path is inactive", systemctl("stop", "start", "fleetfoot-worker.path")),
    fault("unit", "will not come back", systemctl("disable", "enable", "fleetfoot-worker.timer")),
    fault("unit", f"have {UNIT} restarted", systemctl("stop", "start", f"fleetfoot-restart@{UNIT}.path")),
    fault("unit", "has Restart=no", drop_in(UNIT, "Restart=no")),
    fault("unit", "is not adopted", _ADOPTED, (RELOAD, RELOAD)),
    fault("unit", f"is replaced by {ETC}/{_COURIER}", _COPY),
    fault("guard", "cannot be executed", chmod(GUARD, "644", "755")),
    fault("guard", "does not count starts", _DEAF),
    fault("isolation", "worker can send 10.99.0.1", drop_in("fleetfoot-worker.service", "IPAddressDeny=")),
    fault(
        "isolation", f"courier can write {STATE}/spool/out", _OPEN, chmod(f"{STATE}/spool/out", "777", "755")
    ),
    fault("disk", "is read-only", mounted(f"-t tmpfs -o ro,{OWNED} tmpfs")),
    fault("disk", "MiB are free", mounted(f"-t tmpfs -o size=1m,{OWNED} tmpfs")),
    fault("disk", "more files can be made", mounted(f"-t tmpfs -o nr_inodes=64,{OWNED} tmpfs")),
)


def findings(device: Device) -> dict[str, Any]:
    told = device.host.run("fleetfoot-agent", "doctor", "--json", check=False)
    found: dict[str, Any] = json.loads(told)
    return found


def problems(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f["area"], f["text"]) for f in found["findings"] if f["level"] == "problem"]


def shell(device: Device, text: str) -> None:
    device.host.run("sh", "-ec", text)


def test_a_healthy_device_has_no_problem_and_each_fault_is_told(start: Start) -> None:
    device = start()
    host = device.host
    shell(device, "ip link add outside type veth peer name beyond; ip addr add 10.99.0.1/24 dev outside")
    shell(device, "ip link set beyond up; ip link set outside up")

    def look_for_faults() -> None:
        broker = EmbeddedBroker(port=1883)
        broker.start()
        try:
            host.run("systemctl", "enable", "--now", "fleetfoot-courier.service")
            link = host.path("/var/lib/fleetfoot/spool/in/link.json")

            def connected() -> bool:
                return link.exists() and json.loads(link.read_text())["up"]

            until(connected, "the courier is connected")
            healthy = findings(device)
            assert problems(healthy) == []
            assert healthy["healthy"] is True
            areas = {f["area"] for f in healthy["findings"]}
            assert areas == {"package", "permissions", "trust", "clock", "broker", "disk", "quota", "unit",
                             "guard", "isolation"}  # fmt: skip
            for fault in FAULTS:
                shell(device, fault.put)
                found = findings(device)
                shell(device, fault.take_back)
                told = problems(found)
                assert any(area == fault.area and fault.words in text for area, text in told), (fault, told)
                assert found["healthy"] is False
                assert all(f["remedy"] for f in found["findings"] if f["level"] != "ok")
            until(connected, "the courier is connected again")
            shell(device, f"mount -t tmpfs -o size=64m,mode=755,uid=fleetfoot-courier tmpfs {STATE}/spool/in")
            bounded = findings(device)
            shell(device, f"umount {STATE}/spool/in")
            assert f"{STATE}/spool/in is on a file system of its own" in str(bounded["findings"])
            assert problems(findings(device)) == []
        finally:
            broker.stop()

    host.within_network(look_for_faults)


def test_the_doctor_speaks_to_people_and_by_its_exit_status(start: Start) -> None:
    device = start()
    said = device.host.run("sh", "-c", "fleetfoot-agent doctor; echo exit $?")
    assert "problem broker" in said
    assert "what to do: " in said
    assert said.rstrip().endswith("exit 1")
    assert not list(Path(device.host.path("/run/systemd/system")).glob("fleetfoot-doctor*"))
    unprivileged = device.host.run("fleetfoot-agent", "doctor", user="daemon", check=False)
    assert "run the doctor as root" in unprivileged
    assert COMPONENT in said

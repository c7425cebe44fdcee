"""The agent as a guest of the machine: what it may, what it may not, and adopting, taken back."""

from collections.abc import Callable

import pytest
from tests.lab.device import UNIT, Device
from tests.lab.layers import PYTHON
from tests.support.waiting import until

pytestmark = pytest.mark.needs("lab")

Start = Callable[..., Device]

DROP_IN = f"/etc/systemd/system/{UNIT}.d/50-fleetfoot.conf"


def files(device: Device) -> str:
    """Everything below the units' folder, with links and sums."""
    folder = "/etc/systemd/system"
    listed = f"find {folder} -mindepth 1 -printf '%p %y %m %l\\n' | sort; "
    return device.host.run("sh", "-c", listed + f"find {folder} -type f -exec sha256sum {{}} + | sort")


def test_adopting_is_undone_without_a_trace(start: Start) -> None:
    device = start()
    adopted = files(device)
    device.adopt()
    assert files(device) == adopted
    device.adopt("--undo")
    taken_out = files(device)
    assert "50-fleetfoot" not in taken_out
    assert f"fleetfoot-restart@{UNIT}" not in taken_out
    facts = device.unit("Wants", "Restart", "StartLimitBurst", "OnFailure", "ExecStartPre", "ActiveState")
    assert "fleetfoot" not in facts["Wants"]
    assert (facts["Restart"], facts["StartLimitBurst"], facts["OnFailure"]) == ("no", "5", "")
    assert facts["ActiveState"] == "active"
    assert "is not adopted" in device.adopt("--undo", check=False)
    device.adopt()
    assert files(device) == adopted


def test_an_edited_drop_in_is_left_to_its_editor(start: Start) -> None:
    device = start()
    path = device.host.path(DROP_IN)
    path.write_text(path.read_text() + "Nice=5\n")
    for options in ((), ("--undo",)):
        assert "was edited by somebody" in device.adopt(*options, check=False)
    assert "Nice=5" in path.read_text()


@pytest.mark.parametrize(
    "kind", ["Type=oneshot", "Type=dbus\nBusName=org.example.Kiosk", "RemainAfterExit=yes"]
)
def test_a_unit_that_cannot_be_protected_is_refused(start: Start, kind: str) -> None:
    device = start()
    device.adopt("--undo")
    before = files(device)
    owner = device.host.path(f"/etc/systemd/system/{UNIT}")
    text = owner.read_text()
    owner.write_text(text.replace("Type=notify", kind))
    device.host.run("systemctl", "daemon-reload")
    assert f"{UNIT} cannot be adopted" in device.adopt(check=False)
    owner.write_text(text)
    assert files(device) == before


def test_the_worker_s_user_restarts_its_unit_by_a_wish_and_no_other(start: Start) -> None:
    device = start()
    host = device.host
    for unit in (UNIT, "dbus.service"):
        said = host.run("systemctl", "--no-ask-password", "restart", unit, user="fleetfoot", check=False)
        assert "Access denied" in said or "authentication" in said.lower(), said
    before = device.unit("InvocationID")
    dbus = host.show("dbus.service", "InvocationID")
    host.run("touch", "/run/fleetfoot/restart/dbus.service", user="fleetfoot")
    host.run("touch", f"/run/fleetfoot/restart/{UNIT}", user="fleetfoot")
    until(lambda: device.unit("InvocationID") != before, "the adopted unit was restarted")
    until(lambda: device.unit("ActiveState")["ActiveState"] == "active", "and runs")
    assert host.path("/run/fleetfoot/restart/dbus.service").exists()
    assert host.show("dbus.service", "InvocationID") == dbus


def test_neither_half_may_touch_what_is_the_other_s(start: Start) -> None:
    host = start().host
    for user, path in (
        ("fleetfoot-courier", "/var/lib/fleetfoot/spool/out/x"),
        ("fleetfoot-courier", "/opt/fleetfoot/x"),
        ("fleetfoot-courier", "/var/lib/fleetfoot/worker/x"),
        ("fleetfoot-courier", f"/run/fleetfoot/restart/{UNIT}"),
        ("fleetfoot-courier", "/run/fleetfoot/started/x"),
        ("fleetfoot", "/var/lib/fleetfoot/spool/in/x"),
        ("fleetfoot", "/run/fleetfoot/started/x"),
        ("fleetfoot", "/etc/fleetfoot/x"),
        ("daemon", "/run/fleetfoot/wake/now"),
    ):
        assert "Permission denied" in host.run("touch", path, user=user, check=False), (user, path)
    for user, path in (
        ("fleetfoot-courier", "/var/lib/fleetfoot/worker/device.key"),
        ("daemon", "/var/lib/fleetfoot/spool/out/status.json"),
    ):
        assert "Permission denied" in host.run("cat", path, user=user, check=False), (user, path)
    assert host.run("cat", "/var/lib/fleetfoot/spool/out/status.json", user="fleetfoot-courier")


def test_the_worker_s_unit_reaches_loopback_and_nothing_else(start: Start) -> None:
    host = start().host
    until(
        lambda: host.show("fleetfoot-worker.service", "ActiveState")["ActiveState"] == "inactive", "at rest"
    )
    host.run("ip", "link", "add", "outside", "type", "veth", "peer", "name", "beyond")
    host.run("ip", "link", "set", "beyond", "up")
    host.run("ip", "addr", "add", "10.99.0.1/24", "dev", "outside")
    host.run("ip", "link", "set", "outside", "up")
    # The shipped unit with another program: it sends to both and says what became of it.
    program = """\
import socket
for address in ("127.0.0.1", "10.99.0.1", "10.99.0.2"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.sendto(b"x", (address, 9))
            print(address, "sent", flush=True)
        except PermissionError:
            print(address, "refused", flush=True)
"""
    host.path("/usr/lib/fleetfoot/probe.py").write_text(program)
    host.run("mkdir", "-p", "/run/systemd/system/fleetfoot-worker.service.d")
    python = f"{PYTHON}/bin/python3" if host.path(f"{PYTHON}/bin").exists() else "/usr/bin/python3"
    host.path("/run/systemd/system/fleetfoot-worker.service.d/probe.conf").write_text(
        f"[Service]\nEnvironment=LD_LIBRARY_PATH={PYTHON}/lib\n"
        f"ExecStart=\nExecStart={python} -I /usr/lib/fleetfoot/probe.py\n"
    )
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "fleetfoot-worker.service")

    def told() -> str:
        said = host.journal("-u", "fleetfoot-worker.service", "-o", "cat", "-n", "10")
        return said if "10.99.0.2" in said else ""

    said = until(told, "the probe has spoken")
    assert "127.0.0.1 sent" in said
    assert "10.99.0.1 refused" in said
    assert "10.99.0.2 refused" in said


def test_systemd_finds_nothing_to_say_about_the_units(start: Start) -> None:
    host = start().host
    names = host.run("sh", "-c", "ls /usr/lib/systemd/system/fleetfoot-*[a-z].* | grep -v @").split()
    assert len(names) == 5
    names += [f"fleetfoot-guard@kiosk.service /etc/systemd/system/{UNIT}"]
    said = host.run(
        "sh", "-c", f"systemd-analyze verify --man=no {' '.join(names)} 2>&1 | grep -i fleetfoot", check=False
    )
    assert said == ""

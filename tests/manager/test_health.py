"""What the manager says of itself: to monitors, to systemd, to whoever looks because something is wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.enginerig import Rig
from tests.manager.process import FLEETFOOT, ManagerProcess, closing
from tests.manager.realm import COMPONENT, Device, Realm, ended, runs
from tests.support.stores import tamper
from tests.support.waiting import until

from fleetfoot_manager import health, notify, status
from fleetfoot_manager.health import HealthServer
from fleetfoot_manager.run import WHERE_NAME
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import Role

UNIT = Path(__file__).parents[2] / "systemd" / "manager" / "fleetfoot-manager.service"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    roles: dict[str, dict[str, tuple[Role, ...]]] = {
        "alice": {"*": (Role.ADMIN,)},
        "gina": {"hall": (Role.GROUP_ADMIN,)},
        "vera": {"*": (Role.VIEWER,)},
    }
    rig = Rig(Realm(tmp_path, roles))
    yield rig
    rig.close()


@pytest.fixture
def server(rig: Rig) -> Iterator[HealthServer]:
    with HealthServer(rig.engine, rig.store, "testfleet", "127.0.0.1", 0) as server:
        (rig.realm.state / WHERE_NAME).write_text(json.dumps({"status": server.url}))
        yield server


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def numbers(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(
        re.fullmatch(r'fleetfoot_[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? \S+', line) for line in lines
    )
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_ready_is_who_hears_devices_and_operators(rig: Rig, server: HealthServer) -> None:
    assert get(f"{server.url}/healthz") == (200, "ok\n")
    assert get(f"{server.url}/readyz") == (503, "no connection to the broker\n")
    rig.connect()
    until(lambda: get(f"{server.url}/readyz") == (200, "ok\n"), "it is ready")
    rig.disconnect()
    until(lambda: get(f"{server.url}/readyz")[0] == 503, "it is not")
    assert get(f"{server.url}/elsewhere") == (404, "/healthz, /readyz, /metrics\n")


def test_a_stuck_engine_is_seen(rig: Rig, server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STUCK_SECONDS", -1.0)
    code, text = get(f"{server.url}/healthz")
    assert (code, "stuck" in text) == (503, True)
    assert "stuck" in status.look(rig.realm.state)["engine"]


def test_an_engine_that_ended_is_seen_with_its_reason(rig: Rig, server: HealthServer) -> None:
    tamper(rig.realm.state, "UPDATE meta SET value = 'somebody else' WHERE name = 'lease'")
    rig.arrive("ff/v1/groups/hall/devices/dev-1/presence", b"online")
    assert rig.ended.wait(20)
    code, text = get(f"{server.url}/healthz")
    assert (code, "another manager has taken over" in text) == (503, True)


def test_what_is_counted_is_what_there_is(rig: Rig, server: HealthServer) -> None:
    rig.connect()
    old = rig.realm.release("1.0.0", 1)
    rig.publish(old)
    rig.enroll(Device("dev-1", "hall"), Device("dev-2", "hall"), Device("dev-3", "yard"))
    rig.arrive("ff/v1/groups/hall/devices/dev-1/presence", b"online")
    until(lambda: rig.device("dev-1")["online"], "dev-1 is online")
    rig.arrive('ff/v1/groups/"x"/nothing', b"")
    until(lambda: rig.engine.dropped, "what is foreign is passed over")
    code, text = get(f"{server.url}/metrics")
    found = numbers(text)
    assert code == 200
    assert found['fleetfoot_devices{group="hall",online="true"}'] == 1
    assert found['fleetfoot_devices{group="hall",online="false"}'] == 1
    assert found['fleetfoot_devices{group="yard",online="false"}'] == 1
    assert found['fleetfoot_releases{life="blessed"}'] == 1
    assert (found["fleetfoot_up"], found["fleetfoot_broker_connected"]) == (1, 1)
    assert found["fleetfoot_audit_entries"] == rig.do("audit.list", {"limit": 1})["count"]
    assert found['fleetfoot_passed_over_total{what="foreign topic"}'] == 1


def test_labels_are_escaped() -> None:
    metric = health.Metric("x", "gauge", "X.", [({"what": 'a"b\\c\nd'}, 1)])
    assert health.rendered([metric]).splitlines()[-1] == 'fleetfoot_x{what="a\\"b\\\\c\\nd"} 1'


def test_it_is_served_on_loopback_only(rig: Rig) -> None:
    with pytest.raises(FleetfootError) as caught:
        HealthServer(rig.engine, rig.store, "testfleet", "0.0.0.0", 0)
    assert caught.value.code == "unsafe_binding"


def test_status_says_what_waits_for_whom(rig: Rig, server: HealthServer) -> None:
    rig.connect()
    old, new = rig.realm.release("1.0.0", 1), rig.realm.release("1.1.0", 2)
    device = Device("dev-1", "hall")
    rig.enroll(device)
    rig.publish(old)
    rig.publish(new)
    rig.say(device, device.status(runs(old)))
    name = rig.start(new, "hall")
    rig.say(device, device.status(ended(new, name, "rolled_back", old, code="upgrade_boot_failed")))
    until(lambda: rig.show(name)["state"] == "tripped", "it trips")
    (row,) = status.look(rig.realm.state)["waits"]
    assert (row["rollout"], row["for"], row["who"]) == (name, "decision", ["alice", "gina"])
    text = "\n".join(status.lines(status.look(rig.realm.state)))
    assert f"rollout {name} waits for decision, which can come from: alice, gina" in text
    assert COMPONENT in text


def test_a_process_that_was_stopped_is_seen_at_once(tmp_path: Path) -> None:
    manager = ManagerProcess(Realm(tmp_path))
    with closing(manager):
        manager.first_start()
        command = [FLEETFOOT, "manager", "status", "--dir", str(manager.realm.state)]
        assert get(f"{manager.ready['status']}/healthz")[0] == 200
        assert manager.process is not None
        manager.process.send_signal(signal.SIGSTOP)
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
            assert "BUT it does not answer: stuck, or its process is stopped" in told
        finally:
            manager.process.send_signal(signal.SIGCONT)
        assert manager.stop() == 0
        assert not (manager.realm.state / WHERE_NAME).exists()


def test_systemd_is_told_at_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notify.tell("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("notify")
        line.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "notify")
        notify.tell("WATCHDOG=1")
        assert line.recv(100) == b"WATCHDOG=1"
    os.unlink("notify")
    notify.tell("STOPPING=1")


@pytest.mark.needs("systemd-analyze")
def test_the_unit_exposes_little() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert match is not None, told
    assert float(match[1]) <= 1.6, told


def test_the_unit_is_told_what_it_waits_for() -> None:
    text = UNIT.read_text()
    assert {"Type=notify", "WatchdogSec=60s", "Restart=always"} <= set(text.splitlines())

"""The owner's units around an upgrade, and what is preserved, on real systemd with the shipped units."""

import functools
import json
from collections.abc import Callable

import pytest
from tests.lab.conftest import Lab
from tests.lab.device import DIES, GOOD, UNIT, Device
from tests.lab.test_upgrades import ended
from tests.support import waiting
from tests.support.fleet import Bundle

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(600)]

Start = Callable[..., Device]

#: A loaded machine takes ten times as long as an idle one.
until = functools.partial(waiting.until, seconds=120)

HOOK = "kiosk-hook.service"
HOOK_UNIT = """\
[Service]
Type=oneshot
ExecStart=/usr/local/bin/kiosk-hook
"""
#: Notes what it was told, as whom, and while what ran; then does what the test wants of that moment.
HOOK_SCRIPT = """\
#!/bin/sh
echo "$FLEETFOOT_HOOK $FLEETFOOT_COMPONENT $FLEETFOOT_VERSION $(readlink /opt/fleetfoot/kiosk/current)" \\
    "$(id -un) $(cat /etc/kiosk.conf)" >>/var/lib/kiosk/noted
[ ! -f "/etc/kiosk-$FLEETFOOT_HOOK" ] || . "/etc/kiosk-$FLEETFOOT_HOOK"
"""
SETTINGS = f"""
preserve = ["/etc/kiosk.conf", "/var/lib/kiosk/state"]
[components.kiosk.hooks]
pre-download = "{HOOK}"
pre-activate = "{HOOK}"
post-activate = "{HOOK}"
on-rollback = "{HOOK}"
"""
#: Every version says at its start what it found.
LOOKS = "ExecStartPre=/bin/sh -c 'cat /var/lib/kiosk/state/it >>/var/lib/kiosk/seen'"


def prepare(device: Device, *, window: float) -> None:
    """Hook, configuration and state of the owner, as a device has them; the kiosk's own user may write."""
    host = device.host
    host.path("/usr/local/bin/kiosk-hook").write_text(HOOK_SCRIPT)
    host.path(f"/etc/systemd/system/{HOOK}").write_text(HOOK_UNIT)
    host.run("sh", "-ec", "chmod 755 /usr/local/bin/kiosk-hook; umask 077; echo old >/etc/kiosk.conf")
    host.run("sh", "-ec", "mkdir -p /var/lib/kiosk/state; echo old >/var/lib/kiosk/state/it")
    host.run("chown", "-R", "daemon:daemon", "/var/lib/kiosk")
    set_up(device, window=window)


def set_up(device: Device, *, window: float, pre_activate: float = 90.0) -> None:
    """One unit for all moments, which may have different times."""
    timeouts = f"{{pre-activate = {pre_activate}, post-activate = 90}}"
    # What must not end of itself in a test has the time that a loaded machine takes.
    service = f"{LOOKS}\nTimeoutStartSec=60s"
    device.configure(window=window, component=f"hook_timeouts = {timeouts}{SETTINGS}", service=service)


def at_moment(device: Device, moment: str, script: str) -> None:
    device.host.path(f"/etc/kiosk-{moment}").write_text(f"{script}\n")


def noted(device: Device) -> list[list[str]]:
    text = device.host.path("/var/lib/kiosk/noted").read_text()
    device.host.path("/var/lib/kiosk/noted").unlink()
    return [line.split() for line in text.splitlines()]


def fails(device: Device, bundle: Bundle, words: str) -> None:
    """Order a release whose hook before the switch fails: nothing has happened, and why is told."""
    before = device.unit("InvocationID"), device.current
    device.order(device.shop.order(bundle), bundle)
    assert ended(device, bundle) == (Outcome.FAILED, Code.UPGRADE_HOOK_FAILED)
    record = device.record()
    assert record is not None
    assert record.last_error is not None
    assert words in record.last_error.message
    assert record.refused == {}
    assert (device.unit("InvocationID"), device.current, device.layout.read_trial()) == (*before, None)


def what_it_keeps(device: Device) -> tuple[str, ...]:
    kept = ("/etc/kiosk.conf", "/var/lib/kiosk/state/it")
    said = [device.host.path(path).read_text().strip() for path in kept]
    return (*said, *device.host.run("stat", "-c", "%U %a", *kept).splitlines())


OLD = ("old", "old", "root 600", "daemon 644")


def test_units_of_the_owner_run_at_their_moments_and_can_stop_an_upgrade(start: Start, lab: Lab) -> None:
    device = start()
    prepare(device, window=0.5)
    host = device.host
    paths = host.run("systemctl", "list-units", "--plain", "--no-legend", "fleetfoot-hook@*.path")
    assert f"fleetfoot-hook@{HOOK}.path" in paths
    old, (good, bad) = device.current, (lab.shop.release(f"1.1.{n}") for n in (0, 1))
    # Before the switch: it fails, it hangs.
    at_moment(device, "pre-download", "exit 7")
    fails(device, good, f"pre-download: {HOOK} failed: exit-code 7")
    at_moment(device, "pre-download", "true")
    at_moment(device, "pre-activate", "sleep 1000")
    set_up(device, window=0.5, pre_activate=1.5)
    fails(device, bad, f"pre-activate: {HOOK} did not end within 1.5 s")
    assert host.show(HOOK, "MainPID", "ActiveState") == {"MainPID": "0", "ActiveState": "failed"}
    noted(device)
    set_up(device, window=0.5)
    # Well: each at its moment, told what is done, with the rights that its unit has.
    at_moment(device, "pre-activate", "true")
    device.order(device.shop.order(good, attempt=2), good)
    device.await_runs(good)
    new = device.current
    assert noted(device) == [
        ["pre-download", "kiosk", "1.1.0", old, "root", "old"],
        ["pre-activate", "kiosk", "1.1.0", old, "root", "old"],
        ["post-activate", "kiosk", "1.1.0", new, "root", "old"],
    ]
    # After the switch: the version has failed, and what it made of the configuration is undone with it.
    change = "echo new >/etc/kiosk.conf; echo new >/var/lib/kiosk/state/it; touch /var/lib/kiosk/state/more"
    at_moment(device, "post-activate", f"{change}; exit 3")
    device.order(device.shop.order(bad, attempt=2), bad)
    assert ended(device, bad) == (Outcome.FAILED, Code.UPGRADE_HOOK_FAILED)  # of the first attempt
    until(lambda: bad.digest in device.record().refused, "the release is refused")  # type: ignore[union-attr]
    device.await_runs(good)
    record = device.record()
    assert record is not None
    assert record.outcomes[-1].outcome is Outcome.ROLLED_BACK
    assert record.outcomes[-1].code == Code.UPGRADE_HOOK_FAILED
    assert [line[0] for line in noted(device)] == ["pre-activate", "post-activate", "on-rollback"]
    assert what_it_keeps(device) == OLD
    assert not host.path("/var/lib/kiosk/state/more").exists()
    # The doctor knows of all this, and so does whoever takes the unit out again.
    host.run("systemctl", "stop", f"fleetfoot-hook@{HOOK}.path")
    found = json.loads(host.run("fleetfoot-agent", "doctor", "--json", check=False))["findings"]
    assert any(f["level"] == "problem" and HOOK in f["text"] and "adopt" in f["remedy"] for f in found), found
    device.adopt("--undo")
    places = "/etc/systemd/system/*/*fleetfoot-hook* /var/lib/fleetfoot/saved/*"
    left = host.run("sh", "-c", f"ls -d {places}", check=False)
    assert left.count("No such file") == 2, left


def test_what_is_preserved_is_back_before_the_old_version_starts_where_the_guard_alone_went_back(
    start: Start, lab: Lab
) -> None:
    device = start()
    prepare(device, window=60.0)
    host = device.host
    # Its first start ends when the test says so: by then the worker is dead, and there is no agent any more.
    waits = "until [ -e /var/lib/kiosk/go ]; do sleep 0.05; done\n"
    bundle = lab.shop.release("1.2.1", f"echo new >/var/lib/kiosk/state/it\n{waits}{DIES}")
    # The hook outlives its version, and would then change what was put back.
    late = "until [ -e /var/lib/kiosk/back ]; do sleep 0.05; done; echo late >/etc/kiosk.conf"
    at_moment(device, "post-activate", f"trap '' TERM; echo new >/etc/kiosk.conf; {late}")
    at_moment(device, "pre-activate", "rm /usr/bin/fleetfoot-agent")
    device.order(device.shop.order(bundle), bundle)
    until(lambda: host.path("/etc/kiosk.conf").read_text() == "new\n", "the hook has its way")
    until(lambda: host.path("/var/lib/kiosk/state/it").read_text() == "new\n", "the new version, too")
    assert f"1.2.1-{bundle.digest[:8]}" in device.current
    host.run("systemctl", "kill", "--signal=KILL", "fleetfoot-worker.service")
    until(lambda: host.show("fleetfoot-worker.service", "MainPID")["MainPID"] == "0", "the worker is dead")
    assert host.show(HOOK, "ActiveState") == {"ActiveState": "activating"}
    host.path("/var/lib/kiosk/go").touch()
    until(lambda: device.version() == "1.0.0", "1.0.0 runs again")
    host.path("/var/lib/kiosk/back").touch()
    assert host.show(HOOK, "ActiveState", "MainPID") == {"ActiveState": "failed", "MainPID": "0"}
    record = device.record()
    assert record is not None
    assert record.state is Lifecycle.ACTIVATING
    seen = host.path("/var/lib/kiosk/seen").read_text().split()
    assert (seen[-1], "new" in seen) == ("old", True), seen
    assert what_it_keeps(device) == OLD
    said = host.journal("-u", "fleetfoot-restore@kiosk.service")
    assert f"ends {HOOK}, which runs for versions/1.2.1-" in said
    assert "put back what versions/1.0.0-" in said


def test_a_start_that_the_switch_back_overtakes_is_made_again_with_what_was_put_back(
    start: Start, lab: Lab
) -> None:
    device = start()
    prepare(device, window=0.5)
    host = device.host
    # Before the version itself, a start brings the owner's state up to date, once, and takes its time.
    host.path("/etc/kiosk-pre").write_text(
        "cd /var/lib/kiosk; [ -e update ] || exit 0\n"
        "rm update; echo new >state/it; until [ -e go ]; do sleep 0.05; done\n"
    )
    drop_in = f"[Service]\nExecStartPre=/bin/sh /etc/kiosk-pre\n{LOOKS}\n"
    host.path(f"/etc/systemd/system/{UNIT}.d/0-pre.conf").write_text(drop_in)
    host.run("systemctl", "daemon-reload")
    host.run("sh", "-ec", "touch /var/lib/kiosk/update")
    # The worker's patience ends meanwhile: `current` leads back, and what is being started is the old one.
    old = device.current
    waits = f"touch /var/lib/kiosk/go; until systemctl is-active -q {UNIT}; do sleep 0.05; done"
    at_moment(device, "on-rollback", waits)
    bundle = lab.shop.release("1.2.2")
    device.order(device.shop.order(bundle), bundle)
    assert ended(device, bundle)[0] is Outcome.ROLLED_BACK
    device.await_runs(lab.shop.bundles["1.0.0"])
    assert noted(device)[-1][3] == old
    seen = host.path("/var/lib/kiosk/seen").read_text().split()
    assert ("new" in seen, seen[-1]) == (True, "old"), seen
    assert what_it_keeps(device) == OLD


def test_the_old_version_is_drained_then_asked_to_end_and_has_time_for_it(start: Start, lab: Lab) -> None:
    device = start()
    prepare(device, window=0.5)
    note = "/var/lib/kiosk/order"
    # It takes a second from being asked until it ends.
    ends = f"trap 'echo asked >>{note}; sleep 1; echo ended >>{note}; exit 0' TERM\n"
    slow = lab.shop.release("1.3.1", f"{ends}systemd-notify --ready\nwhile :; do sleep 0.05; done\n")
    device.order(device.shop.order(slow), slow)
    device.await_runs(slow)
    at_moment(device, "pre-activate", f"systemctl is-active {UNIT} >>{note}; echo drained >>{note}")
    newer = lab.shop.release("1.3.2", f"echo started >>{note}\n{GOOD}")
    device.host.run("sh", "-ec", f"touch {note}; chown daemon {note}")
    device.order(device.shop.order(newer), newer)
    device.await_runs(newer)
    assert device.host.path(note).read_text().split() == ["active", "drained", "asked", "ended", "started"]


def test_checks_of_every_kind_work_from_within_the_sandbox_of_the_worker(start: Start, lab: Lab) -> None:
    device = start()
    host = device.host
    # The version is ready when it serves on loopback what is asked; the unit of the owner is root's.
    serves = (
        "cd /var/lib/kiosk; exec /usr/bin/python3 -c 'import http.server, subprocess\n"
        'served = http.server.HTTPServer(("127.0.0.1", 8099), http.server.SimpleHTTPRequestHandler)\n'
        'subprocess.run(["systemd-notify", "--ready"])\n'
        "served.serve_forever()'\n"
    )
    host.run(
        "sh", "-ec", "mkdir -p /var/lib/kiosk; touch /var/lib/kiosk/sign; chown -R daemon /var/lib/kiosk"
    )
    probe = "[Service]\nType=oneshot\nExecStart=/usr/bin/test -e /var/lib/kiosk/sign\n"
    host.path("/etc/systemd/system/kiosk-probe.service").write_text(probe)
    checks = (
        '{kind = "http", url = "http://127.0.0.1:8099/sign"}, {kind = "tcp", address = "127.0.0.1:8099"}, '
        '{kind = "file", path = "/var/lib/kiosk/sign"}, {kind = "exec", unit = "kiosk-probe.service"}'
    )
    device.configure(window=1.0, component=f"checks = [{checks}]\n", service="TimeoutStartSec=60s")
    good = lab.shop.release("1.3.3", serves)
    device.order(device.shop.order(good), good)
    device.await_runs(good)

    def told() -> dict[str, bool]:
        found = device.told()
        return {} if found is None else {check.check: check.healthy for check in found.checks}

    assert until(told, "the checks are told") == {
        "http://127.0.0.1:8099/sign": True,
        "127.0.0.1:8099": True,
        "/var/lib/kiosk/sign": True,
        "kiosk-probe.service": True,
    }
    # Without its listener a version is left, and what was missing is told.
    deaf = lab.shop.release("1.3.4", GOOD)
    device.order(device.shop.order(deaf), deaf)
    assert ended(device, deaf) == (Outcome.ROLLED_BACK, Code.UPGRADE_HEALTH_FAILED)
    device.await_runs(good)


def test_rollback_by_hand_needs_neither_broker_nor_python(start: Start, lab: Lab) -> None:
    device = start()
    prepare(device, window=0.5)
    host, old = device.host, device.current
    good, newer = lab.shop.bundles["1.0.0"], lab.shop.release("1.1.0")
    order = device.shop.order(newer, attempt=3)
    device.order(order, newer)
    device.await_runs(newer)
    host.path("/etc/kiosk.conf").write_text("changed since\n")  # long after the commit: not of the trial
    # From here on nothing of the agent can run.
    host.run("systemctl", "stop", "fleetfoot-worker.path", "fleetfoot-worker.service")
    host.run("sh", "-ec", "mkdir /away; mv /usr/lib/fleetfoot/agent/site /usr/bin/python3* /away")
    assert "usage" in host.run("fleetfoot-agent", "rollback", "../kiosk", check=False)
    assert "there is no component shop" in host.run("fleetfoot-agent", "rollback", "shop", check=False)
    said = host.run("fleetfoot-agent", "rollback", "kiosk")
    assert f"kiosk is back at {old.removeprefix('versions/')}\n{UNIT} is restarted" in said
    until(lambda: device.version() == "1.0.0", "1.0.0 runs again")
    assert host.path("/etc/kiosk.conf").read_text() == "changed since\n"
    assert "is at versions/1.0.0" in host.run("fleetfoot-agent", "rollback", "kiosk", old[9:], check=False)
    # With a worker again: it proves the old version, and what was left is refused, though the order stands.
    host.run("sh", "-ec", "mv /away/site /usr/lib/fleetfoot/agent/; mv /away/python3* /usr/bin/")
    host.run("systemctl", "start", "fleetfoot-worker.path", "fleetfoot-worker.service")
    until(lambda: device.runs(good), "the worker agrees")
    until(
        lambda: device.host.show("fleetfoot-worker.service", "ActiveState")["ActiveState"] == "inactive",
        "it ends",
    )
    record = device.record()
    assert record is not None
    assert record.refused == {newer.digest: 3}
    assert device.runs(good)
    assert device.layout.read_trial() is None


def test_without_room_to_set_aside_nothing_is_activated(start: Start, lab: Lab) -> None:
    device = start()
    prepare(device, window=0.5)
    host = device.host
    bundle = lab.shop.release("1.1.0", GOOD)
    before = device.unit("InvocationID")
    host.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", "/var/lib/fleetfoot/saved")
    device.adopt()  # its folder is in the other file system now
    host.run("sh", "-ec", "head -c 200000 /dev/urandom >/var/lib/kiosk/state/large")
    device.order(device.shop.order(bundle), bundle)
    assert ended(device, bundle) == (Outcome.FAILED, Code.UPGRADE_DISK_FULL)
    assert device.unit("InvocationID") == before
    assert device.layout.read_trial() is None

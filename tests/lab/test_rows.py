"""Attacks and faults of the catalogue that only a real host with a real disk can show."""

import json
from collections.abc import Callable

import pytest
from tests.attack.rows import row
from tests.lab.conftest import Lab
from tests.lab.device import DIES, GOOD, SPOOL, UNIT, Device, problem_of
from tests.lab.layers import HOLD
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300)]

Start = Callable[..., Device]

#: Seconds for which the worker is held in a state, so that the disk can be spoilt right there.
HELD = 4
FULL = Code.UPGRADE_DISK_FULL


def state(device: Device) -> Lifecycle | None:
    record = device.record()
    return None if record is None else record.state


def spoil_while(device: Device, held: Lifecycle, bundle: Bundle, how: str) -> None:
    """Order the release; when its work has come to `held`, run `how` in the host's shell."""
    device.host.path(HOLD).write_text(f"{held} {HELD}")
    device.order(device.shop.order(bundle), bundle)
    until(lambda: state(device) is held, f"the work is {held}")
    device.host.run("sh", "-c", how)


def at_rest(device: Device) -> None:
    until(
        lambda: device.host.show("fleetfoot-worker.service", "ActiveState")["ActiveState"] == "inactive",
        "the worker is at rest",
        seconds=60,
    )


def obeys_the_next_order(device: Device, bundle: Bundle) -> None:
    """The same release, ordered for another attempt, is installed."""
    at_rest(device)  # on its last look it could still take the order, and could not keep it
    device.host.run("rm", HOLD)
    device.order(device.shop.order(bundle, attempt=2), bundle)
    device.host.run("systemctl", "start", "fleetfoot-worker.service")
    device.await_runs(bundle, seconds=90)


@row(
    52,
    "a real ext4 disk fills up while a release is unpacked",
    "refused as a full disk, the old version still runs; with room again the next order is obeyed",
)
def test_row_52_a_real_disk_that_fills_up_leaves_what_runs(start: Start) -> None:
    device = start(window=3.0)
    before = device.unit("MainPID")
    bundle = device.shop.release("1.1.0")
    spoil_while(device, Lifecycle.STAGING, bundle, "cat /dev/zero >/opt/fleetfoot/filler; true")
    # Without room for a journal the worker says so in its log; the record on the disk stays where it was.
    until(
        lambda: "No space left on device" in device.host.journal("-u", "fleetfoot-worker.service"),
        "the disk is told to be full",
        seconds=30,
    )
    tells(device, FULL)
    assert device.unit("MainPID") == before
    assert problem_of(device.layout, device.current, device.shop.root) == ""
    device.host.run("rm", "/opt/fleetfoot/filler")
    obeys_the_next_order(device, bundle)


def tells(device: Device, code: Code) -> None:
    """The status says it, although nothing new can be written where versions and the journal lie."""

    def told() -> bool:
        found = device.told()
        return found is not None and found.last_error is not None and found.last_error.code == code

    until(told, f"the status tells {code}", seconds=30)


@row(
    52,
    "a real ext4 disk runs out of inodes while a release is unpacked",
    "told in the status as a full disk, the old version still runs; with room again the next order is obeyed",
)
def test_row_52_a_real_disk_without_inodes_leaves_what_runs_and_is_told(start: Start) -> None:
    device = start(window=3.0)
    before = device.unit("MainPID")
    bundle = device.shop.release("1.1.0")
    # All but a few hundred beforehand: what is left is used up at once, at the moment that matters.
    left = "$(($(df --output=iavail /opt/fleetfoot | tail -n 1) - 300))"
    many = f"mkdir /opt/fleetfoot/many; cd /opt/fleetfoot/many; seq {left} | xargs touch"
    device.host.run("sh", "-ec", many)
    rest = "cd /opt/fleetfoot/many; seq -f x%g 2000 | xargs touch 2>/dev/null; true"
    spoil_while(device, Lifecycle.STAGING, bundle, rest)
    tells(device, FULL)
    free = device.host.run("df", "--output=avail,iavail", "/opt/fleetfoot").split()
    assert int(free[-2]) > 10_000  # KiB: it is inodes that are missing
    assert int(free[-1]) < 10
    assert device.unit("MainPID") == before
    assert problem_of(device.layout, device.current, device.shop.root) == ""
    device.host.run("rm", "-r", "/opt/fleetfoot/many")
    obeys_the_next_order(device, bundle)


@row(
    53,
    "the file system is remounted read-only right before current is swapped",
    "refused as read-only, nothing is restarted; writable again, the next order is obeyed",
)
def test_row_53_a_read_only_disk_before_the_swap_restarts_nothing(start: Start) -> None:
    device = start(window=3.0)
    before = device.unit("InvocationID", "NRestarts")
    bundle = device.shop.release("1.1.0")
    # In the worker's own namespace, where it can be done while the disk is busy.
    pid = "$(systemctl show --value --property MainPID fleetfoot-worker.service)"
    read_only = f"nsenter -t {pid} -m mount -o remount,bind,ro /opt/fleetfoot"
    spoil_while(device, Lifecycle.STAGED, bundle, read_only)
    until(
        lambda: "Read-only file system" in device.host.journal("-u", "fleetfoot-worker.service"),
        "the disk is told to be read-only",
    )
    tells(device, Code.UPGRADE_READ_ONLY)
    at_rest(device)  # no loop of the worker's either: it comes again when it is time
    assert device.unit("InvocationID", "NRestarts") == before
    assert "1.0.0-" in device.current
    assert problem_of(device.layout, device.current, device.shop.root) == ""
    obeys_the_next_order(device, bundle)


@row(
    65,
    "on systemd: a new version that dies and breaks what the previous one needs",
    "bounded tries, an alarm that both are bad, the link leads back, the worker rests; mended, it runs",
)
def test_row_65_on_systemd_two_bad_versions_end_in_an_alarm_and_at_rest(start: Start, lab: Lab) -> None:
    device = start(window=1.0)
    spoilt = "/var/tmp/spoilt"
    old = lab.shop.release("1.3.5", f"test -e {spoilt} && exit 5\n{GOOD}")
    bad = lab.shop.release("1.4.5", f"touch {spoilt}\nexit 6\n")
    device.install(old)
    device.order(device.shop.order(bad), bad)
    alarm = "upgrade_both_bad"
    until(lambda: alarm in device.host.run("fleetfoot-agent", "status"), "the alarm stands", seconds=60)
    at_rest(device)
    record = device.record()
    assert record is not None
    assert record.refused == {bad.digest: 1}
    assert "1.3.5-" in device.current
    # Woken again with the order still there, nothing is restarted by the worker.
    device.host.run("systemctl", "stop", UNIT)
    device.host.run("systemctl", "start", "--wait", "fleetfoot-worker.service")
    assert device.unit("ActiveState")["ActiveState"] in ("inactive", "failed")
    assert "1.3.5-" in device.current
    device.host.run("rm", spoilt)
    device.host.run("systemctl", "start", UNIT)
    device.await_runs(old)


@row(
    66,
    "the power is cut while a device goes back from a version that does not start",
    "after the boot the return completes: the old version runs, the release is refused",
)
def test_row_66_a_return_survives_a_power_cut(start: Start, lab: Lab) -> None:
    device = start(window=1.0)
    good, bad = lab.shop.bundles["1.0.0"], lab.shop.release("1.2.0", DIES)
    spoil_while(device, Lifecycle.ROLLING_BACK, bad, "true")
    device.host.cut_power()
    device.host.boot()
    device.await_runs(good)
    record = device.record()
    assert record is not None
    assert bad.digest in record.refused
    assert device.layout.read_trial() is None


@row(
    67,
    "the order for a version that was left stays retained; the agent is woken and rebooted",
    "nothing is fetched or restarted again; an order for another release is obeyed",
)
def test_row_67_an_order_that_failed_is_not_tried_again(start: Start, lab: Lab) -> None:
    device = start(window=1.0)
    good, bad = lab.shop.bundles["1.0.0"], lab.shop.release("1.2.0", DIES)
    device.order(device.shop.order(bad), bad)

    def left() -> bool:
        record = device.record()
        return record is not None and record.work is None and bad.digest in record.refused

    until(left, "the bad version is left", seconds=60)
    device.await_runs(good)
    for again in ("wake", "boot"):
        if again == "boot":
            device.host.shut_down()
            device.host.boot()
            device.await_runs(good)
        at_rest(device)
        before = device.unit("InvocationID")
        worker = device.host.show("fleetfoot-worker.service", "InvocationID")
        device.host.path("/run/fleetfoot/wake/now").touch()
        until(
            lambda w=worker: device.host.show("fleetfoot-worker.service", "InvocationID") != w,  # type: ignore[misc]
            "the worker has run",
        )
        at_rest(device)
        assert device.unit("InvocationID") == before
        want = json.loads(device.host.path(f"{SPOOL}/out/want.json").read_bytes())
        assert (want["manifests"], want["blobs"]) == ([], [])
    record = device.record()
    assert record is not None
    assert [o.outcome for o in record.outcomes if o.digest == bad.digest] == [Outcome.ROLLED_BACK]
    better = lab.shop.release("1.1.0")
    device.order(device.shop.order(better), better)
    device.await_runs(better)


@row(
    69,
    "the broker is down for the old version and the new one alike",
    "the upgrade commits on what the device itself can see",
)
def test_row_69_without_a_broker_an_upgrade_commits_on_what_is_seen_here(start: Start) -> None:
    device = start(window=3.0)
    device.host.run("systemctl", "enable", "--now", "fleetfoot-courier.service")
    link = device.host.path("/var/lib/fleetfoot/spool/in/link.json")
    until(link.exists, "the courier says how its session is")
    assert b'"up": true' not in link.read_bytes()
    device.host.run("systemctl", "stop", "fleetfoot-courier.service")  # or it would clear what we bring
    bundle = device.shop.release("1.1.0")
    device.order(device.shop.order(bundle), bundle)
    device.await_runs(bundle)
    assert device.unit("ActiveState")["ActiveState"] == "active", UNIT

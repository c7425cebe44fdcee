"""Row 52 with a real quota: the kernel says EDQUOT, while the disk as a whole has room."""

from collections.abc import Callable

import pytest
from tests.attack.rows import row
from tests.lab.conftest import Lab
from tests.lab.device import SPOOL, Device, problem_of
from tests.lab.quota import QuotaDisk
from tests.lab.test_rows import FULL, at_rest, spoil_while, state, tells
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_protocol.states import Lifecycle

pytestmark = pytest.mark.needs("lab", "quota")

Start = Callable[..., Device]

INSTALLED = "/opt/fleetfoot"
PORT = 8765
#: More than what is written beside the release, and less than the release.
ROOM = 1 << 20


def on_a_quota_disk(device: Device) -> QuotaDisk:
    host, units = device.host, ("fleetfoot-worker.path", "kiosk.service")
    at_rest(device)
    host.run("systemctl", "stop", *units)
    disk = QuotaDisk(host, INSTALLED, SPOOL)
    host.run("systemctl", "start", *units)
    device.await_runs(device.shop.bundles["1.0.0"])
    return disk


def serve(device: Device, bundle: Bundle) -> str:
    """The release's blobs from a plain HTTP server in the host, whose address is returned."""
    host = device.host
    host.run("mkdir", "/blobs")
    for blob in (bundle.path / "blobs").iterdir():
        host.path(f"/blobs/{blob.name}").write_bytes(blob.read_bytes())
    server = ("/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/", str(PORT))
    host.run("systemd-run", "--unit=shelf", *server)
    return f"http://127.0.0.1:{PORT}/blobs"


@row(
    52,
    "a real quota is reached: while a release is fetched, while it is unpacked, while the journal is written",
    "each told in the status as a full disk, the old version still runs; without the quota it is installed",
)
def test_row_52_a_real_quota_leaves_what_runs_and_is_told(start: Start, lab: Lab) -> None:
    device = start(window=1.0)
    disk = on_a_quota_disk(device)
    host, before = device.host, device.unit("MainPID")
    fetched, unpacked, written = (lab.shop.release(f"1.9.{number}") for number in range(3))

    def refused(words: str) -> None:
        def told() -> bool:
            tells(device, FULL)
            status = device.told()
            return status is not None and words in str(status.last_error)

        until(told, f"the status tells of the full disk: {words}", seconds=60)
        at_rest(device)
        assert device.unit("MainPID") == before
        assert problem_of(device.layout, device.current, lab.shop.root) == ""

    disk.limit(SPOOL, ROOM)
    device.order(device.shop.order(fetched, mirror=serve(device, fetched)), fetched, blobs=False)
    until(lambda: state(device) is Lifecycle.DOWNLOADING, "it waits for the blobs")
    host.run("chown", "-R", "fleetfoot-courier:", f"{SPOOL}/in")  # what was brought from outside
    host.run("systemctl", "start", "fleetfoot-courier.service")
    refused("gave")
    host.run("systemctl", "stop", "fleetfoot-courier.service")
    disk.lift(SPOOL)

    disk.limit(INSTALLED, ROOM)
    device.order(device.shop.order(unpacked), unpacked)
    refused("Disk quota exceeded")
    disk.lift(INSTALLED)

    spoil_while(device, Lifecycle.STAGED, written, "true")
    disk.limit(INSTALLED, 0)
    refused("keeping the journal")
    disk.lift(INSTALLED)
    host.run("systemctl", "start", "fleetfoot-worker.service")
    device.await_runs(written, seconds=90)

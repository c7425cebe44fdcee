"""A download by the shipped courier, in its sandbox: sources in order, its rate, its death and its return."""

import time
from collections.abc import Callable

import pytest
from tests.agent.courierrig import HttpServer, Request
from tests.lab.conftest import Lab
from tests.lab.device import SPOOL, Device
from tests.support.waiting import until

pytestmark = [pytest.mark.needs("lab"), pytest.mark.timeout(300)]

Start = Callable[..., Device]

COURIER = "fleetfoot-courier.service"
#: Bytes a second: the artifact, of more than 3 MB, takes some seconds.
RATE = 1_000_000


def test_a_courier_that_is_killed_goes_on_with_the_source_that_serves_and_keeps_its_rate(
    start: Start, lab: Lab
) -> None:
    device = start()
    host = device.host
    config = host.path("/etc/fleetfoot/agent.toml")
    config.write_text(config.read_text().replace("enabled = true\n", f"enabled = true\nbandwidth = {RATE}\n"))

    def download() -> None:
        with HttpServer(lambda request: request.head(410)) as gone, HttpServer(serve) as mirror:
            bundle = lab.shop.release("1.5.1", source=gone.url)
            blobs.update((blob.name, blob.read_bytes()) for blob in (bundle.path / "blobs").iterdir())
            artifact = bundle.release.artifacts[0]
            come = host.path(f"{SPOOL}/in/blob/{artifact.sha256}")
            device.order(lab.shop.order(bundle, mirror=mirror.url), bundle, blobs=False)
            # What was brought here in its place is the courier's own.
            host.run("chown", "-R", "fleetfoot-courier:fleetfoot-courier", f"{SPOOL}/in")
            host.run("systemctl", "start", COURIER)
            until(lambda: come.exists() and come.stat().st_size > RATE // 2, "half a second", seconds=60)
            began = time.monotonic()
            host.run("systemctl", "kill", "--signal=KILL", COURIER)
            host.run("systemctl", "restart", COURIER)
            left = artifact.length - come.stat().st_size
            device.await_runs(bundle)
            # What is gone for good is asked for once by each courier; what serves goes on where it stopped.
            assert len([r for r in gone.requests if r.path.endswith(artifact.sha256)]) == 2
            first, second = [r.offset for r in mirror.requests if r.path.endswith(artifact.sha256)]
            assert first is None
            assert second is not None
            assert RATE // 2 < second < artifact.length
            assert time.monotonic() - began > left / RATE * 0.8

    blobs: dict[str, bytes] = {}

    def serve(request: Request) -> None:
        request.serve(blobs[request.path.rpartition("/")[2]])

    host.within_network(download)

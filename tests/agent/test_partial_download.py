"""What was fetched of a release is not lost when the worker gives up for now, or anybody is restarted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.courierrig import QUICK, HttpServer, Request
from tests.agent.stock import Stock, blob_of
from tests.agent.workerrig import Rig, hurry, running
from tests.support.fleet import Bundle, everybody
from tests.support.waiting import until

from fleetfoot_agent.courier.fetcher import Fetcher
from fleetfoot_agent.courier.http_source import Source
from fleetfoot_agent.spool import BlobState, CourierSide
from fleetfoot_agent.worker import platform_facts
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hurry(monkeypatch)
    return running(tmp_path, stock)


class Niggard:
    """A source that gives `share` bytes of a blob, then nothing until it is `generous` again."""

    def __init__(self, bundle: Bundle, share: int) -> None:
        self.given = 0
        self.generous = True
        self._blobs = {path.name: path.read_bytes() for path in (bundle.path / "blobs").iterdir()}
        self._share = share

    def __call__(self, request: Request) -> None:
        content = self._blobs[request.path.rpartition("/")[2]]
        left = len(content) - (request.offset or 0)
        index = len(content) == 32
        if not (self.generous or index):
            request.head(503)
            return
        self.generous = index and self.generous
        share = min(left, self._share)
        self.given += 0 if index else share
        request.serve(content, cut=share)


@pytest.fixture
def serve() -> Iterator[Callable[[Niggard], HttpServer]]:
    servers: list[HttpServer] = []

    def start(answer: Niggard) -> HttpServer:
        server = HttpServer(answer)
        server.__enter__()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.__exit__()


def fetch(rig: Rig) -> None:
    """A courier that has just been started fetches what is wanted, until it has it or gives up."""
    spool = CourierSide(rig.config.spool)
    source = Source(connect_timeout=5, read_timeout=5, ca_file=None)
    fetcher = Fetcher(spool, source, QUICK, lambda: None)
    want = spool.read_want()
    assert want is not None
    fetcher.want(want.blobs, want.keep)
    left = {blob.sha256 for blob in want.blobs}

    def ended() -> bool:
        left.difference_update(blob.sha256 for blob, _ in fetcher.step(0.0))
        return not left

    try:
        until(ended, "the courier has fetched, or has given up")
    finally:
        fetcher.stop()


def order(rig: Rig, stock: Stock, bundle: Bundle, url: str, sequence: int = 2, **target: object) -> None:
    rig.send(
        stock.order(
            sequence, everybody("r-1", bundle.goal()).model_copy(update=dict(target)), mirror=f"{url}/blobs"
        )
    )
    if sequence == 2:
        rig.send(bundle.envelope, f"manifest.{bundle.digest}")
    assert rig.worker().run() == 0


def time_passes(rig: Rig) -> None:
    """The pause after a failure is over."""
    record = rig.record()
    assert record.retry is not None
    over = record.retry.model_copy(update={"at": 1})
    data = record.model_copy(update={"retry": over}).model_dump_json(exclude_none=True)
    rig.layout.journal.write_text(data)


def test_over_several_give_ups_little_more_than_one_artifact_is_fetched(
    rig: Rig, stock: Stock, serve: Callable[[Niggard], HttpServer]
) -> None:
    bundle = stock["1.1.0"]
    length = bundle.release.artifacts[0].length
    source = Niggard(bundle, -(-length // 4))
    order(rig, stock, bundle, serve(source).url)
    for part in range(1, 4):
        assert rig.record().state is Lifecycle.DOWNLOADING
        source.generous = True
        fetch(rig)
        assert rig.courier.blob_size(blob_of(bundle)) == part * -(-length // 4)
        assert rig.worker().run() == 0
        error = rig.record().last_error
        assert error is not None
        assert (rig.record().state, error.code) == (Lifecycle.IDLE, Code.UPGRADE_DOWNLOAD_FAILED)
        assert rig.wanted() == set()
        fetch(rig)  # it is told to keep, and forgets how its own try ended
        time_passes(rig)
        assert rig.worker().run() == 0
    source.generous = True
    fetch(rig)
    assert rig.worker().run() == 0
    assert rig.runs(bundle)
    assert source.given == length
    assert rig.wanted() == set()
    fetch(rig)
    assert rig.courier.blob_size(blob_of(bundle)) == 0  # installed: nothing is kept for later


def test_what_was_fetched_outlasts_a_pause_but_not_a_cancellation(
    rig: Rig, stock: Stock, serve: Callable[[Niggard], HttpServer]
) -> None:
    bundle = stock["1.1.0"]
    source = Niggard(bundle, 100)
    url = serve(source).url
    order(rig, stock, bundle, url)
    fetch(rig)
    order(rig, stock, bundle, url, 3, hold=True)
    assert (rig.record().state, rig.wanted()) == (Lifecycle.IDLE, set())
    fetch(rig)
    assert rig.courier.blob_size(blob_of(bundle)) == 100
    rig.send(stock.order(4))
    assert rig.worker().run() == 0
    fetch(rig)
    assert rig.courier.blob_size(blob_of(bundle)) == 0


def test_what_was_fetched_counts_as_room_for_the_rest(
    rig: Rig, stock: Stock, serve: Callable[[Niggard], HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = stock["1.1.0"]
    artifact = bundle.release.artifacts[0]
    order(rig, stock, bundle, serve(Niggard(bundle, 100)).url)
    fetch(rig)
    assert rig.worker().run() == 0
    fetch(rig)
    time_passes(rig)
    needed = artifact.length + artifact.index_length + artifact.unpacked_size
    for free, state in (
        (needed - 101 - artifact.index_length, Lifecycle.IDLE),
        (needed - 100 - artifact.index_length, Lifecycle.DOWNLOADING),
    ):
        monkeypatch.setattr(platform_facts, "free_bytes", lambda *_, free=free: free)
        monkeypatch.setattr("fleetfoot_agent.worker.planning._allocated", size_of)
        assert rig.worker().run() == 0
        assert rig.record().state is state


def size_of(path: Path) -> int:
    """Instead of the blocks on the disk, which are larger than what a test has to fetch."""
    return path.stat().st_size if path.exists() else 0


def test_a_full_disk_is_relieved_of_what_was_fetched(rig: Rig, stock: Stock) -> None:
    bundle = stock["1.1.0"]
    rig.begin_download(bundle)
    for code, kept in ((Code.UPGRADE_IO_ERROR, 2), (Code.UPGRADE_DISK_FULL, 0)):
        rig.courier.open_blob(blob_of(bundle)).close()
        rig.courier.write_blob_state(blob_of(bundle), BlobState(0, code))
        assert rig.worker().run() == 0
        want = rig.courier.read_want()
        assert want is not None
        assert (want.blobs, len(want.keep)) == ((), kept)
        rig.courier.keep_blobs((), want.keep)
        time_passes(rig)
        assert rig.worker().run() == 0

"""Downloads: resumed, exact, bounded, and not led astray."""

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.courierrig import QUICK, HttpServer, Request, free_port, server_tls, until
from tests.agent.tinycert import write_certificate

from fleetfoot_agent.courier.fetch import Fetch, Interrupted
from fleetfoot_agent.courier.fetcher import Fetcher
from fleetfoot_agent.courier.http_source import Place, Source, SourceError, check_url, place_of
from fleetfoot_agent.courier.timing import full_jitter
from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_agent.spool import BlobState, BlobWant, CourierSide, WorkerSide
from fleetfoot_protocol.codes import Code

CONTENT = os.urandom(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def spool(tmp_path: Path) -> CourierSide:
    return CourierSide(tmp_path)


def want(
    *urls: str, content: bytes = CONTENT, rate: int | None = None, deadline: float | None = None
) -> BlobWant:
    return BlobWant(hashlib.sha256(content).hexdigest(), len(content), urls, rate, deadline)


def fetch_for(spool: CourierSide, blob: BlobWant, tuning: Tuning = QUICK) -> Fetch:
    source = Source(
        connect_timeout=tuning.fetch_connect_timeout, read_timeout=tuning.fetch_read_timeout, ca_file=None
    )
    return Fetch(blob, spool, source, tuning)


def bytes_of(spool: CourierSide, sha256: str = SHA) -> bytes:
    return spool.blob_path(sha256).read_bytes()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Request], None]], HttpServer]]:
    servers: list[HttpServer] = []

    def start(answer: Callable[[Request], None]) -> HttpServer:
        server = HttpServer(answer)
        server.__enter__()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.__exit__()


Serve = Callable[[Callable[[Request], None]], HttpServer]


def test_a_blob_comes_whole_and_says_so(spool: CourierSide, serve: Serve) -> None:
    server = serve(lambda r: r.serve(CONTENT))
    url = f"{server.url}/{SHA}?v=1"
    assert fetch_for(spool, want(url)).run() == BlobState(len(CONTENT), None, url)
    assert bytes_of(spool) == CONTENT
    assert spool.read_blob_state(SHA) == BlobState(len(CONTENT), None, url)
    assert [r.path for r in server.requests] == [f"/{SHA}?v=1"]


def test_an_empty_blob_needs_no_source(spool: CourierSide) -> None:
    assert fetch_for(spool, want(content=b"")).run() == BlobState(0)


def test_a_cut_transfer_goes_on_where_it_stopped(spool: CourierSide, serve: Serve) -> None:
    server = serve(lambda r: r.serve(CONTENT, cut=70_000))
    state = fetch_for(spool, want(server.url)).run()
    assert (state.have, state.error) == (len(CONTENT), None)
    assert bytes_of(spool) == CONTENT
    assert [r.offset for r in server.requests] == [None, 70_000, 140_000, 210_000, 280_000]


def test_another_run_goes_on_where_the_last_one_stopped(spool: CourierSide, serve: Serve) -> None:
    with spool.open_blob(SHA) as blob:
        blob.write(CONTENT[:12_345])
    server = serve(lambda r: r.serve(CONTENT))
    assert fetch_for(spool, want(server.url)).run().error is None
    assert [r.offset for r in server.requests] == [12_345]


def test_a_server_without_ranges_starts_anew(spool: CourierSide, serve: Serve) -> None:
    def whole(request: Request) -> None:
        request.head(200, Content_Length=len(CONTENT))
        request.send(CONTENT)

    with spool.open_blob(SHA) as blob:
        blob.write(b"x" * 1000)
    assert fetch_for(spool, want(serve(whole).url)).run().error is None
    assert bytes_of(spool) == CONTENT


def test_an_endless_body_is_left_at_its_length(spool: CourierSide, serve: Serve) -> None:
    sent: list[int] = []

    def endless(request: Request) -> None:
        request.head(200)
        request.send(CONTENT)
        while not server.closing.is_set():
            request.send(b"x" * 65536)
            sent.append(65536)

    server = serve(endless)
    assert fetch_for(spool, want(server.url)).run().error == Code.UPGRADE_LENGTH_MISMATCH
    assert bytes_of(spool) == b""
    assert sum(sent) < 64 * 1024 * 1024


def test_a_partial_file_that_is_too_long_is_thrown_away(spool: CourierSide, serve: Serve) -> None:
    with spool.open_blob(SHA) as blob:
        blob.write(CONTENT + b"x")
    server = serve(lambda r: r.serve(CONTENT))
    assert fetch_for(spool, want(server.url)).run().error is None
    assert [r.offset for r in server.requests] == [None]


def test_a_bad_beginning_from_somewhere_else_is_not_blamed_on_the_source(
    spool: CourierSide, serve: Serve
) -> None:
    with spool.open_blob(SHA) as blob:
        blob.write(b"x" * 1000)
    server = serve(lambda r: r.serve(CONTENT))
    assert fetch_for(spool, want(server.url)).run().error is None
    assert bytes_of(spool) == CONTENT
    assert [r.offset for r in server.requests] == [1000, None]


def test_a_source_with_other_bytes_is_given_up_for_the_next(spool: CourierSide, serve: Serve) -> None:
    bad = serve(lambda r: r.serve(b"x" * len(CONTENT)))
    good = serve(lambda r: r.serve(CONTENT))
    state = fetch_for(spool, want(bad.url, good.url)).run()
    assert (state.error, state.source) == (None, good.url)
    assert len(bad.requests) == 1


def gone(request: Request) -> None:
    request.head(404, Content_Length=0)


def shorter(request: Request) -> None:
    request.head(200, Content_Length=len(CONTENT) - 1)
    request.send(CONTENT)


def beyond(request: Request) -> None:
    request.head(416, Content_Length=0)


def other_range(request: Request) -> None:
    request.head(206, Content_Length=10, Content_Range=f"bytes 5-14/{len(CONTENT)}")


def other_total(request: Request) -> None:
    request.head(206, Content_Length=10, Content_Range=f"bytes {request.offset}-99999999/100000000")


def packed(request: Request) -> None:
    body = gzip.compress(CONTENT)
    request.head(200, Content_Encoding="gzip", Content_Length=len(body))
    request.send(body)


def packed_in_chunks(request: Request) -> None:
    body = gzip.compress(CONTENT)
    request.head(206, Content_Encoding="GZip", Transfer_Encoding="chunked",
                 Content_Range=f"bytes {request.offset}-{len(CONTENT) - 1}/{len(CONTENT)}")  # fmt: skip
    request.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def no_range_said(request: Request) -> None:
    request.head(206, Content_Length=10)
    request.send(CONTENT[:10])


def ranges_in_parts(request: Request) -> None:
    request.head(206, Content_Type="multipart/byteranges; boundary=x", Content_Length=3)
    request.send(b"--x")


def many_headers(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 1000 + b"\r\n" + CONTENT)


def long_header(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\nX-Y: " + b"z" * 100_000 + b"\r\n\r\n" + CONTENT)


def early_hints(request: Request) -> None:
    request.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


def not_http(request: Request) -> None:
    request.send(b"SSH-2.0-OpenSSH\r\n")


@pytest.mark.parametrize(
    ("answer", "code", "asked"),
    [
        (gone, Code.UPGRADE_DOWNLOAD_FAILED, 1),
        (lambda r: r.head(403), Code.UPGRADE_DOWNLOAD_FAILED, 1),
        (lambda r: r.head(503), Code.UPGRADE_DOWNLOAD_FAILED, QUICK.fetch_rounds),
        (lambda r: r.head(429), Code.UPGRADE_DOWNLOAD_FAILED, QUICK.fetch_rounds),
        (shorter, Code.UPGRADE_LENGTH_MISMATCH, 1),
        (beyond, Code.UPGRADE_LENGTH_MISMATCH, 1),
        (other_range, Code.UPGRADE_DOWNLOAD_FAILED, 1),
        (other_total, Code.UPGRADE_LENGTH_MISMATCH, 1),
        (not_http, Code.UPGRADE_DOWNLOAD_FAILED, QUICK.fetch_rounds),
        (packed, Code.UPGRADE_DOWNLOAD_FAILED, 1),
        (packed_in_chunks, Code.UPGRADE_DOWNLOAD_FAILED, 1),
        (no_range_said, Code.UPGRADE_DOWNLOAD_FAILED, 1),
        (ranges_in_parts, Code.UPGRADE_DOWNLOAD_FAILED, 1),
        (many_headers, Code.UPGRADE_DOWNLOAD_FAILED, QUICK.fetch_rounds),
        (long_header, Code.UPGRADE_DOWNLOAD_FAILED, QUICK.fetch_rounds),
        (early_hints, Code.UPGRADE_DOWNLOAD_FAILED, QUICK.fetch_rounds),
        (lambda r: r.serve(CONTENT, cut=0), Code.UPGRADE_DOWNLOAD_FAILED, QUICK.fetch_rounds),
        (lambda r: r.serve(b"x" * len(CONTENT)), Code.UPGRADE_CHECKSUM_MISMATCH, None),
        (lambda r: r.head(302, Location="/again"), Code.UPGRADE_URL_REFUSED, 4),
        (lambda r: r.head(302, Location="file:///etc/passwd"), Code.UPGRADE_URL_REFUSED, 1),
        (lambda r: r.head(302, Location="ftp://127.0.0.1/x"), Code.UPGRADE_URL_REFUSED, 1),
    ],
)
def test_a_source_that_fails_is_tried_as_often_as_it_makes_sense(
    spool: CourierSide, serve: Serve, answer: Callable[[Request], None], code: Code, asked: int | None
) -> None:
    with spool.open_blob(SHA) as blob:
        blob.write(CONTENT[:1000])
    server = serve(answer)
    state = fetch_for(spool, want(server.url)).run()
    assert (state.error, state.source) == (code, server.url)
    assert spool.read_blob_state(SHA) == state
    assert asked is None or len(server.requests) == asked


def test_nobody_listening_is_a_failed_download(spool: CourierSide) -> None:
    state = fetch_for(spool, want(f"http://127.0.0.1:{free_port()}/x")).run()
    assert state.error == Code.UPGRADE_DOWNLOAD_FAILED


def test_a_blob_without_sources_fails(spool: CourierSide) -> None:
    assert fetch_for(spool, want()).run().error == Code.UPGRADE_DOWNLOAD_FAILED


def test_plain_http_where_tls_is_expected_is_a_tls_failure(spool: CourierSide, serve: Serve) -> None:
    server = serve(not_http)
    state = fetch_for(spool, want(server.url.replace("http:", "https:"))).run()
    assert state.error == Code.UPGRADE_TLS_FAILED


def test_a_redirect_on_the_same_footing_is_followed(spool: CourierSide, serve: Serve) -> None:
    good = serve(lambda r: r.serve(CONTENT))
    front = serve(lambda r: r.head(302, Location=f"{good.url}/{SHA}"))
    assert fetch_for(spool, want(front.url)).run().error is None
    assert bytes_of(spool) == CONTENT


def test_a_redirect_from_elsewhere_to_this_device_is_refused(
    spool: CourierSide, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = serve(lambda r: r.serve(CONTENT))
    front = serve(lambda r: r.head(302, Location=f"{inner.url}/{SHA}"))
    front_port = front.server_address[1]
    from fleetfoot_agent.courier import http_source

    truth = http_source.place_of
    seen: list[str] = []

    def front_is_far(address: str) -> Place:
        seen.append(address)
        return truth(address) if len(seen) > 1 else Place.ELSEWHERE

    monkeypatch.setattr(http_source, "place_of", front_is_far)
    state = fetch_for(spool, want(f"http://127.0.0.1:{front_port}/x")).run()
    assert state.error == Code.UPGRADE_URL_REFUSED
    assert inner.requests == []


def test_https_is_believed_only_with_a_certificate(spool: CourierSide, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with HttpServer(lambda r: r.serve(CONTENT), server_tls(certificate, key)) as server:
        blob = want(server.url)
        assert fetch_for(spool, blob).run().error == Code.UPGRADE_TLS_FAILED
        assert server.requests == []
        source = Source(connect_timeout=5.0, read_timeout=5.0, ca_file=certificate)
        assert Fetch(blob, spool, source, QUICK).run().error is None
        assert bytes_of(spool) == CONTENT


def test_a_redirect_from_https_to_http_is_refused(spool: CourierSide, serve: Serve, tmp_path: Path) -> None:
    plain = serve(lambda r: r.serve(CONTENT))
    certificate, key = write_certificate(tmp_path)
    with HttpServer(lambda r: r.head(302, Location=plain.url), server_tls(certificate, key)) as server:
        source = Source(connect_timeout=5.0, read_timeout=5.0, ca_file=certificate)
        state = Fetch(want(server.url), spool, source, QUICK).run()
    assert state.error == Code.UPGRADE_URL_REFUSED
    assert plain.requests == []


def run_until_interrupted(fetch: Fetch) -> None:
    with pytest.raises(Interrupted):
        fetch.run()


def test_an_interrupt_ends_the_wait_for_a_silent_tls_server_too(spool: CourierSide, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)

    def silent(request: Request) -> None:
        request.head(200, Content_Length=len(CONTENT))
        request.send(CONTENT[:1000])
        server.closing.wait()

    with HttpServer(silent, server_tls(certificate, key)) as server:
        source = Source(connect_timeout=5.0, read_timeout=60.0, ca_file=certificate)
        fetch = Fetch(want(server.url), spool, source, QUICK)
        thread = threading.Thread(target=run_until_interrupted, args=(fetch,))
        thread.start()
        until(lambda: fetch.have == 1000, "the first bytes")
        fetch.interrupt()
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("127.0.0.1", "HERE"),
        ("::1", "HERE"),
        ("::ffff:127.0.0.1", "HERE"),
        ("169.254.169.254", "LINK"),
        ("::ffff:169.254.1.1", "LINK"),
        ("fe80::1%eth0", "LINK"),
        ("0.0.0.0", "HERE"),
        ("192.0.2.1", "ELSEWHERE"),
        ("10.0.0.1", "ELSEWHERE"),
        ("2001:db8::1", "ELSEWHERE"),
    ],
)
def test_what_counts_as_this_device_and_its_link(address: str, place: str) -> None:
    assert place_of(address) is Place[place]


@pytest.mark.parametrize("there", ["http://169.254.169.254/x", "http://[fe80::1]/x"])
def test_a_redirect_from_this_device_to_its_link_is_refused_before_anybody_is_called(
    spool: CourierSide, serve: Serve, there: str
) -> None:
    front = serve(lambda r: r.head(302, Location=there))
    assert fetch_for(spool, want(front.url)).run().error == Code.UPGRADE_URL_REFUSED


def test_a_server_that_does_not_say_how_much_and_does_not_end_is_believed_after_a_second(
    spool: CourierSide, serve: Serve
) -> None:
    def open_ended(request: Request) -> None:
        request.head(200)
        request.send(CONTENT)
        server.closing.wait()

    server = serve(open_ended)
    assert fetch_for(spool, want(server.url)).run().error is None
    assert bytes_of(spool) == CONTENT


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "http:///x",
        "http://user:secret@host/x",
        "http://host:99999/x",
        "http://host/a b",
        "http://%00/",
        "http://..",
        "http://a..b/",
        "http://.host/",
        "http://ho*st/",
        "http://-/\x7f",
        f"http://{'a' * 64}/",
        f"http://{'a.' * 127}b/",
        "http://host/\r\nX: y",
        "http://[::1/x",
        "//host/x",
        "",
    ],
)
def test_a_url_that_is_no_source_is_refused(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_url(url)
    assert caught.value.code == Code.UPGRADE_URL_REFUSED
    assert caught.value.final


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "https://a_b.example.:8443/x?y=z",
        "http://[::1]:80/",
        "http://192.0.2.1",
        "http://xn--gr-eka/",
    ],
)
def test_a_url_that_may_be_one_is_taken(url: str) -> None:
    assert check_url(url).geturl() == url


def test_chunks_and_what_trails_them_are_understood(spool: CourierSide, serve: Serve) -> None:
    def chunked(request: Request) -> None:
        request.head(200, Transfer_Encoding="chunked")
        for at in range(0, len(CONTENT), 50_000):
            piece = CONTENT[at : at + 50_000]
            request.send(b"%x;name=value\r\n%s\r\n" % (len(piece), piece))
        request.send(b"0\r\nX-Trailer: y\r\n\r\n")

    server = serve(chunked)
    assert fetch_for(spool, want(server.url)).run().error is None
    assert bytes_of(spool) == CONTENT
    assert len(server.requests) == 1


def test_a_rate_is_kept(spool: CourierSide, serve: Serve) -> None:
    content = CONTENT[:60_000]
    server = serve(lambda r: r.serve(content))
    begun = time.monotonic()
    blob = want(server.url, content=content, rate=100_000)
    assert fetch_for(spool, blob).run().error is None
    assert time.monotonic() - begun >= 0.55


def trickle(request: Request) -> None:
    request.head(200, Content_Length=len(CONTENT))
    while True:
        request.send(b"x")
        threading.Event().wait(0.02)


def test_a_deadline_ends_a_trickle(spool: CourierSide, serve: Serve) -> None:
    server = serve(trickle)
    blob = want(server.url, deadline=time.time() + 0.3)
    state = fetch_for(spool, blob).run()
    assert state.error == Code.UPGRADE_DOWNLOAD_SLOW
    assert 0 < state.have < len(CONTENT)


def test_a_full_disk_gives_back_what_it_took_and_says_so(
    spool: CourierSide, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda r: r.serve(CONTENT))
    write, taken = os.write, [0]

    def full(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(SHA):
            taken[0] += len(data)
            if taken[0] > 100_000:
                raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    state = fetch_for(spool, want(server.url)).run()
    assert (state.error, state.have) == (Code.UPGRADE_DISK_FULL, 0)
    assert spool.blob_size(SHA) == 0
    assert spool.read_blob_state(SHA) == state


def test_an_interrupt_ends_the_wait_for_a_silent_server(spool: CourierSide, serve: Serve) -> None:
    def silent(request: Request) -> None:
        request.head(200, Content_Length=len(CONTENT))
        request.send(CONTENT[:1000])
        server.closing.wait()

    server = serve(silent)
    fetch = fetch_for(spool, want(server.url), replace(QUICK, fetch_read_timeout=60.0))
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(fetch.run())
        except Interrupted as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: fetch.have == 1000, "the first bytes")
    fetch.interrupt()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(ended[0], Interrupted)
    assert spool.blob_size(SHA) == 1000


# Several blobs


class Desk:
    """A fetcher with the loop that a courier would give it."""

    def __init__(self, spool: CourierSide, tuning: Tuning = QUICK) -> None:
        self.bell = threading.Event()
        source = Source(connect_timeout=5.0, read_timeout=60.0, ca_file=None)
        self.fetcher = Fetcher(spool, source, tuning, self.bell.set)
        self.ended: list[tuple[BlobWant, BlobState]] = []

    def step(self) -> None:
        self.ended += self.fetcher.step(time.monotonic())

    def until(self, fact: Callable[[], bool], what: str) -> None:
        def stepped() -> bool:
            self.step()
            return fact()

        until(stepped, what)


@pytest.fixture
def desk(spool: CourierSide) -> Iterator[Desk]:
    desk = Desk(spool)
    yield desk
    desk.fetcher.stop()


def holding(content: bytes, gate: threading.Event) -> Callable[[Request], None]:
    """Serves the first thousand bytes at once and the rest when the gate opens."""

    def answer(request: Request) -> None:
        start = request.offset or 0
        request.head(
            206 if start else 200,
            Content_Length=len(content) - start,
            Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}",
        )
        request.send(content[start : start + 1000])
        gate.wait(30)
        request.send(content[start + 1000 :])

    return answer


def test_no_more_than_two_are_fetched_at_a_time_and_all_are_in_the_end(
    desk: Desk, spool: CourierSide, serve: Serve
) -> None:
    gate = threading.Event()
    contents = {f"/{n}": os.urandom(5000) for n in range(5)}
    server = serve(lambda r: holding(contents[r.path], gate)(r))
    blobs = [want(server.url + path, content=content) for path, content in contents.items()]
    desk.fetcher.want(blobs)
    desk.until(lambda: len(server.requests) == 2, "two requests")
    desk.step()
    assert len(server.requests) == 2
    gate.set()
    desk.until(lambda: len(desk.ended) == 5, "five ends")
    assert all(state.error is None for _, state in desk.ended)
    assert not desk.fetcher.busy


def test_what_is_not_wanted_any_more_stops_and_goes(desk: Desk, spool: CourierSide, serve: Serve) -> None:
    gate = threading.Event()
    server = serve(holding(CONTENT, gate))
    desk.fetcher.want([want(server.url)])
    desk.until(lambda: spool.blob_size(SHA) == 1000, "the first bytes")
    desk.fetcher.want([])
    desk.until(lambda: not desk.fetcher.busy, "the end")
    gate.set()
    assert desk.ended == []
    assert list(spool.blob_path(SHA).parent.iterdir()) == []


def test_a_changed_wish_goes_on_with_what_is_there(desk: Desk, spool: CourierSide, serve: Serve) -> None:
    gate = threading.Event()
    slow = serve(holding(CONTENT, gate))
    quick = serve(lambda r: r.serve(CONTENT))
    desk.fetcher.want([want(slow.url)])
    desk.until(lambda: spool.blob_size(SHA) == 1000, "the first bytes")
    desk.fetcher.want([want(quick.url)])
    desk.until(lambda: bool(desk.ended), "the end")
    gate.set()
    assert desk.ended[0][1].error is None
    assert [r.offset for r in quick.requests] == [1000]


def test_a_whole_blob_is_not_fetched_again_also_after_a_restart(
    desk: Desk, spool: CourierSide, serve: Serve
) -> None:
    server = serve(lambda r: r.serve(CONTENT))
    desk.fetcher.want([want(server.url)])
    desk.until(lambda: bool(desk.ended), "the end")
    desk.fetcher.want([want(server.url, "http://127.0.0.1:1/other")])
    desk.step()
    again = Desk(spool)
    again.fetcher.want([want(server.url)])
    again.step()
    assert not desk.fetcher.busy
    assert not again.fetcher.busy
    assert len(server.requests) == 1


def test_a_failed_blob_rests_until_it_is_asked_for_again(
    desk: Desk, spool: CourierSide, serve: Serve
) -> None:
    answers: list[Callable[[Request], None]] = [gone]
    server = serve(lambda r: answers[-1](r))
    desk.fetcher.want([want(server.url)])
    desk.until(lambda: len(desk.ended) == 1, "the failure")
    desk.step()
    assert not desk.fetcher.busy
    answers.append(lambda r: r.serve(CONTENT))
    desk.fetcher.want([want(server.url)])
    desk.until(lambda: len(desk.ended) == 2, "the success")
    assert [state.error for _, state in desk.ended] == [Code.UPGRADE_DOWNLOAD_FAILED, None]
    found = WorkerSide(spool.root).open_blob(SHA, len(CONTENT))
    assert found is not None
    found.close()


def test_an_attempt_that_brings_nothing_is_broken_off(spool: CourierSide, serve: Serve) -> None:
    gate = threading.Event()
    calls: list[Request] = []

    def first_hangs(request: Request) -> None:
        calls.append(request)
        if len(calls) == 1:
            holding(CONTENT, gate)(request)
        else:
            request.serve(CONTENT)

    server = serve(first_hangs)
    desk = Desk(spool, replace(QUICK, fetch_stall=0.2))
    desk.fetcher.want([want(server.url)])
    desk.until(lambda: bool(desk.ended), "the end")
    gate.set()
    assert desk.ended[0][1].error is None
    assert [r.offset for r in calls] == [None, 1000]


def again_and_again(head: bytes, piece: bytes, pause: float = 0.0) -> Callable[[Request, HttpServer], None]:
    def answer(request: Request, server: HttpServer) -> None:
        request.send(head)
        while not server.closing.wait(pause):
            request.send(piece)

    return answer


#: What never comes to a body, although something always comes: no wait for the peer ever times out.
ENDLESS = {
    "interim answers": again_and_again(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "interim answers with headers": again_and_again(
        b"", b"HTTP/1.1 100 x\r\nX-Y: " + b"z" * 9000 + b"\r\n\r\n"
    ),
    "a status line": again_and_again(b"HTTP/1.1 200 ", b"x", 0.01),
    "a header": again_and_again(b"HTTP/1.1 200 OK\r\nX-Y: ", b"z", 0.01),
    "headers": again_and_again(b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n", 0.01),
    "the size of a chunk": again_and_again(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x", 0.01
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_comes_to_a_body_is_broken_off(spool: CourierSide, serve: Serve, what: str) -> None:
    server = serve(lambda request: ENDLESS[what](request, server))
    good = serve(lambda request: request.serve(CONTENT))
    desk = Desk(spool, replace(QUICK, fetch_stall=0.2))
    begun = time.monotonic()
    desk.fetcher.want([want(server.url, good.url)])
    desk.until(lambda: bool(desk.ended), "the end")
    assert desk.ended[0][1] == BlobState(len(CONTENT), None, good.url)
    assert time.monotonic() - begun < 10
    assert (len(server.requests), len(good.requests)) == (1, 1)


def test_endless_trailers_do_not_hold_up_what_is_whole(spool: CourierSide, serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%s\r\n0\r\n" % (len(CONTENT), CONTENT)
    server = serve(lambda request: again_and_again(head + body, b"X-Y: z\r\n", 0.01)(request, server))
    desk = Desk(spool, replace(QUICK, fetch_stall=0.2))
    desk.fetcher.want([want(server.url)])
    desk.until(lambda: bool(desk.ended), "the end")
    assert desk.ended[0][1].error is None
    assert bytes_of(spool) == CONTENT


def test_progress_is_told_when_it_moves(desk: Desk, spool: CourierSide, serve: Serve) -> None:
    gate = threading.Event()
    server = serve(holding(CONTENT, gate))
    blob = want(server.url)
    desk.fetcher.want([blob])
    desk.until(lambda: spool.blob_size(SHA) == 1000, "the first bytes")
    until(lambda: desk.fetcher.progress(time.monotonic()) == [(blob, 1000)], "the progress")
    assert desk.fetcher.progress(time.monotonic()) == []
    gate.set()


def test_jitter_is_full_and_capped() -> None:
    draws = [full_jitter(attempt, 1.0, 60.0) for attempt in (0, 3, 10, 1000) for _ in range(200)]
    assert all(0 <= draw < 60 for draw in draws)
    assert all(draw < 1 for draw in draws[:200])
    assert max(draws[400:]) > 45
    assert min(draws[400:]) < 15

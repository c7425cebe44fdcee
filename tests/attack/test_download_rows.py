"""The download rows of the catalogue: a running device whose artifact server is wicked, broken or slow."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tests.agent.courierrig import HttpServer, Request
from tests.attack.rows import row
from tests.attack.victim import QUICK, Victim, running
from tests.support.fleet import Bundle, everybody
from tests.support.waiting import until

from fleetfoot_protocol.states import Outcome

#: Of each release: more than a connection must bring to be worth another one.
BALLAST = 400_000
#: Seconds in which a download must move; and rounds over all sources, as few as show that they are counted.
TUNING = replace(QUICK, fetch_stall=3.0, fetch_rounds=2, fetch_base=0.02, fetch_cap=0.05)

Answer = Callable[[Request, bytes], None]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("download")
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with running(folder, tuning=TUNING, ca_file=ca_file) as found:
        yield found


def release(victim: Victim, *words: str) -> Bundle:
    return victim.serve(victim.house.release(victim._next_version(), *words, ballast=BALLAST))


@contextmanager
def mirror(victim: Victim, answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[HttpServer]:
    """A mirror that has every index as it is, and of every artifact what `answer` makes of it."""

    def serve(request: Request) -> None:
        content = (victim.blobs / request.path.rpartition("/")[2]).read_bytes()
        (answer if len(content) >= BALLAST else honest)(request, content)

    before = victim.director.mirror
    with HttpServer(serve, tls) as server:
        victim.director.mirror = server.url
        try:
            yield server
        finally:
            victim.director.mirror = before


def honest(request: Request, content: bytes) -> None:
    request.serve(content)


def artifact_of(bundle: Bundle) -> str:
    return bundle.release.artifacts[0].sha256


def asked(server: HttpServer, bundle: Bundle) -> list[int | None]:
    """From which byte on each request wanted the artifact."""
    return [r.offset for r in server.requests if r.path.endswith(artifact_of(bundle))]


def fetched(victim: Victim, bundle: Bundle) -> Path:
    """Where the courier keeps what has come of the artifact."""
    return victim.device.device.config.spool / "in" / "blob" / artifact_of(bundle)


def refuse(victim: Victim, bundle: Bundle, code: str) -> None:
    """Every clause of a rejection holds, what came is thrown away, and the next honest order is obeyed."""
    victim.refuse(bundle, code)
    until(lambda: not fetched(victim, bundle).exists(), "what came is thrown away")


def obeys(victim: Victim) -> None:
    """The device still listens, and fetches from an honest mirror."""
    with mirror(victim, honest):
        victim.install(release(victim))


@row(
    31,
    "an artifact that never ends",
    "left one byte after its length; refused, nothing kept, the next obeyed",
)
def test_row_31_an_endless_body_is_left_after_its_length(victim: Victim) -> None:
    sent = [0]

    def endless(request: Request, content: bytes) -> None:
        request.head(200)
        request.send(content)
        while not server.closing.is_set():
            request.send(b"x" * 65536)
            sent[0] += 65536

    with mirror(victim, endless) as server:
        bundle = release(victim)
        refuse(victim, bundle, "upgrade_length_mismatch")
        assert len(asked(server, bundle)) == 1  # a server that lies is not asked again
    assert sent[0] < 32 * 1024 * 1024  # what fits into the buffers of the kernel, and no more
    obeys(victim)


def reset(request: Request) -> None:
    """Hang up as a crash does."""
    connection: socket.socket = request._handler.connection
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("how", ["truncated", "reset"])
@row(
    32, "the transfer truncated, or reset, three times", "resumed where it stopped each time, then installed"
)
def test_row_32_a_transfer_that_is_cut_three_times_is_resumed(victim: Victim, how: str) -> None:
    cuts = [0]

    def cutting(request: Request, content: bytes) -> None:
        cuts[0] += 1
        if cuts[0] > 3:
            request.serve(content)
            return
        request.serve(content, cut=100_000)
        if how == "reset":
            until(
                lambda: have(victim, bundle) >= 100_000 * cuts[0], "it has come before the connection breaks"
            )
            reset(request)

    with mirror(victim, cutting) as server:
        bundle = release(victim)
        victim.install(bundle)
        assert asked(server, bundle) == [None, 100_000, 200_000, 300_000]


def have(victim: Victim, bundle: Bundle) -> int:
    blob = victim.device.device.config.spool / "in" / "blob" / artifact_of(bundle)
    return blob.stat().st_size if blob.exists() else 0


@row(33, "a server that answers a Range with all of it", "begun anew, the right bytes installed")
def test_row_33_a_server_without_ranges_is_begun_with_anew(victim: Victim) -> None:
    def whole(request: Request, content: bytes) -> None:
        first = request.offset is None
        request.head(200, Content_Length=len(content))
        request.send(content[:100_000] if first else content)

    with mirror(victim, whole) as server:
        bundle = release(victim)
        victim.install(bundle)
        assert asked(server, bundle) == [None, 100_000]


@row(34, "one byte a second", "given up as slow within the limit; the next obeyed")
def test_row_34_a_trickle_is_given_up_in_time(victim: Victim) -> None:
    def trickle(request: Request, content: bytes) -> None:
        request.head(200, Content_Length=len(content))
        for byte in content:
            request.send(bytes([byte]))
            if server.closing.wait(1.0):
                return

    with mirror(victim, trickle) as server:
        bundle = release(victim)
        victim.refuse(bundle, "upgrade_download_slow")
        # It is tried again later, from where it was.
        came = fetched(victim, bundle).read_bytes()
        assert 0 < len(came) < bundle.release.artifacts[0].length
        assert (victim.blobs / artifact_of(bundle)).read_bytes().startswith(came)
        assert asked(server, bundle) == [None]
    obeys(victim)


@row(35, "the right length, the wrong bytes", "refused, and the file is gone; the next obeyed")
def test_row_35_wrong_bytes_of_the_right_length_are_refused(victim: Victim) -> None:
    with mirror(victim, lambda r, content: r.serve(content[:-1] + bytes([content[-1] ^ 1]))) as server:
        bundle = release(victim)
        refuse(victim, bundle, "upgrade_checksum_mismatch")
        assert asked(server, bundle) == [None]
    obeys(victim)


REDIRECTS = {
    "to a file": "file:///etc/passwd",
    "to the address of clouds' secrets": "http://169.254.169.254/latest/meta-data/",
    "to another scheme": "ftp://127.0.0.1/x",
    "with a password": "http://user:secret@127.0.0.1/x",
}


@pytest.mark.parametrize("where", REDIRECTS)
@row(
    36,
    "a redirect to file:, to ftp:, to 169.254.169.254, with a password",
    "not followed, refused; the next obeyed",
)
def test_row_36_a_redirect_out_of_the_fence_is_refused(victim: Victim, where: str) -> None:
    with mirror(victim, lambda r, _: r.head(302, Location=REDIRECTS[where])) as server:
        bundle = release(victim)
        refuse(victim, bundle, "upgrade_url_refused")
        assert asked(server, bundle) == [None]


@row(36, "twenty redirects in a row", "given up after three, refused; the next obeyed")
def test_row_36_twenty_hops_are_refused(victim: Victim) -> None:
    def hop(request: Request, _: bytes) -> None:
        number = int(request.path.partition("hop=")[2].partition("/")[0] or 0)
        request.head(302, Location=f"/hop={number + 1}/{request.path.rpartition('/')[2]}")

    with mirror(victim, hop) as server:
        bundle = release(victim)
        refuse(victim, bundle, "upgrade_url_refused")
        assert len(asked(server, bundle)) == 4
    obeys(victim)


def server_side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@row(36, "a redirect from https to http", "not followed, refused; the next obeyed")
def test_row_36_a_redirect_from_https_to_http_is_refused(victim: Victim, authority: trustme.CA) -> None:
    tls = server_side(authority.issue_cert("127.0.0.1"))
    with HttpServer(lambda r: r.serve((victim.blobs / r.path.rpartition("/")[2]).read_bytes())) as plain:

        def downgrade(request: Request, _: bytes) -> None:
            request.head(302, Location=f"{plain.url}{request.path}")

        with mirror(victim, downgrade, tls):
            refuse(victim, release(victim), "upgrade_url_refused")
        assert plain.requests == []
        with mirror(victim, honest, tls):  # https itself is as good as the certificate
            victim.install(release(victim))


def expired(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))


WRONG: dict[str, Callable[[trustme.CA], trustme.LeafCert]] = {
    "expired": expired,
    "of another host": lambda authority: authority.issue_cert("mirror.example.org"),
    "of another authority": lambda authority: trustme.CA().issue_cert("127.0.0.1"),
}


@pytest.mark.parametrize("which", WRONG)
@row(37, "a certificate expired, of another host, of another authority; then another try",
     "refused both times, nothing sent; installed once the certificate is right")  # fmt: skip
def test_row_37_a_wrong_certificate_is_refused_both_times(
    victim: Victim, authority: trustme.CA, which: str
) -> None:
    refused_twice(victim, server_side(WRONG[which](authority)))


@row(37, "an empty file of authorities; then another try", "refused both times; installed once it is right")
def test_row_37_without_authorities_nobody_is_believed(victim: Victim, authority: trustme.CA) -> None:
    ca_file = victim.folder / "ca.pem"
    kept = ca_file.read_bytes()
    ca_file.write_bytes(b"")
    with ExitStack() as stack:
        stack.callback(ca_file.write_bytes, kept)
        refused_twice(
            victim, server_side(authority.issue_cert("127.0.0.1")), lambda: ca_file.write_bytes(kept)
        )


def refused_twice(victim: Victim, tls: ssl.SSLContext, mend: Callable[[], object] = lambda: None) -> None:
    bundle = release(victim)
    with mirror(victim, honest, tls) as server:
        victim.refuse(bundle, "upgrade_tls_failed")
        before = victim.untouched()
        victim.director.order("g-one", everybody("r-again", bundle.goal(attempt=2)))

        def failures() -> int:
            found = victim.component()
            told = found.outcomes if found else ()
            mine = [o for o in told if o.digest == bundle.digest]
            return sum((o.outcome, o.code) == (Outcome.FAILED, "upgrade_tls_failed") for o in mine)

        until(lambda: failures() == 2, "it is refused again")
        assert victim.untouched() == before
        assert server.requests == []
        mend()
    with mirror(victim, honest):
        victim.director.order("g-one", everybody("r-once-more", bundle.goal(attempt=3)))
        until(lambda: victim.runs(bundle), "it is installed once the server is right")


@row(
    39,
    "the first mirror gives wrong bytes, or nothing, the second the right ones",
    "installed from the second",
)
@pytest.mark.parametrize("first", ["wrong", "missing", "broken"])
def test_row_39_a_bad_mirror_is_left_for_a_good_one(victim: Victim, first: str) -> None:
    def bad(request: Request) -> None:
        if first == "wrong":
            size = (victim.blobs / request.path.rpartition("/")[2]).stat().st_size
            request.serve(b"x" * size)
        else:
            request.head(404 if first == "missing" else 503, Content_Length=0)

    with HttpServer(bad) as one, mirror(victim, honest) as two:
        bundle = release(victim, "--source", one.url)
        victim.install(bundle)
        assert asked(one, bundle) == [None]
        assert asked(two, bundle) == [None]


def test_what_a_server_refuses_for_good_is_asked_for_once_and_what_may_pass_a_few_times(
    victim: Victim,
) -> None:
    for status, times in ((404, 1), (403, 1), (503, TUNING.fetch_rounds), (429, TUNING.fetch_rounds)):
        with mirror(victim, lambda r, _, status=status: r.head(status, Content_Length=0)) as server:  # type: ignore[misc]
            bundle = release(victim)
            victim.refuse(bundle, "upgrade_download_failed")
            assert asked(server, bundle) == [None] * times, status


def test_a_download_goes_on_where_it_stopped_when_the_courier_comes_back(victim: Victim) -> None:
    opened = threading.Event()

    def half(request: Request, content: bytes) -> None:
        if opened.is_set():
            request.serve(content)
            return
        request.head(200, Content_Length=len(content))
        request.send(content[:150_000])
        server.closing.wait()

    with mirror(victim, half) as server:
        bundle = release(victim)
        victim.order(bundle)
        until(lambda: have(victim, bundle) == 150_000, "half of it is here")
        victim.device.disconnect()
        opened.set()
        victim.device.connect()
        until(lambda: victim.runs(bundle), "it is installed")
        assert asked(server, bundle) == [None, 150_000]

"""The artifact server over real HTTP: what it gives out, what it takes in, what it leaves behind."""

import errno
import hashlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fleetfoot_manager.artifacts import ArtifactServer, Authorise
from fleetfoot_protocol.errors import GENERAL_REMEDIES, FleetfootError

SECONDS = 15.0
BODY = bytes(range(256)) * 1000
NAME = hashlib.sha256(BODY).hexdigest()
NOBODY = "0" * 64
ALLOWED = {"Authorization": "Fleetfoot good-token"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> object:
        answer = json.loads(self.body)
        assert set(answer) == {"code", "message"}
        assert answer["message"]
        return answer["code"]


class Service:
    """A running server, and requests to it."""

    def __init__(self, folder: Path, authorise: Authorise | None) -> None:
        self.folder = folder
        self.server = ArtifactServer(folder, authorise)
        self.base = self.server.start()

    @property
    def address(self) -> tuple[str, int]:
        where = urlsplit(self.base)
        assert where.hostname is not None
        assert where.port is not None
        return where.hostname, where.port

    def request(
        self,
        method: str,
        name: str,
        headers: dict[str, str] | None = None,
        body: bytes | Iterator[bytes] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=SECONDS)
        try:
            connection.request(method, f"{urlsplit(self.base).path}/{name}", body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def files(self) -> list[str]:
        return sorted(entry.name for entry in self.folder.iterdir())


@contextmanager
def serving(folder: Path, authorise: Authorise | None) -> Iterator[Service]:
    service = Service(folder, authorise)
    try:
        yield service
    finally:
        service.server.stop()


def one_token(sha256: str, token: str) -> int | None:
    """Good for as much as BODY, under any name."""
    return len(BODY) if token == "good-token" else None


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "blobs", one_token) as service:
        yield service


@pytest.fixture
def stored(service: Service) -> Service:
    (service.folder / NAME).write_bytes(BODY)
    return service


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_base_url_is_where_the_blobs_are(service: Service) -> None:
    host, port = service.address
    assert service.base == f"http://{host}:{port}/blobs"
    assert host == "127.0.0.1"


def test_a_blob_is_given_out_whole_and_may_be_cached_for_ever(stored: Service) -> None:
    answer = stored.request("GET", NAME)
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Etag"].startswith('"')


def test_head_tells_the_length_and_sends_nothing(stored: Service) -> None:
    answer = stored.request("HEAD", NAME)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-0", 0, 0),
        ("1000-1999", 1000, 1999),
        ("255990-", 255990, 255999),
        ("-10", 255990, 255999),
        ("255999-300000", 255999, 255999),
    ],
)
def test_a_range_is_given_out_exactly(stored: Service, asked: str, first: int, last: int) -> None:
    answer = stored.request("GET", NAME, {"Range": f"bytes={asked}"})
    assert (answer.status, answer.body) == (206, BODY[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(BODY)}"


def test_a_range_past_the_end_is_refused_with_the_length(stored: Service) -> None:
    answer = stored.request("GET", NAME, {"Range": f"bytes={len(BODY)}-"})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(BODY)}"
    assert answer.headers["Cache-Control"] == "no-store"


def test_who_has_the_blob_is_told_so(stored: Service) -> None:
    etag = stored.request("GET", NAME).headers["Etag"]
    answer = stored.request("GET", NAME, {"If-None-Match": etag})
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize(
    "name", [NOBODY, NAME.upper(), NAME[:-1], NAME + "0", "", "..%2f" + NAME, NAME + "/", "%2e%2e/secret"]
)
def test_what_is_not_the_name_of_a_blob_is_not_found(stored: Service, name: str) -> None:
    (stored.folder / NAME.upper()).write_bytes(BODY)
    (stored.folder.parent / "secret").write_bytes(b"secret")
    answer = stored.request("GET", name)
    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.headers["Cache-Control"] == "no-store"


def test_only_regular_files_are_given_out(service: Service) -> None:
    secret = service.folder.parent / "secret"
    secret.write_bytes(b"secret")
    link, folder, pipe = ("1" * 64, "2" * 64, "3" * 64)
    (service.folder / link).symlink_to(secret)
    (service.folder / folder).mkdir()
    os.mkfifo(service.folder / pipe)
    assert [service.request("GET", name).status for name in (link, folder, pipe)] == [404, 404, 404]


def test_other_methods_are_refused_as_json(stored: Service) -> None:
    answer = stored.request("DELETE", NAME)
    assert (answer.status, answer.code) == (405, "request_invalid")
    assert answer.headers["Allow"] == "GET,HEAD,PUT"
    assert stored.files() == [NAME]


def test_an_upload_is_stored_and_given_out(service: Service) -> None:
    answer = service.request("PUT", NAME, ALLOWED, BODY)
    assert (answer.status, json.loads(answer.body)) == (201, {"sha256": NAME})
    assert service.files() == [NAME]
    assert service.request("GET", NAME).body == BODY


def test_an_upload_without_a_length_is_stored_too(service: Service) -> None:
    chunks = (BODY[at : at + 10_000] for at in range(0, len(BODY), 10_000))
    assert service.request("PUT", NAME, ALLOWED, chunks).status == 201
    assert (service.folder / NAME).read_bytes() == BODY


def test_a_body_is_hashed_as_it_came_whatever_its_encoding_is_called(service: Service) -> None:
    assert service.request("PUT", NAME, ALLOWED | {"Content-Encoding": "gzip"}, BODY).status == 201
    assert (service.folder / NAME).read_bytes() == BODY


def test_an_upload_of_what_is_there_changes_nothing(stored: Service) -> None:
    before = (stored.folder / NAME).stat()
    assert stored.request("PUT", NAME, ALLOWED, BODY).status == 200
    assert (stored.folder / NAME).stat() == before


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Fleetfoot"},
        {"Authorization": "Bearer good-token"},
        {"Authorization": "Fleetfoot bad-token"},
    ],
)
def test_an_upload_without_permission_is_refused_and_leaves_nothing(
    service: Service, headers: dict[str, str]
) -> None:
    answer = service.request("PUT", NAME, headers, BODY)
    assert (answer.status, answer.code) == (403, "not_allowed")
    assert service.files() == []


def test_the_authority_is_asked_for_this_blob_and_this_token(tmp_path: Path) -> None:
    asked = []

    def authorise(sha256: str, token: str) -> int | None:
        asked.append((sha256, token))
        return len(BODY)

    with serving(tmp_path, authorise) as service:
        assert service.request("PUT", NAME, {"Authorization": "fleetfoot a token  "}, BODY).status == 201
    assert asked == [(NAME, "a token")]


def test_a_refusal_in_the_authoritys_own_words_is_passed_on(tmp_path: Path) -> None:
    def authorise(sha256: str, token: str) -> int | None:
        raise FleetfootError("request_expired", f"{token} was good yesterday")

    with serving(tmp_path, authorise) as service:
        answer = service.request("PUT", NAME, ALLOWED, BODY)
    assert (answer.status, answer.code) == (403, "request_expired")
    assert b"good-token was good yesterday" in answer.body


def test_a_fault_of_the_authority_refuses_and_tells_the_client_nothing_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def authorise(sha256: str, token: str) -> int | None:
        raise ZeroDivisionError("a secret of the inside")

    with serving(tmp_path, authorise) as service:
        answer = service.request("PUT", NAME, ALLOWED, BODY)
        assert service.files() == []
    assert (answer.status, answer.code) == (500, "upgrade_internal")
    assert b"secret" not in answer.body
    assert "a secret of the inside" in caplog.text


def test_a_server_without_an_authority_takes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, None) as service:
        answer = service.request("PUT", NAME, ALLOWED, BODY)
        assert (answer.status, answer.code) == (403, "not_allowed")
        assert service.files() == []


@pytest.mark.parametrize("declared", [True, False])
def test_more_than_allowed_is_refused_and_leaves_nothing(service: Service, declared: bool) -> None:
    body = BODY + b"!"
    name = hashlib.sha256(body).hexdigest()
    answer = service.request(
        "PUT", name, ALLOWED, body if declared else iter([body[:200_000], body[200_000:]])
    )
    assert (answer.status, answer.code) == (413, "upgrade_too_large")
    assert service.files() == []


def test_other_bytes_than_the_name_says_are_refused_and_leave_nothing(service: Service) -> None:
    answer = service.request("PUT", NOBODY, ALLOWED, BODY)
    assert (answer.status, answer.code) == (422, "upgrade_checksum_mismatch")
    assert service.files() == []


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (errno.ENOSPC, 507, "upgrade_disk_full"),
        (errno.EDQUOT, 507, "upgrade_disk_full"),
        (errno.EROFS, 500, "upgrade_read_only"),
        (errno.EIO, 500, "upgrade_io_error"),
    ],
)
def test_what_does_not_reach_the_disk_is_not_stored(
    service: Service, monkeypatch: pytest.MonkeyPatch, fault: int, status: int, code: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", fail)
    answer = service.request("PUT", NAME, ALLOWED, BODY)
    assert (answer.status, answer.code) == (status, code)
    assert service.files() == []


def test_a_name_that_is_taken_by_something_else_is_left_alone(service: Service) -> None:
    (service.folder / NAME).mkdir()
    answer = service.request("PUT", NAME, ALLOWED, BODY)
    assert (answer.status, answer.code) == (500, "upgrade_io_error")
    assert service.files() == [NAME]


def half_an_upload(service: Service) -> socket.socket:
    """A connection that has sent half of an upload; the server is at work on it."""
    connection = socket.create_connection(service.address, timeout=SECONDS)
    head = [f"PUT /blobs/{NAME} HTTP/1.1", "Host: x", f"Content-Length: {len(BODY)}"]
    head += [f"{name}: {value}" for name, value in ALLOWED.items()]
    connection.sendall("\r\n".join([*head, "", ""]).encode() + BODY[: len(BODY) // 2])
    until(lambda: any(name.startswith(".tmp-") for name in service.files()))
    return connection


def test_an_upload_that_breaks_off_leaves_nothing(service: Service) -> None:
    half_an_upload(service).close()
    until(lambda: service.files() == [])
    assert service.request("PUT", NAME, ALLOWED, BODY).status == 201


def test_a_half_blob_is_not_given_out(service: Service) -> None:
    with half_an_upload(service):
        assert service.request("GET", NAME).status == 404
        (temporary,) = service.files()
        assert service.request("GET", temporary).status == 404


def test_two_uploads_of_one_blob_at_once_both_succeed(service: Service) -> None:
    with half_an_upload(service) as slow:
        assert service.request("PUT", NAME, ALLOWED, BODY).status == 201
        slow.sendall(BODY[len(BODY) // 2 :])
        assert slow.recv(12) == b"HTTP/1.1 201"
    assert service.files() == [NAME]
    assert (service.folder / NAME).read_bytes() == BODY


def test_many_uploads_at_once_are_all_stored(service: Service) -> None:
    bodies = [BODY[number:] for number in range(20)]
    names = [hashlib.sha256(body).hexdigest() for body in bodies]
    statuses: dict[str, int] = {}

    def upload(name: str, body: bytes) -> None:
        statuses[name] = service.request("PUT", name, ALLOWED, body).status

    threads = [threading.Thread(target=upload, args=pair) for pair in zip(names, bodies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert statuses == dict.fromkeys(names, 201)
    assert service.files() == sorted(names)


def test_stopping_breaks_off_an_upload_and_leaves_nothing(service: Service) -> None:
    with half_an_upload(service):
        service.server.stop()
    assert service.files() == []


def test_starting_clears_what_a_killed_server_left(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123456789abcdef").write_bytes(b"half")
    (tmp_path / NAME).write_bytes(BODY)
    with serving(tmp_path, None) as service:
        assert service.files() == [NAME]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "blobs.example", ""])
def test_no_address_but_loopback_is_bound(tmp_path: Path, host: str) -> None:
    with pytest.raises(FleetfootError) as caught:
        ArtifactServer(tmp_path, host=host)
    assert caught.value.code == "unsafe_binding"
    assert caught.value.remedy == GENERAL_REMEDIES["unsafe_binding"]


def test_a_port_in_use_is_an_error_that_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(FleetfootError, match=f"127.0.0.1 port {port}") as caught:
            ArtifactServer(tmp_path, port=port).start()
    assert caught.value.code == "io_error"


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FleetfootError, match="file/blobs") as caught:
        ArtifactServer(tmp_path / "file" / "blobs").start()
    assert caught.value.code == "io_error"

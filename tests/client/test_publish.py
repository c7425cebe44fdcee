"""Publishing: what is not fully signed stays here, what is missing goes by HTTP, then it is published."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.attack.rows import row
from tests.client.rig import Fleet, HandManager, Refused, Run

from fleetfoot_client import bundle
from fleetfoot_client.bundle import Bundle
from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol import dsse
from fleetfoot_protocol.reports import Request

TOKEN = "t0ken"


@dataclass
class Depot:
    """An artifact server by hand: keeps what is put, answers with `status`."""

    url: str = ""
    status: int = 201
    body: bytes = b""
    kept: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)


@pytest.fixture
def depot() -> Iterator[Depot]:
    made = Depot()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            made.tokens.add(self.headers["Authorization"])
            made.kept[self.path.removeprefix("/up/")] = data
            self.send_response(made.status)
            self.send_header("Content-Length", str(len(made.body)))
            self.end_headers()
            self.wfile.write(made.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/up"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield made
        server.shutdown()
        thread.join(10)


@pytest.fixture
def signed(run: Run, fleet: Fleet, app: Path, tmp_path: Path) -> Bundle:
    done = run(
        "release", "build", app, "--component", "kiosk", "--version", "1.0.0",
        "--entrypoint", "bin/kiosk", "--out", tmp_path / "dist", "--json",
    )  # fmt: skip
    path = Path(done.json["bundle"])
    assert run("release", "sign", path, "--key", fleet.key("a"), "--key", fleet.key("b")).code == 0
    return bundle.load(path)


@pytest.fixture
def catalogue(manager: HandManager, depot: Depot, profile: Profile) -> HandManager:
    """Opens uploads for what the depot does not have yet."""

    def upload(request: Request) -> dict[str, Any]:
        wanted = [blob["sha256"] for blob in request.arguments["blobs"]]
        return {"url": depot.url, "token": TOKEN, "missing": [w for w in wanted if w not in depot.kept]}

    manager.answers["release.upload"] = upload
    manager.answers["release.publish"] = lambda request: {**request.arguments, "life": "published"}
    return manager


def test_blobs_and_envelope_are_sent_and_then_published(
    run: Run, signed: Bundle, catalogue: HandManager, depot: Depot
) -> None:
    done = run("release", "publish", signed.path, "--json")
    assert done.code == 0, done.err
    envelope = signed.envelope_path.read_bytes()
    expected = {path.name: path.read_bytes() for path in (signed.path / "blobs").iterdir()}
    expected[hashlib.sha256(envelope).hexdigest()] = envelope
    assert depot.kept == expected
    assert depot.tokens == {f"Fleetfoot {TOKEN}"}
    upload, publish = catalogue.heard
    assert {b["sha256"]: b["length"] for b in upload.arguments["blobs"]} == {
        name: len(data) for name, data in expected.items()
    }
    assert publish.verb == "release.publish"
    assert publish.arguments["digest"] == upload.arguments["digest"] == signed.digest
    assert depot.kept[publish.arguments["envelope"]] == envelope


def test_what_the_manager_has_is_not_sent_again(
    run: Run, signed: Bundle, catalogue: HandManager, depot: Depot
) -> None:
    assert run("release", "publish", signed.path).code == 0
    depot.tokens.clear()
    assert run("release", "publish", signed.path).code == 0
    assert depot.tokens == set()


@row(3, "a bundle that one of two keys signed, published by the tool", "refused before anything is sent")
def test_row_03_a_half_signed_bundle_is_not_even_announced(
    run: Run, fleet: Fleet, signed: Bundle, catalogue: HandManager, depot: Depot
) -> None:
    first = signed.envelope.signatures[0]
    half = dsse.Envelope(signed.envelope.payload_type, signed.envelope.payload, (first,))
    signed.envelope_path.write_bytes(dsse.encode(half))
    done = run("release", "publish", signed.path, "--json")
    assert (done.code, done.json["error"]["code"]) == (Exit.TRUST, "upgrade_threshold_not_met")
    assert (catalogue.heard, depot.kept) == ([], {})


def test_a_damaged_bundle_is_not_even_announced(
    run: Run, signed: Bundle, catalogue: HandManager, depot: Depot
) -> None:
    blob = signed.blob(signed.release.artifacts[0].sha256)
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    done = run("release", "publish", signed.path, "--json")
    assert (done.code, done.json["error"]["code"]) == (Exit.TRUST, "upgrade_checksum_mismatch")
    assert (catalogue.heard, depot.kept) == ([], {})


def test_a_server_that_refuses_is_quoted_and_nothing_is_published(
    run: Run, signed: Bundle, catalogue: HandManager, depot: Depot
) -> None:
    depot.status, depot.body = 403, b"token \x1b[31mexpired"
    done = run("release", "publish", signed.path)
    assert done.code == Exit.FAILED
    assert "status 403: token \\x1b[31mexpired" in done.err
    assert [request.verb for request in catalogue.heard] == ["release.upload"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/up", "file:///etc", "nonsense"])
def test_a_server_that_is_not_there_is_an_error_with_its_address(
    run: Run, signed: Bundle, catalogue: HandManager, url: str
) -> None:
    names = [path.name for path in (signed.path / "blobs").iterdir()]
    catalogue.answers["release.upload"] = lambda request: {"url": url, "token": TOKEN, "missing": names}
    done = run("release", "publish", signed.path)
    assert done.code == Exit.FAILED
    assert f"cannot upload to {url}/" in done.err


def test_only_blobs_of_the_release_are_sent(
    run: Run, signed: Bundle, catalogue: HandManager, depot: Depot
) -> None:
    catalogue.answers["release.upload"] = lambda request: {
        "url": depot.url, "token": TOKEN, "missing": ["../../alice.key"],
    }  # fmt: skip
    assert run("release", "publish", signed.path).code == Exit.FAILED
    assert depot.kept == {}


def test_the_managers_conflict_comes_through(
    run: Run, signed: Bundle, catalogue: HandManager, depot: Depot
) -> None:
    def conflict(request: Request) -> dict[str, Any]:
        raise Refused("conflict", "kiosk 1.0.0 is published with other bytes", "raise the version")

    catalogue.answers["release.publish"] = conflict
    done = run("release", "publish", signed.path)
    assert (done.code, "what to do: raise the version" in done.err) == (Exit.FAILED, True)


RELEASE = {
    "component": "kiosk", "version": "1.0.0", "digest": "d" * 64, "channel": "stable", "counter": 4,
    "min_counter": 2, "life": "published", "created": "2026-01-01T00:00:00Z", "length": 2048,
    "notes": "first\nsecond\x1b[2J", "platforms": ["linux/amd64", "linux/arm64"],
}  # fmt: skip


def test_the_catalogue_is_listed_and_one_release_shown(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    manager.answers["release.list"] = lambda request: {"releases": [RELEASE], "more": 2, **request.arguments}
    manager.answers["release.show"] = lambda request: {**RELEASE, "signers": ["0123456789abcdef"]}
    listed = run("release", "list")
    assert "kiosk      1.0.0    stable   4        published  linux/amd64 linux/arm64  2.0 KiB" in listed.out
    assert "... and 2 more" in listed.out
    assert run("release", "list", "--component", "kiosk", "--json").json["component"] == "kiosk"
    shown = run("release", "show", "kiosk", "1.0.0").out
    assert "signed by  0123456789abcdef" in shown
    assert shown.endswith("first\nsecond\\x1b[2J\n")
    assert run("release", "show", "kiosk", "1.0.0", "--json").json["notes"] == RELEASE["notes"]
    assert manager.heard[-1].arguments == {"component": "kiosk", "version": "1.0.0"}


def test_an_empty_catalogue_says_what_comes_next(run: Run, profile: Profile, manager: HandManager) -> None:
    manager.answers["release.list"] = lambda request: {"releases": []}
    assert "fleetfoot release publish" in run("release", "list").out

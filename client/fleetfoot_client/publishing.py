"""Publishing a release: a signed request opens the upload, the blobs go by HTTP, a second one publishes.

A token admits exactly the blobs that the request named, with their lengths; it is good for nothing else.
Blobs that the manager has are not sent again.
"""

import hashlib
import http.client
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from fleetfoot_client import bundle as bundles
from fleetfoot_client.bundle import Bundle
from fleetfoot_client.rows import Row, parse
from fleetfoot_client.session import Session
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError, UpgradeError

#: Told before each blob: sha256, length in bytes, how many blobs are to be sent.
Progress = Callable[[str, int, int], None]

_HTTP_TIMEOUT = 60.0
_BLOCK = 256 << 10
_SHOWN = 200


class _Upload(Row):
    url: str
    token: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Blob:
    path: Path
    length: int


def publish(
    session: Session, bundle: Bundle, progress: Progress, *, timeout: float, bless: bool = False
) -> dict[str, Any]:
    """Verify the bundle with the session's root, upload what is missing, publish. Returns the result.

    `bless`: whole groups may have it at once; else it serves single devices and canaries first.

    Errors as for `bundle.verify` and `Session.request`; `io_error` if the upload fails. `timeout`: seconds
    for each reply.
    """
    bundles.verify(bundle, session.root)
    release = bundle.release
    named = {"component": release.component, "version": release.version, "digest": bundle.digest}
    envelope = bundle.envelope_path.read_bytes()
    envelope_sha256 = hashlib.sha256(envelope).hexdigest()
    blobs = {
        sha256: _Blob(bundle.blob(sha256), length) for sha256, length in bundles.blobs_of(release).items()
    }
    blobs[envelope_sha256] = _Blob(bundle.envelope_path, len(envelope))
    listed = [{"sha256": sha256, "length": blob.length} for sha256, blob in blobs.items()]
    opened = parse(
        _Upload, session.request("release.upload", arguments={**named, "blobs": listed}, timeout=timeout)
    )
    for sha256 in opened.missing:
        if sha256 not in blobs:
            raise UpgradeError(
                Code.UPGRADE_INTERNAL, f"the manager misses a blob that the release does not have: {sha256}"
            )
    for sha256 in opened.missing:
        progress(sha256, blobs[sha256].length, len(opened.missing))
        _put(f"{opened.url.rstrip('/')}/{sha256}", opened.token, blobs[sha256], session.profile.ca_file)
    wanted = {**named, "envelope": envelope_sha256, **({"bless": True} if bless else {})}
    return session.request("release.publish", arguments=wanted, timeout=timeout)


def _put(url: str, token: str, blob: _Blob, ca_file: Path | None) -> None:
    """Send one file. FleetfootError `io_error` with the server's own words. ca_file: vouches for it, too."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _failed(url, "it is no http:// or https:// address")
    try:
        connection = _connection(parts.scheme, parts.hostname, parts.port, ca_file)
    except (OSError, ValueError) as error:
        raise _failed(url, str(error)) from error
    try:
        with open(blob.path, "rb") as file:
            status, body = _send(connection, parts.path, token, file, blob.length)
    except (OSError, http.client.HTTPException) as error:
        raise _failed(url, str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise _failed(url, f"status {status}: {body}")


def _connection(scheme: str, host: str, port: int | None, ca_file: Path | None) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_HTTP_TIMEOUT, blocksize=_BLOCK)
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return http.client.HTTPSConnection(host, port, timeout=_HTTP_TIMEOUT, blocksize=_BLOCK, context=context)


def _send(
    connection: http.client.HTTPConnection, path: str, token: str, file: IO[bytes], length: int
) -> tuple[int, str]:
    headers = {"Authorization": f"Fleetfoot {token}", "Content-Length": str(length)}
    # It may answer and hang up in the middle of the file: then the answer is the reason.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request("PUT", path, body=file, headers=headers)
    response = connection.getresponse()
    return response.status, response.read(_SHOWN).decode("utf-8", "replace").strip()


def _failed(url: str, why: str) -> FleetfootError:
    return FleetfootError(
        "io_error",
        f"cannot upload to {url}: {why}",
        remedy="check that the manager's artifact server can be reached from here, then publish again",
    )

"""The artifact server: a folder of blobs, each named by the sha256 of its bytes, over HTTP.

    GET, HEAD /blobs/<sha256>   200, 206 with Range, 304, 404, 416; immutable, cacheable for ever
    PUT       /blobs/<sha256>   201 stored, 200 was there already

Without TLS it listens on loopback only, and serves every blob to everybody there. With TLS it listens
anywhere and serves a device, known by its certificate, what is meant for it and nothing else (`gate`). What
a device runs does not rest on this server: releases are signed and every chunk is checked. An upload carries
a token (`Authorization: Fleetfoot <token>`, at most 8 KiB) that whoever constructs the server turns into an
allowed length, or refuses; with TLS it needs no more than that, too.

A blob appears under its name only when it is complete, hashed and on the disk: it is written to
`.tmp-*` beside it, synced, renamed, and the folder is synced. The server is the only one to use that
prefix in this folder; it clears what it finds at start. Errors are JSON, {code, message}.
"""

import asyncio
import errno
import hashlib
import logging
import os
import secrets
import ssl
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import ParamSpec, TypeVar

from aiohttp import web

from fleetfoot_manager.gate import Gate, peer_of
from fleetfoot_manager.loopthread import LoopServer, cannot_listen, require_loopback
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: (sha256 in hex, token) -> allowed length in bytes, or None to refuse. Called on worker threads, for
#: several uploads at once; a FleetfootError it raises becomes the answer.
Authorise = Callable[[str, str], int | None]

_BLOB = "/blobs/{sha256:[0-9a-f]{64}}"
_SCHEME = "Fleetfoot"
_TEMPORARY = ".tmp-"
_CHUNK = 128 * 1024
_STOP_SECONDS = 2.0

# Codes that are no fault of this server. Everything else is answered with 500.
_STATUS: dict[str, HTTPStatus] = {
    "not_allowed": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "state_refused": HTTPStatus.CONFLICT,
    "request_expired": HTTPStatus.FORBIDDEN,
    "request_invalid": HTTPStatus.BAD_REQUEST,
    "timeout": HTTPStatus.SERVICE_UNAVAILABLE,
    Code.UPGRADE_SIGNATURE_INVALID: HTTPStatus.FORBIDDEN,
    Code.UPGRADE_IDENTITY_NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    Code.UPGRADE_MALFORMED: HTTPStatus.BAD_REQUEST,
    Code.UPGRADE_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.UPGRADE_CHECKSUM_MISMATCH: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.UPGRADE_DISK_FULL: HTTPStatus.INSUFFICIENT_STORAGE,
}

_DISK_CODES: dict[int | None, Code] = {
    errno.ENOSPC: Code.UPGRADE_DISK_FULL,
    errno.EDQUOT: Code.UPGRADE_DISK_FULL,
    errno.EROFS: Code.UPGRADE_READ_ONLY,
}


@dataclass(frozen=True)
class Tls:
    """The server's certificate and key, who vouches for devices, and the name in the base URL (PEM files)."""

    certificate: Path
    key: Path
    devices_ca: Path
    host: str

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer. A certificate is asked for; who comes without one can upload or enrol."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.devices_ca)
        except OSError as error:  # ssl.SSLError is one
            raise FleetfootError("config_invalid", f"cannot use the certificates: {error}") from error
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


class ArtifactServer(LoopServer[str]):
    """The server, to be started and stopped, or used in a `with`.

    folder: where the blobs are, made if need be. authorise: None lets nobody upload. host: without `tls` a
    loopback address or `localhost`, else FleetfootError `unsafe_binding`; port 0: the kernel chooses one.
    gate: who may read what where there is TLS, and what else is served.
    `start()` returns the base URL that a release names as a source, e.g. `http://127.0.0.1:8080/blobs`.
    """

    def __init__(
        self,
        folder: Path,
        authorise: Authorise | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: Tls | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__("artifact server")
        self._folder = folder
        self._authorise = authorise
        self._host = host if tls is not None else require_loopback(host, "the artifact server")
        self._tls = tls
        self._gate = gate
        self._port = port
        self._runner: web.AppRunner | None = None

    async def _open(self) -> str:
        _prepare_folder(self._folder)
        # A body is hashed as it came: never decompressed on the way in.
        runner = web.AppRunner(
            self._application(), access_log=None, auto_decompress=False, shutdown_timeout=_STOP_SECONDS
        )
        await runner.setup()
        try:
            context = None if self._tls is None else self._tls.context()
            await web.TCPSite(runner, self._host, self._port, ssl_context=context).start()
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen(self._name, self._host, self._port, error) from error
        self._runner = runner
        host, port = runner.addresses[0][:2]
        scheme = "http" if self._tls is None else "https"
        host = host if self._tls is None else self._tls.host
        return f"{scheme}://[{host}]:{port}/blobs" if ":" in host else f"{scheme}://{host}:{port}/blobs"

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_errors_as_json])
        application.on_response_prepare.append(_set_caching)
        application.router.add_get(_BLOB, self._get)
        application.router.add_put(_BLOB, self._put)
        if self._gate is not None:
            application.router.add_routes(self._gate.routes())
        return application

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = self._folder / request.match_info["sha256"]
        if self._tls is not None:
            await self._demand_device(request, path.name)
        if not _is_blob(path):
            raise FleetfootError("not_found", f"no blob {path.name}")
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    async def _demand_device(self, request: web.Request, sha256: str) -> None:
        peer = peer_of(request)
        if peer is None or self._gate is None:
            raise FleetfootError("not_allowed", "only devices are served, by their certificate")
        await _in_thread(self._gate.may_read, peer, sha256)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        sha256 = request.match_info["sha256"]
        allowed = await self._allowed(request, sha256)
        if request.content_length is not None:
            _check_length(request.content_length, allowed)
        if _is_blob(self._folder / sha256):
            return web.json_response({"sha256": sha256}, status=HTTPStatus.OK)
        upload = _Upload(self._folder, sha256, allowed)
        try:
            await _in_thread(upload.open)
            async for chunk in request.content.iter_chunked(_CHUNK):
                await _in_thread(upload.write, chunk)
            await _in_thread(upload.keep)
        except ConnectionError:
            raise  # an OSError too, but the client's, not the disk's
        except OSError as error:
            code = _DISK_CODES.get(error.errno, Code.UPGRADE_IO_ERROR)
            raise FleetfootError(code, f"blob {sha256} not stored: {error.strerror or error}") from error
        finally:
            await _in_thread(upload.discard)
        return web.json_response({"sha256": sha256}, status=HTTPStatus.CREATED)

    async def _allowed(self, request: web.Request, sha256: str) -> int:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self._authorise is None or scheme.lower() != _SCHEME.lower() or not token:
            raise FleetfootError("not_allowed", f"an upload needs 'Authorization: {_SCHEME} <token>'")
        allowed = await _in_thread(self._authorise, sha256, token.strip())
        if allowed is None:
            raise FleetfootError("not_allowed", f"this token does not permit to upload {sha256}")
        return allowed


class _Upload:
    """One blob on its way in. Blocking: each call goes to a worker thread, one after the other."""

    def __init__(self, folder: Path, sha256: str, allowed: int) -> None:
        self._folder = folder
        self._sha256 = sha256
        self._allowed = allowed
        self._path = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        self._file = -1
        self._have = 0
        self._hash = hashlib.sha256()

    def open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, chunk: bytes) -> None:
        self._have += len(chunk)
        _check_length(self._have, self._allowed)
        self._hash.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def keep(self) -> None:
        if self._hash.hexdigest() != self._sha256:
            raise FleetfootError(
                Code.UPGRADE_CHECKSUM_MISMATCH,
                f"the {self._have} bytes have sha256 {self._hash.hexdigest()}, not {self._sha256}",
            )
        os.fsync(self._file)
        # Whoever was faster with the same name had the same bytes.
        os.replace(self._path, self._folder / self._sha256)
        _sync_folder(self._folder)

    def discard(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._path.unlink(missing_ok=True)


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except FleetfootError as error:
        status = _STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s %s: %s", request.method, request.path, error)
        return _error(status, error.code, error.message)
    except web.HTTPException as error:  # the router's own: no such path, no such method
        code = "not_found" if error.status == HTTPStatus.NOT_FOUND else "request_invalid"
        answer = _error(HTTPStatus(error.status), code, error.reason)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except ConnectionError as error:  # nobody is left to read the answer
        log.info("%s %s: %s", request.method, request.path, error)
        return _error(HTTPStatus.BAD_REQUEST, "request_invalid", str(error))
    except Exception:
        log.exception("%s %s", request.method, request.path)
        message = "a fault in the artifact server; its log says more"
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, Code.UPGRADE_INTERNAL, message)


def _error(status: HTTPStatus, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)


async def _set_caching(request: web.Request, response: web.StreamResponse) -> None:
    served = response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED)
    immutable = served and request.method in ("GET", "HEAD")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if immutable else "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _check_length(length: int, allowed: int) -> None:
    if length > allowed:
        raise FleetfootError(Code.UPGRADE_TOO_LARGE, f"at most {allowed} bytes are allowed here")


def _is_blob(path: Path) -> bool:
    """Whether a regular file stands there: no link, no folder, no device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _prepare_folder(folder: Path) -> None:
    """Make the folder; clear what an upload left that was cut off. Raises FleetfootError `io_error`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.glob(f"{_TEMPORARY}*"):
            entry.unlink()
    except OSError as error:
        raise FleetfootError("io_error", f"cannot use {folder} for blobs: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work off the loop. Cancelled, it waits for it first: no file is closed under a write."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise

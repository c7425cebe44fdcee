"""The gate of the artifact server: who may have which blob, and the two requests of identities.

    POST /enroll       an application (`fleetfoot_protocol.enrolment`) -> 200 an admission; 403, 409
    GET  /enroll/ca    the certificate that vouches for this server, whose sha256 stands in tokens
    POST /renew        with the device's certificate -> 200 {certificate, renew_at}

With TLS a blob is served only to a device, by its certificate, that is enrolled and not revoked, and only
if one of the desired states that are meant for it names a release with that blob.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from aiohttp import web
from sqlalchemy.engine import Connection

from fleetfoot_manager import catalogue, enrolling, inventory, schema
from fleetfoot_manager.enrolling import Door
from fleetfoot_manager.errands import Errand
from fleetfoot_manager.inventory import DeviceEntry
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_manager.store import Store
from fleetfoot_manager.work import Work
from fleetfoot_protocol import dsse
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, read
from fleetfoot_protocol.enrolment import Application
from fleetfoot_protocol.errors import FleetfootError, FormError
from fleetfoot_protocol.topics import Kind

log = logging.getLogger(__name__)

T = TypeVar("T")
_MAX_BODY = 16 * 1024
_SECONDS = 10.0
#: Documents whose blobs are remembered.
_REMEMBERED = 256


@dataclass(frozen=True)
class Peer:
    """Who is at the other end: common name and serial number of the certificate."""

    name: str
    serial: int


def peer_of(request: web.Request) -> Peer | None:
    """By whose certificate the connection stands, None without one."""
    found = request.transport.get_extra_info("peercert") if request.transport is not None else None
    if not found:
        return None
    names = [value for part in found.get("subject", ()) for key, value in part if key == "commonName"]
    return Peer(names[0], int(found["serialNumber"], 16)) if len(names) == 1 else None


class Gate:
    """`put` hands an errand to the engine; set when there is one."""

    def __init__(self, store: Store, pki: Pki | None = None, door: Door | None = None) -> None:
        self.put: Callable[[Errand[Any]], None] | None = None
        self._store = store
        self._pki = pki
        self._door = door
        self._lock = threading.Lock()
        self._blobs: dict[str, frozenset[str]] = {}
        self._revoked: tuple[int, set[int]] = (-1, set())

    def routes(self) -> list[web.RouteDef]:
        """What the artifact server serves besides blobs."""
        if self._door is None:
            return []
        return [
            web.post("/enroll", self._enroll),
            web.get("/enroll/ca", self._ca),
            web.post("/renew", self._renew),
        ]

    # -- blobs

    def may_read(self, peer: Peer, sha256: str) -> None:
        """Raise FleetfootError `not_allowed` unless this is meant for that device. Blocking."""
        with self._store.read() as tx:
            entry = self._device(tx, peer)
            for sha, payload in self._documents(tx, entry):
                if sha256 in self._named(tx, sha, payload):
                    return
        raise FleetfootError(
            "not_allowed",
            f"nothing that is meant for {entry.id} names {sha256}",
            remedy="have a release scheduled for this device, or for its group",
        )

    def _device(self, tx: Connection, peer: Peer) -> DeviceEntry:
        if peer.serial in self._revoked_serials():
            raise FleetfootError("not_allowed", f"this certificate of {peer.name} is revoked")
        entry = inventory.find(tx, peer.name)
        if entry is None:
            raise FleetfootError("not_allowed", f"no device {peer.name[:80]!a} is enrolled")
        return entry

    def _revoked_serials(self) -> set[int]:
        if self._pki is None:
            return set()
        path = self._pki.folder / "devices.crl"
        stamp = path.stat().st_mtime_ns
        if stamp != self._revoked[0]:
            self._revoked = (stamp, self._pki.revoked("device"))
        return self._revoked[1]

    def _documents(self, tx: Connection, entry: DeviceEntry) -> Iterable[tuple[str, bytes]]:
        table = schema.documents.c
        kinds = (str(Kind.GROUP_DESIRED), str(Kind.DEVICE_DESIRED))
        query = sa.select(table.sha256, table.payload).where(
            table.kind.in_(kinds), table.group == entry.group, table.device.in_(("", entry.id))
        )
        return [(row[0], row[1]) for row in tx.execute(query)]

    def _named(self, tx: Connection, sha: str, payload: bytes) -> frozenset[str]:
        """The blobs of every release that a desired state names."""
        with self._lock:
            if sha in self._blobs:
                return self._blobs[sha]
        desired = read(Desired, dsse.decode(payload).payload)
        goals = [target.goal for target in desired.targets] + ([desired.baseline] if desired.baseline else [])
        found: set[str] = set()
        for digest in {goal.digest for goal in goals}:
            row = catalogue.by_digest(tx, digest)
            for artifact in row.manifest.artifacts if row is not None else ():
                found |= {artifact.sha256, artifact.index_sha256}
        with self._lock:
            while len(self._blobs) >= _REMEMBERED:
                self._blobs.pop(next(iter(self._blobs)))
            self._blobs[sha] = frozenset(found)
        return self._blobs[sha]

    # -- identities

    def _opened(self) -> Door:
        if self._door is None:
            raise FleetfootError("not_found", "this manager enrols nobody")
        return self._door

    async def _ca(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._opened().pki.server_ca(), content_type="application/x-pem-file")

    async def _enroll(self, request: web.Request) -> web.StreamResponse:
        door = self._opened()
        if (request.content_length or _MAX_BODY + 1) > _MAX_BODY:
            raise FleetfootError(Code.UPGRADE_TOO_LARGE, f"an application has at most {_MAX_BODY} bytes")
        try:
            asked = read(Application, await request.content.readexactly(request.content_length or 0))
        except FormError as error:
            raise FleetfootError("request_invalid", error.message) from None
        except asyncio.IncompleteReadError:
            raise FleetfootError("request_invalid", "the application ends before its end") from None
        admission = await self._errand(lambda work: enrolling.admit(work, door, asked))
        log.info("enrolled device=%s group=%s", admission.device, admission.group)
        return web.Response(body=admission.payload(), content_type="application/json")

    async def _renew(self, request: web.Request) -> web.StreamResponse:
        peer = peer_of(request)
        if peer is None or request.transport is None:
            raise FleetfootError("not_allowed", "to renew a certificate, show it")
        raw = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        text, renew_at = await asyncio.to_thread(self._renewed, peer, raw)
        log.info("renewed device=%s", peer.name)
        return web.Response(
            text=json.dumps({"certificate": text, "renew_at": renew_at}), content_type="application/json"
        )

    def _renewed(self, peer: Peer, certificate: bytes) -> tuple[str, int]:
        door = self._opened()
        with self._store.read() as tx:
            self._device(tx, peer)
        return enrolling.recertify(door, peer.name, certificate, time.time())

    async def _errand(self, act: Callable[[Work], T]) -> T:
        if self.put is None:
            raise FleetfootError("state_refused", "the manager is not ready yet", remedy="try again")
        errand = Errand(act)
        await asyncio.to_thread(self.put, errand)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(errand.answer), _SECONDS)
        except TimeoutError:
            raise FleetfootError(
                "timeout", "the manager did not decide in time", remedy="try again"
            ) from None

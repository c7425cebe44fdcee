"""A fleet for tests of the manager: keys, trust root, tiny real releases, signed requests and statuses."""

import gzip
import hashlib
import io
import itertools
import json
import secrets
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.stores import database_url

from fleetfoot_manager.init import make_state
from fleetfoot_protocol import dsse, keys, times
from fleetfoot_protocol.documents import Artifact, Release
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import (
    Answer,
    Clock,
    ComponentStatus,
    Disk,
    Installed,
    OutcomeRecord,
    Platform,
    PolicySummary,
    Request,
    Status,
)
from fleetfoot_protocol.states import Lifecycle, Role
from fleetfoot_protocol.tree import Member, tree_sha256
from fleetfoot_protocol.trust import Operator, RoleKeys, Roles, TrustRoot

FLEET = "testfleet"
COMPONENT = "kiosk"
PLATFORM = Platform(os="linux", arch="amd64")
CHUNK = 4096


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A signed release with its blobs, by sha256."""

    release: Release
    digest: str
    envelope: bytes
    blobs: dict[str, bytes]

    def uploads(self) -> dict[str, bytes]:
        return {**self.blobs, sha256(self.envelope): self.envelope}

    @property
    def installed(self) -> Installed:
        return Installed(version=self.release.version, counter=self.release.counter, digest=self.digest)

    def names(self) -> dict[str, Any]:
        return {
            "component": self.release.component,
            "version": self.release.version,
            "digest": self.digest,
        }

    def upload_arguments(self) -> dict[str, Any]:
        listed = [{"sha256": name, "length": len(data)} for name, data in self.uploads().items()]
        return {**self.names(), "blobs": listed}

    def publish_arguments(self) -> dict[str, Any]:
        return {**self.names(), "envelope": sha256(self.envelope), "bless": True}


def tiny_archive(content: bytes) -> tuple[bytes, str]:
    """A tar.gz of one executable file, and the digest of its tree."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("app")
        info.size, info.mode = len(content), 0o755
        tar.addfile(info, io.BytesIO(content))
    member = Member("f", "app", 0o755, len(content), sha256(content))
    return gzip.compress(raw.getvalue(), mtime=0), tree_sha256([member])


class Realm:
    """A manager's state folder in `folder / "state"`, with a root signed by throw-away keys."""

    def __init__(self, folder: Path, operators: dict[str, dict[str, tuple[Role, ...]]] | None = None) -> None:
        self.folder = folder
        self.state = folder / "state"
        roles = operators or {"alice": {"*": (Role.ADMIN,)}}
        self.secrets = {name: keys.generate() for name in ("root", "release", *roles)}
        public: dict[str, Path] = {}
        for name in roles:
            path = folder / f"{name}.pub"
            hexed = keys.public_of(self.secrets[name]).hex()
            path.write_text(json.dumps({"kind": "fleetfoot-public-key", "public": hexed}))
            public[name] = path
        request = json.loads(make_state(self.state, FLEET, public, database_url()).read_text())
        self.director_public = bytes.fromhex(request["director"])
        self.root = self.make_root(roles)
        self.root_path = folder / "root.json"
        self.root_path.write_bytes(self.sign_root(self.root))

    def make_root(self, operators: dict[str, dict[str, tuple[Role, ...]]], **changes: Any) -> TrustRoot:
        publics = {name: keys.public_of(secret) for name, secret in self.secrets.items()}
        publics["director"] = self.director_public
        ids = {name: keys.key_id(public) for name, public in publics.items()}
        facts: dict[str, Any] = {
            "version": 1,
            "epoch": 1,
            "fleet": FLEET,
            "expires": times.to_text(time.time() + 10**7),
            "keys": {ids[name]: public.hex() for name, public in publics.items()},
            "roles": Roles(
                root=RoleKeys(keys=(ids["root"],), threshold=1),
                release=RoleKeys(keys=(ids["release"],), threshold=1),
                director=RoleKeys(keys=(ids["director"],), threshold=1),
                operators={
                    name: Operator(key=ids[name], roles=dict(held)) for name, held in operators.items()
                },
            ),
        }
        return TrustRoot(**{**facts, **changes})

    def sign_root(self, root: TrustRoot, signer: str = "root") -> bytes:
        return dsse.encode(dsse.sign(PayloadType.ROOT, root.payload(), self.secrets[signer]))

    def release(
        self, version: str, counter: int, *, content: bytes = b"", signer: str = "release", **changes: Any
    ) -> Bundle:
        """Build and sign a release; the content differs by version unless given."""
        archive, tree = tiny_archive(content or f"#!/bin/sh\necho {version}\n".encode())
        chunks = [archive[start : start + CHUNK] for start in range(0, len(archive), CHUNK)]
        index = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
        artifact = Artifact(
            os=PLATFORM.os,
            arch=PLATFORM.arch,
            format="tar.gz",
            length=len(archive),
            sha256=sha256(archive),
            chunk_size=CHUNK,
            index_sha256=sha256(index),
            unpacked_size=len(content) or 64,
            member_count=1,
            tree_sha256=tree,
            entrypoint="app",
        )
        facts: dict[str, Any] = {
            "component": COMPONENT,
            "version": version,
            "channel": "stable",
            "counter": counter,
            "created": times.to_text(time.time()),
            "artifacts": (artifact,),
        }
        release = Release(**{**facts, **changes})
        envelope = dsse.sign(PayloadType.RELEASE, release.payload(), self.secrets[signer])
        blobs = {sha256(archive): archive, sha256(index): index}
        return Bundle(release, envelope.digest, dsse.encode(envelope), blobs)

    def request(
        self,
        verb: str,
        arguments: dict[str, Any],
        *,
        operator: str = "alice",
        signer: str | None = None,
        now: float | None = None,
        **changes: Any,
    ) -> tuple[Request, bytes]:
        """A signed request of an operator."""
        issued = time.time() if now is None else now
        facts: dict[str, Any] = {
            "fleet": FLEET,
            "operator": operator,
            "id": secrets.token_hex(8),
            "group": "*",
            "verb": verb,
            "arguments": arguments,
            "issued": times.to_text(issued),
            "expires": times.to_text(issued + 300),
        }
        request = Request(**{**facts, **changes})
        secret = self.secrets[signer or operator]
        return request, dsse.encode(dsse.sign(PayloadType.REQUEST, request.payload(), secret))


@dataclass
class Device:
    """A device by its key alone: what it would sign, without being one."""

    id: str
    group: str
    secret: bytes = field(default_factory=keys.generate)
    incarnation: str = "first"
    labels: dict[str, str] = field(default_factory=dict)
    counter: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def enrolment(self) -> dict[str, Any]:
        return {"id": self.id, "group": self.group, "key": keys.public_of(self.secret).hex()}

    def status(self, component: ComponentStatus | None = None, **changes: Any) -> tuple[bytes, bytes]:
        """The next status and its attestation."""
        facts: dict[str, Any] = {
            "fleet": FLEET,
            "group": self.group,
            "device": self.id,
            "incarnation": self.incarnation,
            "counter": next(self.counter),
            "boot_id": "boot",
            "at": times.to_text(time.time()),
            "agent": "0.1.0",
            "root": 1,
            "platform": PLATFORM,
            "labels": self.labels,
            "policy": PolicySummary(enabled=True, channels=("stable",)),
            "disk": Disk(free=10**9),
            "clock": Clock(trusted=True, floor=times.to_text(0)),
            "components": {COMPONENT: component} if component else {},
        }
        status = Status(**{**facts, **changes})
        payload = status.payload()
        return payload, dsse.attest(PayloadType.STATUS, payload, status.counter, self.secret)


def runs(bundle: Bundle, **changes: Any) -> ComponentStatus:
    """A component at rest on a release."""
    return ComponentStatus(**{"state": Lifecycle.IDLE, "running": bundle.installed, **changes})


def ended(
    bundle: Bundle,
    rollout: str,
    outcome: str,
    running: Bundle,
    *,
    code: str = "",
    attempt: int = 1,
    answered: Answer | None = None,
) -> ComponentStatus:
    """A component whose work on a rollout's release ended so, with `running` running afterwards."""
    record = OutcomeRecord.model_validate(
        {
            "rollout": rollout,
            "attempt": attempt,
            "digest": bundle.digest,
            "version": bundle.release.version,
            "outcome": outcome,
            "code": code,
            "running": running.digest,
            "at": times.to_text(time.time()),
        }
    )
    return ComponentStatus(
        state=Lifecycle.IDLE,
        running=running.installed,
        answered=answered,
        rollout=rollout,
        attempt=attempt,
        target=bundle.digest,
        outcomes=(record,),
    )

"""What is the same in every run: keys, trust root, releases, and the store of a manager that has them.

Everything is made from fixed words, so that two processes make the very same bytes; once for each process.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fleetfoot_manager import roots
from fleetfoot_manager.catalogue import Blobs, Candidate
from fleetfoot_manager.database import STORE_NAME
from fleetfoot_manager.director import Director
from fleetfoot_manager.engine import Engine
from fleetfoot_manager.house import House
from fleetfoot_manager.requests.desk import Examined
from fleetfoot_manager.store import Store
from fleetfoot_protocol import dsse, keys, times, trust
from fleetfoot_protocol.documents import Artifact, Release
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import Platform, Request
from fleetfoot_protocol.states import Role
from fleetfoot_protocol.trust import Operator, RoleKeys, Roles, TrustRoot
from fleetfoot_sim.world.timeline import BEGIN

FLEET, COMPONENT = "world", "kiosk"
GROUPS = ("hall", "yard")
PLATFORM = Platform(os="linux", arch="amd64")
#: version, counter, min_counter, channel. One forbids the way back, one is not stable.
RELEASES = (
    ("1.0.0", 1, 0, "stable"),
    ("1.1.0", 2, 0, "stable"),
    ("1.2.0", 3, 2, "stable"),
    ("1.3.0-beta.1", 4, 0, "beta"),
    ("2.0.0", 5, 0, "stable"),
    ("3.0.0", 6, 0, "stable"),
)
MIRROR = "http://mirror.invalid"
#: No artifact of these releases was ever built.
NO_BLOBS = Path("/nowhere")


def secret_of(word: str) -> bytes:
    """The secret key that belongs to a word."""
    return hashlib.sha256(b"world " + word.encode()).digest()


@dataclass(frozen=True, slots=True)
class Published:
    """A release as it was signed."""

    release: Release
    digest: str
    envelope: bytes


class Fleet:
    """Keys, root and releases, and the bytes of the store that every run starts from."""

    def __init__(self) -> None:
        self.root = _root()
        self.root_bytes = _signed(PayloadType.ROOT, self.root.payload(), "root")
        self.director = Director(secret_of("director"), self.root)
        self.releases = {facts[0]: _release(*facts) for facts in RELEASES}
        self.digests = {one.digest: one for one in self.releases.values()}
        with tempfile.TemporaryDirectory(prefix="fleetfoot-world-") as folder:
            self._store = self._make_store(Path(folder))

    def _make_store(self, folder: Path) -> bytes:
        Store.create(folder, FLEET)
        path = folder / "root.json"
        path.write_bytes(self.root_bytes)
        with Store(folder) as store:
            store.acquire()
            roots.install(store, [path])
            engine = Engine(store, self.house(folder), clock=lambda: BEGIN - 60)
            engine.begin(_Nowhere())
            for published in self.releases.values():
                request = self._publication(published)
                candidate = Candidate(published.release, published.digest, published.envelope)
                engine.turn([Examined(request, published.digest, candidate, None)])
            engine.stop()
        return (folder / STORE_NAME).read_bytes()

    def _publication(self, published: Published) -> Request:
        arguments = {
            "component": COMPONENT,
            "version": published.release.version,
            "digest": published.digest,
            "envelope": hashlib.sha256(published.envelope).hexdigest(),
            "bless": True,
        }
        return Request(
            fleet=FLEET,
            operator="alice",
            id=f"publish-{published.release.counter}",
            group="*",
            verb="release.publish",
            arguments=arguments,
            issued=times.to_text(BEGIN - 60),
            expires=times.to_text(BEGIN),
        )

    def house(self, folder: Path, **more: object) -> House:
        """The house of a manager in `folder`."""
        return House(
            folder=folder,
            director=self.director,
            blobs=Blobs(NO_BLOBS),
            artifacts=MIRROR,
            mirror=MIRROR,
            broker="played",
            started=BEGIN,
            **more,  # type: ignore[arg-type]
        )

    def copy_store(self, folder: Path) -> None:
        """Put a copy of the store into `folder`."""
        (folder / STORE_NAME).write_bytes(self._store)


class _Nowhere:
    """A transport without a broker."""

    def publish(self, topic: str, payload: bytes, *, retained: bool, qos: int) -> int | None:
        return None

    def subscribe(self, filters: object) -> None:
        return None

    fetch = subscribe

    def evict(self, *_: object, **__: object) -> None:
        return None


def _signed(kind: PayloadType, payload: bytes, key: str) -> bytes:
    return dsse.encode(dsse.sign(kind, payload, secret_of(key)))


def _root() -> TrustRoot:
    public = {
        name: keys.public_of(secret_of(name)) for name in ("root", "release", "director", "alice", "bob")
    }
    ids = {name: keys.key_id(value) for name, value in public.items()}

    def alone(name: str) -> RoleKeys:
        return RoleKeys(keys=(ids[name],), threshold=1)

    return TrustRoot(
        version=1,
        epoch=1,
        fleet=FLEET,
        expires=times.to_text(BEGIN + 10**8),
        keys={ids[name]: value.hex() for name, value in public.items()},
        roles=Roles(
            root=alone("root"),
            release=alone("release"),
            director=alone("director"),
            operators={
                name: Operator(key=ids[name], roles={"*": (Role.ADMIN,)}) for name in ("alice", "bob")
            },
        ),
    )


def _release(version: str, counter: int, min_counter: int, channel: str) -> Published:
    word = hashlib.sha256(version.encode()).hexdigest()
    artifact = Artifact(
        os=PLATFORM.os, arch=PLATFORM.arch, format="tar.gz", length=1000, sha256=word, chunk_size=4096,
        index_sha256=word, unpacked_size=1000, member_count=1, tree_sha256=word, entrypoint="app",
    )  # fmt: skip
    release = Release(
        component=COMPONENT,
        version=version,
        channel=channel,  # type: ignore[arg-type]
        counter=counter,
        min_counter=min_counter,
        created=times.to_text(BEGIN - 3600),
        artifacts=(artifact,),
    )
    envelope = _signed(PayloadType.RELEASE, release.payload(), "release")
    return Published(release, trust.verify_release(envelope, _root())[1], envelope)


@cache
def the_fleet() -> Fleet:
    """The fleet of this process."""
    return Fleet()

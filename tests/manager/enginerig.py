"""The engine over a broker that the test plays: all publications are seen, none is acknowledged unasked."""

import hashlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.manager.realm import COMPONENT, Bundle, Device, Realm
from tests.support.waiting import until

from fleetfoot_manager import roots
from fleetfoot_manager.catalogue import Blobs
from fleetfoot_manager.director import Director, read_key
from fleetfoot_manager.engine import Engine
from fleetfoot_manager.happenings import Acknowledged, Arrived, Connected, Disconnected, Subscribed
from fleetfoot_manager.house import House
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_manager.store import Store
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.reports import Reply
from fleetfoot_protocol.topics import Kind

MIRROR = "http://mirror.invalid/blobs"


@dataclass(frozen=True)
class Sent:
    """A publication as the broker got it."""

    mid: int
    topic: str
    payload: bytes
    retained: bool


class PlayedBroker:
    """The transport of an engine."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.filters: list[str] = []
        self.fetched: list[str] = []
        self.evicted: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self.up = True

    def publish(self, topic: str, payload: bytes, *, retained: bool, qos: int) -> int | None:
        if not self.up:
            return None
        self.sent.append(Sent(len(self.sent) + 1, topic, payload, retained))
        return len(self.sent)

    def subscribe(self, filters: Iterable[str]) -> None:
        self.filters.extend(filters)

    def fetch(self, topics: Iterable[str]) -> None:
        self.fetched.extend(topics)

    def evict(self, client_ids: Iterable[str], clear: Iterable[str]) -> None:
        self.evicted.append((tuple(client_ids), tuple(clear)))

    def on(self, topic: str) -> list[bytes]:
        return [sent.payload for sent in self.sent if sent.topic == topic]


class Rig:
    """An engine on the store of a realm. `shift`: seconds that its clock is ahead; `looks`: at the clock."""

    def __init__(self, realm: Realm, *, mirror: str = MIRROR, pki: Pki | None = None) -> None:
        self.realm = realm
        self.shift = 0.0
        self.looks = 0
        self.store = Store(realm.state)
        self.store.acquire()
        root = roots.install(self.store, [realm.root_path])
        blobs = realm.state / "blobs"
        self.house = House(
            folder=realm.state,
            director=Director(read_key(realm.state / "director.key"), root),
            blobs=Blobs(blobs),
            artifacts="http://artifacts.invalid/blobs",
            mirror=mirror,
            broker="played",
            started=time.time(),
            pki=pki,
        )
        self.ended = threading.Event()
        self.engine = Engine(self.store, self.house, clock=self.now, on_end=self.ended.set)
        self.broker = PlayedBroker()
        self.session = 0
        self.engine.start(self.broker)

    def now(self) -> float:
        self.looks += 1
        return time.time() + self.shift

    def close(self) -> None:
        self.broker.up = False
        self.engine.stop()
        self.store.close()

    def connect(self) -> None:
        """A new session of the connection."""
        self.session += 1
        self.engine.put(Connected(self.session))
        self.engine.put(Subscribed(self.session))

    def disconnect(self) -> None:
        self.engine.put(Disconnected(self.session))

    def acknowledge(self) -> None:
        """Everything that was sent until now."""
        for sent in list(self.broker.sent):
            self.engine.put(Acknowledged(self.session, sent.mid))

    def arrive(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        self.engine.put(Arrived(topic, payload, retained))

    def say(self, device: Device, status: tuple[bytes, bytes], *, first: int = 0) -> None:
        """A status and its attestation come, the one with index `first` first."""
        both = messages(device, status)
        for topic, payload in (both[first], both[1 - first]):
            self.arrive(topic, payload)

    def say_at_once(self, device: Device, *statuses: tuple[bytes, bytes]) -> None:
        """Statuses with their attestations come in one burst."""
        every = [one for status in statuses for one in messages(device, status)]
        self.engine.put_all([Arrived(topic, payload, False) for topic, payload in every])

    def replies(self, name: str) -> list[Reply]:
        topic = topics.build(Kind.REPLIES, operator="alice")
        every = [trust.verify_reply(payload, self.realm.root) for payload in self.broker.on(topic)]
        return [reply for reply in every if reply.id == name]

    def ask(self, verb: str, arguments: dict[str, Any] | None = None, **changes: Any) -> Reply:
        facts = {"now": self.now(), **changes}
        request, payload = self.realm.request(verb, arguments or {}, **facts)
        self.arrive(topics.build(Kind.REQUESTS, operator=request.operator), payload)
        topic = topics.build(Kind.REPLIES, operator=request.operator)

        def answered() -> list[Reply]:
            every = [trust.verify_reply(data, self.house.root) for data in self.broker.on(topic)]
            return [reply for reply in every if reply.id == request.id]

        return until(answered, f"a reply to {verb}")[-1]

    def do(self, verb: str, arguments: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        reply = self.ask(verb, arguments, **changes)
        assert reply.ok, f"{verb}: {reply.code}: {reply.message}"
        return reply.result

    def enroll(self, *devices: Device) -> None:
        self.do("device.enroll", {"devices": [device.enrolment for device in devices]})

    def publish(self, bundle: Bundle) -> dict[str, Any]:
        """Publish a release whose blobs were put into the folder by hand."""
        self.place(bundle)
        return self.do("release.publish", bundle.publish_arguments())

    def place(self, bundle: Bundle) -> None:
        for name, data in bundle.uploads().items():
            (self.realm.state / "blobs" / name).write_bytes(data)

    def start(self, bundle: Bundle, *groups: str, **more: Any) -> str:
        facts = {"component": COMPONENT, "version": bundle.release.version, "groups": list(groups)}
        name = self.do("rollout.start", {**facts, "settle": 0, **more})["rollout"]
        return str(name)

    def show(self, name: str) -> dict[str, Any]:
        return self.do("rollout.show", {"rollout": name})

    def device(self, name: str) -> dict[str, Any]:
        return self.do("device.show", {"device": name})

    def terminal(self, name: str, device: str) -> str:
        rows = {row["id"]: row for row in self.show(name)["devices"]}
        return str(rows[device]["terminal"])

    def desired(self, group: str) -> Desired:
        """The newest document that was published for a group."""
        topic = topics.build(Kind.GROUP_DESIRED, group=group, component=COMPONENT)
        payload = until(lambda: self.broker.on(topic), f"a document of {group}")[-1]
        return trust.verify_desired(payload, self.house.root)


def messages(device: Device, status: tuple[bytes, bytes]) -> list[tuple[str, bytes]]:
    """(topic, payload) of a status and of its attestation."""
    ids = {"group": device.group, "device": device.id}
    kinds = (Kind.STATUS, Kind.STATUS_ATTESTATION)
    return [(topics.build(kind, **ids), payload) for kind, payload in zip(kinds, status, strict=True)]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

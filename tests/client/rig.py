"""What the client's tests stand on: a fleet's files, and a manager that answers by hand."""

import contextlib
import json
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from fleetfoot_client import keyfiles
from fleetfoot_protocol import dsse, times, topics, trust
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import Reply, Request, RolloutProgress
from fleetfoot_protocol.topics import Kind


@dataclass(frozen=True)
class Ran:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@dataclass(frozen=True)
class Fleet:
    """A fleet's files: keys by name in `folder`, and its root, made by the tools themselves."""

    folder: Path
    root: Path

    def key(self, name: str) -> Path:
        path = self.folder / f"{name}.key"
        if not path.exists():
            keyfiles.create(path)
        return path

    def public(self, name: str) -> Path:
        return Path(f"{self.key(name)}.pub")

    def id(self, name: str) -> str:
        return keyfiles.load(self.key(name)).id

    def secret(self, name: str) -> bytes:
        return keyfiles.load_signing(self.key(name)).secret


@dataclass(frozen=True)
class BrokerAddress:
    url: str
    host: str
    port: int


Answer = Callable[[Request], dict[str, Any]]


class Refused(Exception):
    """What a handler raises to have the manager refuse: code, message, remedy."""


@dataclass
class HandManager:
    """A manager by hand: answers requests of a real broker with a real director key, as a test says."""

    fleet: Fleet
    address: BrokerAddress
    answers: dict[str, Answer] = field(default_factory=dict)
    #: Published on the replies topic before the real reply: (request, its envelope) -> payloads.
    before: Callable[[Request, bytes], list[bytes]] = lambda request, envelope: []
    #: How many copies of a request are left without an answer.
    deaf: int = 0
    heard: list[Request] = field(default_factory=list)
    envelopes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.root = trust.first_root(self.fleet.root.read_bytes())
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, clean_session=True)
        self._client.on_connect = lambda client, *_: client.subscribe(
            topics.subscription(Kind.REQUESTS), qos=1
        )
        self._client.on_subscribe = lambda *_: self._ready.put(True)
        self._client.on_message = self._on_message

    def start(self) -> None:
        self._client.connect(self.address.host, self.address.port)
        self._client.loop_start()
        assert self._ready.get(timeout=10)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def reply(self, request: Request, **fields: Any) -> bytes:
        """A reply signed by the director; fields of it can be given."""
        reply = Reply.model_validate(
            {
                "fleet": self.root.fleet,
                "operator": request.operator,
                "id": request.id,
                "ok": True,
                "issued": times.to_text(time.time()),
                **fields,
            }
        )
        return self.signed(PayloadType.REPLY, reply.payload(), "director")

    def signed(self, kind: PayloadType, payload: bytes, key: str) -> bytes:
        return dsse.encode(dsse.sign(kind, payload, self.fleet.secret(key)))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, wait: bool = True) -> None:
        """`wait` until the broker has it; an answer must not, it runs where the broker's word arrives."""
        published = self._client.publish(topic, payload, qos=1, retain=retain)
        if wait:
            published.wait_for_publish(10)

    def publish_progress(
        self, progress: RolloutProgress, key: str = "director", *, wait: bool = True
    ) -> None:
        """Retained progress with its attestation."""
        payload = progress.payload()
        ids = {"group": progress.group, "rollout": progress.rollout}
        attestation = dsse.attest(PayloadType.ROLLOUT, payload, 1, self.fleet.secret(key))
        self.publish(topics.build(Kind.ROLLOUT, **ids), payload, retain=True, wait=wait)
        self.publish(topics.build(Kind.ROLLOUT_ATTESTATION, **ids), attestation, retain=True, wait=wait)

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        envelope = bytes(message.payload)
        request, _ = trust.verify_request(envelope, self.root)
        self.heard.append(request)
        self.envelopes.append(envelope)
        if self.deaf:
            self.deaf -= 1
            return
        for payload in self.before(request, envelope):
            self._send(request, payload)
        with contextlib.suppress(KeyError):
            self._send(request, self._answer(request))

    def _answer(self, request: Request) -> bytes:
        handler = self.answers[request.verb]
        try:
            return self.reply(request, result=handler(request))
        except Refused as refusal:
            code, text, remedy = refusal.args
            return self.reply(request, ok=False, code=code, message=text, remedy=remedy)

    def _send(self, request: Request, payload: bytes) -> None:
        self._client.publish(topics.build(Kind.REPLIES, operator=request.operator), payload, qos=1)

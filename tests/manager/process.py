"""The manager as a process, and operators and devices that talk to it over MQTT."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.manager.realm import Bundle, Device, Realm
from tests.support.waiting import until

from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.reports import Reply
from fleetfoot_protocol.topics import Kind

FLEETFOOT = str(Path(sys.executable).with_name("fleetfoot"))


class ManagerProcess:
    """`fleetfoot manager run`; broker and artifact server on ports that are kept over restarts."""

    def __init__(self, realm: Realm, *, broker: str | None = None) -> None:
        self.realm = realm
        self.broker = broker
        self.listen = "127.0.0.1:0"
        self.artifacts = "127.0.0.1:0"
        self.log = realm.folder / "manager.log"
        self.process: subprocess.Popen[str] | None = None
        self.ready: dict[str, str] = {}

    def spawn(self, *more: str, fault: str = "") -> subprocess.Popen[str]:
        command = [FLEETFOOT, "manager", "run", "--dir", str(self.realm.state), "--json"]
        command += ["--artifacts", self.artifacts]
        command += ["--broker", f"mqtt://{self.broker}"] if self.broker else ["--listen", self.listen]
        environ = {**os.environ, **({"FLEETFOOT_FAULT": fault} if fault else {})}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *more], stdout=subprocess.PIPE, stderr=log, text=True, env=environ
            )
        return self.process

    def start(self, *more: str, fault: str = "") -> "ManagerProcess":
        process = self.spawn(*more, fault=fault)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, self.log.read_text()
        self.ready = json.loads(line)
        self.artifacts = self.ready["artifacts"].split("/")[2]
        if not self.broker:
            self.listen = self.ready["broker"]
        return self

    def first_start(self, **options: Any) -> "ManagerProcess":
        return self.start("--root", str(self.realm.root_path), **options)

    def wait(self, seconds: float = 20.0) -> int:
        """The exit code, negative for a signal."""
        assert self.process is not None
        code = self.process.wait(seconds)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            self.wait()


class Party:
    """Somebody on the broker: everything heard is kept, by topic, in its order."""

    def __init__(self, address: str, *filters: str, name: str = "") -> None:
        host, _, port = address.rpartition(":")
        self.heard: list[tuple[str, bytes]] = []
        self.filters = filters
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
        self.client.on_message = self._on_message
        self.granted = 0
        self.client.on_subscribe = self._on_subscribe
        self.client.connect(host, int(port))
        self.client.loop_start()
        until(self.client.is_connected, "a party connects")
        for text in filters:
            self.client.subscribe(text, 1)
        until(lambda: self.granted == len(filters), "subscriptions are granted")

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload)))

    def _on_subscribe(self, *_: Any) -> None:
        self.granted += 1

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def on(self, topic: str) -> list[bytes]:
        return [payload for name, payload in list(self.heard) if name == topic]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class OperatorParty(Party):
    """An operator: signed requests, verified replies."""

    def __init__(self, realm: Realm, address: str, operator: str = "alice") -> None:
        self.realm = realm
        self.operator = operator
        self.replies_topic = topics.build(Kind.REPLIES, operator=operator)
        self.requests_topic = topics.build(Kind.REQUESTS, operator=operator)
        super().__init__(address, self.replies_topic)

    def send(self, payload: bytes) -> None:
        self.publish(self.requests_topic, payload)

    def replies(self, name: str) -> list[Reply]:
        every = [trust.verify_reply(payload, self.realm.root) for payload in self.on(self.replies_topic)]
        return [reply for reply in every if reply.id == name]

    def ask(self, verb: str, arguments: dict[str, Any] | None = None, **changes: Any) -> Reply:
        request, payload = self.realm.request(verb, arguments or {}, operator=self.operator, **changes)
        self.send(payload)
        return until(lambda: self.replies(request.id), f"a reply to {verb}")[0]

    def do(self, verb: str, arguments: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        reply = self.ask(verb, arguments, **changes)
        assert reply.ok, f"{verb}: {reply.code}: {reply.message}"
        return reply.result

    def upload(self, bundle: Bundle) -> None:
        opened = self.do("release.upload", bundle.upload_arguments())
        for name in opened["missing"]:
            request = urllib.request.Request(
                f"{opened['url']}/{name}",
                data=bundle.uploads()[name],
                method="PUT",
                headers={"Authorization": f"Fleetfoot {opened['token']}"},
            )
            with urllib.request.urlopen(request, timeout=10) as response:
                assert response.status in (200, 201)

    def release(self, bundle: Bundle) -> dict[str, Any]:
        """Upload and publish."""
        self.upload(bundle)
        return self.do("release.publish", bundle.publish_arguments())


class DeviceParty(Party):
    """All devices of a test over one connection."""

    def say(self, device: Device, status: tuple[bytes, bytes]) -> None:
        """Publish a status with its attestation, retained."""
        ids = {"group": device.group, "device": device.id}
        self.publish(topics.build(Kind.STATUS, **ids), status[0], retain=True)
        self.publish(topics.build(Kind.STATUS_ATTESTATION, **ids), status[1], retain=True)


@contextlib.contextmanager
def closing(*parties: Party | ManagerProcess) -> Iterator[None]:
    try:
        yield
    finally:
        for party in parties:
            party.close()

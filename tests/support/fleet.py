"""A fleet's keys, releases and a hand-held director, for tests of the device without a manager."""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.support.waiting import until

from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_protocol import dsse, times, topics, trust
from fleetfoot_protocol.documents import Desired, Goal, Release, Target
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.reports import Status
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim import kiosk

FLEET = "testfleet"


@dataclass(frozen=True)
class Bundle:
    """A signed release on disk."""

    path: Path
    release: Release
    digest: str
    envelope: bytes

    def goal(self, **changes: Any) -> Goal:
        length = max(a.length for a in self.release.artifacts)
        facts = {"version": self.release.version, "counter": self.release.counter, "digest": self.digest}
        return Goal(**{**facts, "length": length, **changes})


class House:
    """Keys and trust root of a fleet, made by the real tools in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, bytes] = {}
        for name in ("root", "release", "director", "alice"):
            path = folder / f"{name}.key"
            assert fleetfoot(["key", "new", str(path)]) == 0
            self.keys[name] = bytes.fromhex(json.loads(path.read_text())["secret"])
        arguments = ["--fleet", FLEET, "--root-key", str(folder / "root.key")]
        arguments += ["--release-key", str(folder / "release.key.pub")]
        arguments += ["--director", str(folder / "director.key.pub")]
        arguments += ["--operator", f"alice={folder / 'alice.key.pub'}:admin"]
        self.root_path = folder / "root.json"
        assert fleetfoot(["trust", "init", *arguments, "--out", str(self.root_path)]) == 0
        self.root_envelope = self.root_path.read_bytes()
        self.root = trust.first_root(self.root_envelope)

    def release(self, version: str, *words: str, dies: bool = False, ballast: int = 0) -> Bundle:
        """Build and sign a version of the kiosk, with more options of the tool, and incompressible bytes."""
        tree = kiosk.write_tree(self.folder / "apps" / version, version, dies=dies)
        if ballast:
            (tree / "ballast").write_bytes(os.urandom(ballast))
        out = self.folder / "dist"
        build = ["release", "build", str(tree), "--component", kiosk.COMPONENT, "--version", version]
        assert fleetfoot([*build, "--entrypoint", kiosk.ENTRYPOINT, "--out", str(out), *words]) == 0
        path = out / f"{kiosk.COMPONENT}-{version}"
        assert fleetfoot(["release", "sign", str(path), "--key", str(self.folder / "release.key")]) == 0
        envelope = (path / "release.dsse.json").read_bytes()
        release, digest = trust.verify_release(envelope, self.root)
        return Bundle(path, release, digest, envelope)


@dataclass
class Director:
    """Signs and publishes what a manager would, and hears what devices say."""

    house: House
    host: str
    port: int
    mirror: str
    sequence: int = field(default_factory=lambda: int(time.time() * 1000))
    heard: dict[str, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="director")
        self.client.on_connect = lambda client, *_: client.subscribe("ff/v1/groups/#", 1)
        self.client.on_message = lambda _c, _u, m: self.heard.setdefault(m.topic, []).append(bytes(m.payload))
        self.client.connect(self.host, self.port)
        self.client.loop_start()
        until(self.client.is_connected, "the director connects")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        message = self.client.publish(topic, payload, qos=1, retain=retain)
        message.wait_for_publish(10)
        assert message.is_published(), f"the broker has not acknowledged {topic}"

    def desired(self, group: str, *targets: Target, **fields: Any) -> Desired:
        """The next document of a group."""
        self.sequence += 1
        now = time.time()
        facts: dict[str, Any] = {
            "fleet": FLEET,
            "group": group,
            "component": kiosk.COMPONENT,
            "epoch": self.house.root.epoch,
            "sequence": self.sequence,
            "issued": times.to_text(now),
            "expires": times.to_text(now + 86400),
            "mirror": self.mirror,
            "targets": targets,
        }
        return Desired(**{**facts, **fields})

    def sign(self, document: Desired, *, key: str = "director") -> bytes:
        return dsse.encode(dsse.sign(PayloadType.DESIRED, document.payload(), self.house.keys[key]))

    def order(self, group: str, *targets: Target, **fields: Any) -> Desired:
        """Sign and publish the next document of a group, retained."""
        document = self.desired(group, *targets, **fields)
        topic = topics.build(Kind.GROUP_DESIRED, group=group, component=document.component)
        self.publish(topic, self.sign(document))
        return document

    def release(self, bundle: Bundle) -> None:
        """Publish a manifest, retained."""
        topic = topics.build(Kind.RELEASE, component=bundle.release.component, digest=bundle.digest)
        self.publish(topic, bundle.envelope)

    def statuses(self, group: str, device: str, public: str) -> list[Status]:
        """All statuses heard of a device whose attestation was heard too and verifies."""
        topic = topics.build(Kind.STATUS, group=group, device=device)
        attestations = self.heard.get(f"{topic}/attestation", [])
        found = []
        for payload in self.heard.get(topic, []):
            for attestation in attestations:
                if json.loads(attestation)["sha256"] == keys_digest(payload):
                    found.append(trust.verify_status(payload, attestation, bytes.fromhex(public)))
                    break
        return found

    def events(self, group: str, device: str) -> list[dict[str, Any]]:
        """All events heard of a device."""
        topic = topics.build(Kind.DEVICE_EVENTS, group=group, device=device)
        return [json.loads(payload) for payload in self.heard.get(topic, [])]


def keys_digest(payload: bytes) -> str:
    return dsse.Envelope("", payload, ()).digest


def everybody(rollout: str, goal: Goal, **changes: Any) -> Target:
    """A target that admits every device at once."""
    facts: dict[str, Any] = {"rollout": rollout, "goal": goal, "salt": rollout, "stage_cut": "all"}
    return Target(**{**facts, "activate_cut": "all", **changes})

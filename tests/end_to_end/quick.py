"""A fleet that answers at once: devices that verify, resolve and attest as agents do, but install nothing.

`QuickFleet` is devices, an operator and a witness over one connection and in one thread. The witness raises
as soon as the manager publishes what it never may: an older order after a newer one, other bytes under the
same order, more devices than were approved, anything wider after a hold.
"""

import queue
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tests.manager.realm import Bundle, Device, Realm
from tests.support.waiting import until

from fleetfoot_protocol import admission, events, resolve, strictjson, times, topics, trust
from fleetfoot_protocol.documents import Desired, Target
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.reports import (
    Answer,
    ComponentStatus,
    Installed,
    OutcomeRecord,
    Reply,
    RolloutProgress,
)
from fleetfoot_protocol.resolve import Act, Plan
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict
from fleetfoot_protocol.topics import Kind, Topic

T = TypeVar("T")
_VERDICTS = {Act.DEFER: Verdict.DEFERRED, Act.REJECT: Verdict.REJECTED}


class BrokerProcess:
    """The embedded broker as a process of its own, on a port that is kept when it is killed and restarted."""

    def __init__(self, log: Path) -> None:
        self.port = 0
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "fleetfoot_manager.broker", "--port", str(self.port)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self._process = process
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
        assert line, self._log.read_text()
        self.port = int(line.rpartition(":")[2])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class QuickDevice:
    """A device's memory and its key. What it is told, it is told by verified documents only."""

    device: Device
    run: Bundle
    prev: Bundle | None = None
    refused: dict[str, int] = field(default_factory=dict)
    outcomes: tuple[OutcomeRecord, ...] = ()
    newest: Desired | None = None
    #: digest -> how often it was installed here.
    begun: Counter[str] = field(default_factory=Counter)

    @property
    def id(self) -> str:
        return self.device.id

    def hear(self, document: Desired) -> None:
        """Keep the newest."""
        if self.newest is None or document.order > self.newest.order:
            self.newest = document

    def plan(self) -> Plan:
        """What the newest document asks for, by the very function that agents use."""
        prev = self.prev.installed if self.prev else None
        known = resolve.Device(
            self.id, self.device.labels, run=self.run.installed, prev=prev, refused=self.refused
        )
        return resolve.resolve(self.newest, None, known)

    @property
    def called(self) -> bool:
        """Whether there is something to do."""
        return self.plan().act in (Act.INSTALL, Act.RETURN)

    def act(self, bundles: Mapping[str, Bundle], *, dies: bool) -> tuple[bytes, bytes]:
        """Do what is asked for; returns the status that tells of it, and its attestation."""
        plan = self.plan()
        goal = plan.goal
        assert goal is not None
        self.begun[goal.digest] += 1
        if dies:
            self.refused[goal.digest] = goal.attempt
            outcome = Outcome.ROLLED_BACK
        else:
            old, self.run = self.run, bundles[goal.digest]
            self.prev = None if plan.act is Act.RETURN else old
            outcome = Outcome.COMPLETED
        record = OutcomeRecord(
            rollout=plan.rollout,
            attempt=goal.attempt,
            digest=goal.digest,
            version=goal.version,
            outcome=outcome,
            code="upgrade_boot_failed" if dies else "",
            running=self.run.digest,
            at=times.to_text(time.time()),
        )
        self.outcomes = (*self.outcomes, record)
        return self.status()

    def status(self) -> tuple[bytes, bytes]:
        """The status as it is now, and its attestation."""
        plan = self.plan()
        return self.device.status(
            ComponentStatus(
                state=Lifecycle.IDLE,
                running=_installed(self.run),
                previous=_installed(self.prev),
                refused=self.refused,
                outcomes=self.outcomes,
                answered=self._answer(plan),
                rollout=plan.rollout,
                attempt=plan.goal.attempt if plan.goal else None,
                target=plan.goal.digest if plan.goal else None,
            )
        )

    def _answer(self, plan: Plan) -> Answer | None:
        if self.newest is None:
            return None
        return Answer(
            epoch=self.newest.epoch,
            sequence=self.newest.sequence,
            scope="group",
            verdict=_VERDICTS.get(plan.act, Verdict.ACCEPTED),
            code=str(plan.code or ""),
        )


def _installed(bundle: Bundle | None) -> Installed | None:
    return bundle.installed if bundle else None


class Witness:
    """Holds every published document to what it may say, in the order in which they came."""

    def __init__(self, realm: Realm, devices: list[QuickDevice]) -> None:
        self.newest: dict[str, Desired] = {}
        self.progress: dict[tuple[str, str], RolloutProgress] = {}
        #: rollout -> (event, batch index) -> ids of events
        self.events: dict[str, dict[tuple[str, Any], set[str]]] = {}
        #: digest -> cumulative sizes of the waves that the operator approves for it
        self.waves: dict[str, list[int]] = {}
        #: Digests that somebody starts again although they are withdrawn.
        self.lifted: set[str] = set()
        self._realm = realm
        self._devices = devices
        self._bytes: dict[tuple[str, int, int], bytes] = {}
        self._held: dict[str, int] = {}
        self._halves: dict[str, bytes] = {}

    def desired(self, topic: Topic, payload: bytes) -> Desired:
        """A group's document, verified; AssertionError if it may not follow what came before."""
        document = trust.verify_desired(payload, self._realm.root)
        assert (document.group, document.component) == (topic.group, topic.component)
        known = self.newest.get(topic.group)
        assert known is None or document.order >= known.order, "(epoch, sequence) went back"
        assert self._bytes.setdefault((topic.group, *document.order), payload) == payload, "equivocation"
        if known is not None:
            assert set(known.withdrawn) - self.lifted <= set(document.withdrawn), "lifted by nobody"
        for target in document.targets:
            self._admits_no_more_than_approved(target)
        self.newest[topic.group] = document
        return document

    def width(self, target: Target) -> int:
        """How many of all devices the target lets begin."""
        every = (one.device for one in self._devices)
        return sum(admission.admitted(target, d.id, d.labels, target.activate_cut) for d in every)

    def _admits_no_more_than_approved(self, target: Target) -> None:
        name, width = target.rollout, self.width(target)
        waves = self.waves[target.goal.digest]
        ended = self.ended(target.goal.digest)
        passed = sum(ended >= size for size in waves)
        approved = waves[min(passed, len(waves) - 1)]
        assert width <= approved, f"{width} exposed, {approved} approved after {ended} ended well"
        assert width <= self._held.get(name, width), "wider after a hold"
        if target.hold:
            self._held.setdefault(name, width)

    def ended(self, digest: str) -> int:
        """How many devices are known to have installed it with success."""
        return sum(
            any((o.digest, o.outcome) == (digest, Outcome.COMPLETED) for o in one.outcomes)
            for one in self._devices
        )

    def told(self, topic: Topic, payload: bytes) -> None:
        """Progress or its attestation: believed when both are there and belong together."""
        attestation = topic.kind is Kind.ROLLOUT_ATTESTATION
        self._halves[f"{topic.group} {topic.rollout} {attestation}"] = payload
        halves = [self._halves.get(f"{topic.group} {topic.rollout} {which}") for which in (False, True)]
        if halves[0] is None or halves[1] is None:
            return
        try:
            progress = trust.verify_progress(halves[0], halves[1], self._realm.root)
        except UpgradeError:
            return  # the other half is still on its way
        self.progress[(topic.rollout, topic.group)] = progress

    def event(self, payload: bytes) -> None:
        """An event of a group."""
        body = strictjson.loads(payload)
        assert isinstance(body, dict)
        what = (str(body["type"]).removeprefix(events.PREFIX), body["data"].get("batch_index"))
        self.events.setdefault(body.get("rollout", ""), {}).setdefault(what, set()).add(body["id"])


class QuickFleet:
    """Devices, operator and witness. Nothing happens but in `look`, which takes in what has come."""

    def __init__(self, realm: Realm, address: str, root: str, devices: list[QuickDevice]) -> None:
        self.realm = realm
        self.root = root
        self.devices = devices
        self.witness = Witness(realm, devices)
        self.replies: dict[str, list[bytes]] = {}
        self._inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"quick-{root}")
        self._client.on_message = lambda _c, _u, m: self._inbox.put((m.topic, bytes(m.payload)))
        kinds = (Kind.GROUP_DESIRED, Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION, Kind.GROUP_EVENTS, Kind.REPLIES)
        granted: list[int] = []
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(topics.subscription(kind, root=root), 1) for kind in kinds]
        )
        self._client.on_subscribe = lambda *_: granted.append(1)
        host, _, port = address.rpartition(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        until(lambda: granted, "the quick fleet subscribes")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def look(self) -> None:
        """Take in everything that has come."""
        while not self._inbox.empty():
            name, payload = self._inbox.get()
            topic = topics.parse(name, root=self.root)
            assert topic is not None
            match topic.kind:
                case Kind.GROUP_DESIRED:
                    document = self.witness.desired(topic, payload)
                    for one in self.devices:
                        if one.device.group == topic.group:
                            one.hear(document)
                case Kind.ROLLOUT | Kind.ROLLOUT_ATTESTATION:
                    self.witness.told(topic, payload)
                case Kind.GROUP_EVENTS:
                    self.witness.event(payload)
                case _:
                    reply = trust.verify_reply(payload, self.realm.root)
                    self.replies.setdefault(reply.id, []).append(payload)

    def until(self, look: Callable[[], T], what: str, *, meanwhile: Callable[[], None]) -> T:
        """Wait for a fact, taking in what comes; `meanwhile` is called between two looks."""

        def seen() -> T:
            self.look()
            meanwhile()
            return look()

        return until(seen, what, seconds=60)

    def send(self, payload: bytes, operator: str = "alice") -> None:
        """Send an operator's request."""
        self._publish(topics.build(Kind.REQUESTS, root=self.root, operator=operator), payload)

    def reply(self, name: str) -> Reply | None:
        """The reply to a request; AssertionError if there are two different ones."""
        heard = self.replies.get(name, [])
        assert len(set(heard)) <= 1, "two replies to one request"
        return trust.verify_reply(heard[0], self.realm.root) if heard else None

    def say(self, one: QuickDevice, status: tuple[bytes, bytes]) -> None:
        """Publish a device's status with its attestation, retained."""
        ids = {"group": one.device.group, "device": one.id}
        for kind, payload in zip((Kind.STATUS, Kind.STATUS_ATTESTATION), status, strict=True):
            self._publish(topics.build(kind, root=self.root, **ids), payload, retain=True)

    def called(self) -> list[QuickDevice]:
        """Devices that have something to do, in the order of their ids."""
        return [one for one in self.devices if one.called]

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(30)


def target_of(document: Desired | None, rollout: str) -> Target | None:
    """The rollout's target in a document, or None."""
    if document is None:
        return None
    return next((target for target in document.targets if target.rollout == rollout), None)

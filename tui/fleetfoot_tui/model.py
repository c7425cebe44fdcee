"""The fleet in memory, fed by messages of the broker. Pure: no I/O, and no clock but the one it is told.

What the manager signs (progress, desired states, releases, the head of the audit log) is verified when it
arrives and ignored else. Statuses come by the thousand: they are shown as they come, and their attestation is
checked for what is on the screen (`attested`). Nothing here costs a walk over the fleet for one message.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fleetfoot_protocol import documents, dsse, topics, trust
from fleetfoot_protocol.auditchain import AuditHead
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Installed, RolloutProgress
from fleetfoot_protocol.resolve import Device as Memory
from fleetfoot_protocol.resolve import Plan, resolve
from fleetfoot_protocol.topics import Kind, Topic
from fleetfoot_protocol.trust import TrustRoot
from fleetfoot_tui import facts
from fleetfoot_tui.device import Device
from fleetfoot_tui.facts import ComponentFacts
from fleetfoot_tui.happenings import Happening, read_event

#: Events that are remembered; older ones are forgotten.
EVENTS = 5000
#: Events of which the identity is remembered, since messages may come twice.
_REMEMBERED = 4096


@dataclass(slots=True)
class _Pair:
    """Progress and attestation of one group of a rollout, which arrive as two messages."""

    payload: bytes = b""
    attestation: bytes = b""


@dataclass(slots=True)
class Changes:
    """What changed since somebody looked: devices by id, whether some came or went, other kinds by name."""

    devices: set[str] = field(default_factory=set)
    members: bool = False
    kinds: set[str] = field(default_factory=set)


class Fleet:
    """All that is known of the fleet of `root`. `now` gives unix seconds."""

    def __init__(self, root: TrustRoot, now: Callable[[], float]) -> None:
        self.root = root
        self._now = now
        self.devices: dict[str, Device] = {}
        #: Those that a person should look at, so that finding them costs no walk over the fleet.
        self.faulty: set[str] = set()
        self._by_id: list[Device] | None = None
        self.groups: dict[str, Counter[str]] = {}
        self.versions: Counter[str] = Counter()
        self.rollouts: dict[str, RolloutProgress] = {}
        self.desired: dict[tuple[str, str, str], Desired] = {}
        self.releases: dict[str, str] = {}
        self.events: deque[Happening] = deque(maxlen=EVENTS)
        self.manager: bool | None = None
        self.audit_head: AuditHead | None = None
        #: Messages that were not what they must be: oversized, unsigned, malformed.
        self.refused = 0
        self.seen_events = 0
        self.changes = Changes()
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._known_events: dict[tuple[str, str], None] = {}

    def take_changes(self) -> Changes:
        """What changed since the last time, once."""
        found, self.changes = self.changes, Changes()
        return found

    def by_id(self) -> list[Device]:
        """All devices in the order of their ids; sorted only when some came or went. Not to be changed."""
        if self._by_id is None:
            self._by_id = [self.devices[name] for name in sorted(self.devices)]
        return self._by_id

    # -- messages

    def take(self, topic: Topic, payload: bytes, *, retained: bool = False) -> None:
        """One message. Whatever does not verify or parse is counted and changes nothing."""
        handler = _HANDLERS.get(topic.kind)
        if handler is None:
            return
        try:
            handler(self, topic, payload, retained)
        except FleetfootError:
            self.refused += 1

    def _status(self, topic: Topic, payload: bytes, retained: bool) -> None:
        device = self._device(topic)
        if not payload:
            self.forget(device.id)
            return
        said = facts.read_status(payload)
        if said is None:
            self.refused += 1
            return
        known = device.said
        if said.incarnation == known.incarnation and said.counter < known.counter:
            return
        device.said, device.status, device.verdict, device.dated = said, payload, "", None
        if said.components and said.components[0].lifecycle != "downloading":
            device.percent = None
        device.heard = 0.0 if retained else self._now()
        self._changed(device)

    def _attestation(self, topic: Topic, payload: bytes, retained: bool) -> None:
        device = self._device(topic)
        if len(payload) <= facts.MAX_BYTES:
            device.attestation, device.verdict = payload, ""
            self._changed(device)

    def _presence(self, topic: Topic, payload: bytes, retained: bool) -> None:
        if payload not in (b"online", b"offline"):
            return
        device = self._device(topic)
        device.online = payload == b"online"
        if not retained:
            device.heard = self._now()
        self._changed(device)

    def _progress(self, topic: Topic, payload: bytes, retained: bool) -> None:
        device = self._device(topic)
        percent = facts.read_percent(payload)
        if percent is not None:
            device.percent = percent
            device.heard = self._now()
            self.changes.devices.add(device.id)

    def _rollout(self, topic: Topic, payload: bytes, retained: bool) -> None:
        pair = self._pairs.setdefault((topic.group, topic.rollout), _Pair())
        if topic.kind is Kind.ROLLOUT:
            pair.payload = payload
        else:
            pair.attestation = payload
        if not pair.payload or not pair.attestation or not _belong(pair.payload, pair.attestation):
            return
        progress = trust.verify_progress(pair.payload, pair.attestation, self.root)
        if (progress.group, progress.rollout) != (topic.group, topic.rollout):
            self.refused += 1
            return
        known = self.rollouts.get(progress.rollout)
        if known is None or progress.revision >= known.revision:
            self.rollouts[progress.rollout] = progress
            self.changes.kinds.add("rollouts")

    def _desired(self, topic: Topic, payload: bytes, retained: bool) -> None:
        scope = (topic.group, topic.device, topic.component)
        if not payload:
            return
        document = trust.verify_desired(payload, self.root)
        if (document.group, document.device or "", document.component) != scope:
            self.refused += 1
            return
        known = self.desired.get(scope)
        if known is None or document.sequence > known.sequence:
            self.desired[scope] = document
            self.changes.kinds.add("desired")

    def _release(self, topic: Topic, payload: bytes, retained: bool) -> None:
        if payload:
            release, digest = trust.verify_release(payload, self.root)
            self.releases[digest] = release.version
            self.changes.kinds.update(("desired", "releases"))

    def _event(self, topic: Topic, payload: bytes, retained: bool) -> None:
        happening = read_event(topic, payload, self.seen_events + 1)
        if happening is None:
            self.refused += 1
            return
        if happening.key in self._known_events:
            return
        self._known_events[happening.key] = None
        if len(self._known_events) > _REMEMBERED:
            del self._known_events[next(iter(self._known_events))]
        self.seen_events += 1
        self.events.append(happening)
        self.changes.kinds.add("events")

    def _manager(self, topic: Topic, payload: bytes, retained: bool) -> None:
        if payload in (b"online", b"offline"):
            self.manager = payload == b"online"
            self.changes.kinds.add("manager")

    def _head(self, topic: Topic, payload: bytes, retained: bool) -> None:
        if payload:
            head = trust.verify_audit_head(payload, self.root)
            if self.audit_head is None or head.count >= self.audit_head.count:
                self.audit_head = head
                self.changes.kinds.add("audit")

    def topics_of(self, identity: str, root: str) -> tuple[str, ...]:
        """Where a device tells what a line of a table shows."""
        device = self.devices.get(identity)
        if device is None:
            return ()
        if not device.topics:
            kinds = (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE)
            device.topics = tuple(
                topics.build(kind, root=root, group=device.group, device=identity) for kind in kinds
            )
        return device.topics

    # -- the inventory, which the manager tells

    def enrolled(self, identity: str, group: str, key: bytes, labels: dict[str, str]) -> None:
        """A device as the manager knows it, perhaps one that never said anything."""
        device = self._device(Topic(Kind.STATUS, group=group, device=identity))
        device.key, device.labels, device.verdict = key, labels, ""
        self._changed(device)

    def forget(self, identity: str) -> None:
        """A device whose retained status was cleared: it was forgotten or moved."""
        device = self.devices.pop(identity, None)
        if device is not None:
            self._uncount(device)
            self.faulty.discard(identity)
            self._by_id = None
            self.changes.members = True

    # -- what follows from it

    def attested(self, device: Device) -> str:
        """`yes`, `forged`, or `unknown` while key or attestation are missing or of another status."""
        if not device.verdict:
            device.verdict = self._verdict(device)
            if device.verdict == "forged":
                self._changed(device)
        return device.verdict

    def _verdict(self, device: Device) -> str:
        if not device.key or not device.status or not device.attestation:
            return "unknown"
        try:
            status = trust.verify_status(device.status, device.attestation, device.key)
        except FleetfootError:
            return "forged" if _belong(device.status, device.attestation) else "unknown"
        scope = (status.fleet, status.group, status.device)
        return "yes" if scope == (self.root.fleet, device.group, device.id) else "forged"

    def answer(self, device: Device, one: ComponentFacts) -> Plan | None:
        """What its documents want of a component, by the same `resolve` that the device has."""
        group = self._standing(self.desired.get((device.group, "", one.name)))
        own = self._standing(self.desired.get((device.group, device.id, one.name)))
        try:
            run = (
                Installed(version=one.version, counter=one.counter, digest=one.digest) if one.digest else None
            )
            before = one.previous
            prev = Installed(version=before[0], counter=before[1], digest=before[2]) if before else None
        except ValueError:
            return None
        labels = device.said.labels or device.labels
        return resolve(group, own, Memory(device.id, labels, run, prev, one.refused, one.floor))

    def target(self, device: Device) -> str:
        """The version that its main component should run, empty where nothing is wanted."""
        one = device.main
        if one.target:
            return self.releases.get(one.target, one.target[:8])
        if not one.name:
            return ""
        plan = self.answer(device, one)
        return plan.goal.version if plan is not None and plan.goal is not None else ""

    def _standing(self, document: Desired | None) -> Desired | None:
        if document is None or documents.expired(document.expires, int(self._now())):
            return None
        return document

    # -- bookkeeping

    def _device(self, topic: Topic) -> Device:
        device = self.devices.get(topic.device)
        if device is None:
            device = self.devices[topic.device] = Device(topic.device, topic.group)
            self._by_id = None
            self.changes.members = True
        elif device.group != topic.group:
            self._uncount(device)
            device.group, device.topics = topic.group, ()
            self.changes.members = True
        return device

    def _changed(self, device: Device) -> None:
        device.searched = ""
        said = device.said
        device.faulty = bool(said.alarms) or said.hurts or device.verdict == "forged"
        device.badness = 0 if said.alarms else 1 + facts.BADNESS.get(device.state, 98)
        if device.faulty:
            self.faulty.add(device.id)
        else:
            self.faulty.discard(device.id)
        self.changes.devices.add(device.id)
        link = "" if device.online is None else "online" if device.online else "offline"
        version = device.main.version
        marks = (device.group, version, "devices", link, device.state, "faulty" if device.faulty else "")
        if marks != device.counted:
            self._uncount(device)
            device.counted = marks
            self._count(marks, 1)

    def _uncount(self, device: Device) -> None:
        if device.counted:
            self._count(device.counted, -1)
            device.counted = ()

    def _count(self, marks: tuple[str, ...], by: int) -> None:
        name, version, *rest = marks
        group = self.groups.setdefault(name, Counter())
        for mark in rest:
            if mark:
                group[mark] += by
        if not group["devices"]:
            del self.groups[name]
        if version:
            self.versions[version] += by
            if not self.versions[version]:
                del self.versions[version]


def _belong(payload: bytes, attestation: bytes) -> bool:
    """Whether an attestation is of these bytes; the other half of a pair may be on its way."""
    try:
        dsse.join_attestation(payload, attestation)
    except FleetfootError:
        return False
    return True


_HANDLERS: dict[Kind, Callable[[Fleet, Topic, bytes, bool], None]] = {
    Kind.STATUS: Fleet._status,
    Kind.STATUS_ATTESTATION: Fleet._attestation,
    Kind.PRESENCE: Fleet._presence,
    Kind.PROGRESS: Fleet._progress,
    Kind.ROLLOUT: Fleet._rollout,
    Kind.ROLLOUT_ATTESTATION: Fleet._rollout,
    Kind.GROUP_DESIRED: Fleet._desired,
    Kind.DEVICE_DESIRED: Fleet._desired,
    Kind.RELEASE: Fleet._release,
    Kind.GROUP_EVENTS: Fleet._event,
    Kind.DEVICE_EVENTS: Fleet._event,
    Kind.MANAGER_PRESENCE: Fleet._manager,
    Kind.AUDIT_HEAD: Fleet._head,
}

#: What is subscribed to, the most frequent first.
KINDS = tuple(_HANDLERS)


def subscriptions(root: str) -> list[str]:
    """Filters for all of it under a topic root."""
    return [topics.subscription(kind, root=root) for kind in KINDS]

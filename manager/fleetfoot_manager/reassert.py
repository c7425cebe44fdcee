"""The broker is a cache: what it should hold is stored here and told again whenever it may hold less.

On every connect, and every 6 hours with jitter, each retained document that is in use is published again,
from stored bytes. The manager subscribes to its own retained topics by their exact names; whenever one of
them brings something else than what is stored, the stored bytes follow, at most once a second for a topic.

What is published comes back, and may come back late: a message that was sent from here in this session is
no news while a newer one is still on its way. What was never sent from here is judged: older documents
of ours are a stale cache; a document of ours that is *newer* than what is stored, or of the same order with
other bytes, is answered with a document of a still higher sequence; anything else is forged. The last two
are alarms. So is the loss of freshness, which devices would notice too: a heartbeat of ours that does not
come back, one on the broker that has expired, and an older one after the newest was there already.
"""

import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fleetfoot_manager import acts, catalogue, documents, inventory, publisher, schema
from fleetfoot_manager.compose import GroupIntent
from fleetfoot_manager.documents import Stored
from fleetfoot_manager.house import House
from fleetfoot_manager.store import RECOVERED_HEAD, get_meta
from fleetfoot_manager.work import Work
from fleetfoot_protocol import topics, trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import expired
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.events import Event
from fleetfoot_protocol.topics import Kind, Topic

log = logging.getLogger(__name__)

FULL_SECONDS = 6 * 3600.0
_JITTER = 0.1
_AGAIN_SECONDS = 1.0
_ALARM_SECONDS = 60.0
#: Seconds in which a heartbeat that was sent comes back from the broker.
_RETURN_SECONDS = 60.0
#: Digests of what was sent on a topic and has not come back, at most.
_MAX_ECHOES = 16
NEWEST_RELEASES = 20
NEWEST_ENDED = 50

_HEARTBEAT = "/heartbeat"
PRESENCE = documents.place(Kind.MANAGER_PRESENCE)
ONLINE = b"online"
OFFLINE = b"offline"

_ALWAYS = (
    Kind.TRUST_ROOT,
    Kind.AUDIT_HEAD,
    Kind.GROUP_DESIRED,
    Kind.DEVICE_DESIRED,
    Kind.HEARTBEAT,
    Kind.PROBE,
)


class Reassertion:
    """What is to be told again. `counts`: how often the broker held something else, by what it was."""

    def __init__(self, house: House) -> None:
        self.counts: Counter[str] = Counter()
        self._house = house
        self._everything = False
        self._next_full = float("inf")
        self._todo: deque[str] = deque()
        self._again: dict[str, float] = {}
        self._subscribed: set[str] = set()
        self._echoes: dict[str, deque[str]] = {}
        self._healed: dict[str, float] = {}
        self._alarmed: dict[str, float] = {}
        #: Heartbeats that were sent and have not come back: topic -> when, unix seconds.
        self._awaited: dict[str, float] = {}
        self._returned: set[str] = set()

    def connected(self) -> None:
        """A new session: nothing is subscribed, nothing is on its way, everything is to be told."""
        self._subscribed.clear()
        self._echoes.clear()
        self._awaited.clear()
        self._returned.clear()
        self._todo.clear()
        self._everything = True

    def next_deadline(self) -> float:
        """When something is to be told again, unix seconds."""
        return min([self._next_full, *self._again.values()])

    def to_subscribe(self, names: Iterable[str]) -> list[str]:
        """Those of our retained topics that this session has not subscribed to yet."""
        new = [topic for topic in dict.fromkeys(names) if topic not in self._subscribed]
        self._subscribed.update(new)
        return new

    def sent(self, topic: str, payload: bytes, now: float) -> None:
        """A retained message went out; it will come back."""
        if topic.endswith(_HEARTBEAT):
            if self._awaited.get(topic, float("inf")) == float("inf"):
                self._awaited[topic] = now
            self._returned.discard(topic)
        echoes = self._echoes.setdefault(topic, deque(maxlen=_MAX_ECHOES))
        echoes.append(hashlib.sha256(payload).hexdigest())

    def due(self, tx: Connection, room: int, now: float) -> Iterator[tuple[str, bytes]]:
        """Up to `room` retained messages that are to be told again now, with their stored bytes."""
        if self._everything or now >= self._next_full:
            self._everything = False
            self._next_full = now + FULL_SECONDS * self._house.entropy.uniform(1 - _JITTER, 1)
            self._todo = deque([PRESENCE, *in_use(tx)])
        for topic in [topic for topic, moment in self._again.items() if moment <= now]:
            del self._again[topic]
            self._healed[topic] = now
            self._todo.append(topic)
        for _ in range(min(room, len(self._todo))):
            topic = self._todo.popleft()
            if (stored := self._stored(tx, topic)) is not None:
                yield topic, stored.payload

    def _stored(self, tx: Connection, topic: str) -> Stored | None:
        if topic == PRESENCE:
            return Stored(topic, ONLINE, hashlib.sha256(ONLINE).hexdigest(), 0, 0)
        return documents.get(tx, topic)

    def arrived(self, work: Work, topic: Topic, payload: bytes) -> None:
        """Something came on a topic of ours."""
        name = self._house.short(topic.text(self._house.topic_root))
        stored = self._stored(work.tx, name)
        if stored is None:
            return
        sha256 = hashlib.sha256(payload).hexdigest()
        echo = self._take_echo(name, sha256)
        if sha256 == stored.sha256:
            self._awaited.pop(name, None)
            self._returned.add(name)
            return
        if not echo and payload:
            self._judge(work, topic, name, payload, stored)
        if stored.sha256 not in self._echoes.get(name, ()):
            self.counts["healed"] += 1
            self._again[name] = max(work.now, self._healed.get(name, 0.0) + _AGAIN_SECONDS)

    def _take_echo(self, name: str, sha256: str) -> bool:
        echoes = self._echoes.get(name)
        if echoes is None or sha256 not in echoes:
            return False
        while echoes.popleft() != sha256:
            pass
        return True

    def _judge(self, work: Work, topic: Topic, name: str, payload: bytes, stored: Stored) -> None:
        """Say what a message is that was not sent from here in this session, and is not what is stored."""
        if topic.kind is Kind.MANAGER_PRESENCE:
            self.counts["stale"] += 1  # a Last Will of an earlier connection, as a rule
            return
        verdict = _verdict(work, topic, payload, stored, fresh=name not in self._returned)
        self.counts[verdict or "stale"] += 1
        if verdict is None:
            return
        self._alarm(work, name, verdict, "the broker held something that is not what we published")

    def _alarm(self, work: Work, name: str, code: Code, message: str) -> None:
        """Tell of a topic, once a minute: to its group, or to everybody if it is everybody's."""
        if work.now < self._alarmed.get(name, 0.0) + _ALARM_SECONDS:
            return
        self._alarmed[name] = work.now
        log.warning("topic=%s alarm=%s: %s", name, code, message)
        parsed = topics.parse(work.house.whole(name), root=work.house.topic_root)
        groups = [parsed.group] if parsed and parsed.group else inventory.groups(work.tx)
        work.event(groups, Event.ALARM, {"topic": name, "message": message}, code=code)

    def overdue(self, work: Work) -> None:
        """Tell of heartbeats that were sent and did not come back in time, once for each."""
        for name, moment in self._awaited.items():
            if moment + _RETURN_SECONDS <= work.now:
                self.counts["overdue heartbeat"] += 1
                self._awaited[name] = float("inf")
                self._alarm(
                    work, name, Code.UPGRADE_STALE, "our heartbeat does not come back from the broker"
                )


def _verdict(work: Work, topic: Topic, payload: bytes, stored: Stored, *, fresh: bool) -> Code | None:
    """The alarm that a message deserves; None for an older document of ours.

    fresh: whether what is stored has not been back in this session, so that a stale cache explains old ones.
    """
    root = work.house.root
    try:
        match topic.kind:
            case Kind.GROUP_DESIRED:
                desired = trust.verify_desired(payload, root)
                if (desired.group, desired.component) != (topic.group, topic.component) or desired.device:
                    return Code.UPGRADE_SCOPE_MISMATCH
                if desired.order >= (stored.epoch, stored.sequence):
                    work.renew_desired(topic.group, topic.component, beyond=desired.sequence)
                    return Code.UPGRADE_EQUIVOCATION
            case Kind.DEVICE_DESIRED:
                desired = trust.verify_desired(payload, root)
                if (desired.group, desired.device, desired.component) != (
                    topic.group,
                    topic.device,
                    topic.component,
                ):
                    return Code.UPGRADE_SCOPE_MISMATCH
                if desired.order >= (stored.epoch, stored.sequence):
                    work.renew_own(topic.device, topic.component, beyond=desired.sequence)
                    return Code.UPGRADE_EQUIVOCATION
            case Kind.AUDIT_HEAD:
                # A longer log than ours: the store is older than what was signed, or has a twin.
                if trust.verify_audit_head(payload, root).count >= stored.sequence:
                    # Of the log that was lost with the store, recovering has told already.
                    told = get_meta(work.tx, RECOVERED_HEAD) == hashlib.sha256(payload).hexdigest()
                    return None if told else Code.UPGRADE_EQUIVOCATION
            case Kind.HEARTBEAT:
                return _heartbeat_verdict(work, topic, payload, stored, fresh)
            case Kind.PROBE:
                trust.verify_probe(payload, root)
            case Kind.RELEASE | Kind.TRUST_ROOT:
                return Code.UPGRADE_SIGNATURE_INVALID
            case _:
                return None
    except UpgradeError as error:
        stale_epoch = error.upgrade_code is Code.UPGRADE_SEQUENCE_REPLAYED
        return None if stale_epoch else error.upgrade_code
    return None


def _heartbeat_verdict(work: Work, topic: Topic, payload: bytes, stored: Stored, fresh: bool) -> Code | None:
    heartbeat = trust.verify_heartbeat(payload, work.house.root)
    ours = trust.verify_heartbeat(stored.payload, work.house.root)
    if heartbeat.group != topic.group:
        return Code.UPGRADE_SCOPE_MISMATCH
    if heartbeat.issued > ours.issued:
        work.renew_heartbeat(topic.group)
        return Code.UPGRADE_EQUIVOCATION
    if expired(heartbeat.expires, int(work.now)) or not fresh:
        return Code.UPGRADE_STALE
    return None


def in_use(tx: Connection) -> list[str]:
    """Topics of all retained documents that the broker should hold."""
    found = documents.topics_of(tx, _ALWAYS)
    wanted = _releases_in_use(tx)
    found += [
        topic for topic in documents.topics_of(tx, (Kind.RELEASE,)) if topic.rpartition("/")[2] in wanted
    ]
    shown = _rollouts_shown(tx)
    rollouts = documents.topics_of(tx, (Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION))
    return found + [topic for topic in rollouts if topic.split("/")[3] in shown]


def drop_unused(tx: Connection) -> None:
    """Forget the progress of rollouts that ended long ago, and clear it from the broker."""
    shown = _rollouts_shown(tx)
    for topic in documents.topics_of(tx, (Kind.ROLLOUT, Kind.ROLLOUT_ATTESTATION)):
        if topic.split("/")[3] not in shown:
            documents.drop(tx, topic)


def _rollouts_shown(tx: Connection) -> set[str]:
    table = schema.rollouts.c
    live = tx.scalars(sa.select(table.id).where(table.live.is_(True)))
    ended = sa.select(table.id).where(table.live.is_(False)).order_by(table.created.desc())
    return {*live, *tx.scalars(ended.limit(NEWEST_ENDED))}


def _releases_in_use(tx: Connection) -> set[str]:
    """Goals of live rollouts, baselines, standing goals, the release before each of them, and the newest."""
    used = set(tx.scalars(sa.select(schema.rollouts.c.digest).where(schema.rollouts.c.live.is_(True))))
    for text in tx.scalars(sa.select(schema.intents.c.intent)):
        intent = GroupIntent.from_json(json.loads(text))
        used |= {target.goal.digest for target in intent.standing}
        used |= {intent.baseline.digest} if intent.baseline else set()
    used |= publisher.probed(tx)
    used |= {act.goal.digest for act in acts.every(tx) if act.goal is not None and act.stands}
    table = schema.releases.c
    for component, counter in tx.execute(
        sa.select(table.component, table.counter).where(table.digest.in_(used))
    ).all():
        before = sa.select(table.digest).where(table.component == component, table.counter < counter)
        used |= set(tx.scalars(before.order_by(table.counter.desc()).limit(1)))
    return used | set(catalogue.newest(tx, NEWEST_RELEASES))

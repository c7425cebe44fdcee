"""What the courier asks the broker for, and what it lets into the spool (contract section 1).

Only messages on topics it subscribed to by name get in: a broker may send others, and one does. The rest is
the worker's to judge.
"""

import logging

from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.spool import CourierSide, Want
from fleetfoot_agent.spool.forms import MESSAGE_CAP
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

log = logging.getLogger(__name__)


class Inbox:
    """The topics of one device, and the way of their messages into its spool."""

    def __init__(self, config: AgentConfig, spool: CourierSide) -> None:
        self._config = config
        self._spool = spool
        self._root = config.broker.topic_root
        self._standing = self._standing_topics()
        self.presence = self._topic(Kind.PRESENCE, device=config.device)
        self.names = frozenset(self._standing)

    def want(self, want: Want) -> tuple[frozenset[str], frozenset[str]]:
        """Take over the worker's list. Returns (topics to subscribe to, topics to leave).

        Slots of what is neither configured nor wanted are deleted.
        """
        wanted = {
            topics.build(Kind.RELEASE, root=self._root, component=m.component, digest=m.digest)
            for m in want.manifests
            if m.component in self._config.components
        }
        wanted |= {topics.build(Kind.TRUST_ROOT, root=self._root, step=str(step)) for step in want.roots}
        names = frozenset(self._standing | wanted)
        slots = {self._slot(name) for name in names}
        self._spool.keep_slots(slots.__contains__)
        # Taken over last: if the disk fails, the list is to be new the next time, too.
        before, self.names = self.names, names
        return names - before, before - names

    def is_manifest(self, name: str) -> bool:
        """Whether a release is published under this topic."""
        parsed = topics.parse(name, root=self._root)
        return parsed is not None and parsed.kind is Kind.RELEASE

    def received(self, topic: str, payload: bytes) -> Kind | None:
        """Store a message. Returns its kind if its bytes are new to the spool, else None.

        OSError if the disk refuses.
        """
        if topic not in self.names or topic == self.presence:
            log.debug("event=not_subscribed device=%s topic=%a", self._config.device, topic[:200])
            return None
        if not payload:
            return None
        if len(payload) > MESSAGE_CAP:
            log.warning(
                "event=too_large device=%s topic=%s bytes=%d", self._config.device, topic, len(payload)
            )
        parsed = topics.parse(topic, root=self._root)
        slot = None if parsed is None else topics.slot_of(parsed)
        if parsed is None or slot is None or not self._spool.store_message(slot, payload):
            return None
        log.debug("event=stored device=%s slot=%s bytes=%d", self._config.device, slot, len(payload))
        return parsed.kind

    def _standing_topics(self) -> frozenset[str]:
        device = self._config.device
        names = {self._topic(Kind.PRESENCE, device=device), self._topic(Kind.HEARTBEAT)}
        for component in self._config.components:
            names.add(self._topic(Kind.GROUP_DESIRED, component=component))
            names.add(self._topic(Kind.DEVICE_DESIRED, device=device, component=component))
            names.add(self._topic(Kind.PROBE, component=component))
        return frozenset(names)

    def _topic(self, kind: Kind, **ids: str) -> str:
        return topics.build(kind, root=self._root, group=self._config.group, **ids)

    def _slot(self, name: str) -> str | None:
        parsed = topics.parse(name, root=self._root)
        return None if parsed is None else topics.slot_of(parsed)

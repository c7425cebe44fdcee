"""The engine's end of the connection: what of the outbox is on its way to the broker, and what has arrived.

Everything goes out from stored bytes. A row leaves the outbox when the broker has acknowledged it; on every
connection what is left is sent again, and then what has to be told anew.
"""

import threading
import time
from collections.abc import Callable, Iterable

from fleetfoot_manager import documents, reassert, revocation
from fleetfoot_manager.documents import Publication
from fleetfoot_manager.happenings import Acknowledged, Connected, Disconnected, Subscribed, Transport
from fleetfoot_manager.house import House
from fleetfoot_manager.reassert import Reassertion
from fleetfoot_manager.store import Store
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind

#: Publications handed to the broker and not acknowledged yet, at most.
WINDOW = 500
_FAREWELL_SECONDS = 2.0
#: What devices have retained.
_KEPT = (Kind.STATUS, Kind.STATUS_ATTESTATION, Kind.PRESENCE)
_LISTENED = (*_KEPT, Kind.REQUESTS)


class Outlet:
    """Told by `note` what becomes of the connection. `listening` is set once devices and operators are heard.

    acknowledged: rows of the outbox that the broker has and the store does not know of yet.
    """

    def __init__(self, store: Store, house: House, reassertion: Reassertion) -> None:
        self.listening = threading.Event()
        self.acknowledged: list[int] = []
        self.transport: Transport | None = None
        self._store = store
        self._house = house
        self._reassertion = reassertion
        self._session: int | None = None
        self._in_flight: dict[int, int] = {}
        self._sent_up_to = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._session is not None

    @property
    def open(self) -> bool:
        """Whether anything can go out now."""
        return self.connected and len(self._in_flight) < WINDOW

    def note(self, item: object) -> bool:
        """Take in what became of the connection; whether it was that."""
        match item:
            case Connected(session):
                self._begin(session)
            case Disconnected(session):
                if session == self._session:
                    self._session = None
            case Acknowledged(session, mid):
                if session == self._session and (row := self._in_flight.pop(mid, None)):
                    self.acknowledged.append(row)
            case Subscribed(session):
                if session == self._session:
                    self.listening.set()
            case _:
                return False
        return True

    def _begin(self, session: int) -> None:
        self._session = session
        self._in_flight.clear()
        self._sent_up_to = 0
        if self.transport is not None:
            root = self._house.topic_root
            self.transport.subscribe(topics.subscription(kind, root=root) for kind in _LISTENED)
            self._reassertion.connected()

    def hear(self, devices: Iterable[tuple[str, str]]) -> None:
        """Ask for what the broker keeps of them: said before they were enrolled, or lost on its way here."""
        if self.transport is not None and (asked := list(devices)):
            root = self._house.topic_root
            self.transport.fetch(
                topics.build(kind, root=root, group=group, device=device)
                for group, device in asked
                for kind in _KEPT
            )

    def turn_away(self, evictions: Iterable[tuple[str, str]]) -> None:
        """End the sessions of devices that were revoked, and clear what they left."""
        for group, device in evictions:
            if self.transport is not None:
                # The id where the broker takes it from the certificate, the courier's own elsewhere.
                names = (device, topics.device_client_id(device, root=self._house.topic_root))
                self.transport.evict(names, revocation.left_topics(self._house.whole, group, device))

    def pump(self, now: float) -> None:
        """Send what waits in the outbox, then what has to be re-asserted, as far as the window allows."""
        if self.transport is None or not self.open:
            return
        room = WINDOW - len(self._in_flight)
        with self._store.read() as tx:
            rows = list(documents.waiting(tx, self._sent_up_to, room))
            again = list(self._reassertion.due(tx, room - len(rows), now))
        rows += [Publication(0, topic, payload, True, 1) for topic, payload in again]
        new = self._reassertion.to_subscribe(row.topic for row in rows if row.retained)
        self.transport.subscribe(self._house.whole(topic) for topic in new)
        for row in rows:
            if not self._send(self.transport, row, now):
                return

    def _send(self, transport: Transport, row: Publication, now: float) -> bool:
        topic = self._house.whole(row.topic)
        mid = transport.publish(topic, row.payload, retained=row.retained, qos=row.qos)
        if mid is None:
            # The connection is gone; that it has ended will be told. The next one begins from the store.
            self._session = None
            return False
        self._sent_up_to = max(self._sent_up_to, row.id)
        if row.retained:
            self._reassertion.sent(row.topic, row.payload, now)
        self._in_flight[mid] = row.id
        return True

    def farewell(self, now: float, take: Callable[[float], Iterable[object]]) -> None:
        """Say that the manager is offline, and wait until the broker has it.

        take: what happens meanwhile, waited for so many seconds at most.
        """
        if self.transport is None or not self.connected:
            return
        offline = Publication(0, reassert.PRESENCE, reassert.OFFLINE, True, 1)
        if not self._send(self.transport, offline, now):
            return
        end = time.monotonic() + _FAREWELL_SECONDS
        while self._in_flight and (left := end - time.monotonic()) > 0:
            for item in take(left):
                self.note(item)

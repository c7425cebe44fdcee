"""What the broker says, coalesced: of every retained topic only the newest message waits to be looked at.

paho's thread puts messages in, the console takes them out ten times a second, as many as it has time for.
What is too large, or too much, is dropped and counted; nothing here grows without bound.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from fleetfoot_client.link import Link
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Topic
from fleetfoot_tui.model import subscriptions

MAX_BYTES = 256 << 10
#: Somebody looks at the screen: seconds between two attempts to come back, at most.
_PATIENCE = 3
_TOPICS = 500_000
_EVENTS = 20_000
#: Topics are parsed once; past this many the memory of them is begun anew.
_PARSED = 300_000


class Inbox:
    """Messages that wait. Safe to fill from another thread."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._newest: OrderedDict[str, tuple[bytes, bool]] = OrderedDict()
        self._events: deque[tuple[str, bytes]] = deque()
        self._parsed: dict[str, Topic | None] = {}
        self.dropped = 0
        #: Moment of the last message on the monotonic clock, None before the first.
        self.last: float | None = None

    def put(self, topic: str, payload: bytes, retained: bool) -> None:
        """One message, from any thread."""
        self.last = time.monotonic()
        with self._lock:
            if len(payload) > MAX_BYTES:
                self.dropped += 1
            elif topic.endswith("/events"):
                if len(self._events) >= _EVENTS:
                    self._events.popleft()
                    self.dropped += 1
                self._events.append((topic, payload))
            elif len(self._newest) < _TOPICS or topic in self._newest:
                self._newest[topic] = (payload, retained)
            else:
                self.dropped += 1

    def __len__(self) -> int:
        return len(self._newest) + len(self._events)

    def drain(self, seconds: float, first: Iterable[str] = ()) -> Iterator[tuple[Topic, bytes, bool]]:
        """Messages in the order of their topics' arrival, until `seconds` have passed or none is left.

        Before all others, and in any case, those of the topics `first`: what somebody looks at.
        """
        end = time.monotonic() + seconds
        with self._lock:
            urgent = [(text, self._newest.pop(text)) for text in first if text in self._newest]
        for text, (payload, retained) in urgent:
            topic = self._topic(text)
            if topic is not None:
                yield topic, payload, retained
        while self._newest or self._events:
            for text, payload, retained in self._batch():
                topic = self._topic(text)
                if topic is not None:
                    yield topic, payload, retained
            if time.monotonic() > end:
                return

    def _batch(self) -> list[tuple[str, bytes, bool]]:
        with self._lock:
            found = []
            for _ in range(min(50, len(self._newest))):
                text, (payload, retained) = self._newest.popitem(last=False)
                found.append((text, payload, retained))
            for _ in range(min(50, len(self._events))):
                text, payload = self._events.popleft()
                found.append((text, payload, False))
            return found

    def _topic(self, text: str) -> Topic | None:
        if text not in self._parsed:
            if len(self._parsed) >= _PARSED:
                self._parsed.clear()
            self._parsed[text] = topics.parse(text, root=self.root)
        return self._parsed[text]


class Feed(Inbox):
    """An inbox that a broker fills as soon as it is there, and whenever it is back. Use it in a `with`."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile.topic_root)
        self._link = Link(profile, self.put, patience=_PATIENCE)

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._link.connected

    @property
    def trouble(self) -> str:
        """What the broker refused, empty if nothing."""
        return self._link.trouble

    def __enter__(self) -> "Feed":
        self._link.begin(subscriptions(self.root))
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

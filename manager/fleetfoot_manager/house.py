"""What stays the same while a manager runs: its folder, its key and root, where it serves."""

import random
import string
from dataclasses import dataclass, field
from pathlib import Path

from fleetfoot_manager.catalogue import Blobs
from fleetfoot_manager.director import Director
from fleetfoot_manager.faults import Faults
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_protocol import topics
from fleetfoot_protocol.trust import TrustRoot

_LETTERS = string.ascii_lowercase + string.digits
_NAME_LENGTH = 10


@dataclass(frozen=True)
class House:
    """artifacts: base URL of the artifact server; mirror: base URL that documents name to devices.

    broker: where the broker is, in words; started: unix seconds; topic_root: before `/v1/`.
    pki: certificates, if there are any; enrolment: base URL at which devices enrol and renew, if they can.
    entropy: where names, ids of events and jitter come from.
    """

    folder: Path
    director: Director
    blobs: Blobs
    artifacts: str
    mirror: str
    broker: str
    started: float
    topic_root: str = topics.DEFAULT_ROOT
    faults: Faults = field(default_factory=Faults)
    pki: Pki | None = None
    enrolment: str | None = None
    entropy: random.Random = field(default_factory=random.SystemRandom)

    def name(self, prefix: str) -> str:
        """A new name that nobody can guess."""
        return prefix + "".join(self.entropy.choice(_LETTERS) for _ in range(_NAME_LENGTH))

    @property
    def root(self) -> TrustRoot:
        """The trust root that is in force."""
        return self.director.root

    @property
    def fleet(self) -> str:
        """The fleet's id."""
        return self.director.root.fleet

    def whole(self, topic: str) -> str:
        """A topic as it goes to the broker."""
        return f"{self.topic_root}/{topics.VERSION}/{topic}"

    def parse(self, topic: str) -> topics.Topic | None:
        """What a topic from the broker is, or None."""
        return topics.parse(topic, root=self.topic_root)

    def short(self, topic: str) -> str:
        """A topic from the broker without root and version."""
        return topic.removeprefix(f"{self.topic_root}/{topics.VERSION}/")

"""What a broker retains of a fleet, collected once: for `fleetfoot manager recover`."""

import queue
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from fleetfoot_manager.broker_address import Address, Credentials
from fleetfoot_manager.happenings import Arrived, Happening, Subscribed
from fleetfoot_manager.mqtt import MqttTransport
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.topics import Kind

_KINDS = (
    Kind.GROUP_DESIRED,
    Kind.DEVICE_DESIRED,
    Kind.PROBE,
    Kind.STATUS,
    Kind.STATUS_ATTESTATION,
    Kind.ROLLOUT,
    Kind.ROLLOUT_ATTESTATION,
    Kind.RELEASE,
    Kind.AUDIT_HEAD,
)


@dataclass
class _Collector:
    happenings: "queue.Queue[Happening]" = field(default_factory=queue.Queue)

    def __call__(self, items: Sequence[Happening]) -> None:
        for item in items:
            self.happenings.put(item)


def collect(
    address: Address, credentials: Credentials, topic_root: str, *, quiet: float, limit: float
) -> dict[str, bytes]:
    """Retained payloads by topic without root and version, once none has come for `quiet` seconds.

    Raises FleetfootError `broker_unreachable` if nothing is heard of the broker for `limit` seconds.
    """
    prefix = f"{topic_root}/{topics.VERSION}/"
    collector = _Collector()
    # Under another name than the manager's, so that neither ends the other; its Will is nobody's topic.
    name = f"fleetfoot-recover-{secrets.token_hex(4)}"
    transport = MqttTransport(address, name, f"{prefix}manager/recovering", collector, credentials)
    transport.start()
    found: dict[str, bytes] = {}
    subscribed, end = False, time.monotonic() + limit
    try:
        while True:
            try:
                item = collector.happenings.get(timeout=quiet)
            except queue.Empty:
                if subscribed:
                    return found
                if time.monotonic() > end:
                    raise FleetfootError(
                        "broker_unreachable", f"the broker at {address.host}:{address.port} does not answer"
                    ) from None
                continue
            if isinstance(item, Arrived):
                if item.retained and item.payload and item.topic.startswith(prefix):
                    found[item.topic.removeprefix(prefix)] = item.payload
            elif isinstance(item, Subscribed):
                subscribed = True
            elif type(item).__name__ == "Connected":
                transport.subscribe(topics.subscription(kind, root=topic_root) for kind in _KINDS)
    finally:
        transport.stop()

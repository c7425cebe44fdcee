"""The worker's memory and spool without a disk, so that the worker's own reader and planner run on them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from fleetfoot_agent.spool import SpooledMessage, Want, WorkerSide
from fleetfoot_agent.worker.memory import DeviceKey, Memory
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired
from fleetfoot_protocol.trust import TrustRoot


class RamMemory(Memory):
    """What a worker never forgets. It survives a crash of the device, as the disk would."""

    def __init__(self, key: bytes, root: TrustRoot, incarnation: str) -> None:
        self.folder = self.docs = Path("/nowhere")
        self.key = DeviceKey(key)
        self.root = root
        self.incarnation = incarnation
        self.alarms = set()
        self.lost_events = 0
        self.read_root = root.version
        self._floors = {}
        self._crashed = {}
        self._counter = 0
        self._documents: dict[str, bytes] = {}
        self._desired: dict[bytes, tuple[Desired, str] | None] = {}

    def save(self) -> None:
        """Nothing here can be lost."""

    def next_counter(self) -> int:
        """A number that was never used before."""
        self._counter += 1
        return self._counter

    def set_alarm(self, code: Code, standing: bool) -> bool:
        """Let an alarm stand or fall."""
        before = set(self.alarms)
        (self.alarms.add if standing else self.alarms.discard)(str(code))
        return self.alarms != before

    def begin_input(self, digest: str) -> bool:
        """No input kills this worker by being parsed."""
        return True

    def end_inputs(self) -> None:
        """As `begin_input`."""

    def store(self, name: str, data: bytes) -> None:
        """Keep an envelope."""
        self._documents[name] = data

    def forget(self, name: str) -> None:
        """Drop an envelope."""
        self._documents.pop(name, None)

    def envelope(self, name: str) -> bytes | None:
        """A kept envelope."""
        return self._documents.get(name)

    def desired(self, scope: str, component: str) -> tuple[Desired, str] | None:
        """As the worker's; the root stays the same, so that each envelope is verified once."""
        data = self._documents.get(f"{scope}.{component}", b"")
        if data not in self._desired:
            self._desired[data] = super().desired(scope, component)
        return self._desired[data]

    def forget_documents(self) -> None:
        """Drop everything that belongs to a group, as a device does that is set up for another one."""
        self._documents = {n: data for n, data in self._documents.items() if n.startswith("manifest.")}


class RamSpool(WorkerSide):
    """What the courier has put down and the worker has not read yet."""

    def __init__(self) -> None:
        self.root = Path("/nowhere")
        self._unread: list[SpooledMessage] = []
        self._arrival = 0

    def put(self, slot: str, payload: bytes) -> None:
        """What the courier does with a message."""
        self._arrival += 1
        self._unread.append(SpooledMessage(slot, self._arrival, payload, unread=True))

    def clear(self) -> None:
        """Forget what was not read."""
        self._unread = []

    def slots(self, known: Iterable[str] = ()) -> list[str]:
        """The slots that hold something."""
        return sorted({message.slot for message in self._unread})

    def messages(self, slot: str) -> list[SpooledMessage]:
        """The messages of a slot, oldest first."""
        return [message for message in self._unread if message.slot == slot]

    def mark_seen(self, arrivals: Mapping[str, int]) -> None:
        """Drop what was read."""
        self._unread = [m for m in self._unread if m.arrival > arrivals.get(m.slot, 0)]

    def want(self) -> Want:
        """Manifests are brought without being listed: the shell asks the broker itself."""
        return Want()

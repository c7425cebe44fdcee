"""A fleet of simulated devices at a broker: connections, presence, and what each is told and says."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fleetfoot_agent.courier.tuning import Tuning
from fleetfoot_protocol import topics
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.load.device import Counts, Place, SimulatedDevice
from fleetfoot_sim.load.mqtt import KEEPALIVE_SECONDS, Connection
from fleetfoot_sim.load.shapes import Shapes, nature_of
from fleetfoot_sim.load.verifier import Verifier

#: Connections that are being made at the same time.
_AT_ONCE = 200
#: Connections from one address of loopback: a socket that has just been closed keeps its port for a minute.
_PER_ADDRESS = 4000
_RETRY_SECONDS = (0.5, 5.0)
_FLAP_SECONDS = (3.0, 10.0)
#: What a courier does with a broker that loses things, devices here do too: without any acknowledgement for
#: so long a connection is held for lost, and manifests that do not come are asked for again.
_COURIER = Tuning()
#: Twice within what the broker was told.
_PING_SECONDS = KEEPALIVE_SECONDS / 2
#: How often a connection is looked at, thousands of them: half of the shortest time that is waited for.
_LOOK_SECONDS = 15.0


@dataclass(frozen=True)
class Plan:
    """What a fleet is. connections: 0 for one of each device, else devices share so many. terse: devices say
    nothing when another document has got the same answer."""

    host: str
    port: int
    place: Place
    devices: int
    seed: int = 1
    prefix: str = "sim"
    shapes: Shapes = field(default_factory=Shapes)
    connections: int = 0
    running: Installed | None = None
    terse: bool = False

    def names(self) -> list[str]:
        """The ids of the devices, in their order."""
        width = max(4, len(str(self.devices)))
        return [f"{self.prefix}-{number:0{width}}" for number in range(1, self.devices + 1)]


async def _unanswered(connection: Connection) -> bool:
    """Whether an acknowledgement is overdue, by all that has come: to tell a large fleet something keeps this
    loop from reading for longer than a courier would wait."""
    if not connection.overdue(_COURIER.ack_timeout):
        return False
    for _ in range(2):  # the loop looks at the sockets, then what it found is taken in
        await asyncio.sleep(0)
    return connection.overdue(_COURIER.ack_timeout)


class Link:
    """A connection with the devices that share it; kept up until `stop`."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        self._fleet = fleet
        self._number = number
        self.devices: list[SimulatedDevice] = []
        self.connection: Connection | None = None
        #: Where each of them gets orders of its own.
        self._own: dict[str, SimulatedDevice] = {}
        #: Manifests that this connection has subscribed to: empty until they come.
        self._manifests: dict[str, bytes] = {}

    def add(self, device: SimulatedDevice) -> None:
        """One more that shares it; before `run`."""
        place = self._fleet.plan.place
        self.devices.append(device)
        own = topics.build(
            Kind.DEVICE_DESIRED,
            root=place.topic_root,
            group=place.group,
            device=device.id,
            component=place.component,
        )
        self._own[own] = device

    @property
    def up(self) -> bool:
        """Whether the broker has accepted it."""
        return self.connection is not None and self.connection.up

    async def run(self) -> None:
        """Connect, stay, connect again. Ends when cancelled."""
        plan = self._fleet.plan
        first = self.devices[0]
        # No secret: it spreads reconnections.
        draw = random.Random(f"{plan.seed}/{first.id}/link")  # noqa: S311
        await asyncio.sleep(first.nature.away)
        while True:
            try:
                await self._once(draw if first.nature.flaps else None)
            except OSError:
                self._fleet.failures += 1
            await asyncio.sleep(draw.uniform(*_RETRY_SECONDS))

    async def _once(self, flaps: random.Random | None) -> None:
        plan, first = self._fleet.plan, self.devices[0]
        will = (self.topic(Kind.PRESENCE, first), b"offline")
        connection = Connection(first.id, self._receive, will=will)
        local = f"127.{1 + self._number // _PER_ADDRESS}.0.1" if plan.host.startswith("127.") else None
        async with self._fleet.connecting:
            await connection.open(plan.host, plan.port, local)
        self.connection = connection
        self._manifests.clear()
        place = plan.place
        shared = (
            topics.build(kind, root=place.topic_root, group=place.group, component=place.component)
            for kind in (Kind.GROUP_DESIRED, Kind.PROBE)
        )
        connection.subscribe([*shared, *self._own])
        for device in self.devices:
            connection.publish(self.topic(Kind.PRESENCE, device), b"online", retain=True)
            device.say()
            for digest in device.lacks:
                self.want(device, digest)
        await self._stay(connection, flaps)

    async def _stay(self, connection: Connection, flaps: random.Random | None) -> None:
        """Keep the connection alive until it ends, or, if the device flaps, for some seconds."""
        loop = asyncio.get_running_loop()
        lost = loop.time() + flaps.uniform(*_FLAP_SECONDS) if flaps is not None else float("inf")
        ping, again = loop.time() + _PING_SECONDS, loop.time() + _COURIER.ask_again
        while connection.over is not None and not connection.ended:
            wait = min(_LOOK_SECONDS, min(lost, ping, again) - loop.time())
            done, _ = await asyncio.wait((connection.over,), timeout=max(0.0, wait))
            now = loop.time()
            if done:
                return
            if now >= lost or await _unanswered(connection):
                connection.abort()
                lost = float("inf")
                continue
            if now >= ping:
                ping = now + _PING_SECONDS
                connection.ping()
            if now >= again:
                again = now + _COURIER.ask_again
                connection.subscribe(topic for topic, came in self._manifests.items() if not came)

    def topic(self, kind: Kind, device: SimulatedDevice) -> str:
        """A topic of a device."""
        place = self._fleet.plan.place
        return topics.build(kind, root=place.topic_root, group=place.group, device=device.id)

    def publish(self, device: SimulatedDevice, kind: Kind, payload: bytes) -> None:
        """Say something in a device's name; nothing without a connection."""
        if self.connection is not None and self.connection.up:
            self.connection.publish(self.topic(kind, device), payload, retain=True)

    def want(self, device: SimulatedDevice, digest: str) -> None:
        """Ask for a manifest; what this connection has had already is given at once."""
        place = self._fleet.plan.place
        topic = topics.build(Kind.RELEASE, root=place.topic_root, component=place.component, digest=digest)
        if self._manifests.get(topic):
            device.given(self._manifests[topic])
        elif self.up and self.connection is not None and topic not in self._manifests:
            self._manifests[topic] = b""
            self.connection.subscribe([topic])

    def _receive(self, topic: str, payload: bytes, _retained: bool) -> None:
        if not payload:
            return
        if "/releases/" in topic:
            self._manifests[topic] = payload
            for device in self.devices:
                device.given(payload)
        elif "/probe/" in topic:
            for device in self.devices:
                device.asked(payload)
        elif (one := self._own.get(topic)) is not None:
            one.told(payload)
        else:
            for device in self.devices:
                device.told(payload)


class Fleet:
    """All of them, in this process and on this loop. `failures`: connections that did not come about."""

    def __init__(self, plan: Plan, verifier: Verifier) -> None:
        self.plan = plan
        self.verifier = verifier
        self.counts = Counts()
        self.failures = 0
        self.connecting = asyncio.Semaphore(_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        self.links = [Link(self, number) for number in range(plan.connections or plan.devices)]
        for number, name in enumerate(plan.names()):
            link = self.links[number % len(self.links)]
            link.add(self._device(name, link))
        self.links = [link for link in self.links if link.devices]

    def _device(self, name: str, link: Link) -> SimulatedDevice:
        plan = self.plan
        device: SimulatedDevice | None = None

        def publish(kind: Kind, payload: bytes) -> None:
            if device is not None:
                link.publish(device, kind, payload)

        def want(digest: str) -> None:
            if device is not None:
                link.want(device, digest)

        nature = nature_of(plan.shapes, plan.seed, name)
        device = SimulatedDevice(
            name,
            plan.seed,
            nature,
            plan.place,
            self.verifier,
            self.counts,
            publish,
            want,
            _later,
            plan.running,
            terse=plan.terse,
        )
        return device

    @property
    def devices(self) -> Iterable[SimulatedDevice]:
        """Every device."""
        return (device for link in self.links for device in link.devices)

    def connected(self) -> int:
        """How many connections stand."""
        return sum(link.up for link in self.links)

    def current(self, digest: str) -> int:
        """How many devices run a release."""
        return sum(d.memory.run is not None and d.memory.run.digest == digest for d in self.devices)

    def settled(self) -> bool:
        """Whether the broker has acknowledged everything."""
        return all(link.connection is not None and link.connection.unacknowledged == 0 for link in self.links)

    def start(self) -> None:
        """Let every device connect."""
        self._tasks = [asyncio.create_task(link.run()) for link in self.links]

    async def stop(self) -> None:
        """Let every device leave in order."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self.links:
            if link.connection is not None:
                link.connection.close()
        await asyncio.sleep(0)


def _later(seconds: float, act: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, act)

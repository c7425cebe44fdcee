"""A proxy between clients and a sound broker that gets exactly one thing wrong."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from fleetfoot_client.broker.wire import Packet, Type, message_of, take_packet

#: What becomes of one packet: nothing, itself, several.
Change = Callable[[Packet], Iterable[Packet]]


def unchanged(packet: Packet) -> Iterable[Packet]:
    return (packet,)


def without_retained(packet: Packet) -> Iterable[Packet]:
    """To clients: what was retained is lost."""
    return () if packet.type == Type.PUBLISH and message_of(packet).retained else (packet,)


def twice(packet: Packet) -> Iterable[Packet]:
    """To clients: every message comes again."""
    return (packet, packet) if packet.type == Type.PUBLISH else (packet,)


class Swapping:
    """To clients: of messages that come together, each second one overtakes the one before."""

    def __init__(self) -> None:
        self._held: Packet | None = None

    def __call__(self, packet: Packet) -> Iterable[Packet]:
        if packet.type != Type.PUBLISH:
            return (*self.rest(), packet)
        if self._held is None:
            self._held = packet
            return ()
        return (packet, *self.rest())

    def rest(self) -> Iterable[Packet]:
        held, self._held = self._held, None
        return () if held is None else (held,)


class Disorder(Swapping):
    """To clients: everything twice, and out of order."""

    def __call__(self, packet: Packet) -> Iterable[Packet]:
        return [copy for out in super().__call__(packet) for copy in twice(out)]


def without_keepalive(packet: Packet) -> Iterable[Packet]:
    """To the broker: nobody promises a sign of life."""
    if packet.type != Type.CONNECT:
        return (packet,)
    at = 2 + struct.unpack_from(">H", packet.body)[0] + 2
    return (Packet(packet.type, packet.flags, packet.body[:at] + b"\0\0" + packet.body[at + 2 :]),)


def lossy() -> Change:
    """To clients: every seventh message is lost."""
    count = iter(range(1, 1 << 30))

    def change(packet: Packet) -> Iterable[Packet]:
        return () if packet.type == Type.PUBLISH and next(count) % 7 == 0 else (packet,)

    return change


@dataclass
class Fault:
    """Makes the changes of one connection: (to the broker, to the client)."""

    to_broker: Callable[[], Change] = lambda: unchanged
    to_client: Callable[[], Change] = lambda: unchanged


class Proxy:
    """Listens on loopback while it is entered; `fault` befalls every connection."""

    def __init__(self, target: int, fault: Fault, port: int = 0) -> None:
        self._target = target
        self._fault = fault
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, name="proxy")]
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(10)
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [here, there]
            for source, sink, change in (
                (here, there, self._fault.to_broker()),
                (there, here, self._fault.to_client()),
            ):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=_carry, args=(source, sink, change), name="proxy")
                self._threads.append(thread)
                thread.start()


def _carry(source: socket.socket, sink: socket.socket, change: Change) -> None:
    """Carry packets until one side ends. What is held back goes on when nothing else comes."""
    buffer = bytearray()
    source.settimeout(0.05 if isinstance(change, Swapping) else None)
    with contextlib.suppress(OSError):
        while True:
            try:
                piece = source.recv(65536)
            except TimeoutError:
                assert isinstance(change, Swapping)
                sink.sendall(b"".join(packet.encode() for packet in change.rest()))
                continue
            if not piece:
                break
            buffer += piece
            while (packet := take_packet(buffer)) is not None:
                sink.sendall(b"".join(out.encode() for out in change(packet)))
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "drops_retained": (
        Fault(to_client=lambda: without_retained),
        {"retained_exact", "retained_wildcard", "retained_reconnect", "will_retained"},
    ),
    "duplicates": (Fault(to_client=lambda: twice), {"duplicates"}),
    "reorders": (Fault(to_client=Swapping), {"ordering"}),
    "ignores_keepalive": (Fault(to_broker=lambda: without_keepalive), {"keepalive"}),
    "loses": (Fault(to_client=lossy), {"acknowledged_kept", "ordering", "slow_consumer"}),
}

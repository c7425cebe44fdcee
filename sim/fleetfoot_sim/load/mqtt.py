"""MQTT 3.1.1, as little of it as thousands of connections in one process need (OASIS standard, section 3).

A client library costs a thread or tens of KiB for each connection; this costs about 2 KiB. It connects with a
clean session, subscribes and publishes with QoS 1, and tells what came. It never queues: its owner does. What
it may not subscribe to it asks for again, as a courier does: a cluster without a leader refuses for a moment.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Iterable

from fleetfoot_agent.courier.timing import full_jitter

#: (topic, payload, retained)
Receive = Callable[[str, bytes, bool], None]

_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 0x20, 0x30, 0x40, 0x90
_FAILURE = 0x80
#: A broker gives up who is silent for one and a half times as long.
KEEPALIVE_SECONDS = 600
#: Seconds until what was refused is asked for again: at random, below the first at first, then the second.
_AGAIN = (1.0, 60.0)
_PINGREQ, _DISCONNECT = b"\xc0\x00", b"\xe0\x00"


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data


def _packet(kind: int, body: bytes) -> bytes:
    length, out = len(body), bytearray([kind])
    while True:
        length, digit = length >> 7, length & 0x7F
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


def connect_packet(
    client_id: str, *, will: tuple[str, bytes] | None = None, keepalive: int = KEEPALIVE_SECONDS
) -> bytes:
    """CONNECT with a clean session; `will`: topic and payload of a retained Will with QoS 1."""
    flags = 2 | (0x2C if will else 0)
    body = _text("MQTT") + bytes([4, flags]) + struct.pack("!H", keepalive) + _text(client_id)
    if will:
        body += _text(will[0]) + struct.pack("!H", len(will[1])) + will[1]
    return _packet(0x10, body)


def publish_packet(topic: str, payload: bytes, mid: int, *, retain: bool) -> bytes:
    """PUBLISH with QoS 1, or 0 where `mid` is 0."""
    kind = _PUBLISH | (2 if mid else 0) | retain
    return _packet(kind, _text(topic) + (struct.pack("!H", mid) if mid else b"") + payload)


class Connection(asyncio.Protocol):
    """One client. `up` is set by CONNACK, `ended` when the connection is over; `unacknowledged` counts.

    granted: subscriptions that the broker has granted; refusals: answers in a row that refused one. over:
    done when the connection has ended. It is for the owner to `ping` within KEEPALIVE_SECONDS.
    """

    __slots__ = (
        "_again",
        "_asked",
        "_buffer",
        "_connect",
        "_heard",
        "_mid",
        "_receive",
        "_refused",
        "_waiting",
        "bytes_in",
        "ended",
        "granted",
        "over",
        "received",
        "refusals",
        "transport",
        "unacknowledged",
        "up",
    )

    def __init__(
        self,
        client_id: str,
        receive: Receive,
        *,
        will: tuple[str, bytes] | None = None,
        keepalive: int = KEEPALIVE_SECONDS,
    ) -> None:
        self._connect = connect_packet(client_id, will=will, keepalive=keepalive)
        self._receive = receive
        self._buffer = b""
        self._mid = 0
        self._asked: dict[int, list[str]] = {}
        self._refused: list[str] = []
        self._again: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._waiting: asyncio.Future[None] | None = None
        self.over: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.up = False
        self.refusals = 0
        self.ended = False
        self.unacknowledged = 0
        self.granted = 0
        self.received = 0
        self.bytes_in = 0

    # -- for the owner

    async def open(self, host: str, port: int, local: str | None, timeout: float = 30.0) -> None:
        """Connect. Raises OSError, also if the broker refuses or does not answer."""
        loop = asyncio.get_running_loop()
        self.over = loop.create_future()
        self._waiting = loop.create_future()
        await loop.create_connection(
            lambda: self, host, port, local_addr=None if local is None else (local, 0)
        )
        try:
            await asyncio.wait_for(self._waiting, timeout)
        except TimeoutError:
            self.abort()
            raise ConnectionError("the broker does not answer") from None
        finally:
            self._waiting = None

    def subscribe(self, filters: Iterable[str]) -> None:
        """Ask for these with QoS 1."""
        wanted = list(filters)
        if wanted:
            self._begin_to_wait()
            mid = self._next()
            self._asked[mid] = wanted
            body = b"".join(_text(one) + b"\x01" for one in wanted)
            self._write(_packet(0x82, struct.pack("!H", mid) + body))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Send a message."""
        mid = self._next() if qos else 0
        if qos:
            self._begin_to_wait()
            self.unacknowledged += 1
        self._write(publish_packet(topic, payload, mid, retain=retain))

    def ping(self) -> None:
        """Keep the connection alive."""
        self._write(_PINGREQ)

    def close(self) -> None:
        """Leave in order: no Will."""
        self._write(_DISCONNECT)
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Vanish: the broker sends the Will."""
        if self.transport is not None:
            self.transport.abort()

    def overdue(self, seconds: float) -> bool:
        """Whether an answer is owed and none has come for so long: a cluster loses some with its leader."""
        owed = self.unacknowledged > 0 or bool(self._asked)
        return owed and time.monotonic() - self._heard > seconds

    def _begin_to_wait(self) -> None:
        if self.unacknowledged <= 0 and not self._asked:
            self._heard = time.monotonic()

    def _answered(self, mid: int, codes: bytes) -> None:
        """Take a SUBACK; what it refuses is asked for again after a pause, all at once."""
        self._heard = time.monotonic()
        asked = self._asked.pop(mid, [])
        refused = [name for name, code in zip(asked, codes, strict=False) if code & _FAILURE]
        self.granted += len(asked) - len(refused)
        self.refusals = self.refusals + 1 if refused else 0
        self._refused += refused
        if refused and self._again is None:
            pause = full_jitter(self.refusals, *_AGAIN)
            self._again = asyncio.get_running_loop().call_later(pause, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        names, self._refused = self._refused, []
        if not self.ended:
            self.subscribe(names)

    def _next(self) -> int:
        self._mid = self._mid % 65535 + 1
        return self._mid

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.ended:
            self.transport.write(data)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_connection gives
        self.transport = transport
        transport.write(self._connect)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.up = True, False
        if self.over is not None and not self.over.done():
            self.over.set_result(None)
        if self._again is not None:
            self._again.cancel()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the broker ended the connection"))

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        buffer = self._buffer + data if self._buffer else data
        at, acknowledgements = 0, bytearray()
        while True:
            end = _end_of(buffer, at)
            if end is None:
                break
            start, stop = end
            self._handle(buffer[at], buffer, start, stop, acknowledgements)
            at = stop
        self._buffer = buffer[at:]
        if acknowledgements:
            self._write(bytes(acknowledgements))

    def _handle(self, first: int, data: bytes, start: int, stop: int, acknowledgements: bytearray) -> None:
        kind = first & 0xF0
        if kind == _PUBLISH:
            length = data[start] << 8 | data[start + 1]
            body = start + 2 + length
            topic = data[start + 2 : body].decode()
            if first & 6:
                acknowledgements += b"\x40\x02" + data[body : body + 2]
                body += 2
            self.received += 1
            self._receive(topic, data[body:stop], bool(first & 1))
        elif kind == _PUBACK:
            self._heard = time.monotonic()
            self.unacknowledged -= 1
        elif kind == _SUBACK:
            self._answered(data[start] << 8 | data[start + 1], data[start + 2 : stop])
        elif kind == _CONNACK:
            self.up = data[start + 1] == 0
            if self._waiting is not None and not self._waiting.done():
                if self.up:
                    self._waiting.set_result(None)
                else:
                    self._waiting.set_exception(ConnectionRefusedError("the broker refuses the connection"))


def _end_of(data: bytes, at: int) -> tuple[int, int] | None:
    """(begin of the body, end) of the packet at `at`, None while it is not whole; ValueError if none."""
    length, shift, i = 0, 0, at + 1
    while True:
        if i >= len(data):
            return None
        length |= (data[i] & 0x7F) << shift
        if not data[i] & 0x80:
            break
        shift, i = shift + 7, i + 1
        if shift > 21:
            raise ValueError("no MQTT packet")
    stop = i + 1 + length
    return (i + 1, stop) if stop <= len(data) else None

"""A small MQTT client, for looking closely at a broker: it does what it is told and nothing by itself.

No thread, no keep-alive, no acknowledgement, no reconnecting that nobody asked for: whatever a real client
would hide (a message sent twice, a broker that hangs up) is what the checks are about. MQTT 3.1.1, and as
much of 5 as it takes to be told why something is refused.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

V311 = 4
V5 = 5
#: No more than this is read for one packet: nothing we send is as large.
_MAX_PACKET = 1 << 20
#: A reason code from here on is a refusal (MQTT 5, section 2.4); so is 0x80 in a SUBACK of 3.1.1.
REFUSED = 0x80


class Type(IntEnum):
    """Packet types, MQTT 3.1.1 table 2.1."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class ClosedError(Exception):
    """The broker has ended the connection, or sent what is no MQTT."""


class SilentError(Exception):
    """What was waited for did not come in time."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it came: type, the four flag bits, and the rest."""

    type: int
    flags: int
    body: bytes

    def encode(self) -> bytes:
        """The packet as it goes over the wire."""
        return bytes([self.type << 4 | self.flags]) + _length(len(self.body)) + self.body


@dataclass(frozen=True, slots=True)
class Message:
    """A PUBLISH that arrived. `mid` is 0 with QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    again: bool
    mid: int


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker is to publish (QoS 1) when the connection ends without a word."""

    topic: str
    payload: bytes
    retained: bool = False


def _length(count: int) -> bytes:
    out = bytearray()
    while True:
        count, digit = divmod(count, 128)
        out.append(digit | (128 if count else 0))
        if not count:
            return bytes(out)


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def take_packet(buffer: bytearray) -> Packet | None:
    """Remove the first whole packet from `buffer`; None if there is none yet. Raises `ClosedError`."""
    length, shift, position = 0, 0, 1
    while True:
        if position >= len(buffer):
            return None
        digit = buffer[position]
        length |= (digit & 127) << shift
        shift += 7
        position += 1
        if not digit & 128:
            break
        if shift > 21:
            raise ClosedError("what it sends is no MQTT")
    if length > _MAX_PACKET:
        raise ClosedError(f"a packet of {length} bytes")
    if len(buffer) < position + length:
        return None
    packet = Packet(buffer[0] >> 4, buffer[0] & 15, bytes(buffer[position : position + length]))
    del buffer[: position + length]
    return packet


def message_of(packet: Packet, version: int = V311) -> Message:
    """The message in a PUBLISH. Raises `ClosedError` for what is none."""
    qos = packet.flags >> 1 & 3
    try:
        (size,) = struct.unpack_from(">H", packet.body)
        topic = packet.body[2 : 2 + size].decode()
        at, mid = 2 + size, 0
        if qos:
            (mid,) = struct.unpack_from(">H", packet.body, at)
            at += 2
        if version == V5:
            at += 1 + packet.body[at]  # properties: ours are always shorter than 128 bytes
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise ClosedError("what it sends is no MQTT") from error
    return Message(topic, packet.body[at:], qos, bool(packet.flags & 1), bool(packet.flags & 8), mid)


class Peer:
    """One connection, made and accepted on construction. Raises OSError, `ClosedError`, `SilentError`.

    refusal: the broker's return code if it refused the CONNECT (then nothing else may be called), else 0.
    timeout: seconds that anything may take.
    """

    def __init__(
        self,
        address: tuple[str, int],
        client_id: str,
        *,
        timeout: float,
        tls: ssl.SSLContext | None = None,
        username: str | None = None,
        password: str | None = None,
        clean: bool = True,
        keepalive: int = 60,
        will: Will | None = None,
        version: int = V311,
        receive_buffer: int | None = None,
    ) -> None:
        self.version = version
        self.timeout = timeout
        self._buffer = bytearray()
        self._messages: deque[Message] = deque()
        self._others: deque[Packet] = deque()
        self._next = 0
        self._socket = _connect(address, timeout, tls, receive_buffer)
        try:
            self._send(_connect_packet(client_id, username, password, clean, keepalive, will, version))
            answer = self._await(Type.CONNACK)
            self.refusal = answer.body[1] if len(answer.body) > 1 else REFUSED
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    @property
    def tls_version(self) -> str:
        """Such as `TLSv1.3`, empty without TLS."""
        return (self._socket.version() or "") if isinstance(self._socket, ssl.SSLSocket) else ""

    def leave(self) -> None:
        """Disconnect in good order, if still connected."""
        with contextlib.suppress(OSError, ClosedError):  # it has left before us
            self._send(Packet(Type.DISCONNECT, 0, b""))
        self._socket.close()

    def vanish(self) -> None:
        """End the connection without a word: the broker is to publish the Will."""
        self._socket.close()

    def subscribe(self, *filters: str) -> list[int]:
        """Subscribe with QoS 1; what the broker grants, from `REFUSED` on a refusal."""
        mid = self._mid()
        head = struct.pack(">H", mid) + (b"\0" if self.version == V5 else b"")
        self._send(Packet(Type.SUBSCRIBE, 2, head + b"".join(_text(name) + b"\x01" for name in filters)))
        answer = self._await(Type.SUBACK)
        return list(answer.body[3 if self.version == V5 else 2 :])

    def publish(self, topic: str, payload: bytes, *, retained: bool = False, qos: int = 1) -> int:
        """Publish and, with QoS 1, wait for the acknowledgement; its reason code (0 with MQTT 3.1.1)."""
        self.post(topic, payload, retained=retained, qos=qos)
        return self.acknowledgement() if qos else 0

    def post(self, topic: str, payload: bytes, *, retained: bool = False, qos: int = 1) -> None:
        """Publish without waiting."""
        self._send(self._publication(topic, payload, retained, qos))

    def post_all(self, topic: str, payloads: Iterable[bytes]) -> None:
        """Publish with QoS 1, all in one piece, without waiting."""
        self._send(*(self._publication(topic, payload, False, 1) for payload in payloads))

    def _publication(self, topic: str, payload: bytes, retained: bool, qos: int) -> Packet:
        head = _text(topic) + (struct.pack(">H", self._mid()) if qos else b"")
        head += b"\0" if self.version == V5 else b""
        return Packet(Type.PUBLISH, qos << 1 | retained, head + payload)

    def acknowledgement(self) -> int:
        """Wait for one acknowledgement of what was posted; its reason code."""
        answer = self._await(Type.PUBACK)
        return answer.body[2] if len(answer.body) > 2 else 0

    def acknowledge(self, message: Message) -> None:
        """Acknowledge a message that came with QoS 1."""
        if message.qos:
            self._send(Packet(Type.PUBACK, 0, struct.pack(">H", message.mid)))

    def receive(self, timeout: float) -> Message | None:
        """The next message, not acknowledged; None after `timeout` seconds. Raises `ClosedError`."""
        deadline = time.monotonic() + timeout
        while not self._messages:
            if not self._read(deadline):
                return None
        return self._messages.popleft()

    def collect(self, count: int, timeout: float) -> list[Message]:
        """Messages as they come, each acknowledged, until there are `count` or the time is over."""
        deadline = time.monotonic() + timeout
        found: list[Message] = []
        while len(found) < count and (message := self.receive(deadline - time.monotonic())) is not None:
            self.acknowledge(message)
            found.append(message)
        return found

    def ping(self) -> None:
        """Ask for a sign of life, so that everything that the broker sent before has come."""
        self._send(Packet(Type.PINGREQ, 0, b""))
        self._await(Type.PINGRESP)

    def closed_within(self, timeout: float) -> bool:
        """Whether the broker ends the connection in time."""
        deadline = time.monotonic() + timeout
        try:
            while self._read(deadline):
                pass
        except (ClosedError, OSError):
            return True
        return False

    def _mid(self) -> int:
        self._next = self._next % 65535 + 1
        return self._next

    def _send(self, *packets: Packet) -> None:
        self._socket.settimeout(self.timeout)
        try:
            self._socket.sendall(b"".join(packet.encode() for packet in packets))
        except (ConnectionError, ssl.SSLError) as error:
            raise ClosedError("it has ended the connection") from error

    def _await(self, kind: Type) -> Packet:
        deadline = time.monotonic() + self.timeout
        while True:
            for packet in self._others:
                if packet.type == kind:
                    self._others.remove(packet)
                    return packet
            if not self._read(deadline):
                raise SilentError(f"no {kind.name} within {self.timeout:g} s")

    def _read(self, deadline: float) -> bool:
        """Take in one packet; False if none comes until `deadline`."""
        while (packet := take_packet(self._buffer)) is None:
            left = deadline - time.monotonic()
            pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
            if not pending and not (left > 0 and select.select([self._socket], [], [], left)[0]):
                return False
            self._socket.settimeout(max(left, 0.01))
            try:
                piece = self._socket.recv(65536)
            except TimeoutError:
                return False
            except OSError as error:  # a connection reset, or TLS that refuses our certificate
                raise ClosedError(f"it has ended the connection: {error.strerror or error}") from error
            if not piece:
                raise ClosedError("it has ended the connection")
            self._buffer += piece
        if packet.type == Type.PUBLISH:
            self._messages.append(message_of(packet, self.version))
        elif packet.type == Type.DISCONNECT:
            raise ClosedError("it has sent a DISCONNECT")
        else:
            self._others.append(packet)
        return True


def _connect(
    address: tuple[str, int], timeout: float, tls: ssl.SSLContext | None, receive_buffer: int | None
) -> socket.socket:
    if receive_buffer is None:
        plain = socket.create_connection(address, timeout)
    else:
        plain = _small(address, timeout, receive_buffer)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname=address[0])
    except BaseException:
        plain.close()
        raise


def _small(address: tuple[str, int], timeout: float, receive_buffer: int) -> socket.socket:
    """A connection into which little fits; the buffer must be set before it is made."""
    family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    plain = socket.socket(family, kind, protocol)
    try:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(timeout)
        plain.connect(where)
    except BaseException:
        plain.close()
        raise
    return plain


def _connect_packet(
    client_id: str,
    username: str | None,
    password: str | None,
    clean: bool,
    keepalive: int,
    will: Will | None,
    version: int,
) -> Packet:
    flags = 2 if clean else 0
    properties = b"\0" if version == V5 else b""
    body = _text(client_id)
    if will is not None:
        flags |= 4 | 1 << 3 | (32 if will.retained else 0)
        body += properties + _text(will.topic) + _text(will.payload)
    if username is not None:
        flags |= 128
        body += _text(username)
    if password is not None:
        flags |= 64
        body += _text(password)
    head = _text("MQTT") + bytes([version, flags]) + struct.pack(">H", keepalive) + properties
    return Packet(Type.CONNECT, 0, head + body)

"""paho without a thread of its own: the network is read in bursts, and answered in bursts.

paho's own loop looks at the socket anew for every packet and reads each byte by byte: some nine calls into
the kernel for one message, each of which lets the engine's thread take the interpreter away for milliseconds.
Here, paho's functions for a loop of one's own (`loop_read`, `loop_write`, `loop_misc`) are called as long as
there is something to read, the acknowledgements of a burst go out together, and its messages are handed on
as one. What has been read already and is a whole message of QoS 0 or 1 does not take the way through paho's
state of a packet at all: that is most of what a message costs. Everything else, and what is odd, is paho's.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import paho.mqtt.client as mqtt

#: Packets that are read before anything is answered.
BURST = 500
_READ_BYTES = 256 * 1024
_LOOK_SECONDS = 1.0


#: The first byte of a PUBLISH, its bits for "again" and "retained" left out, with QoS 0 and 1; of a PUBACK.
_PLAIN = (0x30, 0x32)
_PUBACK = 0x40
_OURS = hasattr(mqtt.Client, "_packet_queue") and hasattr(mqtt.Client, "_sock_recv")


def next_message(data: bytes, at: int) -> tuple[bytes, bytes, int, bytes, int] | None:
    """The whole PUBLISH that begins there: topic, payload, first byte, number (empty for QoS 0), and its end.

    None for anything else, for what is not whole, and for what a broker may not send.
    """
    size = len(data)
    if at + 2 > size or data[at] & 0xF6 not in _PLAIN:
        return None
    first, length, shift, begin = data[at], 0, 0, at + 1
    while True:
        if begin >= size or shift > 21:
            return None
        byte = data[begin]
        begin += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    end = begin + length
    if end > size or length < 2:
        return None
    body = begin + 2 + (data[begin] << 8 | data[begin + 1])
    number = 2 if first & 0x02 else 0
    if body == begin + 2 or body + number > end:
        return None
    mid = data[body : body + number]
    if mid == b"\0\0":
        return None
    return data[begin + 2 : body], data[body + number : end], first, mid, end


class BufferedClient(mqtt.Client):
    """Reads what is there at once. paho asks for one byte, one byte, and the rest of each packet.

    `taker(topic, payload, retained)` gets what `take_ahead` finds. `_sock_recv`, `_in_packet` and
    `_packet_queue` are not public: without them, in a paho to come, everything works as before, only slower.
    """

    _ahead = memoryview(b"")
    #: Bytes that came from the socket.
    received = 0
    taker: Callable[[bytes, bytes, bool], None] | None = None

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._ahead:
            data = super()._sock_recv(_READ_BYTES)
            self.received += len(data)
            self._ahead = memoryview(data)
        taken, self._ahead = self._ahead[:bufsize], self._ahead[bufsize:]
        return bytes(taken)

    def take_ahead(self) -> None:
        """Hand on the whole messages that come next in what has been read, and acknowledge them together."""
        if self.taker is None or not self._ahead or not _OURS:
            return
        if self._in_packet["command"] or not self.is_connected():
            return
        data = bytes(self._ahead)
        at, acknowledgements = 0, bytearray()
        while (found := next_message(data, at)) is not None:
            topic, payload, first, mid, at = found
            self.taker(topic, payload, bool(first & 1))
            if mid:
                acknowledgements += mid
        self._ahead = self._ahead[at:]
        if acknowledgements:
            pieces = (acknowledgements[i : i + 2] for i in range(0, len(acknowledgements), 2))
            self._packet_queue(_PUBACK, b"".join(b"\x40\x02" + mid for mid in pieces), 0, 0)

    @property
    def has_more(self) -> bool:
        """Whether bytes wait that no look at the socket would tell of."""
        sock = self.socket()
        pending = getattr(sock, "pending", None)  # of a TLS connection
        return bool(self._ahead) or bool(pending and pending())


class NetworkLoop:
    """Runs the network of one client. `packets`: counts what has come; `burst_over`: hand on what came."""

    def __init__(
        self, client: BufferedClient, packets: Callable[[], int], burst_over: Callable[[], None]
    ) -> None:
        self._client = client
        self._packets = packets
        self._burst_over = burst_over
        self._owner = threading.get_ident()
        #: When everything that had come was read last, by the monotonic clock.
        self.read_up_to = time.monotonic()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A number that was closed may be another file's by now: nobody writes to it any more.
        self._open = True
        self._pipe = threading.Lock()
        # With this set, paho writes nothing in the thread of whoever publishes.
        client.on_socket_register_write = self._wanted

    def close(self) -> None:
        """Give the pipe back. Who still publishes through the client wakes nobody."""
        self._client.on_socket_register_write = None
        with self._pipe:
            self._open = False
            os.close(self._wake_read)
            os.close(self._wake_write)

    def wake(self) -> None:
        """Let `turn` look up, from any thread."""
        with self._pipe, suppress(BlockingIOError):  # then it is being woken already
            if self._open:
                os.write(self._wake_write, b"\0")

    def _wanted(self, _client: Any, _data: Any, _sock: Any) -> None:
        if threading.get_ident() != self._owner:
            self.wake()

    def turn(self) -> None:
        """Wait for the network, at most a second; read, hand on, and write."""
        client = self._client
        sock = client.socket()
        if sock is None:
            return
        look = select.poll()
        look.register(self._wake_read, select.POLLIN)
        look.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        ready = dict(look.poll(0))
        if not client.has_more and not ready.get(sock.fileno(), 0) & select.POLLIN:
            self.read_up_to = time.monotonic()
            ready = ready or dict(look.poll(_LOOK_SECONDS * 1000))
        if ready.pop(self._wake_read, 0):
            os.read(self._wake_read, 4096)
        if ready or client.has_more:
            self._read()
        if client.socket() is not None and client.want_write():
            self._write(sock)
        client.loop_misc()

    def _read(self) -> None:
        try:
            for _ in range(BURST):
                before = self._packets()
                if self._client.loop_read() or (self._packets() == before and not self._client.has_more):
                    break
                self._client.take_ahead()
                if self._packets() >= BURST:
                    break
        finally:
            self._burst_over()

    def _write(self, sock: Any) -> None:
        """Hundreds of acknowledgements of four bytes: the kernel is asked to send them together."""
        cork = getattr(socket, "TCP_CORK", None)
        if cork is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            self._client.loop_write()
            return
        sock.setsockopt(socket.IPPROTO_TCP, cork, 1)
        try:
            self._client.loop_write()
        finally:
            if self._client.socket() is not None:
                sock.setsockopt(socket.IPPROTO_TCP, cork, 0)

"""paho without a thread of its own: the network is read in bursts, and answered in bursts.

paho's own loop looks at the socket anew for every packet and reads each byte by byte: some nine calls into
the kernel for one message, each of which lets the engine's thread take the interpreter away for milliseconds.
Here, paho's functions for a loop of one's own (`loop_read`, `loop_write`, `loop_misc`) are called as long as
there is something to read, the acknowledgements of a burst go out together, and its messages are handed on
as one.
"""

import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import paho.mqtt.client as mqtt

#: Packets that are read before anything is answered.
BURST = 500
_READ_BYTES = 256 * 1024
_LOOK_SECONDS = 1.0


class BufferedClient(mqtt.Client):
    """Reads what is there at once. paho asks for one byte, one byte, and the rest of each packet.

    `_sock_recv` is not public: without it, in a paho to come, everything works as before, only slower.
    """

    _ahead = memoryview(b"")
    #: Bytes that came from the socket.
    received = 0

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._ahead:
            data = super()._sock_recv(_READ_BYTES)
            self.received += len(data)
            self._ahead = memoryview(data)
        taken, self._ahead = self._ahead[:bufsize], self._ahead[bufsize:]
        return bytes(taken)

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
        ready = dict(look.poll(0 if client.has_more else _LOOK_SECONDS * 1000))
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

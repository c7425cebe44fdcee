"""Every device of a wave downloads at the same moment, as `--immediate` lets it: what the artifact server
gives, against a server that does nothing but sendfile, and what its queue is with `splay` and with a limit of
devices at work.

Server and devices are a process each, without TLS, over loopback: a real uplink is narrower, and the waits
longer. The same client fetches from both. Splay is twice as long as all needed at once, so that the server is
half idle.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.common import Figure, cost_of, more_files
from fleetfoot_manager.artifacts import ArtifactServer
from fleetfoot_protocol.admission import position

_SLOTS = 32
_PER_ADDRESS = 4000


class _Download(asyncio.BufferedProtocol):
    """One GET. `done` has the bytes of the body that came, or the error. Bytes are counted and dropped."""

    _drop = memoryview(bytearray(256 * 1024))  # of all of them: nobody reads it

    def __init__(self, request: bytes, done: "asyncio.Future[int]") -> None:
        self._request = request
        self._done = done
        self._head: bytes | None = b""
        self._body = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_connection gives
        transport.write(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._drop

    def buffer_updated(self, nbytes: int) -> None:
        if self._head is None:
            self._body += nbytes
            return
        self._head += bytes(self._drop[:nbytes])
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            self._body, self._head = len(rest), None
            if not head.startswith(b"HTTP/1.1 200 "):
                self._end(RuntimeError(head.decode("latin-1")))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        if not self._done.done():
            if error is None:
                self._done.set_result(self._body)
            else:
                self._done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Taken:
    """How N downloads went. most: open at the same time; slowest: seconds of one; cpu: of the server."""

    seconds: float
    most: int
    slowest: float
    cpu: float


class _Crowd:
    """Devices that fetch one blob. slots: how many at most at the same time, 0 for no limit."""

    def __init__(self, port: int, name: str, length: int, slots: int = 0) -> None:
        self._port, self._length = port, length
        self._request = f"GET /blobs/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        self._slots = asyncio.Semaphore(slots) if slots else contextlib.nullcontext()
        self._open = self.most = 0
        self.slowest = 0.0

    async def one(self, number: int, after: float) -> None:
        """Wait for the turn, fetch, and see that everything came."""
        await asyncio.sleep(after)
        async with self._slots:
            began = time.monotonic()
            self._open += 1
            self.most = max(self.most, self._open)
            loop = asyncio.get_running_loop()
            done: asyncio.Future[int] = loop.create_future()
            local = (f"127.{1 + number // _PER_ADDRESS}.0.1", 0)
            await loop.create_connection(
                lambda: _Download(self._request, done), "127.0.0.1", self._port, local_addr=local
            )
            have = await done
            self._open -= 1
            self.slowest = max(self.slowest, time.monotonic() - began)
        if have != self._length:
            raise RuntimeError(f"device {number} has {have} of {self._length} bytes")


async def _fetch(port: int, name: str, length: int, starts: list[float], slots: int) -> tuple[float, _Crowd]:
    crowd = _Crowd(port, name, length, slots)
    began = time.monotonic()
    await asyncio.gather(*(crowd.one(number, after) for number, after in enumerate(starts)))
    return time.monotonic() - began, crowd


@contextmanager
def _serving(how: str, blob: Path) -> Iterator[tuple[int, int]]:
    """A server as a process: its port and its pid."""
    command = [sys.executable, "-m", "bench.download", how, str(blob)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.stdin.close()  # it ends with its standard input
            process.wait(30)


def _run(server: tuple[int, int], blob: Path, starts: list[float], slots: int = 0) -> Taken:
    port, pid = server
    before = cost_of(pid).cpu
    seconds, crowd = asyncio.run(_fetch(port, blob.name, blob.stat().st_size, starts, slots))
    return Taken(seconds, crowd.most, crowd.slowest, cost_of(pid).cpu - before)


def splayed(devices: int, seconds: float) -> list[float]:
    """When each device of a wave begins: by its place, as the agent reckons it."""
    return [int(position("bench", f"sim-{n:05}"), 16) * seconds / 2**64 for n in range(devices)]


def figures(quick: bool) -> list[Figure]:
    """One artifact, and a wave of devices that want it."""
    devices, length = (200, 64 * 1024) if quick else (2000, 1024 * 1024)
    more_files()
    with tempfile.TemporaryDirectory() as text:
        content = os.urandom(length)
        blob = Path(text) / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        at_once = [0.0] * devices
        with _serving("raw", blob) as server:
            raw = min((_run(server, blob, at_once) for _ in range(2)), key=lambda one: one.seconds)
        with _serving("artifacts", blob) as server:
            crowd = min((_run(server, blob, at_once) for _ in range(2)), key=lambda one: one.seconds)
            splay = 2 * crowd.seconds
            calm = _run(server, blob, splayed(devices, splay))
            limited = _run(server, blob, at_once, _SLOTS)
    return _figures(devices, length, raw, crowd, calm, limited, splay)


def _figures(
    devices: int, length: int, raw: Taken, crowd: Taken, calm: Taken, limited: Taken, splay: float
) -> list[Figure]:
    size = devices * length / 2**20
    each = 1000 / devices
    what = f"{devices} devices of {length // 1024} KiB"
    least, once = "sendfile alone, all at once", "all at once"
    return [
        Figure(f"{what}, all at once", size / crowd.seconds, "MiB/s", size / raw.seconds, least),
        Figure("processor of the server", crowd.cpu * each, "ms a download", raw.cpu * each, least),
        Figure("slowest download", crowd.slowest, "s", raw.slowest, least),
        Figure(f"splay of {splay:.2g} s: open at the same time", calm.most, "downloads", crowd.most, once,
               at_most=0.25),
        Figure("slowest download", calm.slowest, "s", crowd.slowest, once),
        Figure(f"at most {_SLOTS} at work: open at the same time", limited.most, "downloads", crowd.most,
               once),
        Figure("slowest download", limited.slowest, "s", crowd.slowest, once),
        Figure("all have it", size / limited.seconds, "MiB/s", size / raw.seconds, least),
    ]  # fmt: skip


async def _raw(blob: Path) -> None:
    """Answer every request with the blob."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {blob.stat().st_size}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)

    async def answer(sock: socket.socket) -> None:
        with sock, blob.open("rb") as file:
            sock.setblocking(False)
            await loop.sock_recv(sock, 4096)  # our own client's: it comes in one piece
            await loop.sock_sendall(sock, head)
            await loop.sock_sendfile(sock, file)

    async def accept() -> None:
        tasks = set()
        while True:
            sock, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(answer(sock))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    accepting = asyncio.create_task(accept())
    await asyncio.to_thread(sys.stdin.read)
    accepting.cancel()
    listener.close()


def _artifacts(blob: Path) -> None:
    server = ArtifactServer(blob.parent)
    print(server.start().rpartition("/")[0].rpartition(":")[2], flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    more_files()
    if sys.argv[1] == "raw":
        asyncio.run(_raw(Path(sys.argv[2])))
    else:
        _artifacts(Path(sys.argv[2]))

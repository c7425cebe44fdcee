"""What the courier's tests stand on: a configuration, an observer, servers that misbehave on order."""

import queue
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fleetfoot_agent import config as configuration
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.courier.courier import Courier
from fleetfoot_agent.courier.tuning import Tuning

Address = tuple[str, int]

SECONDS = 20.0

#: Quick where a device is patient; what a test is about it sets itself.
QUICK = Tuning(
    wake_interval=0.05,
    poll_idle=0.05,
    poll_busy=0.02,
    reconnect_base=0.05,
    reconnect_cap=0.2,
    worker_restart=0.05,
    fetch_connect_timeout=5.0,
    fetch_read_timeout=5.0,
    fetch_rounds=3,
    fetch_base=0.02,
    fetch_cap=0.05,
    progress_interval=0.0,
    acked_interval=0.05,
)

BASE = "ff/v1/groups/lab"
OWN = f"{BASE}/devices/dev-1"


def until(fact: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Return as soon as `fact` holds; fail, naming `what`, if it does not in time."""
    pause = threading.Event()
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        pause.wait(0.01)


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def device(folder: Path, port: int, name: str = "dev-1", **broker: str) -> AgentConfig:
    """The configuration of a device with the component `kiosk`, everything of it in `folder`."""
    settings = {"url": f"mqtt://127.0.0.1:{port}", **broker}
    lines = "\n".join(f'{key} = "{value}"' for key, value in settings.items())
    text = f"""
[agent]
device = "{name}"
group = "lab"
state_dir = "{name}/state"
run_dir = "{name}/run"
install_root = "{name}/root"
[broker]
{lines}
[upgrade]
enabled = true
[components.kiosk]
"""
    return configuration.parse(text, folder / "agent.toml")


@contextmanager
def carrying(
    config: AgentConfig,
    tuning: Tuning = QUICK,
    start_worker: Callable[[], None] | None = None,
    stop_worker: Callable[[], None] | None = None,
) -> Iterator[Courier]:
    """A courier at work, stopped at the end."""
    courier = Courier(config, start_worker=start_worker, stop_worker=stop_worker, tuning=tuning)
    courier.start()
    try:
        yield courier
    finally:
        courier.stop()


@contextmanager
def mortal_broker(port: int) -> Iterator[Address]:
    """A broker in a process of its own that ends by SIGKILL: nobody hears a farewell, nothing is kept."""
    command = [sys.executable, "-m", "fleetfoot_manager.broker", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert b"listening" in process.stdout.readline()
            yield ("127.0.0.1", port)
        finally:
            process.kill()


class Observer:
    """A paho client that keeps everything it receives on a filter, in order."""

    def __init__(self, address: Address, subscribe: str = "ff/#", name: str = "observer") -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._ready = threading.Event()
        self._address = address
        self._filter = subscribe
        self._client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv311)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        assert self._ready.wait(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe(self._filter, 1)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload)))

    def publish(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        """Publish at QoS 1 and wait until the broker has it."""
        self._client.publish(topic, payload, 1, retain).wait_for_publish(SECONDS)

    def on(self, topic: str) -> list[bytes]:
        """What came on `topic`, in order."""
        return [payload for name, payload in list(self.heard) if name == topic]

    def await_last(self, topic: str, payload: bytes) -> None:
        until(lambda: self.on(topic)[-1:] == [payload], f"{payload!r} on {topic}, heard {self.on(topic)!r}")


class ScriptedBroker:
    """Speaks just enough MQTT 3.1.1 to send a courier what no honest broker would.

    `packets`: (first byte, body) of everything it got after CONNECT, per connection in one queue.
    """

    def __init__(
        self, *, answer: bytes | None = b"\x20\x02\x00\x00", tls: ssl.SSLContext | None = None
    ) -> None:
        self.packets: queue.Queue[tuple[int, bytes]] = queue.Queue()
        self.connections = 0
        self._answer = answer
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closing = False

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.hang_up()
        for thread in list(self._threads):
            thread.join(SECONDS)

    def hang_up(self) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes) -> None:
        """Send bytes on the newest connection."""
        self._connections[-1].sendall(data)

    def publish(self, *messages: tuple[str | bytes, bytes]) -> None:
        """Send (topic, payload)s as QoS 0 PUBLISHes in one go, whether or not anybody subscribed."""
        self.send(b"".join(_publish(topic, payload) for topic, payload in messages))

    def await_packet(self, kind: int) -> bytes:
        """The body of the next packet of that kind (its upper four bits)."""
        end = time.monotonic() + SECONDS
        while True:
            first, body = self.packets.get(timeout=max(0.01, end - time.monotonic()))
            if first >> 4 == kind:
                return body

    def hello(self) -> None:
        """A client has sent CONNECT."""

    def grants(self) -> bytes | None:
        """What a subscription is answered with for each of its topics; 0x80 refuses it, None says nothing."""
        return b"\x01"

    def acknowledges(self) -> bool:
        """Whether PUBLISH gets its PUBACK."""
        return True

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, EOFError), ExitStack() as stack:
            stack.enter_context(connection)
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
            self._connections.append(connection)
            stream = stack.enter_context(connection.makefile("rb"))
            while True:
                first, body = _packet(stream.read)
                if first >> 4 == 1:
                    self.hello()
                    connection.sendall(self._answer or b"")
                elif first >> 4 == 3 and first & 6 and self.acknowledges():
                    (size,) = struct.unpack_from("!H", body)
                    connection.sendall(b"\x40\x02" + body[2 + size : 4 + size])
                elif first >> 4 == 8 and (granted := self.grants()) is not None:
                    topics = len(levels_of(body))
                    connection.sendall(b"\x90" + _length(2 + topics) + body[:2] + granted * topics)
                self.packets.put((first, body))


def _publish(topic: str | bytes, payload: bytes) -> bytes:
    name = topic.encode() if isinstance(topic, str) else topic
    body = struct.pack("!H", len(name)) + name + payload
    return b"\x30" + _length(len(body)) + body


def _packet(read: Callable[[int], bytes]) -> tuple[int, bytes]:
    first = _exactly(read, 1)[0]
    length, shift = 0, 0
    while True:
        byte = _exactly(read, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return first, _exactly(read, length)


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) < size:
        raise EOFError
    return data


def _length(value: int) -> bytes:
    found = bytearray()
    while True:
        value, low = divmod(value, 128)
        found.append(low | (128 if value else 0))
        if not value:
            return bytes(found)


def levels_of(body: bytes) -> dict[str, int]:
    """The topic filters in a SUBSCRIBE packet's body, each with the QoS that is asked for."""
    found, at = {}, 2
    while at < len(body):
        (size,) = struct.unpack_from("!H", body, at)
        at += size + 3
        found[body[at - size - 1 : at - 1].decode()] = body[at - 1]
    return found


def filters_of(body: bytes) -> set[str]:
    """The topic filters in a SUBSCRIBE packet's body."""
    return set(levels_of(body))


class Request:
    """One GET as a misbehaving server sees it."""

    def __init__(self, handler: "_Handler", path: str, headers: dict[str, str]) -> None:
        self.path = path
        self.headers = headers
        self._handler = handler
        match = re.fullmatch(r"bytes=([0-9]+)-", headers.get("range", ""))
        self.offset = int(match[1]) if match else None

    def send(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def head(self, status: int, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status} x", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def serve(self, content: bytes, *, cut: int | None = None) -> None:
        """Answer as a good server does, Range honoured, but hang up after `cut` bytes."""
        start = self.offset or 0
        part = content[start:]
        if self.offset is None:
            self.head(200, Content_Length=len(part))
        else:
            self.head(
                206,
                Content_Length=len(part),
                Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}",
            )
        self.send(part if cut is None else part[:cut])


class _Handler(socketserver.StreamRequestHandler):
    server: "HttpServer"

    def setup(self) -> None:
        if self.server.tls is not None:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        if self.server.tls is not None:
            self.request.close()  # the server closes what it accepted, which is no socket any more

    def handle(self) -> None:
        with suppress(OSError):
            first = self.rfile.readline().decode()
            headers = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            request = Request(self, first.split(" ")[1], headers)
            self.server.requests.append(request)
            self.server.answer(request)


class HttpServer(socketserver.ThreadingTCPServer):
    """An HTTP server whose every answer a test writes itself. `closing` is set when it ends."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: Callable[[Request], None], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.tls = tls
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what these tests are about."""

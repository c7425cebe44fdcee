"""The seam between the worker and whatever starts components: restart it, and say how it is.

`Seam` is what the worker needs to know; `SocketSeam` reaches `fleetfoot-agent supervise` over the unix
socket of contract section 6, rule 20, whose other end, `ControlSocket`, stands here too, so that one module
knows how the lines look: one JSON object per connection, ``{"do": "state"}``, answered by a `UnitState` as
JSON or by ``{"error": "..."}``. Standard library only.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from fleetfoot_protocol.errors import FleetfootError

#: What a supervisor can be asked to do.
VERBS = ("state", "start", "stop", "restart")

#: Bytes that a unix socket's address can have on Linux, the final NUL not counted; and its file name, so
#: that it fits behind `/proc/self/fd/<number>/`. A component's id is shorter.
_ADDRESS_MAX = 107
SOCKET_NAME_MAX = 80

_LINE_CAP = 4096
#: A client that has not sent its line after this many seconds is dropped; more than so many are not heard.
_CLIENT_SECONDS = 5.0
_CLIENTS_MAX = 16


@dataclass(frozen=True, slots=True)
class UnitState:
    """How a component is.

    active: its process runs. ready: it has said so, or counts as ready because it never does. pid: of that
    process. restarts: starts after the first since the last restart that was asked for. since: unix
    seconds of the last change of `active`. target: text of `current` that was started last.
    """

    active: bool
    ready: bool
    pid: int | None
    restarts: int
    since: float
    target: str | None


class Seam(Protocol):
    """What the worker needs from a supervisor or an init system. Raises `FleetfootError`."""

    def restart(self) -> None:
        """Stop the component if it runs, let the guard look, start what `current` leads to."""

    def state(self) -> UnitState:
        """How the component is now."""

    def demand(self) -> None:
        """Nothing, if a restart would be done, with the guard before it. Asked before a switch."""

    def quiesce(self) -> None:
        """Stop it until `restart`, if this seam can: what it keeps elsewhere is about to be set aside."""


class Hook(Protocol):
    """Something of the owner's that is run to its end at a moment of an upgrade."""

    def run(self, environment: Mapping[str, str], timeout: float) -> str | None:
        """Run it, for at most `timeout` seconds. None if it went well, else why not, in words."""


class ProgramHook:
    """A hook that is a program: well if it exits with 0. All that it started in its session ends with it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = tuple(argv)

    def run(self, environment: Mapping[str, str], timeout: float) -> str | None:
        """Run it; what it writes goes where the worker's log goes."""
        import subprocess  # whoever has no hooks does not pay for it

        name = self._argv[0]
        try:
            process = subprocess.Popen(
                self._argv,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,
                start_new_session=True,
            )
        except OSError as error:
            return f"{name} cannot be run: {error.strerror}"
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"{name} did not end within {timeout:g} s"
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return None if status == 0 else f"{name} exits with {status}"


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """What `bind` and `connect` are given: the path, or a short way to it where it is too long for them."""
    if len(os.fsencode(path)) <= _ADDRESS_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class SocketSeam:
    """The seam to a supervisor at the unix socket `path`.

    `timeout` in seconds for questions; `act_timeout` for what takes the component's time to stop and the
    guard's to write. Everything that goes wrong is `FleetfootError` supervisor_failed.
    """

    def __init__(self, path: Path, timeout: float = 5.0, act_timeout: float = 90.0) -> None:
        self._path = path
        self._timeout = timeout
        self._act_timeout = act_timeout

    def state(self) -> UnitState:
        """How the component is now."""
        return self._ask("state", self._timeout)

    def demand(self) -> None:
        """Nothing, if the supervisor answers: it lets the guard look before every start."""
        self.state()

    def restart(self) -> None:
        """Restart it; returns after the attempt to start, whose outcome `state` tells."""
        self._ask("restart", self._act_timeout)

    def start(self) -> None:
        """Start it, if it does not run."""
        self._ask("start", self._act_timeout)

    def stop(self) -> None:
        """Stop it, until `start` or `restart`."""
        self._ask("stop", self._act_timeout)

    def quiesce(self) -> None:
        """Stop it, so that what it has written is whole."""
        self.stop()

    def _ask(self, verb: str, timeout: float) -> UnitState:
        try:
            line = self._exchange(json.dumps({"do": verb}).encode() + b"\n", time.monotonic() + timeout)
            return _parse_state(line)
        except (OSError, ValueError) as error:
            raise FleetfootError(
                "supervisor_failed", f"the supervisor at {self._path} does not answer '{verb}': {_why(error)}"
            ) from error

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            with _address(self._path) as address:
                connection.connect(address)
            connection.sendall(request)
            answer = bytearray()
            while not answer.endswith(b"\n"):
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                piece = connection.recv(_LINE_CAP)
                if not piece or len(answer) + len(piece) > _LINE_CAP:
                    raise ValueError("it broke off" if not piece else "its answer is too long")
                answer += piece
            return bytes(answer)


def _why(error: OSError | ValueError) -> str:
    """The cause in words, without the number that the kernel gives it."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _parse_state(line: bytes) -> UnitState:
    answer = _parse_object(line)
    if "error" in answer:
        raise ValueError(f"{str(answer['error'])[:200]!a}")
    kinds: dict[str, tuple[type, ...]] = {
        "active": (bool,),
        "ready": (bool,),
        "pid": (int, type(None)),
        "restarts": (int,),
        "since": (int, float),
        "target": (str, type(None)),
    }
    if answer.keys() != kinds.keys() or any(type(answer[name]) not in kinds[name] for name in kinds):
        raise ValueError(f"its answer is no state: {line[:200]!r}")
    return UnitState(**answer)


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


class Client:
    """One connection to a `ControlSocket` whose request has been read and waits for its answer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.deadline = time.monotonic() + _CLIENT_SECONDS

    def answer(self, value: UnitState) -> None:
        """Send the state and close. A client that has gone away is no error."""
        self._send(asdict(value))

    def refuse(self, why: str) -> None:
        """Send an error and close."""
        self._send({"error": why})

    def _send(self, value: dict[str, Any]) -> None:
        # The buffer of a fresh connection holds far more than a line: this never waits.
        with suppress(OSError):
            self.connection.sendall(json.dumps(value).encode() + b"\n")
        self.connection.close()


class ControlSocket:
    """The supervisor's end: listens at `path` (mode 0600) and calls `handle(verb, client)` per request.

    It is driven by `selector`, whose keys carry a callable to call when ready, and never waits for a
    client: silent ones are dropped by `expire`, malformed requests are refused here. Raises `OSError`.
    """

    def __init__(
        self, path: Path, selector: selectors.BaseSelector, handle: Callable[[str, Client], None]
    ) -> None:
        self._path = path
        self._selector = selector
        self._handle = handle
        self._clients: set[Client] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.setblocking(False)
            with _address(path) as address:
                self._listener.bind(address)
            path.chmod(0o600)  # nobody can connect before listen()
            self._listener.listen(_CLIENTS_MAX)
        except OSError:
            self._listener.close()
            raise
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def expire(self) -> float | None:
        """Drop clients that stay silent. Returns the seconds until the next one is due, or None."""
        now = time.monotonic()
        for client in [client for client in self._clients if client.deadline <= now]:
            self._release(client)
            client.refuse("no request")
        return min((client.deadline - now for client in self._clients), default=None)

    def close(self) -> None:
        """Stop listening, drop everybody, remove the socket."""
        self._selector.unregister(self._listener)
        self._listener.close()
        for client in list(self._clients):
            self._release(client)
            client.connection.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # out of file descriptors: the client waits, and this must not spin
            time.sleep(0.1)
            return
        connection.setblocking(False)
        client = Client(connection)
        if len(self._clients) >= _CLIENTS_MAX:
            client.refuse("too many clients")
            return
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(client))

    def _receive(self, client: Client) -> None:
        try:
            piece = client.connection.recv(_LINE_CAP)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        client.received += piece
        if piece and b"\n" not in client.received and len(client.received) < _LINE_CAP:
            return
        self._release(client)
        try:
            request = _parse_object(bytes(client.received))
            if request.keys() != {"do"} or request["do"] not in VERBS:
                raise ValueError("not a request")
        except ValueError as error:
            client.refuse(f'{error}; send one line {{"do": "{"|".join(VERBS)}"}}')
        else:
            self._handle(request["do"], client)

    def _release(self, client: Client) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.connection)


class ReadySocket:
    """Where a component says that it is ready, as sd_notify(3) does: a datagram with the line READY=1.

    Its address is an abstract one that nobody can guess. Driven by `selector` as `ControlSocket` is.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.said = False
        name = f"fleetfoot-{os.urandom(16).hex()}"
        self.address = f"@{name}"
        self._selector = selector
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{name}")
        selector.register(self._socket, selectors.EVENT_READ, self._receive)

    def close(self) -> None:
        """Stop listening."""
        self._selector.unregister(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        with suppress(OSError):
            self.said = self.said or b"READY=1" in self._socket.recv(_LINE_CAP).splitlines()


def guard_path() -> Path:
    """The guard script: packaged beside this module, else in a checkout's `systemd` folder.

    Raises `FleetfootError` not_found.
    """
    here = Path(__file__).resolve()
    places = (here.with_name("fleetfoot-guard"), here.parents[2] / "systemd" / "fleetfoot-guard")
    for place in places:
        if place.is_file():
            return place
    raise FleetfootError(
        "not_found",
        f"there is no guard script at {places[0]} nor {places[1]}",
        remedy="install the package again: a component must not be upgraded without its guard",
    )

"""`fleetfoot manager run`: the process. Everything is opened in order, and closed in the reverse one."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fleetfoot_manager import catalogue, collector, health, keyring, notify, roots
from fleetfoot_manager.artifacts import ArtifactServer, Tls
from fleetfoot_manager.broker import EmbeddedBroker
from fleetfoot_manager.broker_address import Address, Credentials, parse_broker
from fleetfoot_manager.catalogue import Blobs
from fleetfoot_manager.director import KEY_NAME, Director, read_key
from fleetfoot_manager.engine import Engine
from fleetfoot_manager.enrolling import Door
from fleetfoot_manager.faults import Faults
from fleetfoot_manager.gate import Gate
from fleetfoot_manager.house import House
from fleetfoot_manager.init import BLOBS_NAME
from fleetfoot_manager.mqtt import MqttTransport
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_manager.reassert import PRESENCE
from fleetfoot_manager.store import Store
from fleetfoot_protocol import topics
from fleetfoot_protocol.documents import expired
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.fields import Url

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
#: For so long at most the engine keeps the interpreter from the network's thread, which asks for it after
#: each call into the kernel: some five for a hundred messages, as many as a broker sends unacknowledged.
_SWITCH_SECONDS = 0.0005
#: How often systemd hears that the engine turns.
_WATCHDOG_SECONDS = 5.0
#: Where a running manager serves, for whoever has its folder.
WHERE_NAME = "run.json"


@dataclass(frozen=True)
class Options:
    """What the command line says. `broker`: URL of an external one, None to embed one at `listen`.

    credentials: what an external broker wants to see. pki: folder of certificates: TLS for the artifacts,
    enrolment by token. device_broker: URL that enrolled devices get, instead of `broker`.
    """

    folder: Path
    roots: Sequence[Path] = ()
    broker: str | None = None
    listen: Address = field(default_factory=lambda: Address("127.0.0.1", 1883))
    artifacts: Address = field(default_factory=lambda: Address("127.0.0.1", 8090))
    status: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    mirror: str | None = None
    topic_root: str = topics.DEFAULT_ROOT
    credentials: Credentials = field(default_factory=Credentials)
    pki: Path | None = None
    device_broker: str | None = None
    certificate_days: float = 365.0


@dataclass(frozen=True)
class Ready:
    """Where the manager serves: the broker as host:port, the base URLs of the blobs and of its health."""

    broker: str
    artifacts: str
    status: str


def run(options: Options, on_ready: Callable[[Ready], None]) -> None:
    """Run until SIGTERM or SIGINT. Raises FleetfootError for what keeps it from running, or ended it."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with ExitStack() as stack:
        try:
            engine, ready = _open(options, stack, over)
        except FleetfootError as error:
            notify.tell(f"STATUS={error.message}")
            raise
        collector.calm()
        sys.setswitchinterval(_SWITCH_SECONDS)
        while not over.is_set() and not engine.listening.wait(_LOOK_SECONDS):
            continue
        if not over.is_set():
            on_ready(ready)
            notify.tell("READY=1")
        while not over.wait(_WATCHDOG_SECONDS):
            if not health.trouble(engine):
                notify.tell("WATCHDOG=1")
        notify.tell("STOPPING=1")
        log.info("stopping")
    if engine.failure is not None:
        notify.tell(f"STATUS={engine.failure}")
        raise engine.failure


def _open(options: Options, stack: ExitStack, over: threading.Event) -> tuple[Engine, Ready]:
    faults = Faults.from_environment()
    store = stack.enter_context(Store(options.folder))
    store.acquire()
    with store.read() as tx:
        keyring.write(options.folder, tx)
    root = roots.install(store, options.roots)
    if expired(root.expires, int(time.time())):
        log.warning(
            "trust root %d expired on %s: devices go on, but make a new one", root.version, root.expires
        )
    director = Director(_secret(options.folder / KEY_NAME), root)

    def authorise(sha256: str, token: str) -> int | None:
        with store.read() as tx:
            return catalogue.allowed_length(tx, token, sha256, time.time())

    blobs = options.folder / BLOBS_NAME
    address = _broker(options, stack)
    pki, tls, gate = _identities(options, store, address)
    where = options.artifacts
    server = stack.enter_context(
        _serving(ArtifactServer(blobs, authorise, where.host, where.port, tls=tls, gate=gate))
    )
    house = House(
        folder=options.folder,
        director=director,
        blobs=Blobs(blobs),
        artifacts=server.url,
        mirror=check_mirror(options.mirror or server.url),
        broker=f"{address.host}:{address.port}",
        started=time.time(),
        topic_root=options.topic_root,
        faults=faults,
        pki=pki,
        enrolment=server.url.removesuffix("/blobs") if pki is not None and pki.can_enroll else None,
    )
    engine = Engine(store, house, on_end=over.set)
    gate.put = engine.put
    name = f"fleetfoot-manager-{house.fleet}"
    transport = MqttTransport(address, name, house.whole(PRESENCE), engine.put_all, options.credentials)
    engine.start(transport)
    stack.callback(transport.stop)
    stack.callback(engine.stop)
    transport.start()
    asked = stack.enter_context(
        health.HealthServer(engine, store, house.fleet, options.status.host, options.status.port)
    )
    ready = Ready(house.broker, server.url, asked.url)
    stack.enter_context(_told(options.folder / WHERE_NAME, ready))
    return engine, ready


def _secret(path: Path) -> bytes:
    try:
        return read_key(path)
    except FleetfootError as error:
        raise FleetfootError("config_invalid", error.message, remedy=error.remedy) from error


@contextmanager
def _told(path: Path, ready: Ready) -> Iterator[None]:
    """Write down where the manager serves while it does."""
    path.write_text(json.dumps({"pid": os.getpid(), **asdict(ready)}) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _identities(options: Options, store: Store, address: Address) -> tuple[Pki | None, Tls | None, Gate]:
    """The certificates, and what the artifact server does with them."""
    if options.pki is None:
        if options.device_broker is not None:
            raise FleetfootError("usage", "--device-broker is for enrolment, which takes --pki")
        return None, None, Gate(store)
    pki = Pki(options.pki)
    host = options.artifacts.host
    names = pki.server_hosts()
    tls = Tls(
        options.pki / "server.crt",
        options.pki / "server.key",
        options.pki / "devices-ca.crt",
        host if host in names else names[0],
    )
    devices = options.device_broker or options.broker
    broker = devices or f"mqtt://{address.host}:{address.port}"
    parse_broker(broker)
    door = Door(pki, broker, options.certificate_days) if pki.can_enroll else None
    return pki, tls, Gate(store, pki, door)


class _Served:
    """A started artifact server with its base URL."""

    def __init__(self, server: ArtifactServer) -> None:
        self._server = server
        self.url = ""

    def __enter__(self) -> "_Served":
        self.url = self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def _serving(server: ArtifactServer) -> _Served:
    return _Served(server)


def _broker(options: Options, stack: ExitStack) -> Address:
    if options.broker is not None:
        address = parse_broker(options.broker)
        options.credentials.check(address)
        return address
    if options.credentials != Credentials():
        raise FleetfootError("usage", "the embedded broker asks nobody who they are: give --broker")
    embedded = EmbeddedBroker(options.listen.host, options.listen.port)
    host, port = embedded.start()
    stack.callback(embedded.stop)
    return Address(host, port)


def check_mirror(url: str) -> str:
    """A base URL that documents can name. Raises FleetfootError `usage`."""
    try:
        return str(TypeAdapter(Url).validate_python(url.rstrip("/")))
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"]
        raise FleetfootError(
            "usage", f"--mirror {url[:200]!a}: {why}", remedy="give a plain base URL"
        ) from None


def parse_address(text: str, what: str) -> Address:
    """`host:port` as an address. Raises FleetfootError `usage`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise FleetfootError("usage", f"{what} {text[:200]!a} is no address", remedy="give it as host:port")
    return Address(host.strip("[]"), int(port))

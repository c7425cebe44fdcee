"""How the manager is, by HTTP on loopback: for systemd, for a monitor, for `fleetfoot manager status`.

    GET /healthz   200 while the engine turns, 503 with the reason once it is stuck or has ended
    GET /readyz    200 while it also hears devices and operators and its store answers; else 503
    GET /metrics   numbers in the text format of Prometheus, version 0.0.4

It stands on a thread of its own and asks the engine nothing that the engine would have to answer: it must
tell the truth about an engine that is stuck. The format is a dozen lines to write; a library for it would
bring a registry that outlives the manager that it counts.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import NamedTuple

import sqlalchemy as sa

from fleetfoot_manager import audit, schema, standstill
from fleetfoot_manager.engine import Engine
from fleetfoot_manager.loopthread import cannot_listen, require_loopback
from fleetfoot_manager.store import Store
from fleetfoot_protocol.errors import FleetfootError

log = logging.getLogger(__name__)

#: An engine that has not looked up for so long is stuck: at rest it does every second.
STUCK_SECONDS = 10.0
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


class Metric(NamedTuple):
    """One number, or one for each set of labels."""

    name: str
    kind: str
    help: str
    values: Iterable[tuple[Labels, float]]


def trouble(engine: Engine) -> str:
    """Why the engine does not turn, in words; empty while it does."""
    if engine.failure is not None:
        return f"the engine has ended: {engine.failure}"
    still = time.monotonic() - engine.pulse
    return f"the engine is stuck: it has not looked up for {still:.0f} s" if still > STUCK_SECONDS else ""


def unready(engine: Engine, store: Store) -> str:
    """Why the manager does not serve, in words; empty while it does."""
    found = trouble(engine)
    if not found and not engine.connected:
        found = "no connection to the broker"
    if not found and not engine.listening.is_set():
        found = "devices and operators are not heard yet"
    if not found:
        try:
            with store.read() as tx:
                tx.execute(sa.select(1))
        except FleetfootError as error:
            found = error.message
    return found


def metrics(engine: Engine, store: Store, fleet: str, started: float) -> list[Metric]:
    """Everything that is counted. Reads the store once."""
    with store.read() as tx:
        devices = tx.execute(
            sa.select(schema.devices.c.group, schema.devices.c.online, sa.func.count()).group_by(
                schema.devices.c.group, schema.devices.c.online
            )
        ).all()
        rollouts = tx.execute(
            sa.select(schema.rollouts.c.state, sa.func.count()).group_by(schema.rollouts.c.state)
        ).all()
        lives = tx.execute(
            sa.select(schema.releases.c.life, sa.func.count()).group_by(schema.releases.c.life)
        ).all()
        waiting = tx.scalar(sa.select(sa.func.count()).select_from(schema.outbox)) or 0
        end = audit.last(tx)
        still = standstill.of(tx)
    passed = [({"what": what}, float(count)) for what, count in engine.passed_over().items()]
    by_presence = [({"group": group, "online": str(online).lower()}, n) for group, online, n in devices]
    alone: Labels = {}
    return [
        Metric("info", "gauge", "What runs.", [({"fleet": fleet, "version": version("fleetfoot")}, 1)]),
        Metric("start_time_seconds", "gauge", "Since when, in unix seconds.", [(alone, started)]),
        Metric("up", "gauge", "Whether the engine turns.", [(alone, float(not trouble(engine)))]),
        Metric(
            "engine_pulse_age_seconds",
            "gauge",
            "Since the engine looked up; more than 10 is stuck.",
            [(alone, max(0.0, time.monotonic() - engine.pulse))],
        ),
        Metric("engine_paused", "gauge", "Whether somebody paused it.", [(alone, float(still is not None))]),
        Metric("engine_queue", "gauge", "Inputs that wait for the engine.", [(alone, engine.queued)]),
        Metric("broker_connected", "gauge", "Connection to the broker.", [(alone, float(engine.connected))]),
        Metric("outbox_messages", "gauge", "Messages not acknowledged yet.", [(alone, waiting)]),
        Metric("devices", "gauge", "Enrolled devices.", by_presence),
        Metric("rollouts", "gauge", "Rollouts by state.", [({"state": state}, n) for state, n in rollouts]),
        Metric("releases", "gauge", "Releases by life.", [({"life": life}, n) for life, n in lives]),
        Metric("audit_entries", "counter", "Entries of the audit log.", [(alone, end.n if end else 0)]),
        Metric("passed_over_total", "counter", "Messages that counted for nothing, by why.", passed),
    ]


def rendered(found: Iterable[Metric]) -> str:
    """The text format of Prometheus."""
    lines: list[str] = []
    for metric in found:
        name = f"fleetfoot_{metric.name}"
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        for labels, value in metric.values:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(f"{name}{{{inside}}} {value:.16g}" if inside else f"{name} {value:.16g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        # Whoever asked has gone away: that is not worth a traceback.
        log.debug("an answer was not taken", exc_info=True)


class HealthServer:
    """Serves the three on a loopback address; `url` once it has started. Port 0 takes a free one."""

    def __init__(self, engine: Engine, store: Store, fleet: str, host: str, port: int) -> None:
        self._host = require_loopback(host, "the status server")
        self._port = port
        started = time.time()
        self._pages: dict[str, Callable[[], tuple[HTTPStatus, str]]] = {
            "/healthz": lambda: _verdict(trouble(engine)),
            "/readyz": lambda: _verdict(unready(engine, store)),
            "/metrics": lambda: (HTTPStatus.OK, rendered(metrics(engine, store, fleet, started))),
        }
        self._server: _Server | None = None
        self.url = ""

    def __enter__(self) -> "HealthServer":
        try:
            self._server = _Server((self._host, self._port), _handler(self._pages))
        except OSError as error:
            raise cannot_listen("the status server", self._host, self._port, error) from error
        self.url = f"http://{self._host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _verdict(why: str) -> tuple[HTTPStatus, str]:
    return (HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n") if why else (HTTPStatus.OK, "ok\n")


def _handler(pages: Mapping[str, Callable[[], tuple[HTTPStatus, str]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        #: Seconds that a client may take; whoever says nothing holds a thread.
        timeout = 10

        def do_GET(self) -> None:
            page = pages.get(self.path)
            try:
                status, text = page() if page else (HTTPStatus.NOT_FOUND, f"{', '.join(pages)}\n")
            except FleetfootError as error:
                status, text = HTTPStatus.SERVICE_UNAVAILABLE, f"{error.message}\n"
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", _TEXT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug("asked %s", self.path)

    return Handler

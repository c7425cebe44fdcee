"""An MQTT 3.1.1 broker inside a process, for the demo, tests and a trusted loopback. Never for production.

amqtt does the work. This module runs it on a thread of its own, keeps it off every address that is not
loopback, says aloud what it cannot be trusted with (`CANNOT`), and corrects the one fault that breaks
even a demo (`CorrectedBroker`). Production uses Mosquitto: see broker_conf/.

How amqtt 0.12.1 behaves towards a paho client, tried; tests/manager/test_broker.py holds what we rely on:

- Retained, QoS 1, exact name: delivered whether published before or after the subscription (flagged
  retained only before), the newest only; an empty retained payload deletes it and is passed on to those
  who are subscribed. 64 KiB payloads pass; amqtt has no limit of its own.
- Last Will: published, then retained, when a connection ends without DISCONNECT. When the broker itself
  is stopped, some who are still connected may see the Wills of the others.
- Every user is anonymous, so nothing is queued for a client that is away, and its session is forgotten
  within a second, whatever it asked for. After a reconnect, subscribe again.
- Take-over by a second connection of the same client id. Clean session: the newer one gets the messages,
  the older one is *not* disconnected and may go on publishing; its Will comes when it ends. Persistent
  session: both are disconnected within about a second, for they share one session object. Hence clean
  sessions for whoever may meet this broker.
- A subscriber that does not acknowledge within 5 s has lost that message.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Sequence
from contextvars import ContextVar
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker

from fleetfoot_manager.loopthread import LoopServer, cannot_listen, require_loopback
from fleetfoot_protocol.errors import FleetfootError

log = logging.getLogger(__name__)

#: What the embedded broker cannot be trusted with, measured on amqtt 0.12.1. Logged at every start.
CANNOT = (
    "loses messages it has acknowledged, if their publisher leaves at once",
    "forgets every retained message when it stops",
    "asks nobody who they are and lets everybody read and write everything",
    "does not notice a client that falls silent without closing its connection",
    "does not disconnect the older of two clients of one name",
    "drops what a subscriber has not acknowledged within 5 s",
)

_LISTENER = "default"
#: Seconds that closing waits for amqtt to end its connections, and then itself.
_CLOSE_SECONDS = 2.0
_subscribing: ContextVar[bool] = ContextVar("_subscribing", default=False)


class CorrectedBroker(Broker):
    """amqtt's broker, sending retained messages in answer to a SUBSCRIBE and at no other time.

    The fault (amqtt 0.12.1, broker.py, end of `_handle_client_session`, `for topic in
    self._subscriptions`): on every connect it publishes to the new client the retained messages that
    match *anybody's* filter. Clients get messages they never subscribed to, subscribers get them twice,
    a thousand connecting devices get a million; and because that loop awaits, a subscription that somebody
    makes meanwhile ends the new connection ("dictionary changed size during iteration"). MQTT 3.1.1 has
    retained messages sent when a subscription is made [MQTT-3.3.1-6], so the loop as a whole is wrong.
    """

    async def _handle_subscription(self, client_session: Any, handler: Any, subscribe_waiter: Any) -> None:
        token = _subscribing.set(True)
        try:
            await super()._handle_subscription(client_session, handler, subscribe_waiter)
        finally:
            _subscribing.reset(token)

    async def _publish_retained_messages_for_subscription(self, subscription: Any, session: Any) -> None:
        if _subscribing.get():
            await super()._publish_retained_messages_for_subscription(subscription, session)


class EmbeddedBroker(LoopServer[tuple[str, int]]):
    """The broker, to be started and stopped, or used in a `with`. Each start begins with an empty store.

    host: a loopback address or `localhost`, else FleetfootError `unsafe_binding`; port 0: the kernel
    chooses a free one. `start()` returns (host, port) as bound.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__("embedded broker")
        self._host = require_loopback(host, "the embedded broker")
        self._port = port
        self._running: _Running | None = None

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) while it runs; RuntimeError otherwise."""
        if self._running is None:
            raise RuntimeError("the embedded broker does not run")
        host, port = self._running.server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def _open(self) -> tuple[str, int]:
        running = _Running()
        try:
            await running.listen(self._host, self._port)
        except OSError as error:
            raise cannot_listen(self._name, self._host, self._port, error) from error
        self._running = running
        log.warning(
            "embedded broker on %s port %d, for demo, tests and a trusted loopback only: it %s",
            *self.address,
            "; ".join(CANNOT),
        )
        return self.address

    async def _close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.close()


class _Running:
    """amqtt and the listening socket. The socket is ours: so we know its port and end every connection."""

    server: asyncio.Server

    def __init__(self) -> None:
        self._core = CorrectedBroker(configuration())
        self._connections: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}

    async def listen(self, host: str, port: int) -> None:
        self.server = await asyncio.start_server(self._serve, host, port, start_serving=False)
        try:
            await self._core.start()
        except BaseException:
            self.server.close()
            raise
        await self.server.start_serving()

    async def close(self) -> None:
        self.server.close()
        # amqtt knows nothing of a connection that never sent its CONNECT.
        for writer in self._connections:
            writer.transport.abort()
        # amqtt 0.12.1, client_connected(): a client that is still subscribing while the broker shuts down
        # waits for ever for a message handler that shutdown() has cancelled. So the connections end first,
        # and those that wait all the same are left to the end of their loop.
        await _bounded(asyncio.gather(*self._connections.values()), "connections")
        await _bounded(self._core.shutdown(), "the broker")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = self._connections[writer] = asyncio.get_running_loop().create_future()
        try:
            await self._core.external_connected(
                StreamReaderAdapter(reader), StreamWriterAdapter(writer), _LISTENER
            )
        except Exception as error:  # a fault in amqtt ends this connection and no other
            log.warning("the embedded broker ends a connection: %r", error)
        finally:
            writer.close()  # wait_closed() is of no use: amqtt may have cancelled the future behind it
            del self._connections[writer]
            ended.set_result(None)


async def _bounded(work: Awaitable[Any], what: str) -> None:
    """Wait for amqtt to end something, for a while."""
    try:
        await asyncio.wait_for(work, _CLOSE_SECONDS)
    except TimeoutError:
        log.warning("the embedded broker: %s did not end within %g s", what, _CLOSE_SECONDS)


def configuration() -> dict[str, Any]:
    """amqtt's configuration. The plugins are named because its default ones log every packet."""
    return {
        "listeners": {_LISTENER: {"type": "external"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a broker in the foreground until SIGTERM or SIGINT; says `listening on HOST:PORT` on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m fleetfoot_manager.broker",
        description="An MQTT broker for demo, tests and a trusted loopback. Never for production.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=1883, help="0 takes a free one (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    # Blocked before the thread exists, so that the signals wait for sigwait and nobody else gets them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        with EmbeddedBroker(options.host, options.port) as broker:
            host, port = broker.address
            print(f"listening on {host}:{port}", flush=True)
            signal.sigwait(signals)
    except FleetfootError as error:
        print(f"{error}\n{error.remedy}", file=sys.stderr)
        return 2 if error.code == "unsafe_binding" else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

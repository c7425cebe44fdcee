"""The broker under examination, and how to connect to it; keeps in mind what has to be cleared afterwards."""

import itertools
import secrets
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fleetfoot_client.broker.wire import ClosedError, Peer, SilentError
from fleetfoot_client.profiles import Address

#: What a broker, or the way to it, may do to us at any moment.
FAILURES = (OSError, ClosedError, SilentError)
#: Seconds after which something that should come is held not to come.
PATIENCE = 3.0
_CLEAR_SECONDS = 3.0


class UnseenError(Exception):
    """Whether a row holds cannot be seen from here; the text says why."""


@dataclass
class Target:
    """root: topics of this run, `ffcheck/<random>`. No fleet's are there, and an access list can allow it."""

    address: Address
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None
    timeout: float = 10.0
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    _used: set[str] = field(default_factory=set)
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def topic(self, name: str) -> str:
        """A topic of this run; cleared at the end."""
        text = f"ffcheck/{self.run}/v1/{name}"
        self._used.add(text)
        return text

    def filter(self, name: str) -> str:
        """A subscription filter below this run's root."""
        return f"ffcheck/{self.run}/v1/{name}"

    def client_id(self) -> str:
        """A client id that nobody has used."""
        return f"ffcheck-{self.run}-{next(self._count)}"

    def peer(self, client_id: str = "", **options: Any) -> Peer:
        """A connection that the broker has accepted. Raises what is in `FAILURES`."""
        peer = self.attempt(client_id, **options)
        if peer.refusal:
            peer.vanish()
            raise ClosedError(f"it refuses the connection with code {peer.refusal}")
        return peer

    def attempt(self, client_id: str = "", **options: Any) -> Peer:
        """The same, or one that was refused: see its `refusal`."""
        return Peer(
            (self.address.host, self.address.port),
            client_id or self.client_id(),
            timeout=self.timeout,
            tls=self.tls,
            username=self.username,
            password=self.password,
            **options,
        )

    def nobody(self) -> Peer:
        """A connection of somebody who shows nothing: no certificate, no name."""
        context = None
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # it is the broker that has to refuse here
        where = (self.address.host, self.address.port)
        return Peer(where, self.client_id(), timeout=self.timeout, tls=context)

    def clear(self) -> None:
        """Take back everything that this run has left retained, and see that it is gone."""
        with suppress(*FAILURES), self.peer() as peer:
            for topic in sorted(self._used):
                peer.publish(topic, b"", retained=True)
            # Stay until it is so: there are brokers that forget the last words of who leaves at once.
            deadline = time.monotonic() + _CLEAR_SECONDS
            while time.monotonic() < deadline:
                with self.peer() as reader:
                    reader.subscribe(*sorted(self._used))
                    reader.ping()
                    if not any(m.payload for m in reader.collect(len(self._used), 0.1)):
                        return

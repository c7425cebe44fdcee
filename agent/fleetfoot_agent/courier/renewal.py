"""Renewing the certificate of this device, without hands: the courier asks with the one that still holds.

`renewal.json` beside it says when and where. The key stays the same, so nothing secret is made or sent. What
fails is tried again an hour later; the session uses the new certificate from its next connection on.
"""

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig

log = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0
_AGAIN_SECONDS = 3600.0
_TIMEOUT = 20.0
_MAX = 64 * 1024
_NEVER = float("inf")


class Renewal:
    """Call `step` from the courier's loop; the asking itself has a thread of its own."""

    def __init__(self, config: AgentConfig) -> None:
        self._folder = config.courier_dir
        self._broker = config.broker
        self._device = config.device
        self._look_at = float("-inf")
        self._thread: threading.Thread | None = None

    def step(self, now: float) -> float:
        """Renew what is due at `now` (monotonic seconds). Returns when to be called again."""
        if self._broker.cert_file is None or self._broker.key_file is None:
            return _NEVER
        if now < self._look_at:
            return self._look_at
        self._look_at = now + _LOOK_SECONDS
        due = self._due()
        if due is None:
            return _NEVER
        if due[0] <= time.time() and (self._thread is None or not self._thread.is_alive()):
            self._look_at = now + _AGAIN_SECONDS
            self._thread = threading.Thread(target=self._renew, args=(due[1],), name="renewal", daemon=True)
            self._thread.start()
        return self._look_at

    def _due(self) -> tuple[float, str] | None:
        data = durable.read_regular(self._folder, "renewal.json", 4096)
        try:
            value: Any = json.loads(data or b"")
            return float(value["renew_at"]), str(value["url"])
        except (ValueError, KeyError, TypeError):
            return None

    def _renew(self, url: str) -> None:
        try:
            certificate, renew_at = self._ask(url)
            path = self._broker.cert_file or Path()
            durable.write_file(path, certificate.encode("ascii"))
            form = {"renew_at": renew_at, "url": url}
            durable.write_file(self._folder / "renewal.json", json.dumps(form).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("event=renewal_failed device=%s error=%a", self._device, str(error)[:300])
        else:
            log.info("event=renewed device=%s", self._device)

    def _ask(self, url: str) -> tuple[str, int]:
        import ssl
        from http.client import HTTPException, HTTPSConnection

        broker, parts = self._broker, urlsplit(url)
        context = ssl.create_default_context(cafile=None if broker.ca_file is None else str(broker.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(broker.cert_file or Path(), broker.key_file)
        connection = HTTPSConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT, context=context)
        try:
            connection.request("POST", parts.path.rstrip("/") + "/renew")
            response = connection.getresponse()
            data = response.read(_MAX)
        except HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        if response.status != 200:
            raise ConnectionError(f"the manager answers {response.status}: {data[:200]!a}")
        value = json.loads(data)
        certificate = str(value["certificate"])
        # What cannot be used must not replace what can: it has to belong to the key.
        _demand_usable(certificate, broker.key_file, self._folder)
        return certificate, int(value["renew_at"])


def _demand_usable(certificate: str, key: Path | None, folder: Path) -> None:
    import ssl

    candidate = folder / "tls.crt.new"
    durable.write_file(candidate, certificate.encode("ascii"))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(candidate, key)
    finally:
        durable.remove_file(candidate)

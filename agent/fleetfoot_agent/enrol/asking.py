"""Asking the manager for a certificate, over a connection that the token vouches for.

The token has the sha256 of the certificate that vouches for the server. That certificate is fetched first,
over a connection that is not trusted with anything; then everything else goes over one that it has verified.
"""

import hashlib
import http.client
import json
import ssl
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fleetfoot_protocol.documents import read
from fleetfoot_protocol.enrolment import Admission, Application, Token
from fleetfoot_protocol.errors import FleetfootError, FormError

_SECONDS = 20.0
_MAX_ANSWER = 256 * 1024


def ask(token: Token, application: Application) -> Admission:
    """The admission for an application.

    Raises FleetfootError: `broker_unreachable`, `upgrade_tls_failed`, or what the manager says.
    """
    url = urlsplit(token.url)
    context = None
    if url.scheme == "https":
        context = ssl.create_default_context(cadata=_vouching(url, token.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    elif token.ca or not _loopback(url.hostname or ""):
        raise FleetfootError(
            "request_invalid",
            "the token names a server without TLS that is not this machine",
            remedy="ask for a token of a manager that runs with --pki",
        )
    body = _answer(url, context, "POST", "/enroll", application.payload())
    try:
        return read(Admission, body)
    except FormError as error:
        raise FleetfootError(
            "request_invalid", f"the manager's answer is malformed: {error.message}"
        ) from None


def _loopback(host: str) -> bool:
    return host in ("127.0.0.1", "::1", "localhost")


def _vouching(url: SplitResult, sha256: str) -> str:
    """The certificate with that sha256, as PEM."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    # Nothing is told and nothing is believed on this connection: the sha256 decides.
    anybody.verify_mode = ssl.CERT_NONE
    text = _answer(url, anybody, "GET", "/enroll/ca", None).decode("ascii", "replace")
    try:
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()
    except ValueError:
        found = ""
    if found != sha256:
        raise FleetfootError(
            "upgrade_tls_failed",
            f"another server than the token's answers at {url.hostname}",
            remedy="check the network between this device and the manager; the token was not shown to it",
        )
    return text


def _answer(
    url: SplitResult, context: ssl.SSLContext | None, method: str, path: str, body: bytes | None
) -> bytes:
    host, port = url.hostname or "", url.port
    if context is None:
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    try:
        connection.request(method, url.path.rstrip("/") + path, body=body)
        response = connection.getresponse()
        data = response.read(_MAX_ANSWER)
    except ssl.SSLError as error:
        raise FleetfootError("upgrade_tls_failed", f"{host}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FleetfootError(
            "broker_unreachable",
            f"cannot reach the manager at {host}:{port}: {error}",
            remedy="check that the manager runs and that its artifact server can be reached from here",
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise _refusal(response.status, data)
    return data


def _refusal(status: int, body: bytes) -> FleetfootError:
    try:
        said: Any = json.loads(body)
        message = str(said["message"])[:500]
    except (ValueError, KeyError, TypeError):
        message = ""
    code = "not_allowed" if status == 403 else "conflict" if status == 409 else "request_invalid"
    remedy = "ask for a new token: 'fleetfoot device token'" if code == "not_allowed" else None
    return FleetfootError(code, message or f"the manager answers {status}", remedy=remedy)

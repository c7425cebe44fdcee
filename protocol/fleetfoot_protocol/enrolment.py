"""Enrolment by token: what the token says, and what a device signs to ask for its certificate.

A token is one line, `ffe1.` and base64url without padding of a JSON object. Who holds it may enrol one
device, once, for as long as it lives. Its secret is made where the token is made; the manager gets to know
its sha256 only, so that a broker in between cannot use it. The rest says whom to believe: the root by the
sha256 of its payload, the server by the sha256 of the certificate (DER) that vouches for it.

The device makes two keys and hands out their public parts: `key` attests what it says (contract section 3),
`tls_key` is for connections. Each signs the request, so that nobody can enrol a key that is not theirs.
"""

import base64
import binascii
import hashlib
from typing import Annotated

from pydantic import Field, StringConstraints

from fleetfoot_protocol import keys
from fleetfoot_protocol.documents import Document, read
from fleetfoot_protocol.errors import FleetfootError, FormError
from fleetfoot_protocol.fields import Digest, Id, KeyHex, Label, LabelKey, Url

PREFIX = "ffe1."
#: Characters of a token, at most.
MAX_TOKEN = 2048
_CONTEXT = b"fleetfoot-enrolment-1"

SignatureHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class Token(Document):
    """What a token says. `ca`: empty where the server has no TLS, on loopback; `device`: any if None."""

    url: Url
    secret: KeyHex
    group: Id
    device: Id | None = None
    root: Digest
    ca: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""


class Application(Document):
    """What a device sends: never a secret key. `secret` is that of the token."""

    secret: KeyHex
    device: Id
    key: KeyHex
    tls_key: KeyHex
    labels: Annotated[dict[LabelKey, Label], Field(max_length=64)] = {}  # noqa: RUF012 - pydantic copies
    key_signature: SignatureHex
    tls_signature: SignatureHex


class Admission(Document):
    """What it gets. PEM texts, the root's envelope, and unix seconds from which to ask for a renewal."""

    device: Id
    group: Id
    certificate: Annotated[str, Field(max_length=16384)]
    ca: Annotated[str, Field(max_length=16384)]
    root: Annotated[str, Field(max_length=65536)]
    broker: Annotated[str, Field(max_length=512)]
    renew_at: Annotated[int, Field(ge=0)]


def secret_digest(secret: str) -> str:
    """By what the manager knows a token's secret."""
    return hashlib.sha256(bytes.fromhex(secret)).hexdigest()


def encode(token: Token) -> str:
    """The token as one line."""
    text = base64.urlsafe_b64encode(token.payload()).decode("ascii")
    return PREFIX + text.rstrip("=")


def decode(text: str) -> Token:
    """The token in a line. Raises FleetfootError `request_invalid`, without showing it."""
    text = text.strip()
    try:
        if not text.startswith(PREFIX) or len(text) > MAX_TOKEN:
            raise ValueError("no token")
        body = text.removeprefix(PREFIX)
        return read(Token, base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, FormError):
        raise FleetfootError(
            "request_invalid",
            "this is no enrolment token",
            remedy="paste the whole line that 'fleetfoot device token' wrote, beginning with ffe1.",
        ) from None


def signed_bytes(secret: str, device: str, key: str, tls_key: str) -> bytes:
    """What both keys sign: who asks, with which keys, by which token."""
    return b"\0".join([_CONTEXT, *(text.encode() for text in (secret_digest(secret), device, key, tls_key))])


def apply(
    token: Token, device: str, key_secret: bytes, tls_secret: bytes, labels: dict[str, str]
) -> Application:
    """The application of a device with these keys (raw secrets, 32 bytes each)."""
    key, tls_key = keys.public_of(key_secret).hex(), keys.public_of(tls_secret).hex()
    message = signed_bytes(token.secret, device, key, tls_key)
    return Application(
        secret=token.secret,
        device=device,
        key=key,
        tls_key=tls_key,
        labels=labels,
        key_signature=keys.sign(key_secret, message).hex(),
        tls_signature=keys.sign(tls_secret, message).hex(),
    )


def demand_possession(asked: Application) -> None:
    """Raise FleetfootError `not_allowed` unless both keys signed the application, and differ."""
    message = signed_bytes(asked.secret, asked.device, asked.key, asked.tls_key)
    pairs = ((asked.key, asked.key_signature), (asked.tls_key, asked.tls_signature))
    proven = all(
        keys.verify(bytes.fromhex(key), message, bytes.fromhex(signature)) for key, signature in pairs
    )
    if not proven or asked.key == asked.tls_key:
        raise FleetfootError(
            "not_allowed",
            "the application is not signed by both of its keys",
            remedy="apply with 'fleetfoot-agent enroll'",
        )

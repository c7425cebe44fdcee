"""DSSE envelopes and detached attestations (contract section 2; DSSE v1.0.2 protocol).

The signature is over the pre-authentication encoding of type and exact payload bytes. An envelope is
refused by size before it is decoded. Whether the signers suffice is decided in `trust`.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleetfoot_protocol import keys, strictjson
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FormError, TrustError

MAX_ENVELOPE = strictjson.MAX_BYTES
MAX_SIGNATURES = 32


class PayloadType(StrEnum):
    """The signed types."""

    ROOT = "application/vnd.fleetfoot.root+json"
    RELEASE = "application/vnd.fleetfoot.release+json"
    DESIRED = "application/vnd.fleetfoot.desired+json"
    HEARTBEAT = "application/vnd.fleetfoot.heartbeat+json"
    PROBE = "application/vnd.fleetfoot.probe+json"
    REQUEST = "application/vnd.fleetfoot.request+json"
    REPLY = "application/vnd.fleetfoot.reply+json"
    STATUS = "application/vnd.fleetfoot.status+json"
    ROLLOUT = "application/vnd.fleetfoot.rollout+json"
    AUDIT = "application/vnd.fleetfoot.audit+json"


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as it came: the key id is a hint, the bytes may be garbage."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded, not yet verified envelope."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> str:
        """The document's identity: sha256 of its payload, hex."""
        return hashlib.sha256(self.payload).hexdigest()


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: ``DSSEv1 SP LEN(type) SP type SP LEN(body) SP body``."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _decode_base64(text: str) -> bytes:
    """Either alphabet, strictly padded, no stray bits (RFC 4648, section 3.5). Raises ValueError."""
    plain = text.replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(plain.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64") from error
    if base64.b64encode(data).decode() != plain:  # decoders differ in what they forgive
        raise ValueError("not base64 as it is encoded")
    return data


def _signatures(items: Any) -> tuple[Signature, ...]:
    if not isinstance(items, list) or len(items) > MAX_SIGNATURES:
        raise FormError(Code.UPGRADE_MALFORMED, f"signatures must be a list of at most {MAX_SIGNATURES}")
    result = []
    for item in items:
        if not isinstance(item, dict) or set(item) - {"keyid", "sig"} or not isinstance(item.get("sig"), str):
            raise FormError(Code.UPGRADE_MALFORMED, "a signature must have keyid and sig")
        keyid = item.get("keyid", "")
        if not isinstance(keyid, str):
            raise FormError(Code.UPGRADE_MALFORMED, "a keyid must be a string")
        try:
            sig = _decode_base64(item["sig"])
        except ValueError:
            sig = b""  # an undecodable signature is one that does not verify, beside others that may
        result.append(Signature(keyid, sig))
    return tuple(result)


def decode(data: bytes) -> Envelope:
    """Take an envelope apart. Raises `FormError`; says nothing about who signed it."""
    obj = strictjson.loads(data, limit=MAX_ENVELOPE)
    if not isinstance(obj, dict) or set(obj) != {"payload", "payloadType", "signatures"}:
        raise FormError(Code.UPGRADE_MALFORMED, "not a DSSE envelope")
    if not isinstance(obj["payload"], str) or not isinstance(obj["payloadType"], str):
        raise FormError(Code.UPGRADE_MALFORMED, "payload and payloadType must be strings")
    signatures = _signatures(obj["signatures"])
    try:
        payload = _decode_base64(obj["payload"])
    except ValueError as error:
        raise TrustError(Code.UPGRADE_SIGNATURE_INVALID, "the payload is not base64") from error
    return Envelope(obj["payloadType"], payload, signatures)


def encode(envelope: Envelope) -> bytes:
    """The envelope as JSON bytes; raises `FormError` (`upgrade_too_large`) past 64 KiB."""
    data = strictjson.dumps(
        {
            "payload": base64.b64encode(envelope.payload).decode(),
            "payloadType": envelope.payload_type,
            "signatures": [
                {"keyid": s.keyid, "sig": base64.b64encode(s.sig).decode()} for s in envelope.signatures
            ],
        }
    )
    if len(data) > MAX_ENVELOPE:
        raise FormError(Code.UPGRADE_TOO_LARGE, f"envelope of {len(data)} bytes, more than {MAX_ENVELOPE}")
    return data


def sign(payload_type: str, payload: bytes, *secrets: bytes) -> Envelope:
    """An envelope over `payload`, signed with each of the secret keys."""
    message = pae(payload_type, payload)
    return Envelope(
        payload_type,
        payload,
        tuple(Signature(keys.key_id(keys.public_of(s)), keys.sign(s, message)) for s in secrets),
    )


def add_signature(envelope: Envelope, secret: bytes) -> Envelope:
    """The same envelope with this key's signature added (replaced, if the key had signed before)."""
    extra = sign(envelope.payload_type, envelope.payload, secret).signatures[0]
    kept = tuple(s for s in envelope.signatures if s.keyid != extra.keyid)
    return Envelope(envelope.payload_type, envelope.payload, (*kept, extra))


def attest(payload_type: str, payload: bytes, counter: int, *secrets: bytes) -> bytes:
    """A detached attestation of the exact bytes `payload`, as JSON bytes (contract section 1)."""
    envelope = sign(payload_type, payload, *secrets)
    return strictjson.dumps(
        {
            "payload_type": payload_type,
            "sha256": envelope.digest,
            "counter": counter,
            "signatures": [
                {"keyid": s.keyid, "sig": base64.b64encode(s.sig).decode()} for s in envelope.signatures
            ],
        }
    )


def join_attestation(payload: bytes, attestation: bytes) -> tuple[Envelope, int]:
    """Payload and its detached attestation as an envelope to verify, and the counter the latter names.

    Raises `FormError`, and `TrustError` (`upgrade_signature_invalid`) if they do not belong together.
    """
    obj = strictjson.loads(attestation)
    if not isinstance(obj, dict) or set(obj) != {"payload_type", "sha256", "counter", "signatures"}:
        raise FormError(Code.UPGRADE_MALFORMED, "not an attestation")
    if not isinstance(obj["payload_type"], str) or type(obj["counter"]) is not int:
        raise FormError(Code.UPGRADE_MALFORMED, "payload_type must be a string and counter an integer")
    envelope = Envelope(obj["payload_type"], payload, _signatures(obj["signatures"]))
    if obj["sha256"] != envelope.digest:
        raise TrustError(Code.UPGRADE_SIGNATURE_INVALID, "the attestation is of other bytes")
    return envelope, obj["counter"]

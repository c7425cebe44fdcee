"""Ed25519 behind two functions: `sign` and the one `verify` (RFC 8032, by libsodium through PyNaCl).

Key ids are the first 16 hex digits of the SHA-256 of the raw public key; they are hints and prove nothing.
"""

import hashlib

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

PUBLIC_BYTES = 32
SECRET_BYTES = 32
SIGNATURE_BYTES = 64


def key_id(public: bytes) -> str:
    """The id of a raw public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def generate() -> bytes:
    """A new secret key: 32 random bytes (the RFC 8032 seed)."""
    return bytes(SigningKey.generate())


def public_of(secret: bytes) -> bytes:
    """The raw public key of a secret key."""
    return bytes(SigningKey(secret).verify_key)


def sign(secret: bytes, message: bytes) -> bytes:
    """The 64-byte signature of `message`."""
    return SigningKey(secret).sign(message).signature


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is valid. False for keys and signatures of any wrong length or shape.

    PyNaCl raises BadSignatureError, ValueError or TypeError depending on what is wrong; for us there is
    only valid and invalid.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(public).verify(message, signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True

"""Ed25519 behind two functions: `sign` and the one `verify` (RFC 8032).

By libsodium through PyNaCl; by `ed25519` where PyNaCl is not installed, as on 32-bit ARM, for which it has no
wheels. One that is installed and broken is an error, never a reason to use the other. Key ids are the first
16 hex digits of the SHA-256 of the raw public key; they are hints and prove nothing.
"""

import hashlib
import os
from importlib.util import find_spec

from fleetfoot_protocol import ed25519

#: Whether libsodium does the work.
SODIUM = find_spec("nacl") is not None
if SODIUM:
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
    return os.urandom(SECRET_BYTES)


def public_of(secret: bytes) -> bytes:
    """The raw public key of a secret key."""
    return bytes(SigningKey(secret).verify_key) if SODIUM else ed25519.public_of(secret)


def sign(secret: bytes, message: bytes) -> bytes:
    """The 64-byte signature of `message`."""
    return SigningKey(secret).sign(message).signature if SODIUM else ed25519.sign(secret, message)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is valid. False for keys and signatures of any wrong length or shape.

    PyNaCl raises BadSignatureError, ValueError or TypeError depending on what is wrong; for us there is
    only valid and invalid.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    if not SODIUM:
        return ed25519.verify(public, message, signature)
    try:
        VerifyKey(public).verify(message, signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True

"""A self-signed Ed25519 certificate for 127.0.0.1 and localhost, made anew for every test that wants TLS.

Just enough DER for OpenSSL; so that no key lies in the tree and no other program is needed.
"""

import base64
import hashlib
from pathlib import Path

from fleetfoot_protocol import keys

_ED25519 = bytes.fromhex("300506032b6570")


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + body


def _name(text: str) -> bytes:
    return _der(0x30, _der(0x31, _der(0x30, bytes.fromhex("0603550403"), _der(0x0C, text.encode()))))


def _extension(oid: str, critical: bool, value: bytes) -> bytes:
    flag = b"\x01\x01\xff" if critical else b""
    return _der(0x30, bytes.fromhex(oid), flag, _der(0x04, value))


def _certificate(key: bytes) -> bytes:
    public = keys.public_of(key)
    key_id = hashlib.sha256(public).digest()[:20]
    extensions = _der(
        0x30,
        _extension("0603551d13", True, _der(0x30, b"\x01\x01\xff")),  # basicConstraints: CA
        _extension("0603551d0f", True, b"\x03\x02\x02\x84"),  # keyUsage: digitalSignature, keyCertSign
        _extension("0603551d0e", False, _der(0x04, key_id)),
        _extension("0603551d23", False, _der(0x30, _der(0x80, key_id))),
        _extension(
            "0603551d11", False, _der(0x30, _der(0x87, bytes([127, 0, 0, 1])), _der(0x82, b"localhost"))
        ),
    )
    to_be_signed = _der(
        0x30,
        _der(0xA0, b"\x02\x01\x02"),  # version 3
        b"\x02\x01\x01",
        _ED25519,
        _name("test"),
        _der(0x30, _der(0x17, b"200101000000Z"), _der(0x17, b"491231235959Z")),
        _name("test"),
        _der(0x30, _ED25519, _der(0x03, b"\0", public)),
        _der(0xA3, extensions),
    )
    return _der(0x30, to_be_signed, _ED25519, _der(0x03, b"\0", keys.sign(key, to_be_signed)))


def _pem(what: str, der: bytes) -> str:
    return f"-----BEGIN {what}-----\n{base64.encodebytes(der).decode()}-----END {what}-----\n"


def write_certificate(folder: Path, name: str = "tls") -> tuple[Path, Path]:
    """Make a key and its certificate in `folder`. Returns (certificate, key).

    The certificate is its own CA.
    """
    key = keys.generate()
    certificate, secret = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_text(_pem("CERTIFICATE", _certificate(key)))
    wrapped = _der(0x30, b"\x02\x01\x00", _ED25519, _der(0x04, _der(0x04, key)))
    secret.write_text(_pem("PRIVATE" + " KEY", wrapped))
    return certificate, secret

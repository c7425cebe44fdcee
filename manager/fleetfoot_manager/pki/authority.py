"""X.509 by the library `cryptography`: authorities, certificates and lists of revoked ones. No files here.

Authorities and servers have P-256 keys, which every TLS library knows. A device brings a key of its own,
Ed25519 or P-256. A certificate says two things: the common name, which is the id in the topics, and as the
organizational unit the role. What its holder may do follows from the authority that signed it, one for each
role; a broker that has one listener for all of them, and so cannot tell authorities apart, goes by the role.
"""

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
#: Clocks of devices are behind at times.
_BACKDATED = datetime.timedelta(days=1)

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Authority:
    """A certificate that vouches for others, with its key."""

    certificate: x509.Certificate
    key: PrivateKey


def make_key() -> PrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """A key as PKCS #8, without a passphrase: the file's mode guards it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(one: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """A certificate or list as PEM."""
    return one.public_bytes(serialization.Encoding.PEM)


def device_key(raw: bytes) -> ed25519.Ed25519PublicKey:
    """A device's public key from its 32 bytes. ValueError for any other number of them."""
    return ed25519.Ed25519PublicKey.from_public_bytes(raw)


def load(certificate: bytes, key: bytes) -> Authority:
    """An authority from PEM. ValueError if it is none, or the two do not belong together."""
    found = x509.load_pem_x509_certificate(certificate)
    secret = serialization.load_pem_private_key(key, None)
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or found.public_key() != secret.public_key():
        raise ValueError("certificate and key do not belong together")
    return Authority(found, secret)


def found(name: str, now: datetime.datetime) -> Authority:
    """A new authority that signs itself."""
    key = make_key()
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), now, now + datetime.timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def issue(
    by: Authority,
    name: str,
    public: PublicKey,
    now: datetime.datetime,
    days: float,
    hosts: Sequence[str] = (),
    *,
    role: str = "",
) -> x509.Certificate:
    """A certificate for `name`: of a client with its role, or of a server that is reached as `hosts`.

    It never outlives its authority.
    """
    until = min(now + datetime.timedelta(days=days), by.certificate.not_valid_after_utc)
    builder = _builder(_name(name, role), by.certificate.subject, public, now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), critical=False
    )
    return builder.sign(by.key, hashes.SHA256())


def revoked_list(
    by: Authority, revoked: Iterable[tuple[int, datetime.datetime]], now: datetime.datetime
) -> x509.CertificateRevocationList:
    """The signed list of these (serial, since when).

    It lives as long as its authority: brokers refuse everybody once their list has expired, and a list that
    nobody renews must not end a fleet.
    """
    builder = x509.CertificateRevocationListBuilder().issuer_name(by.certificate.subject)
    builder = builder.last_update(now - _BACKDATED).next_update(by.certificate.not_valid_after_utc)
    for serial, since in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(one)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), critical=False
    )
    # Two lists in one second must differ in their order, too.
    builder = builder.add_extension(x509.CRLNumber(int(now.timestamp() * 1_000_000)), critical=False)
    return builder.sign(by.key, hashes.SHA256())


def common_name(certificate: x509.Certificate) -> str:
    """Whose it is."""
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The names under which a server is reached, in their order."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(one.value) for one in names]


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: PublicKey,
    now: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
    )


def _name(text: str, role: str = "") -> x509.Name:
    unit = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role)] if role else []
    return x509.Name([*unit, x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    values: dict[str, Any] = {name: given.get(name, False) for name in names}
    return x509.KeyUsage(**values)

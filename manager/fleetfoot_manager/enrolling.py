"""Enrolment by token and renewal: what the manager decides and stores.

1. A token is known by the sha256 of its secret. It enrols one device: whoever comes first, in the order of
   the engine's transactions. The same device with the same keys gets the same answer again, as its first one
   may have been lost on the way; any other is refused.
2. A token that does not name its device never replaces an enrolment.
3. Where another key takes a device's place, the certificates given until then are listed as revoked first.
"""

import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from sqlalchemy.engine import Connection

from fleetfoot_manager import inventory, lives, revocation, schema
from fleetfoot_manager.pki import authority
from fleetfoot_manager.pki.folder import Pki
from fleetfoot_manager.work import Work
from fleetfoot_protocol import dsse, enrolment
from fleetfoot_protocol.enrolment import Admission, Application
from fleetfoot_protocol.errors import FleetfootError

#: Of its life, when a certificate may be renewed.
RENEW_AFTER = 2 / 3
_DAY = 86400.0


@dataclass(frozen=True)
class Door:
    """What enrolment needs and a House does not have. `days`: life of a device's certificate."""

    pki: Pki
    broker: str
    days: float = 365.0


def admit(work: Work, door: Door, asked: Application) -> Admission:
    """Enrol the device, once for each token. Raises FleetfootError `not_allowed`, `conflict`."""
    enrolment.demand_possession(asked)
    digest = enrolment.secret_digest(asked.secret)
    table = schema.enrolment_tokens
    token = work.tx.execute(sa.select(table).where(table.c.secret_sha256 == digest)).mappings().first()
    if token is None:
        raise _refused("nobody knows this token")
    keys = f"{asked.device} {asked.key} {asked.tls_key}"
    if token["used_by"] is None:
        if token["expires"] <= work.now:
            raise _refused("this token has expired")
        if token["device"] not in (None, asked.device):
            raise _refused(f"this token is for {token['device']}, not for {asked.device}")
        known = inventory.find(work.tx, asked.device)
        if token["device"] is not None and known is not None and known.key.hex() != asked.key:
            door.pki.revoke("device", asked.device)
        _enroll(work, asked, token["group"], token["operator"], digest, replace=token["device"] is not None)
        work.tx.execute(
            sa.update(table).where(table.c.secret_sha256 == digest).values(used_by=keys, used_at=work.now)
        )
    elif not secrets.compare_digest(token["used_by"], keys):
        raise _refused("this token was used before: it enrols one device")
    elif inventory.find(work.tx, asked.device) is None:
        raise _refused(f"{asked.device} is not enrolled any more")
    return _admission(work, door, asked.device, token["group"], bytes.fromhex(asked.tls_key), token["root"])


def _enroll(work: Work, asked: Application, group: str, operator: str, digest: str, *, replace: bool) -> None:
    known = inventory.find(work.tx, asked.device)
    new_group = group not in inventory.known_groups(work.tx)
    inventory.enroll(work.tx, asked.device, group, asked.key, asked.labels, work.now, replace=replace)
    revocation.forgive(work.tx, asked.device)
    work.devices.bouncer.changed()
    work.devices.forget(asked.device)
    data = {"device": asked.device, "group": group, "key": asked.key, "labels": dict(asked.labels)}
    work.audit(operator, "device.enroll", {**data, "token": digest[:16], "replaced": known is not None})
    work.join(asked.device, group, asked.labels)
    work.newcomers.append((group, asked.device))
    if new_group:
        lives.adopt(work, group)
        work.renew_heartbeat(group)


def _admission(work: Work, door: Door, device: str, group: str, tls_key: bytes, root: str) -> Admission:
    certificate, renew_at = certify(door, device, tls_key, work.now)
    return Admission(
        device=device,
        group=group,
        certificate=certificate,
        ca=door.pki.server_ca().decode("ascii"),
        root=_root(work.tx, root),
        broker=door.broker,
        renew_at=renew_at,
    )


def certify(door: Door, device: str, tls_key: bytes, now: float) -> tuple[str, int]:
    """A new certificate (PEM) for a device's key, and when to renew it (unix seconds)."""
    try:
        public = authority.device_key(tls_key)
    except ValueError as error:
        raise FleetfootError("request_invalid", f"this is no key for TLS: {error}") from None
    made = door.pki.sign("device", device, public, door.days)
    life = made.not_valid_after_utc.timestamp() - now
    return authority.pem(made).decode("ascii"), int(now + life * RENEW_AFTER)


def recertify(door: Door, device: str, certificate: bytes, now: float) -> tuple[str, int]:
    """As `certify`, for the key in the certificate (DER) that the device has shown."""
    public = x509.load_der_x509_certificate(certificate).public_key()
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise FleetfootError(
            "request_invalid",
            "only keys that were made by 'fleetfoot-agent enroll' are renewed here",
            remedy="renew this one with 'fleetfoot pki renew'",
        )
    return certify(door, device, public.public_bytes_raw(), now)


def _root(tx: Connection, digest: str) -> str:
    """The envelope of the root that the token names."""
    for envelope in tx.scalars(sa.select(schema.roots.c.envelope).order_by(schema.roots.c.version.desc())):
        if dsse.decode(envelope).digest == digest:
            return str(envelope.decode("utf-8"))
    raise FleetfootError("not_found", f"there is no root {digest[:16]}")


def root_in_force(tx: Connection) -> str:
    """The sha256 of the newest root's payload."""
    table = schema.roots.c
    newest: bytes = (
        tx.execute(sa.select(table.envelope).order_by(table.version.desc())).scalars().first() or b""
    )
    return dsse.decode(newest).digest


def keep_token(
    work: Work, secret_sha256: str, group: str, device: str | None, expires: float, operator: str
) -> str:
    """Store a token; returns the root that it names. FleetfootError `conflict` for one that is known."""
    table = schema.enrolment_tokens
    # Used ones are kept for as long as somebody may look for them; the audit log keeps what they did.
    work.tx.execute(sa.delete(table).where(table.c.expires < work.now - 30 * _DAY))
    if work.tx.execute(
        sa.select(table.c.secret_sha256).where(table.c.secret_sha256 == secret_sha256)
    ).first():
        raise FleetfootError("conflict", "there is such a token already", remedy="make another one")
    root = root_in_force(work.tx)
    row = {"secret_sha256": secret_sha256, "group": group, "device": device, "expires": expires}
    work.tx.execute(sa.insert(table).values(**row, operator=operator, root=root))
    return root


def _refused(why: str) -> FleetfootError:
    return FleetfootError("not_allowed", why, remedy="ask for a new token: 'fleetfoot device token'")

"""The verbs about identities: make an enrolment token, revoke a device."""

import hashlib
import ssl
from typing import Any

from fleetfoot_manager import enrolling, inventory, revocation, rights
from fleetfoot_manager.requests import arguments, device_admin
from fleetfoot_manager.requests.answers import moment, some
from fleetfoot_manager.work import Work
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.reports import Request


def token(work: Work, request: Request) -> dict[str, Any]:
    """`device.token`: what the token has to say beside its secret, which stays where it was made."""
    asked = arguments.parse(arguments.DeviceToken, request.arguments)
    rights.demand(work.house.root, request, [asked.group])
    if work.house.enrolment is None or work.house.pki is None:
        raise FleetfootError(
            "state_refused",
            "this manager has no certificates to give",
            remedy="run it with --pki, a folder of 'fleetfoot pki init' with devices-ca.key in it",
        )
    if asked.device is not None and (known := inventory.find(work.tx, asked.device)) is not None:
        rights.demand(work.house.root, request, [known.group])
    expires = work.now + asked.life
    root = enrolling.keep_token(
        work, asked.secret_sha256, asked.group, asked.device, expires, request.operator
    )
    data = {"token": asked.secret_sha256[:16], "group": asked.group, "life": asked.life}
    work.audit(request.operator, "device.token", {**data, **some(device=asked.device)})
    url = work.house.enrolment
    tls = url.startswith("https:")
    ca = ssl.PEM_cert_to_DER_cert(work.house.pki.server_ca().decode("ascii")) if tls else b""
    return {
        "url": url,
        "root": root,
        "ca": hashlib.sha256(ca).hexdigest() if tls else "",
        "group": asked.group,
        "expires": moment(expires),
        **some(device=asked.device),
    }


def revoke(work: Work, request: Request) -> dict[str, Any]:
    """`device.revoke`: `device.forget`, and nobody is this device any more.

    Its certificates are listed as revoked before anything else, so that a failure here errs on the safe side.
    """
    asked = arguments.parse(arguments.DeviceShow, request.arguments)
    entry = device_admin.demand(work, request, asked.device)
    pki = work.house.pki
    listed = pki.revoke("device", entry.id) if pki is not None and pki.can_enroll else 0
    cleared = device_admin.remove(work, entry)
    revocation.revoke(work.tx, entry.id, entry.group, work.now)
    work.devices.bouncer.changed()
    work.evictions.append((entry.group, entry.id))
    data = {"device": entry.id, "group": entry.group, "key": entry.key.hex(), "certificates": listed}
    work.audit(request.operator, "device.revoke", data)
    return {"device": entry.id, "group": entry.group, "cleared": cleared, "certificates": listed}

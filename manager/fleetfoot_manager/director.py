"""The director key: what the manager signs with, and how it lies on disk.

It can schedule only what release keys signed. The file is `{"kind": "fleetfoot-key", "public", "secret"}`
with mode 0600; one that others can read is refused, not repaired: it may have been read already.
"""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetfoot_protocol import dsse, keys, strictjson
from fleetfoot_protocol.documents import Document
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_protocol.errors import FleetfootError, FormError
from fleetfoot_protocol.trust import TrustRoot

KEY_NAME = "director.key"
_SECRET_KIND = "fleetfoot-key"  # noqa: S105 - the name of a file format
_PUBLIC_KIND = "fleetfoot-public-key"


@dataclass(frozen=True)
class Director:
    """The secret key together with the root under which it may sign."""

    secret: bytes
    root: TrustRoot

    def __post_init__(self) -> None:
        role = self.root.roles.director
        mine = keys.public_of(self.secret).hex()
        if mine not in {self.root.keys[name] for name in role.keys}:
            raise FleetfootError(
                "config_invalid",
                f"root {self.root.version} does not name this manager's key {mine[:16]}… as director",
                remedy="make the root from this manager's root-request.json",
            )
        if role.threshold > 1:
            raise FleetfootError(
                "config_invalid",
                f"root {self.root.version} demands {role.threshold} director keys, a manager has one",
                remedy="make a root whose director role has threshold 1",
            )

    def envelope(self, kind: PayloadType, document: Document) -> bytes:
        """The signed envelope of a document. Raises FormError `upgrade_too_large`."""
        return dsse.encode(dsse.sign(kind, document.payload(), self.secret))

    def attest(self, kind: PayloadType, payload: bytes, counter: int) -> bytes:
        """The detached signature of a plain JSON document."""
        return dsse.attest(kind, payload, counter, self.secret)


def make_key(path: Path) -> bytes:
    """Make a new key file with mode 0600, durably; returns the public key. Never overwrites."""
    secret = keys.generate()
    public = keys.public_of(secret)
    data = json.dumps({"kind": _SECRET_KIND, "public": public.hex(), "secret": secret.hex()}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return public


def read_key(path: Path) -> bytes:
    """The secret key in a file. Raises FleetfootError `key_unsafe` or `key_unreadable`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or mode & 0o077:
                raise FleetfootError("key_unsafe", f"{path} is readable by others (mode {mode & 0o777:04o})")
            value = strictjson.loads(file.read(4096))
    except OSError as error:
        raise FleetfootError("key_unreadable", f"cannot read {path}: {error.strerror}") from error
    except FormError as error:
        raise FleetfootError("key_unreadable", f"{path} is no key file: {error.message}") from error
    secret = _hex_field(value, _SECRET_KIND, "secret", path)
    if keys.public_of(secret) != _hex_field(value, _SECRET_KIND, "public", path):
        raise FleetfootError("key_unreadable", f"{path} holds a public key that is not its secret's")
    return secret


def read_public(path: Path) -> bytes:
    """The public key in a `.pub` file. Raises FleetfootError `key_unreadable`."""
    try:
        value = strictjson.loads(path.read_bytes()[:4096])
    except OSError as error:
        raise FleetfootError("key_unreadable", f"cannot read {path}: {error.strerror}") from error
    except FormError as error:
        raise FleetfootError("key_unreadable", f"{path} is no public key file: {error.message}") from error
    return _hex_field(value, _PUBLIC_KIND, "public", path)


def _hex_field(value: Any, kind: str, name: str, path: Path) -> bytes:
    if isinstance(value, dict) and value.get("kind") == kind and isinstance(value.get(name), str):
        try:
            found = bytes.fromhex(value[name])
        except ValueError:
            found = b""
        if len(found) == 32:
            return found
    raise FleetfootError("key_unreadable", f"{path} is no file of kind {kind}")

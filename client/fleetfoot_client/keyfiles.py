"""Key files on disk: a secret key that only its owner can read, and its public part beside it.

A secret key that others could have read is no longer one: such a file is refused, not mended. With a
passphrase the secret part is locked (`lockbox`), and asked for whenever the key is used.
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetfoot_client import files, lockbox
from fleetfoot_protocol import keys, strictjson
from fleetfoot_protocol.errors import FleetfootError, FormError

SECRET_KIND = "fleetfoot-key"  # noqa: S105
LOCKED_KIND = "fleetfoot-locked-key"
PUBLIC_KIND = "fleetfoot-public-key"
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Key:
    """A key from a file of a `kind`: `public` always, `secret` only where it was read. Raw, 32 bytes each."""

    public: bytes
    secret: bytes | None
    kind: str = SECRET_KIND

    @property
    def id(self) -> str:
        """The key's id."""
        return keys.key_id(self.public)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that can sign: its id and the raw secret, 32 bytes."""

    id: str
    secret: bytes


def create(path: Path, passphrase: str | None = None) -> Key:
    """Make a new key: `path` (0600) and `path`.pub; with a passphrase, locked by it.

    FleetfootError `exists_already`, with nothing changed.
    """
    public_path = path.with_name(path.name + ".pub")
    if public_path.exists():
        raise FleetfootError("exists_already", f"{public_path} exists and is not overwritten")
    secret = keys.generate()
    public = keys.public_of(secret)
    value: dict[str, str | int] = {"kind": SECRET_KIND, "public": public.hex(), "secret": secret.hex()}
    if passphrase is not None:
        value = {"kind": LOCKED_KIND, "public": public.hex(), **lockbox.lock(secret, passphrase)}
    files.write_new(path, _json(value), mode=0o600)
    files.write_new(public_path, _json({"kind": PUBLIC_KIND, "public": public.hex()}))
    return Key(public, secret)


def load(path: Path, *, unlock: bool = True) -> Key:
    """The key in a secret or a public key file. A locked one asks for its passphrase, unless not to `unlock`.

    FleetfootError `key_unsafe` for a secret key that is not its owner's alone, `key_unreadable`.
    """
    data, facts = _read(path)
    try:
        value = strictjson.loads(data)
    except FormError as error:
        raise _unreadable(path, error.message) from error
    if not isinstance(value, dict) or not _HEX.fullmatch(str(value.get("public"))):
        raise _unreadable(path, "it is no key file")
    public = bytes.fromhex(value["public"])
    if value.get("kind") == PUBLIC_KIND and set(value) == {"kind", "public"}:
        return Key(public, None, PUBLIC_KIND)
    if value.get("kind") == LOCKED_KIND:
        _demand_private(path, facts)
        return Key(public, _unlocked(path, value, public) if unlock else None, LOCKED_KIND)
    if value.get("kind") != SECRET_KIND or not _HEX.fullmatch(str(value.get("secret"))):
        raise _unreadable(path, "it is no key file")
    _demand_private(path, facts)
    secret = bytes.fromhex(value["secret"])
    if keys.public_of(secret) != public:
        raise _unreadable(path, "its public part does not belong to its secret part")
    return Key(public, secret)


def load_signing(path: Path) -> SigningKey:
    """The secret key in the file at `path`. FleetfootError as for `load`."""
    key = load(path)
    if key.secret is None:
        raise _unreadable(path, "it is a public key; its secret key is needed to sign")
    return SigningKey(key.id, key.secret)


def _unlocked(path: Path, value: dict[str, Any], public: bytes) -> bytes:
    try:
        secret = lockbox.unlock(value, lockbox.ask(f"passphrase of {path}: "))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if keys.public_of(secret) != public:
        raise _unreadable(path, "its public part does not belong to its secret part")
    return secret


def load_public(text: str) -> bytes:
    """A public key given as 64 hex digits or as the path of a public key file."""
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    key = load(Path(text), unlock=False)
    if key.kind != PUBLIC_KIND:
        # It would do, but secret keys should not become a habit where public ones are asked for.
        raise FleetfootError(
            "key_unreadable",
            f"{text} is a secret key; a public key is wanted here",
            remedy=f"name {text}.pub instead",
        )
    return key.public


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        # Nonblocking, or a fifo in the key's place would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise _unreadable(path, "it is no file")
            return file.read(_MAX_BYTES), facts
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def _demand_private(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid != os.geteuid():
        raise FleetfootError(
            "key_unsafe",
            f"the secret key {path} belongs to user {facts.st_uid}, not to you",
            remedy="run this as the key's owner, or use a key of your own",
        )
    if facts.st_mode & 0o077:
        raise FleetfootError(
            "key_unsafe",
            f"the secret key {path} has mode {stat.S_IMODE(facts.st_mode):04o}: others may read or change it",
        )


def _unreadable(path: Path, why: str) -> FleetfootError:
    return FleetfootError("key_unreadable", f"cannot use the key {path}: {why}")


def _json(value: Mapping[str, str | int]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()

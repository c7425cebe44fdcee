"""A secret locked by a passphrase: argon2id makes a key of it, XSalsa20-Poly1305 locks and proves.

The costs stand in the file, so that they can rise with the machines; a file cannot ask for more than a
machine can be expected to have. This takes libsodium, loaded only for a locked key: keys without a passphrase
are made and used on machines that lack it.
"""

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetfoot_client import files
from fleetfoot_protocol.errors import FleetfootError

if TYPE_CHECKING:
    from nacl.secret import SecretBox

#: Where the passphrase is read from when nobody can be asked.
FILE_VARIABLE = "FLEETFOOT_PASSPHRASE_FILE"
#: Shorter ones are guessed.
MIN_LENGTH = 12
#: Of argon2id: passes, and bytes of memory; libsodium calls these moderate. The most that a file may ask for.
OPS, MEMORY = 3, 256 * 1024**2
_MAX_OPS, _MAX_MEMORY = 64, 2 * 1024**3
_MAX_PASSPHRASE = 1024
_SALT_BYTES = 16


def lock(secret: bytes, passphrase: str) -> dict[str, str | int]:
    """What stands in the file of a locked key beside its public part: ops, memory, salt, box (hex)."""
    salt = os.urandom(_SALT_BYTES)
    box = _box(passphrase, salt, OPS, MEMORY).encrypt(secret)
    return {"ops": OPS, "memory": MEMORY, "salt": salt.hex(), "box": bytes(box).hex()}


def unlock(value: dict[str, Any], passphrase: str) -> bytes:
    """The secret. ValueError for another passphrase, and for what is no lock."""
    ops, memory = value.get("ops"), value.get("memory")
    if type(ops) is not int or type(memory) is not int or not 0 < ops <= _MAX_OPS or memory > _MAX_MEMORY:
        raise ValueError("it is no key file")
    try:
        salt, box = bytes.fromhex(str(value.get("salt"))), bytes.fromhex(str(value.get("box")))
        locked = _box(passphrase, salt, ops, memory)
    except (ValueError, TypeError) as error:
        raise ValueError("it is no key file") from error
    secret = _opened(locked, box)
    if len(secret) != 32:
        raise ValueError("it is no key file")
    return secret


def _box(passphrase: str, salt: bytes, ops: int, memory: int) -> "SecretBox":
    try:
        from nacl.pwhash import argon2id
        from nacl.secret import SecretBox
    except ModuleNotFoundError:
        raise FleetfootError(
            "not_installed",
            "a key with a passphrase takes PyNaCl, which is not installed here",
            remedy="use a machine that has it, or: pip install pynacl",
        ) from None
    key = argon2id.kdf(SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=ops, memlimit=memory)
    return SecretBox(key)


def _opened(locked: "SecretBox", box: bytes) -> bytes:
    from nacl.exceptions import CryptoError

    try:
        return locked.decrypt(box)
    except CryptoError as error:
        raise ValueError("the passphrase is another one, or the file is damaged") from error
    except (ValueError, TypeError) as error:
        raise ValueError("it is no key file") from error


def ask(prompt: str) -> str:
    """The passphrase: from the file that FLEETFOOT_PASSPHRASE_FILE names, else from the terminal."""
    if path := os.environ.get(FILE_VARIABLE):
        try:
            return files.read(Path(path), _MAX_PASSPHRASE).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise FleetfootError("key_unreadable", f"{path} is not UTF-8 text") from None
    if not sys.stdin.isatty():
        raise FleetfootError(
            "key_unreadable",
            "a passphrase is needed, and there is no terminal to ask at",
            remedy=f"run it at a terminal, or name a file in {FILE_VARIABLE}",
        )
    return getpass.getpass(prompt)


def ask_new() -> str:
    """A new passphrase, asked for twice. FleetfootError `request_invalid` if it is short or mistyped."""
    passphrase = ask("new passphrase: ")
    if len(passphrase) < MIN_LENGTH:
        raise FleetfootError(
            "request_invalid",
            f"the passphrase has fewer than {MIN_LENGTH} characters",
            remedy="take several random words",
        )
    if not os.environ.get(FILE_VARIABLE) and getpass.getpass("once more: ") != passphrase:
        raise FleetfootError("request_invalid", "the two passphrases differ", remedy="try again")
    return passphrase

"""Profiles: which broker, who one is, which key, which trust root; in `profiles.toml`, by name.

`FLEETFOOT_CONFIG_DIR` names the folder (default: the user's configuration folder), `FLEETFOOT_PROFILE` the
profile; `FLEETFOOT_BROKER`, `FLEETFOOT_OPERATOR`, `FLEETFOOT_KEY` and `FLEETFOOT_ROOT` override its fields,
and suffice where there is no profile. Secrets are never in the file, only paths of them.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from fleetfoot_client import files
from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.fields import visible

FILE_NAME = "profiles.toml"
_OVERRIDES = ("broker", "operator", "key", "root")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile. broker: `mqtt://` or `mqtts://` URL; key: the operator's secret key; root: the trust root.

    The last five are for brokers that want to know who connects; paths, like the others.
    """

    name: str
    broker: str
    operator: str
    key: Path
    root: Path
    topic_root: str = topics.DEFAULT_ROOT
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    cert_key_file: Path | None = None

    @property
    def address(self) -> Address:
        """The broker's address."""
        return parse_broker(self.broker)


@dataclass(frozen=True, slots=True)
class Book:
    """Everything in the file: profiles by name, and the name of the default one."""

    profiles: Mapping[str, Profile]
    default: str | None


_PATHS = frozenset({"key", "root", "password_file", "ca_file", "cert_file", "cert_key_file"})
_REQUIRED = ("broker", "operator", "key", "root")
_SETTINGS = tuple(field.name for field in fields(Profile) if field.name != "name")


def parse_broker(url: str) -> Address:
    """The address in a broker's URL. FleetfootError `config_invalid`."""
    try:
        visible(url)
        parts = urlsplit(url)
        tls = parts.scheme == "mqtts"
        port = parts.port or (8883 if tls else 1883)
    except ValueError as error:
        raise _invalid(f"broker {url[:200]!a}: {error}") from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
        raise _invalid(f"broker must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT], not {url[:200]!a}")
    if parts.username is not None:
        raise _invalid("the broker's URL must not hold a user name: give --username and --password-file")
    return Address(parts.hostname, port, tls)


def file_path(environ: Mapping[str, str]) -> Path:
    """Where the profiles lie."""
    folder = environ.get("FLEETFOOT_CONFIG_DIR") or platformdirs.user_config_dir("fleetfoot")
    return Path(folder) / FILE_NAME


def read_book(environ: Mapping[str, str]) -> Book:
    """All profiles; none if there is no file. FleetfootError `config_invalid` names the setting."""
    path = file_path(environ)
    if not path.exists():
        return Book({}, None)
    try:
        data = tomllib.loads(files.read(path, _MAX_BYTES).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(f"{path}: {error}") from error
    default = data.pop("default", None)
    tables = data.pop("profiles", {})
    if data or not isinstance(tables, dict) or not isinstance(default, str | None):
        raise _invalid(f"{path} may hold 'default' and tables [profiles.NAME], nothing else")
    return Book({name: _profile(name, table) for name, table in tables.items()}, default)


def choose(name: str | None, environ: Mapping[str, str]) -> Profile:
    """The profile to use: `name`, else FLEETFOOT_PROFILE, else the default or only one; then overrides.

    FleetfootError `config_invalid`, `not_found`.
    """
    book = read_book(environ)
    wanted = name or environ.get("FLEETFOOT_PROFILE") or book.default
    if wanted is None and len(book.profiles) == 1:
        wanted = next(iter(book.profiles))
    overrides = {field: value for field in _OVERRIDES if (value := environ.get(f"FLEETFOOT_{field.upper()}"))}
    if wanted is not None and wanted not in book.profiles:
        raise FleetfootError(
            "not_found",
            f"there is no profile {wanted[:80]!r}",
            remedy="see 'fleetfoot profile list', or make it with 'fleetfoot profile set'",
        )
    if wanted is None and not set(_REQUIRED) <= set(overrides):
        many = f"none of the {len(book.profiles)} profiles is the default" if book.profiles else "no profile"
        raise FleetfootError(
            "config_invalid",
            f"do not know which fleet is meant: {many}",
            remedy="make one with 'fleetfoot profile set NAME ... --default', or give --profile",
        )
    present = _settings(book.profiles[wanted]) if wanted is not None else {}
    return _profile(wanted or "environment", {**present, **overrides})


def save(profile: Profile, environ: Mapping[str, str], *, default: bool) -> Path:
    """Add or replace a profile; the first one becomes the default. Returns the file's path."""
    book = read_book(environ)
    chosen = profile.name if default or not book.profiles else book.default
    path = file_path(environ)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, _toml(Book({**book.profiles, profile.name: profile}, chosen)).encode())
    return path


def make(name: str, settings: Mapping[str, Any]) -> Profile:
    """A checked profile from settings as they stand in the file. FleetfootError `config_invalid`."""
    return _profile(name, settings)


def _profile(name: str, table: object) -> Profile:
    where = f"profiles.{name}"
    if not isinstance(table, Mapping):
        raise _invalid(f"{where} must be a table")
    if unknown := sorted(set(table) - set(_SETTINGS)):
        raise _invalid(f"unknown setting {where}.{unknown[0]}")
    if missing := [field for field in _REQUIRED if not table.get(field)]:
        raise _invalid(f"{where}.{missing[0]} is missing")
    for field, value in table.items():
        if not isinstance(value, str):
            raise _invalid(f"{where}.{field} must be a string")
        try:
            visible(value)
        except ValueError as error:
            raise _invalid(f"{where}.{field}: {error}") from None
    try:
        topics.check_id(name, "profile")
        topics.check_id(table["operator"], f"{where}.operator")
        topics.check_root(table.get("topic_root", topics.DEFAULT_ROOT))
    except topics.TopicError as error:
        raise _invalid(str(error)) from None
    parse_broker(table["broker"])
    if ("cert_file" in table) != ("cert_key_file" in table):
        raise _invalid(f"{where}: cert_file and cert_key_file belong together")
    paths = {field: Path(value).expanduser() for field, value in table.items() if field in _PATHS}
    return Profile(name, **{**table, **paths})


def _settings(profile: Profile) -> dict[str, str]:
    """A profile as it stands in the file: strings, only what is set."""
    pairs = ((field, getattr(profile, field)) for field in _SETTINGS)
    return {field: str(value) for field, value in pairs if value is not None}


def as_json(profile: Profile) -> dict[str, str]:
    """A profile with its name, for people and programs."""
    return {"name": profile.name, **_settings(profile)}


def _toml(book: Book) -> str:
    # Strings of JSON are basic strings of TOML as long as no control character is in them: none is.
    lines = [] if book.default is None else [f"default = {json.dumps(book.default)}"]
    for name in sorted(book.profiles):
        lines += ["", f"[profiles.{name}]"]
        settings = _settings(book.profiles[name])
        lines += [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in settings.items()]
    return "\n".join(lines).lstrip() + "\n"


def _invalid(message: str) -> FleetfootError:
    return FleetfootError("config_invalid", message)

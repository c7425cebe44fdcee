"""`console.toml` beside the profiles: the person's own keys and colours.

theme = "nord"

[keys]
"fleet.faults" = "e"
"rollout.pause" = "P,f5"
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from textual.theme import BUILTIN_THEMES

from fleetfoot_client import files, profiles
from fleetfoot_protocol.errors import FleetfootError

NAME = "console.toml"
_LARGEST = 64 << 10
_KEY = re.compile(r"[a-zA-Z0-9_+]{1,40}|[!-~]")


@dataclass(frozen=True, slots=True)
class Settings:
    """theme: a name, empty for the usual; keys: id of a binding -> keys, separated by commas."""

    theme: str = ""
    keys: dict[str, str] = field(default_factory=dict)


def path(environ: Mapping[str, str]) -> Path:
    """Where they are read from."""
    return profiles.file_path(environ).parent / NAME


def load(environ: Mapping[str, str], known: frozenset[str]) -> Settings:
    """What the file says, or nothing where there is none. `known`: ids of bindings.

    FleetfootError `config_invalid`, naming what is wrong.
    """
    where = path(environ)
    if not where.exists():
        return Settings()
    try:
        value = tomllib.loads(files.read(where, _LARGEST).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(where, str(error)) from None
    theme, keys = value.get("theme", ""), value.get("keys", {})
    if set(value) - {"theme", "keys"}:
        raise _wrong(where, f"it knows theme and keys, not {sorted(set(value) - {'theme', 'keys'})}")
    if theme and theme not in BUILTIN_THEMES:
        raise _wrong(where, f"there is no theme {theme!a}: {', '.join(sorted(BUILTIN_THEMES))}")
    if not isinstance(keys, dict):
        raise _wrong(where, "keys is a table")
    for name, key in keys.items():
        if name not in known:
            raise _wrong(
                where, f"there is nothing to press a key for by {name!a}: {', '.join(sorted(known))}"
            )
        if not isinstance(key, str) or not all(_KEY.fullmatch(one) for one in key.split(",")):
            raise _wrong(where, f"{key!a} is no key for {name}: like x, ctrl+t, f5 or x,f5")
    return Settings(theme, keys)


def _wrong(where: Path, what: str) -> FleetfootError:
    return FleetfootError("config_invalid", f"{where}: {what}", remedy=f"correct {where}, or take it away")


def from_environment(known: frozenset[str]) -> Settings:
    """Those of whoever runs this."""
    return load(os.environ, known)

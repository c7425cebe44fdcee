"""Where settings come from, and how they are read: the file, above it the environment, above it options.

A `Table` is a part of the configuration whose every read is typed and named. It knows what nobody has asked
for, because a misspelt policy must not be silently ignored, and notes what every setting is and who said so.
The courier reads its configuration too, so: standard library only.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetfoot_protocol.errors import FleetfootError

#: Variables of the environment: FLEETFOOT_, the section, the setting, as in FLEETFOOT_UPGRADE_MIN_VERSION.
VARIABLE_PREFIX = "FLEETFOOT_"
#: Sections whose settings the environment may name. Components have names of their own: use --set.
SECTIONS = ("agent", "broker", "upgrade")
#: What a setting is called whose value nobody gave.
DEFAULT = "default"
#: What the outermost table is called in errors.
TOP = "agent.toml"


class ConfigError(FleetfootError):
    """A setting is missing, unknown or has a value it cannot have."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__("config_invalid", message, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Given:
    """A value from outside the file, as text: what type it has is known only when it is asked for."""

    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting is, and who said so: the file, a variable, an option, or `DEFAULT`."""

    value: Any
    origin: str


def overlay(data: dict[str, Any], environ: Mapping[str, str], options: Iterable[str]) -> dict[str, Any]:
    """The file's `data` with the environment's settings above it, and above these the options KEY=VALUE."""
    found = _copy(data)
    for name in sorted(environ):
        section, _, key = name.removeprefix(VARIABLE_PREFIX).lower().partition("_")
        if name.startswith(VARIABLE_PREFIX) and section in SECTIONS and key:
            _put(found, [section, key], Given(environ[name], name))
    for option in options:
        path, sep, text = option.partition("=")
        parts = path.strip().split(".")
        if not sep or len(parts) < 2 or not all(parts):
            raise ConfigError(
                f"--set {option[:80]!a} must be SECTION.SETTING=VALUE, as in upgrade.enabled=false"
            )
        _put(found, parts, Given(text.strip(), f"--set {path.strip()}"))
    return found


def _copy(value: dict[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in value.items()}


def _put(data: dict[str, Any], path: list[str], given: Given) -> None:
    for depth, part in enumerate(path[:-1]):
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(path[: depth + 1])} is no table: {given.origin} cannot be set")
        data = inner
    data[path[-1]] = given


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("it must be true or false")
    return text.lower() == "true"


def _number(text: str) -> int | float:
    try:
        return int(text.replace("_", ""))
    except ValueError:
        return float(text)


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None


def _list(text: str) -> list[Any]:
    value = _toml(text)
    return value if isinstance(value, list) else [part.strip() for part in text.split(",") if part.strip()]


def _dict(text: str) -> dict[str, Any]:
    value = _toml(text)
    if isinstance(value, dict):
        return value
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(sep for _, sep, _ in pairs):
        raise ValueError("it must be NAME=VALUE,NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}


_READERS: dict[type, Callable[[str], Any]] = {
    str: str,
    bool: _boolean,
    int: _number,
    float: _number,
    list: _list,
    dict: _dict,
}


class Table:
    """A table of the configuration, called `where` in errors. `ledger` notes what was read, by its name."""

    def __init__(
        self, data: dict[str, Any], where: str, ledger: dict[str, Setting] | None = None, origin: str = TOP
    ) -> None:
        self.data = dict(data)
        self.where = where
        self.ledger = {} if ledger is None else ledger
        self.origin = origin

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """The setting, which must be of this kind; `default` if it is not there, `...` for a required one."""
        if key not in self.data:
            if default is ...:
                raise ConfigError(f"{self.where}.{key} is missing")
            self._note(key, default, DEFAULT)
            return default
        value, origin = self.data.pop(key), self.origin
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if isinstance(value, Given):
            value, origin = self._read(key, value, kinds), value.origin
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(f"{self.where}.{key} must be {names}, not {type(value).__name__}")
        self._note(key, value, origin)
        return value

    def _read(self, key: str, given: Given, kinds: tuple[type, ...]) -> Any:
        try:
            return _READERS[kinds[0]](given.text)
        except ValueError as error:
            kind = kinds[0].__name__
            raise ConfigError(
                f"{self.where}.{key}, from {given.origin}, must be {kind}, not {given.text[:80]!a}"
            ) from error

    def _note(self, key: str, value: Any, origin: str) -> None:
        tables = isinstance(value, dict) and any(isinstance(v, dict) for v in value.values())
        if self.where == TOP or tables or (isinstance(value, list) and value and isinstance(value[0], dict)):
            return  # what stands in it is noted by itself
        if isinstance(value, dict):
            outside = sorted({v.origin for v in value.values() if isinstance(v, Given)})
            inside = [origin] if any(not isinstance(v, Given) for v in value.values()) or not value else []
            origin = ", ".join([*inside, *outside])
            value = {k: v.text if isinstance(v, Given) else v for k, v in value.items()}
        self.ledger[f"{self.where}.{key}".removeprefix(f"{TOP}.")] = Setting(value, origin)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = float(self.take(key, (int, float), default))
        if not low <= value <= high:
            raise ConfigError(f"{self.where}.{key} must be from {low:g} to {high:g}, not {value:g}")
        return value

    def table(self, key: str) -> "Table":
        """The table of this name; an empty one if it is not there."""
        value = self.data.pop(key, {})
        if not isinstance(value, dict):
            raise ConfigError(f"{self.where}.{key} must be a table")
        return Table(value, f"{self.where}.{key}", self.ledger, self.origin)

    def tables(self, key: str) -> list["Table"]:
        """The list of tables of this name."""
        found = self.take(key, list, [])
        where, origin = f"{self.where}.{key}".removeprefix(f"{TOP}."), self.origin
        if not all(isinstance(item, dict) for item in found):
            raise ConfigError(f"{where} must be a list of tables")
        return [Table(item, f"{where}[{i}]", self.ledger, origin) for i, item in enumerate(found)]

    def strings(self, key: str) -> dict[str, str]:
        """A table of strings."""
        table = self.take(key, dict, {})
        found = {name: v.text if isinstance(v, Given) else v for name, v in table.items()}
        for name, value in found.items():
            if not isinstance(value, str):
                raise ConfigError(f"{self.where}.{key}.{name} must be a string")
        return found

    def string_list(self, key: str, default: list[str]) -> tuple[str, ...]:
        """A list of strings."""
        value = self.take(key, list, default)
        if not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{self.where}.{key} must be a list of strings")
        return tuple(value)

    def path(self, key: str, base: Path, default: Path | None = None) -> Path:
        """A path, relative to `base`."""
        text: str = self.take(key, str, ... if default is None else str(default))
        return base / text

    def optional_path(self, key: str, base: Path) -> Path | None:
        """A path, relative to `base`, or None."""
        text = self.take(key, str, None)
        return None if text is None else base / text

    def done(self) -> None:
        """Refuse what nobody has asked for."""
        if self.data:
            key = sorted(self.data)[0]
            left = self.data[key]
            source = f", from {left.origin}" if isinstance(left, Given) else ""
            raise ConfigError(f"unknown setting {self.where}.{key}{source}")

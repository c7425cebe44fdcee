"""The device's own configuration, `agent.toml`: identity, broker, local policy, components.

Read by the courier too, so: standard library only. Every setting is checked here, with an error that
names it; an unknown setting is refused, because a misspelt policy must not be silently ignored.
"""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetfoot_protocol import topics
from fleetfoot_protocol.errors import FleetfootError

#: Where a packaged agent keeps its configuration.
DEFAULT_CONFIG = Path("/etc/fleetfoot/agent.toml")

#: Seconds in which a new version must prove itself (VOCABULARY: boot_health_window_secs).
DEFAULT_WINDOW = 120.0
#: Starts that the guard grants to a new version before it goes back (VOCABULARY: max_boot_attempts).
DEFAULT_BOOT_ATTEMPTS = 3


#: The channels there are (contract section 4: listing dev admits beta and stable).
CHANNELS = ("stable", "beta", "dev")

_NUMBER = "(0|[1-9][0-9]*)"
_PART = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
# SemVer 2.0.0 section 2 and 9, without build metadata (contract section 2).
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PART}(\.{_PART})*)?")
_LABEL_KEY = re.compile("[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


class ConfigError(FleetfootError):
    """A setting is missing, unknown or has a value it cannot have."""

    def __init__(self, message: str) -> None:
        super().__init__("config_invalid", message)


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How the courier reaches the broker. `keepalive` in seconds."""

    host: str
    port: int
    tls: bool
    topic_root: str
    username: str | None
    password_file: Path | None
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    keepalive: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Local policy, which outranks every document. `enabled` absent means false; bytes for `disk_reserve`."""

    enabled: bool = False
    allowed_channels: tuple[str, ...] = ("stable",)
    min_version: str | None = None
    pins: dict[str, str] = field(default_factory=dict)
    disk_reserve: int = 0
    keep_versions: int = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One health check of a component. kind: `http` (url, status 200-299) or `exec` (argv, exit 0).

    `timeout` in seconds for one try.
    """

    kind: str
    url: str = ""
    argv: tuple[str, ...] = ()
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class Component:
    """One component on this device.

    `window`: seconds of probation. `settle`: for how many of them, the last ones, it must have been healthy
    without a break. `socket`: unix socket of its supervisor (contract section 6,
    rule 20). `environment`: for the supervised process. `restart_delay`: seconds between its starts.
    `floor`: the built-in security floor, a release counter that a device without any memory keeps too.
    `unit`: the systemd unit that runs it, where systemd does; then `socket`, `environment` and
    `restart_delay` mean nothing.
    """

    name: str
    checks: tuple[Check, ...]
    window: float
    settle: float
    max_boot_attempts: int
    socket: Path
    environment: dict[str, str]
    restart_delay: float
    floor: int = 0
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything in `agent.toml`. Folders: state (spool and the worker's own), run (wake), install root."""

    path: Path
    device: str
    group: str
    labels: dict[str, str]
    hardware: str
    state_dir: Path
    run_dir: Path
    install_root: Path
    broker: BrokerConfig
    policy: Policy
    components: dict[str, Component]

    @property
    def spool(self) -> Path:
        """The spool between courier and worker."""
        return self.state_dir / "spool"

    @property
    def wake_dir(self) -> Path:
        """Where anybody who wants the worker to run creates `now`."""
        return self.run_dir / "wake"

    @property
    def worker_dir(self) -> Path:
        """The worker's own state: trust root, floors, key, counters."""
        return self.state_dir / "worker"


#: Name of a service unit: what systemd allows, and no path (systemd.unit(5)).
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.service")


class _Table:
    """A TOML table whose every read is typed and named, and which knows what nobody has asked for."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data = dict(data)
        self.where = where

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        if key not in self.data:
            if default is ...:
                raise ConfigError(f"{self.where}.{key} is missing")
            return default
        value = self.data.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(f"{self.where}.{key} must be {names}, not {type(value).__name__}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = float(self.take(key, (int, float), default))
        if not low <= value <= high:
            raise ConfigError(f"{self.where}.{key} must be from {low:g} to {high:g}, not {value:g}")
        return value

    def table(self, key: str) -> "_Table":
        return _Table(self.take(key, dict, {}), f"{self.where}.{key}")

    def strings(self, key: str) -> dict[str, str]:
        table = self.take(key, dict, {})
        for name, value in table.items():
            if not isinstance(value, str):
                raise ConfigError(f"{self.where}.{key}.{name} must be a string")
        return dict(table)

    def string_list(self, key: str, default: list[str]) -> tuple[str, ...]:
        value = self.take(key, list, default)
        if not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{self.where}.{key} must be a list of strings")
        return tuple(value)

    def path(self, key: str, base: Path, default: Path | None = None) -> Path:
        text: str = self.take(key, str, ... if default is None else str(default))
        return base / text

    def optional_path(self, key: str, base: Path) -> Path | None:
        text = self.take(key, str, None)
        return None if text is None else base / text

    def done(self) -> None:
        if self.data:
            raise ConfigError(f"unknown setting {self.where}.{sorted(self.data)[0]}")


def _id(table: _Table, key: str) -> str:
    text: str = table.take(key, str)
    try:
        return topics.check_id(text, f"{table.where}.{key}")
    except topics.TopicError as error:
        raise ConfigError(str(error)) from error


def _broker(table: _Table, base: Path) -> BrokerConfig:
    url = table.take("url", str)
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError(f"{table.where}.url must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT], not {url!a}")
    tls = parts.scheme == "mqtts"
    try:
        port = parts.port or (8883 if tls else 1883)
        root = topics.check_root(table.take("topic_root", str, topics.DEFAULT_ROOT))
    except ValueError as error:
        raise ConfigError(f"{table.where}: {error}") from error
    broker = BrokerConfig(
        host=parts.hostname,
        port=port,
        tls=tls,
        topic_root=root,
        username=table.take("username", str, None),
        password_file=table.optional_path("password_file", base),
        ca_file=table.optional_path("ca_file", base),
        cert_file=table.optional_path("cert_file", base),
        key_file=table.optional_path("key_file", base),
        keepalive=int(table.number("keepalive", 60, 5, 3600)),
    )
    table.done()
    return broker


def _labels(table: _Table) -> dict[str, str]:
    labels = table.strings("labels")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ConfigError(
                f"{table.where}.labels: a label's name has letters, digits and ./_-, not {key[:80]!a}"
            )
        if len(value) > 128 or not value.isprintable():
            raise ConfigError(f"{table.where}.labels.{key} must have at most 128 visible characters")
    return labels


def _version(where: str, text: str) -> str:
    """A version as the contract writes it; the whole SemVer library would be too much for a courier."""
    if len(text) > 64 or not _VERSION.fullmatch(text):
        raise ConfigError(f"{where} must be a version such as 1.2.3 or 1.2.3-rc.1, not {text[:80]!a}")
    return text


def _policy(table: _Table) -> Policy:
    channels = table.string_list("allowed_channels", ["stable"])
    if unknown := sorted(set(channels) - set(CHANNELS)):
        allowed = ", ".join(CHANNELS)
        raise ConfigError(f"{table.where}.allowed_channels may name {allowed}, not {unknown[0][:40]!a}")
    least = table.take("min_version", str, None)
    pins = table.strings("pins")
    for name, version in pins.items():
        if not topics.is_id(name):
            raise ConfigError(f"{table.where}.pins: {name[:80]!a} is no component")
        _version(f"{table.where}.pins.{name}", version)
    policy = Policy(
        enabled=table.take("enabled", bool, False),
        allowed_channels=channels,
        min_version=None if least is None else _version(f"{table.where}.min_version", least),
        pins=pins,
        disk_reserve=int(table.number("disk_reserve", 0, 0, 2**53 - 1)),
        keep_versions=int(table.number("keep_versions", 2, 1, 100)),
    )
    table.done()
    return policy


def _check(table: _Table) -> Check:
    kind = table.take("kind", str)
    timeout = table.number("timeout", 5.0, 0.1, 300)
    if kind == "http":
        url = table.take("url", str)
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"{table.where}.url must be http:// or https://")
        check = Check(kind, url=url, timeout=timeout)
    elif kind == "exec":
        argv = table.string_list("argv", [])
        if not argv:
            raise ConfigError(f"{table.where}.argv must name a command")
        check = Check(kind, argv=argv, timeout=timeout)
    else:
        raise ConfigError(f"{table.where}.kind must be http or exec, not {kind[:40]!a}")
    table.done()
    return check


def _component(name: str, table: _Table, run_dir: Path) -> Component:
    try:
        topics.check_id(name, "component name")
    except topics.TopicError as error:
        raise ConfigError(str(error)) from error
    checks = table.take("checks", list, [])
    window = table.number("window", DEFAULT_WINDOW, 0.5, 86400)
    unit: str | None = table.take("unit", str, None)
    if unit is not None and not _UNIT.fullmatch(unit):
        raise ConfigError(f"{table.where}.unit must be the name of a service unit, not {unit[:80]!a}")
    component = Component(
        name=name,
        checks=tuple(_check(_Table(c, f"{table.where}.checks[{i}]")) for i, c in enumerate(checks)),
        window=window,
        settle=table.number("settle", window / 4, 0, window),
        max_boot_attempts=int(table.number("max_boot_attempts", DEFAULT_BOOT_ATTEMPTS, 1, 20)),
        socket=table.path("socket", run_dir, Path(f"{name}.sock")),
        environment=table.strings("environment"),
        restart_delay=table.number("restart_delay", 1.0, 0.05, 600),
        floor=int(table.number("floor", 0, 0, 2**53 - 1)),
        unit=unit,
    )
    table.done()
    return component


def parse(text: str, path: Path) -> AgentConfig:
    """The configuration in `text`; relative paths are relative to the folder of `path`.

    Raises `ConfigError` naming the setting.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    base = path.absolute().parent
    top = _Table(data, "agent.toml")
    agent = top.table("agent")
    run_dir = agent.path("run_dir", base, Path("/run/fleetfoot"))
    components = top.take("components", dict, {})
    config = AgentConfig(
        path=path,
        device=_id(agent, "device"),
        group=_id(agent, "group"),
        labels=_labels(agent),
        hardware=agent.take("hardware", str, ""),
        state_dir=agent.path("state_dir", base, Path("/var/lib/fleetfoot")),
        run_dir=run_dir,
        install_root=agent.path("install_root", base, Path("/opt/fleetfoot")),
        broker=_broker(top.table("broker"), base),
        policy=_policy(top.table("upgrade")),
        components={
            name: _component(name, _Table(value, f"components.{name}"), run_dir)
            for name, value in components.items()
        },
    )
    agent.done()
    top.done()
    return config


def load(path: Path) -> AgentConfig:
    """Read and check the file at `path`. Raises `ConfigError`."""
    try:
        return parse(path.read_text("utf-8"), path)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration at {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error

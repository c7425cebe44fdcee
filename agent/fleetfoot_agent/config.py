"""The device's own configuration, `agent.toml`: identity, broker, local policy, components.

Read by the courier too, so: standard library only. Every setting is checked here, with an error that
names it; an unknown setting is refused, because a misspelt policy must not be silently ignored.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetfoot_agent.settings import TOP, ConfigError, Setting, Table, overlay
from fleetfoot_protocol import topics

#: Where a packaged agent keeps its configuration.
DEFAULT_CONFIG = Path("/etc/fleetfoot/agent.toml")

#: Seconds in which a new version must prove itself (VOCABULARY: boot_health_window_secs).
DEFAULT_WINDOW = 120.0
#: Starts that the guard grants to a new version before it goes back (VOCABULARY: max_boot_attempts).
DEFAULT_BOOT_ATTEMPTS = 3


#: When hooks of the owner run: before a download, before the switch, after it, and on the way back.
HOOKS = ("pre-download", "pre-activate", "post-activate", "on-rollback")
#: The channels there are (contract section 4: listing dev admits beta and stable).
CHANNELS = ("stable", "beta", "dev")

_NUMBER = "(0|[1-9][0-9]*)"
_PART = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
# SemVer 2.0.0 section 2 and 9, without build metadata (contract section 2).
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PART}(\.{_PART})*)?")
_LABEL_KEY = re.compile("[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


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
class Window:
    """A maintenance window: it opens when the cron expression `start` matches the clock of `timezone`, and is
    open for `minutes`.
    """

    start: str
    minutes: int
    timezone: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Local policy, which outranks every document. `enabled` absent means false.

    Bytes: disk_reserve, download_budget (for one artifact), bandwidth (each second, for all downloads
    together); 0 is no limit. `consent`: whether the owner is asked about each release. `windows`: when work
    may begin and a version be switched; always, if there is none. `splay`: seconds over which the fleet
    spreads its beginning.
    """

    enabled: bool = False
    allowed_channels: tuple[str, ...] = ("stable",)
    min_version: str | None = None
    pins: dict[str, str] = field(default_factory=dict)
    disk_reserve: int = 0
    keep_versions: int = 2
    windows: tuple[Window, ...] = ()
    consent: bool = False
    splay: int = 0
    bandwidth: int = 0
    download_budget: int = 0


@dataclass(frozen=True, slots=True)
class Hook:
    """Something of the owner's that is run to its end: a program with its arguments, or a systemd unit."""

    argv: tuple[str, ...] = ()
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One health check of a component.

    kind: `http` (url, status 200-299), `exec` (argv exits with 0, or the unit ends well), `tcp` (url is
    HOST:PORT, it accepts) or `file` (url is a path, a file at most max_age seconds old, 0 for any age).
    `timeout` in seconds for one try.
    """

    kind: str
    url: str = ""
    argv: tuple[str, ...] = ()
    unit: str | None = None
    timeout: float = 5.0
    max_age: float = 0.0


@dataclass(frozen=True, slots=True)
class Component:
    """One component on this device.

    `window`: seconds of probation. `settle`: for how many of them, the last ones, it must have been healthy
    without a break. `socket`: unix socket of its supervisor (contract section 6,
    rule 20). `environment`: for the supervised process. `restart_delay`: seconds between its starts.
    `floor`: the built-in security floor, a release counter that a device without any memory keeps too.
    `unit`: the systemd unit that runs it, where systemd does; then `socket`, `environment`, `restart_delay`,
    `stop_timeout` and `notify` mean nothing. `notify`: it says READY=1 itself, as sd_notify(3) does.
    `hooks`: of the owner, by the moment at which they run, each for at most `hook_timeout` seconds.
    `preserve`: what it keeps elsewhere, set aside before another version and put back with this one.
    `watch`: seconds between two looks at its checks after it was committed.
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
    notify: bool = False
    stop_timeout: float = 10.0
    hooks: dict[str, Hook] = field(default_factory=dict)
    hook_timeout: float = 60.0
    preserve: tuple[Path, ...] = ()
    watch: float = 300.0

    def unit_timeouts(self) -> dict[str, float]:
        """The owner's units that run as hooks or checks, and how long each may take: seconds."""
        uses = [(hook.unit, self.hook_timeout) for hook in self.hooks.values()]
        uses += [(check.unit, check.timeout) for check in self.checks]
        found: dict[str, float] = {}
        for unit, timeout in uses:
            if unit is not None:
                found[unit] = max(timeout, found.get(unit, 0.0))
        return found


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
    #: Every setting with its origin, and the options that were given: for `config show`, and for children.
    settings: Mapping[str, Setting] = field(default_factory=dict, compare=False, repr=False)
    options: tuple[str, ...] = ()
    #: Where to write metrics for node_exporter.
    metrics_file: Path | None = None

    @property
    def spool(self) -> Path:
        """The spool between courier and worker."""
        return self.state_dir / "spool"

    @property
    def wake_dir(self) -> Path:
        """Where anybody who wants the worker to run creates `now`."""
        return self.run_dir / "wake"

    @property
    def courier_dir(self) -> Path:
        """The courier's own state: its certificate and what belongs to it, if it was enrolled by a token."""
        return self.state_dir / "courier"

    @property
    def worker_dir(self) -> Path:
        """The worker's own state: trust root, floors, key, counters."""
        return self.state_dir / "worker"


#: Name of a service unit: what systemd allows, and no path (systemd.unit(5)).
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.service")


def _id(table: Table, key: str) -> str:
    text: str = table.take(key, str)
    try:
        return topics.check_id(text, f"{table.where}.{key}")
    except topics.TopicError as error:
        raise ConfigError(str(error)) from error


def _broker(table: Table, base: Path) -> BrokerConfig:
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


def _labels(table: Table) -> dict[str, str]:
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


def _policy(table: Table) -> Policy:
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
        windows=tuple(_window(window) for window in table.tables("windows")),
        consent=table.take("consent", bool, False),
        splay=int(table.number("splay", 0, 0, 7 * 86400)),
        bandwidth=_at_least(table, "bandwidth", 1024),
        download_budget=int(table.number("download_budget", 0, 0, 2**53 - 1)),
    )
    table.done()
    return policy


def _at_least(table: Table, key: str, least: int) -> int:
    value = int(table.number(key, 0, 0, 2**53 - 1))
    if 0 < value < least:
        raise ConfigError(f"{table.where}.{key} must be 0, for no limit, or at least {least}, not {value}")
    return value


def _window(table: Table) -> Window:
    window = Window(
        start=table.take("start", str),
        minutes=int(table.number("minutes", 60, 1, 1440)),
        timezone=table.take("timezone", str, "UTC"),
    )
    # Only who has a window pays for what reads it: this runs in the courier too.
    from fleetfoot_agent import windows

    try:
        windows.check(window)
    except ValueError as error:
        raise ConfigError(f"{table.where}: {error}") from error
    table.done()
    return window


def _check(table: Table) -> Check:
    kind = table.take("kind", str)
    timeout = table.number("timeout", 5.0, 0.1, 300)
    if kind == "http":
        url = table.take("url", str)
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"{table.where}.url must be http:// or https://")
        check = Check(kind, url=url, timeout=timeout)
    elif kind == "exec":
        argv, unit = table.string_list("argv", []), table.take("unit", str, None)
        if bool(argv) == (unit is not None):
            raise ConfigError(f"{table.where} must name a command in argv, or a unit, one of them")
        check = Check(
            kind, argv=argv, unit=None if unit is None else _unit(table, "unit", unit), timeout=timeout
        )
    elif kind == "tcp":
        address: str = table.take("address", str)
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(f"{table.where}.address must be HOST:PORT, not {address[:80]!a}")
        check = Check(kind, url=address, timeout=timeout)
    elif kind == "file":
        path: str = table.take("path", str)
        if not Path(path).is_absolute():
            raise ConfigError(f"{table.where}.path must be absolute, not {path[:80]!a}")
        check = Check(kind, url=path, timeout=timeout, max_age=table.number("max_age", 0, 0, 604_800))
    else:
        raise ConfigError(f"{table.where}.kind must be http, exec, tcp or file, not {kind[:40]!a}")
    table.done()
    return check


def _component(name: str, table: Table, run_dir: Path) -> Component:
    try:
        topics.check_id(name, "component name")
    except topics.TopicError as error:
        raise ConfigError(str(error)) from error
    checks = table.tables("checks")
    window = table.number("window", DEFAULT_WINDOW, 0.5, 86400)
    unit: str | None = table.take("unit", str, None)
    component = Component(
        name=name,
        checks=tuple(_check(check) for check in checks),
        window=window,
        settle=table.number("settle", window / 4, 0, window),
        max_boot_attempts=int(table.number("max_boot_attempts", DEFAULT_BOOT_ATTEMPTS, 1, 20)),
        socket=table.path("socket", run_dir, Path(f"{name}.sock")),
        environment=table.strings("environment"),
        restart_delay=table.number("restart_delay", 1.0, 0.05, 600),
        floor=int(table.number("floor", 0, 0, 2**53 - 1)),
        unit=None if unit is None else _unit(table, "unit", unit),
        notify=table.take("notify", bool, False),
        stop_timeout=table.number("stop_timeout", 10.0, 0, 600),
        hooks=_hooks(table.table("hooks")),
        hook_timeout=table.number("hook_timeout", 60.0, 0.1, 3600),
        preserve=_preserved(table),
        watch=table.number("watch", 300.0, 10, 86400),
    )
    table.done()
    if unit is None and (units := component.unit_timeouts()):
        text = f"{min(units)} can only be run where a unit runs {name}: set unit, or name a program"
        raise ConfigError(f"{table.where}: {text}")
    return component


def _unit(table: Table, key: str, text: str) -> str:
    if not _UNIT.fullmatch(text):
        raise ConfigError(f"{table.where}.{key} must be the name of a service unit, not {text[:80]!a}")
    return text


def _hooks(table: Table) -> dict[str, Hook]:
    found = {}
    for moment in HOOKS:
        given = table.take(moment, (list, str), [])
        if isinstance(given, str):
            found[moment] = Hook(unit=_unit(table, moment, given))
            continue
        if not all(isinstance(word, str) for word in given):
            raise ConfigError(f"{table.where}.{moment} must be a list of strings, or the name of a unit")
        if given:
            found[moment] = Hook(argv=tuple(given))
    table.done()
    return found


def _preserved(table: Table) -> tuple[Path, ...]:
    found = tuple(Path(text) for text in table.string_list("preserve", []))
    for path in found:
        if not path.is_absolute() or len(path.parts) < 3:
            raise ConfigError(f"{table.where}.preserve takes absolute paths, not {str(path)!a}")
    return found


def parse(
    text: str, path: Path, *, environ: Mapping[str, str] | None = None, options: Iterable[str] = ()
) -> AgentConfig:
    """The configuration in `text`; relative paths are relative to the folder of `path`.

    Above the file stand the variables of `environ`, above these the options KEY=VALUE.
    Raises `ConfigError` naming the setting.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    base = path.absolute().parent
    options = tuple(options)
    ledger: dict[str, Setting] = {}
    top = Table(overlay(data, environ or {}, options), TOP, ledger, str(path))
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
            name: _component(name, _component_table(name, value, ledger, str(path)), run_dir)
            for name, value in components.items()
        },
        metrics_file=agent.optional_path("metrics_file", base),
        settings=ledger,
        options=options,
    )
    agent.done()
    top.done()
    return config


def _component_table(name: str, value: Any, ledger: dict[str, Setting], origin: str) -> Table:
    if not isinstance(value, dict):
        raise ConfigError(f"components.{name[:80]} must be a table")
    return Table(value, f"components.{name}", ledger, origin)


def load(path: Path, options: Iterable[str] = ()) -> AgentConfig:
    """Read and check the file at `path`, below the environment and `options`. Raises `ConfigError`."""
    try:
        return parse(path.read_text("utf-8"), path, environ=os.environ, options=options)
    except FileNotFoundError as error:
        remedy = "make one: fleetfoot-agent init; or name another: --config FILE"
        raise ConfigError(f"there is no configuration at {path}", remedy) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error

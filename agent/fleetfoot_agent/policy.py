"""Local policy, `[upgrade]` in `agent.toml`: what the owner of a device lets be done to it, and when.

Read by the courier too, so: standard library only.
"""

import re
from dataclasses import dataclass, field

from fleetfoot_agent.settings import ConfigError, Table
from fleetfoot_protocol import topics

#: The channels there are (contract section 4: listing dev admits beta and stable).
CHANNELS = ("stable", "beta", "dev")


_NUMBER = "(0|[1-9][0-9]*)"
_PART = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
# SemVer 2.0.0 section 2 and 9, without build metadata (contract section 2).
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PART}(\.{_PART})*)?")


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


def read_policy(table: Table) -> Policy:
    """The policy in its table. Raises `ConfigError` naming the setting."""
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


def _version(where: str, text: str) -> str:
    """A version as the contract writes it; the whole SemVer library would be too much for a courier."""
    if len(text) > 64 or not _VERSION.fullmatch(text):
        raise ConfigError(f"{where} must be a version such as 1.2.3 or 1.2.3-rc.1, not {text[:80]!a}")
    return text


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

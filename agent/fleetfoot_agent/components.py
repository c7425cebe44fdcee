"""The components of a device, `[components.<name>]` in `agent.toml`, with their checks and the owner's hooks.

Read by the courier too, so: standard library only.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fleetfoot_agent.settings import ConfigError, Table
from fleetfoot_protocol import topics

#: Seconds in which a new version must prove itself (VOCABULARY: boot_health_window_secs).
DEFAULT_WINDOW = 120.0
#: Starts that the guard grants to a new version before it goes back (VOCABULARY: max_boot_attempts).
DEFAULT_BOOT_ATTEMPTS = 3
#: Seconds that a hook may take.
DEFAULT_HOOK_TIMEOUT = 60.0


#: When hooks of the owner run: before a download, before the switch, after it, and on the way back.
HOOKS = ("pre-download", "pre-activate", "post-activate", "on-rollback")

#: Name of a service unit: what systemd allows, and no path (systemd.unit(5)).
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.service")


@dataclass(frozen=True, slots=True)
class Hook:
    """Something of the owner's that is run to its end: a program with its arguments, or a systemd unit.

    `timeout` in seconds.
    """

    argv: tuple[str, ...] = ()
    unit: str | None = None
    timeout: float = DEFAULT_HOOK_TIMEOUT


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
    `hooks`: of the owner, by the moment at which they run.
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
    preserve: tuple[Path, ...] = ()
    watch: float = 300.0

    def unit_timeouts(self) -> dict[str, float]:
        """The owner's units that run as hooks or checks, and how long each may take: seconds."""
        uses = [(hook.unit, hook.timeout) for hook in self.hooks.values()]
        uses += [(check.unit, check.timeout) for check in self.checks]
        found: dict[str, float] = {}
        for unit, timeout in uses:
            if unit is not None:
                found[unit] = max(timeout, found.get(unit, 0.0))
        return found


def read_component(name: str, table: Table, run_dir: Path) -> Component:
    """The component in its table. Raises `ConfigError` naming the setting."""
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
        hooks=_hooks(table),
        preserve=_preserved(table),
        watch=table.number("watch", 300.0, 10, 86400),
    )
    table.done()
    if unit is None and (units := component.unit_timeouts()):
        text = f"{min(units)} can only be run where a unit runs {name}: set unit, or name a program"
        raise ConfigError(f"{table.where}: {text}")
    return component


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


def _unit(table: Table, key: str, text: str) -> str:
    if not _UNIT.fullmatch(text):
        raise ConfigError(f"{table.where}.{key} must be the name of a service unit, not {text[:80]!a}")
    return text


def _hooks(component: Table) -> dict[str, Hook]:
    default = component.number("hook_timeout", DEFAULT_HOOK_TIMEOUT, 0.1, 3600)
    table, timeouts = component.table("hooks"), component.table("hook_timeouts")
    found = {}
    for moment in HOOKS:
        given, timeout = table.take(moment, (list, str), []), timeouts.number(moment, default, 0.1, 3600)
        if isinstance(given, str):
            found[moment] = Hook(unit=_unit(table, moment, given), timeout=timeout)
            continue
        if not all(isinstance(word, str) for word in given):
            raise ConfigError(f"{table.where}.{moment} must be a list of strings, or the name of a unit")
        if given:
            found[moment] = Hook(argv=tuple(given), timeout=timeout)
    table.done()
    timeouts.done()
    return found


def _preserved(table: Table) -> tuple[Path, ...]:
    found = tuple(Path(text) for text in table.string_list("preserve", []))
    for path in found:
        if not path.is_absolute() or len(path.parts) < 3:
            raise ConfigError(f"{table.where}.preserve takes absolute paths, not {str(path)!a}")
    return found

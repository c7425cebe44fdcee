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

from fleetfoot_agent.components import Component, read_component
from fleetfoot_agent.policy import Policy, read_policy
from fleetfoot_agent.settings import TOP, ConfigError, Setting, Table, overlay
from fleetfoot_protocol import topics

#: Where a packaged agent keeps its configuration.
DEFAULT_CONFIG = Path("/etc/fleetfoot/agent.toml")

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
        policy=read_policy(top.table("upgrade")),
        components={
            name: read_component(name, _component_table(name, value, ledger, str(path)), run_dir)
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

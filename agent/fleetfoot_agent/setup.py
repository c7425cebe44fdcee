"""`fleetfoot-agent init`: the device's key, its trust root and its configuration."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from fleetfoot_agent import config as configuration
from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.worker import memory, rooting
from fleetfoot_protocol import trust
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.trust import TrustRoot


def _text(value: object) -> str:
    """A TOML value: JSON's strings are TOML's basic strings."""
    return json.dumps(str(value), ensure_ascii=False)


#: There where `systemd/install`, or a package, has put the agent's units.
UNITS_HERE = Path("/usr/lib/systemd/system/fleetfoot-worker.path")


def labels_of(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep:
            raise FleetfootError("usage", f"--label {pair!a} must be KEY=VALUE")
        labels[key] = value
    return labels


def render(args: argparse.Namespace, enabled: bool) -> str:
    """The text of agent.toml for the answers in `args`."""
    lines = [
        "# Fleetfoot agent. Every setting: docs/agent.md. Local policy outranks every order from outside.",
        "[agent]",
        f"device = {_text(args.device)}",
        f"group = {_text(args.group)}",
        f"state_dir = {_text(args.state_dir.absolute())}",
        f"run_dir = {_text(args.run_dir.absolute())}",
        f"install_root = {_text(args.install_root.absolute())}",
    ]
    if labels := labels_of(args.label):
        lines += ["", "[agent.labels]", *(f"{_text(k)} = {_text(v)}" for k, v in labels.items())]
    lines += ["", "[broker]", f"url = {_text(args.broker)}"]
    lines += ["", "[upgrade]", f"enabled = {str(enabled).lower()}", 'allowed_channels = ["stable"]']
    for name in args.component:
        lines += [
            "",
            f"[components.{name}]",
            "# Seconds in which a new version must prove itself.",
            "# window = 120",
            "# Without a check, a version is healthy that runs without dying.",
            '# checks = [{kind = "http", url = "http://127.0.0.1:8080/health"}]',
        ]
    return "\n".join(lines) + "\n"


def ask_enabled() -> bool:
    if not sys.stdin.isatty():
        raise FleetfootError(
            "usage", "may this device be upgraded from outside?", remedy="say --enable or --no-enable"
        )
    answer = input("May this device be upgraded by signed releases from outside? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def init(args: argparse.Namespace) -> int:
    """Make everything a new device needs; what is there already is never overwritten."""
    choose_places(args)
    path: Path = args.config
    if path.exists():
        raise FleetfootError("exists_already", f"there is a configuration at {path}")
    envelope = _root_of(args.root)
    root = trust.first_root(envelope, str(args.root or "the package's root"))
    enabled = args.enable if args.enable is not None else ask_enabled()
    text = render(args, enabled)
    config = configuration.parse(text, path)
    demand_writable(path.absolute().parent, config.state_dir)
    try:
        durable.make_folder(path.absolute().parent)
        durable.make_folder(config.worker_dir, 0o700)
        key = memory.make_key(config.worker_dir / "device.key")
        durable.write_file(config.worker_dir / "root.json", envelope, 0o600)
        public = {"kind": "fleetfoot-public-key", "public": key.public.hex()}
        durable.write_file(config.worker_dir / "device.pub", json.dumps(public).encode() + b"\n")
        durable.write_file(path, text.encode())
        hand_over(config.worker_dir)
    except OSError as error:
        raise FleetfootError("io_error", f"cannot set up {config.state_dir}: {error}") from error
    print(_told(config, root, key.public.hex()))
    return 0


def _root_of(path: Path | None) -> bytes:
    """The root to begin with: the package's, where it embeds one, whatever else is named."""
    packaged = rooting.embedded()
    if path is None:
        if packaged is None:
            raise FleetfootError("usage", "which fleet?", remedy="name its trust root: --root FILE")
        return packaged
    try:
        named = path.read_bytes()
    except OSError as error:
        raise FleetfootError("not_found", f"cannot read {path}: {error.strerror}") from error
    if packaged is None:
        return named
    if packaged != named:
        print(
            f"{path} is ignored: the package embeds the root of its fleet, {rooting.EMBEDDED}",
            file=sys.stderr,
        )
    return packaged


#: Option -> (where a packaged agent has it, its name below --dir).
_PLACES: dict[str, tuple[Path, str]] = {
    "config": (configuration.DEFAULT_CONFIG, "agent.toml"),
    "state_dir": (Path("/var/lib/fleetfoot"), "state"),
    "run_dir": (Path("/run/fleetfoot"), "run"),
    "install_root": (Path("/opt/fleetfoot"), "opt"),
}


def choose_places(args: argparse.Namespace) -> None:
    for name, (packaged, below) in _PLACES.items():
        if getattr(args, name) is None:
            setattr(args, name, packaged if args.dir is None else args.dir / below)


def demand_writable(*folders: Path) -> None:
    """Refuse before anything is made, so that a second try does not stumble over the first one's key."""
    for folder in folders:
        there = folder
        while not there.exists():
            there = there.parent
        if not os.access(there, os.W_OK | os.X_OK):
            raise FleetfootError(
                "io_error",
                f"you may not write to {there}, which {folder} needs",
                remedy="run this as the agent's user, or put everything into a folder of yours: --dir DIR",
            )


def hand_over(folder: Path) -> None:
    """Made by root in the folder of the worker's own user, as a package makes it: give it to that user."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for entry in folder.iterdir():
            os.chown(entry, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _told(config: AgentConfig, root: TrustRoot, public: str) -> str:
    """What was made, and what comes next."""
    return f"""\
device {config.device} of group {config.group} in fleet {root.fleet}, root version {root.version}
configuration: {config.path}
next, where the operator's profile is, enrol it:
  fleetfoot device enroll --id {config.device} --group {config.group} --key {public}
then here, {next_steps(config)}"""


def next_steps(config: AgentConfig) -> str:
    """What a person does on the device once it is set up, to be continued from `next`."""
    agent, path = "fleetfoot-agent", shlex.quote(str(config.path))
    which = "" if config.path == configuration.DEFAULT_CONFIG else f" --config {path}"
    if which or not UNITS_HERE.exists():
        return f"""\
keep its components running, put the first version on, and connect:
  {agent} supervise{which}
  {agent} install{which} BUNDLE
  {agent} run{which}"""
    adopts = "".join(f"\n  {agent} adopt UNIT --component {name}" for name in config.components)
    return f"""\
name in {path} the unit that runs each component, have it guarded, connect,
put the first version on, and see that all is well:{adopts}
  systemctl enable --now fleetfoot-courier.service fleetfoot-worker.path fleetfoot-worker.timer
  {agent} install BUNDLE
  {agent} doctor"""

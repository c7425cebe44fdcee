"""`fleetfoot-agent init`: the device's key, its trust root and its configuration."""

import argparse
import json
import os
import sys
from pathlib import Path

from fleetfoot_agent import config as configuration
from fleetfoot_agent import durable
from fleetfoot_agent.worker import memory
from fleetfoot_protocol import trust
from fleetfoot_protocol.errors import FleetfootError


def _text(value: object) -> str:
    """A TOML value: JSON's strings are TOML's basic strings."""
    return json.dumps(str(value), ensure_ascii=False)


def _labels(pairs: list[str]) -> dict[str, str]:
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
    if labels := _labels(args.label):
        lines += ["", "[agent.labels]", *(f"{_text(k)} = {_text(v)}" for k, v in labels.items())]
    lines += ["", "[broker]", f"url = {_text(args.broker)}"]
    lines += ["", "[upgrade]", f"enabled = {str(enabled).lower()}", 'allowed_channels = ["stable"]']
    for name in args.component:
        lines += [
            "",
            f"[components.{name}]",
            "# window = 120            seconds in which a new version must prove itself",
            '# checks = [{kind = "http", url = "http://127.0.0.1:8080/health"}]',
        ]
    return "\n".join(lines) + "\n"


def _ask_enabled() -> bool:
    if not sys.stdin.isatty():
        raise FleetfootError(
            "usage", "may this device be upgraded from outside?", remedy="say --enable or --no-enable"
        )
    answer = input("May this device be upgraded by signed releases from outside? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def init(args: argparse.Namespace) -> int:
    """Make everything a new device needs; what is there already is never overwritten."""
    path: Path = args.config
    if path.exists():
        raise FleetfootError("exists_already", f"there is a configuration at {path}")
    try:
        envelope = args.root.read_bytes()
    except OSError as error:
        raise FleetfootError("not_found", f"cannot read {args.root}: {error.strerror}") from error
    root = trust.first_root(envelope)
    enabled = args.enable if args.enable is not None else _ask_enabled()
    text = render(args, enabled)
    config = configuration.parse(text, path)
    try:
        durable.make_folder(config.worker_dir, 0o700)
        key = memory.make_key(config.worker_dir / "device.key")
        durable.write_file(config.worker_dir / "root.json", envelope, 0o600)
        public = {"kind": "fleetfoot-public-key", "public": key.public.hex()}
        durable.write_file(config.worker_dir / "device.pub", json.dumps(public).encode() + b"\n")
        durable.make_folder(path.absolute().parent)
        durable.write_file(path, text.encode())
    except OSError as error:
        raise FleetfootError("io_error", f"cannot set up {config.state_dir}: {error}") from error
    print(
        f"device {config.device} of group {config.group} in fleet {root.fleet}, root version {root.version}"
    )
    print(f"configuration: {path}" + ("" if os.access(path, os.R_OK) else " (not readable by you)"))
    print("next, where the operator's profile is, enrol it:")
    print(f"  fleetfoot device enroll --id {config.device} --group {config.group} --key {key.public.hex()}")
    print("then here, put the first version on:  fleetfoot-agent install BUNDLE")
    return 0

"""`fleetfoot-agent enroll TOKEN`: keys made here, a certificate for them, and the fleet's trust root.

Everything is written before anything depends on it: keys, then what was answered, the configuration last. Cut
off anywhere, the same command with the same token goes on: the manager gives the same device the same answer.
Nothing that is there is replaced but the certificate and the four settings of the broker that belong to it.
"""

import argparse
import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_agent import config as configuration
from fleetfoot_agent import durable, setup
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.enrol import asking, settings
from fleetfoot_agent.worker import memory, rooting
from fleetfoot_protocol import dsse, enrolment, keys, trust
from fleetfoot_protocol.enrolment import Admission, Token
from fleetfoot_protocol.errors import FleetfootError

KEY_NAME, CERTIFICATE_NAME, CA_NAME, RENEWAL_NAME = "tls.key", "tls.crt", "ca.crt", "renewal.json"
#: RFC 8410: what stands before the 32 bytes of an Ed25519 key in PKCS #8.
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
_BEGIN, _END = "-----BEGIN PRIVATE" + " KEY-----", "-----END PRIVATE KEY-----"


@dataclass(frozen=True)
class _Plan:
    """The configuration as it is, or as it will be: `text` of a file at config.path."""

    config: AgentConfig
    text: str
    new: bool


def enroll(args: argparse.Namespace) -> int:
    """Enrol this device. Errors are FleetfootError; nothing secret is ever sent or shown."""
    token = enrolment.decode(_token(args.token))
    setup.choose_places(args)
    plan = _plan(args, token)
    config = plan.config
    _demand_fitting(config, token)
    setup.demand_writable(config.path.absolute().parent, config.state_dir)
    for folder, mode in ((config.worker_dir, 0o700), (config.courier_dir, 0o700)):
        durable.make_folder(folder, mode)
    key = _device_key(config.worker_dir)
    tls = _tls_key(config.courier_dir / KEY_NAME)
    application = enrolment.apply(token, config.device, key, tls, config.labels)
    admission = asking.ask(token, application)
    _demand_mine(config, token, admission)
    had_root = _keep_root(config.worker_dir, token, admission)
    _keep(config, token, admission)
    changed = _settings(plan, config, admission)
    if plan.new:
        durable.make_folder(config.path.absolute().parent)
    durable.write_file(config.path, changed.encode(), _mode(config.path))
    for folder in (config.worker_dir, config.courier_dir):
        setup.hand_over(folder)
    print(_told(config, had_root))
    return 0


def _token(text: str) -> str:
    """The token itself, or what stands in the file that is named: a command line is seen by others."""
    if text.startswith(enrolment.PREFIX):
        return text
    try:
        return Path(text).read_text("utf-8")[: enrolment.MAX_TOKEN + 2]
    except (OSError, UnicodeDecodeError):
        raise FleetfootError(
            "request_invalid",
            "TOKEN is neither a token nor a file with one",
            remedy="tokens begin with ffe1.",
        ) from None


def _plan(args: argparse.Namespace, token: Token) -> _Plan:
    path: Path = args.config
    if path.exists():
        text = path.read_text("utf-8")
        # A configuration may wait for its broker: that is what enrolment is for.
        whole = text if "[broker]" in text else settings.with_broker(text, {"url": "mqtt://127.0.0.1"})
        return _Plan(configuration.parse(whole, path), text, False)
    device = args.device or token.device
    if device is None or not args.component:
        raise FleetfootError(
            "usage",
            f"there is no configuration at {path}, and nothing says what should stand in it",
            remedy="say --device ID, --component ID, and --enable or --no-enable",
        )
    args.device, args.group, args.broker = device, token.group, "mqtt://127.0.0.1"
    enabled = args.enable if args.enable is not None else setup.ask_enabled()
    text = setup.render(args, enabled)
    return _Plan(configuration.parse(text, path), text, True)


def _demand_fitting(config: AgentConfig, token: Token) -> None:
    for what, mine, named in (("group", config.group, token.group), ("device", config.device, token.device)):
        if named is not None and mine != named:
            raise FleetfootError(
                "conflict",
                f"the token is for {what} {named}, the configuration says {mine}",
                remedy=f"ask for a token of {what} {mine}, or change agent.{what} in {config.path}",
            )


def _device_key(folder: Path) -> bytes:
    path = folder / "device.key"
    if path.exists():
        return memory.load_key(path).secret
    key = memory.make_key(path)
    public = {"kind": "fleetfoot-public-key", "public": key.public.hex()}
    durable.write_file(folder / "device.pub", json.dumps(public).encode() + b"\n")
    return key.secret


def _tls_key(path: Path) -> bytes:
    """The key for connections, made if there is none. Raises FleetfootError `key_unreadable`."""
    if not path.exists():
        secret = keys.generate()
        body = base64.b64encode(_PKCS8 + secret).decode("ascii")
        durable.write_file(path, f"{_BEGIN}\n{body}\n{_END}\n".encode(), 0o600)
        return secret
    try:
        lines = path.read_text("ascii").split("\n")
        data = base64.b64decode("".join(lines[1:-2]), validate=True)
    except ValueError:
        data = b""
    if not data.startswith(_PKCS8) or len(data) != len(_PKCS8) + keys.SECRET_BYTES:
        raise FleetfootError("key_unreadable", f"{path} is no key that enroll has made")
    return data.removeprefix(_PKCS8)


def _demand_mine(config: AgentConfig, token: Token, admission: Admission) -> None:
    if (admission.device, admission.group) != (config.device, token.group):
        raise FleetfootError("request_invalid", "the manager's answer is for another device")


def _keep_root(folder: Path, token: Token, admission: Admission) -> bool:
    """Keep the root that the token names, unless there is one; whether there was. Nothing replaces a root."""
    envelope = admission.root.encode()
    offered = trust.first_root(envelope)
    if dsse.decode(envelope).digest != token.root:
        raise FleetfootError("upgrade_root_refused", "the manager's trust root is not the token's")
    # Where the package embeds one, there is one.
    if (folder / "root.json").exists() or rooting.embedded() is not None:
        mine = memory.load_root(folder)
        if mine.fleet != offered.fleet:
            raise FleetfootError(
                "conflict",
                f"this device trusts the fleet {mine.fleet}, the token is of {offered.fleet}",
                remedy="ask for a token of its own fleet, or set the device up anew",
            )
        return True
    durable.write_file(folder / "root.json", envelope, 0o600)
    return False


def _keep(config: AgentConfig, token: Token, admission: Admission) -> None:
    folder = config.courier_dir
    durable.write_file(folder / CA_NAME, admission.ca.encode())
    durable.write_file(folder / CERTIFICATE_NAME, admission.certificate.encode())
    renewal = {"renew_at": admission.renew_at, "url": token.url}
    durable.write_file(folder / RENEWAL_NAME, json.dumps(renewal).encode() + b"\n")


def _settings(plan: _Plan, config: AgentConfig, admission: Admission) -> str:
    folder = config.courier_dir.absolute()
    values = {} if "[broker]" in plan.text and not plan.new else {"url": admission.broker}
    url = values.get("url", "mqtts:" if config.broker.tls else "mqtt:")
    if url.startswith("mqtts:"):
        names = {"ca_file": CA_NAME, "cert_file": CERTIFICATE_NAME, "key_file": KEY_NAME}
        values |= {setting: str(folder / name) for setting, name in names.items()}
    text = settings.with_broker(plan.text, values)
    configuration.parse(text, config.path)
    return text


def _mode(path: Path) -> int:
    """That of the file that is replaced."""
    return os.stat(path).st_mode & 0o7777 if path.exists() else 0o644


def _told(config: AgentConfig, had_root: bool) -> str:
    root = "kept the trust root that was here" if had_root else "took the trust root that the token names"
    return (
        f"device {config.device} of group {config.group} is enrolled; {root}\n"
        f"certificate: {config.courier_dir / CERTIFICATE_NAME}, renewed by itself\n"
        f"next, {setup.next_steps(config)}"
    )

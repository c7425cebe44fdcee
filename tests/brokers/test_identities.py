"""From a token to an identity, and its end: at Mosquitto as we ship it, and at the artifact server by TLS."""

import contextlib
import io
import json
import os
import signal
import ssl
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from tests.attack.rows import row
from tests.brokers.mosquitto import Production
from tests.manager.process import FLEETFOOT
from tests.manager.realm import COMPONENT, Bundle, Device, Realm, runs
from tests.support.waiting import until

from fleetfoot_agent import config as configuration
from fleetfoot_agent.cli import main as agent
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.courier.http_source import Leash, Source, SourceError
from fleetfoot_agent.courier.renewal import Renewal
from fleetfoot_agent.enrol import asking, settings
from fleetfoot_agent.worker.memory import load_key
from fleetfoot_client.broker.rights import Role
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_client.profiles import choose
from fleetfoot_client.session import Session
from fleetfoot_protocol import enrolment, keys
from fleetfoot_protocol.errors import FleetfootError

pytestmark = pytest.mark.needs("mosquitto")

GROUP = "ovens"


@dataclass
class House:
    """A broker, a manager with certificates, and an operator's profile."""

    folder: Path
    broker: Production
    realm: Realm
    process: subprocess.Popen[str]
    artifacts: str
    environ: dict[str, str]

    def ask(self, *words: str) -> Any:
        said = io.StringIO()
        with patch.dict(os.environ, self.environ), contextlib.redirect_stdout(said):
            assert fleetfoot([*words, "--json"]) == 0, (words, said.getvalue())
        return json.loads(said.getvalue())

    def token(self, *more: str) -> str:
        return str(self.ask("device", "token", "--group", GROUP, *more)["token"])

    def folder_of(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.exists():
            words = ["init", "--dir", str(folder), "--device", name, "--group", GROUP]
            words += ["--component", COMPONENT, "--broker", self.broker_url, "--enable"]
            assert agent([*words, "--root", str(self.realm.root_path)]) == 0
        return folder

    @property
    def broker_url(self) -> str:
        return f"mqtts://127.0.0.1:{self.broker.port_of[Role.DEVICE]}"

    def enrolled(self, name: str, *more: str) -> AgentConfig:
        path = self.folder_of(name) / "agent.toml"
        assert agent(["enroll", self.token(*more), "--config", str(path)]) == 0
        return configuration.load(path)

    def release(self, version: str, counter: int) -> Bundle:
        bundle = self.realm.release(version, counter)
        for name, data in bundle.uploads().items():
            (self.realm.state / "blobs" / name).write_bytes(data)
        (self.folder / "operator").mkdir(exist_ok=True)
        return bundle


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("identities")) as house:
        yield house


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[House]:
    """A house with everything of it in `folder`, at work."""
    broker = Production(folder / "broker")
    broker.start()
    realm = Realm(folder)
    manager, alice = broker.issue(Role.MANAGER, "manager"), broker.issue(Role.OPERATOR, "alice")
    command = [FLEETFOOT, "manager", "run", "--dir", str(realm.state), "--root", str(realm.root_path)]
    command += ["--json", "--artifacts", "127.0.0.1:0", "--pki", str(broker.pki.folder)]
    command += ["--broker", manager.url, "--broker-ca", str(manager.ca), "--broker-cert", str(manager.cert)]
    command += ["--broker-key", str(manager.key), "--certificate-days", "30"]
    command += ["--device-broker", f"mqtts://127.0.0.1:{broker.port_of[Role.DEVICE]}"]
    with (folder / "manager.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "manager.log").read_text()
        key = folder / "alice.key"
        secret = realm.secrets["alice"]
        form = {"kind": "fleetfoot-key", "public": keys.public_of(secret).hex(), "secret": secret.hex()}
        key.write_text(json.dumps(form))
        key.chmod(0o600)
        environ = {"FLEETFOOT_CONFIG_DIR": str(folder / "profile")}
        words = ["profile", "set", "here", "--broker", alice.url, "--operator", "alice", "--key", str(key)]
        words += ["--root", str(realm.root_path), "--ca-file", str(alice.ca), "--cert-file", str(alice.cert)]
        words += ["--cert-key-file", str(alice.key)]
        house = House(folder, broker, realm, process, json.loads(line)["artifacts"], environ)
        house.ask(*words)
        yield house
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
        broker.end(signal.SIGTERM)


class Live:
    """A device's connection, by its certificate; presence retained as a courier does."""

    def __init__(self, config: AgentConfig) -> None:
        broker = config.broker
        self.presence = f"ff/v1/groups/{config.group}/devices/{config.device}/presence"
        self.ended = threading.Event()
        self.refused = False
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=config.device, reconnect_on_failure=False
        )
        context = ssl.create_default_context(cafile=str(broker.ca_file))
        context.load_cert_chain(str(broker.cert_file), str(broker.key_file))
        self.client.tls_set_context(context)
        self.client.will_set(self.presence, b"offline", 1, True)
        self.client.on_disconnect = lambda *_: self.ended.set()
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def retained(house: House, topic: str) -> bytes | None:
    """What the broker keeps under a topic, as the manager sees it; a marker says that this was all."""
    who = house.broker.issue(Role.MANAGER, "observer")
    heard: list[tuple[str, bytes]] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"observer-{time.monotonic_ns()}")
    context = ssl.create_default_context(cafile=str(who.ca))
    context.load_cert_chain(who.cert, who.key)
    client.tls_set_context(context)
    client.on_message = lambda _c, _u, message: heard.append((message.topic, bytes(message.payload)))
    client.connect("127.0.0.1", who.port)
    client.loop_start()
    try:
        until(client.is_connected, "the observer connects")
        client.subscribe([(topic, 1), ("ffcheck/marker", 1)])
        client.publish("ffcheck/marker", b"1", 1).wait_for_publish(10)
        until(lambda: ("ffcheck/marker", b"1") in heard, "the marker comes")
    finally:
        client.disconnect()
        client.loop_stop()
    return next((payload for name, payload in heard if name == topic), None)


# -- enrolment


def test_a_token_gives_an_identity_and_nothing_else_changes(house: House) -> None:
    folder = house.folder_of("oven-1")
    path = folder / "agent.toml"
    before = path.read_text() + '# mine\n[upgrade.pins]\nother = "1.2.3" # pinned\n'
    path.write_text(before)
    device_key, root = (folder / "state/worker" / name for name in ("device.key", "root.json"))
    kept = device_key.read_bytes(), root.read_bytes()
    assert agent(["enroll", house.token(), "--config", str(path)]) == 0
    after = path.read_text()
    assert (device_key.read_bytes(), root.read_bytes()) == kept
    assert '# mine\n[upgrade.pins]\nother = "1.2.3" # pinned\n' in after
    old, new = tomllib.loads(before), tomllib.loads(after)
    changed = new.pop("broker")
    assert changed.pop("url") == old.pop("broker")["url"]
    assert set(changed) == {"ca_file", "cert_file", "key_file"}
    assert new == old
    config = configuration.load(path)
    live = Live(config)
    until(live.client.is_connected, "the device connects with its certificate")
    live.close()
    assert house.ask("device", "show", "oven-1")["group"] == GROUP
    assert (config.broker.key_file or Path()).stat().st_mode & 0o777 == 0o600


def test_a_new_device_takes_the_root_that_the_token_names(house: House) -> None:
    folder = house.folder / "fresh"
    token = house.folder / "token.txt"
    token.write_text(house.token() + "\n")
    words = ["enroll", str(token), "--dir", str(folder), "--device", "fresh-1", "--component", COMPONENT]
    assert agent([*words, "--enable"]) == 0
    assert (folder / "state/worker/root.json").read_bytes() == house.realm.root_path.read_bytes()
    config = configuration.load(folder / "agent.toml")
    assert config.broker.tls
    assert config.policy.enabled


@row(75, "enrolment token used twice", "the same device gets the same answer again, another none")
def test_row_75_a_token_enrols_one_device(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    token = house.token()
    for name in ("twice-1", "twice-2"):
        house.folder_of(name)
    first = ["enroll", token, "--config", str(house.folder / "twice-1/agent.toml")]
    assert agent(first) == 0
    assert agent(first) == 0
    assert agent(["enroll", token, "--config", str(house.folder / "twice-2/agent.toml")]) == 1
    assert "used before" in capsys.readouterr().err
    listed = [one["id"] for one in house.ask("device", "list")["devices"]]
    assert "twice-1" in listed
    assert "twice-2" not in listed
    assert not (house.folder / "twice-2/state/courier/tls.crt").exists()


@row(75, "enrolment token raced by fifty devices", "one of them is enrolled and has a certificate")
def test_row_75_fifty_at_once_and_one_is_enrolled(house: House) -> None:
    token = enrolment.decode(house.token())
    said: list[str] = []
    begin = threading.Barrier(50)

    def race(number: int) -> None:
        application = enrolment.apply(token, f"race-{number}", keys.generate(), keys.generate(), {})
        begin.wait()
        try:
            said.append(asking.ask(token, application).device)
        except FleetfootError as error:
            said.append(error.code)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(50)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(said)[:49] == ["not_allowed"] * 49
    listed = [one["id"] for one in house.ask("device", "list")["devices"] if one["id"].startswith("race-")]
    assert listed == [max(said)]
    assert len(house.broker.pki.issued("device").get(listed[0], [])) == 1
    assert sum(name.startswith("race-") for name in house.broker.pki.issued("device")) == 1


@row(74, "enrolling as `+`, `#`, `a/b`", "refused by the manager and by the tools, no certificate")
@pytest.mark.parametrize("name", ["+", "#", "a/b", "", "A", "ä"])
def test_row_74_a_name_that_is_no_id_is_not_enrolled(house: House, name: str) -> None:
    token = enrolment.decode(house.token())
    made = enrolment.apply(token, "good-name", keys.generate(), keys.generate(), {})
    with pytest.raises(FleetfootError) as refused:
        asking.ask(token, made.model_copy(update={"device": name}))
    assert refused.value.code == "request_invalid"
    with pytest.raises(FleetfootError):
        house.broker.pki.issue("device", name)
    assert name not in house.broker.pki.issued("device")


def test_keys_of_somebody_else_cannot_be_enrolled(house: House) -> None:
    token = enrolment.decode(house.token())
    made = enrolment.apply(token, "thief", keys.generate(), keys.generate(), {})
    for change in (
        {"key": keys.public_of(keys.generate()).hex()},
        {"device": "other"},
        {"key": made.tls_key},
    ):
        with pytest.raises(FleetfootError, match="not signed by both"):
            asking.ask(token, made.model_copy(update=change))


def test_a_token_for_one_device_gives_it_new_keys_and_is_for_nobody_else(house: House) -> None:
    config = house.enrolled("lost")
    (config.worker_dir / "device.key").unlink()
    anybodys = enrolment.decode(house.token())
    taken = enrolment.apply(anybodys, "lost", keys.generate(), keys.generate(), {})
    with pytest.raises(FleetfootError) as refused:
        asking.ask(anybodys, taken)
    assert refused.value.code == "conflict"
    token = house.token("--id", "lost")
    other = enrolment.decode(token)
    with pytest.raises(FleetfootError, match="is for lost"):
        asking.ask(other, enrolment.apply(other, "lost-2", keys.generate(), keys.generate(), {}))
    assert agent(["enroll", token, "--config", str(config.path)]) == 0
    public = json.loads((config.worker_dir / "device.pub").read_text())["public"]
    assert house.ask("device", "show", "lost")["key"] == public


def test_another_server_than_the_tokens_is_not_shown_the_secret(house: House) -> None:
    token = enrolment.decode(house.token())
    wrong = token.model_copy(update={"ca": "0" * 64})
    application = enrolment.apply(token, "careful", keys.generate(), keys.generate(), {})
    with pytest.raises(FleetfootError) as refused:
        asking.ask(wrong, application)
    assert refused.value.code == "upgrade_tls_failed"
    assert asking.ask(token, application).device == "careful"  # it is unused still
    plain = token.model_copy(update={"url": "http://192.0.2.1:8090", "ca": ""})
    with pytest.raises(FleetfootError, match="without TLS"):
        asking.ask(plain, application)


def test_a_configuration_that_a_program_cannot_change_is_left_alone() -> None:
    with pytest.raises(FleetfootError, match="write into it yourself"):
        settings.with_broker('broker = {url = "mqtt://127.0.0.1"}\n', {"ca_file": "x"})
    text = '[broker] # here\nurl = "mqtts://a"\n\n[upgrade]\nenabled = true\n'
    assert settings.with_broker(text, {"ca_file": "x"}) == (
        '[broker] # here\nurl = "mqtts://a"\nca_file = "x"\n\n[upgrade]\nenabled = true\n'
    )


# -- renewal


def test_a_certificate_is_renewed_without_hands(house: House) -> None:
    config = house.enrolled("renewing")
    certificate, key = (path or Path() for path in (config.broker.cert_file, config.broker.key_file))
    renewal = config.courier_dir / "renewal.json"
    due = json.loads(renewal.read_text())
    before, secret = certificate.read_bytes(), key.read_bytes()
    works = Renewal(config)
    assert works.step(0.0) > 0
    assert certificate.read_bytes() == before  # not due yet
    renewal.write_text(json.dumps({**due, "renew_at": 0}))
    assert works.step(1000.0) > 1000.0
    until(lambda: certificate.read_bytes() != before, "the certificate is another one")
    until(lambda: json.loads(renewal.read_text())["renew_at"] > 0, "the next renewal is planned")
    assert key.read_bytes() == secret
    live = Live(config)
    until(live.client.is_connected, "the broker takes the new certificate")
    live.close()


# -- artifacts


def test_a_device_gets_what_its_desired_states_name_and_nothing_else(house: House) -> None:
    config = house.enrolled("reader")
    base, bundle, other = (house.release(f"{n}.0.0", n) for n in (1, 2, 3))
    artifact, foreign = (next(iter(one.release.artifacts)) for one in (bundle, other))
    broker = config.broker
    identity = (broker.cert_file or Path(), broker.key_file or Path())
    source = Source(connect_timeout=5, read_timeout=5, ca_file=broker.ca_file, identity=identity)

    def fetch(sha256: str, length: int, by: Source = source) -> bytes:
        body = by.open(f"{house.artifacts}/{sha256}", 0, length, Leash())
        try:
            return body.read(length)
        finally:
            body.close()

    with pytest.raises(SourceError, match="403"):
        fetch(artifact.sha256, artifact.length)
    publish(house, bundle)
    tell(config, base)
    until(lambda: COMPONENT in house.ask("device", "show", "reader")["components"], "the manager hears it")
    house.ask("device", "upgrade", "reader", COMPONENT, "2.0.0")
    assert fetch(artifact.sha256, artifact.length) == bundle.blobs[artifact.sha256]
    with pytest.raises(SourceError, match="403"):
        fetch(foreign.sha256, foreign.length)
    nobody = Source(connect_timeout=5, read_timeout=5, ca_file=broker.ca_file)
    with pytest.raises(SourceError, match="403"):
        fetch(artifact.sha256, artifact.length, nobody)
    neighbour = house.enrolled("neighbour").broker
    theirs = with_identity(source, neighbour.cert_file, neighbour.key_file)
    with pytest.raises(SourceError, match="403"):
        fetch(artifact.sha256, artifact.length, theirs)


def tell(config: AgentConfig, running: Bundle) -> None:
    """Publish the device's status, by its own keys and certificate."""
    device = Device(config.device, config.group, load_key(config.worker_dir / "device.key").secret)
    live = Live(config)
    until(live.client.is_connected, "the device connects")
    base = live.presence.removesuffix("presence")
    for name, payload in zip(("status", "status/attestation"), device.status(runs(running)), strict=True):
        live.client.publish(base + name, payload, 1, True).wait_for_publish(10)
    live.close()


def with_identity(source: Source, cert: Path | None, key: Path | None) -> Source:
    return Source(
        connect_timeout=5, read_timeout=5, ca_file=source._ca_file, identity=(cert or Path(), key or Path())
    )


def publish(house: House, bundle: Bundle) -> None:
    with Session(choose(None, {**os.environ, **house.environ})) as session:
        session.request("release.upload", arguments=bundle.upload_arguments(), timeout=20)
        session.request("release.publish", arguments=bundle.publish_arguments(), timeout=20)


# -- the end


@row(
    76,
    "a revoked device with a live session",
    "session ended, what it left cleared, no new connection, no artifacts, no renewal",
)
def test_row_76_revocation_reaches_session_retained_messages_and_artifacts(house: House) -> None:
    config = house.enrolled("gone")
    live = Live(config)
    until(live.client.is_connected, "the device connects")
    live.client.publish(live.presence, b"online", 1, True).wait_for_publish(10)
    until(lambda: retained(house, live.presence) == b"online", "its presence is retained")
    shown = house.ask("device", "revoke", "gone")
    assert shown["certificates"] == 1
    assert live.ended.wait(10), "the session of a revoked device goes on"
    live.close()
    until(lambda: retained(house, live.presence) is None, "what it left is cleared, its Will too")
    # The broker has not read the list yet: whoever comes again is turned away again.
    again = Live(config)
    until(again.client.is_connected, "the broker lets it in still")
    again.client.publish(again.presence, b"online", 1, True)
    assert again.ended.wait(15), "it was let in a second time and stayed"
    again.close()
    until(lambda: retained(house, live.presence) is None, "it is cleared again")
    house.broker.reload()
    until(partial(refused, config), "the broker refuses the certificate")
    broker = config.broker
    source = Source(
        connect_timeout=5,
        read_timeout=5,
        ca_file=broker.ca_file,
        identity=(broker.cert_file or Path(), broker.key_file or Path()),
    )
    with pytest.raises(SourceError, match="403"):
        source.open(f"{house.artifacts}/{'0' * 64}", 0, 1, Leash())
    before = (broker.cert_file or Path()).read_bytes()
    with pytest.raises(ConnectionError, match="revoked"):
        Renewal(config)._ask(house.artifacts.removesuffix("/blobs"))
    assert (broker.cert_file or Path()).read_bytes() == before
    assert "gone" not in [one["id"] for one in house.ask("device", "list")["devices"]]
    # Enrolled anew, with a new certificate, it is a device like any other.
    config = house.enrolled("gone")
    live = Live(config)
    until(live.client.is_connected, "it connects with its new certificate")
    live.client.publish(live.presence, b"online", 1, True).wait_for_publish(10)
    until(lambda: house.ask("device", "show", "gone")["online"], "the manager hears it")
    assert not live.ended.is_set()
    live.close()


def refused(config: AgentConfig) -> bool:
    try:
        live = Live(config)
    except (ssl.SSLError, OSError):
        return True
    try:
        time.sleep(0.1)
        return live.ended.is_set()
    finally:
        live.close()

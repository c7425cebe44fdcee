"""docs/brokers.md and docs/identities.md, walked: their commands, in the order in which somebody needs them.

The commands are taken from the pages. Changed are only places: the folders of the system, the host and the
ports; and a device gets `--dir`, since the folders of the system are root's. What apt-get installs is there.
"""

import contextlib
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.mosquitto import SHIPPED, Mosquitto, placed
from tests.support.waiting import until

from fleetfoot_client.broker.rights import Role
from fleetfoot_client.broker.wire import ClosedError, Peer
from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind
from fleetfoot_sim.devices import free_ports
from fleetfoot_sim.scene import Scene

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_INDENTED = re.compile(r"^    (\S(?:\\\n|.)*)$", re.MULTILINE)
#: A setting, a table of settings, a comment: no commands.
_NONE = re.compile(r"^(\w+ = |\[|#)")
#: Commands that stay: the walk lets them run, and ends them.
_STAYS = ("mosquitto -c", "fleetfoot manager run", "nats-server -c")


def commands(page: str) -> dict[str, deque[str]]:
    """The commands of each section of a page."""
    _, *parts = _SECTION.split((ROOT / "docs" / page).read_text("utf-8"))
    found = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        every = [re.sub(r"\s*\\\n\s*", " ", one) for one in _INDENTED.findall(text)]
        if kept := [one for one in every if not _NONE.match(one)]:
            found[title] = deque(kept)
    return found


class Walk:
    """Somebody with the two pages in a folder that has a manager's state, a root and an operator's key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left = {**commands("brokers.md"), **commands("identities.md")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        *ports, self.artifacts, self.plain = free_ports(len(Role) + 2)
        self.port_of = dict(zip(Role, ports, strict=True))
        self._changes = {
            "/etc/": f"{folder}/etc/",
            "broker_conf/": f"{ROOT}/broker_conf/",
            "broker.example.org": "127.0.0.1",
            "0.0.0.0": "127.0.0.1",
            ":8090": f":{self.artifacts}",
            "check mqtt://127.0.0.1": f"check mqtt://127.0.0.1:{self.plain}",
        }
        for number, role in zip((8883, 8884, 8885, 8886), Role, strict=True):
            self._changes[f":{number}"] = f":{self.port_of[role]}"
        if os.geteuid():
            self._changes["-g mosquitto "] = ""
        programs = Path(sys.executable).parent
        self._environ = {**os.environ, "FLEETFOOT_CONFIG_DIR": str(folder / "profile")}
        self._environ["PATH"] = f"{programs}{os.pathsep}/usr/sbin{os.pathsep}{os.environ['PATH']}"
        (folder / "etc").mkdir()

    def next(self, section: str, begins: str, **changes: str) -> str:
        """Run the next command of a section, which begins so; what it says."""
        said = self.left[section].popleft()
        assert said.startswith(begins), f"the page says {said}"
        for old, new in (self._changes | changes).items():
            said = said.replace(old, new)
        if begins in _STAYS:
            self._stay(begins, said)
            return ""
        done = subprocess.run(
            ["bash", "-c", f"set -e; {said}"],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, (said, done.stdout, done.stderr)
        return done.stdout

    def there(self, section: str, package: str) -> None:
        """What this command installs is there already."""
        assert self.left[section].popleft() == f"apt-get install {package}"

    def over(self, *sections: str) -> None:
        """Nothing is left of these."""
        assert not any(self.left.pop(section) for section in sections)

    def _stay(self, name: str, said: str) -> None:
        with (self.folder / f"{name.partition(' ')[0]}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                shlex.split(said), cwd=self.folder, env=self._environ, stdout=subprocess.PIPE, stderr=log
            )

    def await_manager(self) -> None:
        """It says that it is there, and where."""
        said = self.processes["fleetfoot manager run"].stdout
        assert said is not None
        assert said.readline(), (self.folder / "fleetfoot.log").read_text()

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()

    def device(self) -> Peer:
        """A connection with the certificate that the device got."""
        courier = self.folder / "device/state/courier"
        context = ssl.create_default_context(cafile=str(next(courier.glob("*ca*.crt"))))
        context.load_cert_chain(courier / "tls.crt", courier / "tls.key")
        return Peer(("127.0.0.1", self.port_of[Role.DEVICE]), "oven-07", timeout=10, tls=context)


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    scene = Scene(tmp_path)
    scene.prepare()
    (tmp_path / "alice.key").write_bytes(scene.operator_key.read_bytes())
    (tmp_path / "alice.key").chmod(0o600)
    walk = Walk(tmp_path)
    yield walk
    for name in list(walk.processes):
        walk.end(name)


def listening(walk: Walk) -> bool:
    """Whether Mosquitto takes connections; it must not have ended."""
    assert walk.processes["mosquitto -c"].poll() is None, (walk.folder / "mosquitto.log").read_text()
    with contextlib.suppress(OSError, ClosedError):
        Peer(("127.0.0.1", walk.port_of[Role.DEVICE]), "look", timeout=2, tls=_anybody()).vanish()
        return True
    return "Opening ipv4 listen socket on port" in (walk.folder / "mosquitto.log").read_text()


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def authorities(walk: Walk) -> None:
    """Authorities, and a first operator who comes and goes."""
    at = "The authorities"
    walk.next(at, "fleetfoot pki init")
    walk.next(at, "fleetfoot pki issue")
    walk.next(at, "fleetfoot pki renew --dir pki --role operator")
    walk.next(at, "fleetfoot pki renew --dir pki --role server")
    walk.next(at, "fleetfoot pki revoke")
    assert "alice" in walk.next(at, "fleetfoot pki list")
    walk.over(at)


@pytest.mark.needs("mosquitto")
def test_mosquitto_and_identities_as_the_pages_say(walk: Walk) -> None:
    authorities(walk)
    at = "Mosquitto"
    walk.there(at, "mosquitto")
    for begins in ("install -d", "cp broker_conf/mosquitto", "cp pki/server.crt", "install -g mosquitto"):
        walk.next(at, begins)
    etc, disk = walk.folder / "etc/mosquitto/fleetfoot", walk.folder / "disk"
    disk.mkdir()
    own = "user root\n" if os.geteuid() == 0 else ""
    conf = placed((etc / "mosquitto.conf").read_text(), etc, disk, walk.port_of)
    (etc / "mosquitto.conf").write_text(own + conf)
    walk.next(at, "mosquitto -c")
    until(lambda: listening(walk), "Mosquitto listens")

    look = "Look before you depend on one"
    conf = f"listener {walk.plain} 127.0.0.1\nallow_anonymous true\n"
    bare = Mosquitto(walk.folder / "bare", conf, [walk.plain])
    bare.start()
    try:
        walk.next(look, "fleetfoot broker check mqtt://")
    finally:
        bare.end(signal.SIGTERM)
    # The manager may write everywhere: what is denied to others it cannot see, as the page says.
    said = walk.next(look, "fleetfoot broker check mqtts://")
    assert "safe for production: ? (not seen: denied write, denied will, denied read)" in said
    walk.over(look)

    elsewhere = f"--dir manager --artifacts 127.0.0.1:{walk.artifacts}"  # 8090 may be somebody's
    walk.next(at, "fleetfoot manager run", **{"--dir manager": elsewhere})
    walk.await_manager()
    walk.next(at, "fleetfoot pki issue")
    walk.next(at, "fleetfoot profile set")
    walk.over(at)
    walk.end("fleetfoot manager run")

    walk.next("A manager with certificates", "fleetfoot manager run")
    walk.await_manager()
    joins = "A device joins"
    walk.next(joins, "fleetfoot device token")
    walk.next(joins, "fleetfoot-agent enroll", **{"--enable": "--enable --dir device"})
    walk.over("A manager with certificates", joins)
    with walk.device() as device:
        assert device.refusal == 0
        presence = topics.build(Kind.PRESENCE, group="ovens", device="oven-07")
        assert device.publish(presence, b"online", retained=True) < 0x80

    gone = "Revocation"
    walk.next(gone, "fleetfoot device revoke")
    process = walk.processes["mosquitto -c"]
    walk.next(gone, "cp pki/devices.crl", **{"$(pidof mosquitto)": str(process.pid)})
    walk.over(gone)

    def refused() -> bool:
        try:
            with walk.device() as peer:
                return peer.closed_within(0.3)
        except (ClosedError, OSError):
            return True

    until(refused, "the broker refuses whom it has on its list")
    # The other page is another test, and EMQX and the embedded broker have no commands.
    assert set(walk.left) == {"NATS"}


@pytest.mark.needs("nats")
def test_a_node_of_nats_as_the_page_says(walk: Walk) -> None:
    authorities(walk)
    at = "NATS"
    walk.there(at, "nats-server")
    for begins in ("install -d", "cp broker_conf/nats", "cp pki/server.crt", "cat pki/devices-ca.crt"):
        walk.next(at, begins)
    etc = walk.folder / "etc/nats/fleetfoot"
    file = etc / "nats.conf"
    text = file.read_text()
    named = re.findall(r'"/etc/nats/fleetfoot/([\w.-]+)"', text)
    assert {(etc / name).is_file() for name in named} == {True}
    assert (etc / "all-ca.crt").read_text().count("BEGIN CERTIFICATE") == 3
    file.write_text(text.replace("/etc/nats/fleetfoot", str(etc)))
    # Asked whether it would start with it: tests/conformance start three of them.
    (said,) = walk.left[at]
    assert said.startswith("nats-server -c")
    walk.left[at][0] = said.replace("nats-server -c", "nats-server -t -c")
    walk.next(at, "nats-server -t -c")
    walk.over(at)


def test_what_the_pages_name_of_ours_is_there() -> None:
    page = (ROOT / "docs" / "brokers.md").read_text("utf-8")
    for name in re.findall(r"`(broker_conf/[\w./-]+)`", page):
        assert (ROOT / name).exists(), name
    assert SHIPPED.is_dir()

"""The Debian package on a real host: installed, upgraded, removed, purged; its root cannot be replaced."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.conftest import Lab
from tests.lab.device import COMPONENT, CONFIG, DEVICE, GROUP, UNIT, UNIT_FILE, Device
from tests.lab.host import Host
from tests.support.fleet import House
from tests.support.waiting import until

from fleetfoot_protocol.states import Lifecycle

ROOT = Path(__file__).parents[2]

DRAIN = "[Service]\nType=oneshot\nExecStart=/bin/touch /var/tmp/drained\n"
#: What the owner has installed besides, which goes with the package, too.
OWNERS = """\
preserve = ["/etc/kiosk.conf"]
[components.kiosk.hooks]
pre-activate = "kiosk-drain.service"
"""

pytestmark = [
    pytest.mark.needs("lab", "deb"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def package(lab: Lab) -> Path:
    """The package for the lab's fleet, by the very command of the Makefile."""
    command = [sys.executable, "-m", "deb.build", "--trust", str(lab.shop.house.root_path)]
    subprocess.run([*command, "--out", str(lab.folder / "dist")], check=True, cwd=ROOT)
    (found,) = (lab.folder / "dist").glob("fleetfoot-agent_*.deb")
    return found


@pytest.fixture
def bare(lab: Lab) -> Iterator[Host]:
    """A host without the agent."""
    host = lab.bare_host()
    try:
        host.format(256)
        host.boot()
        yield host
    finally:
        host.remove()


def bring(host: Host, package: Path) -> str:
    inside = f"/tmp/{package.name}"
    shutil.copyfile(package, host.path(inside))
    return inside


def newer(package: Path, folder: Path) -> Path:
    """The same package as the next version, so that dpkg upgrades."""
    tree = folder / "newer"
    subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("Version: ", "Version: 9."))
    path = folder / "newer.deb"
    built = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path)]
    subprocess.run(built, check=True, stdout=subprocess.DEVNULL)
    return path


def findings(host: Host) -> dict[str, str]:
    told = json.loads(host.run("fleetfoot-agent", "doctor", "--json", check=False))
    return {f["text"]: f["level"] for f in told["findings"]}


def test_it_is_installed_upgraded_and_purged(lab: Lab, bare: Host, package: Path, tmp_path: Path) -> None:
    host = bare
    host.run("dpkg", "-i", bring(host, package))
    assert "fleetfoot-agent 0." in host.run("fleetfoot-agent", "--version")
    for unit in ("fleetfoot-courier.service", "fleetfoot-worker.path", "fleetfoot-worker.timer"):
        assert host.show(unit, "UnitFileState") == {"UnitFileState": "enabled"}
    init = ["init", "--device", DEVICE, "--group", GROUP, "--component", COMPONENT, "--enable"]
    said = host.run("fleetfoot-agent", *init, "--broker", "mqtt://127.0.0.1")
    assert "in fleet testfleet, root version 1" in said
    device = Device(host, lab.shop)
    host.path("/etc/kiosk.conf").write_text("kept")
    host.path("/etc/systemd/system/kiosk-drain.service").write_text(DRAIN)
    device.configure(window=3.0, settle=0.1, component=OWNERS)
    host.run("systemctl", "enable", UNIT)
    device.install(lab.shop.release("1.0.0"))
    assert "fleetfoot-worker.path is active" in "".join(findings(host))
    # Upgraded while a version is on trial: it is judged all the same, the courier is new, nothing is lost.
    bundle = lab.shop.release("1.1.0")
    device.order(lab.shop.order(bundle), bundle)
    until(lambda: (r := device.record()) is not None and r.state is Lifecycle.PROBATION, "it is on trial")
    host.run("systemctl", "start", "fleetfoot-courier.service")
    pids = [device.unit("MainPID"), host.show("fleetfoot-courier.service", "MainPID")]
    key = host.path("/var/lib/fleetfoot/worker/device.key").read_bytes()
    host.run("dpkg", "-i", bring(host, newer(package, tmp_path)))
    assert device.unit("MainPID") == pids[0]
    assert host.show("fleetfoot-courier.service", "MainPID") != pids[1]
    assert host.path("/var/lib/fleetfoot/worker/device.key").read_bytes() == key
    device.await_runs(bundle)
    assert host.path("/var/tmp/drained").exists()
    assert "hook@kiosk-drain.service" in host.run("systemctl", "list-units", "--all", "fleetfoot-hook@*")
    # Purged: the component stays its owner's and can start without guard and note.
    said = host.run("dpkg", "--purge", "fleetfoot-agent")
    assert "installed components stay in /opt/fleetfoot" in said
    host.run("systemctl", "restart", UNIT)
    until(lambda: device.unit("ActiveState")["ActiveState"] == "active", "it runs without the agent")
    left = host.run("sh", "-c", "find /etc /usr/lib /usr/bin /var/lib /run -name '*fleetfoot*' | sort")
    assert left.splitlines() == []
    assert "fleetfoot" not in host.run("systemctl", "cat", UNIT, "kiosk-drain.service").replace(
        "/opt/fleetfoot", ""
    )


def test_the_page_about_installing_can_be_pasted_on_a_device_without_a_network(
    lab: Lab, bare: Host, package: Path
) -> None:
    """The `sh` blocks of docs/systemd.md, in their order, by root in a home that nobody else may enter."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "docs/systemd.md").read_text(), re.DOTALL | re.MULTILINE
    )
    script = "".join(blocks)
    # What differs here: the machine's own package, a program that is a shell script, and less patience.
    for named, here in (
        ("./fleetfoot-agent_0.1.0_amd64.deb", f"./{package.name}"),
        ("Type=notify\n", "Type=notify\nNotifyAccess=all\n"),
        ("""'unit = "kiosk.service"'""", """'unit = "kiosk.service"\nwindow = 1'"""),
        ("fleetfoot-agent doctor\n", "fleetfoot-agent doctor || echo doctor $?\n"),
    ):
        assert named in script, named
        script = script.replace(named, here)
    home = bare.path("/root")
    home.chmod(0o700)
    shutil.copyfile(package, home / package.name)
    bundle = lab.shop.release("1.0.0")
    shutil.copytree(bundle.path, home / "kiosk-1.0.0")
    (home / "page").write_text(f"set -ex\n{script}")
    said = bare.run("bash", "-c", "cd; . ./page")
    assert "fleetfoot-agent adopt UNIT --component kiosk" in said  # what `init` says comes next
    assert "kiosk 1.0.0 is installed and healthy" in said
    assert "kiosk: runs 1.0.0" in said
    # All is well but for the broker, which is nobody's.
    assert re.findall(r"^problem +(\S+)", said, re.MULTILINE) == ["broker"]
    assert said.rstrip().endswith("doctor 1")
    device = Device(bare, lab.shop)
    assert device.runs(bundle)
    assert device.unit("Wants")["Wants"].count("fleetfoot-guard@kiosk.service") == 1


def test_nothing_on_the_device_replaces_the_embedded_root(
    lab: Lab, bare: Host, package: Path, tmp_path: Path
) -> None:
    host = bare
    host.run("dpkg", "-i", bring(host, package))
    thief = House(tmp_path)
    host.path("/tmp/thief.json").write_bytes(thief.root_envelope)
    shutil.copytree(thief.release("1.0.0").path, host.path("/tmp/stolen"))
    init = ["init", "--device", DEVICE, "--group", GROUP, "--component", COMPONENT, "--enable"]
    said = host.run("fleetfoot-agent", *init, "--broker", "mqtt://127.0.0.1", "--root", "/tmp/thief.json")
    assert "/tmp/thief.json is ignored: the package embeds the root of its fleet" in said
    # Not by what lies in the worker's folder, and not by a configuration that names another folder.
    for folder in ("/var/lib/fleetfoot", "/srv/elsewhere"):
        host.run("sh", "-ec", f"mkdir -p {folder}; cp -an /var/lib/fleetfoot/. {folder}/")
        host.path(f"{folder}/worker/root.json").write_bytes(thief.root_envelope)
        text = CONFIG.format(window=0.5, settle=0.1).replace("[broker]", f'state_dir = "{folder}"\n[broker]')
        host.path("/etc/fleetfoot/agent.toml").write_text(text)
        host.path(f"/etc/systemd/system/{UNIT}").write_text(UNIT_FILE.format(unit="", service=""))
        host.run("systemctl", "daemon-reload")
        host.run("fleetfoot-agent", "worker", check=False)
        status = json.loads(host.path(f"{folder}/spool/out/status.json").read_bytes())
        assert status["alarms"] == ["upgrade_root_refused"]
        assert any("ignored: root 1 of fleet testfleet does not follow" in text for text in findings(host))
        refused = host.run("fleetfoot-agent", "install", "/tmp/stolen", check=False)
        assert "code: upgrade_" in refused
        assert "no release key" in refused or "signature" in refused, refused

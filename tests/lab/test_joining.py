"""A device set up by hand as the pages say: `systemd/install`, a token, the owner's unit, a real manager."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.test_identities import GROUP, House, opened
from tests.lab.conftest import Lab
from tests.lab.device import GOOD, Device, Shop
from tests.lab.host import Host
from tests.lab.layers import ROOT
from tests.manager.realm import Realm
from tests.support.waiting import until

from fleetfoot_protocol import keys
from fleetfoot_protocol.trust import TrustRoot

pytestmark = [pytest.mark.needs("lab"), pytest.mark.needs("mosquitto"), pytest.mark.timeout(300)]

NAME = "oven-07"
#: Where the pages are walked: the home of the one who installs.
HOME = "/root"
#: What `systemd/install` puts, which the lab's layers have put already.
PUT = "/usr/lib/systemd/system/fleetfoot-* /usr/lib/sysusers.d/fleetfoot.* /usr/lib/tmpfiles.d/fleetfoot.*"


class RealmShop(Shop):
    """Releases that the fleet of a real manager trusts."""

    def __init__(self, folder: Path, realm: Realm) -> None:
        self._realm = realm
        super().__init__(folder)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        secret = self._realm.secrets["release"]
        form = {"kind": "fleetfoot-key", "public": keys.public_of(secret).hex(), "secret": secret.hex()}
        key = self.folder / "release.key"
        key.write_text(json.dumps(form))
        key.chmod(0o600)

    @property
    def root(self) -> TrustRoot:
        return self._realm.root


@pytest.fixture
def machine(lab: Lab) -> Iterator[Host]:
    """A host with the program and nothing else of ours; the checkout lies in root's home."""
    host = lab.host()
    try:
        host.format()
        host.boot()
        host.run("sh", "-c", f"rm {PUT}; chmod 700 {HOME}")
        shutil.copytree(ROOT / "systemd", host.path(f"{HOME}/systemd"))
        yield host
    finally:
        host.remove()


def page() -> str:
    """What docs/systemd.md says to do either way, as it stands there."""
    text = (ROOT / "docs/systemd.md").read_text()
    _, *blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    script = "".join(blocks)
    for named, here in (
        ("Type=notify\n", "Type=notify\nNotifyAccess=all\n"),
        ("""'unit = "kiosk.service"'""", """'unit = "kiosk.service"\nwindow = 1'"""),
    ):
        assert named in script, named
        script = script.replace(named, here)
    return f"set -ex\n{script}"


def join(host: Host, house: House, folder: Path) -> None:
    shop = RealmShop(folder / "shop", house.realm)
    device = Device(host, shop)
    # docs/systemd.md, by hand, and docs/identities.md, a device joins.
    host.run("sh", "-ec", "cd; sh systemd/install")
    host.path(f"{HOME}/token.txt").write_text(house.token())
    said = host.run(
        "sh", "-c", f"cd; fleetfoot-agent enroll token.txt --device {NAME} --component kiosk --enable"
    )
    assert f"device {NAME} of group {GROUP} is enrolled" in said
    assert "fleetfoot-agent adopt UNIT --component kiosk" in said  # what comes next
    first, second = shop.release("1.0.0"), shop.release("1.1.0", GOOD)
    shutil.copytree(first.path, host.path(f"{HOME}/kiosk-1.0.0"))
    host.path(f"{HOME}/page").write_text(page())
    said = host.run("bash", "-c", "cd; . ./page; echo all is well")
    assert said.endswith("all is well\n")  # the doctor ends with 1 if there is a problem
    assert device.runs(first)
    # It has an identity, and is steered by its manager.
    house.ask("release", "publish", str(second.path))
    house.ask("device", "upgrade", NAME, "kiosk", "1.1.0")
    device.await_runs(second)

    def told() -> bool:
        shown = house.ask("device", "show", NAME)
        return bool(shown["components"]["kiosk"]["version"] == "1.1.0")

    until(told, "its manager knows what it runs")


def test_the_pages_lead_from_a_bare_machine_to_a_device_that_its_manager_steers(
    machine: Host, tmp_path: Path
) -> None:
    def walk() -> None:
        with opened(tmp_path) as house:
            join(machine, house, tmp_path)

    machine.within_network(walk)

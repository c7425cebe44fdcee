"""The root that a package embeds: nothing on the device replaces it but the chain that begins with it."""

from pathlib import Path

import pytest
from tests.support.fleet import House

from fleetfoot_agent.cli import main as agent
from fleetfoot_agent.enrol import asking
from fleetfoot_agent.worker import memory, rooting
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_protocol import dsse, enrolment
from fleetfoot_protocol.enrolment import Admission, Token
from fleetfoot_protocol.errors import FleetfootError


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def second(house: House) -> bytes:
    """Root 2 of the fleet."""
    out = house.folder / "root.2.json"
    words = ["--root", str(house.root_path), "--root-key", str(house.folder / "root.key")]
    assert fleetfoot(["trust", "rotate", *words, "--remove-operator", "alice", "--out", str(out)]) == 0
    return out.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, house: House, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worker's folder on a device whose package embeds root 1."""
    monkeypatch.setattr(rooting, "EMBEDDED", tmp_path / "embedded.json")
    rooting.EMBEDDED.write_bytes(house.root_envelope)
    worker = tmp_path / "worker"
    worker.mkdir()
    memory.make_key(worker / "device.key")
    return worker


def test_trust_begins_with_the_embedded_root_and_follows_its_chain(folder: Path, second: bytes) -> None:
    device = Memory(folder)
    assert (device.root.version, device.root_ignored) == (1, "")
    device.advance(second, 1_700_000_000)
    again = Memory(folder)
    assert (again.root.version, again.root_ignored) == (2, "")


def test_another_fleets_root_in_the_folder_is_ignored_and_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thief").mkdir()
    thief = House(tmp_path / "thief")
    (folder / "root.json").write_bytes(thief.root_envelope)
    found = rooting.find(folder)
    assert found.root.version == 1
    assert found.root != thief.root
    assert "does not follow from the root that the package embeds" in found.ignored
    assert Memory(folder).root == found.root
    assert (folder / "root.json").read_bytes() == thief.root_envelope  # the trace is left


def test_a_later_root_without_its_link_is_ignored_until_it_is_reached(folder: Path, second: bytes) -> None:
    (folder / "root.json").write_bytes(second)
    device = Memory(folder)
    assert device.root.version == 1
    assert device.root_ignored
    device.advance(second, 1_700_000_000)
    assert (Memory(folder).root.version, Memory(folder).root_ignored) == (2, "")


@pytest.mark.parametrize("link", [b"", b"{}", b"\xff"])
def test_a_torn_link_ends_the_chain_and_nothing_else(folder: Path, link: bytes) -> None:
    (folder / "roots").mkdir()
    (folder / "roots" / "2.json").write_bytes(link)
    assert rooting.find(folder).root.version == 1


def test_a_newer_package_brings_its_root_to_a_device_of_an_older_one(
    folder: Path, house: House, second: bytes
) -> None:
    (folder / "root.json").write_bytes(house.root_envelope)
    rooting.EMBEDDED.write_bytes(second)
    found = rooting.find(folder)
    assert (found.root.version, found.ignored) == (2, "")


def test_enrolling_does_not_begin_with_another_root_than_the_embedded_one(
    folder: Path,
    house: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "thief").mkdir()
    thief = House(tmp_path / "thief")
    token = Token(
        url="https://h", secret="a" * 64, group="ovens", root=dsse.decode(thief.root_envelope).digest
    )
    answer = Admission(
        device="oven-1", group="ovens", certificate="x", ca="x", root=thief.root_envelope.decode(),
        broker="mqtts://broker.example.org", renew_at=1,
    )  # fmt: skip
    monkeypatch.setattr(asking, "ask", lambda *_: answer)
    place = tmp_path / "oven"
    words = ["enroll", enrolment.encode(token), "--dir", str(place), "--device", "oven-1"]
    assert agent([*words, "--component", "kiosk", "--enable"]) == 0
    assert "kept the trust root that was here" in capsys.readouterr().out
    worker = place / "state/worker"
    assert not (worker / "root.json").exists()
    assert rooting.find(worker).root == house.root
    # Nothing embedded: then it is the token that says whom to trust from the beginning.
    rooting.EMBEDDED.unlink()
    words[3] = str(tmp_path / "other")
    assert agent([*words, "--component", "kiosk", "--enable"]) == 0
    assert rooting.find(tmp_path / "other/state/worker").root == thief.root


def test_without_an_embedded_root_the_folder_counts_and_must_have_one(folder: Path, house: House) -> None:
    rooting.EMBEDDED.unlink()
    with pytest.raises(FleetfootError, match="there is no trust root"):
        rooting.find(folder)
    (folder / "root.json").write_bytes(house.root_envelope)
    assert rooting.find(folder).root == house.root

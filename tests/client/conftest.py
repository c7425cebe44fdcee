"""A fleet's keys and root on disk, the command in this process, and a manager that answers by hand."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.rig import BrokerAddress, Fleet, HandManager, Ran, Run

from fleetfoot_client import cli, profiles
from fleetfoot_client.profiles import Profile
from fleetfoot_manager.broker import EmbeddedBroker


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the profiles of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("FLEETFOOT_") or name == "SOURCE_DATE_EPOCH":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEETFOOT_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def fleet(tmp_path: Path, run: Run) -> Fleet:
    """Fleet `kitchens`: two of the release keys a and b must sign; operator alice is its admin."""
    folder = tmp_path / "keys"
    folder.mkdir()
    made = Fleet(folder, tmp_path / "root.json")
    done = run(
        "trust", "init", "--fleet", "kitchens", "--root-key", made.key("root"),
        "--release-key", made.public("a"), "--release-key", made.public("b"), "--release-threshold", 2,
        "--director", made.public("director"), "--operator", f"alice={made.public('alice')}",
        "--out", made.root,
    )  # fmt: skip
    assert done.code == 0, done.err
    return made


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder that can be released."""
    folder = tmp_path / "app"
    (folder / "bin").mkdir(parents=True)
    entrypoint = folder / "bin" / "kiosk"
    entrypoint.write_text("#!/bin/sh\nexec sleep 1000\n")
    entrypoint.chmod(entrypoint.stat().st_mode | stat.S_IXUSR)
    (folder / "data.txt").write_text("something\n" * 1000)
    return folder


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerAddress]:
    with EmbeddedBroker() as embedded:
        host, port = embedded.address
        yield BrokerAddress(f"mqtt://{host}:{port}", host, port)


@pytest.fixture
def manager(fleet: Fleet, broker: BrokerAddress) -> Iterator[HandManager]:
    made = HandManager(fleet, broker)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def profile(fleet: Fleet, broker: BrokerAddress) -> Profile:
    """Operator alice of the fleet, also as the default profile."""
    settings = {
        "broker": broker.url,
        "operator": "alice",
        "key": str(fleet.key("alice")),
        "root": str(fleet.root),
    }
    made = profiles.make("kitchens", settings)
    profiles.save(made, os.environ, default=True)
    return made

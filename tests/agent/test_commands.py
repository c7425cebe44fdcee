"""What a person at the device types: `fleetfoot-agent init`, `install`, `status`, `verify`."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.fleet import House

from fleetfoot_agent import cli
from fleetfoot_agent import config as configuration
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.layout import Layout
from fleetfoot_agent.seam import guard_path
from fleetfoot_agent.supervise import Supervisor
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_protocol import trust

COMPONENT = "kiosk"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("h"))


def agent(*words: str | Path) -> int:
    """The exit status of the command; argparse leaves by SystemExit."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else -1


def asked_of(house: House, *more: str | Path) -> list[str | Path]:
    who = ["--device", "dev-001", "--group", "lab", "--component", COMPONENT]
    return ["init", *who, "--broker", "mqtt://127.0.0.1", "--root", house.root_path, *more]


def read_config(folder: Path) -> AgentConfig:
    return configuration.load(folder / "agent.toml")


def test_init_puts_everything_below_one_folder(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agent(*asked_of(house, "--dir", tmp_path / "d", "--enable", "--label", "site=north")) == 0
    config = read_config(tmp_path / "d")
    folders = [config.state_dir, config.run_dir, config.install_root]
    assert folders == [tmp_path / "d" / name for name in ("state", "run", "opt")]
    assert config.policy.enabled
    assert config.labels == {"site": "north"}
    assert trust.first_root((config.worker_dir / "root.json").read_bytes()).fleet == house.root.fleet
    assert (config.worker_dir / "device.key").stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr().out
    public = json.loads((config.worker_dir / "device.pub").read_text())["public"]
    assert f"fleetfoot device enroll --id dev-001 --group lab --key {public}" in said
    for command in ("supervise", "install", "run"):
        assert f"fleetfoot-agent {command} --config {tmp_path / 'd' / 'agent.toml'}" in said


def test_init_overwrites_nothing(house: House, tmp_path: Path) -> None:
    assert agent(*asked_of(house, "--dir", tmp_path / "d", "--no-enable")) == 0
    before = (tmp_path / "d/state/worker/device.key").read_bytes()
    assert agent(*asked_of(house, "--dir", tmp_path / "d", "--no-enable")) == 1
    assert (tmp_path / "d/state/worker/device.key").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("no answer", []),
        ("broker", ["--enable", "--broker", "127.0.0.1"]),
        ("device", ["--enable", "--device", "Dev 1"]),
        ("label", ["--enable", "--label", "site"]),
    ],
)
def test_init_makes_nothing_of_a_wrong_option(
    house: House,
    tmp_path: Path,
    option: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert agent(*asked_of(house, "--dir", tmp_path / "d", *words)) == 2, option
    assert "what to do: " in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_init_leaves_no_key_where_it_may_not_write(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, state = tmp_path / "closed", tmp_path / "state"
    closed.mkdir(mode=0o500)
    # Root may write everywhere: for the case of everybody else it must be told that it may not.
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and may(path, mode))
    words = asked_of(house, "--enable", "--config", closed / "agent.toml", "--state-dir", state)
    assert agent(*words) == 1
    error = capsys.readouterr().err
    assert f"you may not write to {closed}" in error
    assert "--dir DIR" in error
    assert not state.exists()


@pytest.fixture
def device(house: House, tmp_path: Path) -> AgentConfig:
    assert agent(*asked_of(house, "--dir", tmp_path / "d", "--no-enable")) == 0
    path = tmp_path / "d" / "agent.toml"
    path.write_text(path.read_text().replace("# window = 120", "window = 0.5\nrestart_delay = 0.05"))
    return read_config(tmp_path / "d")


@pytest.fixture
def supervisor(device: AgentConfig) -> Iterator[Supervisor]:
    supervisor = Supervisor(device.install_root / COMPONENT, device.components[COMPONENT], guard_path())
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def bundle(house: House, version: str) -> Path:
    """A release whose program only stays, so that nobody needs a port."""
    folder = house.folder / "dist" / f"{COMPONENT}-{version}"
    if folder.exists():
        return folder
    program = house.folder / "stay" / version / "bin" / "stay"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho {version}\nexec sleep 1000000\n")
    program.chmod(0o755)
    build = ["release", "build", str(program.parent.parent), "--component", COMPONENT, "--version", version]
    assert fleetfoot([*build, "--entrypoint", "bin/stay", "--out", str(folder.parent)]) == 0
    assert fleetfoot(["release", "sign", str(folder), "--key", str(house.folder / "release.key")]) == 0
    return folder


def test_without_a_supervisor_nothing_is_unpacked_and_the_remedy_says_what_to_start(
    house: House, device: AgentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agent("install", "--config", device.path, bundle(house, "1.0.0")) == 1
    error = capsys.readouterr().err
    assert "code: supervisor_failed" in error
    assert f"start it: fleetfoot-agent supervise --config {device.path}" in error
    assert Layout(device.install_root, COMPONENT).installed() == []


def test_a_first_try_that_failed_does_not_make_the_second_one_wait(
    house: House, device: AgentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle that was copied only in part fails transiently: when to try again is the person's choice."""
    good, torn = bundle(house, "1.0.0"), device.path.parent / "torn"
    torn.joinpath("blobs").mkdir(parents=True)
    torn.joinpath("release.dsse.json").write_bytes((good / "release.dsse.json").read_bytes())
    supervisor = Supervisor(device.install_root / COMPONENT, device.components[COMPONENT], guard_path())
    supervisor.start()
    try:
        assert agent("install", "--config", device.path, torn) == 1
        assert "code: upgrade_download_failed" in capsys.readouterr().err
        assert agent("install", "--config", device.path, good) == 0
    finally:
        supervisor.stop()
    assert "kiosk 1.0.0 is installed and healthy" in capsys.readouterr().out


@pytest.mark.usefixtures("supervisor")
def test_status_and_verify_tell_what_is_installed(
    house: House, device: AgentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agent("status", "--config", device.path) == 1
    assert "code: not_found" in capsys.readouterr().err
    assert agent("install", "--config", device.path, bundle(house, "1.0.0")) == 0
    said = capsys.readouterr().out
    assert "kiosk 1.0.0: probation, 0.5 s" in said
    assert agent("status", "--config", device.path) == 0
    said = capsys.readouterr().out
    assert "kiosk: runs 1.0.0  way back none  · idle\n" in said
    assert f"log {device.install_root / COMPONENT / 'log'}" in said
    assert agent("verify", "--config", device.path) == 0
    assert capsys.readouterr().out.startswith(f"ok  {COMPONENT} 1.0.0-")
    program = next((device.install_root / COMPONENT / "versions").glob("1.0.0-*/bin/stay"))
    program.write_text(program.read_text() + "# changed\n")
    assert agent("verify", "--json", "--config", device.path) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert "upgrade_tree_mismatch" in found["trees"][0]["problem"]


def test_a_bundle_of_other_keys_is_refused_with_the_status_of_trust(
    house: House, device: AgentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    other = House(tmp_path / "other")
    assert agent("install", "--config", device.path, bundle(other, "1.0.0")) == 5
    assert "code: upgrade_signature_invalid" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["frobnicate"], ["install"], ["init"], ["check", "--nope"]])
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert agent() == agent(*words) == 2
    command = "".join(f" {word}" for word in words[:1] if word != "frobnicate")
    assert f"\ncode: usage\nwhat to do: see 'fleetfoot-agent{command} --help'" in capsys.readouterr().err
    assert agent(*words, "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_what_is_not_there_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agent("status", "--config", tmp_path / "agent.toml") == 2
    assert agent("status", "--json", "--config", tmp_path / "agent.toml") == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "config_invalid"
    assert captured.err.count("what to do: ") == 1
    assert agent("--version") == 0
    assert capsys.readouterr().out.startswith("fleetfoot-agent ")


def test_a_second_courier_is_refused(device: AgentConfig, capsys: pytest.CaptureFixture[str]) -> None:
    folder = device.spool / "in"
    folder.mkdir(parents=True)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert agent("run", "--config", device.path) == 1
    finally:
        os.close(held)
    error = capsys.readouterr().err
    assert f"another courier works in {folder}" in error
    assert "code: conflict" in error

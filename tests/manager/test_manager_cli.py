"""What `fleetfoot manager` says to a person, and how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from fleetfoot_client.cli import main as fleetfoot


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with a root, a release and an operator's key, in which the commands are given."""
    for name in ("root", "release", "alice"):
        assert fleetfoot(["key", "new", str(tmp_path / f"{name}.key")]) == 0
    capsys.readouterr()
    return tmp_path


def init(folder: Path, *more: str) -> int:
    operator = f"alice={folder / 'alice.key.pub'}"
    return fleetfoot(["manager", "init", "--dir", str(folder / "manager"), "--operator", operator, *more])


def test_every_next_step_of_init_is_a_command_that_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLEETFOOT_CONFIG_DIR", str(folder / "profiles"))
    assert init(folder, "--fleet", "lab") == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  fleetfoot ")]
    trust, run, profile = said
    assert fleetfoot(trust[1:]) == 0
    assert run == ["fleetfoot", "manager", "run", "--dir", str(folder / "manager"), "--root", "root.json"]
    assert fleetfoot(profile[1:]) == 0
    capsys.readouterr()
    assert fleetfoot(["profile", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["operator"]) == ("lab", "alice")


def test_errors_look_and_end_as_those_of_every_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(folder) == 0
    where = str(folder / "manager")
    capsys.readouterr()
    assert fleetfoot(["manager", "run", "--dir", where]) == 2
    error = capsys.readouterr().err
    assert "\ncode: config_invalid\nwhat to do: make one with 'fleetfoot trust init --request " in error
    assert init(folder) == 1
    assert "code: exists_already" in capsys.readouterr().err
    assert fleetfoot(["manager", "status", "--dir", str(folder / "nowhere"), "--json"]) == 78
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "store_refused"


@pytest.mark.parametrize("option", ["--listen", "--artifacts"])
def test_what_faces_the_network_is_bound_to_loopback_only(
    folder: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(folder) == 0
    request = str(folder / "manager" / "root-request.json")
    keys = ["--root-key", str(folder / "root.key"), "--release-key", str(folder / "release.key.pub")]
    root = str(folder / "root.json")
    assert fleetfoot(["trust", "init", "--request", request, *keys, "--out", root]) == 0
    other = {"--listen": "--artifacts", "--artifacts": "--listen"}[option]
    places = [option, "0.0.0.0:0", other, "127.0.0.1:0"]
    assert fleetfoot(["manager", "run", "--dir", str(folder / "manager"), "--root", root, *places]) == 2
    assert "code: unsafe_binding" in capsys.readouterr().err


def test_status_says_what_the_store_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(folder) == 0
    capsys.readouterr()
    assert fleetfoot(["manager", "status", "--dir", str(folder / "manager")]) == 0
    assert capsys.readouterr().out == (
        "manager of fleet fleet: not running, trust root not installed\n"
        "0 devices in 0 groups, 0 online; 0 releases; waiting for the broker: 0 messages\n"
    )


def test_what_makes_and_keeps_a_store_answers_programs_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*words: object) -> dict[str, Any]:
        assert fleetfoot(["manager", *map(str, words), "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    where, copy = folder / "manager", folder / "copy"
    assert init(folder, "--fleet", "lab", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["fleet"], Path(made["request"]).exists(), made["operators"]) == ("lab", True, ["alice"])
    same = answer("migrate", "--dir", where)
    assert same["before"] == same["after"]
    written = answer("backup", "--dir", where, "--out", copy)
    restored = answer("restore", "--dir", folder / "restored", copy)
    assert (restored["fleet"], restored["written"]) == ("lab", written["written"])
    assert fleetfoot(["manager", "restore", "--dir", str(folder / "other"), str(folder / "missing")]) == 1
    assert "code: io_error" in capsys.readouterr().err


def test_an_operators_name_is_that_of_the_key_file_unless_another_is_given(folder: Path) -> None:
    where = folder / "named"
    assert (
        fleetfoot(["manager", "init", "--dir", str(where), "--operator", str(folder / "alice.key.pub")]) == 0
    )
    assert list(json.loads((where / "root-request.json").read_text())["operators"]) == ["alice"]


def test_without_a_folder_the_managers_state_is_where_users_keep_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    assert fleetfoot(["manager", "init", "--operator", str(folder / "alice.key.pub")]) == 0
    assert (folder / "data" / "fleetfoot" / "manager" / "root-request.json").exists()

"""The agent as a payload: bound to libc and ABI, the same bytes again, and running wherever it lies."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleetfoot_client import agent_payload
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_protocol.documents import Release, read
from fleetfoot_protocol.dsse import decode


def built(out: Path, *options: str) -> Release:
    assert fleetfoot(["release", "build-agent", "--out", str(out), *options]) == 0
    (path,) = out.iterdir()
    return read(Release, decode((path / "release.dsse.json").read_bytes()).payload)


def test_it_names_what_it_is_bound_to_and_is_the_same_again(tmp_path: Path) -> None:
    release = built(tmp_path / "one", "--version", "0.9.1")
    (artifact,) = release.artifacts
    assert (release.component, release.version) == ("fleetfoot-agent", "0.9.1")
    assert artifact.libc in ("glibc", "musl")
    assert artifact.abi == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert artifact.entrypoint == "bin/fleetfoot-agent"
    assert built(tmp_path / "two", "--version", "0.9.1") == release


def test_it_runs_where_it_was_moved_to_and_knows_its_version(tmp_path: Path) -> None:
    tree = agent_payload.lay(tmp_path / "made", version_of_release="0.9.2")
    moved = tmp_path / "some where else"
    shutil.move(tree, moved)
    launcher = moved / agent_payload.ENTRYPOINT
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    # Where the tests run, the interpreter may lie anywhere.
    launcher.write_text(launcher.read_text().replace(f"/usr/bin/{python}", sys.executable))
    command = [str(launcher), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]})
    assert done.stdout == "fleetfoot-agent 0.9.2\n", done.stderr
    packages = {path.name for path in (moved / "site").iterdir() if path.is_dir()}
    assert {"fleetfoot_agent", "fleetfoot_protocol", "pydantic", "nacl", "paho"} <= packages
    assert {"fleetfoot_client", "fleetfoot_manager", "amqtt", "pytest"}.isdisjoint(packages)


def test_another_interpreter_is_named_when_it_is_missing(tmp_path: Path) -> None:
    launcher = agent_payload.lay(tmp_path / "made") / agent_payload.ENTRYPOINT
    launcher.write_text(launcher.read_text().replace(f"python{sys.version_info[0]}.", "python9."))
    done = subprocess.run([str(launcher), "--version"], capture_output=True, text=True)
    assert done.returncode == 127
    assert "this version needs python9." in done.stderr


def test_json_says_what_was_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleetfoot(["release", "build-agent", "--out", str(tmp_path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["component"] == "fleetfoot-agent"
    assert value["version"] == agent_payload.version()

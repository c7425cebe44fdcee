"""The roads of README and getting-started: every block marked `sh` there, pasted in order into one shell.

Real processes, a real broker, on loopback. The only words that are changed are the two ports, so that
nobody's broker is in the way, and two times, of probation and between starts, so that the test is quicker.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.waiting import until

from fleetfoot_sim.devices import free_ports

#: A road takes half a minute or one; longer where the machine has other things to do.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Beside each command that fails: what a person would see in `$?`.
_TRAP = """trap 'printf "%s\\t%s\\n" "$?" "$BASH_COMMAND" >> "$FAILURES"' ERR\n"""
SECONDS = 280


@dataclass(frozen=True)
class Walk:
    """What became of a road: its output, its failed commands with their statuses, where it was walked."""

    out: str
    failures: list[tuple[int, str]]
    folder: Path

    def json(self, *words: str) -> object:
        """What a `fleetfoot` command says about it afterwards."""
        command = [str(Path(sys.executable).with_name("fleetfoot")), *words, "--json"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)


def road(page: str) -> str:
    """The commands of a page as one script, on free ports and at a quicker pace."""
    blocks = _BLOCK.findall((ROOT / page).read_text("utf-8"))
    assert blocks, f"{page} has no commands"
    script = "".join(blocks)
    assert "127.0.0.1:1883" in script
    assert "127.0.0.1:8090" in script
    assert "window = 5/" in script
    script = script.replace("window = 5/", r"window = 2\nrestart_delay = 0.2/")
    broker, artifacts = free_ports(2)
    return script.replace(":1883", f":{broker}").replace(":8090", f":{artifacts}")


def _running_in(folder: Path) -> list[str]:
    """Command lines of processes that have to do with the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if str(folder) in words or where.startswith(str(folder)):
                found.append(words)
    return found


def _end(shell: subprocess.Popen[str]) -> None:
    """End the shell and all that it started: it leads their group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(shell.pid, number)
        except ProcessLookupError:
            break
        try:
            shell.wait(20)
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Walk the road of the page that the test names."""
    # Short names: sockets lie below.
    folder = tmp_path_factory.mktemp("w")
    (folder / ".venv").symlink_to(sys.prefix)
    failures = folder / "failures"
    failures.touch()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "TMPDIR": str(folder),
        "FAILURES": str(failures),
        "FLEETFOOT_CONFIG_DIR": str(folder / "config"),
        **{name: value for name, value in os.environ.items() if name == "PYTHONPATH"},
    }
    script = folder / "road.sh"
    script.write_text(_TRAP + road(request.param))
    with (folder / "out").open("w") as out:
        shell = subprocess.Popen(
            ["bash", str(script)], cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        shell.wait(SECONDS)
        lines = [line.split("\t") for line in failures.read_text().splitlines()]
        found = [(int(status), command) for status, command in lines]
        (walked,) = (entry for entry in folder.iterdir() if entry.name.startswith("tmp."))
        until(lambda: not _running_in(folder), f"all has ended: {_running_in(folder)}", seconds=20)
        yield Walk((folder / "out").read_text(), found, walked)
    finally:
        _end(shell)
        for log in (folder / "out", *folder.glob("tmp.*/**/*.log")):
            print(f"--- {log}\n{log.read_text(errors='replace')}")


def outcomes(walk: Walk, manager: str = "manager") -> dict[str, tuple[str, dict[str, int]]]:
    """Version -> how its rollout ended and how many devices ended how."""
    seen = walk.json("manager", "status", "--dir", manager)
    assert isinstance(seen, dict)
    assert seen["running"] is False
    return {row["version"]: (row["state"], row["counts"]) for row in seen["rollouts"]}


@pytest.mark.parametrize("walk", ["README.md"], indirect=True)
def test_the_road_of_the_readme_leads_where_it_says(walk: Walk) -> None:
    assert walk.failures == [(3, 'fleetfoot rollout watch "$ROLLOUT"')], walk.out
    assert outcomes(walk) == {
        "1.1.0": ("completed", {"healthy": 1}),
        "1.2.0": ("rolled_back", {"rolled_back": 1}),
    }
    current = os.readlink(walk.folder / "oven-1/opt/hello/current")
    assert current.startswith("versions/1.1.0-")
    for said in (
        "hello 1.0.0 is installed and healthy",
        "verified by root 1 of fleet bakery",
        "hello 1.1.0  completed",
        "tripped (1 failed in wave 1, limit 1)",
        "code        upgrade_boot_failed (error)",
        "hello, this is version 1.2.0",
        "used up its 3 starts, current is back at versions/1.1.0-",
        f"ok  hello {current.removeprefix('versions/')} (current)",
    ):
        assert said in walk.out


@pytest.mark.parametrize("walk", ["docs/getting-started.md"], indirect=True)
def test_getting_started_leads_where_it_says(walk: Walk) -> None:
    verify, watch, decide = walk.failures
    assert verify == (5, "fleetfoot release verify dist/hello-1.0.0 --root root.json"), walk.out
    assert watch == (3, 'fleetfoot rollout watch "$ROLLOUT"'), walk.out
    assert decide == (1, 'fleetfoot rollout decide "$ROLLOUT" rollback --profile bob'), walk.out
    found = outcomes(walk)
    assert found["1.1.0"] == ("completed", {"healthy": 3})
    state, counts = found["1.2.0"]
    assert (state, counts["rolled_back"], sum(counts.values())) == ("rolled_back", 1, 2)
    # The grill came later, by the baseline: in the rollout it stays what it was.
    assert found["1.3.0"] == ("completed", {"healthy": 2, "silent": 1})
    for device in ("oven-1", "oven-2", "grill-1"):
        assert os.readlink(walk.folder / device / "opt/hello/current").startswith("versions/1.3.0-")
    assert "bob has no right to start, resume, decide, cancel in group ovens" in walk.out
    assert "? silent" in walk.out

"""The rows of the catalogue about what a new version does once it is started, under the real supervisor."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.attack.rows import row
from tests.attack.victim import Victim
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_protocol import trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Outcome
from fleetfoot_sim import kiosk

WINDOW = 1.5
SAYS_READY = f"""{sys.executable} -I -c '
import os, socket
there = os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", there)'
"""
RUNS = "exec sleep 1000"


def app(victim: Victim, script: str, version: str | None = None) -> Bundle:
    """A signed release whose program is this script, offered to the device."""
    version = version or victim._next_version()
    tree, out = victim.folder / "apps" / f"sh-{version}", victim.folder / "dist"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "app").write_text(f"#!/bin/sh\n{script}\n")
    (tree / "bin" / "app").chmod(0o755)
    build = ["release", "build", str(tree), "--component", kiosk.COMPONENT, "--version", version]
    assert fleetfoot([*build, "--entrypoint", "bin/app", "--out", str(out)]) == 0
    path = out / f"{kiosk.COMPONENT}-{version}"
    assert fleetfoot(["release", "sign", str(path), "--key", str(victim.folder / "release.key")]) == 0
    envelope = (path / "release.dsse.json").read_bytes()
    release, digest = trust.verify_release(envelope, victim.house.root)
    return victim.serve(Bundle(path, release, digest, envelope))


@contextmanager
def running(folder: Path, script: str = RUNS, **component: Any) -> Iterator[tuple[Victim, Bundle]]:
    """A device that runs this script as 1.0.0."""
    facts = {"checks": (), "window": WINDOW, "settle": 0.2, "restart_delay": 0.1, "max_boot_attempts": 2}
    victim = Victim(folder, **{**facts, **component})
    victim.device.power_on()
    try:
        first = app(victim, script, "1.0.0")
        assert victim.device.install(first.path) == 0
        victim.device.connect()
        until(lambda: victim.runs(first), "the device reports 1.0.0")
        yield victim, first
    finally:
        victim.close()


def comes_back(victim: Victim, first: Bundle, bad: Bundle, code: Code) -> None:
    """Every clause of RB: the old one runs, well, in time; the digest is refused; told once."""
    victim.order(bad)

    def outcomes() -> list[tuple[Outcome, str]]:
        found = victim.component()
        return [(o.outcome, o.code) for o in found.outcomes if o.digest == bad.digest] if found else []

    until(outcomes, "the device tells the end", seconds=2 * WINDOW + 20)
    assert outcomes() == [(Outcome.ROLLED_BACK, code)]
    until(lambda: victim.runs(first), "the old version runs")
    state = victim._seam.state()
    assert state.active
    assert (state.target or "").startswith("versions/1.0.0-")
    found = victim.component()
    assert found is not None
    assert found.refused == {bad.digest: 1}
    until(lambda: victim.began(bad, "rolled_back"), "it is told")
    assert sum(e["type"].endswith("upgrade_rolled_back") for e in victim.events(bad)) == 1
    assert victim.layout.read_trial() is None


@row(61, "a new version that exits with 1", "the old one runs again, healthy; refused by digest; told once")
def test_row_61_a_version_that_exits_is_left(tmp_path: Path) -> None:
    with running(tmp_path) as (victim, first):
        comes_back(victim, first, app(victim, "exit 1"), Code.UPGRADE_BOOT_FAILED)
        good = app(victim, RUNS)
        victim.install(good)


@row(62, "a new version that hangs before it is ready", "the old one runs again after the window; refused")
def test_row_62_a_version_that_never_gets_ready_is_left(tmp_path: Path) -> None:
    with running(tmp_path, SAYS_READY + RUNS, notify=True) as (victim, first):
        comes_back(victim, first, app(victim, RUNS), Code.UPGRADE_HEALTH_FAILED)


@row(
    63, "a new version that is ready, and dies inside its window", "the old one runs again; refused by digest"
)
def test_row_63_a_version_that_dies_inside_its_window_is_left(tmp_path: Path) -> None:
    with running(tmp_path, SAYS_READY + RUNS, notify=True, window=4.0) as (victim, first):
        comes_back(victim, first, app(victim, SAYS_READY + "sleep 1; exit 3"), Code.UPGRADE_BOOT_FAILED)


@row(
    63,
    "a new version that dies after its window",
    "an alarm, no return; the alarm ends when it stays up again",
)
def test_row_63_a_version_that_dies_after_its_window_is_an_alarm_and_stays(tmp_path: Path) -> None:
    with running(tmp_path) as (victim, _):
        dies = app(victim, "exec sleep 1000")
        victim.install(dies)
        pid = victim.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: Code.UPGRADE_BOOT_FAILED in alarms(victim), "the alarm")
        until(lambda: victim.pid() not in (None, pid), "it was started again")
        assert victim.runs(dies)  # never rolled back
        found = victim.component()
        assert found is not None
        assert found.refused == {}
        told = [e for e in victim.director.events("g-one", "dev-001") if e["type"].endswith(".alarm")]
        assert [e["errorcode"] for e in told] == [Code.UPGRADE_BOOT_FAILED]


def alarms(victim: Victim) -> tuple[str, ...]:
    status = victim.status()
    return status.alarms if status else ()


@row(
    65, "a new version that breaks the previous one too", "bounded tries, an alarm that both are bad, no loop"
)
def test_row_65_when_both_versions_are_bad_it_ends_with_an_alarm(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with running(tmp_path, f"test -e {broken} && exit 1; {RUNS}") as (victim, _):
        bad = app(victim, f"touch {broken}; exit 1")
        victim.order(bad)
        until(lambda: Code.UPGRADE_BOTH_BAD in alarms(victim), "the alarm")
        found = victim.component()
        assert found is not None
        assert found.refused == {bad.digest: 1}
        current = victim.layout.read_current()
        assert (current or "").startswith("versions/1.0.0-")
        # A repeated order changes nothing: neither is the bad one tried again, nor does the link move.
        victim.order(bad)
        until(lambda: (c := victim.component()) is not None and c.answered is not None
              and c.answered.code == Code.UPGRADE_REFUSED_BEFORE, "it is refused")  # fmt: skip
        assert victim.layout.read_current() == current
        assert sum(e["type"].endswith("rollback_failed") for e in victim.events(bad)) == 1
        broken.unlink()
        victim.install(app(victim, RUNS))
        until(lambda: Code.UPGRADE_BOTH_BAD not in alarms(victim), "a good version ends the alarm")


@row(70, "a new version that migrates its state and dies", "the old one starts with its own state")
def test_row_70_a_version_that_goes_back_finds_its_own_state(tmp_path: Path) -> None:
    state, seen = tmp_path / "data" / "state", tmp_path / "seen"
    state.mkdir(parents=True)
    (state / "schema").write_text("1")
    old = f"cat {state}/schema >>{seen}; grep -qx 1 {state}/schema || exit 9; {RUNS}"
    with running(tmp_path, old, preserve=(state,)) as (victim, first):
        bad = app(victim, f"echo 2 >{state}/schema; touch {state}/new; exit 1")
        comes_back(victim, first, bad, Code.UPGRADE_BOOT_FAILED)
        assert (state / "schema").read_text() == "1"
        assert not (state / "new").exists()
        assert set(seen.read_text()) == {"1"}  # not one start of the old version saw the other's state
        good = app(victim, f"echo 2 >{state}/schema; {RUNS}")
        victim.install(good)
        assert (state / "schema").read_text() == "2\n"
        assert not (victim.layout.folder / "saved").exists()

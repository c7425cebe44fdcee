"""What a running agent finds on its disk, or meets in the midst of an upgrade (catalogue rows 55 to 60)."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.attack.rows import row
from tests.attack.victim import Victim, running
from tests.support.fleet import Bundle
from tests.support.waiting import until

from fleetfoot_agent.spool import wake
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle

STRANGER = 12345


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with running(tmp_path_factory.mktemp("victim")) as victim:
        yield victim


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below the folder with mode, size and time of change; logs grow by themselves."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(base, name)
            if not name.startswith("log"):
                facts = os.lstat(path)
                found[path] = (facts.st_mode, facts.st_size if name in files else 0, facts.st_mtime_ns)
    return found


def trees(victim: Victim) -> set[str]:
    """What lies in versions/, to the last file."""
    return {str(path) for path in victim.layout.versions.rglob("*")}


def _current_is_a_folder(current: Path) -> None:
    current.mkdir()
    (current / "precious").write_bytes(b"x")


def _current_dangles(current: Path) -> None:
    current.symlink_to("versions/9.9.9-00000000")


def _current_is_a_strangers(current: Path) -> None:
    current.symlink_to(os.readlink(current.with_name("aside")))  # right in everything else
    os.lchown(current, STRANGER, STRANGER)


def _refused_layout(victim: Victim, spoil: Callable[[Path], None]) -> None:
    bundle = victim.good()
    current, aside = victim.layout.current, victim.layout.folder / "aside"
    before = victim.untouched()
    victim.device.disconnect()
    current.rename(aside)
    spoil(current)
    present = trees(victim)
    victim.device.connect()
    victim.order(bundle)

    def told() -> str:
        found = victim.component()
        return found.last_error.code if found and found.last_error else ""

    until(lambda: told() == Code.UPGRADE_LAYOUT_REFUSED, "the device refuses what it finds")
    assert trees(victim) == present
    assert os.path.lexists(current)
    assert victim.pid() == before.pid
    assert not victim.began(bundle)
    victim.device.disconnect()
    if current.is_dir() and not current.is_symlink():
        shutil.rmtree(current)
    else:
        current.unlink()
    aside.rename(current)
    victim.device.connect()
    victim.obey()


@row(
    55,
    "current is a folder, or leads to a tree that is not there",
    "refused as upgrade_layout_refused, nothing deleted, what runs runs on; mended by hand, it obeys",
)
def test_row_55_a_current_that_is_not_ours_is_refused(victim: Victim) -> None:
    for spoil in (_current_is_a_folder, _current_dangles):
        _refused_layout(victim, spoil)


@row(
    55,
    "current belongs to another user",
    "refused as upgrade_layout_refused, nothing deleted, what runs runs on; mended by hand, it obeys",
)
@pytest.mark.needs("root")
def test_row_55_a_current_of_a_stranger_is_refused(victim: Victim) -> None:
    _refused_layout(victim, _current_is_a_strangers)


@row(
    56,
    "a left-over temporary link, half a tree in staging, half a tree being removed, an orphan beside a tree",
    "cleaned away, and the ordered release is installed",
)
def test_row_56_left_overs_are_cleaned_and_the_order_obeyed(victim: Victim) -> None:
    victim.device.disconnect()
    layout = victim.layout
    left = [
        layout.folder / ".tmp-0000000000000000",
        layout.versions / ".trash-0000000000000000",
        layout.versions / "9.9.9-00000000.release.json",
        layout.staging / "9.9.9-00000000",
    ]
    left[0].symlink_to("versions/9.9.9-00000000")
    for folder in (left[1], left[3]):
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "half").write_bytes(b"half of a pro")
    left[2].write_bytes(b"{}")
    victim.device.connect()
    victim.obey()
    assert not any(os.path.lexists(path) for path in left)


@row(
    57,
    "the journal is empty, garbage, torn, of a future schema, or gone",
    "rebuilt from current; alarm upgrade_journal_rebuilt, which an upgrade heals; the next order obeyed",
)
def test_row_57_a_lost_journal_is_rebuilt(victim: Victim) -> None:
    journal = victim.layout.journal
    whole = journal.read_bytes()
    for content in (b"", bytes(range(256)), whole[: len(whole) // 2], b'{"journal":2,"state":"idle"}', None):
        before = victim.untouched()
        victim.device.disconnect()
        journal.unlink()
        if content is not None:
            journal.write_bytes(content)
        victim.device.connect()
        until(
            lambda: (status := victim.status()) is not None and Code.UPGRADE_JOURNAL_REBUILT in status.alarms,
            "the device tells that its journal was rebuilt",
        )
        after = victim.untouched()
        assert (after.running, after.current, after.pid) == (before.running, before.current, before.pid)
        victim.obey()
        status = victim.status()
        assert status is not None
        assert Code.UPGRADE_JOURNAL_REBUILT not in status.alarms


@row(
    58,
    "a second agent is started while one is at work",
    "it exits with 0 and has written nothing; the wake is left to the first",
)
def test_row_58_a_second_agent_leaves_and_writes_nothing(victim: Victim) -> None:
    config = victim.device.device.config
    victim.device.disconnect()
    bundle = victim.good()
    victim.order(bundle)
    wake(config.wake_dir)
    fd = os.open(config.worker_dir / "worker.lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # the first one
        before = everything(victim.folder / "dev-001")
        command = [sys.executable, "-m", "fleetfoot_agent", "worker", "--config", str(config.path)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert (done.returncode, b"another worker runs" in done.stderr) == (0, True)
        assert everything(victim.folder / "dev-001") == before
    finally:
        os.close(fd)
    victim.device.connect()
    until(lambda: victim.runs(bundle), "the first one goes on")


def _activations(victim: Victim, *bundles: Bundle) -> int:
    return sum(
        event["type"].endswith("upgrade_activated") for bundle in bundles for event in victim.events(bundle)
    )


@row(
    59,
    "a newer order while an older one is being installed, at each of its stages",
    "ends on the newest, with at most two restarts",
)
def test_row_59_a_newer_order_in_the_midst_of_an_install_wins(victim: Victim) -> None:
    for stage in ("started", "downloaded", "staged", "activated"):
        first, second = victim.good(), victim.good()
        victim.order(first)
        until(lambda: victim.began(first, stage), f"{stage}")  # noqa: B023 # called within this round
        victim.install(second)
        assert _activations(victim, first, second) <= 2
        found = victim.component()
        assert found is not None
        assert (found.state, found.running and found.running.digest) == (Lifecycle.IDLE, second.digest)


@row(
    60,
    "many upgrades in a row, so that old versions are removed",
    "the version before the one on trial is whole at every moment until the commit, and kept after it",
)
def test_row_60_the_way_back_survives_until_the_commit(victim: Victim) -> None:
    for _ in range(4):
        previous, bundle = victim.layout.read_current(), victim.good()
        assert previous is not None
        tree = victim.layout.folder / previous
        before = everything(tree)
        victim.order(bundle)
        looks = 0
        while not victim.runs(bundle):
            assert everything(tree) == before
            looks += 1
        assert looks > 0
        assert everything(tree) == before
    assert len(victim.layout.installed()) <= 3

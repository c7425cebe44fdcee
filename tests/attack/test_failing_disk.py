"""A disk that is full or fails under a running agent: while it fetches, unpacks and journals (rows 52, 54).

What the kernel would say is said by `os` to this process alone, for what lies below one folder; what a real
full file system and power cuts do is tried in tests/lab, and every system call in tests/crash.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.attack.rows import row
from tests.attack.victim import Victim, running
from tests.support.waiting import until

from fleetfoot_agent.durable import TEMP_PREFIX
from fleetfoot_agent.spool import wake
from fleetfoot_agent.worker import extract
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Outcome

FULL, FAILS = Code.UPGRADE_DISK_FULL, Code.UPGRADE_IO_ERROR


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with running(tmp_path_factory.mktemp("victim")) as victim:
        yield victim


def place_of(call: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Path:
    """Where a call would act."""
    if call in ("write", "fsync"):
        return Path(os.readlink(f"/proc/self/fd/{arguments[0]}"))
    folder = named.get("dir_fd")
    base = Path(os.readlink(f"/proc/self/fd/{folder}")) if folder is not None else Path.cwd()
    return base / str(arguments[0])


@contextmanager
def failing(calls: tuple[str, ...], number: int, spoiled: Callable[[Path], bool]) -> Iterator[list[Path]]:
    """Let these calls fail where `spoiled` says so. Yields the places at which they did."""
    hit: list[Path] = []

    def failer(call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            makes = call != "open" or arguments[1] & os.O_CREAT
            if makes and spoiled(place := place_of(call, arguments, named)):
                hit.append(place)
                raise OSError(number, os.strerror(number))
            return real(*arguments, **named)

        return act

    with pytest.MonkeyPatch.context() as patch:
        for call in calls:
            patch.setattr(os, call, failer(call, getattr(os, call)))
        yield hit


def below(folder: Path) -> Callable[[Path], bool]:
    """Everything below a folder but temporary files: what says why a blob did not come is small, and fits."""
    real = folder.resolve()
    return lambda place: place.is_relative_to(real) and not place.name.startswith(TEMP_PREFIX)


def refuse_all(victim: Victim, code: str, cases: dict[str, tuple[tuple[str, ...], int, Path]]) -> None:
    for what, (calls, number, folder) in cases.items():
        bundle = victim.good()
        with failing(calls, number, below(folder)) as hit:
            try:
                victim.refuse(bundle, code)
            except AssertionError as error:
                raise AssertionError(f"{what}: {error}") from error
        assert hit, what
        assert not os.listdir(victim.layout.staging), what
    victim.obey()


@row(
    52,
    "no room and no inodes, a quota reached: while blobs are fetched, and while they are unpacked",
    "refused as upgrade_disk_full; nothing left in staging; what runs runs on; the next order obeyed",
)
def test_row_52_a_full_disk_while_fetching_or_unpacking_is_refused(victim: Victim) -> None:
    blobs = victim.device.device.config.spool / "in" / "blob"
    staging = victim.layout.staging
    refuse_all(
        victim,
        FULL,
        {
            "fetching, no room": (("write",), errno.ENOSPC, blobs),
            "fetching, quota": (("write",), errno.EDQUOT, blobs),
            "unpacking, no room": (("write",), errno.ENOSPC, staging),
            "unpacking, quota": (("write",), errno.EDQUOT, staging),
            "unpacking, no inodes": (("mkdir", "open"), errno.ENOSPC, staging),
        },
    )


@row(
    52,
    "no room for the journal, when an order comes",
    "told as upgrade_disk_full; what runs runs on; once there is room the order is obeyed",
)
def test_row_52_a_journal_without_room_begins_nothing(victim: Victim) -> None:
    bundle, before = victim.good(), victim.untouched()
    folder = victim.layout.folder.resolve()
    with failing(("write",), errno.ENOSPC, lambda place: place.parent == folder):
        victim.order(bundle)

        def told() -> str:
            found = victim.component()
            return found.last_error.code if found and found.last_error else ""

        until(lambda: told() == FULL, "the full disk is told")
        assert victim.untouched() == before
        assert not victim.began(bundle)
        assert victim.device.connected
    wake(victim.device.device.config.wake_dir)  # it would look by itself, a minute later
    until(lambda: victim.runs(bundle), "once there is room, the order is obeyed")


@row(
    54,
    "EIO from fsync of a blob, from syncfs of the unpacked tree, from fsync of the folder it is moved to",
    "refused as upgrade_io_error, never told as staged; what runs runs on; the next order obeyed",
)
def test_row_54_a_disk_that_does_not_sync_stages_nothing(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = victim.device.device.config.spool / "in" / "blob"
    refuse_all(victim, FAILS, {"a blob": (("fsync",), errno.EIO, blobs)})

    def sync_fails(folder: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(extract, "sync_tree", sync_fails)
        victim.refuse(victim.good(), FAILS)
    victim.obey()
    _refuse_the_move(victim)


def _refuse_the_move(victim: Victim) -> None:
    """The tree is whole and has its name, which may not outlast a power cut: it counts as not staged."""
    bundle, before = victim.good(), victim.untouched()
    with failing(("fsync",), errno.EIO, below(victim.layout.versions)) as hit:
        victim.order(bundle)
        until(lambda: victim.outcomes(bundle), "the work ends")
        assert victim.outcomes(bundle) == [(Outcome.FAILED, FAILS)]
        after = victim.untouched()
        assert (after.current, after.pid, after.floor) == (before.current, before.pid, before.floor)
        assert not victim.began(bundle, "staged")
        assert hit
    victim.obey()

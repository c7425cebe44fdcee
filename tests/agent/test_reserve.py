"""The room that is kept in the spool, so that it can be said when there is no other."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Rig, hurry, running
from tests.support.fleet import everybody

from fleetfoot_agent import durable
from fleetfoot_agent.spool import BlobState, CourierSide, reserve
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hurry(monkeypatch)
    return running(tmp_path, stock)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".reserve-*"))


def full_until_given(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int = errno.ENOSPC) -> None:
    """Nothing can be written below `folder` while its reserve is there."""
    real: Callable[..., None] = durable.write_file

    def write(path: Path, *rest: Any) -> None:
        if folder in path.parents and kept(folder):
            raise OSError(number, os.strerror(number))
        real(path, *rest)

    monkeypatch.setattr(durable, "write_file", write)


def test_it_is_given_for_want_of_room_alone_and_kept_again(tmp_path: Path) -> None:
    reserve.keep(tmp_path)
    names = kept(tmp_path)
    assert len(names) > 4
    assert sum((tmp_path / name).stat().st_size for name in names) >= 64 * 1024
    assert not reserve.give(tmp_path, OSError(errno.EIO, "broken"))
    assert kept(tmp_path) == names
    assert reserve.give(tmp_path, OSError(errno.EDQUOT, "quota"))
    assert kept(tmp_path) == []
    assert not reserve.give(tmp_path, OSError(errno.ENOSPC, "full"))  # whoever asks again gets no second try
    reserve.keep(tmp_path)
    assert kept(tmp_path) == names


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_courier_can_say_on_a_full_disk_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    spool = CourierSide(tmp_path)
    full_until_given(monkeypatch, tmp_path / "in", number)
    spool.end_blob(DIGEST, BlobState(0, Code.UPGRADE_DISK_FULL))
    told = spool.read_blob_state(DIGEST)
    assert told is not None
    assert told.error == Code.UPGRADE_DISK_FULL


def test_the_worker_tells_its_status_on_a_full_disk(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = rig.config.spool / "out"
    assert kept(out)
    rig.offer(stock["1.1.0"])
    rig.send(stock.order(2, everybody("r-2", stock["1.1.0"].goal())))
    full_until_given(monkeypatch, out)
    rig.run()
    assert rig.component().answered is not None
    assert rig.status().components["kiosk"].answered.sequence == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("lacks", ["bytes", "files"])
def test_a_download_for_which_there_is_no_room_at_all_is_told(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """The courier could not even write why: the worker must not stay downloading without a word."""
    real = os.statvfs

    def full(path: Path) -> os.statvfs_result:
        found = list(real(path))
        found[4 if lacks == "bytes" else 7] = 1
        return os.statvfs_result(found) if path == rig.config.spool else real(path)

    rig.send(stock["1.1.0"].envelope, f"manifest.{stock['1.1.0'].digest}")
    rig.send(stock.order(2, everybody("r-2", stock["1.1.0"].goal()), mirror="http://127.0.0.1:9/blobs"))
    with monkeypatch.context() as patch:
        patch.setattr("fleetfoot_agent.worker.staging.os.statvfs", full)
        patch.setattr("fleetfoot_agent.worker.platform_facts.free_bytes", lambda *_: 2**40)
        rig.worker().run()
    record = rig.record()
    assert record.state is Lifecycle.IDLE
    assert (record.outcomes[-1].outcome, record.outcomes[-1].code) == (Outcome.FAILED, FULL)
    error = rig.component().last_error
    assert error is not None
    assert error.code == FULL
    assert record.retry is not None  # tried again, when there may be room
    assert record.refused == {}


FULL = Code.UPGRADE_DISK_FULL

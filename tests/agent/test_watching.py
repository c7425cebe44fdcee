"""After the commit: health and files are watched and reported, and nothing is undone."""

import os
import socket
import time
from pathlib import Path

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Rig, hurry, running

from fleetfoot_agent.components import Check
from fleetfoot_agent.worker import checks
from fleetfoot_protocol.codes import Code


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hurry(monkeypatch)
    return running(tmp_path, stock)


def test_what_is_not_well_any_more_is_an_alarm_until_it_is(rig: Rig, stock: Stock, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    sign.touch()
    rig.obey(more=f'checks = [{{kind = "file", path = "{sign}"}}]')
    rig.deliver(2, stock["1.1.0"])
    assert rig.status().alarms == ()
    sign.unlink()
    rig.run()
    assert rig.status().alarms == (Code.UPGRADE_HEALTH_FAILED,)
    assert [check.healthy for check in rig.component().checks] == [False]
    wakes = rig.courier.read_wake_at()
    assert wakes is not None
    assert wakes.wall <= time.time() + 61
    rig.run()
    assert rig.told().count("alarm upgrade_health_failed") == 1
    assert rig.runs(stock["1.1.0"])
    assert rig.record().refused == {}
    sign.touch()
    rig.run()
    assert rig.status().alarms == ()


def test_what_ended_is_an_alarm_and_what_was_started_again_is_one_for_a_while(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    rig.behaviour["1.1.0"] = "dies"
    rig.machine.boot()
    rig.run()
    assert rig.status().alarms == (Code.UPGRADE_BOOT_FAILED,)
    assert rig.record().refused == {}
    del rig.behaviour["1.1.0"]
    rig.machine.boot()
    rig.run()
    assert rig.status().alarms == ()


@pytest.mark.parametrize("change", ["bytes", "mode", "more", "less"])
def test_an_installed_tree_that_changes_is_an_alarm_until_it_is_whole(
    rig: Rig, stock: Stock, change: str
) -> None:
    rig.deliver(2, stock["1.1.0"])
    assert rig.status().alarms == ()
    tree = rig.layout.folder / "current"
    program = next(path for path in sorted(tree.rglob("*")) if path.is_file())
    data, mode = program.read_bytes(), program.stat().st_mode
    more = program.with_name("more")
    if change == "bytes":
        program.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif change == "mode":
        program.chmod(0o700)
    elif change == "more":
        more.write_text("x")
    else:
        program.unlink()
    rig.run()
    assert rig.status().alarms == (Code.UPGRADE_TREE_MISMATCH,)
    rig.run()
    assert rig.told().count("alarm upgrade_tree_mismatch") == 1
    program.write_bytes(data)
    program.chmod(mode)
    more.unlink(missing_ok=True)
    rig.run()
    assert rig.status().alarms == ()


def test_files_that_nobody_touched_are_not_read_again(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.run()
    monkeypatch.setattr("fleetfoot_agent.worker.watching.tree_problem", lambda *_: "read again")
    rig.run()
    assert rig.status().alarms == ()
    later = time.time() + 25 * 3600
    monkeypatch.setattr("fleetfoot_agent.worker.watching.time.time", lambda: later)
    rig.run()
    assert Code.UPGRADE_TREE_MISMATCH in rig.status().alarms


def test_a_check_of_a_port_wants_somebody_who_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert checks.failure(Check("tcp", url=f"127.0.0.1:{port}", timeout=1.0)) is None
    why = checks.failure(Check("tcp", url=f"127.0.0.1:{port}", timeout=1.0))
    assert why is not None
    assert "does not accept" in why


def test_a_check_of_a_file_wants_a_file_that_is_young_enough(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    assert "No such file" in (checks.failure(Check("file", url=str(path))) or "")
    path.mkdir()
    assert "is no file" in (checks.failure(Check("file", url=str(path))) or "")
    path.rmdir()
    path.touch()
    assert checks.failure(Check("file", url=str(path), max_age=60)) is None
    os.utime(path, (0, 0))
    assert "s old" in (checks.failure(Check("file", url=str(path), max_age=60)) or "")
    assert checks.failure(Check("file", url=str(path))) is None

"""Back to the version before, and off the device, by hand and without a network; metrics for monitors."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Machine, Rig, hurry, running
from tests.support.fleet import everybody

from fleetfoot_agent import cli
from fleetfoot_agent.worker.undoing import remove, rollback
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.states import Lifecycle, Outcome


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hurry(monkeypatch)
    found = running(tmp_path, stock)

    def seam_at(path: Path) -> Machine:
        return found.machines[path.stem]

    monkeypatch.setattr("fleetfoot_agent.worker.run.SocketSeam", seam_at)
    monkeypatch.setattr(cli, "load", lambda path, options: found.config)
    return found


def refused(rig: Rig) -> str:
    with pytest.raises(FleetfootError) as caught:
        rollback(rig.config, "kiosk")
    return caught.value.code


def test_a_person_goes_back_and_the_order_that_stands_does_not_undo_it(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    rig.served = False  # there is no network
    assert rollback(rig.config, "kiosk") == 0
    assert rig.runs(stock["1.0.0"])
    assert rig.record().outcomes[-1].outcome is Outcome.COMPLETED
    assert rig.record().refused == {stock["1.1.0"].digest: 1}
    rig.served = True
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert refused(rig) == Code.UPGRADE_NO_WAY_BACK  # not back and forth
    again = stock["1.1.0"].goal(attempt=2)
    rig.send(stock.order(3, everybody("r-2", again)))
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_going_back_is_refused_below_the_floor_and_without_a_way(rig: Rig, stock: Stock) -> None:
    assert refused(rig) == Code.UPGRADE_NO_WAY_BACK
    raised = stock.changed(stock["1.1.0"], min_counter=stock["1.1.0"].release.counter)
    rig.deliver(2, raised)
    assert rig.runs(raised)
    assert refused(rig) == Code.UPGRADE_BELOW_FLOOR
    assert rig.runs(raised)


def test_a_way_back_that_is_not_well_is_left_again(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    rig.behaviour["1.0.0"] = "unready"
    assert refused(rig) == Code.UPGRADE_HEALTH_FAILED
    assert rig.runs(stock["1.1.0"])


def test_without_a_supervisor_or_a_table_nothing_is_changed(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleetfoot_agent.worker.by_hand.SUPERVISOR_SECONDS", 0.0)
    rig.deliver(2, stock["1.1.0"])
    rig.machine.unreachable = True
    before = rig.record()
    assert refused(rig) == "supervisor_failed"
    assert rig.record() == before
    with pytest.raises(FleetfootError, match="not configured"):
        rollback(rig.config, "nobody")


def test_a_component_is_taken_off_only_if_one_says_so_and_its_floor_stays(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    raised = stock.changed(stock["1.1.0"], min_counter=stock["1.1.0"].release.counter)
    rig.deliver(2, raised)
    floor = rig.record().floor
    assert cli.main(["remove", "kiosk"]) == cli.USAGE
    assert "--yes" in capsys.readouterr().err
    assert rig.runs(raised)
    rig.obey(enabled=False)
    assert remove(rig.config, "kiosk") == 0
    assert not rig.machine.state().active
    assert rig.layout.read_current() is None
    assert rig.layout.installed() == []
    found = rig.component()
    assert (found.state, found.running, found.floor) == (Lifecycle.IDLE, None, floor)
    rig.obey()
    rig.run()  # the order stands, and is obeyed
    assert rig.runs(raised)


def test_metrics_say_what_the_status_says(rig: Rig, stock: Stock) -> None:
    path = rig.folder / "fleetfoot.prom"
    rig.config = replace(rig.config, metrics_file=path)
    rig.deliver(2, stock["1.1.0"])
    lines = path.read_text().splitlines()
    assert 'fleetfoot_component_info{component="kiosk",version="1.1.0",state="idle"} 1' in lines
    assert "fleetfoot_upgrades_enabled 1" in lines
    assert not any(line.startswith("fleetfoot_alarm{") for line in lines)
    form = re.compile(r'fleetfoot_[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+]+')
    assert all(line.startswith("# ") or form.fullmatch(line) for line in lines)
    next((rig.layout.folder / "current").rglob("*")).chmod(0o700)
    rig.run()
    assert 'fleetfoot_alarm{code="upgrade_tree_mismatch"} 1' in path.read_text().splitlines()
    # A folder that is not there is no reason to stop anything.
    rig.config = replace(rig.config, metrics_file=rig.folder / "nowhere" / "x.prom")
    rig.deliver(3, stock["1.2.0"])
    assert rig.runs(stock["1.2.0"])

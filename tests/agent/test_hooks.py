"""The owner's programs at the moments of an upgrade, and what a version keeps elsewhere."""

import os
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from tests.agent.stock import Stock, name_of
from tests.agent.superviserig import component as plain_component
from tests.agent.superviserig import runs
from tests.agent.workerrig import Rig, hurry, running
from tests.support.waiting import until

from fleetfoot_agent import saved
from fleetfoot_agent.components import Check, Hook
from fleetfoot_agent.seam import ProgramHook
from fleetfoot_agent.settings import ConfigError
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hurry(monkeypatch)
    return running(tmp_path, stock)


ALL = ("pre-download", "pre-activate", "post-activate", "on-rollback")


def hooks(folder: Path, **scripts: str) -> str:
    """Settings for hooks that note what they were told; a script of a moment says how it ends."""
    program = folder / "hook"
    cases = "\n".join(f"{m.replace('_', '-')}) {s} ;;" for m, s in scripts.items())
    program.write_text(
        f"#!/bin/sh\necho $FLEETFOOT_HOOK $FLEETFOOT_COMPONENT $FLEETFOOT_VERSION "
        f"$(readlink {folder}/opt/kiosk/current) >>{folder}/noted\ncase $FLEETFOOT_HOOK in\n{cases}\nesac\n"
    )
    program.chmod(0o755)
    return "hooks = {" + ", ".join(f'{moment} = ["{program}"]' for moment in ALL) + "}"


def noted(rig: Rig) -> list[list[str]]:
    return [line.split() for line in (rig.folder / "noted").read_text().splitlines()]


def test_hooks_run_at_their_moments_and_are_told_what_is_done(rig: Rig, stock: Stock) -> None:
    rig.obey(more=hooks(rig.folder))
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])
    old, new = (f"versions/{name_of(stock[v])}" for v in ("1.0.0", "1.1.0"))
    assert noted(rig) == [
        ["pre-download", "kiosk", "1.1.0", old],
        ["pre-activate", "kiosk", "1.1.0", old],
        ["post-activate", "kiosk", "1.1.0", new],
    ]
    rig.behaviour["1.2.0"] = "unready"
    rig.deliver(3, stock["1.2.0"])
    assert noted(rig)[-1] == ["on-rollback", "kiosk", "1.2.0", new]
    assert rig.runs(stock["1.1.0"])


@pytest.mark.parametrize("moment", ["pre_download", "pre_activate"])
def test_a_hook_that_fails_before_the_switch_stops_the_work_and_is_tried_again_later(
    rig: Rig, stock: Stock, moment: str
) -> None:
    rig.obey(more=hooks(rig.folder, **{moment: "exit 7"}))
    restarts = rig.machine.restarts
    rig.deliver(2, stock["1.1.0"])
    record = rig.record()
    assert (record.state, record.refused) == (Lifecycle.IDLE, {})
    assert record.last_error is not None
    assert record.last_error.code == Code.UPGRADE_HOOK_FAILED
    assert "exits with 7" in record.last_error.message
    assert rig.machine.restarts == restarts
    assert record.retry is not None  # it says nothing about the release
    assert (moment == "pre_download") == (rig.asked_for == set())


def test_a_hook_that_fails_after_the_switch_is_a_version_that_failed(rig: Rig, stock: Stock) -> None:
    rig.obey(more=hooks(rig.folder, post_activate="exit 1", on_rollback="exit 1"))
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.0.0"])
    outcome = rig.record().outcomes[-1]
    assert (outcome.outcome, outcome.code) == (Outcome.ROLLED_BACK, Code.UPGRADE_HOOK_FAILED)
    # Going back always finishes, whatever the owner's program thinks of it.


def test_a_version_that_the_guard_has_left_gets_no_hook_of_its_own(rig: Rig, stock: Stock) -> None:
    rig.obey(more=hooks(rig.folder))
    rig.behaviour["1.1.0"] = "dies"
    starts = rig.config.components["kiosk"].max_boot_attempts

    def use_up_starts() -> None:
        for _ in range(starts):
            rig.machine.boot()

    rig.machine.before_restart = use_up_starts
    rig.deliver(2, stock["1.1.0"])
    assert [line[0] for line in noted(rig)] == ["pre-download", "pre-activate", "on-rollback"]
    assert rig.record().outcomes[-1].code == Code.UPGRADE_BOOT_FAILED
    assert rig.runs(stock["1.0.0"])


@pytest.mark.parametrize("status", [0, 1])
def test_what_a_hook_does_after_the_guard_went_back_is_undone_too(
    rig: Rig, stock: Stock, status: int
) -> None:
    conf, gone = rig.folder / "conf", rig.folder / "gone"
    conf.write_text("old")
    slow = f"until [ -e {gone} ]; do sleep 0.02; done; echo new >{conf}; exit {status}"
    rig.obey(more=f'{hooks(rig.folder, post_activate=slow)}\npreserve = ["{conf}"]')
    rig.behaviour["1.1.0"] = "dies"
    old = f"versions/{name_of(stock['1.0.0'])}"

    def use_up_starts() -> None:
        until(lambda: noted(rig)[-1][0] == "post-activate", "the hook runs")
        while rig.layout.read_current() != old:
            rig.machine.boot()
        gone.touch()

    guard = Thread(target=use_up_starts)
    rig.machine.before_restart = lambda: None if guard.ident else guard.start()
    rig.deliver(2, stock["1.1.0"])
    guard.join()
    assert rig.record().outcomes[-1].code == Code.UPGRADE_BOOT_FAILED
    assert rig.runs(stock["1.0.0"])
    assert conf.read_text() == "old"


def test_a_hook_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    program = tmp_path / "hook"
    program.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! >{tmp_path}/pid\nwait\n")
    program.chmod(0o755)
    why = ProgramHook([str(program)]).run({}, 1.0)
    assert why is not None
    assert "did not end within 1 s" in why
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not runs(pid), "what it started has ended, too")
    assert "cannot be run" in (ProgramHook([str(tmp_path / "nothing")]).run({}, 1.0) or "")


def test_each_hook_has_its_own_time_or_that_of_all(rig: Rig, stock: Stock) -> None:
    times = "hook_timeout = 7\nhook_timeouts = {pre-download = 0.5, post-activate = 90}"
    slow = f"echo $FLEETFOOT_TIMEOUT >>{rig.folder}/times; sleep 2"
    rig.obey(more=f"{hooks(rig.folder, pre_download=slow, pre_activate=slow)}\n{times}")
    found = rig.config.components["kiosk"].hooks
    assert {moment: hook.timeout for moment, hook in found.items()} == dict(
        zip(ALL, (0.5, 7, 90, 7), strict=True)
    )
    rig.deliver(2, stock["1.1.0"])
    error = rig.record().last_error
    assert error is not None
    assert "pre-download" in error.message
    assert "did not end within 0.5 s" in error.message
    rig.obey(more=f"{hooks(rig.folder, pre_activate=slow)}\n{times}")
    rig.deliver(3, stock["1.1.1"])
    assert rig.runs(stock["1.1.1"])
    assert (rig.folder / "times").read_text().split() == ["0.5", "7"]


def test_a_unit_that_is_run_at_several_moments_may_take_the_longest_time_of_them() -> None:
    used = {
        "pre-activate": Hook(unit="x.service", timeout=30),
        "post-activate": Hook(unit="x.service", timeout=90),
    }
    check = Check("exec", unit="y.service", timeout=2)
    found = replace(plain_component(Path("/run")), hooks=used, checks=(check,))
    assert found.unit_timeouts() == {"x.service": 90, "y.service": 2}


@pytest.mark.parametrize(
    "more",
    [
        "hook_timeouts = {pre-activate = 0}",
        "hook_timeouts = {pre-party = 7}",
        'hooks = {pre-party = ["x"]}',
        'hooks = {pre-activate = "x"}',
        'hooks = {pre-activate = "drain.service"}',  # no unit runs the component
        "hooks = {pre-activate = 7}",
        'hooks = {pre-activate = ["x", 7]}',
        'preserve = ["data"]',
        'preserve = ["/"]',
    ],
)
def test_an_impossible_hook_or_path_is_refused_by_name(rig: Rig, more: str) -> None:
    with pytest.raises(ConfigError, match=r"hook|preserve|only be run where a unit"):
        rig.obey(more=more)


# -- what is set aside


OLD, NEW = "versions/1-aaaaaaaa", "versions/2-bbbbbbbb"


def test_everything_is_put_back_as_it_was_and_only_once(tmp_path: Path) -> None:
    data, conf, none = tmp_path / "x" / "data", tmp_path / "x" / "conf", tmp_path / "x" / "none"
    (data / "sub").mkdir(parents=True)
    (data / "sub" / "file").write_text("old")
    (data / "link").symlink_to("sub/file")
    conf.write_text("old")
    conf.chmod(0o640)
    component = tmp_path / "kiosk"
    component.mkdir()
    saved.set_aside(component, OLD, NEW, (data, conf, none))
    (data / "sub" / "file").write_text("new")
    (data / "more").write_text("new")
    (data / "link").unlink()
    conf.unlink()
    none.write_text("new")
    assert not saved.put_back(component, NEW)  # the new one starts: nothing is touched
    assert none.read_text() == "new"
    saved.set_aside(
        component, OLD, NEW, (data, conf, none)
    )  # again after a crash: not of the new one's state
    assert saved.put_back(component, OLD)
    assert sorted(os.listdir(data)) == ["link", "sub"]
    assert ((data / "sub" / "file").read_text(), os.readlink(data / "link")) == ("old", "sub/file")
    assert (conf.read_text(), conf.stat().st_mode & 0o777) == ("old", 0o640)
    assert not none.exists()
    assert sorted(os.listdir(tmp_path / "x")) == ["conf", "data"]
    conf.write_text("later")
    assert not saved.put_back(component, OLD)
    assert conf.read_text() == "later"


def test_half_a_copy_is_never_put_back(tmp_path: Path) -> None:
    component, conf = tmp_path / "kiosk", tmp_path / "conf"
    conf.write_text("old")
    component.mkdir()
    saved.set_aside(component, OLD, NEW, (conf,))
    (component / saved.FOLDER / saved.TAKEN).unlink()
    conf.write_text("new")
    assert not saved.put_back(component, OLD)
    assert conf.read_text() == "new"


def test_what_does_not_fit_stops_the_work_before_the_switch(
    rig: Rig, stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "size_of", lambda paths: 2**52)
    rig.obey(more=f'preserve = ["{tmp_path}/data"]')
    rig.deliver(2, stock["1.1.0"])
    error = rig.record().last_error
    assert error is not None
    assert error.code == Code.UPGRADE_DISK_FULL
    assert rig.machine.restarts == 1

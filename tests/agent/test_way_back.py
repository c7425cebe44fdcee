"""Activation, trial and return: what runs proves itself, or the device goes back, whatever the disk says."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.stock import Stock, name_of
from tests.agent.workerrig import Crash, Rig, hurry, make_rig, raiser, running
from tests.support.fleet import everybody

from fleetfoot_agent import durable
from fleetfoot_agent.layout import Layout, Trial
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome

L = Lifecycle


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def rig(stock: Stock, tmp_path: Path) -> Rig:
    return running(tmp_path, stock)


# -- activation and return


def test_without_a_supervisor_nothing_is_activated(rig: Rig, stock: Stock) -> None:
    rig.machine.unreachable = True
    rig.deliver(2, stock["1.1.0"])
    rig.machine.unreachable = False
    assert rig.runs(stock["1.0.0"])
    assert rig.record().outcomes[-1].code == Code.UPGRADE_IO_ERROR
    assert rig.record().retry is not None
    assert rig.layout.read_trial() is None


def test_two_bad_versions_are_an_alarm_that_the_next_good_one_heals(rig: Rig, stock: Stock) -> None:
    rig.behaviour |= {"1.1.0": "dies", "1.0.0": "unready"}
    rig.deliver(2, stock["1.1.0"])
    assert rig.status().alarms == (Code.UPGRADE_BOTH_BAD,)
    found = rig.component()
    assert found.last_error is not None
    assert found.last_error.code == Code.UPGRADE_BOTH_BAD
    assert rig.layout.read_current() == f"versions/{name_of(stock['1.0.0'])}"
    assert rig.layout.read_trial() is None
    rig.deliver(3, stock["1.2.0"])
    assert rig.runs(stock["1.2.0"])
    assert rig.status().alarms == ()


@pytest.mark.parametrize("code", [28, 30, 5])
def test_going_back_is_not_given_up_for_a_disk_that_refuses(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    rig.behaviour["1.1.0"] = "unready"
    real, refusals = durable.swap_symlink, iter(range(5))

    def swap(path: Path, target: str) -> None:
        if target.endswith(name_of(stock["1.0.0"])) and next(refusals, None) is not None:
            trial = rig.layout.read_trial()
            assert trial is not None  # the guard could still do it
            raise OSError(code, os.strerror(code))
        real(path, target)

    monkeypatch.setattr(durable, "swap_symlink", swap)
    rig.deliver(2, stock["1.1.0"])
    assert next(refusals, None) is None
    assert rig.runs(stock["1.0.0"])
    assert rig.record().outcomes[-1].outcome is Outcome.ROLLED_BACK
    assert rig.layout.read_trial() is None


def test_a_guard_that_goes_back_at_the_very_end_is_believed(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (f"versions/{name_of(stock[v])}" for v in ("1.0.0", "1.1.0"))
    remove = Layout.remove_trial

    def guard_was_first(layout: Layout) -> None:
        if layout.read_current() == new:
            durable.swap_symlink(layout.current, old)
        remove(layout)

    monkeypatch.setattr(Layout, "remove_trial", guard_was_first)
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.0.0"])
    assert rig.record().refused == {stock["1.1.0"].digest: 1}


def test_a_guard_that_goes_back_before_the_worker_looks_is_believed(rig: Rig, stock: Stock) -> None:
    """The worker dies after the swap; the machine starts the new version until the guard has enough."""
    rig.behaviour["1.1.0"] = "dies"
    rig.machine.before_restart = raiser(Crash())
    rig.offer(stock["1.1.0"])
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    with pytest.raises(Crash):
        rig.run()
    assert rig.record().state is L.ACTIVATING
    for _ in range(5):
        rig.machine.boot()
    assert rig.layout.read_current() == f"versions/{name_of(stock['1.0.0'])}"
    rig.machine.before_restart = lambda: None
    restarts = rig.machine.restarts
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.machine.restarts == restarts  # it is not given another three starts
    assert rig.record().refused == {stock["1.1.0"].digest: 1}
    assert rig.record().outcomes[-1].code == Code.UPGRADE_BOOT_FAILED


def test_when_the_way_back_is_gone_that_is_told_and_the_trial_is_left(rig: Rig, stock: Stock) -> None:
    rig.behaviour["1.1.0"] = "unready"
    rig.machine.before_restart = lambda: shutil.rmtree(
        rig.layout.tree(name_of(stock["1.0.0"])), ignore_errors=True
    )
    rig.deliver(2, stock["1.1.0"])
    assert Code.UPGRADE_BOTH_BAD in rig.status().alarms
    assert rig.layout.read_current() == f"versions/{name_of(stock['1.1.0'])}"
    assert rig.layout.read_trial() is not None
    rig.run()
    run = rig.record().run
    assert run is not None
    assert run.digest == stock["1.1.0"].digest  # the truth, rebuilt from the disk


def test_a_first_install_that_fails_leaves_nothing_installed(stock: Stock, tmp_path: Path) -> None:
    rig = make_rig(tmp_path, stock)
    rig.behaviour["1.1.0"] = "unready"
    rig.deliver(2, stock["1.1.0"])
    assert rig.layout.read_current() is None
    assert (rig.record().run, rig.record().refused) == (None, {stock["1.1.0"].digest: 1})
    assert rig.machine.state().target is None
    rig.deliver(3, stock["1.2.0"])
    assert rig.runs(stock["1.2.0"])


def test_what_is_withdrawn_while_it_proves_itself_is_left_at_once(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.obey(window=3600)
    withdrawn = stock.order(3, withdrawn=(stock["1.1.0"].digest,))
    rig.machine.before_restart = once(lambda: rig.send(withdrawn))
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.0.0"])
    record = rig.record()
    assert record.outcomes[-1].outcome is Outcome.CANCELED
    assert record.refused == {}


def once(act: Callable[[], None]) -> Callable[[], None]:
    left = [act]
    return lambda: left.pop()() if left else None


def test_a_hold_does_not_stop_what_proves_itself(rig: Rig, stock: Stock) -> None:
    held = stock.order(3, everybody("r-1", stock["1.1.0"].goal(), hold=True))
    rig.machine.before_restart = once(lambda: rig.send(held))
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])


def test_a_withdrawn_release_with_no_way_back_stays_and_alarms_until_there_is_one(
    stock: Stock, tmp_path: Path
) -> None:
    rig = make_rig(tmp_path, stock)
    rig.install_first(stock["1.0.0"])
    rig.send(stock.order(2, withdrawn=(stock["1.0.0"].digest,)))
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.status().alarms == (Code.UPGRADE_NO_WAY_BACK,)
    rig.offer(stock["1.1.0"])
    rig.send(stock.order(3, withdrawn=(stock["1.0.0"].digest,), baseline=stock["1.1.0"].goal()))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.status().alarms == ()


def test_as_many_versions_are_kept_beside_the_running_one_as_the_owner_wants(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    rig.deliver(3, stock["1.2.0"])
    assert rig.layout.installed() == [name_of(stock[v]) for v in ("1.0.0", "1.1.0", "1.2.0")]
    rig.asked_for.clear()
    rig.send(stock.order(4, baseline=stock["1.0.0"].goal(mode="exactly")))
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.asked_for == set()


def test_versions_that_are_nobody_s_way_back_are_collected(rig: Rig, stock: Stock) -> None:
    rig.obey(policy="keep_versions = 1")
    rig.deliver(2, stock["1.1.0"])
    rig.deliver(3, stock["1.2.0"])
    assert rig.layout.installed() == sorted([name_of(stock["1.1.0"]), name_of(stock["1.2.0"])])
    assert {p.name for p in rig.layout.versions.iterdir() if p.is_file()} == {
        f"{name_of(stock[v])}{suffix}"
        for v in ("1.1.0", "1.2.0")
        for suffix in (".release.json", ".entrypoint")
    }


# -- the trial


def test_the_trial_stands_before_the_swap_and_ends_with_the_commit(rig: Rig, stock: Stock) -> None:
    seen: list[Trial | None] = []
    rig.machine.before_restart = lambda: seen.append(rig.layout.read_trial())
    rig.deliver(2, stock["1.1.0"])
    old, new = (f"versions/{name_of(stock[v])}" for v in ("1.0.0", "1.1.0"))
    assert seen == [Trial(0, 3, old, new)]
    assert rig.layout.read_trial() is None


def test_a_trial_that_a_late_guard_brought_back_ends_at_once(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (f"versions/{name_of(stock[v])}" for v in ("1.0.0", "1.1.0"))
    remove, removed = Layout.remove_trial, []

    def guard_counts_late(layout: Layout) -> None:
        remove(layout)
        removed.append(layout.read_current())
        if removed.count(new) == 1:  # right before the commit: the guard has decided to count, and renames
            layout.write_trial(Trial(1, 3, old, new))

    monkeypatch.setattr(Layout, "remove_trial", guard_counts_late)
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])
    assert removed.count(new) == 2
    assert rig.layout.read_trial() is None


def test_a_trial_that_came_back_after_the_commit_ends_with_the_next_run(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    old, new = (f"versions/{name_of(stock[v])}" for v in ("1.0.0", "1.1.0"))
    rig.layout.write_trial(Trial(2, 3, old, new))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.layout.read_trial() is None


def test_the_starts_that_are_granted_are_the_owner_s(rig: Rig, stock: Stock) -> None:
    kiosk = replace(rig.config.components["kiosk"], max_boot_attempts=1)
    rig.config = replace(rig.config, components={"kiosk": kiosk})
    rig.behaviour["1.1.0"] = "dies"
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.0.0"])
    assert rig.record().outcomes[-1].code == Code.UPGRADE_BOOT_FAILED

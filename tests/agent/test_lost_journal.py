"""A journal that is lost, and a current that is not ours: what is known stays, nothing is guessed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.stock import Stock, name_of
from tests.agent.workerrig import Rig, hurry, raiser, running
from tests.support.fleet import everybody

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.reports import Installed
from fleetfoot_protocol.states import Lifecycle, Verdict

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


# -- a journal that is lost

TORN: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda data: None,
    "empty": lambda data: b"",
    "garbage": lambda data: b"\x00\xff" * 40,
    "torn": lambda data: data[: len(data) // 2],
    "a list": lambda data: b"[]",
    "of the future": lambda data: data.replace(b'"journal":1', b'"journal":2'),
    "with a field of the future": lambda data: data.replace(b'"journal":1', b'"journal":1,"lane":3'),
    "huge": lambda data: data + b" " * (256 * 1024),
    "of a version that does not run": lambda data: data.replace(b'"1.0.0"', b'"7.0.0"'),
}


def tear(rig: Rig, how: str) -> None:
    after = TORN[how](rig.layout.journal.read_bytes())
    rig.layout.journal.unlink()
    if after is not None:
        rig.layout.journal.write_bytes(after)


@pytest.mark.parametrize("how", TORN)
def test_a_lost_journal_is_made_anew_from_what_runs(rig: Rig, stock: Stock, how: str) -> None:
    tear(rig, how)
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.status().alarms == (Code.UPGRADE_JOURNAL_REBUILT,)
    assert rig.told().count("alarm upgrade_journal_rebuilt") == 1
    rig.run()
    assert rig.told().count("alarm upgrade_journal_rebuilt") == 1
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])
    assert rig.status().alarms == ()  # healed: what is known now was seen to be so


def on_trial(rig: Rig, stock: Stock, word: str) -> None:
    """Bring 1.1.0 on trial and kill the worker there."""
    rig.behaviour["1.1.0"] = word
    rig.offer(stock["1.1.0"])
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))

    class Killed(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleetfoot_agent.worker.probation.look", raiser(Killed()))
        with pytest.raises(Killed):
            rig.run()
    assert rig.record().state is L.PROBATION
    assert rig.layout.read_current() == f"versions/{name_of(stock['1.1.0'])}"


LOST = [how for how in TORN if how != "of a version that does not run"]


@pytest.mark.parametrize("how", LOST)
def test_a_journal_lost_on_trial_lets_the_trial_be_judged(rig: Rig, stock: Stock, how: str) -> None:
    on_trial(rig, stock, "good")
    tear(rig, how)
    rig.run()
    assert rig.runs(stock["1.1.0"])
    record = rig.record()
    assert record.prev == Installed(
        version="1.0.0", counter=stock["1.0.0"].release.counter, digest=stock["1.0.0"].digest
    )
    assert rig.layout.read_trial() is None
    assert "alarm upgrade_journal_rebuilt" in rig.told()


@pytest.mark.parametrize("word", ["unready", "dies"])
def test_a_journal_lost_on_trial_still_leads_back(rig: Rig, stock: Stock, word: str) -> None:
    on_trial(rig, stock, word)
    tear(rig, "gone")
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.record().refused == {stock["1.1.0"].digest: 1}
    assert rig.layout.read_trial() is None
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_REFUSED_BEFORE)


def test_a_journal_lost_after_the_guard_went_back_refuses_what_it_left(rig: Rig, stock: Stock) -> None:
    on_trial(rig, stock, "dies")
    for _ in range(5):
        rig.machine.boot()
    assert rig.layout.read_current() == f"versions/{name_of(stock['1.0.0'])}"
    tear(rig, "garbage")
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.record().refused == {stock["1.1.0"].digest: 1}
    assert rig.layout.read_trial() is None


def test_a_journal_that_contradicts_the_disk_still_tells_what_it_knows(rig: Rig, stock: Stock) -> None:
    bad = stock["1.1.0"]
    rig.behaviour["1.1.0"] = "dies"
    rig.deliver(2, bad)
    raised = stock.changed(stock["1.2.0"], min_counter=1)
    rig.deliver(3, raised)
    before = rig.record()
    assert (before.floor, list(before.refused)) == (1, [bad.digest])
    rig.layout.swap_current(f"versions/{name_of(stock['1.0.0'])}")  # somebody's hand
    rig.machine.restart()
    rig.send(stock.order(4))
    rig.run()
    after = rig.record()
    assert rig.runs(stock["1.0.0"])
    assert (after.floor, after.refused, after.outcomes) == (before.floor, before.refused, before.outcomes)
    assert after.prev is None
    assert rig.status().alarms == (Code.UPGRADE_JOURNAL_REBUILT,)


def test_a_component_that_was_removed_by_hand_keeps_its_floor(rig: Rig, stock: Stock) -> None:
    raised = stock.changed(stock["1.2.0"], min_counter=1)
    rig.deliver(2, raised)
    rig.layout.current.unlink()
    rig.send(stock.order(3))
    rig.run()
    assert (rig.record().run, rig.record().floor) == (None, 1)
    assert rig.status().alarms == (Code.UPGRADE_JOURNAL_REBUILT,)


def test_a_journal_that_cannot_be_made_anew_is_a_refusal(rig: Rig, stock: Stock) -> None:
    (rig.layout.versions / f"{name_of(stock['1.0.0'])}.release.json").unlink()
    tear(rig, "gone")
    rig.run()
    assert_refused(rig)


# -- a current that is not ours

STRANGE: dict[str, Callable[[Path], None]] = {
    "a folder": lambda current: current.mkdir(),
    "a file": lambda current: void(current.write_text("1.0.0")),
    "dangling": lambda current: current.symlink_to("versions/9.9.9-00000000"),
    "elsewhere": lambda current: current.symlink_to("/usr"),
    "above": lambda current: current.symlink_to("../other/versions/1.0.0-00000000"),
}


def void(_: object) -> None:
    return None


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below `folder`: links by their text, files by their bytes."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
    return found


def assert_refused(rig: Rig) -> None:
    found = rig.component()
    assert found.last_error is not None
    assert found.last_error.code == Code.UPGRADE_LAYOUT_REFUSED


@pytest.mark.parametrize("how", STRANGE)
def test_a_current_of_somebody_else_is_told_and_nothing_is_touched(rig: Rig, stock: Stock, how: str) -> None:
    rig.layout.current.unlink()
    STRANGE[how](rig.layout.current)
    before = snapshot(rig.layout.folder)
    rig.deliver(2, stock["1.1.0"])
    rig.send(stock.order(1))  # refused, which is told without writing into the journal
    rig.run()
    assert snapshot(rig.layout.folder) == before
    assert_refused(rig)


def test_a_current_that_was_repaired_is_taken_up_again(rig: Rig, stock: Stock) -> None:
    rig.layout.current.unlink()
    rig.layout.current.mkdir()
    rig.run()
    rig.layout.current.rmdir()
    rig.layout.current.symlink_to(f"versions/{name_of(stock['1.0.0'])}")
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])
    prev = rig.record().prev
    assert prev is not None
    assert prev.digest == stock["1.0.0"].digest

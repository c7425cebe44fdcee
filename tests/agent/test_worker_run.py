"""One run of the worker: the lock, the wake, several components, a disk that refuses, what is told when."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Rig, hurry, make_rig, raiser
from tests.support.fleet import Bundle, everybody
from tests.support.waiting import until

from fleetfoot_agent import durable
from fleetfoot_agent.layout import version_name
from fleetfoot_agent.spool import WorkerSide, wake, wake_pending
from fleetfoot_agent.spool.events import EventFolder
from fleetfoot_agent.worker.lifecycle import IN_FLIGHT
from fleetfoot_agent.worker.lock import Lock
from fleetfoot_agent.worker.memory import Memory
from fleetfoot_agent.worker.run import Worker
from fleetfoot_protocol import dsse
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict

L = Lifecycle
PANEL = "[components.panel]"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def rig(stock: Stock, tmp_path: Path) -> Rig:
    found = make_rig(tmp_path, stock)
    found.install_first(stock["1.0.0"])
    found.offer(stock["1.1.0"], stock["1.2.0"])
    return found


def panel(stock: Stock, version: str) -> Bundle:
    """The same files as a release of another component."""
    return stock.changed(stock[version], component="panel")


@pytest.fixture
def both(stock: Stock, tmp_path: Path) -> Rig:
    """A device with two components, kiosk and panel, that run 1.0.0."""
    found = make_rig(tmp_path, stock, more=PANEL)
    found.offer(*(make(v) for v in ("1.0.0", "1.1.0") for make in (stock.__getitem__, of_panel(stock))))
    order(found, "kiosk", 1, stock["1.0.0"])
    order(found, "panel", 1, panel(stock, "1.0.0"))
    found.run()
    assert runs(found, "kiosk", stock["1.0.0"])
    assert runs(found, "panel", panel(stock, "1.0.0"))
    return found


def of_panel(stock: Stock) -> Callable[[str], Bundle]:
    return lambda version: panel(stock, version)


def order(rig: Rig, component: str, sequence: int, bundle: Bundle, **fields: Any) -> None:
    target = everybody(f"r-{sequence}", bundle.goal())
    rig.send(rig.stock.order(sequence, target, component=component, **fields), f"group.{component}")


def runs(rig: Rig, component: str, bundle: Bundle) -> bool:
    record = rig.record(component)
    target = f"versions/{version_name(bundle.release.version, bundle.digest)}"
    machine = rig.machines[component]
    committed = record.state is L.IDLE and record.run is not None and record.run.digest == bundle.digest
    return committed and machine.layout.read_current() == target == machine.state().target


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    """Every entry below `folder` with what changes when somebody writes it."""
    found = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_mtime_ns)
    return found


# -- the lock and the wake


def test_a_second_worker_leaves_at_once_and_leaves_everything_as_it_is(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    wake(rig.config.wake_dir)
    first = Lock(rig.config)
    assert first.take()
    before = traces(rig.folder)
    assert rig.worker().run() == 0
    assert traces(rig.folder) == before
    assert wake_pending(rig.config.wake_dir)
    first.close()
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert not wake_pending(rig.config.wake_dir)


def test_another_agent_on_the_same_install_root_leaves_and_writes_nothing(rig: Rig, stock: Stock) -> None:
    """Two agents with a state of their own, given the same root by mistake."""
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    other = replace(rig.config, state_dir=rig.folder / "other")
    first = Lock(other)
    assert first.take()
    before = traces(rig.folder)
    assert rig.worker().run() == 0
    assert traces(rig.folder) == before
    first.close()
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_the_lock_is_free_again_after_a_run_that_died(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "time_floor", raiser(RuntimeError("a defect")))
        with pytest.raises(RuntimeError, match="a defect"):
            rig.worker().run()
    lock = Lock(rig.config)
    assert lock.take()
    lock.close()


def test_a_run_with_nothing_to_do_writes_nothing_but_when_to_look_again(rig: Rig) -> None:
    wake_at = ("state/spool/out", "state/spool/out/wake_at.json")
    before = traces(rig.folder)
    rig.run()
    after = traces(rig.folder)
    assert {k: v for k, v in after.items() if k not in wake_at} == {
        k: v for k, v in before.items() if k not in wake_at
    }


def test_news_that_come_with_a_wake_during_a_run_are_dealt_with_in_it(rig: Rig, stock: Stock) -> None:
    withdrawn = stock.order(3, withdrawn=(stock["1.1.0"].digest,))
    bundle = stock["1.1.0"]
    rig.send(stock.order(2, everybody("r-1", bundle.goal())))
    rig.run_until_fetched(stock["1.1.0"])

    def news() -> None:
        rig.machine.before_restart = lambda: None
        rig.send(withdrawn)
        wake(rig.config.wake_dir)

    rig.machine.before_restart = news
    assert rig.worker().run() == 0
    assert rig.runs(stock["1.0.0"])
    assert rig.component().answered is not None
    assert not wake_pending(rig.config.wake_dir)


def test_a_worker_that_is_stopped_leaves_soon_and_the_next_one_goes_on(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleetfoot_agent.worker.run.LOOK_SECONDS", 60.0)
    rig.obey(window=3600)
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run_until_fetched(stock["1.1.0"])
    worker = rig.worker()
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: rig.record().state is L.PROBATION, "the new version is on trial")
    worker.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert rig.record().state is L.PROBATION
    rig.obey()
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.machine.restarts == 2  # not once more for the second worker


# -- two components


def in_flight(rig: Rig) -> list[str]:
    states = {name: rig.record(name).state for name in rig.machines}
    return [name for name, state in states.items() if state in IN_FLIGHT]


def test_one_component_is_activated_at_a_time(both: Rig, stock: Stock) -> None:
    seen: list[list[str]] = []
    for machine in both.machines.values():
        machine.before_restart = lambda: seen.append(in_flight(both))
    both.obey(more=PANEL, window=0.1)
    order(both, "kiosk", 2, stock["1.1.0"])
    order(both, "panel", 2, panel(stock, "1.1.0"))
    both.run()
    assert seen == [["kiosk"], ["panel"]]
    assert runs(both, "kiosk", stock["1.1.0"])
    assert runs(both, "panel", panel(stock, "1.1.0"))


def test_a_component_waits_for_one_on_trial_and_goes_on_in_the_same_run(both: Rig, stock: Stock) -> None:
    """Panel is on trial first; kiosk, which is looked at before it, must not be left staged."""
    both.obey(more=PANEL, window=0.2)
    order(both, "panel", 2, panel(stock, "1.1.0"))
    waited: list[bool] = []

    def kiosk_is_ordered() -> None:
        both.machines["panel"].before_restart = lambda: None
        both.send(stock["1.1.0"].envelope, f"manifest.{stock['1.1.0'].digest}")
        for blob in (stock["1.1.0"].path / "blobs").iterdir():
            both.courier.blob_path(blob.name).write_bytes(blob.read_bytes())
        order(both, "kiosk", 2, stock["1.1.0"])
        wake(both.config.wake_dir)

    def panel_is_done() -> None:
        waited.append(in_flight(both) == ["kiosk"])
        events = [e for e in both.events() if e["component"] == "kiosk" and e["type"].endswith("deferred")]
        told.extend((e["errorcode"], e["data"]["reason"]) for e in events)

    told: list[tuple[str, str]] = []
    both.machines["panel"].before_restart = kiosk_is_ordered
    both.machines["kiosk"].before_restart = panel_is_done
    both.run()
    assert waited == [True]
    assert told == [("upgrade_locked", "panel is being worked on")]
    answered = both.component("kiosk").answered
    assert answered is not None
    assert answered.verdict is Verdict.ACCEPTED
    assert runs(both, "kiosk", stock["1.1.0"])
    assert runs(both, "panel", panel(stock, "1.1.0"))


def test_a_missing_way_back_of_one_component_is_healed_when_none_is_missing(both: Rig, stock: Stock) -> None:
    both.send(stock.order(2, component="panel", withdrawn=(panel(stock, "1.0.0").digest,)), "group.panel")
    both.run()
    assert both.status().alarms == (Code.UPGRADE_NO_WAY_BACK,)
    order(both, "kiosk", 2, stock["1.1.0"])
    both.run()
    assert both.status().alarms == (Code.UPGRADE_NO_WAY_BACK,)
    baseline = panel(stock, "1.1.0").goal()
    withdrawn = (panel(stock, "1.0.0").digest,)
    both.send(stock.order(3, component="panel", withdrawn=withdrawn, baseline=baseline), "group.panel")
    both.run()
    assert runs(both, "panel", panel(stock, "1.1.0"))
    assert both.status().alarms == ()


def test_a_component_whose_folder_is_refused_does_not_stop_the_other(both: Rig, stock: Stock) -> None:
    both.machines["kiosk"].layout.current.unlink()
    both.machines["kiosk"].layout.current.mkdir()
    order(both, "kiosk", 2, stock["1.1.0"])
    order(both, "panel", 2, panel(stock, "1.1.0"))
    both.run()
    assert runs(both, "panel", panel(stock, "1.1.0"))
    error = both.component("kiosk").last_error
    assert error is not None
    assert error.code == Code.UPGRADE_LAYOUT_REFUSED


# -- a disk that refuses


def refusing(where: Callable[[Path], bool], error: int = 28) -> Callable[..., None]:
    real = durable.write_file

    def write(path: Path, *args: Any, **kwargs: Any) -> None:
        if where(path):
            raise OSError(error, "No space left on device")
        real(path, *args, **kwargs)

    return write


def test_a_journal_that_cannot_be_written_stops_this_component_only_and_for_a_while(
    both: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    order(both, "kiosk", 2, stock["1.1.0"])
    order(both, "panel", 2, panel(stock, "1.1.0"))
    journal = both.machines["kiosk"].layout.journal
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", refusing(lambda path: path == journal))
        both.run()
    assert runs(both, "panel", panel(stock, "1.1.0"))
    error = both.component("kiosk").last_error
    assert error is not None
    assert error.code == Code.UPGRADE_DISK_FULL
    wake_at = both.courier.read_wake_at()
    assert wake_at is not None
    assert wake_at.wall <= time.time() + 61
    both.run()
    assert runs(both, "kiosk", stock["1.1.0"])


@pytest.mark.parametrize("state", [L.PROBATION, L.ACTIVATING, L.STAGING])
def test_what_cannot_be_told_does_not_decide_what_is_done(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch, state: Lifecycle
) -> None:
    def unheard(*_: object) -> int:
        raise OSError(28, "No space left on device")

    real = WorkerSide.write_want

    def write_want(spool: WorkerSide, *args: Any, **kwargs: Any) -> None:
        if rig.record().state is state:
            unheard()
        real(spool, *args, **kwargs)

    monkeypatch.setattr(EventFolder, "append", unheard)
    monkeypatch.setattr(WorkerSide, "write_want", write_want)
    before = rig.status().lost_events
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.record().outcomes[-1].outcome is Outcome.COMPLETED
    assert rig.status().lost_events == before + 7


def test_a_spool_that_refuses_ends_the_run_with_its_error(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.send(stock.order(2))
    with monkeypatch.context() as patch:
        out = rig.config.spool / "out" / "status.json"
        patch.setattr(durable, "write_file", refusing(lambda path: path == out))
        with pytest.raises(OSError, match="No space left"):
            rig.worker().run()
    rig.run()
    answered = rig.component().answered
    assert answered is not None
    assert answered.sequence == 2


# -- what is told, and when


def answers(rig: Rig) -> list[str]:
    return [told for told in rig.told() if told.startswith(("upgrade_deferred", "upgrade_rejected"))]


def test_an_answer_is_told_once_for_each_change_of_it(rig: Rig, stock: Stock) -> None:
    held = everybody("r-1", stock["1.1.0"].goal(), hold=True)
    on_hold, disabled = "upgrade_deferred upgrade_on_hold", "upgrade_rejected upgrade_disabled"
    course: list[tuple[bytes | None, bool, list[str]]] = [
        (stock.order(2, held), True, [on_hold]),
        (None, True, [on_hold]),
        (stock.order(3, held), True, [on_hold]),
        (stock.order(4, everybody("r-1", stock["1.1.0"].goal())), False, [on_hold, disabled]),
        (None, False, [on_hold, disabled]),
        (stock.order(5, held), True, [on_hold, disabled, on_hold]),
    ]
    for message, enabled, told in course:
        rig.obey(enabled=enabled)
        if message is not None:
            rig.send(message)
        rig.run()
        assert answers(rig) == told
        assert rig.component().answered is not None
    event = rig.events()[-1]
    assert event["rollout"] == "r-1"
    assert event["component"] == "kiosk"
    facts = {key: event["data"][key] for key in ("version", "digest", "attempt", "sequence", "device")}
    assert facts == {
        "version": "1.1.0",
        "digest": stock["1.1.0"].digest,
        "attempt": 1,
        "sequence": 5,
        "device": "dev-001",
    }


def test_an_accepted_order_is_answered_without_an_event(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    assert rig.answer() == (Verdict.ACCEPTED, "")
    assert answers(rig) == []


def test_the_next_root_is_always_wanted(rig: Rig, stock: Stock) -> None:
    want = rig.courier.read_want()
    assert want is not None
    assert want.roots[0] == 2
    _, envelope = stock.root_after(stock.house.root)
    rig.send(envelope, "root.2")
    rig.run()
    want = rig.courier.read_want()
    assert want is not None
    assert want.roots[0] == 3
    assert rig.status().root == 2


def test_the_worker_asks_to_be_woken_within_the_hour_whatever_happens(rig: Rig, stock: Stock) -> None:
    wake_at = rig.courier.read_wake_at()
    assert wake_at is not None
    assert abs(wake_at.wall - time.time() - 3600) < 60
    assert abs(wake_at.boottime - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600) < 60


def test_a_forged_heartbeat_shows_in_event_and_status_and_proves_nothing(rig: Rig, stock: Stock) -> None:
    now = time.time()
    genuine = dsse.decode(stock.heartbeat(now, now + 3600))
    forged = dsse.sign(genuine.payload_type, genuine.payload, stock.house.keys["release"])
    rig.send(dsse.encode(forged), "heartbeat")
    rig.run()
    (told,) = (e for e in rig.events() if e["data"].get("slot") == "heartbeat")
    assert (told["errorcode"], told["data"]["remedy"]) == (
        Code.UPGRADE_IDENTITY_NOT_ALLOWED,
        info(Code.UPGRADE_IDENTITY_NOT_ALLOWED).remedy,
    )
    error = rig.component().last_error
    assert error is not None
    assert (error.code, error.message) == (told["errorcode"], told["data"]["message"])
    rig.send(stock.heartbeat(now - 7200, now - 3600), "heartbeat")
    rig.run()
    assert Code.UPGRADE_STALE in rig.status().alarms  # the forged one is not what is fresh


def test_an_overdue_heartbeat_alarms_until_a_fresh_one_comes(rig: Rig, stock: Stock) -> None:
    now = time.time()
    rig.send(stock.heartbeat(now - 7200, now - 3600), "heartbeat")
    rig.run()
    assert rig.status().alarms == (Code.UPGRADE_STALE,)
    assert rig.told()[-1] == "alarm upgrade_stale"
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.1.0"])  # an alarm, never a block
    rig.send(stock.heartbeat(now, now + 3600), "heartbeat")
    rig.run()
    assert rig.status().alarms == ()


def test_manifests_are_forgotten_when_nobody_needs_them(rig: Rig, stock: Stock) -> None:
    def kept() -> list[str]:
        return Memory(rig.config.worker_dir).manifests()

    other = stock["1.2.0"]
    rig.run()
    rig.send(other.envelope, f"manifest.{other.digest}")
    assert rig.worker().run() == 0
    assert other.digest in kept()  # it lies in the spool still, and would not be brought again
    rig.carry()
    rig.run()
    assert other.digest not in kept()
    rig.send(stock.order(2))
    rig.run()
    assert kept() == []


def test_a_release_that_is_wanted_again_before_the_courier_has_looked_is_not_waited_for(
    rig: Rig, stock: Stock
) -> None:
    """Two lists of wants, written one soon after the other: the courier may see the second one only."""
    bundle = stock["1.1.0"]
    target = everybody("r-1", bundle.goal())
    rig.send(stock.order(2, target))
    assert rig.worker().run() == 0
    rig.carry()
    assert rig.worker().run() == 0
    assert rig.record().state is L.DOWNLOADING
    for sequence, targets in ((3, ()), (4, (target,))):
        rig.send(stock.order(sequence, *targets))
        assert rig.worker().run() == 0
    rig.run()
    assert rig.runs(bundle)


def test_blobs_are_wanted_until_they_are_unpacked(rig: Rig, stock: Stock) -> None:
    seen: list[bool] = []
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.machine.before_restart = lambda: seen.append(bool(rig.wanted()))
    sha = stock["1.1.0"].release.artifacts[0].sha256
    rig.run()
    assert sha in rig.asked_for
    assert seen == [False]
    assert rig.wanted() == set()


def test_a_component_that_is_configured_later_is_taken_up(rig: Rig, stock: Stock) -> None:
    rig.obey(more=PANEL)
    worker = Worker(rig.config, seam=lambda component: rig.machines["kiosk"])
    assert worker.run() == 0
    assert set(rig.status().components) == {"kiosk", "panel"}
    assert rig.component("panel").running is None

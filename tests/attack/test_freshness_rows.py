"""Time, freshness, equivocation and floors, against running devices (rows 7, 11, 12, 20, 21)."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attack.rows import row
from tests.attack.target import HEARTBEATS, OWN, Target, soon, target
from tests.support.waiting import until

from fleetfoot_agent.worker import freshness, platform_facts
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.documents import Desired, Heartbeat, Order
from fleetfoot_protocol.dsse import PayloadType
from fleetfoot_sim import kiosk

STALE = Code.UPGRADE_STALE


@pytest.fixture
def aim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A device whose session with the broker counts as settled from the beginning."""
    monkeypatch.setattr(freshness, "FOLLOWS_SECONDS", 0)
    with target(tmp_path) as made:
        yield made


def heartbeat(aim: Target, issued: int, expires: int, document: Desired | None = None) -> None:
    """Publish one, and let the worker look at it: heartbeats do not wake it."""
    named = {kiosk.COMPONENT: Order(epoch=document.epoch, sequence=document.sequence)} if document else {}
    beat = Heartbeat(
        fleet="testfleet",
        group="g-one",
        issued=times.to_text(issued),
        expires=times.to_text(expires),
        components=named,
    )
    aim.send(aim.house.sign(PayloadType.HEARTBEAT, beat.payload(), "director"), HEARTBEATS)
    until(lambda: any((aim.config.spool / "in" / "msg" / "heartbeat").glob("*")), "the heartbeat arrives")


@row(11, "no heartbeat past the expiry of the last one",
     "an alarm on the device, over with the next; orders go on",
     holds=[("broker", "harm"), ("courier", "harm")])  # fmt: skip
def test_row_11_withheld_heartbeats_are_an_alarm_and_block_nothing(aim: Target) -> None:
    heartbeat(aim, soon(-3600), soon(-10))
    aim.settle()
    until(lambda: aim.alarmed(STALE), "the loss of freshness is told")
    assert aim.told(STALE) == 1
    aim.obey()
    assert aim.alarmed(STALE)
    assert aim.told(STALE) == 1
    heartbeat(aim, soon(-5), soon(3600))
    aim.settle()
    until(lambda: not aim.alarmed(STALE), "the alarm is over")


@row(11, "heartbeats come, and the order that they name does not",
     "an alarm within a minute, over with the order",
     holds=[("broker", "harm"), ("courier", "harm")])  # fmt: skip
def test_row_11_an_order_that_a_heartbeat_names_and_that_does_not_come_is_an_alarm(
    aim: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    withheld = aim.document()
    aim.director.sequence -= 1
    order = aim.settle()  # the same sequence is not yet an order that is newer
    assert order.sequence == withheld.sequence
    named = order.model_copy(update={"sequence": order.sequence + 100})
    monkeypatch.setattr(freshness, "FOLLOWS_SECONDS", 60)
    heartbeat(aim, soon(0), soon(3600), named)
    aim.settle()
    assert not aim.alarmed(STALE)  # it may be on its way
    monkeypatch.setattr(freshness, "FOLLOWS_SECONDS", 0)  # as if the minute were over
    aim.settle()
    until(lambda: aim.alarmed(STALE), "the withheld order is told")
    aim.obey()
    aim.send(aim.signed(named))
    until(lambda: not aim.alarmed(STALE), "the alarm is over once it came")


@row(11, "a device that never heard a heartbeat", "an alarm after a day")
def test_row_11_a_device_that_never_heard_a_heartbeat_says_so(aim: Target) -> None:
    aim.settle()
    assert not aim.alarmed(STALE)
    yesterday = time.time() - 25 * 3600
    os.utime(aim.config.worker_dir / "root.json", (yesterday, yesterday))
    aim.settle()
    until(lambda: aim.alarmed(STALE), "the loss of freshness is told")
    aim.obey()


def test_a_device_that_has_just_woken_up_waits_for_the_heartbeat_that_the_broker_holds(
    aim: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat(aim, soon(-3600), soon(-10))
    monkeypatch.setattr(freshness, "FOLLOWS_SECONDS", 3600)
    aim.settle()
    assert not aim.alarmed(STALE)
    heartbeat(aim, soon(-5), soon(3600))
    aim.settle()
    assert not aim.alarmed(STALE)
    assert aim.told(STALE) == 0


@row(12, "an expired order, with a clock that may be trusted", "answered as expired; the next order obeyed",
     holds=[("broker", "old")])  # fmt: skip
def test_row_12_an_expired_order_is_refused_by_a_trusted_clock(
    aim: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_facts, "clock_trusted", lambda: True)
    bundle = aim.serve(aim.release())
    past = {"issued": times.to_text(soon(-200)), "expires": times.to_text(soon(-100))}
    aim.answer(aim.document(bundle, **past), Code.UPGRADE_EXPIRED)
    aim.obey(bundle)


@row(
    12,
    "an expired order, with a clock that may not be trusted",
    "obeyed until something signed proves the time",
)
def test_row_12_an_untrusted_clock_expires_nothing_but_signed_time_does(
    aim: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_facts, "clock_trusted", lambda: False)
    bundle, other = aim.serve(aim.release()), aim.serve(aim.release())
    past = {"issued": times.to_text(soon(-200)), "expires": times.to_text(soon(-100))}
    aim.obey_document(aim.document(bundle, **past), bundle)
    heartbeat(aim, soon(0), soon(3600))
    aim.answer(aim.document(other, **past), Code.UPGRADE_EXPIRED)
    aim.obey(other)


@row(
    12,
    "an expired document that is not an order",
    "releases do not expire: an old one is installed when ordered",
)
def test_row_12_a_release_does_not_expire(aim: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_facts, "clock_trusted", lambda: True)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    bundle = aim.release()
    assert bundle.release.created.startswith("2001-")
    aim.obey(aim.serve(bundle))


@row(6, "two orders of one sequence", "the first is kept, an alarm, healed by a higher sequence",
     holds=[("manager", "harm")])  # fmt: skip
def test_row_06_of_two_orders_with_one_sequence_the_first_is_kept(aim: Target) -> None:
    bundle = aim.serve(aim.release())
    first = aim.settle()
    before = aim.untouched()
    aim.send(aim.signed(aim.document(bundle, sequence=first.sequence)))
    until(lambda: aim.alarmed(Code.UPGRADE_EQUIVOCATION), "the equivocation is told")
    assert aim.untouched() == before
    assert aim.answered(first) == ""
    aim.obey(bundle)
    until(lambda: not aim.alarmed(Code.UPGRADE_EQUIVOCATION), "the alarm is over")


@row(7, "a new order for a release below the floor, after a restart and a lost journal too",
     "answered as below the floor, not fetched",
     holds=[("manager", "old"), ("release key", "old")])  # fmt: skip
def test_row_07_a_release_below_the_floor_is_refused(aim: Target) -> None:
    old = aim.serve(aim.release())
    counter = old.release.counter + 1
    aim.obey(aim.serve(aim.release("--counter", str(counter), "--min-counter", str(counter))))
    assert aim.component().floor == counter
    for _ in range(2):
        aim.answer(aim.document(old, goal={"mode": "exactly"}), Code.UPGRADE_BELOW_FLOOR)
        aim.device.disconnect()
        aim.device.connect()
        until(lambda: aim.device.connected, "the device is back")
    assert aim.component().floor == counter
    # Nor does it help that the journal is lost after a release that raised nothing.
    aim.obey()
    aim.device.disconnect()
    aim.layout.journal.write_bytes(b"")
    aim.device.connect()
    until(lambda: aim.alarmed(Code.UPGRADE_JOURNAL_REBUILT), "the journal is rebuilt")
    aim.answer(aim.document(old, goal={"mode": "exactly"}), Code.UPGRADE_BELOW_FLOOR)
    aim.obey()


@row(20, "the manager's key alone: every old release ordered, in every way there is",
     "none below the floor is installed",
     holds=[("manager", "old"), ("manager", "harm")])  # fmt: skip
def test_row_20_with_the_managers_key_alone_nothing_below_the_floor_is_installed(aim: Target) -> None:
    old = [aim.serve(aim.release()) for _ in range(2)]
    aim.obey(old[0])
    counter = old[-1].release.counter + 1
    new = aim.obey(aim.serve(aim.release("--counter", str(counter), "--min-counter", str(counter))))
    before = aim.untouched()
    below = Code.UPGRADE_BELOW_FLOOR
    for bundle in old:
        for attempt in (1, 9):
            goal = bundle.goal(mode="exactly", attempt=attempt)
            aim.answer(aim.document(bundle, goal={"mode": "exactly", "attempt": attempt}), below)
            aim.answer(aim.document(baseline=goal), below)
            own = aim.document(baseline=goal, device="dev-001")
            aim.answer(own, below, topic=OWN)
            aim.send(aim.signed(aim.document(device="dev-001", released=True)), OWN)
        # Asked politely, a device that is ahead stays.
        aim.answer(aim.document(bundle), "")
    # To recall what runs does not help: there is no way back above the floor.
    recall = aim.document(withdrawn=(new.digest,))
    aim.send(aim.signed(recall))
    until(lambda: aim.alarmed(Code.UPGRADE_NO_WAY_BACK), "there is no way back, and it says so")
    after = aim.untouched()
    assert (after.current, after.pid, after.floor) == (before.current, before.pid, before.floor)
    assert after.installed == before.installed
    aim.obey()


@row(21, "a device as it left the factory, and the oldest orders that have not expired",
     "nothing below the floor that its package gave it",
     holds=[("broker", "old"), ("manager", "old")])  # fmt: skip
def test_row_21_a_factory_device_takes_nothing_below_its_built_in_floor(tmp_path: Path) -> None:
    with target(tmp_path, more_settings="floor = 2\n", install=False) as aim:
        old, good = aim.serve(aim.release()), aim.serve(aim.release())
        assert (old.release.counter, good.release.counter) == (1, 2)
        for goal in ({}, {"mode": "exactly"}):
            document = aim.document(old, goal=goal)
            aim.send(aim.signed(document))
            until(lambda: aim.answered(document) == Code.UPGRADE_BELOW_FLOOR, "the answer")  # noqa: B023
        assert aim.layout.read_current() is None
        assert aim.component().floor == 2
        assert aim.device.install(good.path) == 0
        aim.send(aim.signed(aim.document(good)))
        until(lambda: aim.runs(good), "a release at the floor runs")

"""Rollouts in the store: they come back as they were, and a report writes one row."""

from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from tests.manager.rollouts import DEVICES, OLD, START, go, healthy, plan, running, says

from fleetfoot_manager import migrate, rollout_rows, schema
from fleetfoot_manager.rollout import Cancel, DeviceTable, Joined, Left, Rollout, Start
from fleetfoot_manager.store import Store
from fleetfoot_protocol.states import Terminal


def kept(store: Store, before: Rollout | None, after: Rollout) -> Rollout:
    with store.write() as tx:
        rollout_rows.keep(tx, before, after)
    with store.read() as tx:
        found = rollout_rows.load_one(tx, after.id)
    assert found is not None
    return found


def test_a_rollout_comes_back_as_it_was(store: Store) -> None:
    rollout = running()
    found = kept(store, None, rollout)
    assert found == rollout
    assert list(found.devices.news) == []
    later = go(found, healthy(found.cohort[0].device))
    assert kept(store, found, later) == later
    with store.read() as tx:
        assert rollout_rows.load(tx, live=True) == [later]
        assert rollout_rows.load(tx, live=False) == []


def test_a_report_writes_one_row(store: Store) -> None:
    rollout = kept(store, None, running())
    first, other = (member.device for member in rollout.cohort[:2])
    with store.write() as tx:
        table = schema.rollout_devices
        tx.execute(sa.update(table).where(table.c.device != first).values(reason="not touched"))
    found = kept(store, rollout, go(rollout, healthy(first)))
    assert found.devices[first].reason == ""
    assert {found.devices[name].reason for name, _ in DEVICES if name != first} == {"not touched"}
    assert found.devices[other].awaited


def test_who_joins_is_kept_with_its_place(store: Store) -> None:
    rollout = kept(store, None, go(plan(), Start()))
    later = go(rollout, Joined("late", "hall"))
    assert kept(store, rollout, later) == later


def test_a_wave_that_opens_writes_no_row_and_comes_back_open(store: Store) -> None:
    rollout = kept(store, None, plan())
    opened = go(rollout, Start())
    assert kept(store, rollout, opened) == opened
    assert list(opened.devices.news) == []
    exposed = {device for device, record in opened.devices.items() if record.since == START}
    assert exposed == {member.device for member in opened.cohort[:3]}
    table = schema.rollout_devices
    with store.read() as tx:
        assert set(tx.scalars(sa.select(table.c.since))) == {None}


def test_an_open_wave_is_brought_to_an_older_store_and_back(folder: Path) -> None:
    with Store(folder) as store:
        store.acquire()
        rollout = kept(store, None, plan())
        gone = go(rollout, Left(rollout.cohort[0].device))
        opened = kept(store, rollout, go(gone, Start()))
    migrate.run(folder, "7")
    migrate.run(folder, migrate.CURRENT)
    with Store(folder) as store, store.read() as tx:
        found = rollout_rows.load_one(tx, rollout.id)
        assert found == opened
        assert (found.devices.opened, found.devices.awaited) == ({}, 2)


def test_staging_and_the_waves_behind_it_write_no_row_of_a_device(folder: Path) -> None:
    with Store(folder) as store:
        store.acquire()
        rollout = kept(store, None, plan(stage="first", settle=0.0))
        started = go(rollout, Start())
        assert (started.devices.news, started.devices.awaited) == ([], started.total)
        started = kept(store, rollout, started)
        *most, last = (member.device for member in rollout.cohort)
        resting = go(started, *(says(device, Terminal.STAGED, OLD) for device in most))
        resting = kept(store, started, resting)
        staged = go(resting, says(last, Terminal.STAGED, OLD))
        assert (staged.wave, staged.devices.news) == (1, [last])
        staged = kept(store, resting, staged)
        again, count = staged.devices.open(2, START + 60)
        assert (again.news, count) == ([], staged.waves[1] - staged.waves[0])
    assert staged.devices.counts == {"pending": staged.waves[0], "staged": staged.total - staged.waves[0]}
    migrate.run(folder, "7")
    migrate.run(folder, migrate.CURRENT)
    with Store(folder) as store, store.read() as tx:
        found = rollout_rows.load_one(tx, rollout.id)
        assert found == staged
        assert (found.devices.opened, found.devices.counts) == ({}, staged.devices.counts)


def test_lists_read_the_sums_of_devices_and_no_device(store: Store) -> None:
    live = kept(store, None, running())
    with store.read() as tx:
        (one,) = rollout_rows.summaries(tx, live=True)
        assert rollout_rows.summaries(tx, live=False) == []
    assert (one.counts, one.rollout.state) == (live.devices.counts, live.state)
    device, group = live.cohort[0]
    over = kept(store, live, go(live, healthy(device), Cancel()))
    asked: list[str] = []
    sa.event.listen(store.database.reading, "before_cursor_execute", lambda *args: asked.append(args[2]))
    with store.read() as tx:
        (one,) = rollout_rows.summaries(tx, live=False, component="kiosk", limit=5)
        assert rollout_rows.summaries(tx, live=False, component="other") == []
    assert asked
    assert not any("rollout_devices" in text or "cohort" in text for text in asked)
    assert one.rollout == replace(over, cohort=(), devices=DeviceTable({}))
    assert one.counts == over.devices.counts
    assert (one.sums[group]["healthy"], sum(one.counts.values())) == (1, over.total)


def test_rollouts_of_an_older_store_are_brought_along_and_back(folder: Path) -> None:
    rollout = go(running(), healthy(running().cohort[0].device))
    with Store(folder) as store:
        store.acquire()
        kept(store, None, rollout)
    migrate.run(folder, "5")
    migrate.run(folder, migrate.CURRENT)
    with Store(folder) as store, store.read() as tx:
        assert rollout_rows.load_one(tx, rollout.id) == rollout
        (one,) = rollout_rows.summaries(tx, live=True)
        assert one.counts == rollout.devices.counts


def test_sums_of_ended_rollouts_are_brought_along_by_group(folder: Path) -> None:
    with Store(folder) as store:
        store.acquire()
        over = kept(store, None, go(running(), Cancel()))
        with store.read() as tx:
            (before,) = rollout_rows.summaries(tx, live=False)
    migrate.run(folder, "6")
    migrate.run(folder, migrate.CURRENT)
    with Store(folder) as store, store.read() as tx:
        (after,) = rollout_rows.summaries(tx, live=False)
    assert (after.sums, after.counts) == (before.sums, over.devices.counts)
    assert set(after.sums) == {"hall", "yard"}

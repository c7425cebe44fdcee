"""Rollouts in the store: they come back as they were, and a report writes one row."""

from pathlib import Path

import sqlalchemy as sa
from tests.manager.rollouts import DEVICES, go, healthy, plan, running

from fleetfoot_manager import migrate, rollout_rows, schema
from fleetfoot_manager.rollout import Joined, Rollout, Start
from fleetfoot_manager.store import Store


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


def test_rollouts_of_an_older_store_are_brought_along_and_back(folder: Path) -> None:
    rollout = go(running(), healthy(running().cohort[0].device))
    with Store(folder) as store:
        store.acquire()
        kept(store, None, rollout)
    migrate.run(folder, "5")
    migrate.run(folder, migrate.CURRENT)
    with Store(folder) as store, store.read() as tx:
        assert rollout_rows.load_one(tx, rollout.id) == rollout

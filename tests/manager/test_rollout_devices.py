"""A rollout's table of devices: its sums are what counting gives, and its news what is not stored yet."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.manager.rollouts import START, T, plan, running

from fleetfoot_manager.rollout import DeviceRecord, DeviceTable

MARKS = ("all", "success", "left", "passive", "waiting", "due", "moving", "rests staged", "rests silent", *T)
#: One of each kind that a rollout knows, in two waves and behind them.
KINDS = {
    "fresh": DeviceRecord(1),
    "there": DeviceRecord(1, T.SKIPPED, on_goal=True),
    "ahead": DeviceRecord(1, T.SKIPPED),
    "left": DeviceRecord(1, T.SKIPPED, gone=True),
    "asked": DeviceRecord(1, since=4.0),
    "works": DeviceRecord(1, T.ACTIVE, since=4.0),
    "tries": DeviceRecord(1, T.ACTIVE, since=3.0, on_goal=True),
    "well": DeviceRecord(1, T.HEALTHY, since=2.0, on_goal=True),
    "moved on": DeviceRecord(1, T.HEALTHY, since=2.0),
    "fell": DeviceRecord(1, T.FAILED, since=2.0, on_goal=True),
    "back": DeviceRecord(1, T.ROLLED_BACK, since=2.0),
    "mute": DeviceRecord(1, T.SILENT, since=2.0, on_goal=True, gone=True),
    "later": DeviceRecord(2),
    "later there": DeviceRecord(2, T.SKIPPED, on_goal=True),
    "later canceled": DeviceRecord(2, T.CANCELED),
    "beyond": DeviceRecord(0, T.SKIPPED, on_goal=True),
}


def facts(table: DeviceTable) -> dict[str, Any]:
    """What the table keeps count of."""
    return {
        "counts": table.counts,
        "failures": table.failures,
        "awaited": table.awaited,
        "first": table.first_awaited,
        "moved": table.moved,
        "left": table.left,
        "marks": {(wave, mark): table.sum(mark, [wave]) for wave in (0, 1, 2) for mark in MARKS},
    }


def is_marked(record: DeviceRecord, mark: str) -> bool:
    waiting = record.since is None and not record.gone
    return {
        "all": True,
        "success": record.success,
        "left": record.success and not record.on_goal,
        "passive": record.terminal is T.SKIPPED and not record.gone,
        "waiting": waiting,
        "due": waiting and record.terminal is T.PENDING,
        "moving": waiting and record.on_goal,
        "rests staged": record.terminal is T.STAGED and not record.gone,
        "rests silent": record.terminal is T.SILENT and not record.gone,
    }.get(mark, record.terminal == mark)


def counted(records: Mapping[str, DeviceRecord]) -> dict[str, Any]:
    """The same, one device after the other."""
    ones = list(records.values())
    awaited = [record.since for record in ones if record.awaited]
    return {
        "counts": dict(Counter(str(record.terminal) for record in ones)),
        "failures": sum(record.terminal in (T.FAILED, T.ROLLED_BACK) for record in ones),
        "awaited": len(awaited),
        "first": min((since for since in awaited if since is not None), default=None),
        "moved": sum(record.moved for record in ones),
        "left": sum(record.success and not record.on_goal for record in ones),
        "marks": {
            (wave, mark): sum(record.wave == wave and is_marked(record, mark) for record in ones)
            for wave in (0, 1, 2)
            for mark in MARKS
        },
    }


def test_what_is_said_of_a_record() -> None:
    said = {name: (one.awaited, one.success, one.moved) for name, one in KINDS.items()}
    assert [name for name, (awaited, _, _) in said.items() if awaited] == ["asked", "works", "tries"]
    assert [name for name, (_, success, _) in said.items() if success] == [
        "there", "well", "moved on", "later there", "beyond",
    ]  # fmt: skip
    assert [name for name, (_, _, moved) in said.items() if moved] == ["works", "tries", "well", "fell"]


def test_the_sums_are_what_counting_gives_however_the_table_came_about() -> None:
    table = DeviceTable(KINDS)
    tables = [table]
    tables.append(tables[-1].put({"works": DeviceRecord(1, T.HEALTHY, since=4.0, on_goal=True)}))
    tables.append(tables[-1].put({"asked": DeviceRecord(1, T.FAILED, since=4.0), "new": DeviceRecord(2)}))
    tables.append(tables[-1].put({"tries": DeviceRecord(1, T.SILENT, since=3.0)}))
    assert tables[-1].first_awaited is None
    for wave, at in ((1, 10.0), (1, 15.0), (2, 20.0)):
        tables.append(tables[-1].open(wave, at)[0])
    tables.append(tables[-1].put({"fresh": DeviceRecord(1, T.HEALTHY, since=10.0, on_goal=True)}))
    tables.append(table.open(2, 30.0)[0])
    for one in tables:
        assert facts(one) == counted(one)
        anew = DeviceTable(dict(one.items()), one.opened)
        assert (anew, facts(anew), anew.opened) == (one, facts(one), one.opened)


def test_while_all_stage_everybody_is_asked_and_once_more_by_the_wave_that_activates() -> None:
    staging, count = DeviceTable(KINDS).open(0, 10.0)
    assert (count, staging.opened) == (6, {0: 10.0})
    assert {name for name, record in staging.items() if record.since == 10.0} == {
        "fresh", "there", "ahead", "later", "later there", "later canceled",
    }  # fmt: skip
    staged = staging.put(
        {
            "fresh": DeviceRecord(1, T.STAGED, since=10.0, ended=11.0),
            "asked": DeviceRecord(1, T.SILENT, reason="no answer", since=4.0, ended=11.0),
            "later": DeviceRecord(2, T.STAGED, since=10.0, ended=11.0),
            "new": DeviceRecord(2, T.SILENT, since=10.0, ended=11.0),
        }
    )
    first, count = staged.open(1, 20.0)
    asked, again = math.nextafter(20, math.inf), math.nextafter(30, math.inf)
    assert count == 2
    assert (first["fresh"], first["asked"]) == (DeviceRecord(1, since=asked), DeviceRecord(1, since=asked))
    assert (first["later"], first["mute"]) == (staged["later"], KINDS["mute"])
    mute = first.put({"fresh": DeviceRecord(1, T.SILENT, since=asked, ended=25.0)})
    assert mute["fresh"].terminal is T.SILENT, "it was asked already"
    second, count = mute.open(2, 30.0)
    assert (count, second["later"], second["new"]) == (
        2,
        DeviceRecord(2, since=again),
        DeviceRecord(2, since=again),
    )
    for one in (staging, staged, first, mute, second):
        assert facts(one) == counted(one)
        assert facts(DeviceTable(dict(one.items()), one.opened)) == facts(one)


def test_who_is_silent_from_the_moment_on_in_which_the_wave_opens_is_asked_again_by_it() -> None:
    """Everybody is offline and not waited for: staging and first wave open at one moment."""
    staging, _ = DeviceTable({"away": DeviceRecord(1), "later": DeviceRecord(2)}).open(0, 10.0)
    silent = {
        name: DeviceRecord(w, T.SILENT, since=10.0, ended=10.0) for w, name in ((1, "away"), (2, "later"))
    }
    first, count = staging.put(silent).open(1, 10.0)
    assert (count, first["away"].terminal, first["later"]) == (1, T.PENDING, silent["later"])
    assert facts(first) == counted(first)
    still = first.put({"away": replace(first["away"], terminal=T.SILENT)})
    assert (still["away"].terminal, facts(still)) == (T.SILENT, counted(still))


def test_a_wave_exposes_whom_it_admits_once_and_no_one_who_left() -> None:
    first, count = DeviceTable(KINDS).open(1, 10.0)
    assert count == 3
    assert {name for name, record in first.items() if record.since == 10.0} == {"fresh", "there", "ahead"}
    assert (first["beyond"].since, first["left"].since, first["later"].since) == (None, None, None)
    second, count = first.open(2, 20.0)
    assert count == 3
    assert second.opened == {1: 10.0, 2: 20.0}
    assert (second["fresh"].since, second["later"].since) == (10.0, 20.0)
    assert second.open(2, 30.0) == (second, 0)


def test_what_came_of_nothing_leaves_no_trace_when_a_wave_opens_again() -> None:
    """A decision that could not be stored is made anew, later, from the same table."""
    table = plan().devices
    for at in (1.0, 2.0):
        opened, count = table.open(1, at)
        assert (count, opened.first_awaited) == (3, at)
        assert {record.since for record in opened.values()} == {None, at}


def test_news_are_the_records_that_were_not_kept_yet() -> None:
    table = DeviceTable({"b": DeviceRecord(1), "a": DeviceRecord(1)})
    assert table.news == ["a", "b"]
    kept = table.kept()
    assert (kept.news, kept) == ([], table)
    assert table.news == ["a", "b"], "the table itself is as it was"
    opened, _ = kept.open(1, 1.0)
    assert opened.news == [], "that is one fact, and kept once"
    changed = opened.put({"b": DeviceRecord(1, T.ACTIVE, since=1.0)}).put({"c": DeviceRecord(2)})
    assert changed.news == ["b", "c"]
    assert changed.put({"c": DeviceRecord(2)}) is changed
    assert changed.kept().news == []


def test_a_table_is_a_mapping_and_shows_its_records() -> None:
    table = DeviceTable({"a": DeviceRecord(1)}, {1: 5.0})
    (only,) = table
    assert (only, len(table), "a" in table, "b" in table, table.get("b")) == ("a", 1, True, False, None)
    assert repr(table) == f"DeviceTable({{'a': {DeviceRecord(1, since=5.0)!r}}})"
    with pytest.raises(KeyError):
        table["b"]


def test_devices_share_what_they_have_in_common() -> None:
    records = list(running().devices.values())
    assert len({id(record) for record in records if record.since == START}) == 1

"""What a device does with its orders: holds, waves, targets, retries, and what has expired."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import DEVICE, Stock, blob_of, name_of
from tests.agent.workerrig import Rig, hurry, make_rig, running
from tests.support.fleet import everybody

from fleetfoot_agent.layout import Trial
from fleetfoot_agent.spool import BlobState
from fleetfoot_agent.worker import platform_facts
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict

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


# -- the course of an order


def test_blobs_are_asked_for_at_the_release_s_sources_first_and_then_at_the_mirror(
    rig: Rig, stock: Stock
) -> None:
    base = stock["1.1.0"].release.artifacts[0].model_dump()
    bundle = stock.changed(stock["1.1.0"], artifacts=(base | {"sources": ("https://127.0.0.2/r/",)},))
    rig.served = False
    rig.send(bundle.envelope, f"manifest.{bundle.digest}")
    rig.send(stock.order(2, everybody("r-1", bundle.goal()), mirror="http://127.0.0.1:9/m"))
    rig.run()
    want = rig.courier.read_want()
    assert want is not None
    for blob in want.blobs:
        assert blob.urls == (f"https://127.0.0.2/r/{blob.sha256}", f"http://127.0.0.1:9/m/{blob.sha256}")
    assert {(b.sha256, b.length) for b in want.blobs} == {
        (base["sha256"], base["length"]),
        (base["index_sha256"], 32),
    }


def test_a_release_that_nobody_offers_is_tried_again_later(rig: Rig, stock: Stock) -> None:
    rig.send(stock["1.1.0"].envelope, f"manifest.{stock['1.1.0'].digest}")
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal()), mirror=None))
    rig.run()
    record = rig.record()
    assert record.outcomes[-1].code == Code.UPGRADE_DOWNLOAD_FAILED
    assert record.retry is not None


def test_a_hold_while_downloading_abandons_the_work_until_it_is_lifted(rig: Rig, stock: Stock) -> None:
    rig.begin_download(stock["1.1.0"])
    rig.send(stock.order(3, everybody("r-1", stock["1.1.0"].goal(), hold=True)))
    rig.run()
    assert rig.record().state is L.IDLE
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_ON_HOLD)
    assert rig.component().state is L.WAITING
    assert rig.told().count("upgrade_deferred upgrade_on_hold") == 1
    assert rig.wanted() == set()
    rig.send(stock.order(4, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.1.0"])


@pytest.mark.parametrize("held", ["document", "target"])
def test_who_has_not_begun_does_not_begin_under_a_hold(rig: Rig, stock: Stock, held: str) -> None:
    target = everybody("r-1", stock["1.1.0"].goal(), hold=held == "target")
    rig.send(stock.order(2, target, hold=held == "document"))
    rig.run()
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_ON_HOLD)
    assert rig.asked_for == set()


def test_an_order_for_something_else_takes_the_place_of_unfinished_work(rig: Rig, stock: Stock) -> None:
    rig.begin_download(stock["1.1.0"])
    rig.send(stock.order(3, everybody("r-2", stock["1.2.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.2.0"])
    assert blob_of(stock["1.1.0"]) not in rig.wanted()
    assert [o.rollout for o in rig.record().outcomes] == [None, "r-2"]
    assert rig.told().count("upgrade_deferred upgrade_superseded") == 1


def test_a_download_whose_order_is_taken_back_ends_and_says_so(rig: Rig, stock: Stock) -> None:
    rig.begin_download(stock["1.1.0"])
    rig.send(stock.order(3))
    rig.run()
    assert rig.record().state is L.IDLE
    assert rig.told()[-1] == "upgrade_deferred upgrade_canceled"
    assert rig.wanted() == set()


def test_a_staged_release_waits_for_its_cut_to_widen(rig: Rig, stock: Stock) -> None:
    staged = everybody("r-1", stock["1.1.0"].goal(), activate_cut="0" * 16)
    rig.send(stock.order(2, staged))
    rig.run()
    assert rig.record().state is L.STAGED
    assert rig.record().outcomes[-1].outcome is Outcome.STAGED
    assert rig.runs(stock["1.0.0"])
    assert rig.problem_of(f"versions/{name_of(stock['1.1.0'])}") == ""
    rig.run()
    assert len(rig.record().outcomes) == 2  # told once
    rig.asked_for.clear()
    rig.send(stock.order(3, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.asked_for == set()
    assert [o.outcome for o in rig.record().outcomes[1:]] == [Outcome.STAGED, Outcome.COMPLETED]


def test_what_was_staged_stays_for_a_later_order(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal(), activate_cut="0" * 16)))
    rig.run()
    rig.send(stock.order(3))
    rig.run()
    assert rig.record().state is L.IDLE
    rig.asked_for.clear()
    rig.send(stock.order(4, everybody("r-2", stock["1.1.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.asked_for == set()


def test_a_staged_tree_that_was_changed_is_fetched_again(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal(), activate_cut="0" * 16)))
    rig.run()
    rig.send(stock.order(3))
    rig.run()
    tree = rig.layout.tree(name_of(stock["1.1.0"]))
    (tree / "share" / "version").write_text("6.6.6\n")
    rig.asked_for.clear()
    rig.send(stock.order(4, everybody("r-2", stock["1.1.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert blob_of(stock["1.1.0"]) in rig.asked_for
    assert rig.problem_of(f"versions/{tree.name}") == ""


def test_the_first_target_that_admits_decides(rig: Rig, stock: Stock) -> None:
    others = everybody("r-1", stock["1.2.0"].goal(), selector={"site": "south"})
    shut = everybody("r-2", stock["1.2.0"].goal(), stage_cut="0" * 16, activate_cut="0" * 16)
    listed = replace_target(shut, rollout="r-3", goal=stock["1.1.0"].goal(), include=(DEVICE,))
    rig.send(stock.order(2, others, shut, listed))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.component().rollout == "r-3"


def replace_target(target: Any, **changes: Any) -> Any:
    return target.model_copy(update=changes)


def test_the_device_s_own_document_outranks_the_group_s_until_it_is_released(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(2, baseline=stock["1.2.0"].goal()))
    rig.send(stock.order(1, device=DEVICE, baseline=stock["1.1.0"].goal()), "own.kiosk")
    rig.run()
    assert rig.runs(stock["1.1.0"])
    answered = rig.component().answered
    assert answered is not None
    assert (answered.scope, answered.sequence) == ("own", 1)
    rig.send(stock.order(2, device=DEVICE, released=True), "own.kiosk")
    rig.run()
    assert rig.runs(stock["1.2.0"])
    answered = rig.component().answered
    assert answered is not None
    assert (answered.scope, answered.sequence) == ("group", 2)


def test_an_own_document_without_a_goal_pins_the_device(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(1, device=DEVICE), "own.kiosk")
    rig.send(stock.order(2, baseline=stock["1.2.0"].goal()))
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.component().reason == "pinned"


def test_a_device_ahead_stays_unless_the_goal_is_exact(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.2.0"])
    rig.send(stock.order(3, baseline=stock["1.1.0"].goal()))
    rig.run()
    assert rig.runs(stock["1.2.0"])
    assert rig.component().reason == "ahead"
    rig.send(stock.order(4, baseline=stock["1.1.0"].goal(mode="exactly")))
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_nothing_below_the_floor_is_installed(rig: Rig, stock: Stock) -> None:
    raised = stock.changed(stock["1.2.0"], min_counter=stock["1.1.0"].release.counter + 1)
    rig.deliver(2, raised)
    assert rig.record().floor == raised.release.min_counter
    rig.send(stock.order(3, baseline=stock["1.1.0"].goal(mode="exactly")))
    rig.run()
    assert rig.runs(raised)
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_BELOW_FLOOR)


# -- failures and retries


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("upgrade_download_failed", Code.UPGRADE_DOWNLOAD_FAILED),
        ("upgrade_disk_full", Code.UPGRADE_DISK_FULL),
        ("something_new", Code.UPGRADE_DOWNLOAD_FAILED),
    ],
)
def test_a_download_that_was_given_up_is_tried_again_later(
    rig: Rig, stock: Stock, told: str, code: Code
) -> None:
    rig.begin_download(stock["1.1.0"])
    rig.courier.write_blob_state(blob_of(stock["1.1.0"]), BlobState(3, told, "http://127.0.0.1:9"))
    rig.run()
    record = rig.record()
    assert (record.state, record.refused) == (L.IDLE, {})
    assert record.outcomes[-1].code == code
    assert record.retry is not None
    wake = rig.courier.read_wake_at()
    assert wake is not None
    assert wake.wall == record.retry.at
    assert rig.wanted() == set()  # so that the courier forgets the failure, too
    rig.run()
    assert rig.record() == record


def test_after_the_wait_the_work_begins_again(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.begin_download(stock["1.1.0"])
    rig.courier.write_blob_state(blob_of(stock["1.1.0"]), BlobState(3, "upgrade_download_failed", "x"))
    rig.run()
    retry = rig.record().retry
    assert retry is not None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + retry.at - real() + 1)
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_a_clock_that_was_set_back_does_not_keep_the_device_waiting(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 70 * 365 * 86400)
        rig.begin_download(stock["1.1.0"])
        rig.courier.write_blob_state(blob_of(stock["1.1.0"]), BlobState(3, "upgrade_download_failed", "x"))
        rig.run()
        assert rig.record().retry is not None
    rig.run()
    assert rig.runs(stock["1.1.0"])


def spoil(rig: Rig, sha256: str, data: bytes) -> None:
    with rig.courier.open_blob(sha256) as blob:
        blob.truncate(0)
        blob.write(data)


@pytest.mark.parametrize("which", ["index", "artifact"])
def test_bytes_that_were_not_signed_are_refused_at_this_attempt(rig: Rig, stock: Stock, which: str) -> None:
    bundle = stock["1.1.0"]
    rig.begin_download(stock["1.1.0"])
    rig.carry()
    facts = bundle.release.artifacts[0]
    sha, length = (
        (facts.index_sha256, facts.index_length) if which == "index" else (facts.sha256, facts.length)
    )
    spoil(rig, sha, bytes(length))
    rig.run()
    record = rig.record()
    assert record.refused == {bundle.digest: 1}
    assert record.outcomes[-1].code == Code.UPGRADE_CHECKSUM_MISMATCH
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_REFUSED_BEFORE)
    assert rig.runs(stock["1.0.0"])
    assert list(rig.layout.staging.iterdir()) == []
    assert not rig.layout.is_installed(name_of(bundle))


def test_another_attempt_installs_what_was_refused(rig: Rig, stock: Stock) -> None:
    bundle = stock["1.1.0"]
    rig.behaviour["1.1.0"] = "dies"
    rig.deliver(2, bundle)
    assert rig.record().refused == {bundle.digest: 1}
    rig.behaviour.clear()
    rig.run()
    assert rig.runs(stock["1.0.0"])
    rig.send(stock.order(3, everybody("r-1", bundle.goal(attempt=2))))
    rig.run()
    assert rig.runs(bundle)
    assert rig.record().refused == {}
    assert [(o.attempt, o.outcome) for o in rig.record().outcomes[1:]] == [
        (1, Outcome.ROLLED_BACK),
        (2, Outcome.COMPLETED),
    ]


def test_another_attempt_is_not_misled_by_a_trial_that_could_not_be_removed(rig: Rig, stock: Stock) -> None:
    bundle = stock["1.1.0"]
    rig.behaviour["1.1.0"] = "dies"
    rig.deliver(2, bundle)
    old, new = (f"versions/{name_of(stock[v])}" for v in ("1.0.0", "1.1.0"))
    rig.layout.write_trial(Trial(3, 3, old, new))  # as it stays where the disk refuses to unlink
    rig.behaviour.clear()
    rig.send(stock.order(3, everybody("r-1", bundle.goal(attempt=2))))
    rig.run()
    assert rig.runs(bundle)


def test_a_manifest_of_another_version_than_ordered_is_refused(rig: Rig, stock: Stock) -> None:
    bundle = stock["1.1.0"]
    rig.send(stock.order(2, everybody("r-1", bundle.goal(counter=77))))
    rig.run()
    answer = rig.component().answered
    assert answer is not None
    assert (answer.verdict, answer.code) == (Verdict.REJECTED, Code.UPGRADE_RELEASE_MISMATCH)
    assert rig.asked_for == set()
    assert rig.runs(stock["1.0.0"])
    # It was the order's fault: nothing is held against the release, which a good order may name.
    assert rig.record().refused == {}
    rig.deliver(3, bundle)
    assert rig.runs(bundle)


# -- expired documents


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def trust(trusted: bool) -> None:
        monkeypatch.setattr(platform_facts, "clock_trusted", lambda: trusted)

    return trust


def lapsed(rig: Rig) -> None:
    """An order that a clock would call expired since an hour."""
    now = time.time()
    order = everybody("r-1", rig.stock["1.1.0"].goal())
    facts = {"issued": times.to_text(now - 7200), "expires": times.to_text(now - 3600)}
    rig.send(rig.stock.order(2, order, **facts))


def test_a_clock_that_cannot_be_trusted_expires_nothing(
    rig: Rig, stock: Stock, clock: Callable[[bool], None]
) -> None:
    clock(False)
    lapsed(rig)
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_an_expired_order_is_not_obeyed_and_said_to_be_expired(
    rig: Rig, stock: Stock, clock: Callable[[bool], None]
) -> None:
    clock(True)
    lapsed(rig)
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_EXPIRED)
    assert rig.told()[-1] == "upgrade_rejected upgrade_expired"


def test_signed_time_expires_an_order_whatever_the_clock_says(
    rig: Rig, stock: Stock, clock: Callable[[bool], None]
) -> None:
    clock(False)
    now = time.time()
    rig.send(stock.heartbeat(now - 1800, now + 3600), "heartbeat")
    lapsed(rig)
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_EXPIRED)
    assert rig.status().clock.floor == times.to_text(now - 1800)


def test_an_expired_own_document_gives_way_to_the_group_s(
    rig: Rig, stock: Stock, clock: Callable[[bool], None]
) -> None:
    clock(True)
    now = time.time()
    rig.send(stock.order(1, device=DEVICE, expires=times.to_text(now - 1)), "own.kiosk")
    rig.deliver(2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])


# -- the record in the status


def test_the_status_of_a_component_is_its_record(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    record, found = rig.record(), rig.component()
    assert (found.running, found.previous, found.floor) == (record.run, record.prev, record.floor)
    assert (found.state, found.refused, found.outcomes) == (L.IDLE, record.refused, record.outcomes)
    assert (found.rollout, found.attempt, found.target) == ("r-1", 1, stock["1.1.0"].digest)


def test_an_empty_device_says_that_nothing_runs(stock: Stock, tmp_path: Path) -> None:
    rig = make_rig(tmp_path, stock)
    rig.run()
    found = rig.component()
    assert (found.running, found.state, found.answered) == (None, L.IDLE, None)
    assert not rig.layout.journal.exists()

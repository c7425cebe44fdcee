"""What a device does with its orders: policy, holds, waves, retries, ways back, lost journals, bad disks."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.agent.workerrig import DEVICE, Crash, Rig, Stock, everybody, hurry, make_rig
from tests.support.fleet import Bundle

from fleetfoot_agent import durable
from fleetfoot_agent.layout import Layout, Trial, version_name
from fleetfoot_agent.spool import BlobState
from fleetfoot_agent.worker import platform_facts
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.reports import Installed
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
    """A device that runs 1.0.0 and could be brought 1.1.0 and 1.2.0."""
    found = make_rig(tmp_path, stock)
    found.install_first(stock["1.0.0"])
    found.offer(stock["1.1.0"], stock["1.2.0"])
    found.asked_for.clear()
    return found


def name_of(bundle: Bundle) -> str:
    return version_name(bundle.release.version, bundle.digest)


def blob_of(bundle: Bundle) -> str:
    return bundle.release.artifacts[0].sha256


def deliver(rig: Rig, sequence: int, bundle: Bundle, **changes: Any) -> None:
    """Order `bundle` for everybody, offer it, and let the device do what it will."""
    rig.offer(bundle)
    rig.send(rig.stock.order(sequence, everybody("r-1", bundle.goal(), **changes)))
    rig.run()


# -- local policy: answered, and nothing is fetched

Change = Callable[[Stock], Bundle]


def plain(version: str) -> Change:
    return lambda stock: stock[version]


def changed(**changes: Any) -> Change:
    return lambda stock: stock.changed(stock["1.1.0"], **changes)


def artifact(**changes: Any) -> Change:
    def change(stock: Stock) -> Bundle:
        base = stock["1.1.0"].release.artifacts[0].model_dump()
        return stock.changed(stock["1.1.0"], artifacts=(base | changes,))

    return change


POLICIES: dict[str, tuple[dict[str, Any], Change, Code]] = {
    "disabled": ({"enabled": False}, plain("1.1.0"), Code.UPGRADE_DISABLED),
    "pinned": ({"policy": 'pins = {kiosk = "1.0.0"}'}, plain("1.1.0"), Code.UPGRADE_PINNED),
    "channel": ({}, changed(channel="beta"), Code.UPGRADE_CHANNEL_NOT_ALLOWED),
    "min_version": ({"policy": 'min_version = "1.1.1"'}, plain("1.1.0"), Code.UPGRADE_VERSION_TOO_OLD),
    "hop": ({}, plain("3.0.0"), Code.UPGRADE_HOP_REQUIRED),
    "agent": ({}, changed(min_agent="99.0.0"), Code.UPGRADE_AGENT_TOO_OLD),
    "machine": ({}, artifact(arch="s390x"), Code.UPGRADE_NO_MATCHING_ARTIFACT),
    "libc": ({}, artifact(libc="other"), Code.UPGRADE_NO_MATCHING_ARTIFACT),
    "hardware": ({}, artifact(hw=("rev-b",)), Code.UPGRADE_INCOMPATIBLE),
    "reserve": ({"policy": f"disk_reserve = {2**52}"}, plain("1.1.0"), Code.UPGRADE_DISK_FULL),
}


@pytest.mark.parametrize("case", POLICIES)
def test_what_policy_refuses_is_answered_and_costs_nothing(rig: Rig, stock: Stock, case: str) -> None:
    policy, make, code = POLICIES[case]
    rig.obey(**policy)
    before = rig.record()
    deliver(rig, 2, make(stock))
    assert rig.answer() == (Verdict.REJECTED, code)
    assert rig.asked_for == set()
    assert rig.record() == before
    assert "upgrade" in rig.status().capabilities
    assert rig.told()[-1] == f"upgrade_rejected {code}"
    told, journal = rig.told(), rig.layout.journal.stat().st_mtime_ns
    rig.run()
    # Asked again it says the same, and writes nothing.
    assert (rig.told(), rig.layout.journal.stat().st_mtime_ns) == (told, journal)
    assert rig.answer() == (Verdict.REJECTED, code)


@pytest.mark.parametrize("case", ["disabled", "pinned", "min_version", "reserve"])
def test_what_policy_permits_later_is_done_then(rig: Rig, stock: Stock, case: str) -> None:
    policy, make, _ = POLICIES[case]
    rig.obey(**policy)
    deliver(rig, 2, make(stock))
    rig.obey()
    rig.run()
    assert rig.runs(make(stock))


def test_room_for_the_release_is_looked_for_before_anything_is_begun(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.obey(policy="disk_reserve = 1000")
    monkeypatch.setattr(platform_facts, "free_bytes", lambda *_: 1200)
    deliver(rig, 2, stock["1.1.0"])
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_DISK_FULL)
    assert rig.asked_for == set()
    journal = rig.layout.journal.stat().st_mtime_ns
    rig.run()
    assert rig.layout.journal.stat().st_mtime_ns == journal
    monkeypatch.setattr(platform_facts, "free_bytes", lambda *_: 100_000)
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_a_device_that_is_disabled_says_so_also_before_it_knows_the_manifest(rig: Rig, stock: Stock) -> None:
    rig.obey(enabled=False)
    rig.served = False
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_DISABLED)
    want = rig.courier.read_want()
    assert want is not None
    assert (want.manifests, want.blobs) == ((), ())
    assert not rig.status().policy.enabled


@pytest.mark.parametrize("settings", [{"enabled": False}, {"policy": 'pins = {kiosk = "1.1.0"}'}])
def test_local_policy_stops_even_a_return_and_that_is_an_alarm(
    rig: Rig, stock: Stock, settings: dict[str, Any]
) -> None:
    deliver(rig, 2, stock["1.1.0"])
    rig.obey(**settings)
    rig.send(stock.order(3, withdrawn=(stock["1.1.0"].digest,)))
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.status().alarms == (Code.UPGRADE_NO_WAY_BACK,)
    rig.run()
    assert rig.told().count("alarm upgrade_no_way_back") == 1
    rig.obey()
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.status().alarms == ()


def test_a_policy_that_changes_while_downloading_stops_the_work(rig: Rig, stock: Stock) -> None:
    begin_download(rig, stock)
    rig.obey(enabled=False)
    rig.run()
    assert rig.record().state is L.IDLE
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_DISABLED)


# -- the course of an order


def begin_download(rig: Rig, stock: Stock, version: str = "1.1.0", **changes: Any) -> None:
    """Bring the device to wait for the blobs of `version`."""
    bundle = stock[version]
    rig.send(stock.order(2, everybody("r-1", bundle.goal(), **changes)))
    rig.send(bundle.envelope, f"manifest.{bundle.digest}")
    rig.served = False
    rig.run()
    assert rig.record().state is L.DOWNLOADING
    assert wanted(rig) == {blob_of(bundle), bundle.release.artifacts[0].index_sha256}
    rig.served = True


def wanted(rig: Rig) -> set[str]:
    want = rig.courier.read_want()
    assert want is not None
    return {blob.sha256 for blob in want.blobs}


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
    begin_download(rig, stock)
    rig.send(stock.order(3, everybody("r-1", stock["1.1.0"].goal(), hold=True)))
    rig.run()
    assert rig.record().state is L.IDLE
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_ON_HOLD)
    assert rig.component().state is L.WAITING
    assert rig.told().count("upgrade_deferred upgrade_on_hold") == 1
    assert wanted(rig) == set()
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
    begin_download(rig, stock)
    rig.send(stock.order(3, everybody("r-2", stock["1.2.0"].goal())))
    rig.run()
    assert rig.runs(stock["1.2.0"])
    assert blob_of(stock["1.1.0"]) not in wanted(rig)
    assert [o.rollout for o in rig.record().outcomes] == [None, "r-2"]


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
    deliver(rig, 2, stock["1.2.0"])
    rig.send(stock.order(3, baseline=stock["1.1.0"].goal()))
    rig.run()
    assert rig.runs(stock["1.2.0"])
    assert rig.component().reason == "ahead"
    rig.send(stock.order(4, baseline=stock["1.1.0"].goal(mode="exactly")))
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_nothing_below_the_floor_is_installed(rig: Rig, stock: Stock) -> None:
    raised = stock.changed(stock["1.2.0"], min_counter=stock["1.1.0"].release.counter + 1)
    deliver(rig, 2, raised)
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
    begin_download(rig, stock)
    rig.courier.write_blob_state(blob_of(stock["1.1.0"]), BlobState(3, told, "http://127.0.0.1:9"))
    rig.run()
    record = rig.record()
    assert (record.state, record.refused) == (L.IDLE, {})
    assert record.outcomes[-1].code == code
    assert record.retry is not None
    wake = rig.courier.read_wake_at()
    assert wake is not None
    assert wake.wall == record.retry.at
    assert wanted(rig) == set()  # so that the courier forgets the failure, too
    rig.run()
    assert rig.record() == record


def test_after_the_wait_the_work_begins_again(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_download(rig, stock)
    rig.courier.write_blob_state(blob_of(stock["1.1.0"]), BlobState(3, "upgrade_download_failed", "x"))
    rig.run()
    retry = rig.record().retry
    assert retry is not None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + retry.at - real() + 1)
    rig.run()
    assert rig.runs(stock["1.1.0"])


def spoil(rig: Rig, sha256: str, data: bytes) -> None:
    with rig.courier.open_blob(sha256) as blob:
        blob.truncate(0)
        blob.write(data)


@pytest.mark.parametrize("which", ["index", "artifact"])
def test_bytes_that_were_not_signed_are_refused_at_this_attempt(rig: Rig, stock: Stock, which: str) -> None:
    bundle = stock["1.1.0"]
    begin_download(rig, stock)
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
    deliver(rig, 2, bundle)
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
    deliver(rig, 2, bundle)
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
    deliver(rig, 3, bundle)
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
    deliver(rig, 2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])


# -- activation and return


def test_without_a_supervisor_nothing_is_activated(rig: Rig, stock: Stock) -> None:
    rig.machine.unreachable = True
    deliver(rig, 2, stock["1.1.0"])
    rig.machine.unreachable = False
    assert rig.runs(stock["1.0.0"])
    assert rig.record().outcomes[-1].code == Code.UPGRADE_IO_ERROR
    assert rig.record().retry is not None
    assert rig.layout.read_trial() is None


def test_two_bad_versions_are_an_alarm_that_the_next_good_one_heals(rig: Rig, stock: Stock) -> None:
    rig.behaviour |= {"1.1.0": "dies", "1.0.0": "unready"}
    deliver(rig, 2, stock["1.1.0"])
    assert rig.status().alarms == (Code.UPGRADE_BOTH_BAD,)
    found = rig.component()
    assert found.last_error is not None
    assert found.last_error.code == Code.UPGRADE_BOTH_BAD
    assert rig.layout.read_current() == f"versions/{name_of(stock['1.0.0'])}"
    assert rig.layout.read_trial() is None
    deliver(rig, 3, stock["1.2.0"])
    assert rig.runs(stock["1.2.0"])
    assert rig.status().alarms == ()


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


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
    deliver(rig, 2, stock["1.1.0"])
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
    deliver(rig, 2, stock["1.1.0"])
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
    deliver(rig, 2, stock["1.1.0"])
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
    deliver(rig, 2, stock["1.1.0"])
    assert rig.layout.read_current() is None
    assert (rig.record().run, rig.record().refused) == (None, {stock["1.1.0"].digest: 1})
    assert rig.machine.state().target is None
    deliver(rig, 3, stock["1.2.0"])
    assert rig.runs(stock["1.2.0"])


def test_what_is_withdrawn_while_it_proves_itself_is_left_at_once(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.obey(window=3600)
    withdrawn = stock.order(3, withdrawn=(stock["1.1.0"].digest,))
    rig.machine.before_restart = once(lambda: rig.send(withdrawn))
    deliver(rig, 2, stock["1.1.0"])
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
    deliver(rig, 2, stock["1.1.0"])
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
    deliver(rig, 2, stock["1.1.0"])
    deliver(rig, 3, stock["1.2.0"])
    assert rig.layout.installed() == [name_of(stock[v]) for v in ("1.0.0", "1.1.0", "1.2.0")]
    rig.asked_for.clear()
    rig.send(stock.order(4, baseline=stock["1.0.0"].goal(mode="exactly")))
    rig.run()
    assert rig.runs(stock["1.0.0"])
    assert rig.asked_for == set()


def test_versions_that_are_nobody_s_way_back_are_collected(rig: Rig, stock: Stock) -> None:
    rig.obey(policy="keep_versions = 1")
    deliver(rig, 2, stock["1.1.0"])
    deliver(rig, 3, stock["1.2.0"])
    assert rig.layout.installed() == sorted([name_of(stock["1.1.0"]), name_of(stock["1.2.0"])])
    assert {p.name for p in rig.layout.versions.iterdir() if p.is_file()} == {
        f"{name_of(stock[v])}{suffix}"
        for v in ("1.1.0", "1.2.0")
        for suffix in (".release.json", ".entrypoint")
    }


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
    deliver(rig, 2, stock["1.1.0"])
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
    deliver(rig, 2, bad)
    raised = stock.changed(stock["1.2.0"], min_counter=1)
    deliver(rig, 3, raised)
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
    deliver(rig, 2, raised)
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
    deliver(rig, 2, stock["1.1.0"])
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
    deliver(rig, 2, stock["1.1.0"])
    assert rig.runs(stock["1.1.0"])
    prev = rig.record().prev
    assert prev is not None
    assert prev.digest == stock["1.0.0"].digest


# -- the trial


def test_the_trial_stands_before_the_swap_and_ends_with_the_commit(rig: Rig, stock: Stock) -> None:
    seen: list[Trial | None] = []
    rig.machine.before_restart = lambda: seen.append(rig.layout.read_trial())
    deliver(rig, 2, stock["1.1.0"])
    old, new = (f"versions/{name_of(stock[v])}" for v in ("1.0.0", "1.1.0"))
    assert seen == [Trial(0, 3, old, new)]
    assert rig.layout.read_trial() is None


def test_the_starts_that_are_granted_are_the_owner_s(rig: Rig, stock: Stock) -> None:
    kiosk = replace(rig.config.components["kiosk"], max_boot_attempts=1)
    rig.config = replace(rig.config, components={"kiosk": kiosk})
    rig.behaviour["1.1.0"] = "dies"
    deliver(rig, 2, stock["1.1.0"])
    assert rig.runs(stock["1.0.0"])
    assert rig.record().outcomes[-1].code == Code.UPGRADE_BOOT_FAILED


# -- the record in the status


def test_the_status_of_a_component_is_its_record(rig: Rig, stock: Stock) -> None:
    deliver(rig, 2, stock["1.1.0"])
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

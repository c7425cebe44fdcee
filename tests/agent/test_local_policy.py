"""What the owner of a device allows: it outranks every order, is answered, and costs nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Rig, hurry, running
from tests.support.fleet import Bundle, everybody

from fleetfoot_agent import selfupgrade
from fleetfoot_agent.worker import platform_facts
from fleetfoot_protocol.codes import Code
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
    rig.deliver(2, make(stock))
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
    rig.deliver(2, make(stock))
    rig.obey()
    rig.run()
    assert rig.runs(make(stock))


def test_room_for_the_release_is_looked_for_before_anything_is_begun(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.obey(policy="disk_reserve = 1000")
    monkeypatch.setattr(platform_facts, "free_bytes", lambda *_: 1200)
    rig.deliver(2, stock["1.1.0"])
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


@pytest.mark.parametrize("itself", [True, False])
def test_an_agent_that_no_unit_starts_refuses_an_order_for_itself(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch, itself: bool
) -> None:
    monkeypatch.setattr(selfupgrade, "COMPONENT", "kiosk" if itself else "fleetfoot-agent")
    before = rig.record()
    rig.deliver(2, stock["1.1.0"])
    if not itself:
        assert rig.runs(stock["1.1.0"])
        return
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_INCOMPATIBLE)
    assert "no systemd unit" in rig.component().reason
    assert (rig.asked_for, rig.record()) == (set(), before)


@pytest.mark.parametrize("settings", [{"enabled": False}, {"policy": 'pins = {kiosk = "1.1.0"}'}])
def test_local_policy_stops_even_a_return_and_that_is_an_alarm(
    rig: Rig, stock: Stock, settings: dict[str, Any]
) -> None:
    rig.deliver(2, stock["1.1.0"])
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
    rig.begin_download(stock["1.1.0"])
    rig.obey(enabled=False)
    rig.run()
    assert rig.record().state is L.IDLE
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_DISABLED)

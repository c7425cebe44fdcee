"""A device answers a probe from what is the case on it; nothing is fetched, begun or changed for it."""

import time
from pathlib import Path

import pytest
from tests.agent.stock import DEVICE, Stock
from tests.agent.test_local_policy import POLICIES
from tests.agent.test_owner_policy import window
from tests.agent.workerrig import Rig, hurry, running
from tests.support.fleet import everybody

from fleetfoot_agent.worker import platform_facts
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.reports import Preflight
from fleetfoot_protocol.states import Verdict


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    found = Stock(tmp_path_factory.mktemp("house"))
    found.house.keys["stranger"] = bytes(range(32))
    return found


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hurry(monkeypatch)
    return running(tmp_path, stock)


def answer(rig: Rig) -> Preflight:
    found = rig.component().preflight
    assert found is not None
    return found


def ask(rig: Rig, payload: bytes) -> None:
    """Bring a probe and let the device do what it will, and see that it did nothing else."""
    before = (rig.record(), rig.layout.read_current(), rig.machine.restarts, rig.told())
    trees = sorted(path.name for path in rig.layout.versions.iterdir())
    rig.asked_for.clear()
    rig.send(payload, "probe.kiosk")
    rig.run()
    assert rig.asked_for == set()
    assert (rig.record(), rig.layout.read_current(), rig.machine.restarts, rig.told()) == before
    assert sorted(path.name for path in rig.layout.versions.iterdir()) == trees


def test_a_device_that_would_install_says_so_and_does_not(rig: Rig, stock: Stock) -> None:
    bundle = stock["1.1.0"]
    rig.offer(bundle)
    ask(rig, stock.probe(bundle.goal()))
    found = answer(rig)
    assert (found.id, found.digest, found.verdict, found.code) == (
        "p-1",
        bundle.digest,
        Verdict.ACCEPTED,
        "",
    )
    want = rig.courier.read_want()
    assert want is not None
    assert want.manifests == ()


@pytest.mark.parametrize("case", POLICIES)
def test_what_policy_would_refuse_is_the_answer(rig: Rig, stock: Stock, case: str) -> None:
    settings, change, code = POLICIES[case]
    bundle = change(stock)
    rig.offer(bundle)
    rig.obey(**settings)
    ask(rig, stock.probe(bundle.goal()))
    assert (answer(rig).verdict, answer(rig).code) == (Verdict.REJECTED, code)


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (window(time.time() + 1200), Code.UPGRADE_WINDOW_CLOSED),
        ("consent = true", Code.UPGRADE_CONSENT_PENDING),
        ("splay = 86400", Code.UPGRADE_SPLAY),
    ],
    ids=["window", "consent", "splay"],
)
def test_what_would_have_to_wait_is_the_answer(rig: Rig, stock: Stock, policy: str, code: Code) -> None:
    rig.offer(stock["1.1.0"])
    rig.obey(policy=policy)
    ask(rig, stock.probe(stock["1.1.0"].goal()))
    assert (answer(rig).verdict, answer(rig).code) == (Verdict.DEFERRED, code)
    assert not (rig.config.worker_dir / "asked.json").exists()


def test_a_device_that_is_there_or_ahead_accepts_without_a_manifest(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    rig.served = False
    ask(rig, stock.probe(stock["1.1.0"].goal()))
    assert (answer(rig).verdict, answer(rig).reason) == (Verdict.ACCEPTED, "current")
    ask(rig, stock.probe(stock["1.0.0"].goal(), name="p-2"))
    assert (answer(rig).verdict, answer(rig).reason) == (Verdict.ACCEPTED, "ahead")


def test_a_release_that_failed_here_is_refused_up_to_its_attempt(rig: Rig, stock: Stock) -> None:
    rig.behaviour["1.1.0"] = "dies"
    rig.deliver(2, stock["1.1.0"])
    goal = stock["1.1.0"].goal()
    ask(rig, stock.probe(goal))
    assert (answer(rig).verdict, answer(rig).code) == (Verdict.REJECTED, Code.UPGRADE_REFUSED_BEFORE)
    ask(rig, stock.probe(goal.model_copy(update={"attempt": 2}), name="p-2"))
    assert answer(rig).verdict is Verdict.ACCEPTED


def test_a_device_with_a_document_of_its_own_would_not_follow_its_group(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(5, device=DEVICE, baseline=stock["1.0.0"].goal()), "own.kiosk")
    rig.offer(stock["1.1.0"])
    rig.run()
    ask(rig, stock.probe(stock["1.1.0"].goal()))
    assert (answer(rig).verdict, answer(rig).code) == (Verdict.REJECTED, Code.UPGRADE_PINNED)
    ask(rig, stock.probe(stock["1.0.0"].goal(), name="p-2"))
    assert answer(rig).verdict is Verdict.ACCEPTED


def test_what_the_group_withdrew_may_be_asked_about(rig: Rig, stock: Stock) -> None:
    """Starting a release again lifts the recall, so that it is not the answer."""
    digest = stock["1.1.0"].digest
    rig.send(stock.order(5, baseline=stock["1.0.0"].goal(), withdrawn=(digest,)))
    rig.offer(stock["1.1.0"])
    rig.run()
    ask(rig, stock.probe(stock["1.1.0"].goal()))
    assert answer(rig).verdict is Verdict.ACCEPTED


def test_a_manifest_that_nobody_trusted_signed_is_the_answer(rig: Rig, stock: Stock) -> None:
    bundle = stock.changed(stock["1.1.0"], key="stranger", notes="by a stranger")
    rig.send(stock.probe(bundle.goal()), "probe.kiosk")
    rig.offer(bundle)
    rig.run()
    assert (answer(rig).verdict, answer(rig).code) == (Verdict.REJECTED, Code.UPGRADE_SIGNATURE_INVALID)
    assert rig.asked_for <= {path.name for path in (stock["1.0.0"].path / "blobs").iterdir()}


def test_a_manifest_of_another_version_than_asked_about_is_the_answer(rig: Rig, stock: Stock) -> None:
    rig.offer(stock["1.1.0"])
    goal = stock["1.1.0"].goal().model_copy(update={"version": "1.2.0"})
    ask(rig, stock.probe(goal))
    assert answer(rig).code == Code.UPGRADE_RELEASE_MISMATCH


def test_without_the_manifest_there_is_no_answer(rig: Rig, stock: Stock) -> None:
    rig.served = False
    ask(rig, stock.probe(stock["1.1.0"].goal()))
    assert rig.component().preflight is None
    want = rig.courier.read_want()
    assert want is not None
    assert [one.digest for one in want.manifests] == [stock["1.1.0"].digest]


def test_an_expired_probe_is_not_answered(rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_facts, "clock_trusted", lambda: True)
    rig.offer(stock["1.1.0"])
    ask(rig, stock.probe(stock["1.1.0"].goal(), issued=-61))
    assert rig.component().preflight is None
    want = rig.courier.read_want()
    assert want is not None
    assert want.manifests == ()


def test_replayed_and_forged_probes_change_no_answer(rig: Rig, stock: Stock) -> None:
    goal = stock["1.1.0"].goal()
    rig.offer(stock["1.1.0"], stock["1.2.0"])
    old = stock.probe(stock["1.2.0"].goal(), name="p-0", issued=-10)
    ask(rig, old)
    ask(rig, stock.probe(goal))
    before = rig.status()
    ask(rig, old)
    ask(rig, stock.probe(goal, name="p-1", issued=1))  # the same question again
    assert rig.status() == before
    rig.send(stock.probe(stock["1.2.0"].goal(), name="p-2", key="stranger"), "probe.kiosk")
    rig.run()
    assert answer(rig).id == "p-1"
    assert rig.told()[-1] == f"upgrade_rejected {Code.UPGRADE_SIGNATURE_INVALID}"


def test_an_answer_is_given_once_and_outlives_the_worker(rig: Rig, stock: Stock) -> None:
    rig.offer(stock["1.1.0"])
    ask(rig, stock.probe(stock["1.1.0"].goal()))
    before = rig.status()
    rig.obey(policy='pins = {kiosk = "1.0.0"}')
    rig.send(stock.order(3, everybody("r-2", stock["1.0.0"].goal())))
    rig.run()
    after = rig.status()
    assert after.counter > before.counter
    assert after.components["kiosk"].preflight == before.components["kiosk"].preflight
    assert times.from_text(answer(rig).at) <= time.time()


def test_a_torn_answer_is_given_again(rig: Rig, stock: Stock) -> None:
    rig.offer(stock["1.1.0"])
    ask(rig, stock.probe(stock["1.1.0"].goal()))
    (rig.config.worker_dir / "preflight.json").write_bytes(b'{"kiosk": {')
    rig.run()
    assert answer(rig).verdict is Verdict.ACCEPTED

"""A release put on by a person at the device: the same verified path, from a folder, without a network."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import Stock
from tests.agent.workerrig import Crash, Machine, Rig, hurry, make_rig
from tests.support.fleet import Bundle, everybody

from fleetfoot_agent import bundle as brought
from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.worker import by_hand
from fleetfoot_agent.worker.lock import Lock
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError, UpgradeError
from fleetfoot_protocol.states import Lifecycle, Outcome

L = Lifecycle


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A fresh device whose supervisors are found at their sockets' paths."""
    found = make_rig(tmp_path, stock)

    def seam_at(path: Path) -> Machine:
        return found.machines[path.stem]

    monkeypatch.setattr("fleetfoot_agent.worker.run.SocketSeam", seam_at)
    hurry(monkeypatch)
    return found


def install(config: AgentConfig, folder: Path) -> int:
    """What the command does with the folder that it is given."""
    return by_hand.install(config, brought.Bundle(folder, folder))


def refused(rig: Rig, bundle: Path) -> str:
    """The code with which the install is refused."""
    with pytest.raises(FleetfootError) as caught:
        install(rig.config, bundle)
    assert caught.value.remedy
    return caught.value.code


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Bundle], Path]:
    """A copy of a bundle that a test may spoil."""

    def copy(bundle: Bundle) -> Path:
        folder = tmp_path / f"bundle-{bundle.release.version}"
        shutil.copytree(bundle.path, folder)
        (folder / by_hand.ENVELOPE).write_bytes(bundle.envelope)
        return folder

    return copy


# -- the good course


def test_a_first_release_is_put_on_without_any_order(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(rig.config, stock["1.0.0"].path) == 0
    assert rig.runs(stock["1.0.0"])
    assert rig.record().outcomes[-1].outcome is Outcome.COMPLETED
    assert rig.component().running == rig.record().run
    assert rig.asked_for == set()
    lines = capsys.readouterr().out.splitlines()
    told = [line.removeprefix("kiosk 1.0.0").partition(",")[0] for line in lines if "kiosk 1.0.0" in line]
    stages = ("downloading", "verifying", "staging", "staged", "activating", "probation")
    course = [*(f": {stage}" for stage in stages), " is installed and healthy"]
    assert told[-len(course) :] == course


def test_a_second_release_leaves_a_way_back(rig: Rig, stock: Stock) -> None:
    install(rig.config, stock["1.0.0"].path)
    assert install(rig.config, stock["1.1.0"].path) == 0
    assert rig.runs(stock["1.1.0"])
    prev = rig.record().prev
    assert prev is not None
    assert prev.digest == stock["1.0.0"].digest


def test_a_person_may_go_down_and_choose_another_channel_on_a_device_that_is_disabled(
    rig: Rig, stock: Stock, copied: Callable[[Bundle], Path]
) -> None:
    rig.obey(enabled=False)
    install(rig.config, stock["1.1.0"].path)
    assert install(rig.config, stock["1.0.0"].path) == 0
    assert rig.runs(stock["1.0.0"])
    beta = stock.changed(stock["1.2.0"], channel="beta")
    assert install(rig.config, copied(beta)) == 0
    assert rig.runs(beta)


def test_what_runs_already_is_left_alone(rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]) -> None:
    install(rig.config, stock["1.0.0"].path)
    restarts = rig.machine.restarts
    assert install(rig.config, stock["1.0.0"].path) == 0
    assert rig.machine.restarts == restarts
    assert capsys.readouterr().out.splitlines()[-1] == "kiosk 1.0.0 runs already"


def test_what_runs_already_and_was_changed_is_not_called_well(rig: Rig, stock: Stock) -> None:
    install(rig.config, stock["1.0.0"].path)
    program = next(path for path in (rig.layout.folder / "current").rglob("*") if path.is_file())
    program.write_bytes(program.read_bytes() + b"#")
    with pytest.raises(UpgradeError, match="runs already, but its files differ") as caught:
        install(rig.config, stock["1.0.0"].path)
    assert caught.value.upgrade_code is Code.UPGRADE_TREE_MISMATCH
    assert caught.value.remedy.endswith("fleetfoot-agent remove kiosk --yes")


def test_a_person_whose_version_will_not_stay_is_told(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.send(stock.order(1, baseline=stock["1.1.0"].goal()))
    rig.run()
    install(rig.config, stock["1.0.0"].path)
    said = capsys.readouterr().out
    assert "note: an order of the fleet stands and is obeyed from here on: 1.1.0" in said
    install(rig.config, stock["1.1.0"].path)
    assert "note:" not in capsys.readouterr().out


def test_orders_that_arrived_meanwhile_are_obeyed_afterwards(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(1, baseline=stock["1.1.0"].goal()))
    install(rig.config, stock["1.0.0"].path)
    rig.offer(stock["1.1.0"])
    rig.carry()
    rig.run()
    assert rig.runs(stock["1.1.0"])


# -- health


@pytest.mark.parametrize(
    ("word", "code"), [("unready", Code.UPGRADE_HEALTH_FAILED), ("dies", Code.UPGRADE_BOOT_FAILED)]
)
def test_a_first_release_that_is_not_well_leaves_nothing_installed(
    rig: Rig, stock: Stock, word: str, code: Code
) -> None:
    rig.behaviour["1.0.0"] = word
    assert refused(rig, stock["1.0.0"].path) == code
    assert rig.layout.read_current() is None
    assert rig.record().run is None
    assert rig.machine.state().target is None
    assert rig.component().running is None
    rig.behaviour.clear()
    assert install(rig.config, stock["1.0.0"].path) == 0  # a person may try again at once
    assert rig.runs(stock["1.0.0"])


def test_a_release_that_is_not_well_is_left_for_the_one_before(rig: Rig, stock: Stock) -> None:
    install(rig.config, stock["1.0.0"].path)
    rig.behaviour["1.1.0"] = "dies"
    assert refused(rig, stock["1.1.0"].path) == Code.UPGRADE_BOOT_FAILED
    assert rig.runs(stock["1.0.0"])
    assert rig.layout.read_trial() is None


def test_an_install_that_is_killed_on_trial_is_judged_by_the_next_worker(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.obey(enabled=False)
    install(rig.config, stock["1.0.0"].path)

    def killed(*_: object) -> Any:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("fleetfoot_agent.worker.probation.look", killed)
        with pytest.raises(Crash):
            install(rig.config, stock["1.1.0"].path)
    assert rig.record().state is L.PROBATION
    rig.run()
    assert rig.runs(stock["1.1.0"])


# -- bundles that are not what they should be


def test_a_bundle_without_a_blob_is_refused_until_it_is_complete(
    rig: Rig, stock: Stock, copied: Callable[[Bundle], Path]
) -> None:
    folder = copied(stock["1.0.0"])
    blob = folder / "blobs" / stock["1.0.0"].release.artifacts[0].sha256
    whole = blob.read_bytes()
    blob.unlink()
    assert refused(rig, folder) == Code.UPGRADE_DOWNLOAD_FAILED
    assert rig.layout.installed() == []
    blob.write_bytes(whole[:-1])
    assert refused(rig, folder) == Code.UPGRADE_DOWNLOAD_FAILED
    blob.write_bytes(whole)
    assert install(rig.config, folder) == 0  # at once: a person does not wait out a pause between tries
    assert rig.runs(stock["1.0.0"])


def test_a_bundle_without_any_blobs_is_refused(
    rig: Rig, stock: Stock, copied: Callable[[Bundle], Path]
) -> None:
    folder = copied(stock["1.0.0"])
    shutil.rmtree(folder / "blobs")
    assert refused(rig, folder) == Code.UPGRADE_DOWNLOAD_FAILED


@pytest.mark.parametrize("which", ["sha256", "index_sha256"])
def test_a_bundle_with_changed_bytes_is_refused(
    rig: Rig, stock: Stock, copied: Callable[[Bundle], Path], which: str
) -> None:
    folder = copied(stock["1.0.0"])
    blob = folder / "blobs" / getattr(stock["1.0.0"].release.artifacts[0], which)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert refused(rig, folder) == Code.UPGRADE_CHECKSUM_MISMATCH
    assert rig.layout.installed() == []
    assert list(rig.layout.staging.iterdir()) == []


@pytest.mark.parametrize("key", ["director", "alice"])
def test_a_bundle_that_somebody_else_signed_is_refused(
    rig: Rig, stock: Stock, copied: Callable[[Bundle], Path], key: str
) -> None:
    forged = stock.changed(stock["1.0.0"], key=key, notes="trust me")
    assert refused(rig, copied(forged)) == Code.UPGRADE_IDENTITY_NOT_ALLOWED
    assert not rig.layout.journal.exists()


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_what_is_no_bundle_is_told(rig: Rig, tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "no-bundle"
    folder.mkdir()
    if content is not None:
        (folder / by_hand.ENVELOPE).write_bytes(content)
    assert refused(rig, folder) == ("not_found" if content is None else Code.UPGRADE_MALFORMED)


# -- what the device says to it


def test_policy_that_stops_a_person_is_told_as_such(
    rig: Rig, stock: Stock, copied: Callable[[Bundle], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install(rig.config, stock["1.0.0"].path)
    capsys.readouterr()
    rig.obey(policy='pins = {kiosk = "1.0.0"}')
    assert refused(rig, stock["1.1.0"].path) == Code.UPGRADE_PINNED
    rig.obey(policy='min_version = "1.1.1"')
    assert refused(rig, stock["1.1.0"].path) == Code.UPGRADE_VERSION_TOO_OLD
    rig.obey()
    assert refused(rig, stock["3.0.0"].path) == Code.UPGRADE_HOP_REQUIRED
    foreign = stock.changed(
        stock["1.2.0"],
        artifacts=(stock["1.2.0"].release.artifacts[0].model_dump() | {"arch": "s390x"},),
    )
    assert refused(rig, copied(foreign)) == Code.UPGRADE_NO_MATCHING_ARTIFACT
    assert rig.runs(stock["1.0.0"])
    assert "installed and healthy" not in capsys.readouterr().out


def test_nothing_below_the_floor_is_put_on(rig: Rig, stock: Stock, copied: Callable[[Bundle], Path]) -> None:
    install(rig.config, stock["1.0.0"].path)
    raised = stock.changed(stock["1.1.0"], min_counter=stock["1.1.0"].release.counter)
    install(rig.config, copied(raised))
    assert refused(rig, stock["1.0.0"].path) == Code.UPGRADE_BELOW_FLOOR
    assert rig.runs(raised)


def test_a_component_that_is_not_configured_is_told(
    rig: Rig, stock: Stock, copied: Callable[[Bundle], Path]
) -> None:
    assert refused(rig, copied(stock.changed(stock["1.0.0"], component="panel"))) == "not_found"


def test_a_worker_at_work_is_waited_for_and_then_told(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_hand, "LOCK_SECONDS", 0.0)
    lock = Lock(rig.config)
    assert lock.take()
    assert refused(rig, stock["1.0.0"].path) == Code.UPGRADE_LOCKED
    lock.close()
    assert install(rig.config, stock["1.0.0"].path) == 0


def test_an_upgrade_on_trial_is_not_interfered_with(rig: Rig, stock: Stock) -> None:
    install(rig.config, stock["1.0.0"].path)
    rig.obey(window=3600)
    rig.offer(stock["1.1.0"])
    rig.send(stock.order(1, everybody("r-1", stock["1.1.0"].goal())))
    rig.run_until_fetched(stock["1.1.0"])
    worker = rig.worker()
    rig.machine.before_restart = worker.stop
    worker.run()
    assert rig.record().state is L.PROBATION
    rig.machine.before_restart = lambda: None
    rig.obey()  # so that the worker which runs afterwards brings the trial to its end
    assert refused(rig, stock["1.2.0"].path) == Code.UPGRADE_LOCKED
    assert rig.runs(stock["1.1.0"])


@pytest.mark.parametrize("version", ["1.1.0", "1.2.0"])
def test_an_order_that_waits_for_its_bytes_gives_way_to_a_person(
    rig: Rig, stock: Stock, version: str
) -> None:
    install(rig.config, stock["1.0.0"].path)
    rig.send(stock.order(1, everybody("r-1", stock["1.1.0"].goal())))
    rig.send(stock["1.1.0"].envelope, f"manifest.{stock['1.1.0'].digest}")
    rig.run()
    assert rig.record().state is L.DOWNLOADING
    assert install(rig.config, stock[version].path) == 0
    assert rig.runs(stock[version])


def test_without_a_supervisor_nothing_is_changed(rig: Rig, stock: Stock) -> None:
    install(rig.config, stock["1.0.0"].path)
    rig.machine.unreachable = True
    assert refused(rig, stock["1.1.0"].path) == "supervisor_failed"
    rig.machine.unreachable = False
    assert rig.runs(stock["1.0.0"])
    assert install(rig.config, stock["1.1.0"].path) == 0


def test_a_folder_of_somebody_else_is_refused(rig: Rig, stock: Stock) -> None:
    rig.layout.create()
    rig.layout.current.mkdir()
    assert refused(rig, stock["1.0.0"].path) == Code.UPGRADE_LAYOUT_REFUSED
    assert rig.layout.current.is_dir()


def test_a_device_that_was_never_initialised_says_so(rig: Rig, stock: Stock) -> None:
    (rig.config.worker_dir / "device.key").unlink()
    assert refused(rig, stock["1.0.0"].path) == "not_found"

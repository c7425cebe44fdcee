"""The owner's time and consent: windows, consent, splay, budget, bandwidth; what is put off is done later."""

import json
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import DEVICE, Stock
from tests.agent.workerrig import Rig, hurry, make_rig, running
from tests.attack.target import target
from tests.support.fleet import everybody
from tests.support.waiting import until

from fleetfoot_agent import cli
from fleetfoot_agent.worker import owner
from fleetfoot_protocol.admission import position
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Verdict
from fleetfoot_sim.devices import ProcessDevice, set_up

L = Lifecycle


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture
def rig(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hurry(monkeypatch)
    found = running(tmp_path, stock)
    monkeypatch.setattr(cli, "load", lambda path, options: found.config)
    return found


def window(at: float, minutes: int = 10) -> str:
    """A policy with a window that opens in the minute of `at`, every day."""
    start = datetime.fromtimestamp(at, UTC)
    return f'windows = [{{start = "{start.minute} {start.hour} * * *", minutes = {minutes}}}]'


def agent(*words: str) -> int:
    return cli.main(["--log-level", "error", *words])


def wakes_at(rig: Rig) -> float:
    found = rig.courier.read_wake_at()
    assert found is not None
    return found.wall


def test_outside_its_window_a_device_begins_nothing_and_wakes_when_it_opens(rig: Rig, stock: Stock) -> None:
    opens = (time.time() + 1200) // 60 * 60
    rig.obey(policy=window(opens))
    before = rig.record()
    rig.deliver(2, stock["1.1.0"])
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_WINDOW_CLOSED)
    assert rig.component().state is L.WAITING
    assert datetime.fromtimestamp(opens, UTC).strftime("%H:%M:00Z") in rig.component().reason
    assert wakes_at(rig) == opens
    assert (rig.asked_for, rig.record()) == (set(), before)
    assert rig.told()[-1] == "upgrade_deferred upgrade_window_closed"
    rig.obey(policy=window(time.time() - 60))
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_a_window_that_closes_meanwhile_holds_back_what_is_staged_and_throws_nothing_away(
    rig: Rig, stock: Stock
) -> None:
    rig.obey(policy=window(time.time() - 60))
    rig.begin_download(stock["1.1.0"])
    opens = (time.time() + 1200) // 60 * 60
    rig.obey(policy=window(opens))
    rig.offer(stock["1.1.0"])
    rig.run()
    assert rig.record().state is L.STAGED
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_WINDOW_CLOSED)
    assert wakes_at(rig) == opens
    restarts = rig.machine.restarts
    rig.run()
    assert (rig.record().state, rig.machine.restarts) == (L.STAGED, restarts)
    rig.obey(policy=window(time.time() - 60))
    rig.asked_for.clear()
    rig.run()
    assert rig.runs(stock["1.1.0"])
    assert rig.asked_for == set()  # it lay there


def test_a_recall_does_not_wait_for_a_window_nor_for_consent(rig: Rig, stock: Stock) -> None:
    rig.deliver(2, stock["1.1.0"])
    rig.obey(policy=window(time.time() + 1200) + "\nconsent = true\nsplay = 604800")
    rig.send(stock.order(3, withdrawn=(stock["1.1.0"].digest,)))
    rig.run()
    assert rig.runs(stock["1.0.0"])


def test_a_clock_behind_the_signed_time_opens_no_window(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.obey(policy='windows = [{start = "* * * * *", minutes = 60}]')
    monkeypatch.setattr(
        "fleetfoot_agent.worker.memory.Memory.time_floor", lambda self: int(time.time()) + 3600
    )
    rig.deliver(2, stock["1.1.0"])
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_WINDOW_CLOSED)
    assert wakes_at(rig) <= time.time() + 61


def test_nothing_is_fetched_before_the_owner_agrees(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.obey(policy="consent = true")
    assert agent("consent", "accept", "kiosk") == cli.FAILED  # nothing is ordered yet
    rig.deliver(2, stock["1.1.0"])
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_CONSENT_PENDING)
    assert rig.asked_for == set()
    capsys.readouterr()
    assert agent("consent", "accept", "kiosk") == 0
    assert "kiosk 1.1.0 is accepted" in capsys.readouterr().out
    assert (rig.config.wake_dir / "now").exists()
    rig.run()
    assert rig.runs(stock["1.1.0"])
    rig.deliver(3, stock["1.2.0"])  # another release is asked about anew
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_CONSENT_PENDING)


def test_a_refusal_counts_also_where_nobody_asked_until_it_is_taken_back(rig: Rig, stock: Stock) -> None:
    rig.begin_download(stock["1.1.0"])
    assert agent("consent", "refuse", "kiosk") == 0
    rig.run()
    assert rig.record().state is L.IDLE
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_CONSENT_REFUSED)
    assert rig.record().refused == {}  # nothing is held against the release
    assert agent("consent", "accept", "kiosk") == 0
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_an_unintelligible_answer_is_none(rig: Rig, stock: Stock) -> None:
    rig.obey(policy="consent = true")
    for data in (b"", b"[1]", b'{"kiosk": {"digest": "x", "answer": "accept"}}', b'{"kiosk": "accept"}'):
        (rig.config.worker_dir / owner.CONSENT).write_bytes(data)
        assert owner.consent(rig.config, "kiosk", stock["1.1.0"].digest) == "defer"


def test_each_device_waits_its_own_share_of_the_splay_and_a_restart_begins_no_new_wait(
    rig: Rig, stock: Stock
) -> None:
    rig.obey(policy="splay = 86400")
    begun = int(time.time())
    rig.deliver(2, stock["1.1.0"])
    share = int(position("r-1", DEVICE), 16) * 86400 >> 64
    assert rig.answer() == (Verdict.DEFERRED, Code.UPGRADE_SPLAY)
    assert 0 < share < 86400
    noted = rig.config.worker_dir / owner.ASKED
    since = json.loads(noted.read_text())["kiosk"]["since"]
    assert begun <= since <= begun + 10
    # The worker wakes within the hour in any case; here that is earlier.
    assert wakes_at(rig) <= since + share
    rig.run()
    assert json.loads(noted.read_text())["kiosk"]["since"] == since
    noted.write_text(json.dumps({"kiosk": {"key": "r-1", "since": since - share + 600}}))
    rig.run()
    assert wakes_at(rig) == since + 600
    noted.write_text(json.dumps({"kiosk": {"key": "r-1", "since": since - share}}))
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_another_rollout_is_another_turn_and_a_clock_that_went_back_begins_anew(rig: Rig) -> None:
    def since(key: str, now: int) -> int:
        return owner._since(rig.config.worker_dir, "kiosk", key, now, note=True)

    assert [since("r-1", 1000), since("r-1", 2000), since("r-2", 3000)] == [1000, 1000, 3000]
    assert [since("r-2", 2500), since("r-2", 4000)] == [2500, 2500]


def test_an_artifact_beyond_the_budget_is_not_fetched(rig: Rig, stock: Stock) -> None:
    length = stock["1.1.0"].release.artifacts[0].length
    rig.obey(policy=f"download_budget = {length - 1}")
    rig.deliver(2, stock["1.1.0"])
    assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_BUDGET_EXCEEDED)
    assert rig.asked_for == set()
    rig.obey(policy=f"download_budget = {length}")
    rig.run()
    assert rig.runs(stock["1.1.0"])


def test_the_cap_of_the_bandwidth_is_what_the_courier_is_told(rig: Rig, stock: Stock) -> None:
    rig.obey(policy="bandwidth = 50000")
    rig.begin_download(stock["1.1.0"])
    want = rig.courier.read_want()
    assert want is not None
    assert [blob.rate for blob in want.blobs] == [50000, 50000]


@pytest.mark.parametrize("setting", ['pins = {kiosk = "1.0.0"}', 'min_version = "1.1.1"'])
def test_policy_that_changes_while_work_is_done_stops_it_without_blaming_the_release(
    rig: Rig, stock: Stock, setting: str
) -> None:
    rig.begin_download(stock["1.1.0"])
    rig.obey(policy=setting)
    rig.run()
    assert (rig.record().state, rig.record().refused) == (L.IDLE, {})
    assert rig.answer()[0] is Verdict.REJECTED
    rig.obey()
    rig.run()
    assert rig.runs(stock["1.1.0"])


# -- check


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = agent("check", "--json", *words)
    (outlook,) = json.loads(capsys.readouterr().out)["outlooks"]
    return status, outlook


def test_check_tells_of_a_bundle_what_would_come_of_it_and_does_nothing(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.lstat().st_mtime_ns for path in rig.folder.rglob("*")}
    status, outlook = checked(capsys, str(stock["1.1.0"].path))
    assert (status, outlook["act"], outlook["version"], outlook["code"]) == (0, "install", "1.1.0", None)
    rig.obey(policy=window(time.time() + 1200))
    status, outlook = checked(capsys, str(stock["1.1.0"].path))
    assert (status, outlook["act"], outlook["code"]) == (1, "defer", Code.UPGRADE_WINDOW_CLOSED)
    assert outlook["cause"]
    assert outlook["remedy"]
    rig.obey(policy='pins = {kiosk = "1.0.0"}')
    assert agent("check", str(stock["1.1.0"].path)) == 1
    said = capsys.readouterr().out
    assert "kiosk 1.1.0: reject, kiosk is pinned to 1.0.0" in said
    assert "code: upgrade_pinned" in said
    assert "what to do: " in said
    assert {path: path.lstat().st_mtime_ns for path in rig.folder.rglob("*")} == before


def test_check_of_an_older_release_says_that_going_down_must_be_permitted(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.deliver(2, stock["1.1.0"])
    rig.run()
    assert agent("check", str(stock["1.0.0"].path)) == 1
    said = capsys.readouterr().out
    assert "kiosk 1.0.0: stay, 1.1.0 runs, which is newer" in said
    assert "code: upgrade_downgrade_refused" in said
    assert "--exactly" in said


def test_check_of_a_withdrawn_release_says_so(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.send(stock.order(2, withdrawn=(stock["1.1.0"].digest,)))
    rig.run()
    status, outlook = checked(capsys, str(stock["1.1.0"].path))
    assert (status, outlook["act"], outlook["cause"]) == (1, "stay", "it is withdrawn for this device")


def test_check_tells_of_an_order_what_the_worker_then_does(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(capsys)[1]["act"] == "stay"
    rig.obey(policy="consent = true")
    rig.deliver(2, stock["1.1.0"])
    status, outlook = checked(capsys, "kiosk")
    assert (status, outlook["act"], outlook["code"]) == (1, "defer", Code.UPGRADE_CONSENT_PENDING)
    assert agent("consent", "accept", "kiosk") == 0
    assert checked(capsys, "kiosk")[1]["act"] == "install"
    rig.run()
    status, outlook = checked(capsys, "kiosk")
    assert (status, outlook["act"], outlook["cause"]) == (0, "stay", "current")
    assert agent("check") == 0
    assert capsys.readouterr().out == "kiosk 1.1.0: stay, what is ordered runs already\n"


def test_check_says_what_it_cannot_know_yet(
    rig: Rig, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.served = False
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    status, outlook = checked(capsys)
    assert (status, outlook["act"]) == (1, "wait")
    assert "manifest" in outlook["cause"]


def test_check_on_a_device_that_was_just_made(
    stock: Stock, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = make_rig(tmp_path, stock)
    monkeypatch.setattr(cli, "load", lambda path, options: fresh.config)
    before = sorted(tmp_path.rglob("*"))
    assert checked(capsys, str(stock["1.0.0"].path))[1]["act"] == "install"
    assert checked(capsys)[1]["act"] == "stay"
    assert agent("consent", "accept", "kiosk") == cli.FAILED
    assert "nothing is ordered for kiosk" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_check_of_what_is_neither_bundle_nor_component_says_so(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agent("check", "nonsense") == cli.FAILED
    assert "not a release bundle" in capsys.readouterr().err


# -- a running device


def test_a_device_whose_turn_comes_wakes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFOOT_UPGRADE_SPLAY", "5")
    with target(tmp_path, more_settings="\n") as aim:
        assert aim.config.policy.splay == 5
        bundle = aim.serve(aim.release())
        document = aim.document(bundle)
        share = int(position(document.targets[0].rollout, "dev-001"), 16) * 5 >> 64
        aim.obey_document(document, bundle)
        deferred = [event["errorcode"] for event in aim.events("upgrade_deferred")]
        assert deferred == ([Code.UPGRADE_SPLAY] if share else [])


def listening(pid: int) -> set[str]:
    """The ports at which a process of this machine can be reached from outside."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == "0A" or kind.startswith("udp")):
                found.add(f"{kind} {fields[1]}")
    return found


def test_the_agent_opens_no_port(tmp_path: Path, stock: Stock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening(os.getpid())  # the look itself sees one
        port = server.getsockname()[1]
    device = ProcessDevice(
        set_up(tmp_path, "dev-001", "g-one", f"mqtt://127.0.0.1:{port}", stock.house.root_envelope, port)
    )
    device.power_on()
    device.connect()
    try:
        status = device.device.config.spool / "out" / "status.json"
        until(status.exists, "the agent has run")
        assert (listening(device.pid("run")), listening(device.pid("supervise"))) == (set(), set())
    finally:
        device.power_off()

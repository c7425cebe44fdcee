"""What the worker tells the world: one attested status for each change, each event once, losses counted."""

import functools
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stock import DEVICE, GROUP, Stock
from tests.agent.workerrig import Crash, Rig, hurry, make_rig
from tests.support.fleet import FLEET, everybody

from fleetfoot_agent import durable
from fleetfoot_agent.spool import worker_side
from fleetfoot_agent.spool.events import EventFolder
from fleetfoot_agent.worker.memory import load_key
from fleetfoot_protocol import dsse, keys, strictjson, trust
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.errors import TrustError


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("house"))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def rig(stock: Stock, tmp_path: Path) -> Rig:
    found = make_rig(tmp_path, stock)
    found.install_first(stock["1.0.0"])
    found.offer(stock["1.1.0"])
    return found


def pair(rig: Rig) -> tuple[bytes, bytes]:
    found = rig.courier.read_status()
    assert found is not None
    return found


def counter(rig: Rig) -> int:
    return rig.status().counter


# -- the status


def test_the_status_says_who_and_what_the_device_is(rig: Rig) -> None:
    status = rig.status()
    assert (status.fleet, status.group, status.device) == (FLEET, GROUP, DEVICE)
    assert status.labels == {"site": "north"}
    assert status.capabilities == ("upgrade", "stage", "rollback")
    assert (status.policy.enabled, status.policy.channels) == (True, ("stable",))
    assert status.root == 1
    assert status.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert status.disk.free > 0
    assert list(status.components) == ["kiosk"]


def test_only_the_device_s_key_attests_it(rig: Rig) -> None:
    status, attestation = pair(rig)
    public = load_key(rig.config.worker_dir / "device.key").public
    assert trust.verify_status(status, attestation, public) == rig.status()
    with pytest.raises(TrustError) as caught:
        trust.verify_status(status, attestation, keys.public_of(keys.generate()))
    assert caught.value.upgrade_code is Code.UPGRADE_SIGNATURE_INVALID
    with pytest.raises(TrustError):
        trust.verify_status(status.replace(b'"north"', b'"south"'), attestation, public)


def test_what_changes_by_itself_is_no_news(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pair(rig)
    for free in (10**12, 10**11):
        monkeypatch.setattr("fleetfoot_agent.worker.platform_facts.free_bytes", lambda *_, f=free: f)
        monkeypatch.setattr("fleetfoot_agent.worker.platform_facts.clock_trusted", lambda f=free: f > 10**11)
        rig.run()
        assert pair(rig) == before


CHANGES: dict[str, dict[str, Any]] = {
    "policy": {"enabled": False},
    "channels": {"policy": 'allowed_channels = ["beta", "beta"]'},
    "another component": {"more": "[components.panel]"},
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_the_owner_changes_is_news(rig: Rig, case: str) -> None:
    before = counter(rig)
    rig.obey(**CHANGES[case])
    for name in rig.config.components:
        rig.machines.setdefault(name, rig.machine)
    rig.run()
    after = counter(rig)
    assert after > before
    rig.run()
    assert counter(rig) == after


def test_a_reboot_is_news(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = counter(rig)
    monkeypatch.setattr("fleetfoot_agent.worker.platform_facts.boot_id", lambda: "another-boot")
    rig.run()
    assert counter(rig) > before
    assert rig.status().boot_id == "another-boot"


def test_counters_and_event_ids_rise_over_all_runs_and_none_is_used_twice(rig: Rig, stock: Stock) -> None:
    counters = [counter(rig)]
    incarnation = rig.status().incarnation
    for sequence in range(2, 40):
        target = everybody("r-1", stock["1.1.0"].goal(), hold=sequence % 2 == 0)
        rig.send(stock.order(sequence, target, hold=True))
        rig.run()
        counters.append(counter(rig))
    assert counters == sorted(set(counters))
    ids = [event["id"] for event in rig.events()]
    used = [int(text.removeprefix(f"{incarnation}-")) for text in ids]
    assert used == sorted(set(used))
    assert set(used).isdisjoint(counters)


TORN = {
    "status without its attestation": ("status.sig", None),
    "attestation without its status": ("status.json", None),
    "torn attestation": ("status.sig", b'{"payload_type'),
    "torn status": ("status.json", b"{"),
    "both empty": ("status.json", b""),
}


@pytest.mark.parametrize("case", TORN)
def test_a_status_that_nobody_could_believe_is_written_anew(rig: Rig, case: str) -> None:
    name, content = TORN[case]
    before = counter(rig)
    path = rig.config.spool / "out" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    rig.run()
    assert counter(rig) > before


def test_a_worker_killed_between_status_and_attestation_is_made_up_for(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.write_file

    def write(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "status.sig":
            raise Crash
        real(path, *args, **kwargs)

    rig.send(stock.order(2))
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", write)
        with pytest.raises(Crash):
            rig.run()
    assert rig.courier.read_status() is None
    rig.run()
    answered = rig.component().answered
    assert answered is not None
    assert answered.sequence == 2


def test_a_lost_state_begins_a_new_incarnation_and_tells_it(rig: Rig) -> None:
    before = rig.status()
    (rig.config.worker_dir / "state.json").unlink()
    rig.run()
    after = rig.status()
    assert after.incarnation != before.incarnation
    assert after.components == before.components


def test_a_status_is_whole_strict_json_below_the_cap(rig: Rig) -> None:
    status, attestation = pair(rig)
    assert strictjson.loads(status)["spec"] == 1
    assert dsse.join_attestation(status, attestation)[1] == counter(rig)


# -- events


def test_events_are_cloudevents_with_the_names_of_the_vocabulary(rig: Rig, stock: Stock) -> None:
    rig.behaviour["1.1.0"] = "unready"
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    course = ["started", "downloaded", "verified", "staged", "activated"]
    course += ["health_check upgrade_health_failed", "healthcheck_failed upgrade_health_failed"]
    course += ["rolled_back upgrade_rolled_back", "rejected upgrade_refused_before"]
    assert rig.told()[-len(course) :] == [f"upgrade_{name}" for name in course]
    for event in rig.events()[-len(course) :]:
        assert event["specversion"] == "1.0"
        assert event["source"] == f"/fleets/{FLEET}/groups/{GROUP}/devices/{DEVICE}"
        assert (event["category"], event["component"], event["rollout"]) == ("upgrade", "kiosk", "r-1")
        assert (event["data"]["device"], event["data"]["group"]) == (DEVICE, GROUP)
        assert event["data"]["digest"] == stock["1.1.0"].digest
        if code := event.get("errorcode"):
            assert event["data"]["error_code"] == code
            assert event["severity"] == info(Code(code)).severity
    back = rig.events()[-2]
    assert (back["severity"], back["data"]["cause"]) == ("critical", "upgrade_health_failed")
    assert rig.events()[-4]["data"]["healthy"] is False


def test_events_that_were_published_are_dropped(rig: Rig) -> None:
    numbers = rig.courier.event_numbers()
    assert len(numbers) > 3
    rig.courier.write_acked(numbers[2])
    rig.run()
    assert rig.courier.event_numbers() == numbers[3:]


def test_events_that_found_no_room_are_counted_in_the_status(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = len(rig.events())
    monkeypatch.setattr(worker_side, "EventFolder", functools.partial(EventFolder, max_files=have))
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    assert len(rig.events()) == have
    assert rig.status().lost_events == 7
    assert rig.told()[-1] == "upgrade_completed"
    rig.run()
    assert rig.status().lost_events == 7


def test_an_alarm_is_told_once_while_it_stands(rig: Rig, stock: Stock) -> None:
    rig.send(stock.order(2, withdrawn=(stock["1.0.0"].digest,)))
    for _ in range(3):
        rig.run()
    assert rig.told().count("alarm upgrade_no_way_back") == 1
    assert rig.status().alarms == (Code.UPGRADE_NO_WAY_BACK,)
    alarm = next(e for e in rig.events() if e["type"].endswith(".alarm"))
    assert alarm["severity"] == "critical"
    assert alarm["component"] == "kiosk"


def test_a_cause_that_would_play_with_terminals_is_shown_literally(
    rig: Rig, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;owned\x07\u202e"
    monkeypatch.setattr("fleetfoot_agent.worker.checks.failure", lambda _: evil)
    rig.obey(more='checks = [{kind = "exec", argv = ["true"]}]')
    rig.send(stock.order(2, everybody("r-1", stock["1.1.0"].goal())))
    rig.run()
    shown = "?]0;owned??"
    found = rig.component()
    assert found.last_error is not None
    assert found.last_error.message == shown
    causes = [e["data"]["message"] for e in rig.events() if "message" in e["data"]]
    assert len(causes) > 2
    assert all(cause.endswith(shown) for cause in causes)
    assert all(cause.isprintable() for cause in causes)

"""The main job with every real part: one device of its own processes, the manager, the command line."""

from tests.end_to_end.town import Town
from tests.support.waiting import until

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Outcome, Verdict

DEVICE = "dev-001"


def test_a_device_upgrades_itself_by_a_signed_retained_message(town: Town) -> None:
    town.add(DEVICE, own_processes=True)
    town.await_versions({DEVICE: "1.0.0"})
    assert town.answer(DEVICE) == "kiosk 1.0.0\n"
    digest = town.publish("1.1.0")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")
    town.await_versions({DEVICE: "1.1.0"})
    assert town.answer(DEVICE) == "kiosk 1.1.0\n"
    assert town.layout(DEVICE).read_current() == f"versions/1.1.0-{digest[:8]}"
    town.await_state(rollout, "completed")
    found = town.witness.component(DEVICE)
    assert found is not None
    assert found.running is not None
    assert found.running.digest == digest
    assert found.previous is not None
    assert found.previous.version == "1.0.0"
    assert found.outcomes[-1].outcome is Outcome.COMPLETED
    shown = town.fleetfoot("device", "show", DEVICE)
    assert shown["components"]["kiosk"]["version"] == "1.1.0"
    assert shown["online"] is True


def test_a_version_that_dies_comes_back_by_itself_and_is_refused_afterwards(town: Town) -> None:
    town.add(DEVICE, own_processes=True)
    town.await_versions({DEVICE: "1.0.0"})
    before = town.layout(DEVICE).read_current()
    town.publish("1.1.0")
    digest = town.publish("1.2.0")
    rollout = town.rollout("1.2.0", "--immediate", "--settle", "0")
    town.await_outcome(DEVICE, rollout, Outcome.ROLLED_BACK)
    town.await_versions({DEVICE: "1.0.0"})
    assert town.answer(DEVICE) == "kiosk 1.0.0\n"
    assert town.layout(DEVICE).read_current() == before
    assert town.layout(DEVICE).read_trial() is None
    town.await_state(rollout, "tripped")
    # The order stays retained, and the device refuses it: not because it is held, but because it failed here.

    def refused() -> bool:
        found = town.witness.component(DEVICE)
        answer = found.answered if found else None
        return answer is not None and answer.code == Code.UPGRADE_REFUSED_BEFORE

    until(refused, "the device refuses what failed on it")
    device = town.processes[DEVICE]
    device.disconnect()
    until(lambda: town.witness.presence.get(DEVICE) == "offline", "the device has left")
    device.connect()
    until(lambda: town.witness.presence.get(DEVICE) == "online", "the device is back")
    until(refused, "it still refuses")
    found = town.witness.component(DEVICE)
    assert found is not None
    assert found.answered is not None
    assert found.answered.verdict is Verdict.REJECTED
    assert found.refused == {digest: 1}
    assert town.witness.count("upgrade_started", DEVICE, digest=digest) == 1
    assert town.answer(DEVICE) == "kiosk 1.0.0\n"
    # It is no deadlock: what is new is installed.
    town.fleetfoot("rollout", "decide", rollout, "abort")
    town.rollout("1.1.0", "--immediate", "--settle", "0")
    town.await_versions({DEVICE: "1.1.0"})

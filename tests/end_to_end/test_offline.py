"""A device that was away does what is right when it comes back, without anybody's help."""

from functools import partial

from tests.end_to_end.town import PACE, Town
from tests.support.waiting import until

from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Lifecycle, Outcome, Verdict
from fleetfoot_sim.devices import Pace
from fleetfoot_sim.scene import BAD

#: Time enough to interrupt a device while it proves a new version.
LONG = Pace(window=4.0, settle=PACE.settle, restart_delay=PACE.restart_delay)
ONCE = ("upgrade_started", "upgrade_downloaded", "upgrade_activated", "upgrade_completed")


def never_touched(town: Town, device: str, digest: str) -> None:
    """Nothing of a release was ever begun on a device: no order taken, no byte fetched, no tree, no trial."""
    config = town.devices[device].config
    assert town.witness.count("upgrade_started", device, digest=digest) == 0
    assert not any(digest[:8] in path.name for path in config.install_root.rglob("*"))
    blobs = {path.name for path in (town.scene.bundle(BAD) / "blobs").iterdir()}
    assert blobs
    assert not [path for path in config.spool.rglob("*") if path.name in blobs]
    assert town.layout(device).read_trial() is None
    found = town.witness.component(device)
    assert found is not None
    assert found.refused == {}
    assert digest not in {outcome.digest for outcome in found.outcomes}
    assert town.answer(device) == "kiosk 1.0.0\n"


def each_once(town: Town, device: str, digest: str) -> None:
    """The device began, fetched, activated and completed the release exactly once, and has told so."""
    until(lambda: town.witness.count(ONCE[-1], device, digest=digest), f"{device} has told everything")
    counts = {event: town.witness.count(event, device, digest=digest) for event in ONCE}
    assert counts == dict.fromkeys(ONCE, 1)


def test_a_device_that_was_away_during_a_whole_rollout_follows_on_its_return(town: Town) -> None:
    town.add("dev-001", "dev-002", "dev-003")
    town.await_versions(dict.fromkeys(town.devices, "1.0.0"))
    town.hosted["dev-003"].disconnect()
    town.await_presence("dev-003", "offline")
    digest = town.publish("1.1.0")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0", "--device-timeout", "12s")
    town.await_versions({"dev-001": "1.1.0", "dev-002": "1.1.0"})
    town.await_state(rollout, "completed")
    assert town.witness.tally.progress[rollout].counts == {"healthy": 2, "silent": 1}
    assert town.answer("dev-003") == "kiosk 1.0.0\n"
    town.hosted["dev-003"].connect()
    town.await_versions({"dev-003": "1.1.0"})
    assert town.answer("dev-003") == "kiosk 1.1.0\n"
    found = town.witness.component("dev-003")
    assert found is not None
    last = found.outcomes[-1]
    assert (last.rollout, last.outcome, last.running) == (None, Outcome.COMPLETED, digest)
    each_once(town, "dev-003", digest)
    assert town.state(rollout) == "completed"


def test_a_device_that_was_away_during_trip_and_rollback_never_touches_the_bad_release(town: Town) -> None:
    town.add("dev-001", "dev-002", "dev-003", "dev-004")
    town.await_versions(dict.fromkeys(town.devices, "1.0.0"))
    for name in ("dev-003", "dev-004"):
        town.hosted[name].disconnect()
        town.await_presence(name, "offline")
    digest = town.publish(BAD)
    rollout = town.rollout(BAD, "--immediate", "--settle", "0")
    town.await_state(rollout, "tripped")
    # One comes back while it is held: it takes note, and does not begin.
    town.hosted["dev-003"].connect()

    def held() -> bool:
        found = town.witness.component("dev-003")
        answer = found.answered if found else None
        return answer is not None and (answer.verdict, answer.code) == (
            Verdict.DEFERRED,
            Code.UPGRADE_ON_HOLD,
        )

    until(held, "dev-003 waits under the hold")
    town.fleetfoot("rollout", "decide", rollout, "rollback")
    town.await_state(rollout, "rolled_back")
    # The other comes back when all is over.
    town.hosted["dev-004"].connect()
    newest = town.witness.desired["kitchens"].sequence

    def settled(name: str) -> bool:
        found = town.witness.component(name)
        answer = found.answered if found else None
        return answer is not None and (answer.sequence, answer.verdict) == (newest, Verdict.ACCEPTED)

    for name in ("dev-003", "dev-004"):
        until(partial(settled, name), f"{name} has taken note of the rollback")
        never_touched(town, name, digest)
    town.await_versions(dict.fromkeys(town.devices, "1.0.0"))
    assert {d for d, o in town.witness.tally.outcomes[rollout].items()} <= {"dev-001", "dev-002"}


def test_a_device_that_lost_its_network_after_the_download_goes_on_and_tells_later(town: Town) -> None:
    wire = town.wire(town.broker_port)
    town.add("dev-001", pace=LONG, wire=wire)
    town.await_versions({"dev-001": "1.0.0"})
    digest = town.publish("1.1.0")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")
    until(lambda: town.witness.count("upgrade_downloaded", "dev-001", digest=digest), "it has downloaded")
    wire.cut()
    town.await_presence("dev-001", "offline")

    def committed() -> bool:
        found = town.said("dev-001")
        return found.state is Lifecycle.IDLE and found.running is not None and found.running.digest == digest

    until(committed, "it has upgraded itself with nobody watching")
    assert town.witness.tally.progress[rollout].state == "running"
    assert not town.witness.at_rest("dev-001", "1.1.0")
    pid = town.pid("dev-001")
    wire.mend()
    town.await_versions({"dev-001": "1.1.0"})
    town.await_state(rollout, "completed")
    town.await_presence("dev-001", "online")
    each_once(town, "dev-001", digest)
    assert town.pid("dev-001") == pid


def test_a_device_that_was_switched_off_while_it_downloaded_finishes_on_its_return(closed_town: Town) -> None:
    town = closed_town
    wire = town.wire(town.artifact_port)
    town.open("--mirror", f"http://127.0.0.1:{wire.port}/blobs")
    town.add("dev-001")
    town.await_versions({"dev-001": "1.0.0"})
    digest = town.publish("1.1.0")
    wire.stall()
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")

    def downloads() -> bool:
        found = town.witness.component("dev-001")
        return found is not None and found.state is Lifecycle.DOWNLOADING

    until(downloads, "it has begun, and waits for its blobs")
    town.hosted["dev-001"].disconnect()
    town.await_presence("dev-001", "offline")
    wire.mend()
    assert town.answer("dev-001") == "kiosk 1.0.0\n"
    town.hosted["dev-001"].connect()
    town.await_versions({"dev-001": "1.1.0"})
    town.await_state(rollout, "completed")
    each_once(town, "dev-001", digest)


def test_a_device_whose_agent_stopped_in_probation_proves_itself_on_its_return(town: Town) -> None:
    town.add("dev-001", pace=LONG)
    town.await_versions({"dev-001": "1.0.0"})
    digest = town.publish("1.1.0")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")
    until(lambda: town.said("dev-001").state is Lifecycle.PROBATION, "it proves the new version")
    town.hosted["dev-001"].disconnect()
    town.await_presence("dev-001", "offline")
    assert town.said("dev-001").state is Lifecycle.PROBATION
    assert town.layout("dev-001").read_trial() is not None
    pid = town.pid("dev-001")
    town.hosted["dev-001"].connect()
    town.await_versions({"dev-001": "1.1.0"})
    town.await_state(rollout, "completed")
    each_once(town, "dev-001", digest)
    assert town.pid("dev-001") == pid
    assert town.layout("dev-001").read_trial() is None

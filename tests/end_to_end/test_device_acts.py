"""One device by itself, with every real part: up, down and pinned, while its group is told something else."""

from tests.end_to_end.town import Town
from tests.support.waiting import until

from fleetfoot_protocol.resolve import Why

DEVICE = "dev-001"
KIOSK = (DEVICE, "kiosk")


def test_a_device_goes_up_and_down_by_its_own_document_and_back_to_its_group(town: Town) -> None:
    town.add(DEVICE)
    town.await_versions({DEVICE: "1.0.0"})
    for version in ("1.0.0", "1.1.0"):
        town.fleetfoot("release", "publish", str(town.scene.bundle(version)))
    act = town.fleetfoot("device", "upgrade", *KIOSK, "1.1.0")
    town.await_versions({DEVICE: "1.1.0"})

    def state() -> str:
        return str(town.fleetfoot("device", "show", DEVICE)["own"]["kiosk"]["state"])

    until(lambda: state() == "released", "the act is over")
    found = town.witness.component(DEVICE)
    assert found is not None
    assert found.outcomes[-1].rollout == act["act"]
    town.fleetfoot("device", "downgrade", *KIOSK, "1.0.0", "--pin")
    town.await_versions({DEVICE: "1.0.0"})
    town.fleetfoot("release", "promote", "kiosk", "1.1.0", "blessed")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")
    until(lambda: town.state(rollout) == "tripped", "a wave of pinned devices has no success")
    pinned = town.witness.component(DEVICE)
    assert pinned is not None
    assert pinned.answered is not None
    assert (pinned.answered.scope, pinned.answered.reason) == ("own", Why.CURRENT)
    town.fleetfoot("rollout", "decide", rollout, "abort")
    town.fleetfoot("device", "unpin", *KIOSK)
    town.rollout("1.1.0", "--immediate", "--settle", "0")
    town.await_versions({DEVICE: "1.1.0"})

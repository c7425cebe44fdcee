"""One device by itself, with every real part: up, down and pinned, while its group is told something else."""

import json

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
    assert _preflight(town, 3) == ({"ok": 0, "deferred": 0, "refused": 1, "unknown": 0}, "upgrade_pinned")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")
    until(lambda: town.state(rollout) == "tripped", "a wave of pinned devices has no success")
    pinned = town.witness.component(DEVICE)
    assert pinned is not None
    assert pinned.answered is not None
    assert (pinned.answered.scope, pinned.answered.reason) == ("own", Why.CURRENT)
    town.fleetfoot("rollout", "decide", rollout, "abort")
    town.fleetfoot("device", "unpin", *KIOSK)
    assert _preflight(town, 0) == ({"ok": 1, "deferred": 0, "refused": 0, "unknown": 0}, "ordered")
    rollout = town.rollout("1.1.0", "--immediate", "--settle", "0")
    town.await_versions({DEVICE: "1.1.0"})
    town.await_state(rollout, "completed")
    _look_back(town, rollout)


def _preflight(town: Town, status: int) -> tuple[dict[str, int], str]:
    """What the fleet says to 1.1.0, by how many; and the reason of the first device."""
    wish = ["--component", "kiosk", "--version", "1.1.0", "--group", "kitchens", "--immediate"]
    found = town.fleetfoot("rollout", "plan", "--preflight", *wish, status=status)["preflight"]
    return found["counts"], found["reasons"][0]["why"]


def _look_back(town: Town, rollout: str) -> None:
    """What the manager tells afterwards, by the commands that people use."""
    out = town.folder / "looking-back"
    town.fleetfoot("rollout", "note", rollout, "--title", "went well")
    assert town.fleetfoot("rollout", "report", rollout, "--out", str(out))["devices"] == 1
    assert json.loads((out / "report.json").read_text())["success_percent"] == 100
    assert b"went well" in (out / "report.html").read_bytes()
    assert town.fleetfoot("rollout", "history")["components"]["kiosk"]["rollouts"] == 2
    assert town.fleetfoot("group", "drift", "kitchens")["drift"] == []
    (group,) = town.fleetfoot("group", "list")["groups"]
    assert group["components"]["kiosk"]["versions"] == {"1.1.0": 1}
    export = str(out / "audit.jsonl")
    entries = town.fleetfoot("audit", "export", "--out", export)["entries"]
    assert town.fleetfoot("audit", "verify")["ok"]
    checked = town.fleetfoot("audit", "verify", export, "--root", str(town.scene.root))
    assert (checked["ok"], checked["entries"]) == (True, entries)
    town.fleetfoot("device", "forget", DEVICE)
    assert town.fleetfoot("device", "list")["devices"] == []

"""`fleetfoot device upgrade --wait`: it ends once the device has said how it went."""

from typing import Any

import pytest
from tests.client.rig import HandManager, Run

from fleetfoot_client.commands import device_acts
from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile

UPGRADE = ("device", "upgrade", "oven-7", "kiosk", "1.1.0", "--wait")


def order(state: str, outcome: str = "", code: str = "", act: str = "a-1") -> dict[str, Any]:
    return {"act": act, "kind": "upgrade", "state": state, "outcome": outcome, "code": code}


@pytest.fixture
def told(manager: HandManager, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `device.show` tells of the order, one after the other; the last of it for ever."""
    monkeypatch.setattr(device_acts, "_LOOK_SECONDS", 0.01)
    ask = {"device": "oven-7", "component": "kiosk"}
    manager.answers["device.upgrade"] = lambda request: {**ask, **order("open"), "version": "1.1.0"}
    story: list[Any] = []

    def show(_request: object) -> dict[str, Any]:
        own = story.pop(0) if len(story) > 1 else story[0]
        return {"id": "oven-7", "group": "ovens", "own": {"kiosk": own}}

    manager.answers["device.show"] = show
    return story


def test_it_waits_until_the_device_runs_it(told: list[Any], manager: HandManager, run: Run) -> None:
    told += [order("open"), order("open"), order("released", "completed")]
    done = run(*UPGRADE, "1m")
    assert (done.code, done.out) == (Exit.OK, "kiosk of oven-7: upgrade to 1.1.0 is released, completed\n")
    assert [request.verb for request in manager.heard] == ["device.upgrade", *["device.show"] * 3]


def test_a_device_that_went_back_is_no_success(told: list[Any], run: Run) -> None:
    told += [order("open"), order("released", "rolled_back", "upgrade_boot_failed")]
    done = run(*UPGRADE, "1m", "--json")
    assert (done.code, done.json["outcome"], done.json["code"]) == (
        Exit.STOPPED, "rolled_back", "upgrade_boot_failed",
    )  # fmt: skip


def test_a_device_that_says_nothing_is_not_waited_for_for_ever(told: list[Any], run: Run) -> None:
    told.append(order("open"))
    done = run(*UPGRADE, "0s")
    assert (done.code, "has not said how it went" in done.err) == (Exit.TIMEOUT, True)


def test_another_order_in_its_place_is_not_taken_for_this_one(told: list[Any], run: Run) -> None:
    told += [order("open"), order("released", "completed", act="a-2")]
    done = run(*UPGRADE, "1m")
    assert (done.code, "another order" in done.err) == (Exit.FAILED, True)

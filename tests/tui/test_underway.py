"""Acts that have no answer yet: the person sees that they wait, and what became of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tui.driving import second, settle
from tests.tui.stage import Fixed, Stage
from tests.tui.test_steering import House, see
from tests.tui.trouble import managed, troubled

from fleetfoot_client.session import Session
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_tui.app import Console
from fleetfoot_tui.feed import Feed
from fleetfoot_tui.head import Health, health_cells
from fleetfoot_tui.underway import Underway, name_of


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def test_an_act_waits_from_its_first_second_until_its_answer() -> None:
    clock = Fixed(0.0)
    underway = Underway(clock)
    with underway.act("pause r-1"):
        assert underway.waiting() == []
        assert "pause r-1" in underway
        clock.now = 3.0
        with underway.act("cancel r-2"):
            clock.now = 5.0
            assert underway.waiting() == [("pause r-1", 5.0), ("cancel r-2", 2.0)]
    assert "pause r-1" not in underway
    assert underway.waiting() == []


@pytest.mark.parametrize(
    ("code", "unsure"), [("timeout", True), ("broker_unreachable", True), ("conflict", False)]
)
def test_of_an_act_without_an_answer_nobody_knows_whether_it_is_done(code: str, unsure: bool) -> None:
    underway = Underway()
    with pytest.raises(FleetfootError) as caught, underway.act("pause r-1"):
        raise FleetfootError(code, "so it was")
    assert ("not known whether it was done" in caught.value.message) is unsure
    assert underway.waiting() == []


def test_names_say_what_is_done_to_what() -> None:
    assert name_of("rollout.decide", {"rollout": "r-1", "decision": "rollback"}) == "decide rollback r-1"
    assert name_of("device.upgrade", {"device": "o-1", "component": "k", "version": "2"}) == "upgrade o-1 k 2"


def test_the_head_says_what_waits_for_whom() -> None:
    acts = (("pause r-1", 12.0), ("cancel r-2", 2.0))
    for broker, whom in ((True, "manager"), (False, "broker")):
        said = " ".join(cell.text for cell in health_cells(Health(broker=broker, manager=True, acts=acts)))
        assert f"… pause r-1 and 1 more: waits for the {whom}, 12s" in said


async def test_an_act_in_a_lost_broker_waits_is_seen_and_happens_once_it_is_back(house: House) -> None:
    house.alice.do("rollout.start", {"component": "kiosk", "version": "1.1.0", "groups": ["ovens"]})
    with Session(house.profile, patient=True) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed)
        async with app.run_test(size=(120, 32), notifications=True) as pilot:
            await see(pilot, "3 of 3 devices", "✓ manager")
            await pilot.press("2", "enter")
            await see(pilot, "▶ running", "Pause")
            house.manager.kill()
            await see(pilot, "✗ broker lost")
            await pilot.press("p")
            await see(pilot, "the broker is lost", "waits for the broker")
            # The same again is not signed twice; and whoever leaves the screen hears of it all the same.
            await pilot.press("p")
            await see(pilot, "waits for its answer")
            await pilot.press("escape")
            house.manager.start()
            await see(pilot, "✓ broker", ": done", "= paused")
            audit = session.request("audit.list", arguments={"action": "group.upgrade.paused"})
            assert len(audit["entries"]) == 1


async def test_whoever_leaves_waits_for_no_answer(stage: Stage) -> None:
    troubled(stage)
    managed(stage)
    app = stage.console()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert not stage.asker.given_up
    assert stage.asker.given_up


async def test_a_paused_engine_is_seen_at_once(stage: Stage) -> None:
    stage.manager()
    stage.asker.answers["manager.status"] = {
        "engine": "paused",
        "paused": {"by": "alice", "at": "2026-11-20T11:59:00Z", "reason": "network works"},
    }
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(80, 24)) as pilot:
        await second(pilot)
        assert "= engine paused by alice: network works" in await second(pilot)

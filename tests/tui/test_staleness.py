"""No claim of another time is shown as if it were of now: broker and manager lost and back, clocks, sizes."""

from tests.tui.driving import screen_text, second, settle
from tests.tui.stage import NOON, Stage
from tests.tui.trouble import managed, troubled

from fleetfoot_protocol import times
from fleetfoot_tui.head import Health, fitting, health_cells, trail


def words(**changes: object) -> str:
    return "  ".join(cell.text for cell in health_cells(Health(**changes)))  # type: ignore[arg-type]


def test_the_head_says_nothing_of_an_engine_that_cannot_be_asked() -> None:
    assert "engine running" in words(broker=True, manager=True, engine="running")
    assert "engine" not in words(broker=True, manager=False, engine="running")
    lost = words(broker=False, manager=True, engine="running")
    assert "engine" not in lost
    assert "✓" not in lost
    assert "? manager" in lost
    assert "no broker yet" in words(broker=False, ever=False)
    assert "refuses" in words(broker=False, trouble="it refuses the connection: Not authorized")


def test_on_a_narrow_screen_what_is_wrong_stays() -> None:
    cells = health_cells(Health(broker=True, manager=False, engine="running", silence=3, dropped=2))
    shown = [cell.text for cell in fitting(cells, 40)]
    assert shown[:2] == ["✓ broker", "✗ manager offline"]
    assert "2 dropped" in shown
    crumbs = trail(["fleetfoot", "bakery", "Fleet", "Rollouts", "r-7k2m9x0a7c"], 30)
    assert [cell.text for cell in crumbs] == ["…", "Rollouts", "r-7k2m9x0a7c"]


async def test_what_the_broker_said_before_it_was_lost_is_said_to_be_of_then(stage: Stage) -> None:
    troubled(stage)
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(120, 40)) as pilot:
        text = await second(pilot)
        assert "● online" in text
        assert "✓ engine running" in await second(pilot)
        stage.link.connected = False
        text = await second(pilot)
        assert "broker lost" in text
        assert "? was on" in text
        assert "● online" not in text
        assert "engine running" not in text
        assert "✓ manager" not in text
        stage.link.connected = True
        await second(pilot)
        text = await second(pilot)
        assert "● online" in text
        assert "✓ engine running" in text


async def test_a_manager_that_went_is_not_said_to_run_nor_to_be_stuck_when_it_comes_back(
    stage: Stage,
) -> None:
    troubled(stage)
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(120, 40)) as pilot:
        await second(pilot)
        assert "✓ engine running" in await second(pilot)
        stage.manager("offline")
        text = await second(pilot)
        assert "✗ manager offline" in text
        assert "engine" not in text.splitlines()[1]
        asked = len(stage.asker.of("manager.status"))
        await second(pilot)
        assert len(stage.asker.of("manager.status")) == asked, "nobody is there to be asked"
        stage.manager("online")
        await second(pilot)
        assert "✓ engine running" in (await second(pilot)).splitlines()[1]


async def test_a_countdown_stops_while_there_is_no_manager_to_open_the_next_wave(stage: Stage) -> None:
    stage.manager()
    settles = times.to_text(NOON + 90)
    stage.asker.answers["rollout.list"] = {"rollouts": []}
    stage.progress(state="settling", reason="", counts={"healthy": 3, "pending": 27})
    managed(stage)
    shown = stage.asker.answers["rollout.show"]
    stage.asker.answers["rollout.show"] = lambda asked: (
        shown(asked) | {"state": "settling", "settles": settles, "reason": ""}
    )
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(120, 40)) as pilot:
        await second(pilot)
        await pilot.press("2", "enter")
        assert "settles in 1:30" in await second(pilot)
        stage.manager("offline")
        text = await second(pilot)
        assert "settles when the manager is back" in text
        assert "settles in" not in text


async def test_a_clock_that_jumps_and_a_screen_that_shrinks_and_grows_break_nothing(stage: Stage) -> None:
    troubled(stage)
    managed(stage)
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(120, 40)) as pilot:
        before = await second(pilot)
        for keys in ((), ("2",), ("enter",), ("3",), ("4",), ("5",), ("6",), ("1",)):
            await pilot.press(*keys)
            for now, size in ((NOON - 10**8, (40, 10)), (NOON + 10**8, (80, 24)), (NOON, (120, 40))):
                stage.clock.now = now
                await pilot.resize_terminal(*size)
                await second(pilot)
        assert [line[:60] for line in screen_text(app).splitlines()[3:30]] == [
            line[:60] for line in before.splitlines()[3:30]
        ]
        stage.clock.now = NOON + 10**8
        # The documents have expired by this clock: nothing is wanted any more.
        assert "1.2.0" not in [row.split()[4] for row in (await settle(pilot)).splitlines()[6:10]]

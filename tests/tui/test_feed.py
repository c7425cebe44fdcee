"""What waits to be looked at: the newest of each topic, and first what somebody looks at."""

from tests.tui.stage import Stage

from fleetfoot_protocol import topics
from fleetfoot_protocol.topics import Kind
from fleetfoot_tui.feed import Inbox


def say(inbox: Inbox, name: str, payload: bytes) -> str:
    text = topics.build(Kind.STATUS, group="ovens", device=name)
    inbox.put(text, payload, False)
    return text


def test_of_each_topic_only_the_newest_waits() -> None:
    inbox = Inbox("ff")
    for number in range(3):
        say(inbox, "oven-1", b"%d" % number)
    assert [payload for _, payload, _ in inbox.drain(1)] == [b"2"]


def test_what_is_looked_at_is_taken_in_before_ten_thousand_others_and_without_any_time() -> None:
    inbox = Inbox("ff")
    for number in range(10_000):
        say(inbox, f"oven-{number}", b"x")
    watched = say(inbox, "the-last", b"y")
    first = next(inbox.drain(0, [watched, "ff/v1/groups/none/devices/none/status"]))
    assert (first[0].device, first[1]) == ("the-last", b"y")
    assert len(inbox) == 10_000


async def test_in_a_burst_a_key_is_answered_and_the_device_on_the_screen_is_up_to_date(stage: Stage) -> None:
    for number in range(40):
        stage.device(f"oven-{number:02}", "ovens", stage.runs("1.0.0"))
    app = stage.console()
    app.by_itself = False
    async with app.run_test(size=(80, 24)) as pilot:
        while len(stage.inbox):
            app.tick()
        await pilot.pause()
        await pilot.press("j")
        for number in range(5000):
            say(stage.inbox, f"grill-{number}", b"{}")
        stage.device("oven-03", "ovens", stage.runs("1.2.0"), counter=2)
        app.tick()
        assert len(stage.inbox) > 1000, "a tick right after a key took far too long"
        assert app.fleet.devices["oven-03"].main.version == "1.2.0"

"""Each screen has a command that says the same in plain lines, and with --json for programs.

Of events, which nobody keeps, those that come while both look.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.realm import COMPONENT, Device, ended, runs
from tests.support.waiting import until
from tests.tui.stage import Stage
from tests.tui.test_steering import House, see
from tests.tui.test_terminal import recorded

from fleetfoot_client import profiles
from fleetfoot_client.cli import main
from fleetfoot_client.session import Session
from fleetfoot_protocol import topics
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.events import Event, cloud_event
from fleetfoot_tui.app import Console
from fleetfoot_tui.feed import Feed

MAIN = "import sys; from fleetfoot_client.cli import main; sys.exit(main())"
#: screen -> keys that lead there; commands; what stands on the screen, and in each kind of output of these
#: commands together. `R` is the rollout that tripped, `W` the one that waits for approval.
TWINS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "fleet": ("1", ("device list",), ("oven-1", "oven-3", "ovens", "fryer-1", "1.0.0", "boot_failed")),
    "grid": ("7", ("group list", "group show ovens"), ("ovens", "fryers")),
    "device": (
        "1 home down enter",
        (
            "device show oven-1",
            f"device upgrades oven-1 {COMPONENT}",
            f"device downgrades oven-1 {COMPONENT}",
        ),
        ("ovens", "1.0.0", "1.1.0", "upgrade_boot_failed", "R"),
    ),
    "rollouts": ("2", ("rollout list --all", "rollout history"), ("R", "W", COMPONENT, "1.1.0", "tripped")),
    "rollout": (
        "2 home enter",
        ("rollout show R",),
        ("R", "tripped", "upgrade_boot_failed", "alice", "oven-2", "ovens", "1.1.0"),
    ),
    "new rollout": (
        "1 home down n tab 1 full_stop 1 full_stop 0",
        (f"rollout plan --component {COMPONENT} --version 1.1.0 --group ovens",),
        ("1.1.0", "ovens", COMPONENT),
    ),
    "releases": ("3", ("release list",), (COMPONENT, "1.0.0", "1.2.0", "stable", "recalled")),
    "compare": ("3 c", (f"release compare {COMPONENT} 1.0.0 1.1.0",), (COMPONENT, "1.0.0", "1.1.0")),
    "approvals": ("4", ("rollout list",), ("W", "fryers", "1.1.0", COMPONENT)),
    "audit": (
        "6",
        ("audit list --limit 100", "audit verify"),
        ("alice", "group.upgrade.schedule", "release.recall", "device.enroll"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, dict[str, str]]]:
    """A rollout that tripped, one that waits for approval, and a recalled release; the names of both."""
    folder = tmp_path_factory.mktemp("house")
    house = House(folder)
    try:
        fryer = Device("fryer-1", "fryers")
        house.alice.do("device.enroll", {"devices": [fryer.enrolment]})
        house.fleet.say(fryer, fryer.status(runs(house.old), capabilities=("upgrade",)))
        house.alice.do("group.policy", {"group": "fryers", "approval": "always"})
        wish = {"component": COMPONENT, "version": "1.1.0"}
        waits = house.alice.do("rollout.start", {**wish, "groups": ["fryers"]})["rollout"]
        name = house.alice.do("rollout.start", {**wish, "groups": ["ovens"], "waves": [3]})["rollout"]
        device = house.devices[0]
        failure = ended(house.new, name, "rolled_back", house.old, code="upgrade_boot_failed")
        house.fleet.say(device, device.status(failure, capabilities=("upgrade",)))
        until(lambda: house.alice.do("rollout.show", {"rollout": name})["state"] == "tripped", "tripped")
        house.alice.release(house.realm.release("1.2.0", 3))
        house.alice.do("release.recall", {"component": COMPONENT, "version": "1.2.0", "reason": "dies"})
        yield house, {"R": name, "W": waits}
    finally:
        house.close()


@pytest.fixture(scope="module")
def seen(trouble: tuple[House, dict[str, str]]) -> dict[str, str]:
    """Each screen, once all is on it that should be."""
    house, names = trouble

    async def look() -> dict[str, str]:
        found = {}
        with Session(house.profile) as session, Feed(house.profile) as feed:
            app = Console(session.root, feed, session, source=feed, operator="alice")
            async with app.run_test(size=(160, 50)) as pilot:
                await see(pilot, "4 of 4 devices", "rolled back", "✓ manager")
                for screen, (keys, _, words) in TWINS.items():
                    await pilot.press(*keys.split())
                    found[screen] = await see(pilot, *(names.get(word, word) for word in words))
                    await pilot.press("escape", "escape")
        return found

    return asyncio.run(look())


@pytest.mark.parametrize("screen", TWINS)
def test_a_screen_has_a_plain_and_a_json_twin_that_say_the_same(
    screen: str,
    trouble: tuple[House, dict[str, str]],
    seen: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    house, names = trouble
    monkeypatch.setenv("FLEETFOOT_CONFIG_DIR", str(tmp_path))
    profiles.save(house.profile, {"FLEETFOOT_CONFIG_DIR": str(tmp_path)}, default=True)
    _, commands, words = TWINS[screen]
    for more in ((), ("--json",)):
        said = ""
        for command in commands:
            assert main([*(names.get(word, word) for word in command.split()), *more]) == 0
            text = capsys.readouterr().out
            said += text
            if more:
                assert isinstance(json.loads(text), dict)
        for word in (names.get(word, word) for word in words):
            assert word in said, f"{screen} {more}: {word}\n{said}"
    assert seen[screen]


async def test_events_have_one_too(
    trouble: tuple[House, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, _ = trouble
    monkeypatch.setenv("FLEETFOOT_CONFIG_DIR", str(tmp_path))
    profiles.save(house.profile, {"FLEETFOOT_CONFIG_DIR": str(tmp_path)}, default=True)
    topic = topics.build(topics.Kind.DEVICE_EVENTS, group="ovens", device="oven-2")
    happened = cloud_event(
        Event.UPGRADE_ROLLED_BACK, source="oven-2", event_id="twin", time="2026-01-01T00:00:07Z",
        component=COMPONENT, data={"version": "1.1.0"}, code=Code.UPGRADE_BOOT_FAILED,
    )  # fmt: skip
    command = [sys.executable, "-c", MAIN, "events", "--limit", "1", "--timeout", "60s"]
    known = ("oven-2", "upgrade_rolled_back", COMPONENT, "boot_failed", "1.1.0")
    with Session(house.profile) as session, Feed(house.profile) as feed:
        app = Console(session.root, feed, session, source=feed)
        async with app.run_test(size=(160, 50)) as pilot:
            await see(pilot, "4 of 4 devices")
            await pilot.press("5")
            twins = [
                await asyncio.create_subprocess_exec(*command, *more, stdout=PIPE)
                for more in ((), ("--json",))
            ]
            while any(twin.returncode is None for twin in twins):
                house.fleet.publish(topic, json.dumps(happened).encode())
                await pilot.pause(0.2)
            text = await see(pilot, *known)
    plain, rows = [(await twin.communicate())[0].decode() for twin in twins]
    for word in known:
        assert word in plain
        assert word in rows
        assert word in text
    assert json.loads(rows)["id"] == "twin"


def test_the_page_of_the_console_names_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "console.md").read_text()
    for _, commands, _ in TWINS.values():
        for command in commands:
            assert f"`fleetfoot {' '.join(command.split()[:2])}" in page, command


def test_a_recording_has_one_too(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trouble.jsonl"
    recorded(stage, path)
    assert main(["replay", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fleet"] == "bakery"

"""Devices and events from the command line."""

import itertools
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.client.rig import Fleet, HandManager, Ran, Run
from tests.support.waiting import until

from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol import topics
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.events import Event, cloud_event
from fleetfoot_protocol.reports import Request
from fleetfoot_protocol.topics import Kind


def enrolling(manager: HandManager) -> None:
    manager.answers["device.enroll"] = lambda request: {
        "enrolled": len(request.arguments["devices"]), "unchanged": 0,
    }  # fmt: skip


def test_one_device_is_enrolled_with_key_and_labels(
    run: Run, fleet: Fleet, profile: Profile, manager: HandManager
) -> None:
    enrolling(manager)
    done = run(
        "device", "enroll", "--id", "d-1", "--group", "ovens", "--key", fleet.public("d-1"),
        "--label", "site=b", "--json",
    )  # fmt: skip
    assert done.json == {"enrolled": 1, "unchanged": 0}
    key = json.loads(fleet.public("d-1").read_text())["public"]
    assert manager.heard[0].arguments == {
        "devices": [{"id": "d-1", "group": "ovens", "key": key, "labels": {"site": "b"}}]
    }


def many(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"d-{n}", "group": "ovens", "key": f"{n:064x}", "labels": {"site": "b" * 60}}
        for n in range(count)
    ]


def test_a_file_of_thousands_is_enrolled_in_requests_that_fit(
    run: Run, profile: Profile, manager: HandManager, tmp_path: Path
) -> None:
    enrolling(manager)
    (tmp_path / "devices.json").write_text(json.dumps({"devices": many(1200)}))
    done = run("device", "enroll", "--from", tmp_path / "devices.json", "--json")
    assert done.json == {"enrolled": 1200, "unchanged": 0}
    sent = [device["id"] for request in manager.heard for device in request.arguments["devices"]]
    assert sent == [f"d-{n}" for n in range(1200)]
    assert len(manager.heard) > 2


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '{"devices": []}', '{"devices": {}}', '[{"id": "D", "group": "g", "key": "00"}]',
     '[{"id": "d", "group": "g"}]', '{"id": "d", "group": "g", "key": 3}'],
)  # fmt: skip
def test_a_file_that_is_no_list_of_devices_is_refused(
    run: Run, profile: Profile, manager: HandManager, tmp_path: Path, content: str
) -> None:
    (tmp_path / "devices.json").write_text(content)
    done = run("device", "enroll", "--from", tmp_path / "devices.json", "--json")
    assert (done.code, done.json["error"]["code"]) == (Exit.USAGE, "config_invalid")
    assert manager.heard == []


@pytest.mark.parametrize(
    "options", [[], ["--id", "d"], ["--id", "d", "--group", "g", "--key", "00" * 32, "--from", "x"]]
)
def test_half_an_enrolment_is_wrong_usage(run: Run, profile: Profile, options: list[str]) -> None:
    done = run("device", "enroll", *options)
    assert (done.code, "code: usage" in done.err) == (Exit.USAGE, True)


def row(number: int, **component: Any) -> dict[str, Any]:
    return {
        "id": f"d-{number}", "group": "ovens", "online": number % 2 == 0, "labels": {}, "alarms": [],
        "components": {"kiosk": {"version": "1.0.0", "state": "idle", "badge": "idle", **component}},
    }  # fmt: skip


def test_every_page_of_the_inventory_is_fetched(run: Run, profile: Profile, manager: HandManager) -> None:
    def page(request: Request) -> dict[str, Any]:
        after = int(request.arguments.get("after", "d-0").removeprefix("d-"))
        rows = [row(number) for number in range(after + 1, min(after + 3, 6))]
        return {"devices": rows, **({"next": rows[-1]["id"]} if after + 3 < 6 else {})}

    manager.answers["device.list"] = page
    done = run("device", "list", "--group", "ovens", "--json")
    assert [device["id"] for device in done.json["devices"]] == [f"d-{n}" for n in range(1, 6)]
    assert {request.arguments["group"] for request in manager.heard} == {"ovens"}
    assert "5 devices, 2 online" in run("device", "list", "--group", "ovens").out


def test_a_device_shows_what_went_wrong_and_what_to_do(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    code = Code.UPGRADE_BOOT_FAILED
    shown = row(2, state="rolled_back", badge="rolled back", code=str(code), reason="exit\x1b 3")
    error = {"code": "upgrade_rolled_back", "message": "went back", "at": "2026-01-01T00:00:00Z"}
    shown |= {"alarms": ["upgrade_stale"], "last_error": error}
    manager.answers["device.show"] = lambda request: shown
    out = run("device", "show", "d-2").out
    for text in (
        "↩ rolled back",
        f"{code} ({info(code).severity})",
        info(code).meaning,
        info(code).remedy,
        "exit\\x1b 3",
        info(Code.UPGRADE_STALE).remedy,
        info(Code.UPGRADE_ROLLED_BACK).remedy,
    ):
        assert text in out
    assert run("device", "show", "d-2", "--json").json == shown


def event(number: int, kind: Event = Event.UPGRADE_STARTED, **data: Any) -> bytes:
    made = cloud_event(
        kind, source="d-1", event_id=str(number), time="2026-01-01T00:00:00Z", component="kiosk", data=data
    )
    return json.dumps(made).encode()


EVENTS = topics.build(Kind.DEVICE_EVENTS, group="ovens", device="d-1")
GROUP_EVENTS = topics.build(Kind.GROUP_EVENTS, group="grills")


def following(run: Run, manager: HandManager, messages: list[tuple[str, bytes]], *options: object) -> Ran:
    """Runs `events` while `messages` are published again and again, until it has ended."""
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.05):
            for topic, payload in messages:
                manager.publish(topic, payload)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        return run("events", "--timeout", "30s", *options)
    finally:
        ended.set()
        thread.join(30)


def test_events_of_devices_and_groups_are_printed_once_each(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    messages = [(EVENTS, event(n, version="1.1.0", bad="\x1b[2J")) for n in range(3)]
    messages.append((GROUP_EVENTS, event(9, Event.ROLLOUT_STARTED)))
    done = following(run, manager, messages, "--limit", 4, "--json")
    assert done.code == 0
    found = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(e["id"] for e in found) == ["0", "1", "2", "9"]
    plain = following(run, manager, messages, "--limit", 4)
    assert "ovens/d-1  kiosk  version=1.1.0 bad=\\x1b[2J" in plain.out


def test_events_are_chosen_by_kind_and_group(run: Run, profile: Profile, manager: HandManager) -> None:
    messages = [
        (EVENTS, event(1)),
        (EVENTS, event(2, Event.UPGRADE_ROLLED_BACK)),
        (GROUP_EVENTS, event(3, Event.UPGRADE_ROLLED_BACK)),
        (EVENTS, b"no event"),
        (EVENTS, b'{"type": 3}'),
        (EVENTS, b"[" * 5000),
    ]
    by_kind = following(run, manager, messages, "--kind-prefix", "upgrade_rolled", "--limit", 2, "--json")
    assert {json.loads(line)["id"] for line in by_kind.out.splitlines()} == {"2", "3"}
    full = following(
        run, manager, messages, "--kind-prefix", "dev.fleetfoot.upgrade_rolled", "--group", "ovens",
        "--limit", 1, "--json",
    )  # fmt: skip
    assert json.loads(full.out)["id"] == "2"


def test_fewer_events_than_asked_for_in_time_is_a_timeout(
    run: Run, profile: Profile, manager: HandManager
) -> None:
    assert run("events", "--timeout", "1s", "--limit", 1).code == Exit.TIMEOUT
    assert run("events", "--timeout", "1s").code == 0


def test_ctrl_c_ends_following_without_a_traceback(profile: Profile, manager: HandManager) -> None:
    command = [sys.executable, "-c", "import sys; from fleetfoot_client.cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, "events", "--follow", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            thread = threading.Thread(target=process.stdout.readline)
            thread.start()
            numbers = itertools.count()

            def printed() -> bool:
                manager.publish(EVENTS, event(next(numbers)))
                return not thread.is_alive()

            until(printed, "an event is printed")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == Exit.INTERRUPTED
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()

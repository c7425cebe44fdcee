"""The report of a rollout: everything is in the files, nothing in them runs or loads, nothing breaks out."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.client.rig import HandManager, Run

from fleetfoot_client import report, report_pictures
from fleetfoot_client.exits import Exit
from fleetfoot_client.profiles import Profile
from fleetfoot_protocol.reports import Request

AT = "2026-01-01T00:0{}:00Z"
EVIL = '<script>alert(1)</script>"\x1b'


def device(n: int, terminal: str, wave: int, **more: Any) -> dict[str, Any]:
    times = {"since": AT.format(0), "ended": AT.format(n)} if terminal in ("healthy", "failed") else {}
    return {"id": f"oven-{n}", "group": "ovens", "wave": wave, "terminal": terminal, **times, **more}


REPORT: dict[str, Any] = {
    "rollout": "r-1", "fleet": "kitchens", "component": "kiosk", "version": "1.1.0", "digest": "d" * 64,
    "groups": ["ovens"], "state": "completed", "reason": EVIL, "wave": 2, "waves": [1, 4], "total": 4,
    "revision": 9, "started": AT.format(0), "ended": AT.format(9), "requested_by": "greta",
    "decided_by": "anton", "decision": "approved", "success_percent": 66,
    "notes": [{"rollout": "r-1", "title": EVIL, "author": "alice", "at": AT.format(9), "text": "long"}],
    "audit": [{"n": 7, "at": AT.format(0), "actor": "greta", "action": "group.upgrade.schedule"}],
    "devices": [
        device(1, "healthy", 1), device(2, "healthy", 2),
        device(3, "failed", 2, code="upgrade_health_failed", reason=EVIL), device(4, "skipped", 2),
    ],
}  # fmt: skip


class Page(HTMLParser):
    """What is in the page: its tags, what it refers to, its texts."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.words: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        self.words.append(data)


def page() -> Page:
    return Page(report.as_html(REPORT))


def looks(made: Page, *names: str) -> list[int]:
    """How many parts of bars have each look, without the key."""
    found = [value for name, value in made.attributes if name == "class"]
    keys = [value for name, value in made.attributes if name == "aria-hidden" and value == "true"]
    assert len(keys) == len(set(found) & set(report_pictures.LOOKS.values()))
    return [found.count(name) - 1 for name in names]


def test_the_page_is_whole_and_shows_every_device_and_why() -> None:
    made = page()
    assert made.open == []
    for text in ("kiosk 1.1.0: completed", "oven-1", "oven-4", "upgrade_health_failed", "66 %", "greta"):
        assert text in made.text
    assert "by anton" in made.text
    assert made.tags.count("svg") == 2 + 3  # two pictures, and a key of three results
    # Wave 1: updated; wave 2: updated, skipped, failed.
    assert looks(made, "good", "calm", "bad") == [2, 1, 1]


STRATEGY: dict[str, Any] = {
    **REPORT, "strategy": "batches", "breaker": 2, "consecutive": True, "canaries": ["oven-1"],
    "stage": "first", "failure_percent": 20, "min_successes": 2, "approve_each_wave": True,
    "offline_policy": "skip", "priority": 5, "expires": "2026-02-01T00:00:00Z", "settle": 300,
    "after": "r-0", "attempt": 3, "takes_back": "1.2.0", "selector": {"site": "north"}, "waves": [1, 3, 4],
    "asked": {"batch_size": 10, "waves": [1, 2], "breaker": 3}, "approved": {"batch_size": 2, "breaker": 3},
    "audit": [
        {"n": 8, "at": AT.format(1), "actor": "anton", "action": "group.upgrade.approve", "what": "wave 2"},
        {"n": 7, "at": AT.format(0), "actor": "greta", "action": "group.upgrade.schedule"},
        {"n": 9, "at": AT.format(3), "actor": "manager", "action": "group.upgrade.paused"},
        {"n": 10, "at": AT.format(5), "actor": "greta", "action": "group.upgrade.decide", "what": "rollback"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "3 batches of up to 2 devices", "canariesoven-1", "everybody stages before the first wave", "5 min",
        "2 failures in a row, or more than 20 % failures", "2 successes in each wave", "are not waited for",
        "each waveis approved", "priority5", "would expire2026-02-01T00:00:00Z", "comes afterr-0", "attempt3",
        "takes backkiosk 1.2.0", "onlysite=north",
        "batch size102", "waves1, 2as usual",
        "+60 s: approved wave 2 by anton", "+3 min: tripped by manager", "+5 min: decided rollback by greta",
    ],
)  # fmt: skip
def test_every_strategy_and_what_people_did_is_told(text: str) -> None:
    made = Page(report.as_html(STRATEGY))
    assert made.open == []
    assert text in made.text
    assert "breaker33" not in made.text  # approved as it was asked for


def test_the_pictures_name_what_there_is() -> None:
    made = Page(report.as_html(STRATEGY))
    counts = [made.words.count(name) for name in ("canaries", "step 2", "staging")]
    assert counts == [3, 2, 2]  # once among the facts, but the step
    late = [device(5, "canceled", 3), device(6, "skipped", 0, reason="beyond the last wave")]
    waves = {**STRATEGY, "takes_back": "", "strategy": "waves", "canaries": [], "stage": "", "audit": []}
    made = Page(report.as_html({**waves, "devices": [*REPORT["devices"], *late]}))
    for name, times in (("wave 1", 2), ("wave 2", 2), ("wave 3", 2), ("not opened", 1), ("not reached", 1)):
        assert (name, made.words.count(name)) == (name, times)


def test_who_was_taken_back_is_not_shown_as_updated() -> None:
    devices = [device(1, "healthy", 1, on_goal=False), device(2, "healthy", 1, on_goal=True)]
    made = Page(report.as_html({**REPORT, "state": "rolled_back", "devices": devices}))
    assert "updated 1, taken back 1" in made.text
    assert "kiosk 1.1.0: rolled back" in made.text
    assert looks(made, "good", "returned") == [1, 1]


def test_a_thousand_batches_are_a_picture_still() -> None:
    devices = [device(1, "healthy", number) | {"id": f"oven-{number}"} for number in range(1, 1001)]
    value = {**REPORT, "strategy": "batches", "waves": list(range(1, 1001)), "devices": devices}
    made = Page(report.as_html(value))
    assert "batch 1-42" in made.text
    assert "batch 967-1000" in made.text
    assert made.tags.count("rect") == 2 * 24


def test_nothing_in_the_page_runs_or_is_loaded() -> None:
    made = page()
    assert not {"script", "link", "img", "iframe", "object", "use", "image"} & set(made.tags)
    assert not [name for name, _ in made.attributes if name in ("src", "href") or name.startswith("on")]
    assert "url(" not in report.as_html(REPORT).decode()
    assert "@import" not in report.as_html(REPORT).decode()


def test_what_devices_and_people_said_is_text() -> None:
    data = report.as_html(REPORT)
    assert b"<script" not in data
    assert b"\x1b" not in data
    assert EVIL.replace("\x1b", "\\x1b") in page().text


def test_light_and_dark_are_both_there() -> None:
    text = report.as_html(REPORT).decode()
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text


def test_a_rollout_in_which_nobody_moved_has_a_page_too() -> None:
    empty = {**REPORT, "devices": [device(4, "canceled", 0)], "started": "", "waves": []}
    made = Page(report.as_html(empty))
    assert made.open == []
    assert "No device was asked to move" in made.text


def test_the_command_writes_both_files_with_all_pages_of_devices(
    manager: HandManager, profile: Profile, run: Run, tmp_path: Path
) -> None:
    def pages(request: Request) -> dict[str, Any]:
        after = request.arguments["after"]
        devices = REPORT["devices"][after : after + 3]
        head = REPORT if after == 0 else {}
        return {**head, "devices": devices, **({"next": after + 3} if after == 0 else {})}

    manager.answers["rollout.report"] = pages
    out = tmp_path / "reports" / "r-1"
    done = run("rollout", "report", "r-1", "--out", out, "--json")
    assert (done.code, done.json["devices"]) == (0, 4)
    assert json.loads((out / "report.json").read_text()) == REPORT
    assert (out / "report.html").read_bytes() == report.as_html(REPORT)
    assert run("rollout", "report", "r-1", "--out", out).code == 0


@pytest.mark.parametrize("blocked", ["reports"])
def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(
    blocked: str, manager: HandManager, profile: Profile, run: Run, tmp_path: Path
) -> None:
    manager.answers["rollout.report"] = lambda request: REPORT
    (tmp_path / blocked).write_text("a file")
    done = run("rollout", "report", "r-1", "--out", tmp_path / blocked)
    assert (done.code, blocked in done.err) == (Exit.FAILED, True)

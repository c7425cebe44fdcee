"""The report of a rollout: everything is in the files, nothing in them runs or loads, nothing breaks out."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.client.rig import HandManager, Run

from fleetfoot_client import report
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


def page() -> Page:
    return Page(report.as_html(REPORT))


def test_the_page_is_whole_and_shows_every_device_and_why() -> None:
    made = page()
    assert made.open == []
    for text in ("kiosk 1.1.0: completed", "oven-1", "oven-4", "upgrade_health_failed", "66 %", "greta"):
        assert text in made.text
    assert "by anton" in made.text
    assert made.tags.count("svg") == 2
    assert made.tags.count("rect") == 4  # wave 1: updated; wave 2: updated, skipped, failed


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

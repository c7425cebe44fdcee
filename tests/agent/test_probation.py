"""Probation judged from observations alone, and one look at a component."""

import http.server
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.workerrig import configure

from fleetfoot_agent.components import Check, Component
from fleetfoot_agent.seam import UnitState
from fleetfoot_agent.worker.probation import Look, Observer, look
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import FleetfootError

WELL = Look(7, True, None)
OTHER_WELL = Look(8, True, None)
UNREADY = Look(7, True, "the process is not ready")
DOWN = Look(None, False, "the process does not run")
SILENT = Look(None, None, "the supervisor does not answer")
BOOT, HEALTH = Code.UPGRADE_BOOT_FAILED, Code.UPGRADE_HEALTH_FAILED

#: (seconds after the start, what is seen), and the last of all judgements; window 10 s, settle 3 s.
COURSES: dict[str, tuple[list[tuple[float, Look]], str, Code | None]] = {
    "well all the time": ([(0, WELL), (5, WELL), (10, WELL)], "healthy", None),
    "well, the window not over": ([(0, WELL), (9.9, WELL)], "wait", None),
    "well just long enough": ([(0, DOWN), (7, WELL), (10, WELL)], "healthy", None),
    "well not long enough": ([(0, DOWN), (7.1, WELL), (10, WELL)], "unwell", HEALTH),
    "well at the last look only": ([(0, UNREADY), (10, WELL)], "unwell", HEALTH),
    "never up": ([(0, DOWN), (10, DOWN)], "unwell", BOOT),
    "up but never well": ([(0, UNREADY), (10, UNREADY)], "unwell", HEALTH),
    "never well, the window not over": ([(0, DOWN), (9, UNREADY)], "wait", None),
    "starts and dies before it was ever well": ([(0, UNREADY), (1, DOWN), (2, UNREADY)], "wait", None),
    "slow to start, other pids": ([(0, Look(1, True, "no")), (1, Look(2, True, "no"))], "wait", None),
    "dies after it was well": ([(0, WELL), (1, DOWN)], "unwell", BOOT),
    "was started again after it was well": ([(0, WELL), (1, OTHER_WELL)], "unwell", BOOT),
    "dies while not well, having been well": ([(0, WELL), (1, UNREADY), (2, DOWN)], "unwell", BOOT),
    "comes back as another, having been well": (
        [(0, WELL), (1, UNREADY), (2, Look(8, True, "no"))],
        "unwell",
        BOOT,
    ),
    "an ailment in the middle": ([(0, WELL), (4, UNREADY), (6, WELL), (10, WELL)], "healthy", None),
    "an ailment near the end": ([(0, WELL), (8, UNREADY), (9, WELL), (10, WELL)], "unwell", HEALTH),
    "not well at the end": ([(0, WELL), (10, UNREADY)], "unwell", HEALTH),
    "the supervisor was away": ([(0, WELL), (2, SILENT), (4, WELL), (10, WELL)], "healthy", None),
    "it died while the supervisor was away": ([(0, WELL), (2, SILENT), (4, OTHER_WELL)], "unwell", BOOT),
    "the supervisor is away near the end": ([(0, WELL), (8, SILENT), (10, WELL)], "unwell", HEALTH),
    "the supervisor never answers": ([(0, SILENT), (10, SILENT)], "unwell", BOOT),
}


@pytest.mark.parametrize("course", COURSES)
def test_the_verdict(course: str) -> None:
    seen, verdict, code = COURSES[course]
    observer = Observer(window=10, settle=3, now=100)
    judgements = [observer.judge(one, 100 + at) for at, one in seen]
    assert judgements[-1].verdict == verdict
    assert {j.verdict for j in judgements[:-1]} <= {"wait"}
    if code is not None:
        assert judgements[-1].code is code
        assert judgements[-1].message


def test_without_a_window_one_look_decides() -> None:
    assert Observer(0, 0, 5).judge(WELL, 5).verdict == "healthy"
    assert Observer(0, 0, 5).judge(DOWN, 5).verdict == "unwell"


# -- one look


class Unit:
    """A supervisor that says what it was told to say."""

    def __init__(self, **changes: object) -> None:
        facts = {"active": True, "ready": True, "pid": 7, "restarts": 0, "since": 0.0, "target": "versions/a"}
        self._state = UnitState(**{**facts, **changes})  # type: ignore[arg-type]

    def state(self) -> UnitState:
        return self._state

    def restart(self) -> None:
        raise AssertionError("a look changes nothing")

    def demand(self) -> None:
        raise AssertionError("a look demands nothing")

    def quiesce(self) -> None:
        raise AssertionError("a look changes nothing")


class Nobody(Unit):
    def state(self) -> UnitState:
        raise FleetfootError("supervisor_failed", "nobody listens")


@pytest.fixture
def component(tmp_path: Path) -> Component:
    return configure(tmp_path).components["kiosk"]


@pytest.mark.parametrize(
    ("unit", "seen"),
    [
        (Unit(), Look(7, True, None)),
        (Unit(ready=False), Look(7, True, "the process is not ready")),
        (Unit(active=False, pid=None), Look(None, False, "the process does not run")),
        (Unit(target="versions/b"), Look(7, False, "versions/b was started last, not versions/a")),
        (Unit(target=None), Look(7, False, "nothing was started last, not versions/a")),
        (Nobody(), Look(None, None, "nobody listens")),
    ],
)
def test_a_look_at_the_supervisor(component: Component, unit: Unit, seen: Look) -> None:
    assert look(component, unit, "versions/a") == seen


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health?deep=1" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def http_check(url: str) -> Check:
    return Check("http", url=url, timeout=2)


def exec_check(program: str, timeout: float = 5) -> Check:
    return Check("exec", argv=(sys.executable, "-ISc", program), timeout=timeout)


def problem(component: Component, *checks: Check) -> str | None:
    return look(replace(component, checks=checks), Unit(), "versions/a").problem


def test_a_check_by_http_wants_a_status_of_success(component: Component, url: str) -> None:
    assert problem(component, http_check(f"{url}/health?deep=1")) is None
    assert problem(component, http_check(f"{url}/health")) == f"{url}/health answers 503"


def test_a_check_by_http_of_nobody_fails(component: Component, url: str) -> None:
    closed = "http://127.0.0.1:1/health"
    assert (problem(component, http_check(closed)) or "").startswith(f"{closed} does not answer: ")


def test_a_check_by_exit_status(component: Component) -> None:
    assert problem(component, exec_check("pass")) is None
    assert problem(component, exec_check("raise SystemExit(3)")) == f"{sys.executable} exits with 3"
    assert problem(component, exec_check("import time; time.sleep(60)", 0.1)) == (
        f"{sys.executable} did not end within 0.1 s"
    )
    missing = Check("exec", argv=("/nonexistent/check",))
    assert (problem(component, missing) or "").startswith("/nonexistent/check cannot be run")


def test_no_check_is_passed_over_because_there_are_many(
    component: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fleetfoot_agent.worker.checks.failure", lambda check: "no" if check.argv == ("last",) else None
    )
    many = [Check("exec", argv=(f"check-{number}",)) for number in range(100)]
    assert problem(component, *many) is None
    assert problem(component, *many, Check("exec", argv=("last",))) == "no"


def test_the_first_check_that_fails_is_told(component: Component) -> None:
    bad, worse = exec_check("raise SystemExit(1)"), exec_check("raise SystemExit(2)")
    assert problem(component, exec_check("pass"), bad, worse) == f"{sys.executable} exits with 1"

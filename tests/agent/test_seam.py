"""The unix socket between a supervisor and the worker, from both ends."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.superviserig import ONE, RUNS, Begin, active, component, install
from tests.support.waiting import until

from fleetfoot_agent import seam as seam_module
from fleetfoot_agent.layout import Layout, target_of
from fleetfoot_agent.seam import SOCKET_NAME_MAX, Seam, SocketSeam, UnitState, guard_path
from fleetfoot_agent.settings import ConfigError
from fleetfoot_agent.supervise import Supervisor
from fleetfoot_protocol.errors import FleetfootError

# -- the socket


def exchange(path: Path, sent: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
        return answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\n",
        b"x\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"do": "explode"}\n',
        b'{"do": ["state"]}\n',
        b'{"do": {}}\n',
        b'{"do": "state", "more": 1}\n',
        b'{"do": "state"}{"do": "stop"}\n',
        b'\xff\xfe{"do": "state"}\n',
        b'{"do": "state"',
        b"[" * 4000 + b"\n",
        b"x" * 100_000,
    ],
    ids=repr,
)
def test_a_malformed_request_is_refused_and_changes_nothing(
    layout: Layout, run_dir: Path, begin: Begin, sent: bytes
) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    seam = begin()
    before = active(seam)
    try:
        answer = exchange(run_dir / "kiosk.sock", sent)
    except (BrokenPipeError, ConnectionResetError):
        answer = b'{"error": "closed before everything was sent"}'
    assert list(json.loads(answer)) == ["error"]
    assert seam.state() == before


def test_silent_clients_are_dropped_and_too_many_are_turned_away(
    run_dir: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seam_module, "_CLIENT_SECONDS", 1.0)
    seam = begin()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(16)]
    try:
        for connection in silent:
            connection.connect(str(run_dir / "kiosk.sock"))
        with pytest.raises(FleetfootError, match="too many"):
            seam.state()
        for connection in silent:
            connection.settimeout(20)
            assert b"no request" in connection.recv(4096)
    finally:
        for connection in silent:
            connection.close()
    assert seam.state().active is False


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    run_dir: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seam_module, "_CLIENT_SECONDS", 1000.0)
    begin()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(run_dir / "kiosk.sock"))
        connection.sendall(b"x" * 4096)
        assert list(json.loads(connection.recv(4096))) == ["error"]


def test_a_client_that_goes_away_harms_nobody(layout: Layout, run_dir: Path, begin: Begin) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    seam = begin()
    first = active(seam)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(run_dir / "kiosk.sock"))
        connection.sendall(b'{"do": "restart"}\n')
    until(lambda: seam.state().pid not in (first.pid, None), "it was restarted")


def test_the_line_is_what_the_contract_says(layout: Layout, run_dir: Path, begin: Begin) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    state = active(begin())
    answer = json.loads(exchange(run_dir / "kiosk.sock", b'{"do":"state"}\n'))
    assert answer == {
        "active": True,
        "ready": True,
        "pid": state.pid,
        "restarts": 0,
        "since": state.since,
        "target": target_of(ONE),
    }


def test_a_socket_may_lie_deeper_than_an_address_is_long(layout: Layout, tmp_path: Path) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    deep = tmp_path / ("d" * 120)
    path = deep / ("n" * SOCKET_NAME_MAX)
    supervisor = Supervisor(layout.folder, component(deep, socket=path), guard_path())
    supervisor.start()
    try:
        assert active(SocketSeam(path)).target == target_of(ONE)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        supervisor.stop()
    assert not path.exists()


def test_a_socket_whose_name_is_too_long_is_an_error_of_configuration(layout: Layout, run_dir: Path) -> None:
    path = run_dir / ("n" * (SOCKET_NAME_MAX + 1))
    supervisor = Supervisor(layout.folder, component(run_dir, socket=path), guard_path())
    with pytest.raises(ConfigError, match="at most 80"):
        supervisor.start()
    supervisor.stop()


def test_a_second_supervisor_of_a_component_is_refused_and_the_first_goes_on(
    layout: Layout, run_dir: Path, begin: Begin
) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    seam = begin()
    before = active(seam)
    with pytest.raises(FleetfootError, match="supervisor already") as caught:
        Supervisor(layout.folder, component(run_dir), guard_path()).start()
    assert caught.value.code == "supervisor_failed"
    assert seam.state() == before


# -- the worker's end


@pytest.fixture
def answer_with(run_dir: Path) -> Iterator[Callable[[bytes | None], Path]]:
    """A socket that answers one connection with these bytes; None: it says nothing and stays open."""
    path = run_dir / "fake.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    done = threading.Event()
    threads: list[threading.Thread] = []

    def serve(answer: bytes | None) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            if answer is None:
                done.wait(30)
            else:
                connection.sendall(answer)

    def begin(answer: bytes | None) -> Path:
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[-1].start()
        return path

    yield begin
    done.set()
    for thread in threads:
        thread.join()
    listener.close()


GOOD = {"active": True, "ready": True, "pid": 1, "restarts": 0, "since": 1.5, "target": None}


def test_a_state_is_understood(answer_with: Callable[[bytes | None], Path]) -> None:
    seam: Seam = SocketSeam(answer_with(json.dumps(GOOD).encode() + b"\n"))
    assert seam.state() == UnitState(True, True, 1, 0, 1.5, None)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"x\n",
        b"[]\n",
        b"{}\n",
        b'{"error": "why \\u001b[2J"}\n',
        json.dumps(GOOD).encode(),
        json.dumps({**GOOD, "more": 1}).encode() + b"\n",
        json.dumps({**GOOD, "active": 1}).encode() + b"\n",
        json.dumps({**GOOD, "pid": True}).encode() + b"\n",
        json.dumps({**GOOD, "since": "now"}).encode() + b"\n",
        b"x" * 10_000 + b"\n",
        b"[" * 4000 + b"\n",
    ],
    ids=repr,
)
def test_any_other_answer_is_a_failure_of_the_supervisor(
    answer_with: Callable[[bytes | None], Path], answer: bytes | None
) -> None:
    with pytest.raises(FleetfootError) as caught:
        SocketSeam(answer_with(answer), timeout=0.5).state()
    assert caught.value.code == "supervisor_failed"
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("act", [SocketSeam.state, SocketSeam.restart, SocketSeam.start, SocketSeam.stop])
@pytest.mark.parametrize("name", ["absent.sock", "x" * 200])
def test_a_supervisor_that_is_not_there_is_said_so(
    run_dir: Path, act: Callable[[SocketSeam], object], name: str
) -> None:
    with pytest.raises(FleetfootError, match="supervisor_failed"):
        act(SocketSeam(run_dir / name))


def test_the_guard_is_found_beside_the_package_or_in_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guard_path().read_text().startswith("#!/bin/sh\n# fleetfoot-guard")
    package = tmp_path / "agent" / "fleetfoot_agent"
    package.mkdir(parents=True)
    monkeypatch.setattr(seam_module, "__file__", str(package / "seam.py"))
    with pytest.raises(FleetfootError, match="no guard script"):
        guard_path()
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "fleetfoot-guard").write_text("")
    assert guard_path() == tmp_path / "systemd" / "fleetfoot-guard"
    (package / "fleetfoot-guard").write_text("")
    assert guard_path() == package / "fleetfoot-guard"

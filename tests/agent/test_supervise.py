"""The supervisor with real processes: starting, dying, coming back, stopping."""

import errno
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.agent.superviserig import (
    DIES,
    FAMILY,
    ONE,
    RUNS,
    TWO,
    Begin,
    active,
    component,
    family,
    install,
    runs,
    starts,
)
from tests.support.waiting import until

from fleetfoot_agent import launching, supervise
from fleetfoot_agent.child import LOG_CAP, Child
from fleetfoot_agent.layout import Layout, Trial, target_of
from fleetfoot_agent.seam import SocketSeam, UnitState, guard_path
from fleetfoot_agent.supervise import Supervisor

# -- what is started, and how


def test_the_entrypoint_runs_in_its_tree_with_its_own_environment(
    layout: Layout, run_dir: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    tell = '{ env; echo "CWD=$(pwd)"; echo "STDIN=$(wc -c)"; } >facts.new\nmv facts.new facts\n'
    install(layout, ONE, f"#!/bin/sh\n{tell}exec sleep 1000\n")
    layout.swap_current(target_of(ONE))
    before = time.time()
    seam = begin(changes={"environment": {"PORT": "1234", "FLEETFOOT_COMPONENT": "no"}})
    state = active(seam)
    tree = layout.tree(ONE)
    until((tree / "facts").exists, "the component told its facts")
    facts = dict(entry.split("=", 1) for entry in (tree / "facts").read_text().splitlines())
    assert facts["CWD"] == facts["FLEETFOOT_VERSION_DIR"] == str(tree)
    assert facts["FLEETFOOT_COMPONENT"] == "kiosk"
    assert facts["PORT"] == "1234"
    assert facts["STDIN"] == "0"
    assert "SECRET_OF_THE_HOST" not in facts
    assert state.pid is not None
    assert state == UnitState(True, True, state.pid, 0, state.since, target_of(ONE))
    assert before <= state.since <= time.time()
    assert os.getsid(state.pid) == os.getpgid(state.pid) == state.pid
    assert stat.S_IMODE((run_dir / "kiosk.sock").stat().st_mode) == 0o600


def test_output_of_component_and_guard_goes_to_the_log(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, RUNS)
    install(layout, TWO, "#!/bin/sh\necho to-out\necho to-err >&2\nexec sleep 1000\n")
    layout.swap_current(target_of(TWO))
    layout.write_trial(Trial(0, 3, target_of(ONE), target_of(TWO)))
    active(begin())
    log = layout.folder / "log"
    until(lambda: "to-err" in log.read_text(), "the log has all output")
    assert f"start 1 of 3 for {target_of(TWO)}" in log.read_text()
    assert "to-out" in log.read_text()


def test_a_log_that_cannot_be_written_keeps_nothing_from_starting(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, "#!/bin/sh\necho lost || :\nexec sleep 1000\n")
    layout.swap_current(target_of(ONE))
    (layout.folder / "log").mkdir()
    active(begin())


def test_a_log_is_bounded_while_the_component_runs(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, f"#!/bin/sh\nhead -c {LOG_CAP + 5} /dev/zero\necho >written\nexec sleep 1000\n")
    layout.swap_current(target_of(ONE))
    seam = begin()
    until((layout.tree(ONE) / "written").exists, "the output is written")
    until(lambda: seam.state().active and (layout.folder / "log").stat().st_size < LOG_CAP, "the log is cut")
    assert (layout.folder / "log.1").stat().st_size <= LOG_CAP


def test_a_program_that_is_still_open_for_writing_is_waited_for(
    layout: Layout, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    fd = os.open(layout.tree(ONE) / "bin" / "app", os.O_WRONLY)
    refused: list[int | None] = []

    class Watched(Child):
        def __init__(self, *arguments: Any) -> None:
            try:
                super().__init__(*arguments)
            except OSError as error:
                if not refused:
                    os.close(fd)
                refused.append(error.errno)
                raise

    monkeypatch.setattr(launching, "Child", Watched)
    assert active(begin()).restarts == 0
    assert refused[0] == errno.ETXTBSY


# -- dying and coming back


@pytest.mark.parametrize("status", [0, 1])
def test_a_component_that_ends_unasked_is_started_again_and_counted(
    layout: Layout, begin: Begin, status: int
) -> None:
    script = f"#!/bin/sh\necho run >>starts\n[ $(wc -l <starts) -ge 3 ] || exit {status}\nexec sleep 1000\n"
    install(layout, ONE, script)
    layout.swap_current(target_of(ONE))
    seam = begin()
    until(lambda: starts(layout, ONE) == 3, "the third start")
    assert active(seam).restarts == 2
    seam.restart()
    state = seam.state()
    assert (state.active, state.restarts) == (True, 0)
    assert starts(layout, ONE) <= 4


def test_killed_by_a_signal_it_comes_back_with_another_pid(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    seam = begin()
    first = active(seam)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: seam.state().pid not in (first.pid, None), "it came back")
    assert seam.state().restarts == 1
    assert seam.state().since > first.since


def test_pauses_double_without_a_trial_and_begin_small_after_a_request(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, "#!/bin/sh\ndate +%s%N >>times\nexit 1\n")
    layout.swap_current(target_of(ONE))
    seam = begin(changes={"restart_delay": 0.1})

    def stamps() -> list[float]:
        path = layout.tree(ONE) / "times"
        return [int(stamp) / 1e9 for stamp in path.read_text().splitlines()] if path.exists() else []

    until(lambda: len(stamps()) >= 5, "the fifth start")
    gaps = [later - earlier for earlier, later in pairwise(stamps())]
    assert all(gap > pause for gap, pause in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=False))
    before = len(stamps())
    seam.restart()
    until(lambda: len(stamps()) >= before + 3, "starts with small pauses", seconds=4)  # else 1.6 + 3.2


@pytest.mark.parametrize(
    ("delay", "failures", "expected"),
    [
        (1.0, 0, 1.0),
        (1.0, 1, 2.0),
        (1.0, 5, 32.0),
        (1.0, 6, 60.0),
        (1.0, 10**6, 60.0),
        (0.05, 10**6, 60.0),
        (600.0, 0, 600.0),
        (600.0, 9, 600.0),
    ],
)
def test_pauses_double_up_to_a_minute_or_what_is_configured(
    delay: float, failures: int, expected: float
) -> None:
    assert supervise.pause_before(delay, failures) == expected


def test_a_trial_is_not_slowed_by_growing_pauses(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, RUNS)
    install(layout, TWO, DIES)
    layout.swap_current(target_of(TWO))
    layout.write_trial(Trial(0, 12, target_of(ONE), target_of(TWO)))
    seam = begin()
    until(
        lambda: seam.state().target == target_of(ONE), "the guard went back", seconds=30
    )  # doubling would take 200 s
    assert starts(layout, TWO) == 12


def test_a_version_that_dies_is_started_as_often_as_granted_and_comes_back_by_itself(
    layout: Layout, begin: Begin
) -> None:
    install(layout, ONE, RUNS)
    install(layout, TWO, DIES)
    layout.swap_current(target_of(ONE))
    seam = begin()
    active(seam)
    layout.write_trial(Trial(0, 3, target_of(ONE), target_of(TWO)))
    layout.swap_current(target_of(TWO))
    seam.restart()
    until(lambda: seam.state().target == target_of(ONE), "the guard went back")
    state = active(seam)
    assert starts(layout, TWO) == 3
    assert state.restarts == 3
    assert layout.read_current() == target_of(ONE)
    assert layout.read_trial() == Trial(3, 3, target_of(ONE), target_of(TWO))


@pytest.mark.parametrize("spoil", ["no bit", "no interpreter", "no file", "no entrypoint"])
def test_a_version_that_cannot_even_be_executed_comes_back_too(
    layout: Layout, begin: Begin, spoil: str
) -> None:
    install(layout, ONE, RUNS)
    install(layout, TWO, "#!/no/such/interpreter\n" if spoil == "no interpreter" else RUNS)
    if spoil == "no bit":
        (layout.tree(TWO) / "bin" / "app").chmod(0o644)
    elif spoil == "no file":
        (layout.tree(TWO) / "bin" / "app").unlink()
    elif spoil == "no entrypoint":
        (layout.versions / f"{TWO}.entrypoint").unlink()
    layout.swap_current(target_of(TWO))
    layout.write_trial(Trial(0, 2, target_of(ONE), target_of(TWO)))
    seam = begin()
    until(lambda: seam.state().target == target_of(ONE), "the guard went back")
    assert active(seam).restarts == 2
    assert starts(layout, TWO) == 0


@pytest.mark.parametrize("on_trial", [True, False])
def test_a_death_wakes_the_worker_to_judge_or_to_report_it(
    layout: Layout, run_dir: Path, begin: Begin, on_trial: bool
) -> None:
    install(layout, ONE, RUNS)
    install(layout, TWO, DIES)
    layout.swap_current(target_of(TWO))
    if on_trial:
        layout.write_trial(Trial(0, 3, target_of(ONE), target_of(TWO)))
    begin(wake_dir=run_dir)
    until(lambda: (run_dir / "now").exists(), "the worker is woken")


# -- the guard comes first


def guard_script(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "guard"
    path.write_text(script)
    return path


def test_the_guard_runs_before_each_start_and_before_current_is_read(
    layout: Layout, tmp_path: Path, begin: Begin
) -> None:
    install(layout, ONE, RUNS)
    install(layout, TWO, RUNS)
    layout.swap_current(target_of(TWO))
    swap = f'echo "$1" >>"{tmp_path}/guarded"\nln -sfn {target_of(ONE)} "$1/current"\n'
    seam = begin(guard=guard_script(tmp_path, swap))
    state = active(seam)
    assert state.target == target_of(ONE)
    guarded = tmp_path / "guarded"
    assert guarded.read_text() == f"{layout.folder}\n"
    seam.restart()
    assert len(guarded.read_text().splitlines()) == 2
    pid = seam.state().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: seam.state().restarts == 1, "it came back")
    assert len(guarded.read_text().splitlines()) == 3
    assert starts(layout, TWO) == 0


@pytest.mark.parametrize("script", ["exit 1\n", "kill -9 $$\n", "(((\n", None])
def test_a_guard_that_fails_keeps_nothing_from_starting(
    layout: Layout, tmp_path: Path, begin: Begin, script: str | None
) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    guard = tmp_path / "gone" if script is None else guard_script(tmp_path, script)
    assert active(begin(guard=guard)).restarts == 0


def test_a_guard_that_hangs_is_ended_and_questions_are_answered_meanwhile(
    layout: Layout, tmp_path: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "GUARD_SECONDS", 1.0)
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    hang = f'sleep 1000 &\necho $! >"{tmp_path}/pid.new"\nmv "{tmp_path}/pid.new" "{tmp_path}/pid"\nwait\n'
    seam = begin(guard=guard_script(tmp_path, hang))
    assert not seam.state().active
    active(seam)
    assert not runs(int((tmp_path / "pid").read_text()))


def test_an_error_that_nobody_thought_of_does_not_end_the_supervision(
    layout: Layout, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    real = Supervisor._run_guard
    met: list[int] = []

    def fail_once(self: Supervisor, output: int) -> None:
        met.append(output)
        if len(met) == 1:
            raise RuntimeError("nobody thought of it")
        real(self, output)

    monkeypatch.setattr(Supervisor, "_run_guard", fail_once)
    active(begin())
    assert len(met) == 2


# -- stopping


def test_stop_ends_the_whole_group_and_start_begins_anew(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, FAMILY)
    layout.swap_current(target_of(ONE))
    seam = begin()
    pids = family(layout, seam)
    seam.stop()
    assert seam.state().active is False
    assert seam.state().pid is None
    until(lambda: not any(map(runs, pids)), "the group has ended")
    seam.start()
    state = seam.state()
    assert state.active
    seam.start()
    assert seam.state().pid == state.pid


def test_a_group_is_ended_when_its_first_process_dies(layout: Layout, begin: Begin) -> None:
    install(layout, ONE, FAMILY)
    layout.swap_current(target_of(ONE))
    seam = begin()
    pids = family(layout, seam)
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not any(map(runs, pids)), "the group has ended")
    until(lambda: seam.state().restarts == 1, "it came back")


def test_who_ignores_being_asked_is_killed_after_the_grace_and_questions_are_answered_meanwhile(
    layout: Layout, begin: Begin
) -> None:
    install(
        layout, ONE, "#!/bin/sh\ntrap 'echo asked >asked' TERM\necho >ready\nwhile :; do sleep 0.1; done\n"
    )
    layout.swap_current(target_of(ONE))
    seam = begin(grace=1.5)
    until((layout.tree(ONE) / "ready").exists, "the component is ready")
    first = active(seam)
    stopping = threading.Thread(target=seam.stop)
    before = time.monotonic()
    stopping.start()
    until((layout.tree(ONE) / "asked").exists, "the component was asked")
    assert seam.state() == first
    stopping.join()
    assert time.monotonic() - before >= 1.5
    assert seam.state().active is False


def test_the_end_of_a_supervisor_leaves_no_process_and_no_file(
    layout: Layout, run_dir: Path, begin: Begin
) -> None:
    install(layout, ONE, FAMILY)
    layout.swap_current(target_of(ONE))
    supervisor = Supervisor(layout.folder, component(run_dir), guard_path())
    supervisor.start()
    pids = family(layout, SocketSeam(run_dir / "kiosk.sock"))
    supervisor.stop()
    supervisor.stop()
    assert not any(map(runs, pids))
    assert os.listdir(run_dir) == ["kiosk.lock"]
    assert not [t for t in threading.enumerate() if t.name.startswith("supervise-")]
    supervisor.start()  # and it can begin again
    active(SocketSeam(run_dir / "kiosk.sock"))
    supervisor.stop()


# -- nothing sensible to start


def test_with_nothing_installed_it_waits_and_a_restart_starts_what_is_there_then(
    layout: Layout, tmp_path: Path, begin: Begin
) -> None:
    seam = begin(guard=guard_script(tmp_path, "echo looked\n"))
    log = layout.folder / "log"
    until(lambda: log.exists() and log.read_text().count("looked") >= 3, "three looks")
    state = seam.state()
    assert (state.active, state.ready, state.pid, state.restarts, state.target) == (
        False,
        False,
        None,
        0,
        None,
    )
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    seam.restart()
    assert seam.state().active
    assert seam.state().restarts == 0


def lead_out(layout: Layout) -> None:
    outside = shutil.copy(layout.tree(ONE) / "bin" / "app", layout.folder)
    (layout.tree(ONE) / "bin" / "app").unlink()
    (layout.tree(ONE) / "bin" / "app").symlink_to(outside)


def name_a_link(layout: Layout) -> None:
    install(layout, TWO, RUNS)
    layout.tree(TWO).rename(layout.staging / "elsewhere")
    layout.tree(TWO).symlink_to("../staging/elsewhere")
    lead_current(target_of(TWO))(layout)


def write_entrypoint(text: str) -> Callable[[Layout], None]:
    def act(layout: Layout) -> None:
        (layout.versions / f"{ONE}.entrypoint").write_text(text)

    return act


def lead_current(text: str) -> Callable[[Layout], None]:
    def act(layout: Layout) -> None:
        layout.current.unlink()
        layout.current.symlink_to(text)

    return act


def current_is_a_folder(layout: Layout) -> None:
    layout.current.unlink()
    shutil.copytree(layout.tree(ONE), layout.current)


@pytest.mark.parametrize(
    "spoil",
    [
        lead_out,
        name_a_link,
        write_entrypoint("/bin/true\n"),
        write_entrypoint("../../../../../../bin/true\n"),
        write_entrypoint("bin/app"),
        write_entrypoint(""),
        lead_current("versions/../versions/" + ONE),
        lead_current(target_of(TWO)),
        lead_current("/bin"),
        current_is_a_folder,
    ],
)
def test_what_does_not_lie_in_a_version_is_not_started(
    layout: Layout, begin: Begin, spoil: Callable[[Layout], None]
) -> None:
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    spoil(layout)
    seam = begin()
    until(lambda: seam.state().restarts >= 2, "three starts failed")
    assert seam.state().active is False
    assert list(layout.folder.rglob("starts")) == []


def test_kernels_without_pidfd_will_do(layout: Layout, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "no pidfd")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    install(layout, ONE, RUNS)
    layout.swap_current(target_of(ONE))
    seam = begin()
    pid = active(seam).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: seam.state().restarts == 1 and seam.state().active, "it came back")
    seam.stop()
    assert seam.state().active is False


def test_many_live_side_by_side_in_one_process(tmp_path: Path, run_dir: Path) -> None:
    hosted: list[tuple[Layout, Supervisor, SocketSeam]] = []
    before = threading.active_count()
    for number in range(25):
        layout = Layout(tmp_path / f"device{number}", "kiosk")
        layout.create()
        install(layout, ONE, RUNS)
        layout.swap_current(target_of(ONE))
        place = run_dir / str(number)
        found = component(place, socket=place / "kiosk.sock")
        hosted.append((layout, Supervisor(layout.folder, found, guard_path()), SocketSeam(found.socket)))
    try:
        for _, supervisor, _ in hosted:
            supervisor.start()
        pids = [active(seam).pid for _, _, seam in hosted]
        assert len(set(pids)) == 25
    finally:
        for _, supervisor, _ in hosted:
            supervisor.begin_stop()
        for _, supervisor, _ in hosted:
            supervisor.stop()
    assert not any(runs(pid) for pid in pids if pid)
    assert threading.active_count() == before

"""The boot guard, run as the script it is, by every shell it is written for."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fleetfoot_agent.layout import Trial
from fleetfoot_agent.seam import guard_path

GUARD = guard_path()
OLD = "versions/1.0.0-00000000"
NEW = "versions/1.1.0-rc.1-0123abcd"
OTHER = "versions/0.9.0-99999999"
TOOLS = ("head", "tr", "readlink", "rm", "ln", "mv", "sync")


@dataclass(frozen=True)
class Shell:
    """A shell and the tools that belong to it: coreutils, or applets of busybox."""

    command: tuple[str, ...]
    tools: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(
        self, folder: str | Path, more: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, str(GUARD), str(folder)],
            env={"PATH": str(self.tools), **self.environment, **(more or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            start_new_session=True,
        )


def tools_of(folder: Path, busybox: str | None) -> Path:
    """A PATH that has the tools which the guard may use, and nothing else."""
    folder.mkdir()
    for name in TOOLS:
        real = busybox or shutil.which(name)
        assert real is not None
        (folder / name).symlink_to(real)
    return folder


SH = Path(shutil.which("sh") or "/bin/sh").resolve().name
#: What the machine calls sh, and dash if that is another shell; these find their tools on the PATH.
PLAIN = ["sh", *(["dash"] if SH != "dash" and shutil.which("dash") else [])]
SHELLS = [*PLAIN, *(["busybox"] if shutil.which("busybox") else [])]


@pytest.mark.needs("busybox")
def test_the_shells_of_this_run_include_busybox() -> None:
    assert "busybox" in SHELLS


@pytest.mark.needs("dash")
def test_the_shells_of_this_run_include_dash() -> None:
    assert "dash" in (SH, *SHELLS)


@pytest.fixture(params=PLAIN)
def plain_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    program = shutil.which(request.param)
    assert program is not None
    return Shell((program,), tools_of(tmp_path / "tools", None))


# Some builds of busybox ash take their own applets before the PATH: no test can put others in their place.
@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    program = shutil.which(request.param)
    assert program is not None
    if request.param == "busybox":
        return Shell((program, "sh"), tools_of(tmp_path / "tools", program))
    return Shell((program,), tools_of(tmp_path / "tools", None))


def line(attempts: int, maximum: int, old: str = OLD, new: str = NEW) -> bytes:
    return f"ff1 {attempts} {maximum} {old} {new}\n".encode()


def build(folder: Path, trial: bytes | None, current: str | None = NEW) -> Path:
    for target in (OLD, NEW, OTHER):
        (folder / target).mkdir(parents=True)
    if current is not None:
        (folder / "current").symlink_to(current)
    if trial is not None:
        (folder / "trial").write_bytes(trial)
    return folder


@pytest.fixture
def component(tmp_path: Path) -> Path:
    return build(tmp_path / "kiosk", line(0, 3))


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """Everything below `folder`: kind and permissions, inode, change and modification times, link text."""
    seen = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        found = path.lstat()
        text = os.readlink(path) if path.is_symlink() else ""
        seen[str(path)] = (found.st_mode, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, text)
    return seen


def left_overs(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


# -- counting and going back


@pytest.mark.parametrize(
    ("attempts", "maximum", "then_attempts", "then_current"),
    [
        (0, 1, 1, NEW),
        (1, 1, 1, OLD),
        (0, 3, 1, NEW),
        (2, 3, 3, NEW),
        (3, 3, 3, OLD),
        (4, 3, 4, OLD),
        (9, 20, 10, NEW),
        (10, 20, 11, NEW),
        (98, 99, 99, NEW),
        (99, 99, 99, OLD),
    ],
)
def test_a_start_is_counted_or_goes_back(
    shell: Shell, tmp_path: Path, attempts: int, maximum: int, then_attempts: int, then_current: str
) -> None:
    folder = build(tmp_path / "kiosk", line(attempts, maximum))
    run = shell.run(folder)
    assert run.returncode == 0
    assert (folder / "trial").read_bytes() == line(then_attempts, maximum)
    assert os.readlink(folder / "current") == then_current
    assert left_overs(folder) == []
    assert ("current is back" if then_current == OLD else f"start {then_attempts} of {maximum}") in run.stderr


def test_exactly_the_granted_starts_are_granted_and_then_it_stays_back(shell: Shell, component: Path) -> None:
    granted = 0
    while os.readlink(component / "current") == NEW:
        shell.run(component)
        granted += os.readlink(component / "current") == NEW
        assert granted <= 3
    assert granted == 3
    assert (component / "trial").read_bytes() == line(3, 3)  # the worker removes it, nobody else
    before = snapshot(component)
    assert shell.run(component).stderr == ""
    assert snapshot(component) == before


# -- everything else is left alone

LONG = "versions/" + "9" * 191 + "-00000000"

MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "no end of line": line(0, 3)[:-1],
    "two lines": line(0, 3) * 2,
    "an empty line before": b"\n" + line(0, 3),
    "an empty line after": line(0, 3) + b"\n",
    "carriage return": line(0, 3)[:-1] + b"\r\n",
    "byte order mark": b"\xef\xbb\xbf" + line(0, 3),
    "another format": line(0, 3).replace(b"ff1", b"ff2"),
    "a field too few": b"ff1 0 3 " + OLD.encode() + b"\n",
    "a field too many": line(0, 3)[:-1] + b" x\n",
    "two blanks": line(0, 3).replace(b" 3 ", b"  3 "),
    "a blank before": b" " + line(0, 3),
    "a blank after": line(0, 3)[:-1] + b" \n",
    "a tab": line(0, 3).replace(b" 3 ", b"\t3 "),
    "NUL after": line(0, 3) + b"\0",
    "NUL within": line(0, 3).replace(b"1.1.0", b"1.\x001.0"),
    "leading zero": line(0, 3).replace(b" 0 ", b" 00 "),
    "leading zero that is octal": line(0, 3).replace(b" 0 ", b" 010 "),
    "a sign": line(0, 3).replace(b" 0 ", b" +0 "),
    "negative": line(0, 3).replace(b" 0 ", b" -1 "),
    "hexadecimal": line(0, 3).replace(b" 0 ", b" 0x0 "),
    "three digits": line(0, 100),
    "overflow": line(0, 18446744073709551617),
    "no number": line(0, 3).replace(b" 0 ", b" a "),
    "arithmetic": line(0, 3).replace(b" 0 ", b" $((1)) "),
    "max of zero": line(0, 0),
    "old traverses": line(0, 3, old="versions/../../x-00000000"),
    "new traverses": line(0, 3, new="versions/../../x-00000000"),
    "old above": line(0, 3, old="../kiosk/" + OLD),
    "old absolute": line(0, 3, old="/" + OLD),
    "old elsewhere": line(0, 3, old="staging/1.0.0-00000000"),
    "old deeper": line(0, 3, old="versions/a/1.0.0-00000000"),
    "old hidden": line(0, 3, old="versions/.tmp-00000000"),
    "old starts with a dash": line(0, 3, old="versions/-n-00000000"),
    "old without digest": line(0, 3, old="versions/1.0.0"),
    "old with a short digest": line(0, 3, old="versions/1.0.0-0000000"),
    "old with capitals in the digest": line(0, 3, old="versions/1.0.0-ABCDEF00"),
    "old is only a digest": line(0, 3, old="versions/-00000000"),
    "old with build metadata": line(0, 3, old="versions/1.0.0+1-00000000"),
    "old with a wildcard": line(0, 3, old="versions/1*-00000000"),
    "old not ascii": line(0, 3, old="versions/1.\u00e9-00000000"),
    "old too long": line(0, 3, old=LONG.replace("/9", "/99")),
    "old is new": line(0, 3, old=NEW),
    "a command": line(0, 3, old="versions/$(touch${IFS}x)-00000000"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_trial_is_left_alone_by_guard_and_worker(shell: Shell, tmp_path: Path, case: str) -> None:
    folder = build(tmp_path / "kiosk", MALFORMED[case])
    before = snapshot(folder)
    run = shell.run(folder)
    assert run.returncode == 0
    assert "not a trial line" in run.stderr
    assert snapshot(folder) == before
    assert Trial.parse(MALFORMED[case]) is None


@pytest.mark.parametrize("attempts", [0, 3])
@pytest.mark.parametrize("old", [OLD, LONG, "versions/1-00000000", "versions/a..b---01234567"])
def test_guard_and_worker_read_the_same_trials(shell: Shell, tmp_path: Path, old: str, attempts: int) -> None:
    folder = build(tmp_path / "kiosk", line(attempts, 3, old=old))
    (folder / old).mkdir(exist_ok=True)
    assert Trial.parse(line(attempts, 3, old=old)) == Trial(attempts, 3, old, NEW)
    shell.run(folder)
    if attempts == 3:
        assert os.readlink(folder / "current") == old
    else:
        assert (folder / "trial").read_bytes() == line(1, 3, old=old)


def no_trial(folder: Path) -> None:
    (folder / "trial").unlink()


def trial_is_a_link(folder: Path) -> None:
    (folder / "trial").rename(folder / "elsewhere")
    (folder / "trial").symlink_to("elsewhere")


def trial_is_a_folder(folder: Path) -> None:
    no_trial(folder)
    (folder / "trial").mkdir()


def trial_is_a_fifo(folder: Path) -> None:
    no_trial(folder)
    os.mkfifo(folder / "trial")


def trial_is_huge(folder: Path) -> None:
    os.truncate(folder / "trial", 1 << 30)


def no_current(folder: Path) -> None:
    (folder / "current").unlink()


def link_current(folder: Path, text: str) -> None:
    no_current(folder)
    (folder / "current").symlink_to(text)


def current_is_old(folder: Path) -> None:
    link_current(folder, OLD)


def current_is_another(folder: Path) -> None:
    link_current(folder, OTHER)


def current_is_absolute(folder: Path) -> None:
    link_current(folder, str(folder / NEW))


def current_ends_with_a_slash(folder: Path) -> None:
    link_current(folder, NEW + "/")


def current_ends_with_a_newline(folder: Path) -> None:
    link_current(folder, NEW + "\n")


def current_is_a_folder(folder: Path) -> None:
    no_current(folder)
    (folder / "current").mkdir()


def current_is_a_file(folder: Path) -> None:
    no_current(folder)
    (folder / "current").write_text(NEW)


def no_old(folder: Path) -> None:
    (folder / OLD).rmdir()


def old_is_a_file(folder: Path) -> None:
    no_old(folder)
    (folder / OLD).write_text("")


def old_is_a_link(folder: Path) -> None:
    no_old(folder)
    (folder / OLD).symlink_to(Path(OTHER).name)


def versions_is_a_link(folder: Path) -> None:
    (folder / "versions").rename(folder / "elsewhere")
    (folder / "versions").symlink_to("elsewhere")


@pytest.mark.parametrize("attempts", [0, 3])
@pytest.mark.parametrize(
    "break_it",
    [
        no_trial,
        trial_is_a_link,
        trial_is_a_folder,
        trial_is_a_fifo,
        trial_is_huge,
        no_current,
        current_is_old,
        current_is_another,
        current_is_absolute,
        current_ends_with_a_slash,
        current_ends_with_a_newline,
        current_is_a_folder,
        current_is_a_file,
        no_old,
        old_is_a_file,
        old_is_a_link,
        versions_is_a_link,
    ],
)
def test_without_its_three_conditions_it_writes_nothing(
    shell: Shell, tmp_path: Path, break_it: object, attempts: int
) -> None:
    folder = build(tmp_path / "kiosk", line(attempts, 3))
    assert callable(break_it)
    break_it(folder)
    before = snapshot(folder)
    assert shell.run(folder).returncode == 0
    assert snapshot(folder) == before


def test_a_dangling_current_still_goes_back(shell: Shell, tmp_path: Path) -> None:
    folder = build(tmp_path / "kiosk", line(3, 3))
    (folder / NEW).rmdir()
    shell.run(folder)
    assert os.readlink(folder / "current") == OLD


# -- where it runs


@pytest.mark.parametrize("name", ["a b", "-n", "--help", "it's", "a\nb", "$(x)", "*", "trailing/"])
@pytest.mark.parametrize("relative", [False, True])
def test_any_folder_name_will_do(shell: Shell, tmp_path: Path, name: str, relative: bool) -> None:
    folder = build(tmp_path / "root" / name, line(0, 3))
    run = shell.run(name if relative else f"{tmp_path}/root/{name}", cwd=tmp_path / "root")
    assert run.returncode == 0
    assert (folder / "trial").read_bytes() == line(1, 3)


def test_cdpath_and_a_strange_environment_do_not_lead_it_elsewhere(shell: Shell, tmp_path: Path) -> None:
    wrong = build(tmp_path / "wrong" / "kiosk", line(0, 3))
    right = build(tmp_path / "right" / "kiosk", line(0, 3))
    strange = {"CDPATH": str(wrong.parent), "IFS": "1/", "LC_ALL": "tr_TR.UTF-8", "line": "x", "old": "/"}
    shell.run("kiosk", strange, cwd=right.parent)
    assert (wrong / "trial").read_bytes() == line(0, 3)
    assert (right / "trial").read_bytes() == line(1, 3)


@pytest.mark.parametrize("arguments", [[], [""], ["a", "b"], ["/nowhere/at/all"]])
def test_used_wrongly_it_says_so_and_still_lets_the_component_start(
    shell: Shell, arguments: list[str]
) -> None:
    run = subprocess.run([*shell.command, str(GUARD), *arguments], capture_output=True, text=True, timeout=30)
    assert run.returncode == 0
    assert run.stderr != ""


def test_a_closed_standard_error_does_not_keep_it_from_acting(shell: Shell, tmp_path: Path) -> None:
    folder = build(tmp_path / "kiosk", line(3, 3))
    closed = [*shell.command, "-c", '. "$0" "$1" 2>&-', str(GUARD), str(folder)]
    run = subprocess.run(closed, env={"PATH": str(shell.tools)}, timeout=30)
    assert run.returncode == 0
    assert os.readlink(folder / "current") == OLD


# -- faults of the disk and of tools


@pytest.fixture
def stranger() -> Iterator[tuple[int, Path]]:
    """(uid, folder): a user who is not root, and a place that this user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: S103 - the other user must get in
        uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        yield uid, Path(name)


@pytest.mark.parametrize("attempts", [0, 3])
def test_on_a_read_only_folder_it_says_so_and_exits_0(stranger: tuple[int, Path], attempts: int) -> None:
    uid, place = stranger
    folder = build(place / "kiosk", line(attempts, 3))
    (folder / "trial").chmod(0o444)
    folder.chmod(0o555)
    before = snapshot(folder)
    guard = shutil.copy(GUARD, place)
    run = subprocess.run(
        ["sh", guard, str(folder)], user=uid, cwd="/", capture_output=True, text=True, timeout=30
    )
    after = snapshot(folder)
    folder.chmod(0o755)  # so that it can be removed
    assert run.returncode == 0
    assert "cannot" in run.stderr
    assert after == before


FULL_DISK = """
set -e
mount -t tmpfs -o size=16k fleetfoot "$1"
mkdir -p "$1/{old}" "$1/{new}"
ln -s "{new}" "$1/current"
printf '%s\\n' "ff1 {attempts} 3 {old} {new}" >"$1/trial"
cat /dev/zero >"$1/fill" 2>/dev/null || :
if printf x >"$1/more" 2>/dev/null; then echo "the disk is not full"; exit 1; fi
rm "$1/more"
sh "$2" "$1"
cat "$1/trial"
readlink "$1/current"
ls -A "$1"
"""


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("attempts", "then_attempts", "then_current"), [(0, 1, NEW), (2, 3, NEW), (3, 3, OLD)]
)
def test_a_full_disk_stops_neither_counting_nor_going_back(
    tmp_path: Path, attempts: int, then_attempts: int, then_current: str
) -> None:
    script = FULL_DISK.format(old=OLD, new=NEW, attempts=attempts)
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), str(GUARD)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stdout + run.stderr
    expected = [line(then_attempts, 3).decode().strip(), then_current, "current", "fill", "trial", "versions"]
    assert run.stdout.splitlines() == expected


WRAPPER = """#!/bin/sh
echo "{name} $*" >>"$STEPS"
nth="{name} $(/bin/grep -c "^{name} " "$STEPS")"
[ "$nth" = "$STOP_BEFORE" ] && kill -9 0
case "$BREAK" in "{name}" | "$nth") exit 1 ;; esac
PATH={real} {name} "$@" || exit
[ "$nth" = "$STOP_AFTER" ] && kill -9 0
exit 0
"""


STOPS = ("BREAK", "STOP_BEFORE", "STOP_AFTER")


@pytest.fixture
def watched(plain_shell: Shell, tmp_path: Path) -> Shell:
    """The shell with tools that write down their calls, and can fail or kill the guard's whole session."""
    folder = tmp_path / "watched"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).write_text(WRAPPER.format(name=name, real=plain_shell.tools))
        (folder / name).chmod(0o755)
    return Shell(plain_shell.command, folder, {"STEPS": str(tmp_path / "steps"), **dict.fromkeys(STOPS, "")})


def steps(tmp_path: Path) -> list[list[str]]:
    return [call.split() for call in (tmp_path / "steps").read_text().splitlines()]


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        (0, ["sync .guard-trial", "mv .guard-trial trial", "sync ."]),
        (3, ["ln .guard-current", "mv .guard-current current", "sync ."]),
    ],
)
def test_bytes_are_on_the_disk_before_the_rename_and_the_folder_after_it(
    watched: Shell, tmp_path: Path, attempts: int, expected: list[str]
) -> None:
    folder = build(tmp_path / "kiosk", line(attempts, 3))
    watched.run(folder)
    calls = []
    for name, *arguments in steps(tmp_path):
        if name in ("sync", "ln", "mv"):
            names = [a for a in arguments if a == "." or a in ("trial", "current") or a.startswith(".guard")]
            calls.append(
                " ".join([name, *(n if n == "." else n.rstrip("0123456789").rstrip(".") for n in names)])
            )
    assert calls == expected


@pytest.mark.parametrize("when", ["STOP_BEFORE", "STOP_AFTER"])
@pytest.mark.parametrize("attempts", [0, 3])
def test_killed_at_any_step_it_leaves_the_old_or_the_new_state_and_the_next_run_finishes(
    watched: Shell, plain_shell: Shell, tmp_path: Path, attempts: int, when: str
) -> None:
    before = (line(attempts, 3), NEW)
    after = (line(1, 3), NEW) if attempts == 0 else (line(3, 3), OLD)
    killed = []
    for step in [f"{tool} {nth}" for tool in TOOLS for nth in range(1, 4)]:
        folder = build(tmp_path / step, line(attempts, 3))
        (tmp_path / "steps").unlink(missing_ok=True)
        run = watched.run(folder, {when: step})
        state = ((folder / "trial").read_bytes(), os.readlink(folder / "current"))
        assert state in (before, after)
        if run.returncode == 0:  # there was no such step
            assert state == after
            continue
        assert run.returncode == -signal.SIGKILL
        killed.append(step)
        if state == before:
            plain_shell.run(folder)
            assert ((folder / "trial").read_bytes(), os.readlink(folder / "current")) == after
    assert {step.split()[0] for step in killed} == set(TOOLS) - ({"ln"} if attempts == 0 else set())
    assert len(killed) == 10


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("attempts", [0, 3])
def test_a_failing_tool_leaves_a_whole_state_and_the_next_run_finishes(
    watched: Shell, plain_shell: Shell, tmp_path: Path, attempts: int, tool: str
) -> None:
    folder = build(tmp_path / "kiosk", line(attempts, 3))
    run = watched.run(folder, {"BREAK": tool})
    assert run.returncode == 0
    trial = Trial.parse((folder / "trial").read_bytes())
    assert trial is not None
    assert trial.attempts in (attempts, attempts + 1)
    assert os.readlink(folder / "current") in (NEW, OLD if attempts == 3 else NEW)
    for _ in range(4):
        plain_shell.run(folder)
    assert os.readlink(folder / "current") == OLD


def test_where_no_new_file_can_be_written_it_counts_in_place_and_syncs_that(
    watched: Shell, tmp_path: Path
) -> None:
    folder = build(tmp_path / "kiosk", line(0, 3))
    before = (folder / "trial").stat().st_ino
    run = watched.run(folder, {"BREAK": "sync 1"})
    assert "start 1 of 3" in run.stderr
    assert (folder / "trial").read_bytes() == line(1, 3)
    assert (folder / "trial").stat().st_ino == before
    assert steps(tmp_path)[-1] == ["sync", "trial"]


def test_bytes_that_do_not_reach_the_disk_are_never_renamed_into_place(
    watched: Shell, tmp_path: Path
) -> None:
    folder = build(tmp_path / "kiosk", line(9, 20))  # one digit more: it cannot be counted in place
    before = (folder / "trial").stat().st_ino
    run = watched.run(folder, {"BREAK": "sync"})
    assert "cannot count" in run.stderr
    assert (folder / "trial").read_bytes() == line(9, 20)
    assert (folder / "trial").stat().st_ino == before
    assert left_overs(folder) == []


def test_killed_at_any_moment_it_leaves_the_old_or_the_new_state(shell: Shell, tmp_path: Path) -> None:
    command = [*shell.command, str(GUARD)]
    for moment in range(30):
        attempts = 3 * (moment % 2)
        folder = build(tmp_path / f"kiosk{moment}", line(attempts, 3))
        guard = subprocess.Popen(
            [*command, str(folder)],
            env={"PATH": str(shell.tools)},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            guard.wait(moment * 0.0005)
        with suppress(ProcessLookupError):
            os.killpg(guard.pid, signal.SIGKILL)
        guard.wait(30)
        after = (line(1, 3), NEW) if attempts == 0 else (line(3, 3), OLD)
        state = ((folder / "trial").read_bytes(), os.readlink(folder / "current"))
        assert state in ((line(attempts, 3), NEW), after)


OLD_MV = """#!/bin/sh
case $1 in *T*) echo "mv: invalid option -- T" >&2; exit 1 ;; esac
PATH={real} exec mv "$@"
"""


def test_a_mv_without_T_goes_back_too_and_moves_nothing_into_the_tree(
    plain_shell: Shell, tmp_path: Path
) -> None:
    folder = build(tmp_path / "kiosk", line(3, 3))
    tools = shutil.copytree(plain_shell.tools, tmp_path / "old-tools", symlinks=True)
    (tools / "mv").unlink()
    (tools / "mv").write_text(OLD_MV.format(real=plain_shell.tools))
    (tools / "mv").chmod(0o755)
    run = Shell(plain_shell.command, tools).run(folder)
    assert os.readlink(folder / "current") == OLD
    assert "knows no -T" in run.stderr
    assert os.listdir(folder / NEW) == []
    assert left_overs(folder) == []


def test_a_file_left_by_a_killed_guard_of_the_same_pid_does_not_stop_counting(
    shell: Shell, tmp_path: Path
) -> None:
    folder = build(tmp_path / "kiosk", line(0, 3))
    # The pid is the shell's: it puts a file in its own way and becomes the guard.
    script = 'cd "$2"; : >".guard-trial.$$"; ln -s nowhere ".guard-current.$$"; exec "$0" "$1" "$2"'
    command = [shell.command[0], *shell.command[1:], "-c", script]
    if len(shell.command) > 1:
        script = script.replace('exec "$0"', 'exec "$0" sh')
        command = [*shell.command, "-c", script]
    for _ in range(4):
        run = subprocess.run(
            [*command, shell.command[0], str(GUARD), str(folder)], env={"PATH": str(shell.tools)}, timeout=30
        )
        assert run.returncode == 0
    assert (folder / "trial").read_bytes() == line(3, 3)
    assert os.readlink(folder / "current") == OLD


WORKING = """#!/bin/sh
{real}/sync "$@" || exit
[ "$1" != . ] || exit 0
rm -f "$FOLDER/trial"
if [ -n "$TRIAL" ]; then echo "$TRIAL" >"$FOLDER/trial"; fi
"""


@pytest.mark.parametrize("then", ["", line(0, 5).decode().strip()], ids=["ends", "begins again"])
def test_a_trial_that_the_worker_changes_meanwhile_stays_as_the_worker_left_it(
    plain_shell: Shell, tmp_path: Path, then: str
) -> None:
    folder = build(tmp_path / "kiosk", line(0, 3))
    tools = shutil.copytree(plain_shell.tools, tmp_path / "racing", symlinks=True)
    (tools / "sync").unlink()
    (tools / "sync").write_text(WORKING.format(real=plain_shell.tools))
    (tools / "sync").chmod(0o755)
    Shell(plain_shell.command, tools).run(folder, {"FOLDER": str(folder), "TRIAL": then})
    assert [path.read_text().strip() for path in folder.glob("trial")] == ([then] if then else [])
    assert left_overs(folder) == []


@pytest.mark.parametrize(("attempts", "maximum"), [(0, 20), (3, 3)])
def test_guards_side_by_side_leave_a_whole_state(
    shell: Shell, tmp_path: Path, attempts: int, maximum: int
) -> None:
    folder = build(tmp_path / "kiosk", line(attempts, maximum))
    command = [*shell.command, str(GUARD), str(folder)]
    guards = [
        subprocess.Popen(command, env={"PATH": str(shell.tools)}, stderr=subprocess.DEVNULL) for _ in range(8)
    ]
    assert [guard.wait(30) for guard in guards] == [0] * 8
    trial = Trial.parse((folder / "trial").read_bytes())
    assert trial is not None
    assert trial.attempts == attempts if attempts == maximum else 1 <= trial.attempts <= 8
    assert os.readlink(folder / "current") == (OLD if attempts == maximum else NEW)
    assert left_overs(folder) == []


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_nothing() -> None:
    run = subprocess.run(["shellcheck", "-s", "sh", str(GUARD)], capture_output=True, text=True)
    assert run.stdout == ""
    assert run.returncode == 0

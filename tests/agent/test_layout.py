"""The install folder of a component and what survives a cut there."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetfoot_agent import durable
from fleetfoot_agent.layout import (
    ENVELOPE_CAP,
    Layout,
    Trial,
    check_entrypoint,
    disk_error,
    name_of,
    target_of,
    version_name,
)
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.topics import TopicError

ONE = "1.0.0-00000000"
TWO = "1.1.0-11111111"
THREE = "1.2.0-rc.1-22222222"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# -- names


def test_a_version_folder_is_named_by_version_and_digest() -> None:
    name = version_name("1.2.0-rc.1", "22222222" + "f" * 56)
    assert name == THREE
    assert target_of(name) == f"versions/{THREE}"
    assert name_of(target_of(name)) == name


@pytest.mark.parametrize(
    ("version", "digest"),
    [
        ("", "0" * 64),
        ("../1", "0" * 64),
        ("1/2", "0" * 64),
        ("-1", "0" * 64),
        (".1", "0" * 64),
        ("1\n", "0" * 64),
        ("1.0.0+b", "0" * 64),
        ("1" * 300, "0" * 64),
        ("\u0661.0.0", "0" * 64),
        ("1.0.0", "0" * 8),
        ("1.0.0", "A" * 64),
        ("1.0.0", "0" * 63 + "\n"),
    ],
)
def test_what_cannot_name_a_folder_is_refused(version: str, digest: str) -> None:
    with pytest.raises(UpgradeError) as caught:
        version_name(version, digest)
    assert caught.value.code == Code.UPGRADE_LAYOUT_REFUSED


@pytest.mark.parametrize(
    "target",
    ["", ONE, "versions/", f"/versions/{ONE}", f"versions/../{ONE}", f"versions//{ONE}", f"versions/{ONE}/"],
)
def test_a_link_text_that_leads_elsewhere_names_no_tree(target: str) -> None:
    assert name_of(target) is None


@pytest.mark.parametrize("text", ["app", "bin/app", "a b/c", "bin/.hidden", "\u00fc"])
def test_a_relative_path_inside_may_be_an_entrypoint(text: str) -> None:
    assert check_entrypoint(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/bin/sh",
        "../x",
        "a/../x",
        "a//b",
        "a/",
        "./a",
        ".",
        "a\nb",
        "a\0b",
        "\u202e",
        "\ud800",
        "x" * 2000,
    ],
)
def test_any_other_entrypoint_is_refused(text: str) -> None:
    with pytest.raises(UpgradeError) as caught:
        check_entrypoint(text)
    assert caught.value.code == Code.UPGRADE_LAYOUT_REFUSED


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.UPGRADE_DISK_FULL),
        (errno.EDQUOT, Code.UPGRADE_DISK_FULL),
        (errno.EROFS, Code.UPGRADE_READ_ONLY),
        (errno.EIO, Code.UPGRADE_IO_ERROR),
        (errno.EACCES, Code.UPGRADE_IO_ERROR),
    ],
)
def test_every_disk_error_has_its_code(number: int, code: Code) -> None:
    error = disk_error(OSError(number, "why"), "writing the trial")
    assert (error.code, error.message) == (code, "writing the trial: why")


# -- the layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path, "kiosk")
    found.create()
    return found


def install(layout: Layout, *wanted: str) -> None:
    for name in wanted:
        staged = layout.staging / name
        (staged / "bin").mkdir(parents=True)
        (staged / "bin" / "app").write_text("#!/bin/sh\n:\n")
        layout.promote(staged, name, b'{"envelope": 1}', "bin/app")


def test_the_folders_are_made_and_made_again(layout: Layout) -> None:
    layout.create()
    assert names(layout.folder) == ["staging", "versions"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in layout.folder.iterdir()} == {0o755}
    assert layout.read_current() is None
    assert layout.read_trial() is None
    assert layout.installed() == []


def test_a_component_that_is_no_id_has_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TopicError):
        Layout(tmp_path, "../kiosk")


@pytest.mark.parametrize("which", ["versions", "staging"])
def test_a_link_in_place_of_a_folder_is_refused(tmp_path: Path, which: str) -> None:
    layout = Layout(tmp_path, "kiosk")
    (tmp_path / "elsewhere").mkdir()
    layout.folder.mkdir()
    (layout.folder / which).symlink_to("../elsewhere")
    with pytest.raises(UpgradeError) as caught:
        layout.create()
    assert caught.value.code == Code.UPGRADE_LAYOUT_REFUSED


def test_a_promoted_tree_stands_with_its_envelope_and_entrypoint(layout: Layout) -> None:
    install(layout, ONE)
    assert layout.installed() == [ONE]
    assert layout.envelope(ONE) == b'{"envelope": 1}'
    assert layout.entrypoint(ONE) == "bin/app"
    assert (layout.tree(ONE) / "bin" / "app").is_file()
    assert names(layout.staging) == []
    assert names(layout.versions) == [ONE, f"{ONE}.entrypoint", f"{ONE}.release.json"]


def test_a_tree_has_its_name_only_after_all_else_is_written(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> None:
        raise OSError(errno.EIO, "cut")

    monkeypatch.setattr(durable, "rename", cut)
    with pytest.raises(OSError, match="cut"):
        install(layout, ONE)
    assert names(layout.versions) == [f"{ONE}.entrypoint", f"{ONE}.release.json"]
    assert layout.installed() == []
    layout.clean()
    assert names(layout.versions) == names(layout.staging) == []


def test_a_name_that_is_taken_is_not_promoted_over(layout: Layout) -> None:
    install(layout, ONE)
    with pytest.raises(UpgradeError) as caught:
        install(layout, ONE)
    assert caught.value.code == Code.UPGRADE_LAYOUT_REFUSED
    assert layout.entrypoint(ONE) == "bin/app"


@pytest.mark.parametrize(
    "data", [b"", b"bin/app", b"/bin/app\n", b"../app\n", b"a\nb\n", b"\xff\n", b"x" * 2000]
)
def test_an_entrypoint_file_that_says_nothing_usable_is_none(layout: Layout, data: bytes) -> None:
    install(layout, ONE)
    (layout.versions / f"{ONE}.entrypoint").write_bytes(data)
    assert layout.entrypoint(ONE) is None


def test_an_envelope_beyond_the_cap_is_not_read(layout: Layout) -> None:
    install(layout, ONE)
    path = layout.versions / f"{ONE}.release.json"
    path.write_bytes(b"x" * ENVELOPE_CAP)
    assert layout.envelope(ONE) == b"x" * ENVELOPE_CAP
    path.write_bytes(b"x" * (ENVELOPE_CAP + 1))
    assert layout.envelope(ONE) is None


def test_current_leads_where_it_was_swapped_to(layout: Layout) -> None:
    install(layout, ONE, TWO)
    layout.swap_current(target_of(ONE))
    layout.swap_current(target_of(TWO))
    assert layout.read_current() == target_of(TWO)
    assert names(layout.folder) == ["current", "staging", "versions"]


@pytest.mark.parametrize("target", [f"versions/{TWO}", "versions/../x", "/", ""])
def test_current_is_not_swapped_to_what_is_not_installed(layout: Layout, target: str) -> None:
    install(layout, ONE)
    layout.swap_current(target_of(ONE))
    with pytest.raises(UpgradeError):
        layout.swap_current(target)
    assert layout.read_current() == target_of(ONE)


def link(layout: Layout, text: str) -> None:
    layout.current.symlink_to(text)


def current_is_a_folder(layout: Layout) -> None:
    layout.current.mkdir()
    (layout.current / "precious").write_bytes(b"x")


def current_is_a_file(layout: Layout) -> None:
    layout.current.write_bytes(b"precious")


def current_is_dangling(layout: Layout) -> None:
    link(layout, target_of(THREE))


def current_is_absolute(layout: Layout) -> None:
    link(layout, str(layout.tree(ONE)))


def current_leads_elsewhere(layout: Layout) -> None:
    link(layout, "staging")


def current_leads_to_a_file(layout: Layout) -> None:
    (layout.folder / target_of(THREE)).write_bytes(b"")
    link(layout, target_of(THREE))


def current_leads_to_a_link(layout: Layout) -> None:
    (layout.folder / target_of(THREE)).symlink_to(ONE)
    link(layout, target_of(THREE))


REFUSED = [
    current_is_a_folder,
    current_is_a_file,
    current_is_dangling,
    current_is_absolute,
    current_leads_elsewhere,
    current_leads_to_a_file,
    current_leads_to_a_link,
]


@pytest.mark.parametrize("spoil", REFUSED)
def test_a_current_that_is_not_ours_is_refused_and_nothing_is_deleted(
    layout: Layout, spoil: Callable[[Layout], None]
) -> None:
    install(layout, ONE, TWO)
    spoil(layout)
    before = sorted(map(str, layout.folder.rglob("*")))
    acts: list[Callable[[], object]] = [
        layout.read_current,
        lambda: layout.swap_current(target_of(ONE)),
        lambda: layout.collect(set()),
    ]
    for act in acts:
        with pytest.raises(UpgradeError) as caught:
            act()
        assert caught.value.code == Code.UPGRADE_LAYOUT_REFUSED
    layout.clean()
    assert sorted(map(str, layout.folder.rglob("*"))) == before


@pytest.mark.needs("root")
def test_a_current_of_a_stranger_is_refused(layout: Layout) -> None:
    install(layout, ONE)
    layout.swap_current(target_of(ONE))
    os.lchown(layout.current, 12345, 12345)
    with pytest.raises(UpgradeError, match="12345"):
        layout.read_current()


# -- trial


def test_a_trial_is_written_read_and_removed(layout: Layout) -> None:
    trial = Trial(0, 3, target_of(ONE), target_of(TWO))
    layout.write_trial(trial)
    assert layout.trial.read_bytes() == f"ff1 0 3 versions/{ONE} versions/{TWO}\n".encode()
    assert layout.read_trial() == trial
    assert not trial.exhausted
    layout.remove_trial()
    layout.remove_trial()
    assert layout.read_trial() is None


def test_a_trial_is_exhausted_when_all_starts_are_counted() -> None:
    assert [Trial(n, 3, target_of(ONE), target_of(TWO)).exhausted for n in (2, 3, 4)] == [False, True, True]


@pytest.mark.parametrize(
    ("attempts", "maximum", "old", "new"),
    [
        (-1, 3, target_of(ONE), target_of(TWO)),
        (100, 3, target_of(ONE), target_of(TWO)),
        (0, 0, target_of(ONE), target_of(TWO)),
        (0, 100, target_of(ONE), target_of(TWO)),
        (0, 3, ONE, target_of(TWO)),
        (0, 3, target_of(ONE), "versions/../x"),
        (0, 3, target_of(ONE), target_of(ONE)),
    ],
)
def test_a_trial_that_the_guard_would_not_read_cannot_be_made(
    attempts: int, maximum: int, old: str, new: str
) -> None:
    with pytest.raises(ValueError, match="a trial"):
        Trial(attempts, maximum, old, new)


def test_garbage_and_a_link_are_no_trial(layout: Layout) -> None:
    layout.trial.write_bytes(b"ff1 garbage\n")
    assert layout.read_trial() is None
    real = Trial(0, 3, target_of(ONE), target_of(TWO)).line()
    (layout.folder / "elsewhere").write_bytes(real)
    layout.trial.unlink()
    layout.trial.symlink_to("elsewhere")
    assert layout.read_trial() is None


# -- removal


def test_collection_keeps_what_it_is_told_current_and_both_sides_of_a_trial(layout: Layout) -> None:
    others = [f"0.{n}.0-{n:08x}" for n in range(3)]
    install(layout, ONE, TWO, THREE, *others)
    layout.swap_current(target_of(TWO))
    layout.write_trial(Trial(1, 3, target_of(ONE), target_of(TWO)))
    assert layout.collect({others[1]}) == [others[0], others[2], THREE]
    assert layout.installed() == [others[1], ONE, TWO]
    assert [n for n in names(layout.versions) if n.startswith((THREE, others[0]))] == []
    layout.remove_trial()
    assert layout.collect(set()) == [others[1], ONE]
    assert layout.installed() == [TWO]


def test_collection_removes_nothing_while_a_trial_does_not_parse(layout: Layout) -> None:
    install(layout, ONE, TWO)
    layout.swap_current(target_of(TWO))
    layout.trial.write_bytes(b"garbage\n")
    assert layout.collect(set()) == []
    assert layout.installed() == [ONE, TWO]


# What a process does to hold a tree. A mapping outlives the file descriptors it was made with.
HOLDERS = {
    "working folder": "os.chdir(tree)",
    "a folder below": "os.chdir(tree + '/bin')",
    "an open file": "held = open(tree + '/bin/app')",
    "a mapped file": "m = mmap.mmap(os.open(tree + '/bin/app', 0), 0, access=1); os.closerange(3, 99)",
    "its command line": "",
}
HOLDER = """
import mmap, os, sys
tree = sys.stdin.readline().strip()
{act}
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def hold(layout: Layout) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(case: str) -> subprocess.Popen[str]:
        named = [f"--data={layout.tree(ONE)}/data"] if case == "its command line" else []
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDER.format(act=HOLDERS[case]), *named],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{layout.tree(ONE)}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.communicate(timeout=30)


@pytest.mark.parametrize("case", HOLDERS)
def test_collection_keeps_a_tree_that_a_process_uses(
    layout: Layout, case: str, hold: Callable[[str], subprocess.Popen[str]]
) -> None:
    install(layout, ONE, TWO, THREE)
    layout.swap_current(target_of(TWO))
    process = hold(case)
    assert layout.collect(set()) == [THREE]
    process.communicate(timeout=30)
    assert layout.collect(set()) == [ONE]


def test_collection_keeps_a_tree_whose_program_runs(layout: Layout) -> None:
    install(layout, ONE, TWO)
    layout.swap_current(target_of(TWO))
    cat = shutil.which("cat")
    assert cat is not None
    program = Path(shutil.copy(cat, layout.tree(ONE) / "bin" / "cat"))
    process = subprocess.Popen(["kiosk"], executable=program, stdin=subprocess.PIPE)
    try:
        assert layout.collect(set()) == []
    finally:
        process.communicate(timeout=30)
    assert layout.collect(set()) == [ONE]


def test_a_tree_is_renamed_away_before_anything_in_it_is_removed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(layout, ONE)

    def cut(path: Path) -> None:
        (Path(path) / "bin" / "app").unlink()
        raise OSError(errno.EIO, "cut")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut)
        with pytest.raises(OSError, match="cut"):
            layout.discard(ONE)
    assert layout.installed() == []
    layout.clean()
    assert names(layout.versions) == []


def test_cleaning_removes_what_a_cut_leaves_and_nothing_else(layout: Layout) -> None:
    install(layout, ONE)
    layout.swap_current(target_of(ONE))
    layout.journal.write_text("{}")
    (layout.folder / "log").write_text("")
    before = sorted(map(str, layout.folder.rglob("*")))
    (layout.folder / ".tmp-x").symlink_to(target_of(TWO))
    (layout.versions / ".tmp-y").write_bytes(b"x")
    (layout.versions / ".trash-z" / "bin").mkdir(parents=True)
    (layout.versions / f"{TWO}.release.json").write_bytes(b"x")
    (layout.versions / f"{THREE}.entrypoint").write_bytes(b"x")
    (layout.staging / "half" / "bin").mkdir(parents=True)
    (layout.staging / "link").symlink_to(layout.tree(ONE))
    old = layout.folder / ".guard-trial.1"
    old.write_bytes(b"")
    os.utime(old, (0, time.time() - 3600))
    (layout.folder / ".guard-trial.2").write_bytes(b"")  # of a guard that runs right now
    layout.clean()
    (layout.folder / ".guard-trial.2").unlink()
    assert sorted(map(str, layout.folder.rglob("*"))) == before


@pytest.mark.parametrize("act", ["clean", "collect", "discard", "installed"])
def test_a_disk_that_cannot_say_what_is_there_loses_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    install(layout, ONE, TWO)
    layout.swap_current(target_of(ONE))
    before = sorted(map(str, layout.folder.rglob("*")))
    honest = os.lstat

    def failing(path: str | Path, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path).endswith((TWO, ONE)):
            raise OSError(errno.EIO, "Input/output error")
        return honest(path, *args, **kwargs)

    acts: dict[str, Callable[[], object]] = {
        "clean": layout.clean,
        "collect": lambda: layout.collect(set()),
        "discard": lambda: layout.discard(TWO),
        "installed": layout.installed,
    }
    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", failing)
        with pytest.raises(OSError, match="Input/output error"):
            acts[act]()
    assert sorted(map(str, layout.folder.rglob("*"))) == before

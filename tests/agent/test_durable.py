"""Durable changes of files, and reading of files that somebody else writes."""

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleetfoot_agent import durable


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_replaced_whole_and_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_file(path, b"one" * 100, 0o644)
    before = path.stat().st_ino
    mask = os.umask(0o077)
    try:
        durable.write_file(path, b"two", 0o640)
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != before
    assert names(tmp_path) == ["file"]


def test_a_file_is_not_written_through_a_link_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    (tmp_path / "file").symlink_to("elsewhere")
    durable.write_file(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    durable.write_file(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called while a file is changed, in order; an fsync says of what."""
    seen: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(*arguments: Any, **more: Any) -> Any:
            kind = ""
            if name == "fsync":
                kind = " folder" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else " file"
            seen.append(name + kind)
            return real(*arguments, **more)

        monkeypatch.setattr(os, name, watched)

    for name in ("write", "fsync", "rename", "symlink", "unlink"):
        watch(name)
    return seen


def test_the_order_on_disk_is_bytes_then_name_then_folder(tmp_path: Path, calls: list[str]) -> None:
    durable.write_file(tmp_path / "file", b"x")
    assert calls == ["write", "fsync file", "rename", "fsync folder"]
    calls.clear()
    durable.swap_symlink(tmp_path / "link", "file")
    assert calls == ["symlink", "rename", "fsync folder"]
    calls.clear()
    (tmp_path / "below").mkdir()
    durable.rename(tmp_path / "file", tmp_path / "below" / "file")
    assert calls == ["rename", "fsync folder", "fsync folder"]
    calls.clear()
    assert durable.remove_file(tmp_path / "link")
    assert not durable.remove_file(tmp_path / "link")
    assert calls == ["unlink", "fsync folder", "unlink", "fsync folder"]


@pytest.mark.parametrize("call", ["write", "fchmod", "fsync", "rename", "open"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_failing_call_surfaces_and_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            durable.write_file(tmp_path / "file", b"new")
    assert caught.value.errno == number
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_link_is_replaced_and_a_folder_in_its_place_is_an_error(tmp_path: Path) -> None:
    durable.swap_symlink(tmp_path / "link", "one")
    durable.swap_symlink(tmp_path / "link", "two")
    assert os.readlink(tmp_path / "link") == "two"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        durable.swap_symlink(tmp_path / "folder", "two")
    assert names(tmp_path) == ["folder", "link"]


def test_a_link_to_a_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    durable.swap_symlink(tmp_path / "link", "one")
    durable.swap_symlink(tmp_path / "link", "two")
    assert os.readlink(tmp_path / "link") == "two"
    assert names(tmp_path / "one") == []


def test_left_over_temporaries_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a").write_bytes(b"x")
    (tmp_path / ".tmp-b").symlink_to("nowhere")
    (tmp_path / ".tmp-c").mkdir()
    (tmp_path / "tmp-d").write_bytes(b"x")
    assert durable.clear_temporary(tmp_path) == 2
    assert names(tmp_path) == [".tmp-c", "tmp-d"]


def test_folders_are_made_with_all_above_them_and_found_ones_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    mask = os.umask(0o077)
    try:
        durable.make_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(mask)
    modes = [stat.S_IMODE((tmp_path / p).stat().st_mode) for p in ("a", "a/b", "a/b/c")]
    assert modes == [0o700, 0o755, 0o755]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="File exists"):
        durable.make_folder(tmp_path / "file")


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def a_link(path: Path) -> None:
    path.with_name("other").write_bytes(b"ok")
    path.symlink_to("other")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_second_name(path: Path) -> None:
    path.with_name("other").write_bytes(b"ok")
    path.hardlink_to(path.with_name("other"))


def too_much(path: Path) -> None:
    path.write_bytes(b"12345")


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    "make", [a_fifo, a_folder, a_socket, a_link, a_dangling_link, a_second_name, too_much, nothing]
)
def test_what_is_not_a_plain_small_file_is_ignored(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    assert durable.read_regular(tmp_path, "x", 4) is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/hostname", "a/b", "a\0b", "x" * 300])
def test_what_is_no_name_is_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x")
    assert durable.read_regular(tmp_path, name, 4096) is None


@pytest.mark.parametrize("content", [b"", b"1", b"1234"])
def test_a_file_up_to_the_cap_is_read_by_path_and_by_open_folder(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert durable.read_regular(tmp_path, "x", 4) == content
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert durable.read_regular(fd, "x", 4) == content
        os.fstat(fd)  # still open
    finally:
        os.close(fd)
    assert durable.read_regular(tmp_path / "absent", "x", 4) is None


def test_a_file_that_grows_while_it_is_read_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    read = os.read

    def grow(fd: int, count: int) -> bytes:
        with open(tmp_path / "x", "ab") as more:
            more.write(b"5678")
        return read(fd, min(count, 4))

    monkeypatch.setattr(os, "read", grow)
    assert durable.read_regular(tmp_path, "x", 4) is None


def test_a_failing_disk_does_not_look_like_an_absent_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"1")

    def fail(*_: Any, **__: Any) -> int:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="I/O error"):
        durable.read_regular(tmp_path, "x", 4)

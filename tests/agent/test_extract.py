"""The worker's extractor: what it writes, how it judges the transfer, what a failing disk does."""

import ctypes
import errno
import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.agent.tarbytes import (
    APP,
    CHUNK,
    END,
    GZIP,
    PLAIN,
    PLAIN_MEMBERS,
    facts_of,
    file,
    file_member,
    folder,
    header,
    link,
    padded,
    refusal,
    zipped,
)

from fleetfoot_agent.worker import gunzip, treewriter
from fleetfoot_agent.worker.extract import extract, hash_tree
from fleetfoot_agent.worker.treewriter import TreeWriter, open_folder
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.tree import Member, tree_sha256


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "around" / "staging"
    path.mkdir(parents=True)
    return path


# What is accepted


def test_the_tree_of_the_contract_arrives_with_its_digest(destination: Path) -> None:
    blob = zipped(PLAIN)
    facts = facts_of(blob, PLAIN_MEMBERS)
    assert facts.tree_sha256 == "8fe331395b117de9d6782fc7a70cf9368bbc4ab7bf82e820affe1af3df772db3"
    assert extract(io.BytesIO(blob), facts, destination) == PLAIN_MEMBERS
    assert (destination / "run").readlink() == Path("bin/app")
    assert (destination / "run").read_bytes() == APP
    assert hash_tree(destination) == PLAIN_MEMBERS


def test_chunks_are_verified_beside_and_files_hashed_by_whoever_writes_them(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To change threads for each file costs, where others want the processors, more than hashing it."""
    files = {b"f%02d" % n: os.urandom(40_000) for n in range(30)}
    blob = zipped(b"".join(file(name, content) for name, content in files.items()) + END)
    members = [file_member(name.decode(), content) for name, content in files.items()]
    hashed: list[tuple[str, str]] = []

    def watch(module: Any, where: str) -> None:
        def sha256(data: bytes = b"") -> Any:
            hashed.append((where, threading.current_thread().name))
            return hashlib.sha256(data)

        monkeypatch.setattr(module, "hashlib", SimpleNamespace(sha256=sha256))

    watch(gunzip, "chunk")
    watch(treewriter, "file")
    extract(io.BytesIO(blob), facts_of(blob, members), destination)
    here = threading.current_thread().name
    assert set(hashed) == {("chunk", "verifier"), ("file", here)}
    assert hashed.count(("file", here)) == len(files)


def test_destination_may_be_a_descriptor_which_stays_open(destination: Path) -> None:
    blob = zipped(PLAIN)
    with open_folder(destination) as descriptor:
        extract(io.BytesIO(blob), facts_of(blob, PLAIN_MEMBERS), descriptor)
        assert sorted(os.listdir(descriptor)) == ["bin", "run"]


def test_progress_tells_the_verified_bytes_to_the_end(destination: Path) -> None:
    blob = zipped(file(b"noise", os.urandom(20_000)) + END)
    content = gzip.decompress(blob)[512 : 512 + 20_000]
    told: list[int] = []
    extract(
        io.BytesIO(blob), facts_of(blob, [file_member("noise", content)]), destination, progress=told.append
    )
    assert told == [*range(CHUNK, len(blob), CHUNK), len(blob)]


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_modes_are_the_manifests_and_owners_are_ours(destination: Path, mask: int) -> None:
    modes = [(b"a", 0o777), (b"b", 0o4755), (b"c", 0o2700), (b"d", 0o666), (b"e", 0o1600)]
    archive = header(b"z/", flag=b"5", mode=0o2777) + b"".join(file(n, b"x", mode) for n, mode in modes) + END
    blob = zipped(archive)
    wanted = {"a": 0o755, "b": 0o755, "c": 0o755, "d": 0o644, "e": 0o644}
    members = [Member("d", "z", 0o755), *(file_member(n, b"x", mode) for n, mode in wanted.items())]
    before = os.umask(mask)
    try:
        extract(io.BytesIO(blob), facts_of(blob, members), destination)
    finally:
        os.umask(before)
    found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in destination.iterdir()}
    assert found == {**wanted, "z": 0o755}
    assert {p.stat().st_uid for p in destination.iterdir()} == {os.geteuid()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_writers_are_read(destination: Path, form: int) -> None:
    deep = "/".join(["f" * 90, "g" * 90])
    far = "h" * 95 if form == tarfile.USTAR_FORMAT else "h" * 120
    out = io.BytesIO()
    members = []
    with tarfile.open(fileobj=out, mode="w:gz", format=form, encoding="utf-8") as archive:
        for path in ("f" * 90, deep):
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1.5 if form != 0 else 1
            archive.addfile(info)
            members.append(Member("d", path, 0o755))
        for path, content in ((f"{deep}/größe", b"x" * 513), ("leer", b"")):
            info = tarfile.TarInfo(path)
            info.size, info.uname = len(content), "größte"
            archive.addfile(info, io.BytesIO(content))
            members.append(file_member(path, content))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, far
        archive.addfile(info)
        members.append(Member("l", "link", target=far))
    blob = out.getvalue()
    found = extract(io.BytesIO(blob), facts_of(blob, members), destination)
    assert sorted(found, key=lambda m: m.path) == sorted(members, key=lambda m: m.path)
    assert hash_tree(destination) == found


def test_a_positive_base_256_size_is_read(destination: Path) -> None:
    blob = zipped(header(b"app", b"\x80" + len(APP).to_bytes(11, "big")) + padded(APP) + END)
    assert extract(io.BytesIO(blob), facts_of(blob, [file_member("app", APP)]), destination)


def test_links_are_made_after_everything_else(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = zipped(link(b"first", b"last") + folder(b"d") + file(b"last", APP) + END)
    members = [Member("l", "first", target="last"), Member("d", "d", 0o755), file_member("last", APP)]
    real = os.symlink
    there: list[list[str]] = []

    def watching(target: str, name: str, *, dir_fd: int) -> None:
        there.append(sorted(os.listdir(dir_fd)))
        real(target, name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "symlink", watching)
    extract(io.BytesIO(blob), facts_of(blob, members), destination)
    assert there == [["d", "last"]]


# Writing through descriptors


def test_nothing_is_written_through_a_link_that_appears_meanwhile(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    with open_folder(root) as descriptor:
        writer = TreeWriter(descriptor)
        writer.folder("d")
        writer.file("other", 0o644, [])
        (root / "d").rmdir()
        (root / "d").symlink_to(outside)
        (root / "f").symlink_to(outside / "new")
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            writer.file("d/x", 0o644, [])
        with pytest.raises(FileExistsError, match="f"):
            writer.file("f", 0o644, [])
        writer.close()
    assert list(outside.iterdir()) == []


def test_emptying_removes_links_and_not_what_they_point_to(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious").touch()
    (root / "l").symlink_to(outside)
    (root / "d" / "l").symlink_to(outside)
    with open_folder(root) as descriptor:
        treewriter.empty_folder(descriptor)
    assert list(root.iterdir()) == []
    assert (outside / "precious").exists()


# Transfer: length, index, digest


def test_a_chunk_that_the_index_does_not_know_reaches_no_decompressor(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(10 * CHUNK)
    blob = zipped(file(b"noise", content) + END)
    facts = facts_of(blob, [file_member("noise", content)])
    damaged = bytearray(blob)
    damaged[3 * CHUNK + 17] ^= 1
    fed = bytearray()
    real = gunzip._ENGINE.decompressobj

    class Spy:
        def __init__(self, wbits: int) -> None:
            self._real = real(wbits)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def decompress(self, data: bytes, limit: int) -> bytes:
            assert not self._real.unconsumed_tail
            fed.extend(data)
            return bytes(self._real.decompress(data, limit))

    monkeypatch.setattr(gunzip._ENGINE, "decompressobj", Spy)
    error = refusal(bytes(damaged), facts, destination)
    assert (error.code, "chunk 3" in error.message) == (Code.UPGRADE_CHECKSUM_MISMATCH, True)
    assert fed == blob[: 3 * CHUNK]


@pytest.mark.parametrize("at", [0, len(GZIP) // 2, len(GZIP) - 1])
def test_a_wrong_byte_anywhere_is_a_wrong_checksum(destination: Path, at: int) -> None:
    damaged = bytearray(GZIP)
    damaged[at] ^= 0x80
    error = refusal(bytes(damaged), facts_of(GZIP, PLAIN_MEMBERS, 32), destination)
    assert error.code == Code.UPGRADE_CHECKSUM_MISMATCH


def test_right_chunks_of_a_wrong_whole_are_a_wrong_checksum(destination: Path) -> None:
    error = refusal(GZIP, replace(facts_of(GZIP, PLAIN_MEMBERS), sha256="0" * 64), destination)
    assert error.code == Code.UPGRADE_CHECKSUM_MISMATCH


@pytest.mark.parametrize("blob", [GZIP + b"x", GZIP[:-1], GZIP[:40], b""])
def test_another_length_than_the_manifest_says_is_told_as_such(destination: Path, blob: bytes) -> None:
    error = refusal(blob, facts_of(GZIP, PLAIN_MEMBERS, 32), destination)
    assert error.code == Code.UPGRADE_LENGTH_MISMATCH


def test_a_source_that_reads_a_byte_at_a_time_will_do(destination: Path) -> None:
    class Drip(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 1))

    assert extract(Drip(GZIP), facts_of(GZIP, PLAIN_MEMBERS), destination) == PLAIN_MEMBERS


def test_another_tree_than_the_manifest_says_is_removed(destination: Path) -> None:
    others = [*PLAIN_MEMBERS[:1], file_member("bin/app", APP[::-1], 0o755), *PLAIN_MEMBERS[2:]]
    error = refusal(GZIP, facts_of(GZIP, others), destination)
    assert error.code == Code.UPGRADE_TREE_MISMATCH


# The disk


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.UPGRADE_DISK_FULL),
        (errno.EDQUOT, Code.UPGRADE_DISK_FULL),
        (errno.EROFS, Code.UPGRADE_READ_ONLY),
        (errno.EIO, Code.UPGRADE_IO_ERROR),
        (errno.EMFILE, Code.UPGRADE_IO_ERROR),
    ],
)
@pytest.mark.parametrize("call", ["write", "open", "mkdir", "symlink", "fchmod"])
def test_a_failing_disk_gets_its_code(
    destination: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: Code
) -> None:
    real: Callable[..., Any] = getattr(os, call)

    def failing(*arguments: Any, **options: Any) -> Any:
        # Opening what is there already goes on working.
        if call == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **options)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        error = refusal(GZIP, facts_of(GZIP, PLAIN_MEMBERS), destination)
    assert error.code == code


def test_a_file_size_limit_is_an_io_error(destination: Path) -> None:
    program = """
import io, resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from tarbytes import END, facts_of, file, file_member, zipped
from fleetfoot_agent.worker.extract import extract
from fleetfoot_protocol.errors import UpgradeError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
blob = zipped(file(b"a", bytes(100_000)) + END)
try:
    extract(io.BytesIO(blob), facts_of(blob, [file_member("a", bytes(100_000))]), Path(sys.argv[2]))
except UpgradeError as error:
    print(error.code)
"""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", program, here, destination], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == Code.UPGRADE_IO_ERROR
    assert list(destination.iterdir()) == []


class Library:
    """Stands in for the C library: its syncfs fails with a number of errno."""

    def __init__(self, number: int) -> None:
        self._number = number

    def syncfs(self, _: int) -> int:
        ctypes.set_errno(self._number)
        return -1


def test_a_lost_write_back_fails_the_extraction(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(errno.EIO))
    error = refusal(GZIP, facts_of(GZIP, PLAIN_MEMBERS), destination)
    assert error.code == Code.UPGRADE_IO_ERROR


@pytest.mark.parametrize("library", [object(), Library(errno.ENOSYS)])
def test_without_syncfs_every_file_and_folder_is_synced(
    destination: Path, monkeypatch: pytest.MonkeyPatch, library: object
) -> None:
    synced: set[int] = set()
    real = os.fsync

    def watching(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    monkeypatch.setattr(os, "fsync", watching)
    extract(io.BytesIO(GZIP), facts_of(GZIP, PLAIN_MEMBERS), destination)
    paths = (destination, destination / "bin", destination / "bin/app")
    assert synced == {path.stat().st_ino for path in paths}


def test_the_tree_is_synced_once_and_by_the_descriptor_that_saw_it_written(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    real = treewriter.sync_tree

    def watching(folder: int) -> None:
        asked.append(os.path.samestat(os.fstat(folder), destination.stat()))
        assert sorted(os.listdir(folder)) == ["bin", "run"]
        real(folder)

    monkeypatch.setattr("fleetfoot_agent.worker.extract.sync_tree", watching)
    extract(io.BytesIO(GZIP), facts_of(GZIP, PLAIN_MEMBERS), destination)
    assert asked == [True]


def test_whoever_abandons_the_work_finds_the_destination_empty(destination: Path) -> None:
    class AbandonedError(Exception):
        pass

    def abandon(done: int) -> None:
        if done > 64:
            raise AbandonedError

    with pytest.raises(AbandonedError):
        extract(io.BytesIO(GZIP), facts_of(GZIP, PLAIN_MEMBERS, 32), destination, progress=abandon)
    assert list(destination.iterdir()) == []


def test_a_destination_with_something_in_it_is_left_as_it_is(destination: Path) -> None:
    (destination / "mine").write_text("precious")
    with pytest.raises(UpgradeError) as caught:
        extract(io.BytesIO(GZIP), facts_of(GZIP, PLAIN_MEMBERS), destination)
    assert caught.value.code == Code.UPGRADE_LAYOUT_REFUSED
    assert (destination / "mine").read_text() == "precious"


@pytest.mark.parametrize("kind", ["missing", "link", "file"])
def test_a_destination_that_is_no_folder_is_an_io_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / kind
    if kind == "link":
        path.symlink_to("real")
    elif kind == "file":
        path.touch()
    with pytest.raises(UpgradeError) as caught:
        extract(io.BytesIO(GZIP), facts_of(GZIP, PLAIN_MEMBERS), path)
    assert caught.value.code == Code.UPGRADE_IO_ERROR
    assert list((tmp_path / "real").iterdir()) == []


# Reading an installed tree


@pytest.fixture
def installed(destination: Path) -> Path:
    extract(io.BytesIO(GZIP), facts_of(GZIP, PLAIN_MEMBERS), destination)
    return destination


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file for its owner only": (lambda root: (root / "bin/app").chmod(0o700), "a file with mode 0700"),
    "a setuid file": (lambda root: (root / "bin/app").chmod(0o4755), "a file with mode 4755"),
    "a folder for all": (lambda root: (root / "bin").chmod(0o777), "a folder with mode 0777"),
    "a FIFO": (lambda root: os.mkfifo(root / "bin/fifo"), "neither a file"),
    "a link out": (lambda root: (root / "bin/out").symlink_to("/etc"), "absolute path"),
    "a name that is no UTF-8": (lambda root: os.mkdir(os.fsencode(root) + b"/\xff"), "U+DCFF"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_installed_tree_is_not_the_releases_with(what: str, installed: Path) -> None:
    change, reason = CHANGES[what]
    change(installed)
    with pytest.raises(UpgradeError) as caught:
        hash_tree(installed)
    assert caught.value.code == Code.UPGRADE_TREE_MISMATCH
    assert reason in caught.value.message


def test_a_changed_file_changes_the_digest_of_an_installed_tree(installed: Path) -> None:
    before = tree_sha256(hash_tree(installed))
    with (installed / "bin/app").open("r+b") as app:
        app.write(b"#!/bin/ed")
    assert tree_sha256(hash_tree(installed)) != before


def test_an_installed_tree_that_is_gone_is_an_io_error(tmp_path: Path) -> None:
    with pytest.raises(UpgradeError) as caught:
        hash_tree(tmp_path / "gone")
    assert caught.value.code == Code.UPGRADE_IO_ERROR

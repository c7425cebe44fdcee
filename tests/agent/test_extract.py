"""The worker's extractor against archives that nobody vouches for (contract section 3)."""

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
import tempfile
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot_agent.worker import treewriter
from fleetfoot_agent.worker.extract import ArtifactFacts, extract, hash_tree
from fleetfoot_agent.worker.treewriter import TreeWriter, open_folder
from fleetfoot_protocol import tree
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.tree import Member, tree_sha256

APP = b"#!/bin/sh\n:\n"
END = bytes(1024)
CHUNK = 4096


def header(
    name: bytes,
    size: int | bytes = 0,
    flag: bytes = b"0",
    mode: int | bytes = 0o644,
    target: bytes = b"",
    *,
    magic: bytes = b"ustar\x0000",
    checksum: int | None = None,
) -> bytes:
    """One tar header, byte by byte as POSIX lays it out; `bytes` stand in a number field as they are."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = mode if isinstance(mode, bytes) else b"%07o\0" % mode
    block[108:124] = b"0000000\0" * 2
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[157 : 157 + len(target)] = target
    block[257:265] = magic
    block[148:156] = b"%06o\0 " % (sum(block) if checksum is None else checksum)
    return bytes(block)


def file(name: bytes, content: bytes = b"", mode: int = 0o644) -> bytes:
    return header(name, len(content), mode=mode) + padded(content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def folder(name: bytes) -> bytes:
    return header(name + b"/", flag=b"5", mode=0o755)


def link(name: bytes, target: bytes) -> bytes:
    return header(name, flag=b"2", target=target)


def pax(records: bytes, flag: bytes = b"x") -> bytes:
    return header(b"././@PaxHeader", len(records), flag) + padded(records)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def zipped(archive: bytes) -> bytes:
    return gzip.compress(archive, mtime=0)


def index_of(blob: bytes, chunk_size: int) -> bytes:
    chunks = (blob[start : start + chunk_size] for start in range(0, len(blob), chunk_size))
    return b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


def file_member(path: str, content: bytes, mode: int = 0o644) -> Member:
    return Member("f", path, mode, len(content), hashlib.sha256(content).hexdigest())


def facts_of(blob: bytes, members: list[Member], chunk_size: int = CHUNK) -> ArtifactFacts:
    return ArtifactFacts(
        format="tar.gz",
        length=len(blob),
        sha256=hashlib.sha256(blob).hexdigest(),
        chunk_size=chunk_size,
        index=index_of(blob, chunk_size),
        unpacked_size=sum(member.size for member in members),
        member_count=len(members),
        tree_sha256=tree_sha256(members),
    )


def generous(blob: bytes) -> ArtifactFacts:
    """Facts that fit the blob and would allow much more than it holds."""
    return replace(facts_of(blob, []), unpacked_size=1 << 20, member_count=100)


PLAIN = folder(b"bin") + file(b"bin/app", APP, 0o755) + link(b"run", b"bin/app") + END
PLAIN_MEMBERS = [
    Member("d", "bin", 0o755),
    file_member("bin/app", APP, 0o755),
    Member("l", "run", target="bin/app"),
]


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "around" / "staging"
    path.mkdir(parents=True)
    return path


def refusal(blob: bytes, facts: ArtifactFacts, destination: Path) -> UpgradeError:
    """The error of an extraction that fails, as it must, without leaving anything in or around."""
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(UpgradeError) as caught:
        extract(io.BytesIO(blob), facts, destination)
    assert list(destination.iterdir()) == []
    assert list(destination.parent.iterdir()) == [destination]
    assert os.listdir("/proc/self/fd") == descriptors
    return caught.value


# What is accepted


def test_the_tree_of_the_contract_arrives_with_its_digest(destination: Path) -> None:
    blob = zipped(PLAIN)
    facts = facts_of(blob, PLAIN_MEMBERS)
    assert facts.tree_sha256 == "8fe331395b117de9d6782fc7a70cf9368bbc4ab7bf82e820affe1af3df772db3"
    assert extract(io.BytesIO(blob), facts, destination) == PLAIN_MEMBERS
    assert (destination / "run").readlink() == Path("bin/app")
    assert (destination / "run").read_bytes() == APP
    assert hash_tree(destination) == PLAIN_MEMBERS


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


# Names, links and kinds of members


def extended(path: bytes = b"", target: bytes = b"") -> bytes:
    records = (record(b"path", path) if path else b"") + (record(b"linkpath", target) if target else b"")
    return pax(records)


NFD = unicodedata.normalize("NFD", "größe").encode()
NFC = unicodedata.normalize("NFC", "größe").encode()
HOSTILE_MEMBERS: dict[str, tuple[bytes, str]] = {
    "climbs": (file(b"../x"), "the part '..'"),
    "climbs inside": (folder(b"a") + file(b"a/../../x"), "the part '..'"),
    "is absolute": (file(b"/x"), "absolute path"),
    "is absolute by pax": (extended(b"/tmp/x") + file(b"x"), "absolute path"),
    "climbs by a gnu long name": (pax(b"../x\0", b"L") + file(b"x"), "the part '..'"),
    "has no name": (file(b""), "empty path"),
    "is the root": (folder(b"."), "the part '.'"),
    "begins with a dot part": (file(b"./x"), "the part '.'"),
    "has two slashes": (folder(b"a") + file(b"a//x"), "the part ''"),
    "has a name of 256 bytes": (extended(b"x" * 256) + file(b"x"), "longer than 255"),
    "has a path of 1025 bytes": (
        extended(b"/".join([b"y" * 204] * 5) + b"z") + file(b"x"),
        "longer than 1024",
    ),
    "is 33 folders deep": (extended(b"/".join([b"d"] * 33)) + file(b"x"), "deeper than 32"),
    "has an escape character": (file(b"\x1b[2J"), "U+001B"),
    "has a newline": (file(b"a\nf\t0644"), "U+000A"),
    "turns the writing direction": (file("a\u202egnp".encode()), "U+202E"),
    "has a NUL in its pax name": (extended(b"a\0b") + file(b"x"), "U+0000"),
    "is not UTF-8": (file(b"\xff\xfe"), "not UTF-8"),
    "is not in NFC": (file(NFD), "NFC"),
    "is in no folder": (file(b"a/x"), "is not a folder of the tree"),
    "comes before its folder": (file(b"a/x") + folder(b"a"), "is not a folder of the tree"),
    "is below a file": (file(b"a") + file(b"a/x"), "is not a folder of the tree"),
    "is below a link": (folder(b"d") + link(b"a", b"d") + file(b"a/x"), "is not a folder of the tree"),
    "is twice a file": (file(b"a", b"1") + file(b"a", b"2"), "appears twice"),
    "is twice a folder": (folder(b"a") + folder(b"a"), "appears twice"),
    "is a file and a link": (file(b"a") + link(b"a", b"b"), "appears twice"),
    "is a link and a file": (link(b"a", b"b") + file(b"a"), "appears twice"),
    "differs by case": (file(b"README") + file(b"readme"), "collides with 'README'"),
    "differs by case in a folder": (folder(b"A") + folder(b"a"), "collides with 'A'"),
    "differs by case folding": (file("straße".encode()) + file(b"STRASSE"), "collides with 'straße'"),
    "differs by Unicode form": (file(NFC) + file(NFD), "NFC"),
    "links nowhere": (link(b"a", b""), "without a target"),
    "links to the root of all": (link(b"a", b"/etc/passwd"), "absolute path"),
    "links out": (link(b"a", b"../x"), "leaves the tree"),
    "links out by pax": (extended(target=b"../" * 20 + b"x") + link(b"a", b"x"), "leaves the tree"),
    "links out by a gnu long link": (pax(b"../x\0", b"K") + link(b"a", b"x"), "leaves the tree"),
    "links out through a link": (
        folder(b"d") + link(b"d/r", b"..") + link(b"a", b"d/r/.."),
        "goes down before",
    ),
    "links to a control character": (link(b"a", b"b\tc"), "U+0009"),
    "is a hard link": (file(b"a") + header(b"b", flag=b"1", target=b"a"), "a hard link"),
    "is a hard link outside": (header(b"b", flag=b"1", target=b"/etc/shadow"), "a hard link"),
    "is a FIFO": (header(b"a", flag=b"6"), "a FIFO"),
    "is a character device": (header(b"a", flag=b"3"), "a character device"),
    "is a block device": (header(b"a", flag=b"4"), "a block device"),
    "is contiguous": (header(b"a", flag=b"7"), "a contiguous file"),
    "is sparse": (header(b"a", flag=b"S"), "a sparse file"),
    "is sparse by pax": (pax(record(b"GNU.sparse.major", b"1")) + file(b"a"), "a sparse file"),
    "continues a volume": (header(b"a", flag=b"M"), "a continued volume"),
    "labels a volume": (header(b"a", flag=b"V"), "a volume label"),
    "dumps a folder": (header(b"a", flag=b"D"), "a GNU folder dump"),
    "is global": (pax(record(b"path", b"x"), b"g") + file(b"a"), "a global PAX header"),
    "is of an unknown type": (header(b"a", flag=b"Z"), "the unknown type"),
}


@pytest.mark.parametrize("what", HOSTILE_MEMBERS)
def test_archive_is_refused_if_a_member(what: str, destination: Path) -> None:
    members, reason = HOSTILE_MEMBERS[what]
    blob = zipped(file(b"before", b"written first") + members + file(b"zzz") + END)
    error = refusal(blob, generous(blob), destination)
    assert (error.code, reason in error.message) == (Code.UPGRADE_ARCHIVE_REFUSED, True), error.message
    assert error.message.isprintable()


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


# The form of the archive

OVERLONG = record(b"comment", b"x" * (64 << 10))
BROKEN_ARCHIVES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "ends too early"),
    "no end": (file(b"a", b"x"), "ends too early"),
    "half an end": (file(b"a") + bytes(512), "ends too early"),
    "an end in the middle": (file(b"a") + bytes(512) + file(b"b") + END, "a single block of zeros"),
    "a header cut short": (file(b"a") + header(b"b")[:300], "ends too early"),
    "content cut short": (header(b"a", 2000) + bytes(1000), "ends too early"),
    "padding cut short": (header(b"a", 10) + b"0123456789", "ends too early"),
    "something after the end": (file(b"a") + END + bytes(600) + b"x", "bytes after the end of the archive"),
    "a second archive": (PLAIN + PLAIN, "bytes after the end of the archive"),
    "zeros without end": (file(b"a") + END + bytes(2 << 20), "more than 1048576 bytes after the end"),
    "no magic": (header(b"a", magic=bytes(8)) + END, "not a USTAR header"),
    "a wrong checksum": (header(b"a", checksum=1) + END, "a wrong checksum"),
    "letters in a size": (header(b"a", b"0000000zz00\0") + END, "not an octal number"),
    "a minus in a size": (header(b"a", b"-0000000001\0") + END, "not an octal number"),
    "letters in a mode": (header(b"a", mode=b"0rwx000\0") + END, "not an octal number"),
    "a negative size": (header(b"a", b"\xff" * 12) + END, "negative or too large size"),
    "a huge size": (header(b"a", b"\x80" + b"\xff" * 11) + END, "negative or too large size"),
    "a folder with content": (header(b"a/", 512, b"5") + bytes(512) + END, "folder or link with content"),
    "a link with content": (header(b"a", 512, b"2", target=b"b") + END, "folder or link with content"),
    "a pax size for a folder": (
        pax(record(b"size", b"9")) + folder(b"a") + END,
        "folder or link with content",
    ),
    "a negative pax size": (pax(record(b"size", b"-1")) + file(b"a") + END, "no number or too large"),
    "a huge pax size": (pax(record(b"size", b"9" * 16)) + file(b"a") + END, "no number or too large"),
    "an overlong pax header": (pax(OVERLONG) + file(b"a") + END, "an extended header of"),
    "an overlong gnu name": (pax(b"x" * 70_000, b"L") + file(b"a") + END, "an extended header of"),
    "a pax header of 20 MB": (header(b"x", 20_000_000, b"x") + END, "an extended header of 20000000"),
    "a negative pax header": (header(b"x", b"\xff" * 12, b"x") + END, "negative or too large size"),
    "two pax headers": (pax(b"") + pax(b"") + file(b"a") + END, "two extended headers"),
    "two long names": (pax(b"a\0", b"L") + pax(b"b\0", b"L") + file(b"a") + END, "two extended headers"),
    "pax and long name": (extended(b"a") + pax(b"b\0", b"L") + file(b"a") + END, "two extended headers"),
    "a pax header alone": (extended(b"a") + END, "ends after an extended header"),
    "a record twice": (pax(record(b"path", b"a") * 2) + file(b"a") + END, "stands twice"),
    "a record without length": (pax(b"path=a\n") + file(b"a") + END, "without a length"),
    "a record too long": (pax(b"99 path=a\n") + file(b"a") + END, "whose length is wrong"),
    "a record too short": (pax(b"3 path=a\n") + file(b"a") + END, "whose length is wrong"),
    "a record of no length": (pax(b"0 path=a\n") + file(b"a") + END, "whose length is wrong"),
    "a record without value": (pax(b"7 path\n") + file(b"a") + END, "whose length is wrong"),
    "an empty pax path": (pax(record(b"path", b"")) + file(b"a") + END, "an empty PAX path"),
    "another character set": (pax(record(b"hdrcharset", b"BINARY")) + file(b"a") + END, "not UTF-8"),
}


@pytest.mark.parametrize("what", BROKEN_ARCHIVES)
def test_archive_is_refused_if_it_has(what: str, destination: Path) -> None:
    archive, reason = BROKEN_ARCHIVES[what]
    blob = zipped(archive)
    error = refusal(blob, generous(blob), destination)
    assert (error.code, reason in error.message) == (Code.UPGRADE_ARCHIVE_REFUSED, True), error.message


GZIP = zipped(PLAIN)
BROKEN_GZIP: dict[str, tuple[bytes, str]] = {
    "is empty": (b"", "ends too early"),
    "is cut in the trailer": (GZIP[:-1], "ends too early"),
    "is cut before the trailer": (GZIP[:-8], "ends too early"),
    "is cut in the middle": (GZIP[: len(GZIP) // 2], "ends too early"),
    "is cut in the header": (GZIP[:5], "ends too early"),
    "has a wrong CRC": (GZIP[:-8] + bytes(4) + GZIP[-4:], "damaged compressed data"),
    "has a wrong length": (GZIP[:-4] + bytes(4), "damaged compressed data"),
    "is zlib": (zlib.compress(PLAIN), "damaged compressed data"),
    "is not compressed": (PLAIN, "damaged compressed data"),
    "is followed by bytes": (GZIP + b"x", "after the end of the compressed data"),
    "is followed by zeros": (GZIP + bytes(100), "after the end of the compressed data"),
    "is followed by chunks": (GZIP + bytes(5 * CHUNK), "after the end of the compressed data"),
    "is followed by another": (GZIP + GZIP, "after the end of the compressed data"),
    "goes on in another": (zipped(PLAIN[:1536]) + zipped(PLAIN[1536:]), "ends too early"),
}


@pytest.mark.parametrize("what", BROKEN_GZIP)
@pytest.mark.parametrize("chunk_size", [CHUNK, 16])
def test_archive_is_refused_if_its_gzip(what: str, chunk_size: int, destination: Path) -> None:
    blob, reason = BROKEN_GZIP[what]
    facts = facts_of(blob, PLAIN_MEMBERS, chunk_size)
    if len(facts.index) > 32 * 2048:
        facts = facts_of(blob, PLAIN_MEMBERS)
    error = refusal(blob, facts, destination)
    assert (error.code, reason in error.message) == (Code.UPGRADE_ARCHIVE_REFUSED, True), error.message


EDITS = st.lists(
    st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), min_size=1, max_size=6, unique=True
)


@given(edits=EDITS, with_checksums=st.booleans())
def test_whatever_stands_in_an_archive_it_is_read_or_refused(
    edits: list[tuple[int, int]], with_checksums: bool
) -> None:
    archive = bytearray(PLAIN)
    for at, value in edits:
        archive[at] = value
    if with_checksums:
        for at in (0, 512, 1536):
            archive[at + 148 : at + 156] = b" " * 8
            archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + 512])
    blob = zipped(bytes(archive))
    with tempfile.TemporaryDirectory() as name:
        code, left = "", []
        try:
            extract(io.BytesIO(blob), facts_of(blob, PLAIN_MEMBERS), Path(name))
            left = PLAIN_MEMBERS
        except UpgradeError as error:
            code = error.code
        assert code in ("", Code.UPGRADE_ARCHIVE_REFUSED, Code.UPGRADE_TREE_MISMATCH)
        assert hash_tree(Path(name)) == left


# The caps of the manifest


def test_one_member_more_than_the_manifest_says_is_refused(destination: Path) -> None:
    blob = zipped(PLAIN)
    error = refusal(blob, replace(facts_of(blob, PLAIN_MEMBERS), member_count=2), destination)
    assert (error.code, "more than the 2 members" in error.message) == (Code.UPGRADE_ARCHIVE_REFUSED, True)


def test_one_byte_more_than_the_manifest_says_is_refused(destination: Path) -> None:
    blob = zipped(PLAIN)
    facts = replace(facts_of(blob, PLAIN_MEMBERS), unpacked_size=len(APP) - 1)
    error = refusal(blob, facts, destination)
    assert (error.code, "unpacks to more" in error.message) == (Code.UPGRADE_ARCHIVE_REFUSED, True)


@pytest.mark.parametrize("more", [{"member_count": 4}, {"unpacked_size": len(APP) + 1}])
def test_less_than_the_manifest_says_is_another_tree(destination: Path, more: dict[str, int]) -> None:
    blob = zipped(PLAIN)
    changed: Any = more
    error = refusal(blob, replace(facts_of(blob, PLAIN_MEMBERS), **changed), destination)
    assert error.code == Code.UPGRADE_TREE_MISMATCH


def test_a_flood_of_members_is_refused_after_a_few_chunks(destination: Path) -> None:
    blob = zipped(b"".join(file(b"%06d" % number) for number in range(50_000)) + END)
    told: list[int] = []
    facts = replace(facts_of(blob, [], 512), member_count=1000)
    with pytest.raises(UpgradeError) as caught:
        extract(io.BytesIO(blob), facts, destination, progress=told.append)
    assert caught.value.code == Code.UPGRADE_ARCHIVE_REFUSED
    assert told[-1] < len(blob) / 10
    assert list(destination.iterdir()) == []


UNBEARABLE = [
    ({"member_count": tree.MAX_MEMBERS + 1}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"chunk_size": tree.MAX_CHUNK_SIZE + 1}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"chunk_size": 0}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"length": 2048 * CHUNK + 1}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"index": b""}, Code.UPGRADE_LENGTH_MISMATCH),
    ({"index": bytes(64)}, Code.UPGRADE_LENGTH_MISMATCH),
    ({"format": "tar.zst"}, Code.UPGRADE_INCOMPATIBLE),
]


@pytest.mark.parametrize(("changes", "code"), UNBEARABLE)
def test_a_manifest_beyond_the_bounds_is_refused_before_a_byte_is_read(
    destination: Path, changes: dict[str, Any], code: Code
) -> None:
    blob = io.BytesIO(GZIP)
    with pytest.raises(UpgradeError) as caught:
        extract(blob, replace(facts_of(GZIP, PLAIN_MEMBERS), **changes), destination)
    assert (caught.value.code, blob.tell()) == (code, 0)


BOMBS = """
import io, os, sys, zlib
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from test_extract import END, facts_of, file, header, pax
from fleetfoot_agent.worker.extract import extract
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError

def peak():
    # Of this program alone: what getrusage tells would include the parent before exec.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

MB = 1 << 20
deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
start = {
    "one file": header(b"bomb", 300 * MB),
    "more than allowed": header(b"bomb", 300 * MB),
    "padding": file(b"a") + END,
    "pax": header(b"x", 300 * MB, b"x"),
}[sys.argv[2]]
blob = deflate.compress(start) + b"".join(deflate.compress(bytes(MB)) for _ in range(300))
blob += deflate.compress(END) + deflate.flush()
facts = replace(facts_of(blob, [], 1 << 20), member_count=1, unpacked_size=300 * MB)
if sys.argv[2] == "more than allowed":
    facts = replace(facts, unpacked_size=300 * MB - 1)
before = peak()
try:
    extract(io.BytesIO(blob), facts, Path(sys.argv[3]))
except UpgradeError as error:
    print(len(blob), peak() - before, error.code)
"""


@pytest.mark.parametrize(
    ("bomb", "code"),
    [
        # Its tree digest is wrong, which shows only after all of it has been unpacked.
        ("one file", Code.UPGRADE_TREE_MISMATCH),
        ("more than allowed", Code.UPGRADE_ARCHIVE_REFUSED),
        ("padding", Code.UPGRADE_ARCHIVE_REFUSED),
        ("pax", Code.UPGRADE_ARCHIVE_REFUSED),
    ],
)
def test_a_gzip_bomb_is_bounded_in_memory(destination: Path, bomb: str, code: Code) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, here, bomb, destination], capture_output=True, text=True, check=True
    )
    length, growth, found = done.stdout.split()
    assert found == code
    assert int(length) < 1 << 20
    assert int(growth) < 16  # MiB, of the 64 allowed; the bomb holds 300
    assert list(destination.iterdir()) == []


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
    real = zlib.decompressobj

    class Spy:
        def __init__(self, wbits: int) -> None:
            self._real = real(wbits)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def decompress(self, data: bytes, limit: int) -> bytes:
            assert not self._real.unconsumed_tail
            fed.extend(data)
            return self._real.decompress(data, limit)

    monkeypatch.setattr(zlib, "decompressobj", Spy)
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
from test_extract import END, facts_of, file, file_member, zipped
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

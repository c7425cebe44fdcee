"""The worker's extractor against archives that nobody vouches for (contract section 3)."""

import io
import subprocess
import sys
import tempfile
import unicodedata
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.tarbytes import (
    APP,
    CHUNK,
    END,
    GZIP,
    PLAIN,
    PLAIN_MEMBERS,
    extended,
    facts_of,
    file,
    folder,
    generous,
    header,
    link,
    padded,
    pax,
    record,
    refusal,
    zipped,
)

from fleetfoot_agent.worker import extract as extract_module
from fleetfoot_agent.worker import gunzip, treewriter
from fleetfoot_agent.worker.extract import extract, hash_tree
from fleetfoot_protocol import tree
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "around" / "staging"
    path.mkdir(parents=True)
    return path


# Names, links and kinds of members


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
    "a negative size like a small one": (
        header(b"a", b"\xff" + bytes(10) + b"\1") + padded(b"x") + END,
        "negative or too large size",
    ),
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
    "a record without newline": (pax(b"9 path=ab") + file(b"a") + END, "whose length is wrong"),
    "a record of no length": (pax(b"0 path=a\n") + file(b"a") + END, "whose length is wrong"),
    "a record without value": (pax(b"7 path\n") + file(b"a") + END, "whose length is wrong"),
    "an empty pax path": (pax(record(b"path", b"")) + file(b"a") + END, "an empty PAX path"),
    "a pax header of many records": (
        pax(b"".join(record(b"a%d" % number, b"") for number in range(65))) + file(b"a") + END,
        "more than 64 records",
    ),
    "large pax headers all along": (
        b"".join(pax(record(b"comment", b"x" * 65_000)) + file(b"%d" % n) for n in range(20)) + END,
        "extended headers that are larger than members need them",
    ),
    "another character set": (pax(record(b"hdrcharset", b"BINARY")) + file(b"a") + END, "not UTF-8"),
}


@pytest.mark.parametrize("what", BROKEN_ARCHIVES)
def test_archive_is_refused_if_it_has(what: str, destination: Path) -> None:
    archive, reason = BROKEN_ARCHIVES[what]
    blob = zipped(archive)
    error = refusal(blob, generous(blob), destination)
    assert (error.code, reason in error.message) == (Code.UPGRADE_ARCHIVE_REFUSED, True), error.message


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
    "goes on in another": (
        zipped(PLAIN[:1536]) + zipped(PLAIN[1536:]),
        "after the end of the compressed data",
    ),
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


def test_bytes_after_a_gzip_that_ends_where_a_piece_for_zlib_ends_are_refused(destination: Path) -> None:
    name = b"n" * (gunzip.FEED - len(GZIP) - 1) + b"\0"  # a gzip header may hold a name (RFC 1952)
    filled = GZIP[:3] + b"\x08" + GZIP[4:10] + name + GZIP[10:]
    assert len(filled) == gunzip.FEED
    error = refusal(filled + b"x", facts_of(filled + b"x", PLAIN_MEMBERS, 1 << 20), destination)
    assert "after the end of the compressed data" in error.message


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


def test_an_archive_of_very_many_members_is_counted_before_a_file_is_made(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("written")

    for what in ("file", "folder", "link"):
        monkeypatch.setattr(treewriter.TreeWriter, what, never)
    many = extract_module.COUNTED_FIRST + 1
    names = [b"%06d" % number for number in range(many + 1)]
    for archive, code in (
        (b"".join(map(file, names)), Code.UPGRADE_ARCHIVE_REFUSED),
        (b"".join(map(folder, names)), Code.UPGRADE_ARCHIVE_REFUSED),
        (b"".join(map(file, names[:-2])), Code.UPGRADE_TREE_MISMATCH),
        (b"".join(map(file, names[:-2])) + file(b"../x"), Code.UPGRADE_ARCHIVE_REFUSED),
    ):
        blob = zipped(archive + END)
        facts = replace(facts_of(blob, [], 1 << 20), member_count=many)
        assert refusal(blob, facts, destination).code == code


def test_a_counted_archive_arrives_whole(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "COUNTED_FIRST", 2)
    assert extract(io.BytesIO(GZIP), facts_of(GZIP, PLAIN_MEMBERS), destination) == PLAIN_MEMBERS
    assert hash_tree(destination) == PLAIN_MEMBERS


def test_a_blob_that_changes_after_it_was_counted_is_refused(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "COUNTED_FIRST", 2)

    class Swapped(io.BytesIO):
        def seek(self, *_: int) -> int:
            self.__init__(bytes(len(GZIP)))  # type: ignore[misc]
            return 0

    with pytest.raises(UpgradeError) as caught:
        extract(Swapped(GZIP), facts_of(GZIP, PLAIN_MEMBERS), destination)
    assert caught.value.code == Code.UPGRADE_CHECKSUM_MISMATCH
    assert list(destination.iterdir()) == []


UNBEARABLE = [
    ({"member_count": tree.MAX_MEMBERS + 1}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"chunk_size": tree.MAX_CHUNK_SIZE + 1}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"chunk_size": 0}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"length": 2048 * CHUNK + 1}, Code.UPGRADE_ARCHIVE_REFUSED),
    ({"index": b""}, Code.UPGRADE_LENGTH_MISMATCH),
    ({"index": bytes(64)}, Code.UPGRADE_LENGTH_MISMATCH),
    ({"format": "tar.xz"}, Code.UPGRADE_INCOMPATIBLE),
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
from tarbytes import END, facts_of, file, header, pax
from fleetfoot_agent.worker import extract as extract_module
from fleetfoot_agent.worker import gunzip, treewriter
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

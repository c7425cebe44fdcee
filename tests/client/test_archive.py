"""The archive builder: same tree, same bytes; and what it builds, a device installs."""

import gzip
import hashlib
import io
import os
import shutil
import socket
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot_agent.worker.extract import ArtifactFacts, extract, hash_tree
from fleetfoot_client import archive as archive_module
from fleetfoot_client.archive import ArchiveFacts, build_archive
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.errors import UpgradeError
from fleetfoot_protocol.tree import Member, tree_sha256

NOISE = hashlib.shake_256(b"noise").digest(50_000)
APP = b"#!/bin/sh\n:\n"


@pytest.fixture
def contract_tree(tmp_path: Path) -> Path:
    """The tree of contract section 3."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/app").write_bytes(APP)
    (root / "bin/app").chmod(0o755)
    (root / "run").symlink_to("bin/app")
    return root


def built(folder: Path, chunk_size: int = 1 << 20) -> tuple[bytes, ArchiveFacts]:
    out = io.BytesIO()
    facts = build_archive(folder, out, chunk_size=chunk_size)
    return out.getvalue(), facts


def for_device(facts: ArchiveFacts) -> ArtifactFacts:
    return ArtifactFacts(
        format=facts.format,
        length=facts.length,
        sha256=facts.sha256,
        chunk_size=facts.chunk_size,
        index=facts.index,
        unpacked_size=facts.unpacked_size,
        member_count=facts.member_count,
        tree_sha256=facts.tree_sha256,
    )


def test_facts_are_those_of_the_bytes_and_of_the_contract(contract_tree: Path) -> None:
    blob, facts = built(contract_tree, chunk_size=100)
    index = b"".join(hashlib.sha256(blob[at : at + 100]).digest() for at in range(0, len(blob), 100))
    assert facts == ArchiveFacts(
        format="tar.gz",
        length=len(blob),
        sha256=hashlib.sha256(blob).hexdigest(),
        chunk_size=100,
        index=index,
        index_sha256=hashlib.sha256(index).hexdigest(),
        unpacked_size=len(APP),
        member_count=3,
        tree_sha256="8fe331395b117de9d6782fc7a70cf9368bbc4ab7bf82e820affe1af3df772db3",
    )


def test_the_tar_bytes_are_fixed_for_ever(contract_tree: Path) -> None:
    blob, _ = built(contract_tree)
    # Before compression, whose bytes are zlib's own. No change of ours may alter this digest.
    assert hashlib.sha256(gzip.decompress(blob)).hexdigest() == (
        "dcf60094b5413dda732b94345026c2628ae3e8e639a684310800ce8581c7a105"
    )
    assert blob[:10] == bytes.fromhex("1f8b08000000000002ff")


def test_a_copy_made_another_day_by_another_person_gives_the_same_bytes(tmp_path: Path) -> None:
    names = ["a", "a-b", "B", "bin/app", "bin/lib/x", "größe/ä", "z" * 150 + "/" + "y" * 150]
    modes = {"bin/app": 0o755, "B": 0o700}
    copies = []
    orders = [names, names[::-1], sorted(names)]
    for number, (order, mask) in enumerate(zip(orders, (0o022, 0o077, 0o000), strict=True)):
        root = tmp_path / str(number)
        before = os.umask(mask)
        try:
            for name in order:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
                path.chmod(modes.get(name, 0o644) & ~mask)
                os.utime(path, (number * 1e6, number * 1e6))
        finally:
            os.umask(before)
        (root / "link").symlink_to("bin/app")
        copies.append(built(root))
    assert copies[0] == copies[1] == copies[2]


def test_folders_come_before_their_content_and_links_last(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name in ("b/x", "b-c", "c/y", "ä", "z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "a").symlink_to("z")
    (root / "b/link").symlink_to("../z")
    blob, _ = built(root)
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["b", "b-c", "b/x", "c", "c/y", "z", "ä", "a", "b/link"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert {m.mode for m in members if not m.issym()} == {0o644, 0o755}


# A path, and how many PAX headers it takes with its folders: USTAR has 100 bytes for the name and 155 for
# the folders before it, where a folder's own name ends in a slash.
LONG_PATHS = [
    ("p" * 100, 0),
    ("p" * 101, 1),
    ("f" * 99 + "/" + "p" * 100, 0),
    ("f" * 155 + "/" + "p" * 100, 1),
    ("f" * 156 + "/" + "p" * 100, 2),
    ("f" * 154 + "/" + "g" * 100 + "/" + "p", 3),
    ("d" * 50 + "/" + "e" * 50 + "/" + "f" * 50, 0),
    ("/".join(["d" * 50] * 6), 2),
    ("ü" * 51, 1),
]


@pytest.mark.parametrize(("path", "extended"), LONG_PATHS)
def test_a_long_path_is_what_another_reader_sees(tmp_path: Path, path: str, extended: int) -> None:
    root, target = tmp_path / "tree", tmp_path / "target"
    (root / path).parent.mkdir(parents=True)
    (root / path).touch()
    target.mkdir()
    blob, facts = built(root)
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        assert archive.getnames()[-1] == path
    assert gzip.decompress(blob).count(b"././@PaxHeader") == extended
    extract(io.BytesIO(blob), for_device(facts), target)
    assert (target / path).exists()


@pytest.mark.parametrize(("length", "extended"), [(100, 0), (101, 1)])
def test_a_long_link_target_is_what_another_reader_sees(
    contract_tree: Path, tmp_path: Path, length: int, extended: int
) -> None:
    (contract_tree / "link").symlink_to("t" * length)
    blob, facts = built(contract_tree)
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        assert archive.getmember("link").linkname == "t" * length
    assert gzip.decompress(blob).count(b"././@PaxHeader") == extended
    target = tmp_path / "target"
    target.mkdir()
    extract(io.BytesIO(blob), for_device(facts), target)
    assert (target / "link").readlink() == Path("t" * length)


def hash_tree_of(root: Path) -> list[Member]:
    """The tree as `hash_tree` sees it, after its modes were brought to those of a release."""
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        elif not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o111 else 0o644)
    return hash_tree(root)


def test_chunks_double_until_the_index_fits(contract_tree: Path) -> None:
    (contract_tree / "noise").write_bytes(NOISE)
    blob, facts = built(contract_tree, chunk_size=3)
    assert facts.chunk_size == 48
    assert len(blob) / 24 > 2048 >= len(blob) / 48
    assert len(facts.index) == -(-len(blob) // 48) * 32


def test_an_archive_that_no_index_covers_is_refused(
    contract_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "MAX_CHUNK_SIZE", 16)
    (contract_tree / "noise").write_bytes(NOISE)
    with pytest.raises(UpgradeError) as caught:
        built(contract_tree, chunk_size=8)
    assert "too many" in caught.value.message


@pytest.mark.parametrize("chunk_size", [0, -1, (16 << 20) + 1])
def test_an_impossible_chunk_size_is_refused(contract_tree: Path, chunk_size: int) -> None:
    with pytest.raises(ValueError, match="chunk_size must be"):
        built(contract_tree, chunk_size=chunk_size)


# What cannot be in a release


def listening_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def made(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (lambda root: os.mkfifo(root / "bin/pipe"), "'bin/pipe': neither a file"),
    "a socket": (lambda root: listening_socket(root / "sock"), "'sock': neither a file"),
    "an absolute link": (lambda root: (root / "l").symlink_to("/etc/hosts"), "'l': link to the absolute"),
    "an escaping link": (
        lambda root: (root / "bin/l").symlink_to("../../x"),
        "'bin/l': link to '../../x' leaves",
    ),
    "a winding link": (
        lambda root: (root / "l").symlink_to("bin/../run"),
        "'l': link target 'bin/../run' goes",
    ),
    "a setuid file": (lambda root: made(root / "su", 0o4755), "'su': a setuid"),
    "a setgid file": (lambda root: made(root / "sg", 0o2755), "'sg': a setuid, setgid"),
    "a sticky file": (lambda root: made(root / "st", 0o1644), "'st': a setuid, setgid or sticky"),
    "names that differ by case": (lambda root: made(root / "BIN", 0o644), "collides with 'BIN'"),
    "a name with a newline": (
        lambda root: made(root / "a\nb", 0o644),
        "'a\\nb': path with the character U+000A",
    ),
    "a name that is no UTF-8": (lambda root: os.mkdir(os.fsencode(root) + b"/\xff"), "'\\udcff': path with"),
    "a name that is not NFC": (
        lambda root: made(root / unicodedata.normalize("NFD", "ä"), 0o644),
        "is not in Unicode form NFC",
    ),
    "a path too deep": (lambda root: (root / "/".join("d" * 33)).mkdir(parents=True), "deeper than 32"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_release_cannot_hold(what: str, contract_tree: Path, tmp_path: Path) -> None:
    make, reason = REFUSED[what]
    make(contract_tree)
    out = tmp_path / "archive.tar.gz"
    with pytest.raises(UpgradeError) as caught:
        build_archive(contract_tree, out)
    assert caught.value.code == Code.UPGRADE_ARCHIVE_REFUSED
    assert reason in caught.value.message
    assert "build again" in caught.value.remedy
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.parametrize("folders", [[], ["only", "only/folders"]])
def test_a_folder_without_a_file_is_refused(tmp_path: Path, folders: list[str]) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in folders:
        (root / name).mkdir()
    with pytest.raises(UpgradeError) as caught:
        built(root)
    assert "holds no file" in caught.value.message


@pytest.mark.parametrize("change", [b"longer than it was", b"short", b""])
def test_a_file_that_changes_while_it_is_packed_is_refused(
    contract_tree: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    real = archive_module._scan

    def scan(folder: Path) -> list[Member]:
        members = real(folder)
        (folder / "bin/app").write_bytes(change)
        return members

    monkeypatch.setattr(archive_module, "_scan", scan)
    with pytest.raises(UpgradeError) as caught:
        built(contract_tree)
    assert "'bin/app' changed while it was packed" in caught.value.message


# Where the archive goes


def test_a_path_gets_the_whole_archive_and_nothing_beside_it(contract_tree: Path, tmp_path: Path) -> None:
    blob, facts = built(contract_tree)
    out = tmp_path / "archive.tar.gz"
    out.write_bytes(b"an older one, longer than the new one will be" * 100)
    assert build_archive(contract_tree, out) == facts
    assert out.read_bytes() == blob
    assert sorted(os.listdir(tmp_path)) == ["archive.tar.gz", "tree"]


def test_a_failed_build_leaves_the_older_archive(contract_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "archive.tar.gz"
    out.write_bytes(b"older")
    os.mkfifo(contract_tree / "pipe")
    with pytest.raises(UpgradeError):
        build_archive(contract_tree, out)
    assert out.read_bytes() == b"older"
    assert sorted(os.listdir(tmp_path)) == ["archive.tar.gz", "tree"]


def test_an_archive_inside_the_folder_that_it_packs_is_refused(contract_tree: Path) -> None:
    with pytest.raises(ValueError, match="inside the folder"):
        build_archive(contract_tree, contract_tree / "bin" / "archive.tar.gz")


def test_an_open_file_gets_the_archive_from_its_position_on(contract_tree: Path) -> None:
    blob, facts = built(contract_tree)
    out = io.BytesIO(b"before")
    out.seek(0, io.SEEK_END)
    assert build_archive(contract_tree, out) == facts
    assert out.getvalue() == b"before" + blob


# Round trip

NAMES = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=8
).map(lambda name: unicodedata.normalize("NFC", name))


@dataclass(frozen=True)
class Plan:
    """One member to be: where (index of the parent folder so far), what, and with what in it."""

    parent: int
    name: str
    kind: str
    content: bytes
    mode: int


PLANS = st.lists(
    st.builds(
        Plan,
        parent=st.integers(0, 5),
        name=NAMES | st.integers(90, 250).map(lambda count: "n" * count),
        kind=st.sampled_from("ffddl"),
        content=st.binary(max_size=2000),
        mode=st.sampled_from([0o600, 0o644, 0o755, 0o700, 0o654]),
    ),
    max_size=14,
)


def plant(root: Path, plans: list[Plan]) -> None:
    """Make what can be made of the plans; names that collide are left out."""
    folders = [""]
    (root / "always").write_bytes(b"something")
    taken = {"always"}
    for plan in plans:
        path = folders[plan.parent % len(folders)] + plan.name
        key = unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())
        too_long = len(plan.name.encode()) > 255 or len(path.encode()) > 1000
        if plan.name in (".", "..") or key in taken or too_long:
            continue
        taken.add(key)
        if plan.kind == "d":
            (root / path).mkdir()
            folders.append(path + "/")
        elif plan.kind == "l":
            (root / path).symlink_to("../" * path.count("/") + (plan.name if plan.mode & 1 else "always"))
        else:
            (root / path).write_bytes(plan.content)
            (root / path).chmod(plan.mode)


@given(plans=PLANS, chunk_size=st.integers(1, 3000))
def test_every_tree_arrives_as_it_was_packed(plans: list[Plan], chunk_size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root, copy, target = (Path(name) / part for part in ("root", "copy", "target"))
        root.mkdir()
        target.mkdir()
        plant(root, plans)
        blob, facts = built(root, chunk_size)
        shutil.copytree(root, copy, symlinks=True)
        assert built(copy, chunk_size) == (blob, facts)
        members = extract(io.BytesIO(blob), for_device(facts), target)
        assert members == hash_tree(target) == hash_tree_of(root)
        assert tree_sha256(members) == facts.tree_sha256

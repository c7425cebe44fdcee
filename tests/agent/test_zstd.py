"""Artifacts of format tar.zst: what the builder makes is installed, all else refused, within bounds."""

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.stock import Stock
from tests.agent.tarbytes import (
    CHUNK,
    END,
    PLAIN,
    PLAIN_MEMBERS,
    facts_of,
    file,
    file_member,
    generous,
    header,
    refusal,
)
from tests.agent.workerrig import Rig, make_rig
from tests.support.fleet import Bundle, everybody

from fleetfoot_agent.worker import extract, unzstd
from fleetfoot_agent.worker.extract import ArtifactFacts
from fleetfoot_agent.worker.gunzip import PIECE
from fleetfoot_client.archive import build_archive
from fleetfoot_client.cli import main as fleetfoot
from fleetfoot_client.zstd import ZstdWriter
from fleetfoot_protocol import trust
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.states import Verdict
from fleetfoot_sim import kiosk

pytestmark = pytest.mark.needs("zstd")


def packed(archive: bytes, *, window_log: int = 23) -> bytes:
    """One zstd frame, fed in pieces as the builder does."""
    out = io.BytesIO()
    writer = ZstdWriter(out, level=3, window_log=window_log)
    for start in range(0, len(archive), 100_000):
        writer.write(archive[start : start + 100_000])
    writer.finish()
    return out.getvalue()


def zst(facts: ArtifactFacts) -> ArtifactFacts:
    return replace(facts, format="tar.zst")


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "around" / "staging"
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("chunk_size", [CHUNK, 16, 7])
def test_a_zstd_archive_is_unpacked_whatever_its_chunks(destination: Path, chunk_size: int) -> None:
    blob = packed(PLAIN)
    members = extract.extract(io.BytesIO(blob), zst(facts_of(blob, PLAIN_MEMBERS, chunk_size)), destination)
    assert members == PLAIN_MEMBERS
    assert extract.hash_tree(destination) == PLAIN_MEMBERS


def test_a_piece_is_unpacked_where_it_stays_and_does_not_change_when_the_next_ones_are_made() -> None:
    content = b"".join(b"%08d" % n for n in range(400_000))
    pieces = list(unzstd.ZstdStream(iter([packed(content)])).rest())
    assert len(pieces) > 4
    assert {memoryview(piece.obj).nbytes for piece in pieces} == {PIECE}  # the last too: nothing was copied
    assert b"".join(pieces) == content


def test_what_the_builder_makes_is_smaller_and_the_same_tree(tmp_path: Path, destination: Path) -> None:
    folder = kiosk.write_tree(tmp_path / "tree", "1.0.0")
    (folder / "share" / "words").write_text("".join(f"{n} sheep, " for n in range(200_000)))
    gz = build_archive(folder, tmp_path / "a.tar.gz")
    made = build_archive(folder, tmp_path / "a.tar.zst", form="tar.zst")
    assert (made.format, made.tree_sha256, made.member_count) == ("tar.zst", gz.tree_sha256, gz.member_count)
    assert made.length < gz.length
    facts = ArtifactFacts(
        made.format,
        made.length,
        made.sha256,
        made.chunk_size,
        made.index,
        made.unpacked_size,
        made.member_count,
        made.tree_sha256,
    )
    with (tmp_path / "a.tar.zst").open("rb") as blob:
        extract.extract(blob, facts, destination)
    assert extract.hash_tree(destination) == extract.hash_tree(folder)


ZST = packed(PLAIN) if unzstd.available() else b""
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "is empty": (lambda: b"", "ends too early"),
    "is cut in the header": (lambda: ZST[:3], "ends too early"),
    "is cut in the middle": (lambda: ZST[: len(ZST) // 2], "ends too early"),
    "is cut in the checksum": (lambda: ZST[:-1], "ends too early"),
    "has a wrong checksum": (lambda: ZST[:-4] + bytes(4), "damaged compressed data"),
    "has a damaged block": (lambda: ZST[:10] + bytes(20) + ZST[30:], ""),
    "is gzip": (lambda: b"\x1f\x8b" + ZST, "damaged compressed data"),
    "is followed by bytes": (lambda: ZST + b"x", "after the end of the compressed data"),
    "is followed by chunks": (lambda: ZST + bytes(5 * CHUNK), "after the end of the compressed data"),
    "is followed by another": (lambda: ZST + ZST, "after the end of the compressed data"),
    "is followed by a skippable frame": (lambda: ZST + SKIPPABLE, "after the end of the compressed data"),
    "begins with a skippable frame": (lambda: SKIPPABLE + ZST, "after the end of the compressed data"),
    "wants a window of 128 MiB": (
        lambda: packed(header(b"a", 200 << 20) + bytes(1 << 20) + END, window_log=27),
        "damaged compressed data",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("chunk_size", [CHUNK, 1000])
def test_an_archive_is_refused_if_its_zstd(what: str, chunk_size: int, destination: Path) -> None:
    make, reason = BROKEN[what]
    blob = make()
    error = refusal(blob, zst(replace(generous(blob), unpacked_size=1 << 30)), destination)
    assert (error.code, reason in error.message) == (Code.UPGRADE_ARCHIVE_REFUSED, True), error.message


BOMB = """
import io, sys
from dataclasses import replace
from pathlib import Path
from tests.agent.tarbytes import END, facts_of, header
from fleetfoot_agent.worker.extract import extract
from fleetfoot_client.zstd import ZstdWriter
from fleetfoot_protocol.errors import UpgradeError

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

out, MB = io.BytesIO(), 1 << 20
writer = ZstdWriter(out, level=1)
writer.write(header(b"bomb", 400 * MB))
for _ in range(400):
    writer.write(bytes(MB))
writer.write(END)
writer.finish()
del writer
blob = out.getvalue()
allowed = int(sys.argv[1]) * MB
facts = replace(facts_of(blob, [], MB), format="tar.zst", member_count=1, unpacked_size=allowed)
before = peak()
try:
    extract(io.BytesIO(blob), facts, Path(sys.argv[2]))
except UpgradeError as error:
    print(len(blob), peak() - before, error.code)
"""


@pytest.mark.parametrize(
    ("allowed", "code"), [(400, Code.UPGRADE_TREE_MISMATCH), (399, Code.UPGRADE_ARCHIVE_REFUSED)]
)
def test_a_zstd_bomb_is_bounded_in_memory(destination: Path, allowed: int, code: Code) -> None:
    room = Path(__file__).parents[2]
    command = [sys.executable, "-c", BOMB, str(allowed), str(destination)]
    done = subprocess.run(command, cwd=room, capture_output=True, text=True, check=True)
    length, growth, found = done.stdout.split()
    assert found == code
    assert int(length) < 1 << 20
    assert int(growth) < 32  # MiB; the bomb holds 400
    assert list(destination.iterdir()) == []


def zstd_release(stock: Stock, version: str) -> Bundle:
    """A release built and signed by the tools, as tar.zst."""
    house = stock.house
    tree = kiosk.write_tree(house.folder / "zst" / version, version)
    out = house.folder / "zst-dist"
    build = [
        "release",
        "build",
        str(tree),
        "--component",
        "kiosk",
        "--version",
        version,
        "--format",
        "tar.zst",
    ]
    assert fleetfoot([*build, "--entrypoint", kiosk.ENTRYPOINT, "--counter", "7", "--out", str(out)]) == 0
    path = out / f"kiosk-{version}"
    assert fleetfoot(["release", "sign", str(path), "--key", str(house.folder / "release.key")]) == 0
    assert fleetfoot(["release", "verify", str(path), "--root", str(house.root_path)]) == 0
    envelope = (path / "release.dsse.json").read_bytes()
    release, digest = trust.verify_release(envelope, house.root)
    return Bundle(path, release, digest, envelope)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr("fleetfoot_agent.worker.run.LOOK_SECONDS", 0.0)
    (tmp_path / "house").mkdir()
    rig = make_rig(tmp_path / "device", Stock(tmp_path / "house"))
    rig.install_first(rig.stock["1.0.0"])
    return rig


def test_a_device_with_libzstd_installs_a_zstd_release(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = zstd_release(rig.stock, "1.1.0")
    assert "upgrade_incompatible" in capsys.readouterr().err  # the builder is told whom it is not for
    rig.offer(bundle)
    rig.send(rig.stock.order(2, everybody("r-1", bundle.goal())))
    rig.run()
    assert rig.runs(bundle)


def test_a_device_without_libzstd_says_so_and_fetches_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = zstd_release(rig.stock, "1.1.0")
    monkeypatch.setattr(unzstd, "_LIBRARY", "libnothing.so.9")
    unzstd._library.cache_clear()
    try:
        asked = set(rig.asked_for)
        rig.offer(bundle)
        rig.send(rig.stock.order(2, everybody("r-1", bundle.goal())))
        rig.run()
        assert rig.answer() == (Verdict.REJECTED, Code.UPGRADE_INCOMPATIBLE)
        answered = rig.component().answered
        assert answered is not None
        assert answered.reason == "this device cannot unpack tar.zst, only tar.gz"
        assert rig.asked_for == asked
        assert rig.runs(rig.stock["1.0.0"])
        blob = ZST
        with pytest.raises(Exception, match="cannot unpack"):
            extract.extract(io.BytesIO(blob), zst(generous(blob)), rig.layout.staging)
    finally:
        unzstd._library.cache_clear()


def test_files_of_many_sizes_survive_zstd(destination: Path) -> None:
    contents = [bytes([n % 251]) * (n * 7919) for n in range(40)]
    archive = b"".join(file(b"f%02d" % n, content) for n, content in enumerate(contents)) + END
    blob = packed(archive)
    wanted = [file_member(f"f{n:02}", content) for n, content in enumerate(contents)]
    assert extract.extract(io.BytesIO(blob), zst(facts_of(blob, wanted)), destination) == wanted

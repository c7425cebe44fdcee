"""Hostile artifacts, correctly signed, against a running agent (catalogue rows 40 to 48).

What each shape of archive is refused for stands in tests/agent/test_hostile_archives.py; here the whole
device meets them: nothing of it moves, it says why once, and obeys the next honest order.
"""

import io
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.stock import Stock
from tests.agent.tarbytes import (
    END,
    facts_of,
    file,
    file_member,
    folder,
    header,
    link,
    pax,
    record,
    zipped,
)
from tests.agent.test_hostile_archives import HOSTILE_MEMBERS
from tests.attack.rows import row
from tests.attack.victim import Victim, running, signed_hostile
from tests.support.fleet import Bundle

from fleetfoot_agent.worker.extract import hash_tree
from fleetfoot_protocol import tree
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.tree import Member, tree_sha256
from fleetfoot_sim import kiosk

ROOM = Path(__file__).parents[2]
REFUSED = Code.UPGRADE_ARCHIVE_REFUSED
#: What the manifest of the million files admits to: the most that one may.
ADMITTED = 100_000
#: Distinct names that are repeated to a million.
BATCH = 12_500


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with running(tmp_path_factory.mktemp("victim")) as victim:
        yield victim


def refuse_all(victim: Victim, members: dict[str, bytes]) -> None:
    for what, bytes_of in members.items():
        blob = zipped(file(b"before", b"written first") + bytes_of + file(b"zzz") + END)
        try:
            victim.refuse(victim.hostile(blob), REFUSED)
        except AssertionError as error:
            raise AssertionError(f"a member {what}: {error}") from error
    victim.obey()


def members(*names: str) -> dict[str, bytes]:
    return {name: HOSTILE_MEMBERS[name][0] for name in names}


def tree_of(victim: Victim) -> Path:
    """The tree that runs."""
    current = victim.layout.read_current()
    assert current is not None
    return victim.layout.folder / current


@row(
    40,
    "archives whose names climb out, are absolute, empty or longer than 255 bytes, signed by the builder",
    "refused as upgrade_archive_refused; current, floor and process unchanged; the next order obeyed",
    holds=[("release key", "harm")],
)
def test_row_40_names_that_lead_out_are_refused(victim: Victim) -> None:
    names = ("climbs", "climbs inside", "is absolute", "is absolute by pax", "climbs by a gnu long name")
    refuse_all(victim, members(*names, "has no name", "has a name of 256 bytes"))


@row(
    41,
    "hard links, FIFOs, devices, sparse files; links that are absolute, escape, or are written through",
    "refused as upgrade_archive_refused; nothing appears outside staging; the next order obeyed",
)
def test_row_41_members_that_are_no_files_are_refused(victim: Victim, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    chosen = members(
        "is a hard link",
        "is a hard link outside",
        "is a FIFO",
        "is a character device",
        "is a block device",
        "is sparse",
        "is sparse by pax",
        "links to the root of all",
        "links out",
        "links out through a link",
        "is below a link",
    )
    through = str(outside).encode()
    chosen["is written through a link"] = link(b"out", through) + file(b"out/stolen", b"x")
    refuse_all(victim, chosen)
    assert list(outside.iterdir()) == []


@row(
    43,
    "an archive with setuid, world-writable and root-owned members",
    "installed with the modes of the manifest, 0644 and 0755, as the agent's own user",
)
def test_row_43_modes_and_owners_of_the_archive_do_not_count(victim: Victim) -> None:
    program = kiosk.write_tree(victim.folder / "row-43", "1.0.43") / kiosk.ENTRYPOINT
    content = program.read_bytes()
    blob = zipped(folder(b"bin") + file(b"bin/kiosk", content, 0o6777) + file(b"data", b"d", 0o666) + END)
    wanted = [
        Member("d", "bin", 0o755),
        file_member("bin/kiosk", content, 0o755),
        file_member("data", b"d", 0o644),
    ]
    bundle = victim.hostile(blob, facts_of(blob, wanted))
    victim.install(bundle)
    installed = tree_of(victim)
    assert hash_tree(installed) == wanted
    for path in (installed, *installed.rglob("*")):
        facts = os.lstat(path)
        assert (facts.st_uid, facts.st_gid) == (os.geteuid(), os.getegid())
        assert facts.st_mode & 0o7022 == 0


@row(
    45,
    "archives with the same name twice: exactly, but for case, but for Unicode normalisation",
    "refused as upgrade_archive_refused; nothing changes; the next order obeyed",
)
def test_row_45_names_that_are_one_on_some_file_systems_are_refused(victim: Victim) -> None:
    names = ("is twice a file", "is a file and a link", "differs by case", "differs by case folding")
    refuse_all(victim, members(*names, "differs by Unicode form"))


def bomb(start: bytes, megabytes: int) -> bytes:
    """A gzip of `start` and so many MiB of zeros, made without holding them."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    blob = deflate.compress(start)
    for _ in range(megabytes):
        blob += deflate.compress(bytes(1 << 20))
    return blob + deflate.compress(END) + deflate.flush()


@row(
    46,
    "a gzip bomb of 200 MiB behind a manifest that allows 100 MiB, and one inside an extended header",
    "unpacking stops at the first byte too many; refused as upgrade_archive_refused; next order obeyed",
)
def test_row_46_a_bomb_is_refused_by_a_running_agent(victim: Victim) -> None:
    for start in (header(b"bomb", 200 << 20), header(b"x", 200 << 20, b"x")):
        blob = bomb(start, 200)
        facts = replace(facts_of(blob, [], 1 << 20), unpacked_size=100 << 20, member_count=1)
        assert victim.refuse(victim.hostile(blob, facts), REFUSED) < 5
    victim.obey()


def many_files(distinct: int, repeats: int) -> bytes:
    """A gzip of `distinct` empty files, so many times over."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, 31)
    names = b"".join(header(b"%07d" % number) for number in range(distinct))
    blob = b"".join(deflate.compress(names) for _ in range(repeats))
    return blob + deflate.compress(END) + deflate.flush()


@row(
    47,
    "an archive of a million empty files; one with a PAX header of 20 MB; one with 500 of 64 KiB",
    "refused as upgrade_archive_refused in less than 5 seconds of processor time; the next order obeyed",
)
def test_row_47_a_flood_of_files_or_of_header_is_refused_soon(victim: Victim) -> None:
    flood = many_files(BATCH, 1_000_000 // (BATCH))
    allowed = replace(facts_of(flood, [], 1 << 20), unpacked_size=1, member_count=ADMITTED)
    assert victim.refuse(victim.hostile(flood, allowed), REFUSED) < 5
    long = zipped(pax(record(b"comment", os.urandom(1 << 20) * 20)) + file(b"a") + END)
    facts = replace(facts_of(long, [], 1 << 20), unpacked_size=1 << 30, member_count=10)
    assert victim.refuse(victim.hostile(long, facts), REFUSED) < 5
    each = pax(record(b"comment", b"x" * 65_000))
    many = zipped(b"".join(each + file(b"%d" % number) for number in range(500)) + END)
    facts = replace(facts_of(many, [], 1 << 20), unpacked_size=1, member_count=ADMITTED)
    assert victim.refuse(victim.hostile(many, facts), REFUSED) < 5
    victim.obey()


@row(
    48,
    "a member with a negative size; streams that are truncated or damaged anywhere",
    "refused as upgrade_archive_refused in less than 5 seconds of processor time; the next order obeyed",
)
def test_row_48_negative_sizes_and_truncated_streams_are_refused_soon(victim: Victim) -> None:
    whole = zipped(file(b"a", os.urandom(200_000)) + END)
    middle = len(whole) // 2
    for blob in (
        zipped(header(b"a", b"\xff" * 12) + END),
        zipped(file(b"a") + header(b"b", b"\x80" + b"\xff" * 11) + END),
        zipped(file(b"a", b"content")[:-1]),
        whole[:middle],
        whole[:-1],
        whole[:middle] + bytes(64) + whole[middle + 64 :],
    ):
        assert victim.refuse(victim.hostile(blob), REFUSED) < 5
    victim.obey()


MEASURED = """
import sys, time
from dataclasses import replace
from pathlib import Path
from tests.attack.test_archives import measured_bundle
from tests.agent.stock import Stock
from tests.agent.workerrig import make_rig
from tests.support.fleet import everybody

def peak():
    # Of this program alone: what getrusage tells would include the parent before exec.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

folder = Path(sys.argv[2])
stock = Stock(folder / "house") if (folder / "house").mkdir() is None else None
rig = make_rig(folder / "device", stock)
rig.install_first(stock["1.0.0"])
bundle = measured_bundle(sys.argv[1], stock)
rig.offer(bundle)
rig.send(stock.order(2, everybody("r-1", bundle.goal())))
before, began = peak(), time.process_time()
rig.run()
outcome = rig.record().outcomes[-1]
assert outcome.digest == bundle.digest and rig.runs(stock["1.0.0"])
print(outcome.code, peak() - before, time.process_time() - began, file=sys.stderr)
"""


def measured_bundle(what: str, stock: Stock) -> Bundle:
    """A hostile release for a device without a network."""
    if what == "bomb":
        blob = bomb(header(b"bomb", 200 << 20), 200)
        facts = replace(facts_of(blob, [], 1 << 20), unpacked_size=200 << 20, member_count=1)
    else:
        blob = many_files(BATCH, 1_000_000 // (BATCH))
        facts = replace(facts_of(blob, [], 1 << 20), unpacked_size=1, member_count=ADMITTED)
    return signed_hostile(stock.house, "1.1.0", blob, facts)


@pytest.mark.parametrize(
    ("what", "code"), [("bomb", Code.UPGRADE_TREE_MISMATCH), ("many", Code.UPGRADE_ARCHIVE_REFUSED)]
)
def test_the_worker_refuses_a_bomb_within_64_mib(what: str, code: Code, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, what, str(tmp_path)], cwd=ROOM, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found, growth, seconds = done.stderr.split()[-3:]
    assert found == code
    assert int(growth) < 64
    assert float(seconds) < 5


UGLY = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def ugly_tree(folder: Path, form: int, members: int) -> Path:
    """A legal tree that strains what archives can say: long names, deep folders, very many files."""
    kiosk.write_tree(folder, "9.9.9")
    deep = folder
    for _ in range(tree.MAX_DEPTH - 1):
        deep = deep / "d"
        deep.mkdir()
    (deep / "bottom").write_bytes(b"\0" * 1000)
    length = 90 if form == tarfile.USTAR_FORMAT else 255
    for letter in "\u00fc\u4e2da" if form == tarfile.PAX_FORMAT else "ab":
        (folder / (letter * (length // len(letter.encode())))).write_text(letter)
    (folder / "many").mkdir()
    for number in range(members - len(list(folder.rglob("*")))):
        (folder / "many" / f"{number}").touch()
    return folder


@pytest.mark.parametrize("form", UGLY)
def test_an_ugly_but_legal_archive_is_installed_whole(victim: Victim, tmp_path: Path, form: str) -> None:
    members = 10_000 if form == "pax" else 1_000
    folder = ugly_tree(tmp_path / "tree", UGLY[form], members)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=UGLY[form], compresslevel=1) as archive:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix().encode()):
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    blob, wanted = buffer.getvalue(), hash_tree(folder)
    assert len(wanted) == members
    bundle = victim.hostile(blob, facts_of(blob, wanted, 1 << 20))
    victim.install(bundle, seconds=60)
    assert tree_sha256(hash_tree(tree_of(victim))) == tree_sha256(wanted)

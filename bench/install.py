"""One signed release of 64 MiB, gzip and zstd, installed: by the worker's own code, by a pipeline of C
programs that checks its sha256, and by what the distribution has: swupdate, RAUC and mender-client. Each is a
process of its own, from its start to the switched link (the others: to their success), on a tmpfs, so that
processors are compared and not disks; rounds are interleaved, and the median counts.

What a limit is made of: the pipeline hashes the artifact once. We hash each byte of it twice, for its chunk
before it is unpacked and for the whole, and each byte of the files once. zstd unpacks as fast as that, so
these hashes and the start of Python are what is left of it, where gzip hides both.

As root; `apt-get install swupdate rauc mender-client mender-artifact cpio squashfs-tools dbus zstd`.
"""

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from bench.common import Figure
from bench.install_one import install
from bench.install_peers import PEERS, Missing
from fleetfoot_agent.worker import gunzip
from fleetfoot_client.cli import main as fleetfoot

FOLDER = Path("/dev/shm") / f"fleetfoot-bench-{os.getpid()}"  # noqa: S108
FORMATS = ("tar.gz", "tar.zst")
#: MiB unpacked that make some 64 MiB packed.
FULL = {"tar.gz": 144, "tar.zst": 218}
QUICK = dict.fromkeys(FULL, 4)
FILE = 50_000  # bytes of each


def figures(quick: bool) -> list[Figure]:
    """All contestants on both formats."""
    FOLDER.mkdir()
    try:
        root, bundles = _release(QUICK if quick else FULL)
        return [f for form in FORMATS for f in _contest(form, bundles[form], root, 2 if quick else 3)]
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def _release(mebibytes: dict[str, int]) -> tuple[Path, dict[str, Path]]:
    """Trees of words, signed with keys made here, as the tools build them in each format."""
    for name in ("root", "release", "director", "alice"):
        _tool("key", "new", FOLDER / f"{name}.key")
    root = FOLDER / "root.json"
    _tool("trust", "init", "--fleet", "bench", "--root-key", FOLDER / "root.key", "--release-key",
          FOLDER / "release.key.pub", "--director", FOLDER / "director.key.pub", "--operator",
          f"alice={FOLDER / 'alice.key.pub'}:admin", "--out", root)  # fmt: skip
    found = {}
    for form in FORMATS:
        out, tree = FOLDER / form, FOLDER / "tree"
        _grow(tree, mebibytes[form] << 20)
        _tool("release", "build", tree, "--component", "app", "--version", "2.0.0", "--entrypoint", "bin/app",
              "--format", form, "--out", out)  # fmt: skip
        found[form] = out / "app-2.0.0"
        _tool("release", "sign", found[form], "--key", FOLDER / "release.key")
        shutil.rmtree(tree)
    return root, found


def _tool(*words: object) -> None:
    with open(os.devnull, "w") as nothing:
        stdout, sys.stdout = sys.stdout, nothing
        try:
            if fleetfoot([str(word) for word in words]) != 0:
                raise RuntimeError(f"fleetfoot {words[0]} {words[1]} failed")
        finally:
            sys.stdout = stdout


def _grow(tree: Path, size: int) -> None:
    """Files of 4096 words in random order, each drawn by itself: neither format finds long repetitions, and
    gzip packs them to 44 %, zstd to 30 %: some way between text and programs.
    """
    random = Random(1)  # noqa: S311
    words = [bytes(random.choices(range(97, 123), k=random.randint(3, 11))) + b" " for _ in range(4096)]
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "app").write_bytes(b"#!/bin/sh\n")
    (tree / "bin" / "app").chmod(0o755)
    for number in range(size // FILE):
        folder = tree / f"d{number % 40}"
        folder.mkdir(exist_ok=True)
        text = b"".join(random.choices(words, k=FILE // 7))
        (folder / f"f{number}").write_bytes(text[:FILE])


def _contest(form: str, bundle: Path, root: Path, rounds: int) -> list[Figure]:
    blob = max((bundle / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    peers = [kind(FOLDER / f"{kind.name}-{form}", blob, form) for kind in PEERS]
    racers: dict[str, Callable[[], float]] = {
        "C": lambda: _c_pipeline(blob, form),
        "ours": lambda: _ours(bundle, root),
    }
    racers["ours, within"] = lambda: _ours_within(bundle, root)
    if form == "tar.gz":
        racers["ours, zlib"] = lambda: _ours(bundle, root, "--zlib")
    holes = {}
    for peer in peers:
        try:
            peer.prepare()
            racers[peer.name] = peer.install
        except Missing as missing:
            holes[peer.name] = str(missing)
    took: dict[str, list[float]] = {name: [] for name in racers}
    for _ in range(rounds):
        for name, race in racers.items():
            took[name].append(race())
    for peer in peers:
        peer.close()
    median = {name: statistics.median(seconds) for name, seconds in took.items()}
    size = f"{blob.stat().st_size / 2**20:.0f} MiB"
    limit, against = median["C"], f"C programs ({_pipeline_words(form)})"
    isal = gunzip._ENGINE.__name__.startswith("isal")
    aim = (0.5 if isal else 0.8) if form == "tar.gz" else 0.8
    table = [Figure(f"install {size} {form}", median["ours"], "s", limit, against, at_most=aim,
                    note="whole process" + (", isal" if isal and form == "tar.gz" else ""))]  # fmt: skip
    table.append(Figure(f"install {size} {form}", median["ours, within"], "s", limit, against, at_most=aim,
                        note="in a worker that runs already"))  # fmt: skip
    if "ours, zlib" in median:
        table.append(Figure(f"install {size} {form}", median["ours, zlib"], "s", limit, against, at_most=0.8,
                            note="whole process, without isal"))  # fmt: skip
    table += [Figure(f"{p.name} {p.version()}, {form}", median[p.name], "s", limit, against, note=p.how)
              for p in peers if p.name in median]  # fmt: skip
    if holes and os.environ.get("CI"):
        raise RuntimeError(f"absent peers: {holes}")
    return table + [Figure(f"{name}, {form}: NOT MEASURED", 0, "s", note=why) for name, why in holes.items()]


def _pipeline_words(form: str) -> str:
    return f"tee, sha256sum, {'gzip' if form == 'tar.gz' else 'zstd'} -dc, tar, sync, ln, mv"


def _c_pipeline(blob: Path, form: str) -> float:
    place = FOLDER / "c"
    (place / "versions").mkdir(parents=True)
    unpack = "gzip -dc" if form == "tar.gz" else "zstd -dcq"
    script = (
        f"set -e; set -o pipefail; cd {place}; mkdir versions/new; "
        f"tee >(sha256sum >sum) <{blob} | {unpack} | tar -xf - -C versions/new; wait; "
        f"grep -q {hashlib.sha256(blob.read_bytes()).hexdigest()} sum; "
        "sync -f versions/new; ln -s versions/new next; mv -T next current; sync -f ."
    )
    return _timed(["bash", "-c", script], place)


def _ours(bundle: Path, root: Path, *options: str) -> float:
    place = FOLDER / "ours"
    command = [sys.executable, "-m", "bench.install_one", str(bundle), str(root), str(place), *options]
    return _timed(command, place)


def _ours_within(bundle: Path, root: Path) -> float:
    """The same without starting Python: as it is in a worker that runs already."""
    place = FOLDER / "ours"
    began = time.perf_counter()
    place.mkdir()
    install(bundle, root, place)
    took = time.perf_counter() - began
    shutil.rmtree(place)
    return took


def _timed(command: list[str], place: Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    took = time.perf_counter() - began
    shutil.rmtree(place)
    return took

"""Every block that a host writes, in order; and every disk that a power cut could have left of it.

`Recorder` puts qemu's `blklogwrites` between a host and its disk: a FUSE export that the host mounts by a
loop device as it mounts any image. `disks` replays the log: at every position the disk as far as it was
flushed, with all writes after the last flush, and with random subsets of them, since a disk may carry them
out in any order until it is told to flush. The format is that of the kernel's dm-log-writes.
"""

import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.support.waiting import until

PROGRAM = "qemu-storage-daemon"
_MAGIC = 0x6A736677736872
_FLUSH, _FUA, _DISCARD = 1, 2, 4


@dataclass(frozen=True)
class Entry:
    """One request: bytes at an offset, or a flush of everything before it."""

    offset: int
    data: bytes
    flush: bool


class Recorder:
    """Exports `image` as `export` and logs every write; the image itself is left as it is."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.export = folder / "export.img"
        self._under = folder / "under.img"
        self._log = folder / "writes.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; `export` can be mounted when this returns."""
        shutil.copyfile(self.image, self._under)
        self._log.write_bytes(b"")
        self.export.write_bytes(b"")
        parts = (
            f"driver=file,node-name=disk,filename={self._under}",
            f"driver=file,node-name=log,filename={self._log}",
            "driver=blklogwrites,node-name=both,file=disk,log=log,log-sector-size=512",
        )
        blockdevs = [word for part in parts for word in ("--blockdev", part)]
        fuse = f"type=fuse,id=export,node-name=both,mountpoint={self.export},writable=on"
        self._process = subprocess.Popen([PROGRAM, *blockdevs, "--export", fuse], stdin=subprocess.DEVNULL)
        size = self.image.stat().st_size
        until(lambda: self.export.stat().st_size == size, "the logged disk is there")

    def position(self) -> int:
        """How many requests were logged so far."""
        return len(parse(self._log.read_bytes()))

    def stop(self) -> list[Entry]:
        """End; nobody may hold the export any more. Returns the log."""
        process, self._process = self._process, None
        if process is None:
            return []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            with suppress(OSError):
                subprocess.run(["umount", str(self.export)], capture_output=True, check=False)
        return parse(self._log.read_bytes())


def parse(data: bytes) -> list[Entry]:
    """The requests in a log, in order; one that is only half written is the end."""
    if len(data) < 28:
        return []
    magic, _, _, sector = struct.unpack_from("<QQQI", data)
    assert magic == _MAGIC, "not a log of writes"
    found, at = [], sector
    while at + 32 <= len(data):
        first, count, flags, marked = struct.unpack_from("<QQQQ", data, at)
        if not (count or flags or marked):
            break
        at += sector
        assert not flags & _FUA, "a loop device sends flushes, never FUA"
        length = 0 if flags & _DISCARD else count * sector
        found.append(Entry(first * sector, data[at : at + length], bool(flags & _FLUSH)))
        at += length
    return found


@dataclass(frozen=True)
class Disk:
    """One disk that a cut at `position` could leave: what is durable on `base`, and `writes` on top of it."""

    position: int
    kind: str
    writes: tuple[Entry, ...]

    def lay(self, base: Path, image: Path) -> None:
        """Write it out at `image`."""
        subprocess.run(["cp", "--sparse=always", str(base), str(image)], check=True)
        apply(image, self.writes)


def apply(image: Path, writes: tuple[Entry, ...] | list[Entry]) -> None:
    """Carry the writes out."""
    with image.open("r+b") as file:
        for entry in writes:
            file.seek(entry.offset)
            file.write(entry.data)


def disks(log: list[Entry], base: Path, random: Random, *, every: int, subsets: int) -> Iterator[Disk]:
    """Every `every`-th prefix of the log, each with `subsets` random subsets of what was not flushed.

    `base` is the disk before the log; it is carried on as far as flushes reach while this runs.
    """
    pending: list[Entry] = []
    for number, entry in enumerate(log, 1):
        if entry.flush:
            apply(base, pending)
            pending = []
        if entry.data:
            pending.append(entry)
        if number % every and number != len(log):
            continue
        yield Disk(number, "prefix", tuple(pending))
        for _ in range(subsets if len(pending) > 1 else 0):
            chosen = tuple(write for write in pending if random.random() < 0.5)
            yield Disk(number, "subset", chosen)

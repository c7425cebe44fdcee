"""Quotas on a real disk: subvolumes of a btrfs image, mounted where a host keeps what the agent writes.

btrfs, because its quotas need nothing of the kernel beside the file system; those of ext4 need a module that
not every kernel has. The kernel answers EDQUOT all the same, although `statvfs` speaks of the whole disk.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.lab.host import Host

_MEGABYTES = 256
_TOP, _NODE = "/quota", "/dev/quota"


def present() -> bool:
    """Whether this machine can make and mount such a disk."""
    known = Path("/proc/filesystems").read_text().split()
    return shutil.which("mkfs.btrfs") is not None and "btrfs" in known


class QuotaDisk:
    """A disk in `host`, each of `places` on a subvolume of its own; what was there is on it."""

    def __init__(self, host: Host, *places: str) -> None:
        self._host = host
        self._volumes = {place: f"{_TOP}/v{number}" for number, place in enumerate(places)}
        self._mount()
        for place, volume in self._volumes.items():
            host.run("btrfs", "subvolume", "create", volume)
            host.run("cp", "-a", f"{place}/.", volume)
            host.run("mount", "--bind", volume, place)
        host.run("btrfs", "quota", "enable", _TOP)
        host.run("btrfs", "quota", "rescan", "-w", _TOP)

    def _mount(self) -> None:
        """The image has no name any more when it is mounted: it goes with the host, whatever happens."""
        host, image = self._host, self._host.image.with_name("quota.img")
        with image.open("wb") as file:
            file.truncate(_MEGABYTES << 20)
        _run("mkfs.btrfs", "-q", str(image))
        loop = _run("losetup", "-f", "--show", str(image)).strip()
        try:
            number = os.stat(loop).st_rdev
            host.run("mknod", _NODE, "b", str(os.major(number)), str(os.minor(number)))
            host.run("mkdir", _TOP)
            host.run("mount", _NODE, _TOP)
        finally:
            _run("losetup", "-d", loop)  # once nobody uses it
            image.unlink()

    def limit(self, place: str, more: int) -> None:
        """Let `place` grow by `more` bytes and no further."""
        name, used = self._group(place)
        self._host.run("btrfs", "qgroup", "limit", str(used + more), name, _TOP)

    def lift(self, place: str) -> None:
        """Let `place` grow again."""
        # By the top, which has no limit: where there is one, lifting it takes room that nobody has.
        self._host.run("btrfs", "qgroup", "limit", "none", self._group(place)[0], _TOP)

    def _group(self, place: str) -> tuple[str, int]:
        """The group that counts for a place, and what it has counted."""
        told = self._host.run("btrfs", "qgroup", "show", "--raw", "--sync", "-f", self._volumes[place])
        name, used = told.splitlines()[-1].split()[:2]
        return name, int(used)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

"""A host with real systemd as PID 1, on a disk of its own whose power can be cut.

No virtual machine: namespaces, an overlay root on a loop-mounted ext4 image, and a power cut that is the
file system's own: EXT4_IOC_SHUTDOWN without flushing the log, so that nothing further reaches the disk and
what was not synced is lost; then PID 1 is killed, and with it everything inside. Needs root; see `missing`.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from tests.support.waiting import until

T = TypeVar("T")

ENTER = Path(__file__).with_name("enter")
PROGRAMS = ("bash", "unshare", "nsenter", "setpriv", "losetup", "mkfs.ext4", "ip", "dbus-daemon", "systemctl")
#: Whoever enters from outside comes with the machine's full rights: without this, a test could set its clock.
_DROP = ("setpriv", "--bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog")
_ENVIRONMENT = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")

#: Layers and disks lie in memory: a layer must not lie in the machine's own `/`, and cuts are many.
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 512 << 20

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000


def cgroup2() -> Path | None:
    """Where this machine has mounted the unified cgroups."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" - ")
        if fields[1].startswith("cgroup2 "):
            return Path(fields[0].split()[4])
    return None


def missing() -> str:
    """What this machine lacks for a lab; empty if it can have one."""
    if os.geteuid() != 0:
        return "root"
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return program
    if not Path("/lib/systemd/systemd").exists() or not Path("/dev/loop-control").exists():
        return "systemd or loop devices"
    groups = cgroup2()
    if groups is None or not os.access(groups, os.W_OK):
        return "cgroup2"
    space = os.statvfs(MEMORY)
    if space.f_bavail * space.f_frsize < MEMORY_BYTES:
        return f"{MEMORY_BYTES >> 20} MiB in {MEMORY}"
    try_it = ["unshare", "--pid", "--mount", "--net", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return "" if subprocess.run(try_it, capture_output=True, check=False).returncode == 0 else "namespaces"


class Host:
    """One host: its disk in `folder`, its cgroup beside, its processes while it has power."""

    def __init__(self, name: str, folder: Path, lower: str, binds: list[str]) -> None:
        groups = cgroup2()
        assert groups is not None
        self.name = name
        self.image = folder / "disk.img"
        self.console = folder / "console.log"
        self._lower = lower
        self._binds = binds
        self._group = groups / f"lab-{name}"
        self._outer: subprocess.Popen[bytes] | None = None
        self.pid = 0
        folder.mkdir(parents=True, exist_ok=True)

    # -- the disk

    def format(self, megabytes: int = 128) -> None:
        """A new, empty disk."""
        with self.image.open("wb") as file:
            file.truncate(megabytes << 20)
        options = "lazy_itable_init=0,lazy_journal_init=0"
        _run("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-E", options, str(self.image))

    def clone_disk(self, other: "Host") -> None:
        """A copy of another host's disk, which must be off."""
        _run("cp", "--sparse=always", str(other.image), str(self.image))

    # -- power

    def boot(self, *, wait: bool = True) -> str:
        """Power on. Waits until systemd has started everything; returns what it says then."""
        self._group.mkdir(exist_ok=True)
        with self.console.open("ab") as log:
            command = [ENTER, self.image, self.name, self._group, self._lower, *self._binds]
            self._outer = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = until(self._find_systemd, f"{self.name} has systemd as PID 1", seconds=20)
        return until(self._settled, f"{self.name} has booted", seconds=60) if wait else ""

    def _find_systemd(self) -> int:
        outer = self._outer
        assert outer is not None
        if outer.poll() is not None:
            raise AssertionError(f"{self.name} did not boot: {self.console.read_text()[-2000:]}")
        with suppress(OSError, IndexError):
            child = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0]
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
        return 0

    def _settled(self) -> str:
        said = self.run("systemctl", "is-system-running", check=False).strip()
        return said if said in ("running", "degraded") else ""

    def cut_power(self) -> None:
        """Nothing more reaches the disk from here on; then everything stops."""
        fd = os.open(self.path("/.disk"), os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)
        self.kill()

    def shut_down(self) -> None:
        """Sync, then stop: what was written is there at the next boot."""
        self.run("sync")
        self.kill()

    def kill(self) -> None:
        """Stop everything at once; returns when nobody holds the disk any more."""
        if self._outer is None:
            return
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            self._outer.kill()
        self._outer.wait(30)
        self._outer, self.pid = None, 0
        self._disk_is_free()

    def _disk_is_free(self) -> None:
        until(lambda: not _run("losetup", "-j", str(self.image)).strip(), f"the disk of {self.name} is free")

    def remove(self) -> None:
        """End it and leave nothing behind but what lies in its folder."""
        self.kill()
        if self._group.is_dir():
            for folder, _, _ in os.walk(self._group, topdown=False):
                until(lambda folder=folder: removed(folder), f"cgroup {folder} is empty")  # type: ignore[misc]
        self.image.unlink(missing_ok=True)

    # -- inside

    def run(self, *command: str, check: bool = True, user: str | None = None, timeout: float = 90) -> str:
        """Run a command inside, as root or `user`; returns what it printed, errors too."""
        enter = ("nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
        become = () if user is None else ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        done = subprocess.run(
            [*enter, *_DROP, *become, *_ENVIRONMENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name}: {' '.join(command)}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def path(self, inside: str) -> Path:
        """A file of the host, seen from outside while it has power. Absolute links lead outside!"""
        return Path(f"/proc/{self.pid}/root{inside}")

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit; empty ones while systemd cannot be asked yet."""
        wanted = (f"--property={name}" for name in names)
        text = self.run("systemctl", "show", *wanted, "--", unit, check=False)
        found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return {name: found.get(name, "") for name in names}

    def journal(self, *arguments: str) -> str:
        """What the host's journal has."""
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", *arguments, check=False)

    def within_network(self, body: Callable[[], T]) -> T:
        """Call `body` on a thread whose sockets, and whose threads' sockets, are in the host's network."""
        results: list[T] = []
        failures: list[BaseException] = []

        def enter() -> None:
            fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _system_call("setns", fd, _CLONE_NEWNET)
                results.append(body())
            except BaseException as error:
                failures.append(error)
            finally:
                os.close(fd)

        thread = Thread(target=enter)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]


def own_mounts() -> None:
    """Give the calling thread, and what it starts, a mount namespace of its own."""
    _system_call("unshare", _CLONE_NEWNS)
    _run("mount", "--make-rprivate", "/")


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """The file system in `image`, mounted at `folder`. For a thread with `own_mounts`."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-o", "loop,noatime", str(image), str(folder))
    try:
        yield folder
    finally:
        # A program that another thread is starting holds our open files until it has begun.
        umount = ["umount", str(folder)]
        until(
            lambda: subprocess.run(umount, capture_output=True, check=False).returncode == 0,
            f"{folder} is unmounted",
        )


class Opened:
    """The root of a host without power, as its disk was left: nothing inside has run since.

    A copy of the disk is mounted at `folder`, so that even the replay of the file system's journal, which any
    mount does, leaves the disk itself as the cut left it. For a thread with `own_mounts`: what is mounted
    where other hosts are started from would be held by them.
    """

    def __init__(self, host: Host, folder: Path) -> None:
        self._copy = host.image.with_suffix(".copy")
        self._image = host.image
        self._mounted = mounted(self._copy, folder)

    def __enter__(self) -> Path:
        _run("cp", "--sparse=always", str(self._image), str(self._copy))
        return self._mounted.__enter__() / "upper"

    def __exit__(self, *why: Any) -> None:
        self._mounted.__exit__(*why)
        self._copy.unlink()


def removed(folder: str | Path) -> bool:
    """Whether a cgroup is gone: it can be removed once nobody is in it."""
    with suppress(FileNotFoundError):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True


def _system_call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout

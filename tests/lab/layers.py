"""The read-only floors of a lab host: a mask over the machine's own `/`, and the agent as a package puts it.

Lower layers of an overlay, made on a tmpfs: a layer must not lie inside the machine's `/`, which is one too.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

from fleetfoot_client import agent_payload

ROOT = Path(__file__).parents[2]
#: Where the agent's modules lie in a host, and its interpreter if that is not Debian's.
AGENT = "/usr/lib/fleetfoot/agent"
SITE = f"{AGENT}/site"
PYTHON = "/usr/lib/fleetfoot/python"

#: Units of the machine's own image that mean nothing in a host, or would touch what it shares.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "logrotate.timer",
    "man-db.timer",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
)

#: Where a test writes `<state> <seconds>`: the worker pauses so long when it has journaled that state.
HOLD = "/run/fleetfoot/hold"
#: States that are over in milliseconds could be hit by chance alone; nothing but the pause differs.
HELD = f"""\
import os
import time
from fleetfoot_agent import durable
write_file = durable.write_file
def held(path, data, mode=0o644):
    write_file(path, data, mode)
    if path.name == "journal.json" and os.path.exists("{HOLD}"):
        with open("{HOLD}") as file:
            state, seconds = file.read().split()
        if f'"state":"{{state}}"'.encode() in data:
            time.sleep(float(seconds))
durable.write_file = held
"""

#: What the deliberately unsynced variant does to the worker, by Python's own hook and in the lab alone.
_UNSYNCED = """\
import os
os.fsync = os.fdatasync = lambda fd: None
os.sync = lambda: None
import ctypes
ctypes.CDLL.syncfs = lambda self, fd: 0
"""


class Layers:
    """Layers in `folder`, which must be on a tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mask = _write_mask(folder / "mask")
        self._agent = _write_agent(folder / "agent")
        self._unsynced = folder / "unsynced"
        (self._unsynced / SITE[1:]).mkdir(parents=True)
        (self._unsynced / SITE[1:] / "sitecustomize.py").write_text(HELD + _UNSYNCED)

    def lower(self, *, unsynced: bool = False) -> str:
        """The `lowerdir` of an overlay, topmost first."""
        layers = [self._agent, self._mask, Path("/")]
        return ":".join(str(layer) for layer in ([self._unsynced, *layers] if unsynced else layers))

    def bare(self) -> str:
        """The `lowerdir` of a host without the agent."""
        return f"{self._mask}:/"

    @property
    def binds(self) -> list[str]:
        """What to mount where in a host, as arguments: the interpreter, if no host has it of its own."""
        return [] if sys.base_prefix == "/usr" else [sys.base_prefix, PYTHON]


def _write_mask(mask: Path) -> Path:
    units = mask / "etc/systemd/system"
    units.mkdir(parents=True)
    os.setxattr(
        units, "trusted.overlay.opaque", b"y"
    )  # units that the machine has enabled are not the host's
    for name in _MASKED:
        (units / name).symlink_to("/dev/null")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (mask / "etc/machine-id").write_text("")
    (mask / "etc/fstab").write_text("")
    journal = mask / "etc/systemd/journald.conf.d"
    journal.mkdir(parents=True)
    (journal / "lab.conf").write_text("[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n")
    return mask


def _write_agent(layer: Path) -> Path:
    """The agent as a package has it: the base install alone, the shipped units, guard and launcher."""
    subprocess.run([ROOT / "systemd" / "install", str(layer)], check=True)
    agent_payload.lay(layer / AGENT[1:])
    (layer / SITE[1:] / "sitecustomize.py").write_text(HELD)
    (layer / PYTHON[1:]).mkdir()
    program = layer / "usr/bin/fleetfoot-agent"
    program.parent.mkdir(exist_ok=True)
    program.symlink_to("/usr/lib/fleetfoot/fleetfoot-launcher")
    _open_to_all(layer)
    return layer


def _open_to_all(layer: Path) -> None:
    for folder, _, files in os.walk(layer):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)

"""What can be seen without systemd: trust, clock, broker, disk, quota. Reads only."""

import ctypes
import os
import pwd
import socket
import ssl
import time
from pathlib import Path

from fleetfoot_agent import durable
from fleetfoot_agent.config import AgentConfig, BrokerConfig
from fleetfoot_agent.doctor.findings import Area, Finding, advice, ok, problem
from fleetfoot_agent.spool import folders, forms
from fleetfoot_agent.worker import platform_facts, rooting
from fleetfoot_agent.worker.memory import load_key
from fleetfoot_protocol import times
from fleetfoot_protocol.codes import Code, info
from fleetfoot_protocol.documents import read
from fleetfoot_protocol.errors import FleetfootError, FormError
from fleetfoot_protocol.reports import Status

#: Seconds for the broker to answer.
_BROKER_SECONDS = 5.0
#: Files that an upgrade must be able to make; an artifact of many small files wants more.
_MIN_INODES = 5_000
#: Bytes without which no upgrade worth its name fits.
_MIN_BYTES = 64 << 20
#: A root that expires within so many seconds is worth a word.
_SOON = 30 * 86400


def trust(config: AgentConfig) -> list[Finding]:
    """Key and trust root of this device, and when the root expires."""
    found = []
    try:
        load_key(config.worker_dir / "device.key")
        found.append(ok(Area.TRUST, f"device {config.device} has its key"))
    except FleetfootError as error:
        found.append(problem(Area.TRUST, error.message, error.remedy))
    try:
        kept = rooting.find(config.worker_dir)
        root = kept.root
    except FleetfootError as error:
        return [*found, problem(Area.TRUST, error.message, error.remedy)]
    if kept.ignored:
        remedy = f"see who put it there, then remove {config.worker_dir / 'root.json'}"
        found.append(problem(Area.TRUST, f"ignored: {kept.ignored}", remedy))
    left = times.from_text(root.expires) - time.time()
    text = f"trust root {root.version} of fleet {root.fleet}, until {root.expires}"
    if left < 0 and platform_facts.clock_trusted():
        found.append(
            problem(Area.TRUST, f"{text}: it has expired", "have the fleet's root renewed: docs/keys.md")
        )
    elif left < _SOON:
        found.append(advice(Area.TRUST, text, "have the fleet's root renewed: docs/keys.md"))
    else:
        found.append(ok(Area.TRUST, text))
    return found


def clock(config: AgentConfig) -> list[Finding]:
    """Whether the kernel trusts its clock, and whether something signed is from a later time."""
    status = last_status(config)
    floor = times.from_text(status.clock.floor) if status else 0
    if floor > time.time() + 60:
        now, signed = times.to_text(time.time()), times.to_text(floor)
        text = f"the clock says {now}, but an accepted document is from {signed}"
        return [
            problem(Area.CLOCK, text, "set the clock; let a time service keep it: timedatectl set-ntp true")
        ]
    if platform_facts.clock_trusted():
        return [ok(Area.CLOCK, "the kernel says that its clock is synchronised")]
    return [
        advice(
            Area.CLOCK,
            "the kernel does not say that its clock is synchronised: documents expire by signed times alone",
            "let a time service keep it: timedatectl set-ntp true",
        )
    ]


def broker(config: AgentConfig) -> list[Finding]:
    """Whether the courier has a session; if not, how far one gets from here."""
    told = folders.read_in(config.spool, "in", "link.json", cap=forms.FORM_CAP)
    link = None if told is None else forms.parse_link(told)
    where = f"{config.broker.host}:{config.broker.port}"
    if link is not None and link.up and link.boot_id == platform_facts.boot_id():
        return [ok(Area.BROKER, f"the courier is connected to {where}")]
    try:
        _reach(config.broker)
    except ssl.SSLError as error:
        return [
            problem(
                Area.BROKER,
                f"{where} does not pass TLS: {error.reason or error}",
                "compare broker.ca_file, cert_file and key_file with what the broker has",
            )
        ]
    except OSError as error:
        return [
            problem(
                Area.BROKER,
                f"{where} cannot be reached: {_why(error)}",
                "see that the broker runs, its name is known here and no firewall stands between",
            )
        ]
    return [
        problem(
            Area.BROKER,
            f"{where} answers, but the courier has no session",
            "see why: journalctl -u fleetfoot-courier.service; is it started, are name and password right?",
        )
    ]


def _why(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _reach(broker_: BrokerConfig) -> None:
    with socket.create_connection((broker_.host, broker_.port), timeout=_BROKER_SECONDS) as plain:
        if not broker_.tls:
            return
        context = ssl.create_default_context(cafile=None if broker_.ca_file is None else str(broker_.ca_file))
        if broker_.cert_file is not None:
            context.load_cert_chain(broker_.cert_file, broker_.key_file)
        with context.wrap_socket(plain, server_hostname=broker_.host):
            return


def disk(config: AgentConfig) -> list[Finding]:
    """Room, inodes and whether writing is possible, where versions and the spool lie."""
    found = []
    for what, folder in (("installed versions", config.install_root), ("the spool", config.spool)):
        try:
            space = os.statvfs(folder)
        except OSError as error:
            found.append(
                problem(
                    Area.DISK, f"{folder}: {error.strerror}", "make the folders: systemd-tmpfiles --create"
                )
            )
            continue
        found.append(judge_disk(f"{what} at {folder}", space, config.policy.disk_reserve))
    return found


def judge_disk(what: str, space: os.statvfs_result, reserve: int) -> Finding:
    """Whether there is room for an upgrade above the reserve."""
    free = space.f_bavail * space.f_frsize
    if space.f_flag & os.ST_RDONLY:
        return problem(
            Area.DISK, f"{what}: the file system is read-only", "see dmesg for why, then remount it"
        )
    if free < reserve + _MIN_BYTES:
        text = (
            f"{what}: {free >> 20} MiB are free, {(reserve + _MIN_BYTES) >> 20} are needed with the reserve"
        )
        return problem(Area.DISK, text, "make room, or lower upgrade.disk_reserve")
    if space.f_files and space.f_favail < _MIN_INODES:
        text = f"{what}: only {space.f_favail} more files can be made"
        return problem(Area.DISK, text, "remove small files, or make the file system with more inodes")
    return ok(Area.DISK, f"{what}: {free >> 20} MiB free")


def quota(config: AgentConfig, courier: str) -> list[Finding]:
    """Whether something bounds what a hostile courier can fill."""
    folder = config.spool / "in"
    try:
        here, beside = os.stat(folder).st_dev, {os.stat(p).st_dev for p in (config.install_root, Path("/"))}
    except OSError:
        return []  # `disk` says so
    if here not in beside:
        return [ok(Area.QUOTA, f"{folder} is on a file system of its own")]
    limit = _user_limit(folder, courier)
    if limit:
        return [ok(Area.QUOTA, f"user {courier} may fill {limit >> 20} MiB at most")]
    return [
        advice(
            Area.QUOTA,
            f"nothing bounds what {folder} can take of the disk, should the courier be taken over",
            f"put {config.spool} on a file system of its own, or set a quota for user {courier}",
        )
    ]


class _Dqblk(ctypes.Structure):
    """struct if_dqblk of quotactl(2)."""

    _fields_ = (
        *(
            (n, ctypes.c_uint64)
            for n in ("hard", "soft", "space", "ihard", "isoft", "inodes", "btime", "itime")
        ),
        ("valid", ctypes.c_uint32),
    )


_Q_GETQUOTA_USER = 0x800007 << 8
_QUOTA_BLOCK = 1024


def _user_limit(folder: Path, user: str) -> int:
    """Bytes that a quota allows the user on the folder's file system; 0 if there is none, or none to see."""
    try:
        uid = pwd.getpwnam(user).pw_uid
        device = _device_of(folder)
        block = _Dqblk()
        libc = ctypes.CDLL(None, use_errno=True)
        if device is None or libc.quotactl(_Q_GETQUOTA_USER, device.encode(), uid, ctypes.byref(block)) != 0:
            return 0
    except (KeyError, OSError, AttributeError):
        return 0
    return int(block.hard) * _QUOTA_BLOCK


def _device_of(folder: Path) -> str | None:
    number = os.stat(folder).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[1]
    return None


def last_status(config: AgentConfig) -> Status | None:
    """What the worker has said last; None if it never did."""
    try:
        data = durable.read_regular(config.spool / "out", "status.json", 64 << 10)
        return None if data is None else read(Status, data)
    except (OSError, FormError):
        return None


def alarms(config: AgentConfig) -> list[Finding]:
    """What the worker itself alarms of."""
    status = last_status(config)
    found = []
    for alarm in status.alarms if status else ():
        about = info(Code(alarm)) if alarm in set(Code) else None
        text, remedy = (
            (about.meaning, about.remedy) if about else ("an alarm stands", "fleetfoot-agent status")
        )
        found.append(problem(Area.TRUST, f"alarm {alarm}: {text}", remedy))
    return found

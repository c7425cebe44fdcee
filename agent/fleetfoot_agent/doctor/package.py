"""What the package put here: whether it is as it was put, and whether folders belong to whom they must."""

import grp
import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from fleetfoot_agent.config import AgentConfig
from fleetfoot_agent.doctor.findings import Area, Finding, advice, ok, problem

#: Lines `<sha256>  <path>` of everything that the package owns and nobody should edit.
FILES = Path("/usr/lib/fleetfoot/files.sha256")
WORKER, COURIER, SHARED = "fleetfoot", "fleetfoot-courier", "fleetfoot-spool"

_AGAIN = "install the package again; what is to differ belongs into agent.toml or a drop-in (systemctl edit)"


def package(files: Path = FILES) -> list[Finding]:
    """Whether the files that the package owns are as it put them."""
    try:
        lines = files.read_text("utf-8").splitlines()
    except OSError:
        text = f"there is no {files}, so edited files cannot be told"
        return [advice(Area.PACKAGE, text, "put the units there by the package, or by systemd/install")]
    edited = []
    for line in lines:
        digest, _, name = line.partition("  ")
        try:
            found = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        except OSError as error:
            edited.append(problem(Area.PACKAGE, f"{name}: {error.strerror}", _AGAIN))
            continue
        if found != digest:
            edited.append(problem(Area.PACKAGE, f"{name} was edited", _AGAIN))
    return edited or [ok(Area.PACKAGE, f"{len(lines)} files of the package are as they were put")]


@dataclass(frozen=True, slots=True)
class Expected:
    """A path, and who may do what there. `mode` None: it only must not be open for others to write."""

    path: Path
    user: str
    group: str | None = None
    mode: int | None = None


def expected(config: AgentConfig) -> tuple[Expected, ...]:
    """What systemd-tmpfiles and `init` make, on a machine with both users."""
    run, spool, worker = config.run_dir, config.spool, config.worker_dir
    return (
        Expected(config.path, "root"),
        Expected(config.install_root, WORKER, mode=0o755),
        Expected(worker, WORKER, mode=0o700),
        Expected(worker / "device.key", WORKER, mode=0o600),
        Expected(worker / "root.json", WORKER),
        Expected(spool, "root", SHARED, 0o750),
        Expected(spool / "in", COURIER, mode=0o755),
        Expected(spool / "out", WORKER, mode=0o755),
        Expected(run / "wake", "root", SHARED, 0o770),
        Expected(run / "restart", WORKER, mode=0o755),
        Expected(run / "hook", WORKER, mode=0o755),
        Expected(run / "started", "root", mode=0o755),
        *(Expected(config.install_root / name, WORKER) for name in config.components),
    )


def permissions(config: AgentConfig, *, split: bool) -> list[Finding]:
    """Whether each folder is its user's. `split`: courier and worker are users of their own here."""
    wanted = expected(config) if split else ()
    found = [f for one in wanted if (f := _judge(one)) is not None]
    found += [
        f for path in _secrets(config) if (f := _readable(path, COURIER if split else None)) is not None
    ]
    found += _metrics(config)
    return found or [ok(Area.PERMISSIONS, "every folder and key is its user's, and nobody else's to write")]


def _metrics(config: AgentConfig) -> list[Finding]:
    """Whether the worker could write its metrics: with each status that it wrote."""
    place = config.metrics_file
    if place is None or place.exists() or not (config.spool / "out" / "status.json").exists():
        return []
    text = f"the worker could not write its metrics to {place}"
    remedy = f"where systemd runs it, it may write below {config.run_dir}/metrics: set agent.metrics_file"
    return [problem(Area.PERMISSIONS, text, remedy)]


def _judge(one: Expected) -> Finding | None:
    try:
        facts = os.lstat(one.path)
        user, group = pwd.getpwuid(facts.st_uid).pw_name, grp.getgrgid(facts.st_gid).gr_name
    except FileNotFoundError:
        if one.mode is None:  # not installed yet, or a file whose absence another line tells
            return None
        return problem(Area.PERMISSIONS, f"{one.path} is missing", "systemd-tmpfiles --create fleetfoot.conf")
    except (OSError, KeyError) as error:
        return advice(Area.PERMISSIONS, f"{one.path}: {error}", "run the doctor as root")
    mode = stat.S_IMODE(facts.st_mode)
    if user != one.user or (one.group is not None and group != one.group):
        who = f"{one.user}:{one.group}" if one.group else one.user
        return problem(
            Area.PERMISSIONS, f"{one.path} belongs to {user}:{group}", f"chown -h {who} {one.path}"
        )
    if one.mode is not None and mode != one.mode:
        text = f"{one.path} has mode {mode:04o}, not {one.mode:04o}"
        return problem(Area.PERMISSIONS, text, f"chmod {one.mode:04o} {one.path}")
    if one.mode is None and mode & 0o022:
        return problem(Area.PERMISSIONS, f"{one.path} can be written by others", f"chmod go-w {one.path}")
    return None


def _secrets(config: AgentConfig) -> list[Path]:
    found = (config.broker.password_file, config.broker.key_file)
    return [path for path in found if path is not None]


def _readable(path: Path, reader: str | None) -> Finding | None:
    """A secret for the broker must be there, unreadable for everybody, readable for who connects."""
    try:
        facts = path.stat()
    except OSError as error:
        return problem(
            Area.PERMISSIONS, f"{path}: {error.strerror}", "put it there, or correct agent.toml, [broker]"
        )
    if facts.st_mode & 0o007:
        return problem(Area.PERMISSIONS, f"{path} is open to everybody", f"chmod o= {path}")
    if reader is None or may_read(facts, reader):
        return None
    text = f"{path} cannot be read by {reader}, who needs it for the broker"
    return problem(Area.PERMISSIONS, text, f"chgrp {reader} {path} && chmod g+r {path}")


def may_read(facts: os.stat_result, user: str) -> bool:
    """Whether the mode lets the user read; what folders above say is left aside."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return False
    if facts.st_uid == entry.pw_uid:
        return bool(facts.st_mode & stat.S_IRUSR)
    if facts.st_gid in os.getgrouplist(user, entry.pw_gid):
        return bool(facts.st_mode & stat.S_IRGRP)
    return bool(facts.st_mode & stat.S_IROTH)

"""What one half of the agent really may: tried from within its own unit's walls. Standard library only.

`attempts` runs inside, started by `isolation`; it says what became of each try and judges nothing. What
it makes it removes; it reads no secret, it only tries to open one.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fleetfoot_agent.config import AgentConfig

#: An address for documentation (RFC 5737): where there is a way out, a datagram to it goes out and to nobody.
ELSEWHERE = "192.0.2.1"
_DISCARD = 9


def attempts(config: AgentConfig, half: str, addresses: list[str]) -> dict[str, str]:
    """Try everything; returns `<act> <object>` -> `done`, or the name of the refusal."""
    run, spool = config.run_dir, config.spool
    tried: dict[str, str] = {}
    for folder in writable(config)["courier"] + writable(config)["worker"]:
        tried[f"write {folder}"] = _outcome(lambda folder=folder: _write(folder))  # type: ignore[misc]
    for folder in (run / "started", config.path.parent, Path("/usr/lib/fleetfoot")):
        tried[f"write {folder}"] = _outcome(lambda folder=folder: _write(folder))  # type: ignore[misc]
    tried[f"open {config.worker_dir / 'device.key'}"] = _outcome(
        lambda: os.close(os.open(config.worker_dir / "device.key", os.O_RDONLY))
    )
    tried["become root"] = _outcome(lambda: os.setuid(0))
    tried["listen"] = _outcome(_listen)
    for address in ("127.0.0.1", *addresses, ELSEWHERE):
        tried[f"send {address}"] = _outcome(lambda address=address: _send(address))  # type: ignore[misc]
    tried["half"] = half
    tried["spool"] = str(spool)
    return tried


def writable(config: AgentConfig) -> dict[str, list[Path]]:
    """Where each half may write and the other may not."""
    return {
        "courier": [config.spool / "in"],
        "worker": [config.spool / "out", config.install_root, config.worker_dir, config.run_dir / "restart"],
    }


def _outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except PermissionError:
        return "refused"
    except OSError as error:
        # A read-only view, a path that is not there for it, a family that it has not: walls, too.
        return f"impossible: {error.strerror}"
    return "done"


def _write(folder: Path) -> None:
    path = folder / f".tmp-doctor-{os.getpid()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.close(fd)
    with suppress(OSError):
        path.unlink()


def _listen() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))


def _send(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", (address, _DISCARD))

"""Files that the tools write: whole and on the disk, or not there; never over something by accident."""

import os
import secrets
from pathlib import Path

from fleetfoot_protocol.errors import FleetfootError


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Create the file at `path`. FleetfootError `exists_already` if something is there; OSError passes."""
    try:
        _write(path, data, mode)
    except FileExistsError:
        raise FleetfootError("exists_already", f"{path} exists and is not overwritten") from None
    _sync_folder(path.parent)


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Create or replace the file at `path`; a reader sees the old or the new content, never a half."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write(temporary, data, mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read(path: Path, limit: int) -> bytes:
    """The content of a file, at most `limit` bytes. FleetfootError `not_found`, `io_error`."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise FleetfootError(
            "not_found", f"there is no file {path}", remedy="check the path for a typing error"
        ) from None
    if len(data) > limit:
        raise FleetfootError("io_error", f"{path} is larger than {limit} bytes", remedy="name another file")
    return data


def _write(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # not by the umask of whoever runs us
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

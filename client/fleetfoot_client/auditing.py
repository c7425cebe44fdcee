"""The audit log on this side: fetched from the manager or read from an export, and verified.

An export is JSON lines, an entry each, byte for byte what was hashed; beside it, in `<export>.head`, the
signed head that the broker retained. Public keys alone suffice to verify both, on any machine.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fleetfoot_client import files
from fleetfoot_client.link import deadline
from fleetfoot_client.session import Session
from fleetfoot_protocol import strictjson, trust
from fleetfoot_protocol.auditchain import AuditHead, Entry
from fleetfoot_protocol.codes import Code
from fleetfoot_protocol.dsse import MAX_ENVELOPE
from fleetfoot_protocol.errors import FleetfootError, FormError
from fleetfoot_protocol.topics import Kind
from fleetfoot_protocol.trust import TrustRoot

_HEAD_SECONDS = 10.0


def head_path(export: Path) -> Path:
    """Where the signed head of an export lies."""
    return export.with_name(f"{export.name}.head")


def retained_head(session: Session) -> bytes:
    """The signed head as the broker retains it. FleetfootError `timeout` if there is none."""
    session.watch(session.topic(Kind.AUDIT_HEAD))
    left = deadline(_HEAD_SECONDS)
    while (message := session.next_message(left())) is not None:
        if message.topic.kind is Kind.AUDIT_HEAD and message.payload:
            return message.payload
    raise FleetfootError(
        "timeout",
        f"the broker retains no head of the audit log within {_HEAD_SECONDS:g} s",
        remedy="check that the manager runs: it publishes the head again on every connect",
    )


def fetched(session: Session, *, timeout: float) -> Iterator[dict[str, Any]]:
    """Every entry of the manager's log, in its order."""
    after = 0
    while True:
        result = session.request("audit.list", arguments={"after": after}, timeout=timeout)
        found = result.get("entries")
        if not isinstance(found, list):
            raise FormError(Code.UPGRADE_MALFORMED, "the manager's reply has no list 'entries'")
        yield from found
        following = result.get("next")
        if not isinstance(following, int) or following <= after:
            return
        after = following


def read_export(path: Path) -> Iterator[Entry]:
    """The entries of an export. FormError `upgrade_malformed` naming the first line that is none."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield entry(_parsed(line, number), f"line {number}")
    except OSError as error:
        raise FleetfootError("io_error", f"cannot read {path}: {error.strerror}") from error


def _parsed(line: bytes, number: int) -> object:
    try:
        return strictjson.loads(line)
    except FormError as error:
        raise FormError(Code.UPGRADE_MALFORMED, f"line {number} is no entry: {error.message}") from None


def read_exports(paths: Sequence[Path]) -> Iterator[Entry]:
    """The entries of several exports in their order; what a later one has once more is left out there."""
    known: dict[int, str] = {}
    for path in paths:
        before = dict(known) if len(paths) > 1 else {}
        for row in read_export(path):
            if before.get(row.n) != row.hash:
                known[row.n] = row.hash
                yield row


def entry(value: object, where: str) -> Entry:
    """One entry, strictly."""
    try:
        return Entry.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise FormError(
            Code.UPGRADE_MALFORMED, f"{where} is no entry of an audit log: {first['loc']}: {first['msg']}"
        ) from None


def read_head(path: Path, root: TrustRoot) -> AuditHead:
    """A signed head from a file. Trust errors if the director of the root did not sign it."""
    return trust.verify_audit_head(files.read(path, MAX_ENVELOPE), root)

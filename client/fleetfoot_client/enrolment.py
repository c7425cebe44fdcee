"""Enrolling devices: reading lists of them, and requests that stay within the size of an envelope."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from fleetfoot_client import files
from fleetfoot_client.session import Session
from fleetfoot_protocol.documents import Model
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.fields import Id, KeyHex, Label, LabelKey

#: Devices of one request (the manager takes no more), and bytes of them: an envelope of at most 64 KiB
#: carries its payload in base64, and needs room for the rest of the request.
_MAX_DEVICES = 500
_MAX_BYTES = 40_000
_MAX_FILE = 64 << 20


class Enrolment(Model):
    """A device with its group, its public key and its labels.

    `replace` permits another key or group for an id that is enrolled.
    """

    id: Id
    group: Id
    key: KeyHex
    labels: Annotated[dict[LabelKey, Label], Field(max_length=64)] = {}  # noqa: RUF012 - pydantic copies
    replace: bool = False


_LIST = TypeAdapter(list[Enrolment])


def read_file(path: Path) -> list[Enrolment]:
    """Devices from a JSON file: `{"devices": [...]}`, a list, or one device.

    FleetfootError `config_invalid` naming the entry that is wrong.
    """
    try:
        value = json.loads(files.read(path, _MAX_FILE))
    except ValueError as error:
        raise _invalid(path, str(error)) from None
    if isinstance(value, dict):
        value = value["devices"] if set(value) == {"devices"} else [value]
    try:
        found = _LIST.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _invalid(path, f"{where or 'document'}: {first['msg']}") from None
    if not found:
        raise _invalid(path, "it names no device")
    return found


def make(device: str, group: str, key: bytes, labels: dict[str, str], *, replace: bool) -> Enrolment:
    """One device. FleetfootError `request_invalid`."""
    try:
        return Enrolment(id=device, group=group, key=key.hex(), labels=labels, replace=replace)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FleetfootError("request_invalid", f"{where}: {first['msg']}") from None


def enroll(session: Session, devices: Sequence[Enrolment], *, timeout: float) -> dict[str, Any]:
    """Enrol all of them, in as many requests as it takes; the counts of all replies together.

    Doing it again changes nothing. `timeout`: seconds for each reply.
    """
    total: dict[str, int] = {}
    for part in _parts(devices):
        result = session.request("device.enroll", arguments={"devices": part}, timeout=timeout)
        for name, count in result.items():
            if isinstance(count, int):
                total[name] = total.get(name, 0) + count
    return dict(total)


def _parts(devices: Sequence[Enrolment]) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for device in devices:
        value = device.model_dump(mode="json", exclude_defaults=True)
        length = len(json.dumps(value, ensure_ascii=False).encode())
        if part and (len(part) == _MAX_DEVICES or size + length > _MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(value)
        size += length
    yield part


def _invalid(path: Path, why: str) -> FleetfootError:
    return FleetfootError(
        "config_invalid",
        f"{path} is no list of devices: {why}",
        remedy='write {"devices": [{"id": "...", "group": "...", "key": "64 hex digits", "labels": {}}]}',
    )

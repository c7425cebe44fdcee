"""Arguments of each verb, as strict models: what is not here is refused. Of rollouts: `rollout_arguments`."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from fleetfoot_protocol import strictjson
from fleetfoot_protocol.documents import Model
from fleetfoot_protocol.errors import FleetfootError
from fleetfoot_protocol.fields import Digest, Id, KeyHex, Label, LabelKey, Line, Time, Version

MAX_BLOBS = 130
MAX_BLOB = 64 * 1024**3
MAX_ENROLLED = 500
MAX_PAGE = 200
DAY = 24 * 3600


class Nothing(Model):
    """No arguments."""


class EnginePause(Model):
    """`engine.pause`."""

    reason: Annotated[Line, Field(max_length=60)] = ""


class Blob(Model):
    """A file of a release, by the sha256 and length of its bytes."""

    sha256: Digest
    length: Annotated[int, Field(ge=1, le=MAX_BLOB)]


class Upload(Model):
    """`release.upload`: artifacts, indexes and the release envelope itself."""

    component: Id
    version: Version
    digest: Digest
    blobs: Annotated[tuple[Blob, ...], Field(min_length=1, max_length=MAX_BLOBS)]


class Publish(Model):
    """`release.publish`: `envelope` is the sha256 of the uploaded envelope file; `bless` promotes at once."""

    component: Id
    version: Version
    digest: Digest
    envelope: Digest
    bless: bool = False


class ReleaseList(Model):
    """`release.list`."""

    component: Id | None = None


class ReleaseShow(Model):
    """`release.show`, `release.archive`, `release.lift`."""

    component: Id
    version: Version


class ReleaseCompare(Model):
    """`release.compare`: in either order."""

    component: Id
    version: Version
    to: Version


class ReleasePromote(Model):
    """`release.promote`."""

    component: Id
    version: Version
    to: Literal["blessed", "live"]


class ReleaseRecall(Model):
    """`release.recall`: `reason` is shown to everybody who asks for the release afterwards."""

    component: Id
    version: Version
    reason: Annotated[Line, Field(min_length=1)]


class Enrolment(Model):
    """A device with its public key. `replace` permits another key or group for a known id."""

    id: Id
    group: Id
    key: KeyHex
    labels: Annotated[dict[LabelKey, Label], Field(max_length=64)] = {}  # noqa: RUF012 - pydantic copies
    replace: bool = False


class Enroll(Model):
    """`device.enroll`."""

    devices: Annotated[tuple[Enrolment, ...], Field(min_length=1, max_length=MAX_ENROLLED)]


class DeviceList(Model):
    """`device.list`: ids behind `after`, at most `limit`."""

    group: Id | None = None
    after: Id | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE


class DeviceShow(Model):
    """`device.show`, `device.forget`, `device.revoke`."""

    device: Id


class DeviceToken(Model):
    """`device.token`: only the sha256 of the token's secret goes over the broker. `life` in seconds."""

    secret_sha256: Digest
    group: Id
    device: Id | None = None
    life: Annotated[int, Field(ge=60, le=90 * DAY)] = 3600


class DeviceAct(Model):
    """`device.upgrade`, `device.downgrade`; `pin`: stays after it is done until somebody unpins."""

    device: Id
    component: Id
    version: Version
    pin: bool = False


class DevicePin(Model):
    """`device.pin`: to `version`, or to what runs."""

    device: Id
    component: Id
    version: Version | None = None


class DeviceComponent(Model):
    """`device.unpin`, `device.release`, `device.upgrades`, `device.downgrades`."""

    device: Id
    component: Id


class GroupName(Model):
    """`group.show`, `group.drift`, `group.forget`."""

    group: Id


class GroupCreate(Model):
    """`group.create`."""

    group: Id
    title: Annotated[Line, Field(max_length=160)] = ""


class DeviceReplace(Model):
    """`device.replace`: the public key of the new hardware."""

    device: Id
    key: KeyHex


class GroupPolicy(Model):
    """`group.policy`: what is given takes the place of what stood."""

    group: Id
    approval: Literal["above", "always", "never"] | None = None
    approval_above: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    approval_by_other: bool | None = None
    approval_waves: bool | None = None


class DeviceMove(Model):
    """`device.move`."""

    device: Id
    group: Id


class DeviceRelabel(Model):
    """`device.relabel`: all labels of the enrolment anew."""

    device: Id
    labels: Annotated[dict[LabelKey, Label], Field(max_length=64)]


class AuditList(Model):
    """`audit.list`: entries behind `after` in their order, else the newest.

    action: how it begins. group: which the entry is about. since: not older.
    """

    after: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = MAX_PAGE
    actor: Id | None = None
    action: Annotated[str, StringConstraints(pattern=r"^[a-z_.]{1,64}$")] | None = None
    group: Id | None = None
    since: Time | None = None


class AuditShow(Model):
    """`audit.show`."""

    n: Annotated[int, Field(ge=1)]


class AuditPrune(Model):
    """`audit.prune`: entries up to `through`, whose `hash` the operator's export has."""

    through: Annotated[int, Field(ge=1)]
    hash: Digest


A = TypeVar("A", bound=Model)


def parse(kind: type[A], arguments: dict[str, Any]) -> A:
    """The arguments as a model. Raises FleetfootError `request_invalid` naming the first that is wrong."""
    try:
        return kind.model_validate_json(strictjson.dumps(arguments))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        why = first["msg"].removeprefix("Value error, ")[:200]
        raise FleetfootError("request_invalid", f"{where or 'arguments'}: {why}") from None
